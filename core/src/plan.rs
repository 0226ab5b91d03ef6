//! The plan: which blocks a model is made of. Records as they lie in the file, and the same resolved to slices.
//!
//! A record is a block, not a micro-operation. Records are tagged and versioned: a new kind of block gets a new
//! tag, a new field of an old one a new version, and no existing file changes. Record payloads are plain structs
//! of 4-byte numbers; a tensor is named by its index in the tensor table, [`NONE`] where there is none.
//!
//! A block reads the residual stream `r` (f32 `[d_model]`), normalizes it, and adds its output:
//! `r += scale · block(norm(r))`.

use crate::error::ModelError;
use crate::tensor::{DType, Matrix, Tensor};
use bytemuck::{Pod, Zeroable};

/// "No tensor".
pub const NONE: u32 = u32::MAX;

/// Kinds of record.
pub mod tag {
    /// [`super::TokenInput`].
    pub const TOKEN_INPUT: u16 = 1;
    /// [`super::LogitsOutput`].
    pub const LOGITS_OUTPUT: u16 = 2;
    /// [`super::SsmRecord`].
    pub const SSM: u16 = 16;
}

/// A payload of the plan: a plain struct with the tag and version that announce it.
pub trait Record: Pod {
    /// Its kind.
    const TAG: u16;
    /// Its version.
    const VERSION: u16;
}

/// Tokens come in: `r = embedding[token]`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct TokenInput {
    /// Tensor `[vocab][d_model]`, any type.
    pub embedding: u32,
}

impl Record for TokenInput {
    const TAG: u16 = tag::TOKEN_INPUT;
    const VERSION: u16 = 1;
}

/// Logits go out: `logits = head · norm(r)`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct LogitsOutput {
    /// Normalization of the residual stream.
    pub norm: NormRecord,
    /// Tensor `[vocab][d_model]`, any type; the embedding's own index where the two are tied.
    pub head: u32,
}

impl Record for LogitsOutput {
    const TAG: u16 = tag::LOGITS_OUTPUT;
    const VERSION: u16 = 1;
}

/// How a vector is normalized.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct NormRecord {
    /// One of [`norm_kind`].
    pub kind: u32,
    /// f32 `[n]`.
    pub weight: u32,
    /// Added to the mean square before the root; positive.
    pub eps: f32,
}

/// Kinds of normalization.
pub mod norm_kind {
    /// `x / sqrt(mean(x²) + eps) · weight` (Zhang & Sennrich 2019).
    pub const RMS: u32 = 1;
}

/// What a block reads and how its output joins the residual stream.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct JoinRecord {
    /// Normalization of the residual stream before the block.
    pub norm: NormRecord,
    /// Factor on the block's output as it is added to the residual stream.
    pub scale: f32,
}

/// A selective state-space block: Mamba-1 (Gu & Dao 2023) and Mamba-2 (Dao & Gu 2024) are one recurrence.
///
/// ```text
/// [z | v | dt] = in_proj · u + in_bias          z: heads·head_dim; dt: heads, absent with x_proj
/// v            = act(conv(v))                   depthwise over the last conv_width inputs
/// without x_proj:  [x | B | C] = v
/// with x_proj:     x = v;  [dt_low | B | C] = x_proj · x;  dt = dt_proj · dt_low
/// dt           = clamp(softplus(dt + dt_bias), dt_min, dt_max)
/// h[c][n]      = exp(dt·A)·h[c][n] + (dt·x[c])·B[n]      per head, B and C shared by heads / n_groups heads
/// y[c]         = sum_n C[n]·h[c][n] + D[c]·x[c]
/// y            = y · silu(z);  with gate_norm: RMS norm in n_groups groups
/// output       = out_proj · y + out_bias
/// ```
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct SsmRecord {
    /// Input and output.
    pub join: JoinRecord,
    /// Heads; for Mamba-1 the number of channels.
    pub heads: u32,
    /// Channels of a head; 1 for Mamba-1.
    pub head_dim: u32,
    /// State elements of a channel.
    pub d_state: u32,
    /// Groups of heads that share B and C.
    pub n_groups: u32,
    /// Inputs that the convolution sees, the newest included.
    pub conv_width: u32,
    /// 1: silu after the convolution, 0: nothing.
    pub conv_silu: u32,
    /// Any type, `[d_inner + conv_channels (+ heads)][d_model]`, where `d_inner = heads · head_dim` and
    /// `conv_channels = d_inner (+ 2 · n_groups · d_state without x_proj)`.
    pub in_proj: u32,
    /// f32 `[in_proj rows]` or [`NONE`].
    pub in_bias: u32,
    /// f32 `[conv_width][conv_channels]`, oldest input first.
    pub conv_weight: u32,
    /// f32 `[conv_channels]` or [`NONE`].
    pub conv_bias: u32,
    /// Any type, `[dt_rank + 2 · n_groups · d_state][d_inner]`, or [`NONE`].
    pub x_proj: u32,
    /// Any type, `[heads][dt_rank]`; present if and only if `x_proj` is.
    pub dt_proj: u32,
    /// f32 `[heads]`.
    pub dt_bias: u32,
    /// Lower bound of dt, at least 0.
    pub dt_min: f32,
    /// Upper bound of dt; may be infinite.
    pub dt_max: f32,
    /// f32, `A · log2(e)` (so the decay is `exp2(dt · a)`): `[heads]`, or `[heads][d_state]` for a decay per
    /// state element.
    pub a_log2: u32,
    /// f32 `[d_inner]`.
    pub d: u32,
    /// f32 `[d_inner]` or [`NONE`].
    pub gate_norm: u32,
    /// Added to the mean square in the gate's norm; positive if there is one.
    pub gate_norm_eps: f32,
    /// Any type, `[d_model][d_inner]`.
    pub out_proj: u32,
    /// f32 `[d_model]` or [`NONE`].
    pub out_bias: u32,
}

impl Record for SsmRecord {
    const TAG: u16 = tag::SSM;
    const VERSION: u16 = 1;
}

/// A resolved [`NormRecord`].
#[derive(Debug, Clone, Copy)]
pub struct Norm<'m> {
    /// `[n]`.
    pub weight: &'m [f32],
    /// Added to the mean square.
    pub eps: f32,
}

/// A resolved block.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Block<'m> {
    /// A selective state-space block.
    Ssm(Ssm<'m>),
}

/// A resolved [`SsmRecord`]; fields of the same name mean the same.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "documented at SsmRecord")]
pub struct Ssm<'m> {
    pub norm: Norm<'m>,
    pub scale: f32,
    pub heads: usize,
    pub head_dim: usize,
    pub d_state: usize,
    pub n_groups: usize,
    pub conv_width: usize,
    pub conv_silu: bool,
    pub in_proj: Matrix<'m>,
    pub in_bias: Option<&'m [f32]>,
    pub conv_weight: &'m [f32],
    pub conv_bias: Option<&'m [f32]>,
    pub select: Option<Select<'m>>,
    pub dt_bias: &'m [f32],
    pub dt_min: f32,
    pub dt_max: f32,
    pub a_log2: &'m [f32],
    pub d: &'m [f32],
    pub gate_norm: Option<Norm<'m>>,
    pub out_proj: Matrix<'m>,
    pub out_bias: Option<&'m [f32]>,
}

/// Mamba-1's projections of the convolved channels to dt, B and C.
#[derive(Debug, Clone, Copy)]
pub struct Select<'m> {
    /// `[dt_rank + 2 · n_groups · d_state][d_inner]`.
    pub x_proj: Matrix<'m>,
    /// `[heads][dt_rank]`.
    pub dt_proj: Matrix<'m>,
}

impl Ssm<'_> {
    /// Channels that carry a state.
    pub fn d_inner(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Length of B, and of C: `n_groups · d_state`.
    pub fn bc_len(&self) -> usize {
        self.n_groups * self.d_state
    }

    /// Channels that pass the convolution.
    pub fn conv_channels(&self) -> usize {
        self.conv_weight.len() / self.conv_width
    }

    /// Elements of the convolution window in the state: `[conv_width - 1][conv_channels]`.
    pub fn window_len(&self) -> usize {
        (self.conv_width - 1) * self.conv_channels()
    }

    /// Elements of the SSM state: `[heads][head_dim][d_state]`.
    pub fn ssm_len(&self) -> usize {
        self.d_inner() * self.d_state
    }
}

/// Resolves the operands of one record: finds tensors by id and holds them to the shapes that the record needs.
#[derive(Clone, Copy)]
pub(crate) struct Operands<'a, F> {
    /// Position of the record in the plan, for errors.
    pub(crate) index: u32,
    /// The tensor with an id.
    pub(crate) tensor: &'a F,
}

impl<'m, F: Fn(u32) -> Option<Tensor<'m>>> Operands<'_, F> {
    fn error(&self, tensor: u32) -> ModelError {
        ModelError::Operand { index: self.index, tensor }
    }

    fn matrix(&self, id: u32, rows: usize, cols: usize) -> Result<Matrix<'m>, ModelError> {
        let t = (self.tensor)(id).filter(|t| t.rows == rows && t.cols == cols);
        Ok(t.ok_or(self.error(id))?.matrix())
    }

    fn vector(&self, id: u32, len: usize) -> Result<&'m [f32], ModelError> {
        let t =
            (self.tensor)(id).filter(|t| t.dtype == DType::F32 && t.rows.checked_mul(t.cols) == Some(len));
        Ok(bytemuck::cast_slice(t.ok_or(self.error(id))?.data))
    }

    fn optional(&self, id: u32, len: usize) -> Result<Option<&'m [f32]>, ModelError> {
        if id == NONE { Ok(None) } else { self.vector(id, len).map(Some) }
    }

    fn norm(&self, record: &NormRecord, len: usize) -> Result<Norm<'m>, ModelError> {
        if record.kind != norm_kind::RMS || !is_eps(record.eps) {
            return Err(ModelError::Field(self.index));
        }
        Ok(Norm { weight: self.vector(record.weight, len)?, eps: record.eps })
    }

    /// The embedding; its shape gives the sizes of the vocabulary and of the residual stream.
    pub(crate) fn token_input(&self, record: &TokenInput) -> Result<Matrix<'m>, ModelError> {
        let t = (self.tensor)(record.embedding).ok_or(self.error(record.embedding))?;
        Ok(t.matrix())
    }

    pub(crate) fn logits_output(
        &self,
        record: &LogitsOutput,
        vocab: usize,
        d_model: usize,
    ) -> Result<(Norm<'m>, Matrix<'m>), ModelError> {
        Ok((self.norm(&record.norm, d_model)?, self.matrix(record.head, vocab, d_model)?))
    }

    pub(crate) fn ssm(&self, r: &SsmRecord, d_model: usize) -> Result<Ssm<'m>, ModelError> {
        let field = ModelError::Field(self.index);
        let dims = [r.heads, r.head_dim, r.d_state, r.n_groups, r.conv_width];
        // Each size stays below 2^24 and is bounded by some tensor's shape below, so products fit in 64 bits.
        if dims.iter().any(|&n| n == 0 || n >= 1 << 24)
            || !r.heads.is_multiple_of(r.n_groups)
            || r.conv_silu > 1
        {
            return Err(field);
        }
        if !(r.join.scale.is_finite() && r.dt_min >= 0.0 && r.dt_min.is_finite() && r.dt_max >= r.dt_min) {
            return Err(field);
        }
        let [heads, head_dim, d_state, n_groups, conv_width] = dims.map(|n| n as usize);
        let product = |a: usize, b: usize| a.checked_mul(b).ok_or(ModelError::TooLarge);
        let sum = |a: usize, b: usize| a.checked_add(b).ok_or(ModelError::TooLarge);
        let d_inner = product(heads, head_dim)?;
        let bc = product(2, product(n_groups, d_state)?)?;
        let direct = r.x_proj == NONE;
        let conv_channels = if direct { sum(d_inner, bc)? } else { d_inner };
        let in_rows = sum(sum(d_inner, conv_channels)?, if direct { heads } else { 0 })?;
        let select = if direct {
            None
        } else {
            let rank = (self.tensor)(r.dt_proj).ok_or(self.error(r.dt_proj))?.cols;
            Some(Select {
                x_proj: self.matrix(r.x_proj, sum(rank, bc)?, d_inner)?,
                dt_proj: self.matrix(r.dt_proj, heads, rank)?,
            })
        };
        let a_log2 =
            self.vector(r.a_log2, heads).or_else(|_| self.vector(r.a_log2, product(heads, d_state)?))?;
        let gate_norm = match self.optional(r.gate_norm, d_inner)? {
            Some(_) if !is_eps(r.gate_norm_eps) || !d_inner.is_multiple_of(n_groups) => return Err(field),
            weight => weight.map(|weight| Norm { weight, eps: r.gate_norm_eps }),
        };
        Ok(Ssm {
            norm: self.norm(&r.join.norm, d_model)?,
            scale: r.join.scale,
            heads,
            head_dim,
            d_state,
            n_groups,
            conv_width,
            conv_silu: r.conv_silu == 1,
            in_proj: self.matrix(r.in_proj, in_rows, d_model)?,
            in_bias: self.optional(r.in_bias, in_rows)?,
            conv_weight: self.vector(r.conv_weight, product(conv_width, conv_channels)?)?,
            conv_bias: self.optional(r.conv_bias, conv_channels)?,
            select,
            dt_bias: self.vector(r.dt_bias, heads)?,
            dt_min: r.dt_min,
            dt_max: r.dt_max,
            a_log2,
            d: self.vector(r.d, d_inner)?,
            gate_norm,
            out_proj: self.matrix(r.out_proj, d_model, d_inner)?,
            out_bias: self.optional(r.out_bias, d_model)?,
        })
    }
}

fn is_eps(eps: f32) -> bool {
    eps > 0.0 && eps.is_finite()
}
