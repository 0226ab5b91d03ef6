//! A model described, before any of its large tensors has been read.

use sarit_core::DType;
use sarit_core::format::RecordHeader;
use sarit_core::plan::Record;

/// What to write: plan records and tensors.
#[derive(Debug, Default)]
pub struct Recipe {
    /// Encoded plan.
    pub plan: Vec<u8>,
    /// Tensors in the order of their ids.
    pub tensors: Vec<TensorRecipe>,
}

/// One tensor to be written.
#[derive(Debug)]
pub struct TensorRecipe {
    /// Name in the file: the checkpoint's own where there is one.
    pub name: String,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Where the numbers come from.
    pub source: Source,
}

/// Where a tensor's numbers come from.
#[derive(Debug)]
pub enum Source {
    /// A small tensor, ready to use, written as f32: `rows · cols` values.
    Values(Vec<f32>),
    /// A matrix of the checkpoint, read while it is written, in the format asked for.
    Rows {
        /// One piece after another; together `rows` rows of `cols` elements.
        pieces: Vec<Piece>,
        /// What the matrix does; decides its format.
        role: Role,
    },
}

/// Rows of a checkpoint tensor, or the same columns of rows.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The checkpoint tensor.
    pub tensor: String,
    /// Its first element, in row-major order.
    pub start: usize,
    /// Elements from the start of one row to that of the next.
    pub stride: usize,
    /// Number of rows.
    pub rows: usize,
    /// Factor on the weights: multipliers that a family puts around its matrices.
    pub factor: f32,
}

/// What a matrix does in its model. Some roles bear fewer bits than others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Token embedding, or embedding and head in one.
    Embedding,
    /// Language-model head of its own.
    Head,
    /// Any projection inside a block.
    Projection,
    /// Projections that make dt, B and C: small, and every state element depends on them.
    Selection,
}

impl Role {
    /// The format of a matrix when `weights` was asked for.
    pub(crate) fn format(self, rows: usize, cols: usize, weights: DType) -> DType {
        let dtype = match (weights, self) {
            (DType::Q4, Self::Selection) => DType::Q8,
            _ => weights,
        };
        // Tiles are filled up to 16 rows and 32 columns: a small matrix takes less room as it is, and loses nothing.
        let quantized = matches!(dtype, DType::Q8 | DType::Q4);
        if quantized && DType::F32.bytes(rows, cols) <= dtype.bytes(rows, cols) { DType::F32 } else { dtype }
    }
}

impl Recipe {
    /// Appends a record to the plan.
    pub fn push<R: Record>(&mut self, record: &R) {
        let header = RecordHeader { tag: R::TAG, version: R::VERSION, bytes: size_of::<R>() as u32 };
        self.plan.extend_from_slice(bytemuck::bytes_of(&header));
        self.plan.extend_from_slice(bytemuck::bytes_of(record));
    }

    /// Puts a record behind the first two, input and output.
    pub fn push_after_output<R: Record>(&mut self, record: &R) {
        let payload = |at: usize| {
            let header = &self.plan[at..at + size_of::<RecordHeader>()];
            bytemuck::pod_read_unaligned::<RecordHeader>(header).bytes as usize
        };
        let record_bytes = |at: usize| size_of::<RecordHeader>() + payload(at);
        let output = record_bytes(0);
        let blocks = self.plan.split_off(output + record_bytes(output));
        self.push(record);
        self.plan.extend(blocks);
    }

    /// Adds a tensor and returns its id.
    pub fn tensor(&mut self, name: String, rows: usize, cols: usize, source: Source) -> u32 {
        self.tensors.push(TensorRecipe { name, rows, cols, source });
        (self.tensors.len() - 1) as u32
    }
}
