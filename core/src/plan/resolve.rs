//! From records to slices: tensors found by id and held to the shapes that a record needs.

use super::{
    BlockInput, BlockOutput, Join, JoinRecord, Linear, LinearRecord, LogitsOutput, NONE, Norm, NormKind,
    NormRecord, Pool, TokenInput, input, norm_kind, output,
};
use crate::error::ModelError;
use crate::model::Model;
use crate::state::StatePart;
use crate::tensor::{DType, Matrix, Tensor};

/// Resolves the operands of one record.
#[derive(Clone, Copy)]
pub(crate) struct Operands<'a, 'm> {
    /// Position of the record in the plan, for errors.
    pub(crate) index: u32,
    /// Where the tensors are; its input gives the width of the residual stream.
    pub(crate) model: &'a Model<'m>,
    /// What the blocks before this one leave.
    pub(crate) before: Before,
}

/// What the blocks before a record leave to its block.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Before {
    /// Length of the normed input of the last one; 0 before the first.
    pub(crate) input_len: usize,
    /// Whether one of them writes the branch.
    pub(crate) branch: bool,
}

impl<'m> Operands<'_, 'm> {
    /// Width of the residual stream.
    pub(super) fn d_model(&self) -> usize {
        self.model.d_model()
    }

    /// That a number of the record is out of range.
    pub(super) fn field(&self) -> ModelError {
        ModelError::Field(self.index)
    }

    /// That the tensor does not fit.
    pub(super) fn operand(&self, tensor: u32) -> ModelError {
        ModelError::Operand { index: self.index, tensor }
    }

    /// Sizes as `usize`, each at least 1 and below 2^24.
    pub(super) fn sizes<const N: usize>(&self, sizes: [u32; N]) -> Result<[usize; N], ModelError> {
        if sizes.iter().all(|n| (1..1 << 24).contains(n)) {
            Ok(sizes.map(|n| n as usize))
        } else {
            Err(self.field())
        }
    }

    /// The product of sizes, which is a number of f32 that can be addressed.
    pub(super) fn product<const N: usize>(&self, sizes: [usize; N]) -> Result<usize, ModelError> {
        let product = sizes.into_iter().try_fold(1, usize::checked_mul);
        product.filter(|n| *n < usize::MAX / 8).ok_or(ModelError::TooLarge)
    }

    /// The sum of sizes.
    pub(super) fn sum<const N: usize>(&self, sizes: [usize; N]) -> Result<usize, ModelError> {
        sizes.into_iter().try_fold(0, usize::checked_add).ok_or(ModelError::TooLarge)
    }

    pub(super) fn flag(&self, flag: u32) -> Result<bool, ModelError> {
        if flag < 2 { Ok(flag == 1) } else { Err(self.field()) }
    }

    pub(super) fn finite(&self, x: f32) -> Result<f32, ModelError> {
        if x.is_finite() { Ok(x) } else { Err(self.field()) }
    }

    /// The tensor, whatever its shape.
    pub(super) fn any(&self, id: u32) -> Result<Tensor<'m>, ModelError> {
        self.model.tensor(id).ok_or(self.operand(id))
    }

    pub(super) fn matrix(&self, id: u32, rows: usize, cols: usize) -> Result<Matrix<'m>, ModelError> {
        let t = self.any(id)?;
        if (t.rows, t.cols) == (rows, cols) { Ok(t.matrix()) } else { Err(self.operand(id)) }
    }

    /// An f32 tensor of `len` elements, whatever its rows.
    pub(super) fn vector(&self, id: u32, len: usize) -> Result<&'m [f32], ModelError> {
        self.vector_of(id, [len])
    }

    /// The same with one of some lengths.
    pub(super) fn vector_of<const N: usize>(
        &self,
        id: u32,
        lens: [usize; N],
    ) -> Result<&'m [f32], ModelError> {
        let t = self.any(id)?;
        if t.dtype == DType::F32 && t.rows.checked_mul(t.cols).is_some_and(|len| lens.contains(&len)) {
            Ok(bytemuck::cast_slice(t.data))
        } else {
            Err(self.operand(id))
        }
    }

    pub(super) fn optional(&self, id: u32, len: usize) -> Result<Option<&'m [f32]>, ModelError> {
        if id == NONE { Ok(None) } else { self.vector(id, len).map(Some) }
    }

    pub(super) fn norm(&self, r: &NormRecord, len: usize) -> Result<Norm<'m>, ModelError> {
        let kind = match r.kind {
            norm_kind::IDENTITY => NormKind::Identity,
            norm_kind::RMS => NormKind::Rms,
            norm_kind::LAYER => NormKind::Layer,
            _ => return Err(self.field()),
        };
        let stray =
            r.bias != NONE && kind != NormKind::Layer || r.weight != NONE && kind == NormKind::Identity;
        // Above 0 and finite: of positive floats the bits are in order.
        if stray || !(1..f32::INFINITY.to_bits()).contains(&r.eps.to_bits()) {
            return Err(self.field());
        }
        Ok(Norm {
            kind,
            weight: self.optional(r.weight, len)?,
            bias: self.optional(r.bias, len)?,
            eps: r.eps,
        })
    }

    /// The join, and the length of the block's normed input.
    pub(super) fn join(&self, r: &JoinRecord) -> Result<(Join<'m>, usize), ModelError> {
        let input = match r.input {
            input::RESIDUAL => BlockInput::Residual,
            input::SAME if self.before.input_len > 0 => BlockInput::Same,
            input::RESIDUAL_AND_EMBEDDING => BlockInput::ResidualAndEmbedding,
            input::BRANCH if self.before.branch => BlockInput::Branch,
            input::RESIDUAL_PLUS_BRANCH if self.before.branch => BlockInput::ResidualPlusBranch,
            _ => return Err(self.field()),
        };
        let output = match r.output {
            output::RESIDUAL => BlockOutput::Residual,
            output::BRANCH => BlockOutput::Branch,
            output::REPLACE => BlockOutput::Replace,
            _ => return Err(self.field()),
        };
        let len = input.len(self.d_model(), self.before.input_len);
        let norm = self.norm(&r.norm, len)?;
        Ok((Join { input, norm, output, scale: self.finite(r.scale)? }, len))
    }

    /// The embedding; its shape gives the sizes of the vocabulary and of the residual stream.
    pub(crate) fn token_input(&self, r: &TokenInput) -> Result<Input<'m>, ModelError> {
        let t = self.any(r.embedding)?;
        self.sizes([t.rows as u32, t.cols as u32])?;
        Ok(Input::Tokens { embedding: t.matrix(), scale: self.finite(r.scale)? })
    }

    pub(crate) fn logits_output(&self, r: &LogitsOutput, vocab: usize) -> Result<Output<'m>, ModelError> {
        Ok(Output {
            norm: self.norm(&r.norm, self.d_model())?,
            head: self.linear(&LinearRecord::new(r.head, r.bias), vocab, self.d_model())?,
            scale: self.finite(r.scale)?,
            readout: Readout::Logits,
        })
    }
}

/// What comes in.
#[derive(Debug, Clone, Copy)]
pub enum Input<'m> {
    /// See [`TokenInput`].
    Tokens {
        /// `[vocab][d_model]`.
        embedding: Matrix<'m>,
        /// Factor on the embedding.
        scale: f32,
    },
    /// The read-in `[d_model][frame_len]`; see [`super::FrameInput`].
    Frames(Linear<'m>),
}

/// What goes out: `scale · head · norm(r)`, pooled between norm and head in frame models.
#[derive(Debug, Clone, Copy)]
pub struct Output<'m> {
    /// Normalization of the residual stream.
    pub norm: Norm<'m>,
    /// `[vocab][d_model]`, or `[results][d_model]`.
    pub head: Linear<'m>,
    /// Factor on logits.
    pub scale: f32,
    /// What the numbers mean.
    pub readout: Readout,
}

/// What the numbers that go out mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readout {
    /// Logits of the next token.
    Logits,
    /// Scores of classes.
    Classes(Pool),
    /// A regression vector.
    Regression(Pool),
}

impl Output<'_> {
    /// The pool's state: `[d_model]`, or nothing.
    pub fn pool_state(&self) -> StatePart {
        StatePart::f32(match self.readout {
            Readout::Classes(Pool::Mean | Pool::Max) | Readout::Regression(Pool::Mean | Pool::Max) => {
                self.head.matrix.cols()
            }
            _ => 0,
        })
    }
}
