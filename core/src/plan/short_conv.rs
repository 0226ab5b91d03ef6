//! Gated short convolutions (LFM2).

use super::resolve::Operands;
use super::{Block, Join, JoinRecord, Linear, LinearRecord, Record, tag};
use crate::error::ModelError;
use bytemuck::{Pod, Zeroable};

/// `[B | C | x] = in_proj · u;  y = out_proj · (C ⊙ conv(B ⊙ x))`, the convolution depthwise over the last
/// `conv_width` inputs, without an activation.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct ShortConvRecord {
    /// Input and output.
    pub join: JoinRecord,
    /// Channels.
    pub channels: u32,
    /// Inputs that the convolution sees, the newest included.
    pub conv_width: u32,
    /// `[3 · channels][input]`.
    pub in_proj: LinearRecord,
    /// f32 `[conv_width][channels]`, oldest input first.
    pub conv_weight: u32,
    /// f32 `[channels]` or [`super::NONE`].
    pub conv_bias: u32,
    /// `[d_model][channels]`.
    pub out_proj: LinearRecord,
}

impl Record for ShortConvRecord {
    const TAG: u16 = tag::SHORT_CONV;
}

/// A resolved [`ShortConvRecord`].
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "documented at ShortConvRecord")]
pub struct ShortConv<'m> {
    pub join: Join<'m>,
    pub channels: usize,
    pub conv_width: usize,
    pub in_proj: Linear<'m>,
    pub conv_weight: &'m [f32],
    pub conv_bias: Option<&'m [f32]>,
    pub out_proj: Linear<'m>,
}

impl ShortConv<'_> {
    /// Elements of the convolution window in the state: `[conv_width - 1][channels]`.
    pub fn window_len(&self) -> usize {
        (self.conv_width - 1) * self.channels
    }
}

impl<'m> Operands<'_, 'm> {
    #[inline(never)]
    pub(crate) fn short_conv(&self, r: &ShortConvRecord) -> Result<Block<'m>, ModelError> {
        let (join, len) = self.join(&r.join)?;
        let [channels, conv_width] = self.sizes([r.channels, r.conv_width])?;
        Ok(Block::ShortConv(ShortConv {
            join,
            channels,
            conv_width,
            in_proj: self.linear(&r.in_proj, 3 * channels, len)?,
            conv_weight: self.vector(r.conv_weight, self.product([conv_width, channels])?)?,
            conv_bias: self.optional(r.conv_bias, channels)?,
            out_proj: self.linear(&r.out_proj, self.d_model(), channels)?,
        }))
    }
}
