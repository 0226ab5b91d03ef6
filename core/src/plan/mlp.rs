//! Feed-forward networks.

use super::resolve::Operands;
use super::{Block, Join, JoinRecord, Linear, LinearRecord, NONE, Record, tag};
use crate::error::ModelError;
use bytemuck::{Pod, Zeroable};

/// `down · (act(gate · u) ⊙ (up · u))`, or `down · act(up · u)` without a gate.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct MlpRecord {
    /// Input and output.
    pub join: JoinRecord,
    /// Width of the hidden layer.
    pub d_ff: u32,
    /// One of [`activation`].
    pub activation: u32,
    /// `[d_ff][input]` or [`LinearRecord::NONE`].
    pub gate: LinearRecord,
    /// `[d_ff][input]`.
    pub up: LinearRecord,
    /// `[d_model][d_ff]`.
    pub down: LinearRecord,
}

impl Record for MlpRecord {
    const TAG: u16 = tag::MLP;
}

/// Activations.
pub mod activation {
    /// `x / (1 + e^-x)`.
    pub const SILU: u32 = 0;
    /// `x · Φ(x)`, with the error function.
    pub const GELU: u32 = 1;
    /// GELU through tanh (`gelu_new`).
    pub const GELU_TANH: u32 = 2;
    /// `max(x, 0)²`.
    pub const RELU2: u32 = 3;
    /// `max(x, 0)`.
    pub const RELU: u32 = 4;
}

/// One of [`activation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented at activation")]
pub enum Activation {
    Silu,
    Gelu,
    GeluTanh,
    Relu2,
    Relu,
}

/// A resolved [`MlpRecord`].
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "documented at MlpRecord")]
pub struct Mlp<'m> {
    pub join: Join<'m>,
    pub activation: Activation,
    pub gate: Option<Linear<'m>>,
    pub up: Linear<'m>,
    pub down: Linear<'m>,
}

impl<'m> Operands<'_, 'm> {
    #[inline(never)]
    pub(crate) fn mlp(&self, r: &MlpRecord) -> Result<Block<'m>, ModelError> {
        let (join, len) = self.join(&r.join)?;
        let [d_ff] = self.sizes([r.d_ff])?;
        Ok(Block::Mlp(Mlp {
            join,
            activation: self.activation(r.activation)?,
            gate: if r.gate.matrix == NONE { None } else { Some(self.linear(&r.gate, d_ff, len)?) },
            up: self.linear(&r.up, d_ff, len)?,
            down: self.linear(&r.down, self.d_model(), d_ff)?,
        }))
    }

    pub(super) fn activation(&self, number: u32) -> Result<Activation, ModelError> {
        Ok(match number {
            activation::SILU => Activation::Silu,
            activation::GELU => Activation::Gelu,
            activation::GELU_TANH => Activation::GeluTanh,
            activation::RELU2 => Activation::Relu2,
            activation::RELU => Activation::Relu,
            _ => return Err(self.field()),
        })
    }
}
