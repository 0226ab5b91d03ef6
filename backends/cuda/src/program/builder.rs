//! Puts a program together: places in the model, inputs of products, barriers.

use super::layout::{Buffer, Extent, INPUTS, Layout, MADE, UNIT_ROWS, shared_bytes};
use super::records::{
    Ahead, Codes, ConvOf, Kind, Mat, Multiply, NONE, NormOf, Op, Prepare, Product, Source, Target, Through,
    Vector, Widen, input, target, wait,
};
use super::ring;
use crate::error::CudaError;
use bytemuck::Pod;
use sarit_core::plan::{Adapter, Linear, Norm, NormKind};
use sarit_core::{ALIGN, GROUP, Matrix, Model, TILE_ROWS};

/// Bytes of shared memory of a block up to which blocks make inputs for themselves; and those that every device since
/// compute capability 8.0 has.
const FUSED_BYTES: usize = 64 << 10;
pub(crate) const SHARED_BYTES: usize = 99 << 10;

/// Floats beside a row in shared memory, so that the lanes of its norm's sum lie apart.
const NORM_PAD: usize = 64;

/// Floats that the lanes of a product with many rows take in shared memory beyond the place of partial sums.
const MMA_FLOATS: usize = 13312;

/// Columns of a stage of a product in f16, and rows of weights of a unit: whole ones are read.
const STAGE_COLUMNS: usize = 64;
const UNIT_WEIGHTS: usize = 192;
const STAGES_MOST: usize = 4;
/// Floats to which the stages are aligned.
const STAGE_ALIGN: usize = 1024 / 4;

/// Rows of up to so many elements that a block prepares at once, if there are several: as the kernels have it.
const PREPARE_ROWS: usize = 4;
const PREPARE_MOST: usize = 4 * THREADS;

/// Elements of a row that the threads of a block keep in registers.
pub(super) const ROW_MOST: usize = 10 * THREADS;

/// Threads of a block that work, its warps and half-warps, and threads beside them where weights come early: as the kernels have them.
pub(super) const THREADS: usize = 512;
pub(super) const WARPS: usize = 16;
pub(super) const FEEDERS: usize = 128;
const HALF_WARPS: usize = 32;

/// Floats that a posted number takes.
const POSTED_FLOATS: usize = 2;

/// A linear map to make, and where its output goes.
#[derive(Clone, Copy)]
pub(super) struct Map<'a, 'm> {
    pub(super) matrix: &'a Matrix<'m>,
    pub(super) adapter: Option<(Matrix<'m>, Matrix<'m>)>,
    pub(super) to: Target,
}

/// What rows are prepared as, for those who read them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forms {
    pub(super) codes: Option<Order>,
    pub(super) floats: bool,
}

/// Order of the words of 4 in a group of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Natural,
    /// As products of many rows take them whose weights are in q8: words that are 4 apart lie side by side.
    Paired,
}

/// How the residual lies in scratch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Residual {
    Plain,
    /// Posted by the operation of this number.
    PostedBy(usize),
}

/// What a program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// One row, with as few barriers as can be.
    One,
    /// A row of each of several sequences.
    Steps,
    /// Many rows of each sequence.
    Many,
    /// Many rows of each sequence, in f16.
    Halves,
}

pub(super) struct Builder<'m> {
    pub(super) model: Model<'m>,
    pub(super) layout: Layout,
    pub(super) extent: Extent,
    pub(super) one: bool,
    pub(super) steps: bool,
    pub(super) halves: bool,
    pub(super) ops: Vec<Op>,
    pub(super) tables: Vec<u32>,
    /// A convolution whose window the next product shifts, of one row.
    pub(super) shift: ConvOf,
    /// What results of the next product go through, of a token of each sequence.
    pub(super) through: Through,
    /// Results of the next product, from the first on, that are needed later than the others.
    pub(super) late_len: usize,
    /// The residual as who reads it next has it.
    pub(super) residual: Residual,
    /// Where rows were written that products may add to: their start, and the number of barriers before.
    written: Vec<(u32, usize)>,
    /// Units since the last barrier.
    pub(super) units: usize,
    /// Of the last operation; and whether that is a quantized product.
    last_units: usize,
    last_folds: bool,
}

impl<'m> Builder<'m> {
    pub(super) fn new(model: &Model<'m>, layout: Layout, extent: Extent, what: For) -> Self {
        Self {
            model: *model,
            layout,
            extent,
            one: what == For::One,
            steps: what == For::Steps,
            halves: what == For::Halves,
            ops: Vec::new(),
            tables: Vec::new(),
            shift: ConvOf::NONE,
            through: Through::NONE,
            late_len: 0,
            residual: Residual::Plain,
            written: Vec::new(),
            units: 0,
            last_units: 0,
            last_folds: false,
        }
    }

    /// A buffer whose rows are `len` floats long.
    pub(super) fn buffer(&mut self, buffer: Buffer, len: usize) -> Vector {
        // Rows are as far apart as this use needs.
        Vector { start: self.layout.row(buffer, len) as u32, stride: len as u32 }
    }

    /// A row of `len` posted numbers, for who writes it.
    pub(super) fn posted(&mut self, buffer: Buffer, len: usize) -> Vector {
        Vector::posted(self.buffer(buffer, POSTED_FLOATS * len).start)
    }

    /// `v`, written by operation `op`, for the operation that comes next.
    pub(super) fn read(&self, v: Vector, op: usize) -> Vector {
        if v.is_posted() { v.aged(self.ops.len() - op) } else { v }
    }

    /// The residual, for the operation that comes next.
    pub(super) fn residual(&mut self) -> Vector {
        let len = self.model.d_model();
        match self.residual {
            Residual::Plain => self.buffer(Buffer::Residual, len),
            Residual::PostedBy(op) => {
                let posted = self.posted(Buffer::PostedResidual, len);
                self.read(posted, op)
            }
        }
    }

    /// A set of codes for a row of `len` elements for each row.
    pub(super) fn codes(&mut self, set: usize, len: usize, order: Order) -> Codes {
        self.codes_and_floats(set, len, 1, Forms { codes: Some(order), floats: false })
    }

    /// The same, or floats, or both, for `multiple` rows for each.
    fn codes_and_floats(&mut self, set: usize, len: usize, multiple: usize, forms: Forms) -> Codes {
        let mut codes = Codes::NONE;
        if let Some(order) = forms.codes {
            let starts = self.layout.codes(set, len.div_ceil(GROUP) * multiple);
            let [c, scales, sums] = starts.map(|start| start as u32);
            let stride = (self.extent.padded_rows() * multiple) as u32;
            let paired = (order == Order::Paired).into();
            codes = Codes { codes: c, scales, sums, stride, paired, ..codes };
        }
        if forms.floats {
            let buffer = if set == INPUTS { Buffer::Floats } else { Buffer::LowFloats };
            let floats = self.buffer(buffer, len * multiple);
            codes.floats = Vector { stride: len as u32, ..floats };
        }
        codes
    }

    /// A buffer whose rows are `len` numbers in f16 long.
    pub(super) fn half_buffer(&mut self, buffer: Buffer, len: usize) -> Vector {
        self.buffer(buffer, len.div_ceil(2))
    }

    /// The place of something that the model holds, in units of 64 bytes.
    pub(super) fn place<T>(&self, part: &[T]) -> u32 {
        let offset = part.as_ptr().addr() - self.model.bytes().as_ptr().addr();
        debug_assert!(offset.is_multiple_of(ALIGN));
        (offset / ALIGN) as u32
    }

    pub(super) fn optional(&self, part: Option<&[f32]>) -> u32 {
        part.map_or(NONE, |part| self.place(part))
    }

    pub(super) fn mat(&self, matrix: &Matrix<'m>) -> Mat {
        let (dtype, data) = match matrix {
            Matrix::F32(d) => (0, self.place(d.data)),
            Matrix::F16(d) => (1, self.place(d.data)),
            Matrix::Q8(t) => (2, self.place(t.scales)),
            Matrix::Q4(t) => (3, self.place(t.scales)),
        };
        Mat { data, dtype, rows: matrix.rows() as u32, cols: matrix.cols() as u32 }
    }

    pub(super) fn norm(&self, norm: &Norm<'m>, groups: usize) -> NormOf {
        let kind = match norm.kind {
            NormKind::Identity => 0,
            NormKind::Rms => 1,
            NormKind::Layer => 2,
        };
        let (weight, bias) = (self.optional(norm.weight), self.optional(norm.bias));
        NormOf { kind, weight, bias, eps: norm.eps, groups: groups as u32 }
    }

    /// Adds an operation of so many units, with a barrier after it.
    pub(super) fn op(&mut self, kind: Kind, units: usize, record: &impl Pod) {
        self.op_number(kind as u16, units, record);
    }

    pub(super) fn op_number(&mut self, kind: u16, units: usize, record: &impl Pod) {
        let waits = self.ops.last().is_some_and(|op| op.wait == wait::GRID);
        self.ops.push(Op::new(kind, waits, self.units as u32, record));
        self.units = 0;
        // Until `no_barrier` says otherwise.
        self.last_units = units;
        self.last_folds = false;
    }

    /// Barriers so far.
    fn barriers(&self) -> usize {
        self.ops.iter().filter(|op| op.wait == wait::GRID).count()
    }

    /// Says that the next operation writes rows at `y`.
    pub(super) fn writes(&mut self, y: Vector) {
        self.written.push((y.start, self.barriers()));
    }

    /// Whether what lies at `y` was there before the operations that the last barrier ended.
    fn is_settled(&self, y: Vector) -> bool {
        let barriers = self.barriers();
        self.written.iter().all(|&(start, before)| start != y.start || before + 1 < barriers)
    }

    /// The operation that comes next neither reads what the last one writes nor writes what it reads.
    pub(super) fn no_barrier(&mut self) {
        let last = self.ops.last_mut().expect("there is one");
        last.wait = wait::BLOCK;
        self.units = last.first as usize + self.last_units;
    }

    /// All that the last operation writes and others of this step read is posted: who reads it waits for it alone.
    ///
    /// A posted number is written anew when all have read it: each block that writes has first read, directly or by way of
    /// others, something from all blocks that read it. After a quantized product not even the threads of a block wait: a product or a scan
    /// follows, which first writes to other parts of shared memory than what the last warps of that one still fold.
    ///
    /// The next operation's units go to the blocks after its, for some of those have more of it.
    pub(super) fn posts(&mut self) {
        let last = self.ops.last_mut().expect("there is one");
        last.wait = if self.last_folds { wait::NONE } else { wait::BLOCK };
        self.units = last.first as usize + self.last_units;
    }

    /// Room in shared memory for a row of floats and one of codes.
    pub(super) fn shared(&mut self, floats: usize, groups: usize) -> Result<(), CudaError> {
        let row = if self.one { &mut self.layout.one } else { &mut self.layout.many };
        // Codes are read sixteen bytes at a time, and weights lie behind them that come so.
        row.floats = row.floats.max(floats.next_multiple_of(4));
        row.groups = row.groups.max(groups.next_multiple_of(2));
        if row.bytes() > self.extent.shared_bytes { Err(CudaError::RowTooLong) } else { Ok(()) }
    }

    /// What the maps take.
    fn forms(&self, maps: &[Map<'_, 'm>]) -> Forms {
        let all = || {
            maps.iter()
                .flat_map(|map| map.adapter.as_ref().map(|(down, _)| down).into_iter().chain([map.matrix]))
        };
        Forms {
            codes: all().any(Matrix::is_quantized).then(|| self.order(all())),
            floats: all().any(|matrix| !matrix.is_quantized()),
        }
    }

    /// The order of codes that products with all of these matrices read.
    pub(super) fn order<'a>(&self, matrices: impl IntoIterator<Item = &'a Matrix<'m>>) -> Order
    where
        'm: 'a,
    {
        let is_paired = !self.one && matrices.into_iter().all(|matrix| !matches!(matrix, Matrix::Q4(_)));
        if is_paired { Order::Paired } else { Order::Natural }
    }

    /// Whether a block can make the input of the one row for itself: it fits, and no product changes what others read.
    fn can_fuse(&self, source: &Source, maps: &[Map<'_, 'm>]) -> bool {
        let len = source.len as usize;
        let forms = self.forms(maps);
        let floats = row_floats(source, forms.floats);
        let groups = if forms.codes.is_some() { len.div_ceil(GROUP) } else { 0 };
        let fits = shared_bytes(floats, groups) <= FUSED_BYTES;
        let read = [source.a, source.b, source.after].map(|v| v.start);
        let is_changed = |map: &Map<'_, 'm>| read.contains(&map.to.y.start);
        self.one && fits && !maps.iter().any(is_changed)
    }

    /// Floats in shared memory of rows that are prepared together: long ones are prepared one by one.
    fn prepared_floats(&self, source: &Source) -> usize {
        let rows = if self.one || source.len as usize > PREPARE_MOST { 1 } else { PREPARE_ROWS };
        rows * row_floats(source, false)
    }

    /// Rows of `source` as codes or floats or both in scratch.
    fn prepare(
        &mut self,
        set: usize,
        source: &Source,
        multiple: usize,
        head: bool,
        forms: Forms,
    ) -> Result<Codes, CudaError> {
        let len = source.len as usize;
        self.shared(self.prepared_floats(source), 0)?;
        let to = self.codes_and_floats(set, len, multiple, forms);
        let record = Prepare { source: *source, multiple: multiple as u32, head: head.into(), to };
        self.op(Kind::Prepare, self.extent.rows * multiple, &record);
        Ok(to)
    }

    /// The rows of `source` as floats in `to`.
    pub(super) fn floats(&mut self, source: &Source, to: Vector) -> Result<(), CudaError> {
        self.shared(self.prepared_floats(source), 0)?;
        let to = Codes { floats: to, ..Codes::NONE };
        let record = Prepare { source: *source, multiple: 1, head: 0, to };
        self.op(Kind::Prepare, self.extent.rows, &record);
        Ok(())
    }

    /// The input of experts: prepared for whatever types their matrices have.
    pub(super) fn expert_input(
        &mut self,
        source: &Source,
        multiple: usize,
        forms: Forms,
    ) -> Result<Codes, CudaError> {
        self.prepare(INPUTS, source, multiple, false, forms)
    }

    /// `source` as codes in their natural order.
    pub(super) fn quantize(&mut self, set: usize, source: &Source) -> Result<Codes, CudaError> {
        self.prepare(set, source, 1, false, Forms { codes: Some(Order::Natural), floats: false })
    }

    /// A linear map without adapter of rows that lie in codes.
    pub(super) fn coded_product(&mut self, codes: Codes, map: Map<'_, 'm>) -> Result<(), CudaError> {
        let source = Source::plain(Vector::NONE, map.matrix.cols());
        self.product(&source, Some(codes), &mut None, map.matrix, map.to, false)
    }

    /// Linear maps of one source, without barriers between them; there is one after the last.
    pub(super) fn products(&mut self, source: &Source, maps: &[Map<'_, 'm>]) -> Result<(), CudaError> {
        self.maps(source, maps, INPUTS, false)
    }

    /// The same for the rows whose logits are made.
    pub(super) fn head(&mut self, source: &Source, map: Map<'_, 'm>) -> Result<(), CudaError> {
        self.maps(source, &[map], INPUTS, true)
    }

    fn maps(
        &mut self,
        source: &Source,
        maps: &[Map<'_, 'm>],
        set: usize,
        head: bool,
    ) -> Result<(), CudaError> {
        if self.halves && !head && maps.iter().all(|map| map.adapter.is_none()) {
            return self.multiply(source, maps);
        }
        let codes = if self.can_fuse(source, maps) {
            None
        } else {
            let forms = self.forms(maps);
            Some(self.prepare(set, source, 1, head, forms)?)
        };
        // What shared memory holds: whether the last product's input was in codes.
        let mut held = None;
        for (i, map) in maps.iter().enumerate() {
            let mut to = map.to;
            if let Some((down, up)) = &map.adapter {
                let rank = self.buffer(Buffer::Adapter, down.rows());
                self.product(source, codes, &mut held, down, Target::store(rank), head)?;
                let full = self.buffer(Buffer::Adapted, up.rows());
                let up = Map { matrix: up, adapter: None, to: Target::store(full) };
                self.maps(&Source::plain(rank, down.rows()), &[up], MADE, head)?;
                held = None;
                to.addend = full;
            }
            self.product(source, codes, &mut held, map.matrix, to, head)?;
            if i + 1 < maps.len() {
                self.no_barrier();
            }
        }
        Ok(())
    }

    /// The same in f16: the rows and all matrices are brought into it, then multiplied.
    fn multiply(&mut self, source: &Source, maps: &[Map<'_, 'm>]) -> Result<(), CudaError> {
        let len = (source.len as usize).next_multiple_of(STAGE_COLUMNS);
        let taken = shared_bytes(STAGE_ALIGN, self.layout.many.groups);
        let room = self.extent.shared_bytes.saturating_sub(taken) / 4;
        // One that is multiplied, one on its way.
        let stage = |rows: usize| (rows + UNIT_WEIGHTS) * STAGE_COLUMNS / 2;
        let most_rows = [UNIT_ROWS, 128].into_iter().find(|&rows| room >= 2 * stage(rows)).unwrap_or(64);
        let stage = stage(most_rows);
        let stages = (room / stage).clamp(2, STAGES_MOST);
        self.shared(self.prepared_floats(source).max(STAGE_ALIGN + stages * stage), 0)?;
        let x = self.buffer(Buffer::Halves, len / 2).start;
        let x_rows = self.extent.rows.next_multiple_of(UNIT_ROWS) as u32;
        let to = Codes { halves: x, half_rows: x_rows, ..Codes::NONE };
        let record = Prepare { source: *source, multiple: 1, head: 0, to };
        self.op(Kind::Prepare, self.extent.rows, &record);
        let floats = |matrix: &Matrix<'m>| matrix.rows().next_multiple_of(UNIT_WEIGHTS) * len / 2;
        let mut w = self.buffer(Buffer::Widened, maps.iter().map(|map| floats(map.matrix)).sum()).start;
        let mut records = Vec::new();
        for map in maps {
            self.no_barrier();
            let rows = map.matrix.rows();
            self.op(
                Kind::Widen,
                (rows * len / 8).div_ceil(THREADS),
                &Widen { w: self.mat(map.matrix), to: w },
            );
            let to = map.to;
            let is_even = |v: Vector| v == Vector::NONE || (v.start | v.stride).is_multiple_of(2);
            let alone = to.bias == NONE && to.addend == Vector::NONE;
            records.push(Multiply {
                x,
                x_rows,
                w,
                w_rows: rows as u32,
                len: len as u32,
                stages: stages as u32,
                most_rows: most_rows as u32,
                pairs: (alone && is_even(to.y) && is_even(to.before)).into(),
                to,
            });
            w += floats(map.matrix) as u32;
        }
        for (i, record) in records.iter().enumerate() {
            if i > 0 {
                self.no_barrier();
            }
            self.writes(record.to.y);
            self.op(Kind::Multiply, self.extent.grid, record);
        }
        Ok(())
    }

    fn product(
        &mut self,
        source: &Source,
        codes: Option<Codes>,
        held: &mut Option<bool>,
        matrix: &Matrix<'m>,
        to: Target,
        head: bool,
    ) -> Result<(), CudaError> {
        let (len, quantized) = (source.len as usize, matrix.is_quantized());
        let input = match codes {
            Some(_) => input::PREPARED,
            None if *held == Some(quantized) => input::REUSED,
            None => {
                self.shared(row_floats(source, !quantized), if quantized { len.div_ceil(GROUP) } else { 0 })?;
                input::FUSED
            }
        };
        if !self.one && quantized {
            self.shared(MMA_FLOATS, 0)?;
        }
        *held = Some(quantized);
        let w = self.mat(matrix);
        let settled = to.before.is_posted() || self.is_settled(to.before);
        let settled = (self.one && to.kind == target::ADD && settled).into();
        self.writes(to.y);
        let codes = codes.unwrap_or(Codes::NONE);
        let shift = std::mem::replace(&mut self.shift, ConvOf::NONE);
        let through = std::mem::replace(&mut self.through, Through::NONE);
        let late_len = std::mem::take(&mut self.late_len);
        let record = Product {
            input,
            head: head.into(),
            settled,
            source: *source,
            codes,
            w,
            to,
            shift,
            through,
            ahead: Ahead::NONE,
            begin: if self.is_long(matrix) { (late_len / TILE_ROWS) as u32 } else { 0 },
        };
        self.op(Kind::Product, self.product_units(matrix), &record);
        self.last_folds = quantized;
        Ok(())
    }

    /// Whether a product with one row of `matrix` takes its weights as they come early.
    fn is_long(&self, matrix: &Matrix<'m>) -> bool {
        self.one && ring::is_long(&self.mat(matrix), self.extent.shared_bytes)
    }

    /// Units of a product with `matrix`.
    pub(super) fn product_units(&self, matrix: &Matrix<'m>) -> usize {
        let unit_rows = if self.is_long(matrix) {
            TILE_ROWS
        } else if matrix.is_quantized() {
            TILE_ROWS / 2
        } else {
            HALF_WARPS
        };
        matrix.rows().div_ceil(unit_rows)
    }
}

/// Room in shared memory for the floats of a row, which a norm needs, or a product that takes `floats`.
fn row_floats(source: &Source, floats: bool) -> usize {
    let len = source.len as usize;
    if source.norm.kind != 0 {
        len + NORM_PAD
    } else if floats {
        len
    } else {
        0
    }
}

/// The map of a linear record.
pub(super) fn map<'a, 'm>(b: &Builder<'m>, linear: &'a Linear<'m>, to: Target) -> Map<'a, 'm> {
    let to = Target { bias: b.optional(linear.bias), ..to };
    Map { matrix: &linear.matrix, adapter: linear.adapter.map(Adapter::matrices), to }
}
