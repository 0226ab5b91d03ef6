//! The plan: which blocks a model is made of. Records as they lie in the file, and the same resolved to slices.
//!
//! A record is a block, not a micro-operation. Records are tagged and versioned: a new kind of block gets a new
//! tag, a new field of an old one a new version, and no existing file changes. Record payloads are plain structs
//! of 4-byte numbers; a tensor is named by its index in the tensor table, [`NONE`] where there is none.
//!
//! The first record is the input and the second the output: tokens and logits, or frames and results. The others are
//! blocks, in order. Blocks work on the residual stream `r` (f32 `[d_model]` per token or frame); [`JoinRecord`] says
//! what a block reads and where its output goes.

mod attention;
mod frame;
mod linear;
mod mlp;
mod moe;
mod resolve;
mod short_conv;
mod ssm;

use crate::kernels::Rests;
use crate::state::{StateDType, StatePart};
use bytemuck::{Pod, Zeroable};

pub use attention::{Attention, AttentionRecord, Rope};
pub use frame::{FrameInput, FrameOutput, Pool, pool, task};
pub use linear::{Adapter, Linear, LinearBlock, LinearBlockRecord, LinearRecord};
pub use mlp::{Activation, Mlp, MlpRecord, activation};
pub use moe::{Expert, MAX_EXPERTS, Moe, MoeRecord, Routing, routing};
pub(crate) use resolve::{Before, Operands};
pub use resolve::{Input, Output, Readout};
pub use short_conv::{ShortConv, ShortConvRecord};
pub use ssm::{Decay, Select, Ssm, SsmRecord, decay};

/// "No tensor".
pub const NONE: u32 = u32::MAX;

/// Kinds of record.
pub mod tag {
    /// [`super::TokenInput`].
    pub const TOKEN_INPUT: u16 = 1;
    /// [`super::LogitsOutput`].
    pub const LOGITS_OUTPUT: u16 = 2;
    /// [`super::FrameInput`].
    pub const FRAME_INPUT: u16 = 3;
    /// [`super::FrameOutput`].
    pub const FRAME_OUTPUT: u16 = 4;
    /// [`super::StateFormat`].
    pub const STATE_FORMAT: u16 = 8;
    /// [`super::SsmRecord`].
    pub const SSM: u16 = 16;
    /// [`super::AttentionRecord`].
    pub const ATTENTION: u16 = 17;
    /// [`super::MlpRecord`].
    pub const MLP: u16 = 18;
    /// [`super::MoeRecord`].
    pub const MOE: u16 = 19;
    /// [`super::ShortConvRecord`].
    pub const SHORT_CONV: u16 = 20;
    /// [`super::LinearBlockRecord`].
    pub const LINEAR: u16 = 21;
}

/// A payload of the plan: a plain struct with the tag and version that announce it.
pub trait Record: Pod {
    /// Its kind.
    const TAG: u16;
    /// Its version.
    const VERSION: u16 = 1;
}

/// Tokens come in: `r = scale · embedding[token]`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct TokenInput {
    /// Tensor `[vocab][d_model]`, any type.
    pub embedding: u32,
    /// Factor on the embedding.
    pub scale: f32,
}

impl Record for TokenInput {
    const TAG: u16 = tag::TOKEN_INPUT;
}

/// Logits go out: `logits = scale · (head · norm(r) + bias)`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct LogitsOutput {
    /// Normalization of the residual stream.
    pub norm: NormRecord,
    /// Tensor `[vocab][d_model]`, any type; the embedding's own index where the two are tied.
    pub head: u32,
    /// f32 `[vocab]` or [`NONE`].
    pub bias: u32,
    /// Factor on the logits.
    pub scale: f32,
}

impl Record for LogitsOutput {
    const TAG: u16 = tag::LOGITS_OUTPUT;
}

/// Element type of the SSM state unless the caller chooses another. The record may be missing, which means f32; it
/// stands right after the output.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct StateFormat {
    /// A [`StateDType`].
    pub dtype: u32,
}

impl Record for StateFormat {
    const TAG: u16 = tag::STATE_FORMAT;
}

/// How a vector is normalized.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct NormRecord {
    /// One of [`norm_kind`].
    pub kind: u32,
    /// f32 `[n]` or [`NONE`]; not with [`norm_kind::IDENTITY`].
    pub weight: u32,
    /// f32 `[n]` or [`NONE`]; only with [`norm_kind::LAYER`].
    pub bias: u32,
    /// Added to the mean square before the root; positive.
    pub eps: f32,
}

impl NormRecord {
    /// No normalization: the vector as it is.
    pub const IDENTITY: Self = Self { kind: norm_kind::IDENTITY, weight: NONE, bias: NONE, eps: 1.0 };
}

/// Kinds of normalization.
pub mod norm_kind {
    /// `x`.
    pub const IDENTITY: u32 = 0;
    /// `x / sqrt(mean(x²) + eps) · weight` (Zhang & Sennrich 2019).
    pub const RMS: u32 = 1;
    /// `(x - mean(x)) / sqrt(var(x) + eps) · weight + bias` (Ba et al. 2016).
    pub const LAYER: u32 = 2;
}

/// What a block reads and where its output goes.
///
/// `u = norm(input)`; then `r += scale · block(u)`, `r = scale · block(u)` or `branch = scale · block(u)`. The branch is
/// a second vector of `[d_model]` per token, for blocks that feed other blocks without touching the residual stream.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct JoinRecord {
    /// One of [`input`].
    pub input: u32,
    /// Normalization of the input; ignored with [`input::SAME`].
    pub norm: NormRecord,
    /// One of [`output`].
    pub output: u32,
    /// Factor on the block's output.
    pub scale: f32,
}

/// What a block reads.
pub mod input {
    /// `r`.
    pub const RESIDUAL: u32 = 0;
    /// The normed input of the block before it once more: parallel blocks.
    pub const SAME: u32 = 1;
    /// `[r | e]`, `e` being what `r` was before the first block.
    pub const RESIDUAL_AND_EMBEDDING: u32 = 2;
    /// The branch, which a block before it has written.
    pub const BRANCH: u32 = 3;
    /// `r + branch`, likewise.
    pub const RESIDUAL_PLUS_BRANCH: u32 = 4;
}

/// Where a block's output goes.
pub mod output {
    /// It is added to `r`.
    pub const RESIDUAL: u32 = 0;
    /// It replaces the branch.
    pub const BRANCH: u32 = 1;
    /// It replaces `r`.
    pub const REPLACE: u32 = 2;
}

/// A resolved [`NormRecord`].
#[derive(Debug, Clone, Copy)]
pub struct Norm<'m> {
    /// How.
    pub kind: NormKind,
    /// `[n]`.
    pub weight: Option<&'m [f32]>,
    /// `[n]`.
    pub bias: Option<&'m [f32]>,
    /// Added to the mean square.
    pub eps: f32,
}

impl Norm<'_> {
    /// None: a copy.
    pub const COPY: Self = Self { kind: NormKind::Identity, weight: None, bias: None, eps: 1.0 };
}

/// One of [`norm_kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented at norm_kind")]
pub enum NormKind {
    Identity,
    Rms,
    Layer,
}

/// A resolved [`JoinRecord`].
#[derive(Debug, Clone, Copy)]
pub struct Join<'m> {
    /// What the block reads.
    pub input: BlockInput,
    /// Normalization of it.
    pub norm: Norm<'m>,
    /// Where the output goes.
    pub output: BlockOutput,
    /// Factor on the output.
    pub scale: f32,
}

/// One of [`input`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented at input")]
pub enum BlockInput {
    Residual,
    Same,
    ResidualAndEmbedding,
    Branch,
    ResidualPlusBranch,
}

/// One of [`output`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented at output")]
pub enum BlockOutput {
    Residual,
    Branch,
    Replace,
}

impl BlockInput {
    /// Length of the input for a residual stream of `d_model`. `Same` has that of the block before.
    pub fn len(self, d_model: usize, before: usize) -> usize {
        match self {
            Self::Same => before,
            Self::ResidualAndEmbedding => 2 * d_model,
            Self::Residual | Self::Branch | Self::ResidualPlusBranch => d_model,
        }
    }
}

/// Parts of a block's state, some of them empty.
pub const BLOCK_PARTS: usize = 4;

/// A resolved block.
#[derive(Debug, Clone, Copy)]
pub enum Block<'m> {
    /// A selective state-space block.
    Ssm(Ssm<'m>),
    /// Attention over a bounded window.
    Attention(Attention<'m>),
    /// A feed-forward network.
    Mlp(Mlp<'m>),
    /// A choice of feed-forward networks.
    Moe(Moe<'m>),
    /// A gated short convolution.
    ShortConv(ShortConv<'m>),
    /// A linear map.
    Linear(LinearBlock<'m>),
}

impl<'m> Block<'m> {
    /// What it reads and where its output goes.
    pub fn join(&self) -> &Join<'m> {
        match self {
            Self::Ssm(b) => &b.join,
            Self::Attention(b) => &b.join,
            Self::Mlp(b) => &b.join,
            Self::Moe(b) => &b.join,
            Self::ShortConv(b) => &b.join,
            Self::Linear(b) => &b.join,
        }
    }

    /// The parts of its state, in the order in which they lie there: window, SSM state, the scales of that with
    /// [`StateDType::I8`] and held tokens; window, keys and values; window. [`Rests`] follow the codes in the same part.
    pub fn state_parts(&self, dtype: StateDType) -> [StatePart; BLOCK_PARTS] {
        let none = StatePart::f32(0);
        match self {
            Self::Ssm(b) => {
                let (scales, rests) = match dtype {
                    StateDType::I8 => (b.scales_len(), b.rests_len() * size_of::<Rests>()),
                    StateDType::F32 | StateDType::F16 => (0, 0),
                };
                [
                    StatePart::f32(b.window_len()),
                    StatePart { dtype, len: b.ssm_len() + rests },
                    StatePart::f32(scales),
                    StatePart::f32(b.held_len()),
                ]
            }
            Self::Attention(b) => [b.conv_window_len(), b.ring_len(), b.ring_len(), 0].map(StatePart::f32),
            Self::ShortConv(b) => [StatePart::f32(b.window_len()), none, none, none],
            Self::Mlp(_) | Self::Moe(_) | Self::Linear(_) => [none; BLOCK_PARTS],
        }
    }
}
