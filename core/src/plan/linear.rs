//! Linear maps: the form that they have in other records, and as a block of their own.

use super::resolve::Operands;
use super::{Block, Join, JoinRecord, NONE, Record, tag};
use crate::error::ModelError;
use crate::format::TensorEntry;
use crate::tensor::{Matrix, Tensor};
use bytemuck::{Pod, Zeroable};

/// `y = matrix · x + up · (down · x) + bias`; the low-rank pair (Hu et al. 2021) lets blocks share a matrix.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct LinearRecord {
    /// Any type, `[rows][cols]`.
    pub matrix: u32,
    /// f32 `[rows]` or [`NONE`].
    pub bias: u32,
    /// Any type, `[rank][cols]`, or [`NONE`].
    pub down: u32,
    /// Any type, `[rows][rank]`; present if and only if `down` is.
    pub up: u32,
}

impl LinearRecord {
    /// No map at all.
    pub const NONE: Self = Self { matrix: NONE, bias: NONE, down: NONE, up: NONE };

    /// A matrix and perhaps a bias.
    pub const fn new(matrix: u32, bias: u32) -> Self {
        Self { matrix, bias, down: NONE, up: NONE }
    }
}

/// A resolved [`LinearRecord`].
#[derive(Debug, Clone, Copy)]
pub struct Linear<'m> {
    /// `[rows][cols]`.
    pub matrix: Matrix<'m>,
    /// `[rows]`.
    pub bias: Option<&'m [f32]>,
    /// Added to it.
    pub adapter: Option<Adapter<'m>>,
}

/// The low-rank part of a linear map. Few maps have one, so it is made of its tensors when it is needed: blocks are small
/// for the stacks of microcontrollers.
#[derive(Debug, Clone, Copy)]
pub struct Adapter<'m> {
    file: &'m [u8],
    down: &'m TensorEntry,
    up: &'m TensorEntry,
}

impl<'m> Adapter<'m> {
    /// `[rank][cols]` and `[rows][rank]`.
    pub fn matrices(self) -> (Matrix<'m>, Matrix<'m>) {
        let matrix = |entry| Tensor::read(self.file, entry).expect("it was resolved").matrix();
        (matrix(self.down), matrix(self.up))
    }
}

impl<'m> Operands<'_, 'm> {
    pub(super) fn linear(
        &self,
        r: &LinearRecord,
        rows: usize,
        cols: usize,
    ) -> Result<Linear<'m>, ModelError> {
        let adapter = if r.down == NONE {
            None
        } else {
            let rank = self.any(r.down)?.rows;
            self.matrix(r.down, rank, cols)?;
            self.matrix(r.up, rows, rank)?;
            let entry = |id| self.model.entry(id).ok_or(self.operand(id));
            Some(Adapter { file: self.model.bytes(), down: entry(r.down)?, up: entry(r.up)? })
        };
        Ok(Linear { matrix: self.matrix(r.matrix, rows, cols)?, bias: self.optional(r.bias, rows)?, adapter })
    }
}

/// A linear map of the normed input.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct LinearBlockRecord {
    /// Input and output.
    pub join: JoinRecord,
    /// `[d_model][input]`.
    pub linear: LinearRecord,
}

impl Record for LinearBlockRecord {
    const TAG: u16 = tag::LINEAR;
}

/// A resolved [`LinearBlockRecord`].
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "documented at LinearBlockRecord")]
pub struct LinearBlock<'m> {
    pub join: Join<'m>,
    pub linear: Linear<'m>,
}

impl<'m> Operands<'_, 'm> {
    #[inline(never)]
    pub(crate) fn linear_block(&self, r: &LinearBlockRecord) -> Result<Block<'m>, ModelError> {
        let (join, len) = self.join(&r.join)?;
        Ok(Block::Linear(LinearBlock { join, linear: self.linear(&r.linear, self.d_model(), len)? }))
    }
}
