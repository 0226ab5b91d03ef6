//! Attention over the last `window` positions.

use super::resolve::Operands;
use super::{Block, Join, JoinRecord, Linear, LinearRecord, NONE, Norm, NormRecord, Record, norm_kind, tag};
use crate::error::ModelError;
use bytemuck::{Pod, Zeroable};

/// Grouped-query attention (Vaswani et al. 2017, Ainslie et al. 2023) in constant memory.
///
/// ```text
/// q = q · u [heads][head_dim];  k = k · u, v = v · u [kv_heads][head_dim]
/// [q | k | v] = conv([q | k | v])                    if conv_width > 1
/// q, k = norm per head, then rotated by position     if there are norms, a rotation
/// y[h] = sum_s softmax_s(scale · q[h]·k[s]) v[s]     s: the last `window` positions, this one included
/// output = o · y
/// ```
///
/// Keys and values lie in rings: position `p` at row `p mod window`. Up to `window` positions this is full
/// attention, beyond it sliding-window attention.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct AttentionRecord {
    /// Input and output.
    pub join: JoinRecord,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads, a divisor of `heads`.
    pub kv_heads: u32,
    /// Length of a head.
    pub head_dim: u32,
    /// Positions kept.
    pub window: u32,
    /// Factor on the scores.
    pub scale: f32,
    /// Dimensions of a head that are rotated, even; the first ones, in halves: `i` with `i + rotary_dims / 2`.
    pub rotary_dims: u32,
    /// f32 `[2][rotary_dims / 2]`: turns per position of each pair, as a sum of two floats; [`NONE`] if
    /// `rotary_dims` is 0.
    pub turns: u32,
    /// `[heads · head_dim][input]`.
    pub q: LinearRecord,
    /// `[kv_heads · head_dim][input]`.
    pub k: LinearRecord,
    /// `[kv_heads · head_dim][input]`.
    pub v: LinearRecord,
    /// `[d_model][heads · head_dim]`.
    pub o: LinearRecord,
    /// Of each query head, weights `[head_dim]`; RMS or none.
    pub q_norm: NormRecord,
    /// Of each key head, weights `[head_dim]`; RMS or none.
    pub k_norm: NormRecord,
    /// Inputs that the convolution over `[q | k | v]` sees; 1 for none.
    pub conv_width: u32,
    /// f32 `[conv_width][(heads + 2 · kv_heads) · head_dim]`, or [`NONE`].
    pub conv_weight: u32,
    /// f32 `[(heads + 2 · kv_heads) · head_dim]` or [`NONE`].
    pub conv_bias: u32,
}

impl Record for AttentionRecord {
    const TAG: u16 = tag::ATTENTION;
}

/// Rotary position embedding (Su et al. 2021).
#[derive(Debug, Clone, Copy)]
pub struct Rope<'m> {
    /// Dimensions rotated.
    pub dims: usize,
    /// Turns per position of each pair: high parts, then low parts.
    pub turns: &'m [f32],
}

impl Rope<'_> {
    /// What pair `i` turns per position, as a fraction of 2^64 of a turn, so that positions wrap around exactly.
    pub fn step(&self, i: usize) -> u64 {
        let (high, low) = self.turns.split_at(self.dims / 2);
        fixed(high[i]).wrapping_add(fixed(low[i]))
    }
}

/// A fraction of a turn as a fraction of 2^64; exact, as a float has 24 bits and what is below 2^-64 counts nothing.
fn fixed(turns: f32) -> u64 {
    const TWO_POW_64: f32 = 18_446_744_073_709_551_616.0;
    let magnitude = (turns.abs() * TWO_POW_64) as u64;
    if turns < 0.0 { magnitude.wrapping_neg() } else { magnitude }
}

/// A resolved [`AttentionRecord`].
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "documented at AttentionRecord")]
pub struct Attention<'m> {
    pub join: Join<'m>,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub window: usize,
    pub scale: f32,
    pub rope: Option<Rope<'m>>,
    pub q: Linear<'m>,
    pub k: Linear<'m>,
    pub v: Linear<'m>,
    pub o: Linear<'m>,
    pub q_norm: Norm<'m>,
    pub k_norm: Norm<'m>,
    pub conv_width: usize,
    pub conv_weight: &'m [f32],
    pub conv_bias: Option<&'m [f32]>,
}

impl Attention<'_> {
    /// Length of all query heads.
    pub fn q_len(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Length of all key heads, and of all value heads.
    pub fn kv_len(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Length of queries, keys and values of one position.
    pub fn qkv_len(&self) -> usize {
        self.q_len() + 2 * self.kv_len()
    }

    /// Elements of the convolution window in the state: `[conv_width - 1][qkv]`.
    pub fn conv_window_len(&self) -> usize {
        (self.conv_width - 1) * self.qkv_len()
    }

    /// Elements of the ring of keys, and of that of values: `[window][kv_heads][head_dim]`.
    pub fn ring_len(&self) -> usize {
        self.window * self.kv_len()
    }
}

impl<'m> Operands<'_, 'm> {
    #[inline(never)]
    pub(crate) fn attention(&self, r: &AttentionRecord) -> Result<Block<'m>, ModelError> {
        let (join, len) = self.join(&r.join)?;
        let [heads, kv_heads, head_dim, window, conv_width] =
            self.sizes([r.heads, r.kv_heads, r.head_dim, r.window, r.conv_width])?;
        let rotary_dims = r.rotary_dims as usize;
        if !heads.is_multiple_of(kv_heads)
            || rotary_dims > head_dim
            || !rotary_dims.is_multiple_of(2)
            || r.q_norm.kind.max(r.k_norm.kind) > norm_kind::RMS
        {
            return Err(self.field());
        }
        let (q_len, kv_len) = (self.product([heads, head_dim])?, self.product([kv_heads, head_dim])?);
        let qkv_len = self.product([heads + 2 * kv_heads, head_dim])?;
        self.product([window, kv_len])?;
        self.product([window, heads])?;
        let rope = match rotary_dims {
            0 => None,
            dims => Some(Rope { dims, turns: self.vector(r.turns, dims)? }),
        };
        if rope.is_some_and(|rope| rope.turns.iter().any(|t| t.is_nan() || t.abs() >= 1.0)) {
            return Err(self.operand(r.turns));
        }
        let conv_weight = match conv_width {
            1 if r.conv_weight == NONE => &[],
            width => self.vector(r.conv_weight, self.product([width, qkv_len])?)?,
        };
        Ok(Block::Attention(Attention {
            join,
            heads,
            kv_heads,
            head_dim,
            window,
            scale: self.finite(r.scale)?,
            rope,
            q: self.linear(&r.q, q_len, len)?,
            k: self.linear(&r.k, kv_len, len)?,
            v: self.linear(&r.v, kv_len, len)?,
            o: self.linear(&r.o, self.d_model(), q_len)?,
            q_norm: self.norm(&r.q_norm, head_dim)?,
            k_norm: self.norm(&r.k_norm, head_dim)?,
            conv_width,
            conv_weight,
            conv_bias: self.optional(r.conv_bias, qkv_len)?,
        }))
    }
}
