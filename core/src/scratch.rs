//! Working memory of a step: lent by the caller, shared by any number of streams, never saved.

use crate::error::ScratchError;
use crate::kernels::QuantizedMut;
use crate::model::Model;
use crate::plan::Block;
use crate::tensor::{GROUP, Matrix};
use crate::{ALIGN, round_up};

/// Elements of each buffer, for a whole chunk of tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScratchLens {
    /// Residual stream `[chunk][d_model]`.
    residual: usize,
    /// Normed input of a block, and its output `[chunk][d_model]`.
    hidden: usize,
    /// Output of `in_proj` `[chunk][rows]`.
    proj: usize,
    /// Output of `x_proj` `[chunk][rows]`.
    select: usize,
    /// Time steps `[chunk][heads]`.
    dt: usize,
    /// Decays per head `[chunk][heads]`.
    decay: usize,
    /// Output of the scan `[chunk][d_inner]`.
    inner: usize,
    /// `[vocab]`.
    logits: usize,
    /// Groups of quantized activations `[chunk][groups]`.
    groups: usize,
}

impl ScratchLens {
    /// Lengths for `chunk` tokens, or `None` where the whole does not fit in the address space.
    pub(crate) fn checked(model: &Model<'_>, chunk: usize) -> Option<Self> {
        let mut lens = Self {
            residual: model.d_model(),
            hidden: model.d_model(),
            proj: 0,
            select: 0,
            dt: 0,
            decay: 0,
            inner: 0,
            logits: model.vocab_len(),
            groups: 0,
        };
        let groups = |w: &Matrix<'_>| if w.is_quantized() { w.cols().div_ceil(GROUP) } else { 0 };
        lens.groups = groups(&model.head());
        for (block, _) in model.blocks() {
            match block {
                Block::Ssm(ssm) => {
                    lens.proj = lens.proj.max(ssm.in_proj.rows());
                    lens.inner = lens.inner.max(ssm.d_inner());
                    lens.groups = lens.groups.max(groups(&ssm.in_proj)).max(groups(&ssm.out_proj));
                    if let Some(select) = &ssm.select {
                        lens.select = lens.select.max(select.x_proj.rows());
                        lens.groups = lens.groups.max(groups(&select.x_proj)).max(groups(&select.dt_proj));
                    }
                    lens.dt = lens.dt.max(ssm.heads);
                    lens.decay = lens.decay.max(ssm.heads);
                }
            }
        }
        for len in [
            &mut lens.residual,
            &mut lens.hidden,
            &mut lens.proj,
            &mut lens.select,
            &mut lens.dt,
            &mut lens.decay,
            &mut lens.inner,
            &mut lens.groups,
        ] {
            *len = len.checked_mul(chunk)?;
        }
        lens.checked_bytes().map(|_| lens)
    }

    fn floats(&self) -> [usize; 8] {
        [self.residual, self.hidden, self.proj, self.select, self.dt, self.decay, self.inner, self.logits]
    }

    fn checked_bytes(&self) -> Option<usize> {
        let quantized =
            [self.groups.checked_mul(GROUP)?, self.groups.checked_mul(4)?, self.groups.checked_mul(4)?];
        let floats = self.floats().map(|len| len.checked_mul(4));
        floats
            .into_iter()
            .chain(quantized.map(Some))
            .try_fold(0usize, |sum, bytes| sum.checked_add(bytes?.checked_next_multiple_of(ALIGN)?))
    }

    /// Bytes of all buffers, each filled up to a multiple of 64.
    pub(crate) fn bytes(&self) -> usize {
        self.checked_bytes().expect("`checked` has computed the same")
    }
}

/// Working memory of a step for up to `chunk` tokens at once.
#[derive(Debug)]
pub struct Scratch<'s> {
    pub(crate) fingerprint: u64,
    pub(crate) chunk: usize,
    pub(crate) residual: &'s mut [f32],
    pub(crate) hidden: &'s mut [f32],
    pub(crate) proj: &'s mut [f32],
    pub(crate) select: &'s mut [f32],
    pub(crate) dt: &'s mut [f32],
    pub(crate) decay: &'s mut [f32],
    pub(crate) inner: &'s mut [f32],
    pub(crate) logits: &'s mut [f32],
    pub(crate) quantized: QuantizedMut<'s>,
}

impl<'s> Scratch<'s> {
    /// Takes `memory` as scratch for `model` and up to `chunk` tokens at once.
    ///
    /// # Errors
    /// `memory` must start on a boundary of [`ALIGN`] bytes and hold [`Model::memory`]`(chunk)` bytes.
    pub fn new(model: &Model<'_>, memory: &'s mut [u8], chunk: usize) -> Result<Self, ScratchError> {
        if chunk == 0 {
            return Err(ScratchError::EmptyChunk);
        }
        let have = memory.len();
        let too_small = |need| ScratchError::TooSmall { need, have };
        let lens = ScratchLens::checked(model, chunk).ok_or(too_small(usize::MAX))?;
        if have < lens.bytes() {
            return Err(too_small(lens.bytes()));
        }
        if !memory.as_ptr().addr().is_multiple_of(ALIGN) {
            return Err(ScratchError::Misaligned);
        }
        let mut rest = memory;
        let [residual, hidden, proj, select, dt, decay, inner, logits] =
            lens.floats().map(|len| bytemuck::cast_slice_mut(take(&mut rest, len * 4)));
        let quantized = QuantizedMut {
            groups: 0,
            codes: bytemuck::cast_slice_mut(take(&mut rest, lens.groups * GROUP)),
            scales: bytemuck::cast_slice_mut(take(&mut rest, lens.groups * 4)),
            sums: bytemuck::cast_slice_mut(take(&mut rest, lens.groups * 4)),
        };
        let fingerprint = model.fingerprint();
        Ok(Self { fingerprint, chunk, residual, hidden, proj, select, dt, decay, inner, logits, quantized })
    }

    /// The most tokens that are taken at once.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// Logits of the last step, `[vocab]`, for callers that change them before sampling.
    pub fn logits(&mut self) -> &mut [f32] {
        self.logits
    }
}

/// Cuts `bytes` off the front, and the padding up to the next 64-byte boundary.
fn take<'s>(rest: &mut &'s mut [u8], bytes: usize) -> &'s mut [u8] {
    let (part, left) = core::mem::take(rest).split_at_mut(round_up(bytes, ALIGN));
    *rest = left;
    &mut part[..bytes]
}
