//! Working memory of a step: lent by the caller, shared by any number of streams, never saved.

use crate::error::ScratchError;
use crate::kernels::QuantizedMut;
use crate::model::Model;
use crate::plan::{Adapter, Block, BlockInput, BlockOutput, Input, Linear};
use crate::tensor::{GROUP, Matrix};
use crate::{ALIGN, round_up};

/// Number of float buffers.
const BUFFERS: usize = 15;

/// How many tokens a scratch takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The most tokens of one stream.
    pub chunk: usize,
    /// The most streams of [`Engine::step_many`](crate::Engine::step_many).
    pub streams: usize,
}

impl From<usize> for Shape {
    /// Chunks of one stream.
    fn from(chunk: usize) -> Self {
        Self { chunk, streams: 1 }
    }
}

/// Elements of each buffer, for a whole chunk of tokens.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ScratchLens {
    residual: usize,
    embedded: usize,
    branch: usize,
    joined: usize,
    hidden: usize,
    output: usize,
    proj: usize,
    inner: usize,
    select: usize,
    normed: usize,
    decay: usize,
    adapter: usize,
    adapted: usize,
    scores: usize,
    logits: usize,
    /// Groups of quantized activations.
    groups: usize,
}

impl ScratchLens {
    /// Lengths for a shape, or `None` where the whole does not fit in the address space.
    pub(crate) fn checked(model: &Model<'_>, shape: Shape) -> Option<Self> {
        let mut lens = Self::default();
        lens.grow_to(model, shape).map(|()| lens)
    }

    /// Not inlined, and where the lengths lie: to move them would need a second place on the stack.
    #[inline(never)]
    pub(crate) fn grow_to(&mut self, model: &Model<'_>, shape: Shape) -> Option<()> {
        let (lens, d_model) = (self, model.d_model());
        (lens.residual, lens.hidden, lens.output) = (d_model, d_model, d_model);
        if let Input::Frames(read_in) = model.input() {
            lens.linear(read_in);
        }
        lens.linear(&model.output().head);
        let mut fits = true;
        model.each_block(|block, _, input_len| {
            grow(&mut lens.hidden, input_len);
            match block.join().input {
                BlockInput::Residual | BlockInput::Same => {}
                BlockInput::ResidualAndEmbedding => {
                    (lens.embedded, lens.joined) = (d_model, lens.joined.max(input_len));
                }
                BlockInput::Branch => lens.branch = d_model,
                BlockInput::ResidualPlusBranch => {
                    (lens.branch, lens.joined) = (d_model, lens.joined.max(input_len));
                }
            }
            if block.join().output == BlockOutput::Branch {
                lens.branch = d_model;
            }
            fits &= lens.block(block).is_some();
        });
        if !fits {
            return None;
        }
        for len in lens.per_token() {
            *len = len.checked_mul(shape.chunk.max(shape.streams))?;
        }
        lens.logits = model.output_len().checked_mul(shape.streams)?;
        lens.checked_bytes().map(|_| ())
    }

    fn block(&mut self, block: &Block<'_>) -> Option<()> {
        match block {
            Block::Ssm(b) => {
                self.linear(&b.in_proj);
                self.linear(&b.out_proj);
                grow(&mut self.proj, b.in_proj.matrix.rows());
                grow(&mut self.inner, b.d_inner());
                grow(&mut self.output, b.heads);
                if b.decays_by_head() {
                    grow(&mut self.decay, b.heads);
                }
                if let Some(select) = &b.select {
                    self.matrix(&select.x_proj);
                    self.matrix(&select.dt_proj);
                    grow(&mut self.select, select.x_proj.rows());
                    if select.has_norms() {
                        grow(&mut self.normed, select.x_proj.rows());
                    }
                }
            }
            Block::Attention(b) => {
                [&b.q, &b.k, &b.v, &b.o].into_iter().for_each(|linear| self.linear(linear));
                grow(&mut self.proj, b.qkv_len());
                grow(&mut self.inner, b.q_len());
                grow(&mut self.scores, b.heads.checked_mul(b.window)?);
            }
            Block::Mlp(b) => {
                b.gate.iter().chain([&b.up, &b.down]).for_each(|linear| self.linear(linear));
                grow(&mut self.proj, b.up.matrix.rows());
                grow(&mut self.inner, b.up.matrix.rows());
            }
            Block::Moe(b) => {
                self.matrix(&b.router);
                if let Some((latent_in, latent_out)) = &b.latent {
                    self.linear(latent_in);
                    self.linear(latent_out);
                }
                // One expert at a time, on one token.
                grow(&mut self.groups, b.width.div_ceil(GROUP));
                grow(&mut self.groups, b.d_ff.div_ceil(GROUP));
                grow(&mut self.proj, b.d_ff);
                grow(&mut self.inner, b.d_ff);
                grow(&mut self.select, b.width);
                grow(&mut self.normed, b.width);
                grow(&mut self.adapted, b.width);
                grow(&mut self.scores, 2 * b.experts);
            }
            Block::ShortConv(b) => {
                self.linear(&b.in_proj);
                self.linear(&b.out_proj);
                grow(&mut self.proj, 3 * b.channels);
                grow(&mut self.inner, b.channels);
            }
            Block::Linear(b) => self.linear(&b.linear),
        }
        Some(())
    }

    /// Room for the quantized input of a matrix.
    fn matrix(&mut self, w: &Matrix<'_>) {
        if w.is_quantized() {
            grow(&mut self.groups, w.cols().div_ceil(GROUP));
        }
    }

    fn linear(&mut self, linear: &Linear<'_>) {
        self.matrix(&linear.matrix);
        if let Some((down, up)) = linear.adapter.map(Adapter::matrices) {
            self.matrix(&down);
            self.matrix(&up);
            grow(&mut self.adapter, down.rows());
            grow(&mut self.adapted, up.rows());
        }
    }

    /// Buffers that hold one row per token.
    fn per_token(&mut self) -> [&mut usize; 14] {
        let Self { residual, embedded, branch, joined, hidden, output, proj, inner, select, normed, .. } =
            self;
        let Self { decay, adapter, adapted, groups, .. } = self;
        [
            residual, embedded, branch, joined, hidden, output, proj, inner, select, normed, decay, adapter,
            adapted, groups,
        ]
    }

    /// Float buffers in the order of the fields.
    fn floats(&self) -> [usize; BUFFERS] {
        [
            self.residual,
            self.embedded,
            self.branch,
            self.joined,
            self.hidden,
            self.output,
            self.proj,
            self.inner,
            self.select,
            self.normed,
            self.decay,
            self.adapter,
            self.adapted,
            self.scores,
            self.logits,
        ]
    }

    fn checked_bytes(&self) -> Option<usize> {
        let codes = self.groups.checked_mul(GROUP);
        let scales = self.groups.checked_mul(4);
        let floats = self.floats().map(|len| len.checked_mul(4));
        floats
            .into_iter()
            .chain([codes, scales, scales])
            .try_fold(0usize, |sum, bytes| sum.checked_add(bytes?.checked_next_multiple_of(ALIGN)?))
    }

    /// Bytes of all buffers, each filled up to a multiple of 64.
    pub(crate) fn bytes(&self) -> usize {
        self.checked_bytes().expect("`checked` has computed the same")
    }
}

fn grow(len: &mut usize, to: usize) {
    *len = to.max(*len);
}

/// Working memory of a step; a row is a token or frame of a stream's chunk, or a token of one of several streams.
#[derive(Debug)]
pub struct Scratch<'s> {
    pub(crate) fingerprint: u64,
    pub(crate) shape: Shape,
    /// Residual stream `[rows][d_model]`.
    pub(crate) residual: &'s mut [f32],
    /// Token embeddings or frames read in `[rows][d_model]`, kept for blocks that read them.
    pub(crate) embedded: &'s mut [f32],
    /// Branch `[rows][d_model]`.
    pub(crate) branch: &'s mut [f32],
    /// Input put together from two vectors `[rows][input]`.
    pub(crate) joined: &'s mut [f32],
    /// Normed input of a block `[rows][input]`.
    pub(crate) hidden: &'s mut [f32],
    /// Output of a block `[rows][d_model]`; before that the time steps `[rows][heads]`.
    pub(crate) output: &'s mut [f32],
    /// Input projected: in_proj, queries with keys and values, gates of an MLP `[rows][len]`.
    pub(crate) proj: &'s mut [f32],
    /// What goes into the output projection `[rows][d_inner]`.
    pub(crate) inner: &'s mut [f32],
    /// Output of `x_proj` `[rows][len]`; the input of experts.
    pub(crate) select: &'s mut [f32],
    /// The same normed; the sum of experts.
    pub(crate) normed: &'s mut [f32],
    /// Decays per head `[rows][heads]`.
    pub(crate) decay: &'s mut [f32],
    /// Low-rank part of a linear map `[rows][rank]`.
    pub(crate) adapter: &'s mut [f32],
    /// The same at full rank `[rows][len]`; the output of one expert.
    pub(crate) adapted: &'s mut [f32],
    /// Attention scores `[heads][window]`, or scores and weights of experts `[2][experts]`.
    pub(crate) scores: &'s mut [f32],
    /// Logits `[streams][vocab]`, or the result of a frame.
    pub(crate) logits: &'s mut [f32],
    /// Activations in codes.
    pub(crate) quantized: QuantizedMut<'s>,
}

impl<'s> Scratch<'s> {
    /// Takes `memory` as scratch for `model` and up to so many tokens at once; a number is that of a chunk.
    ///
    /// # Errors
    /// `memory` must start on a boundary of [`ALIGN`] bytes and hold [`Model::memory`]`(shape)` bytes.
    pub fn new(
        model: &Model<'_>,
        memory: &'s mut [u8],
        shape: impl Into<Shape>,
    ) -> Result<Self, ScratchError> {
        Self::lend(model, memory, shape.into())
    }

    #[inline(never)]
    fn lend(model: &Model<'_>, memory: &'s mut [u8], shape: Shape) -> Result<Self, ScratchError> {
        if shape.chunk == 0 || shape.streams == 0 {
            return Err(ScratchError::EmptyShape);
        }
        let have = memory.len();
        let too_small = |need| ScratchError::TooSmall { need, have };
        let lens = ScratchLens::checked(model, shape).ok_or(too_small(usize::MAX))?;
        if have < lens.bytes() {
            return Err(too_small(lens.bytes()));
        }
        if !memory.as_ptr().addr().is_multiple_of(ALIGN) {
            return Err(ScratchError::Misaligned);
        }
        Ok(Self::divide(memory, &lens, shape, model.fingerprint()))
    }

    /// Not inlined, as what it needs of the stack is only needed once.
    #[inline(never)]
    fn divide(memory: &'s mut [u8], lens: &ScratchLens, shape: Shape, fingerprint: u64) -> Self {
        let mut rest = memory;
        let [
            residual,
            embedded,
            branch,
            joined,
            hidden,
            output,
            proj,
            inner,
            select,
            normed,
            decay,
            adapter,
            adapted,
            scores,
            logits,
        ] = lens.floats().map(|len| bytemuck::cast_slice_mut(take(&mut rest, len * 4)));
        let quantized = QuantizedMut {
            groups: 0,
            codes: bytemuck::cast_slice_mut(take(&mut rest, lens.groups * GROUP)),
            scales: bytemuck::cast_slice_mut(take(&mut rest, lens.groups * 4)),
            sums: bytemuck::cast_slice_mut(take(&mut rest, lens.groups * 4)),
        };
        Self {
            fingerprint,
            shape,
            residual,
            embedded,
            branch,
            joined,
            hidden,
            output,
            proj,
            inner,
            select,
            normed,
            decay,
            adapter,
            adapted,
            scores,
            logits,
            quantized,
        }
    }

    /// How many tokens are taken at once.
    pub fn shape(&self) -> Shape {
        self.shape
    }
}

/// Cuts `bytes` off the front, and the padding up to the next 64-byte boundary.
fn take<'s>(rest: &mut &'s mut [u8], bytes: usize) -> &'s mut [u8] {
    let (part, left) = core::mem::take(rest).split_at_mut(round_up(bytes, ALIGN));
    *rest = left;
    &mut part[..bytes]
}
