//! Frame models: vectors of floats in, class scores or a regression vector out.

use super::resolve::{Operands, Output, Readout};
use super::{Linear, LinearRecord, NormRecord, Record, tag};
use crate::error::ModelError;
use bytemuck::{Pod, Zeroable};

/// Frames of floats come in: `r = read_in · frame`.
///
/// Frames come at equal intervals of time, or with the interval before each, relative to the one that the model was
/// trained with: that scales dt (see [`super::SsmRecord`]).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct FrameInput {
    /// `[d_model][frame_len]`; its shape gives both sizes.
    pub read_in: LinearRecord,
}

impl Record for FrameInput {
    const TAG: u16 = tag::FRAME_INPUT;
}

/// A result goes out after every frame: `result = head · pool(norm(r))`. Stands only after a [`FrameInput`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct FrameOutput {
    /// Normalization of the residual stream.
    pub norm: NormRecord,
    /// One of [`pool`].
    pub pool: u32,
    /// One of [`task`].
    pub task: u32,
    /// `[results][d_model]`.
    pub head: LinearRecord,
}

impl Record for FrameOutput {
    const TAG: u16 = tag::FRAME_OUTPUT;
}

/// How the normed residuals `u` of all `n` frames so far become one vector.
pub mod pool {
    /// `u` of the last frame; nothing is kept.
    pub const LAST: u32 = 0;
    /// Their mean, which runs on: `m += (u - m) · (1 / n)`.
    pub const MEAN: u32 = 1;
    /// Their largest, element by element.
    pub const MAX: u32 = 2;
}

/// What a result is.
pub mod task {
    /// A score per class; their softmax gives probabilities.
    pub const CLASSES: u32 = 0;
    /// A vector of numbers.
    pub const REGRESSION: u32 = 1;
}

/// One of [`pool`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented at pool")]
pub enum Pool {
    Last,
    Mean,
    Max,
}

impl<'m> Operands<'_, 'm> {
    pub(crate) fn frame_input(&self, r: &FrameInput) -> Result<Linear<'m>, ModelError> {
        let t = self.any(r.read_in.matrix)?;
        self.sizes([t.rows as u32, t.cols as u32])?;
        self.linear(&r.read_in, t.rows, t.cols)
    }

    pub(crate) fn frame_output(&self, r: &FrameOutput) -> Result<Output<'m>, ModelError> {
        let pool = match r.pool {
            pool::LAST => Pool::Last,
            pool::MEAN => Pool::Mean,
            pool::MAX => Pool::Max,
            _ => return Err(self.field()),
        };
        let readout = match r.task {
            task::CLASSES => Readout::Classes(pool),
            task::REGRESSION => Readout::Regression(pool),
            _ => return Err(self.field()),
        };
        let results = self.any(r.head.matrix)?.rows;
        self.sizes([results as u32])?;
        let d_model = self.d_model();
        Ok(Output {
            norm: self.norm(&r.norm, d_model)?,
            head: self.linear(&r.head, results, d_model)?,
            scale: 1.0,
            readout,
        })
    }
}
