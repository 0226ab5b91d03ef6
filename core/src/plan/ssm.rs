//! Selective state-space blocks.

use super::resolve::Operands;
use super::{
    Block, Join, JoinRecord, Linear, LinearRecord, NONE, Norm, NormKind, NormRecord, Record, norm_kind, tag,
};
use crate::error::ModelError;
#[cfg(doc)]
use crate::kernels::Rests;
use crate::kernels::{HELD, rests_len};
use crate::state::STATE_GROUP;
use crate::tensor::Matrix;
use bytemuck::{Pod, Zeroable};

/// Mamba-1 (Gu & Dao 2023), Mamba-2 (Dao & Gu 2024) and Phi-Mamba (Bick et al. 2024) are one recurrence.
///
/// ```text
/// [z | v | dt] = in_proj · u                    z: heads·head_dim; dt: heads, absent with x_proj
/// v            = act(conv(v))                   depthwise over the last conv_width inputs
/// without x_proj:  [x | B | C] = v
/// with x_proj:     x = v;  [dt_low | B | C] = x_proj · x, each normed;  dt = dt_proj · dt_low
/// decay::EXP:      dt = interval · clamp(softplus(dt + dt_bias), dt_min, dt_max);  a = exp(dt·A)
/// decay::SIGMOID:  a = 1 / (1 + exp(dt));  then dt = 1
/// h[c][n]      = a·h[c][n] + (dt·x[c])·B[n]     per head, B and C shared by heads / n_groups heads
/// y[c]         = sum_n C[n]·h[c][n] + D[c]·x[c]
/// y            = gate_norm(y · silu(z))         gate_norm in n_groups equal parts;
///                or gate_norm(y) · silu(z) with norm_before_gate
/// output       = out_proj · y
/// ```
///
/// `interval` is the time since the frame before, relative to the interval of training: 1 for tokens. The recurrence is
/// the exact solution for an input held over that time as far as the decay goes, so a frame that comes late decays the
/// state longer. decay::SIGMOID has no dt, convolution and attention count frames: the interval does not change them.
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
    /// `[d_inner + conv_channels (+ heads)][input]`, where `d_inner = heads · head_dim` and
    /// `conv_channels = d_inner (+ 2 · n_groups · d_state without x_proj)`.
    pub in_proj: LinearRecord,
    /// f32 `[conv_width][conv_channels]`, oldest input first.
    pub conv_weight: u32,
    /// f32 `[conv_channels]` or [`NONE`].
    pub conv_bias: u32,
    /// Any type, `[dt_rank + 2 · n_groups · d_state][d_inner]`, or [`NONE`].
    pub x_proj: u32,
    /// Any type, `[heads][dt_rank]`; present if and only if `x_proj` is.
    pub dt_proj: u32,
    /// Of dt_low, weights `[dt_rank]`; only with `x_proj`, as the next two.
    pub dt_norm: NormRecord,
    /// Of B, weights `[n_groups · d_state]`.
    pub b_norm: NormRecord,
    /// Of C, weights `[n_groups · d_state]`.
    pub c_norm: NormRecord,
    /// One of [`decay`].
    pub decay: u32,
    /// f32 `[heads]`; [`NONE`] with [`decay::SIGMOID`].
    pub dt_bias: u32,
    /// Lower bound of dt, at least 0.
    pub dt_min: f32,
    /// Upper bound of dt; may be infinite.
    pub dt_max: f32,
    /// f32, `A · log2(e)` (so the decay is `exp2(dt · a)`): `[heads]`, or `[heads][d_state]` for a decay per
    /// state element; [`NONE`] with [`decay::SIGMOID`].
    pub a_log2: u32,
    /// f32 `[d_inner]`.
    pub d: u32,
    /// Of the gated output, weights `[d_inner]`; RMS or none.
    pub gate_norm: NormRecord,
    /// 1: the norm comes before the gate.
    pub norm_before_gate: u32,
    /// `[d_model][d_inner]`.
    pub out_proj: LinearRecord,
}

impl Record for SsmRecord {
    const TAG: u16 = tag::SSM;
}

/// Forms of the decay.
pub mod decay {
    /// `exp(dt · A)`.
    pub const EXP: u32 = 0;
    /// `sigmoid(-dt)`, and the input is not multiplied by dt.
    pub const SIGMOID: u32 = 1;
}

/// A resolved [`SsmRecord`]; fields of the same name mean the same.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "documented at SsmRecord")]
pub struct Ssm<'m> {
    pub join: Join<'m>,
    pub heads: usize,
    pub head_dim: usize,
    pub d_state: usize,
    pub n_groups: usize,
    pub conv_width: usize,
    pub conv_silu: bool,
    pub in_proj: Linear<'m>,
    pub conv_weight: &'m [f32],
    pub conv_bias: Option<&'m [f32]>,
    pub select: Option<Select<'m>>,
    pub decay: Decay<'m>,
    pub d: &'m [f32],
    pub gate_norm: Norm<'m>,
    pub norm_before_gate: bool,
    pub out_proj: Linear<'m>,
}

/// Mamba-1's projections of the convolved channels to dt, B and C.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "documented at SsmRecord")]
pub struct Select<'m> {
    pub x_proj: Matrix<'m>,
    pub dt_proj: Matrix<'m>,
    pub dt_norm: Norm<'m>,
    pub b_norm: Norm<'m>,
    pub c_norm: Norm<'m>,
}

/// One of [`decay`] with its operands.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "documented at SsmRecord")]
pub enum Decay<'m> {
    Exp { dt_bias: &'m [f32], dt_min: f32, dt_max: f32, a_log2: &'m [f32] },
    Sigmoid,
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

    /// Elements of the held tokens, `[HELD][d_inner + n_groups · d_state + heads]`: none with a decay per element.
    pub fn held_len(&self) -> usize {
        if self.decays_by_head() { HELD * (self.d_inner() + self.bc_len() + self.heads) } else { 0 }
    }

    /// Whether the state decays by one factor per head, rather than per element.
    pub fn decays_by_head(&self) -> bool {
        cfg!(feature = "head-decay") && self.decay.is_by_head(self.heads)
    }

    /// Scales of the SSM state in 8-bit codes: `[heads][head_dim][ceil(d_state / 256)]`.
    pub fn scales_len(&self) -> usize {
        self.d_inner() * self.d_state.div_ceil(STATE_GROUP)
    }

    /// Number of [`Rests`] of the SSM state in 8-bit codes: `[heads][head_dim][ceil(d_state / 32)]`, none with a decay per
    /// element.
    pub fn rests_len(&self) -> usize {
        if self.decays_by_head() { self.d_inner() * rests_len(self.d_state) } else { 0 }
    }
}

impl Decay<'_> {
    fn is_by_head(&self, heads: usize) -> bool {
        match self {
            Self::Exp { a_log2, .. } => a_log2.len() == heads,
            Self::Sigmoid => true,
        }
    }
}

impl Select<'_> {
    /// Whether any of the three parts is normed.
    pub fn has_norms(&self) -> bool {
        [&self.dt_norm, &self.b_norm, &self.c_norm].iter().any(|norm| norm.kind != NormKind::Identity)
    }
}

impl<'m> Operands<'_, 'm> {
    #[inline(never)]
    pub(crate) fn ssm(&self, r: &SsmRecord) -> Result<Block<'m>, ModelError> {
        let (join, len) = self.join(&r.join)?;
        let [heads, head_dim, d_state, n_groups, conv_width] =
            self.sizes([r.heads, r.head_dim, r.d_state, r.n_groups, r.conv_width])?;
        let d_inner = self.product([heads, head_dim])?;
        self.product([d_inner, d_state])?;
        let bc = self.product([2 * n_groups, d_state])?;
        if !heads.is_multiple_of(n_groups) || r.gate_norm.kind > norm_kind::RMS {
            return Err(self.field());
        }
        let direct = r.x_proj == NONE;
        let conv_channels = if direct { self.sum([d_inner, bc])? } else { d_inner };
        let in_rows = self.sum([d_inner, conv_channels, if direct { heads } else { 0 }])?;
        let select = if direct {
            None
        } else {
            let rank = self.any(r.dt_proj)?.cols;
            Some(Select {
                x_proj: self.matrix(r.x_proj, self.sum([rank, bc])?, d_inner)?,
                dt_proj: self.matrix(r.dt_proj, heads, rank)?,
                dt_norm: self.norm(&r.dt_norm, rank)?,
                b_norm: self.norm(&r.b_norm, bc / 2)?,
                c_norm: self.norm(&r.c_norm, bc / 2)?,
            })
        };
        let decay = match r.decay {
            decay::EXP if r.dt_min >= 0.0 && r.dt_min.is_finite() && r.dt_max >= r.dt_min => Decay::Exp {
                dt_bias: self.vector(r.dt_bias, heads)?,
                dt_min: r.dt_min,
                dt_max: r.dt_max,
                // No more than the elements of the state, which have been counted above.
                a_log2: self.vector_of(r.a_log2, [heads, heads * d_state])?,
            },
            decay::SIGMOID => Decay::Sigmoid,
            _ => return Err(self.field()),
        };
        if decay.is_by_head(heads) && !cfg!(feature = "head-decay") {
            let (tag, version) = (SsmRecord::TAG, SsmRecord::VERSION);
            return Err(ModelError::Record { index: self.index, tag, version });
        }
        Ok(Block::Ssm(Ssm {
            join,
            heads,
            head_dim,
            d_state,
            n_groups,
            conv_width,
            conv_silu: self.flag(r.conv_silu)?,
            in_proj: self.linear(&r.in_proj, in_rows, len)?,
            conv_weight: self.vector(r.conv_weight, self.product([conv_width, conv_channels])?)?,
            conv_bias: self.optional(r.conv_bias, conv_channels)?,
            select,
            decay,
            d: self.vector(r.d, d_inner)?,
            gate_norm: self.norm(&r.gate_norm, d_inner)?,
            norm_before_gate: self.flag(r.norm_before_gate)?,
            out_proj: self.linear(&r.out_proj, self.d_model(), d_inner)?,
        }))
    }
}
