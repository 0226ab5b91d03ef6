//! From a model's plan to the list of operations that the kernels run. Nothing here needs a device.
//!
//! There are three programs, and a fourth ([`Prompts::Halves`]). That for one row (a decoded token) has as few barriers as the arithmetic
//! allows: each block norms and quantizes the input of a product for itself, and convolves what it scans. In and between Mamba blocks there is
//! none, if rows are at most 5,120 long: numbers are posted together with the turn of the operation that made them, and who
//! reads one asks until it has that turn ([`Builder::posts`]). An MLP has 2 barriers. Those for many rows do each thing once, with a barrier
//! after it: one is for prompts, one for a token each of several streams, which makes codes where it makes what they stand for. The fourth, for prompts that need not have the contract's
//! bits, brings rows and matrices into f16 before it multiplies them on tensor cores, and scans states with a decay per head in chunks.
//!
//! Places are relative: to the model, the state, the scratch. So a program is the same on every device.

mod blocks;
mod builder;
mod layout;
mod records;
mod ring;
mod shapes;
mod ssm;

use crate::device::BlockSize;
use crate::error::CudaError;
use builder::{Builder, FEEDERS, For, ROW_MOST, Residual, THREADS, map};
use layout::{Buffer, Extent, Layout, SharedRow};
use records::{Choose, Embed, Kind, Op, Source, Target, Vector, target};
use ring::Ring;
use sarit_core::plan::{BlockInput, Input};
use sarit_core::{Block, Model};
use std::ops::Range;

pub(crate) use builder::SHARED_BYTES;
pub(crate) use records::{Ahead, SamplingOf, Sequence};
pub use records::{Params, SIZES};

/// The most tokens among which the device can choose.
pub(crate) const TOP_K_MOST: usize = 256;

/// Bytes of a logit's rank, of which each is counted by itself.
const RANK_BYTES: usize = 4;

/// Operations, and the ends of their parts: tokens through all blocks, logits, choice of the next tokens.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) ops: Vec<Op>,
    pub(crate) tables: Vec<u32>,
    pub(crate) body: usize,
    pub(crate) head: usize,
}

impl Program {
    /// Operations that serve sequences that are not greedy alone.
    pub(crate) fn sampling_ops(&self) -> Range<usize> {
        self.head..self.head + RANK_BYTES
    }
}

/// How prompts are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prompts {
    /// With the bits of [`sarit_core::Scalar`].
    #[default]
    Exact,
    /// Parts of at least so many tokens that are read at once ([`Prompts::NEAR`]): products in f16 with sums in f32 on the tensor cores, and states with a decay per head, of up to 128 elements,
    /// scanned in chunks (Mamba-2's SSD, arXiv 2405.21060, section 6). Several times as fast for long prompts, and takes 55 KB of memory
    /// on the device for each token of a chunk of mamba2-130m. `bench/results/cuda-h200.md` tells by how much results differ. What follows one token
    /// at a time, or several streams with a token each, is exact.
    Halves {
        /// Tokens, at least.
        least: usize,
    },
}

impl Prompts {
    /// [`Halves`](Self::Halves) where that is faster: below some 300 tokens exact products are, on an H200, for bringing the matrices into f16
    /// takes as long for few tokens as for many.
    pub const NEAR: Self = Self::Halves { least: 320 };
}

/// All programs of a model and the scratch that they share.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) one: Program,
    /// For a token each of several streams, if there are several.
    pub(crate) steps: Option<Program>,
    pub(crate) many: Program,
    /// For prompts, if they are not to be exact.
    pub(crate) halves: Option<Program>,
    pub(crate) scratch_bytes: usize,
    /// What has to be zero before the first launch, in scratch.
    pub(crate) posted_bytes: Range<usize>,
    /// Logits in scratch, in floats: their start.
    pub(crate) logits: usize,
    /// How long products with one row have their weights.
    pub(crate) ring: Ring,
    /// Room in shared memory for one row, and of the programs for many.
    pub(crate) shared: [SharedRow; 2],
    /// `kernels/dispatch.cuh` of the kernels for just these.
    pub(crate) dispatch: String,
}

impl Programs {
    /// For so many streams, launches of up to `rows` rows, logits of up to `logit_rows` at once, and up to `grid` blocks with up to `shared_bytes` of shared
    /// memory.
    pub(crate) fn new(
        model: &Model<'_>,
        streams: usize,
        rows: usize,
        logit_rows: usize,
        grid: usize,
        shared_bytes: usize,
        prompts: Prompts,
    ) -> Result<Self, CudaError> {
        let extent = Extent { rows, logit_rows, grid, shared_bytes };
        let build = |layout: Layout| -> Result<_, CudaError> {
            let (one, layout) = program(model, layout, Extent { rows: 1, ..extent }, For::One)?;
            let optional = |layout, what, is_there: bool| {
                if !is_there {
                    return Ok((None, layout));
                }
                program(model, layout, extent, what).map(|(program, layout)| (Some(program), layout))
            };
            let (steps, layout) = optional(layout, For::Steps, streams > 1)?;
            let (many, layout) = program(model, layout, extent, For::Many)?;
            let (halves, layout) = optional(layout, For::Halves, prompts != Prompts::Exact)?;
            Ok((one, steps, many, halves, layout))
        };
        let (.., mut layout) = build(Layout::default())?;
        layout.place(extent)?;
        let (mut one, steps, many, halves, mut layout) = build(layout)?;
        layout.place(extent)?;
        let ring = Ring::new(&mut one, layout.one, shared_bytes);
        layout.one.ring_bytes = ring.bytes();
        let mut programs = Self {
            dispatch: String::new(),
            one,
            steps,
            many,
            halves,
            scratch_bytes: layout.bytes(),
            posted_bytes: layout.posted_bytes(),
            logits: layout.start(Buffer::Logits),
            ring,
            shared: [layout.one, layout.many],
        };
        programs.dispatch = shapes::dispatch(&mut programs);
        Ok(programs)
    }

    /// Blocks of the program for one row, and of those for many.
    pub(crate) fn blocks(&self) -> [BlockSize; 2] {
        let feeding = if self.ring.slots() > 0 { FEEDERS } else { 0 };
        let [one, many] = self.shared.map(SharedRow::bytes);
        [
            BlockSize { threads: THREADS + feeding, shared_bytes: one },
            BlockSize { threads: THREADS, shared_bytes: many },
        ]
    }
}

/// `dispatch.cuh` of the kernels for `model`: a case for each shape of its operations. It depends on the architecture and
/// the types of the weights, on whether there are several streams, and on how prompts are read and the shared memory of a block that the device
/// has for that.
///
/// # Errors
/// If the kernels cannot run the model.
pub fn dispatch(
    model: &Model<'_>,
    streams: usize,
    shared_bytes: usize,
    prompts: Prompts,
) -> Result<String, CudaError> {
    Ok(Programs::new(model, streams, 1, 1, 1, shared_bytes, prompts)?.dispatch)
}

fn program(
    model: &Model<'_>,
    layout: Layout,
    extent: Extent,
    what: For,
) -> Result<(Program, Layout), CudaError> {
    let mut b = Builder::new(model, layout, extent, what);
    let one = b.one;
    let d_model = model.d_model();
    let mut blocks: Vec<(Block<'_>, usize)> = Vec::new();
    model.each_block(|block, start, _| blocks.push((*block, start)));
    let reads_embedding =
        |(block, _): &(Block<'_>, usize)| block.join().input == BlockInput::ResidualAndEmbedding;
    let embedded =
        if blocks.iter().any(reads_embedding) { b.buffer(Buffer::Embedded, d_model) } else { Vector::NONE };
    let (output, vocab) = (model.output(), model.vocab_len());
    let shares = |i: usize| blocks.get(i + 1).is_some_and(|(next, _)| next.join().input == BlockInput::Same);
    let head_takes_posted = one && output.head.adapter.is_none() && d_model <= ROW_MOST;
    let takes_posted = |b: &Builder<'_>, i: usize| {
        blocks.get(i).map_or(head_takes_posted, |(block, _)| b.takes_posted(block, shares(i)))
    };
    let Input::Tokens { embedding, scale } = model.input() else { return Err(CudaError::Frames) };
    let posts = embedded == Vector::NONE && takes_posted(&b, 0);
    let residual =
        if posts { b.posted(Buffer::PostedResidual, d_model) } else { b.buffer(Buffer::Residual, d_model) };
    let embed = Embed { w: b.mat(embedding), scale: *scale, residual, embedded };
    b.writes(residual);
    b.op(Kind::Embed, 1, &embed);
    if posts {
        b.posts();
        b.residual = Residual::PostedBy(0);
    }

    let mut input_len = 0;
    for (i, (block, state)) in blocks.iter().enumerate() {
        input_len = block.join().input.len(d_model, input_len);
        let next_takes_posted = takes_posted(&b, i + 1);
        b.block(block, *state / 4, input_len, shares(i), next_takes_posted)?;
    }
    let body = b.ops.len();

    let residual = b.residual();
    let logits = b.buffer(Buffer::Logits, vocab);
    let source = Source { norm: b.norm(&output.norm, 1), ..Source::plain(residual, d_model) };
    let kind = if output.scale == 1.0 { target::STORE } else { target::SET };
    let to = Target { kind, scale: output.scale, ..Target::store(logits) };
    let to = map(&b, &output.head, to);
    b.head(&source, to)?;
    let head = b.ops.len();

    let choose = Choose { logits, vocab: vocab as u32 };
    b.shared(2 * TOP_K_MOST, 0)?;
    for byte in 0..RANK_BYTES as u16 {
        b.op_number(Kind::Histogram as u16 + byte, 1, &choose);
    }
    b.op(Kind::Argmax, 1, &choose);
    b.op(Kind::Choose, 1, &choose);
    let Builder { ops, tables, layout, .. } = b;
    Ok((Program { ops, tables, body, head }, layout))
}
