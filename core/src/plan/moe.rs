//! Mixtures of experts (Shazeer et al. 2017): a router chooses a few of many feed-forward networks per token.

use super::resolve::Operands;
use super::{Activation, Block, Join, JoinRecord, Linear, LinearRecord, NONE, Record, tag};
use crate::error::ModelError;
use crate::tensor::Matrix;
use bytemuck::{Pod, Zeroable};

/// The most experts that a router can choose from.
pub const MAX_EXPERTS: usize = 1024;

/// `sum over chosen e of weight[e] · down[e] · (act(gate[e] · v) ⊙ (up[e] · v))`; without gates `act(up[e] · v)`.
///
/// `v` is the normed input `u`, or `latent_in · u` where there is a latent projection; the sum is then taken through
/// `latent_out`. The matrices of the experts have consecutive ids.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct MoeRecord {
    /// Input and output.
    pub join: JoinRecord,
    /// Number of experts, at most [`MAX_EXPERTS`].
    pub experts: u32,
    /// Experts chosen per token.
    pub chosen: u32,
    /// Width of an expert's hidden layer.
    pub d_ff: u32,
    /// One of [`super::activation`].
    pub activation: u32,
    /// One of [`routing`].
    pub routing: u32,
    /// Any type, `[experts][input]`.
    pub router: u32,
    /// f32 `[experts]` added to the scores for the choice only, or [`NONE`].
    pub correction: u32,
    /// Equal groups of experts; 1 for none.
    pub groups: u32,
    /// Groups, those with the largest sums of their two best scores, from which experts are chosen.
    pub chosen_groups: u32,
    /// Factor on the weights.
    pub weight_scale: f32,
    /// Id of the first expert's gate, `[d_ff][width]`, or [`NONE`].
    pub gate: u32,
    /// Id of the first expert's `[d_ff][width]`.
    pub up: u32,
    /// Id of the first expert's `[width][d_ff]`.
    pub down: u32,
    /// `[latent][input]`, or [`LinearRecord::NONE`].
    pub latent_in: LinearRecord,
    /// `[d_model][latent]`; present if and only if `latent_in` is.
    pub latent_out: LinearRecord,
}

impl Record for MoeRecord {
    const TAG: u16 = tag::MOE;
}

/// From router logits to the weights of the chosen experts.
pub mod routing {
    /// Softmax over the chosen.
    pub const SOFTMAX_OF_CHOSEN: u32 = 0;
    /// Softmax over all experts.
    pub const SOFTMAX_OF_ALL: u32 = 1;
    /// Sigmoid of each.
    pub const SIGMOID: u32 = 2;
    /// Sigmoid of each, divided by the sum over the chosen.
    pub const SIGMOID_NORMALIZED: u32 = 3;
}

/// One of [`routing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented at routing")]
pub enum Routing {
    SoftmaxOfChosen,
    SoftmaxOfAll,
    Sigmoid,
    SigmoidNormalized,
}

/// A resolved [`MoeRecord`].
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "documented at MoeRecord")]
pub struct Moe<'m> {
    pub join: Join<'m>,
    pub experts: usize,
    pub chosen: usize,
    pub d_ff: usize,
    /// Width of an expert's input and output.
    pub width: usize,
    pub activation: Activation,
    pub routing: Routing,
    pub router: Matrix<'m>,
    pub correction: Option<&'m [f32]>,
    pub groups: usize,
    pub chosen_groups: usize,
    pub weight_scale: f32,
    pub latent: Option<(Linear<'m>, Linear<'m>)>,
    record: MoeRecord,
}

/// The matrices of one expert.
#[derive(Debug, Clone, Copy)]
pub struct Expert<'m> {
    /// `[d_ff][width]`.
    pub gate: Option<Matrix<'m>>,
    /// `[d_ff][width]`.
    pub up: Matrix<'m>,
    /// `[width][d_ff]`.
    pub down: Matrix<'m>,
}

impl<'m> Operands<'_, 'm> {
    #[inline(never)]
    pub(crate) fn moe(&self, r: &MoeRecord) -> Result<Block<'m>, ModelError> {
        let (join, len) = self.join(&r.join)?;
        let [experts, chosen, d_ff, groups, chosen_groups] =
            self.sizes([r.experts, r.chosen, r.d_ff, r.groups, r.chosen_groups])?;
        if experts > MAX_EXPERTS
            || !experts.is_multiple_of(groups)
            || chosen_groups > groups
            || chosen > experts / groups * chosen_groups
        {
            return Err(self.field());
        }
        let routing = match r.routing {
            routing::SOFTMAX_OF_CHOSEN => Routing::SoftmaxOfChosen,
            routing::SOFTMAX_OF_ALL => Routing::SoftmaxOfAll,
            routing::SIGMOID => Routing::Sigmoid,
            routing::SIGMOID_NORMALIZED => Routing::SigmoidNormalized,
            _ => return Err(self.field()),
        };
        let (latent, width) = if r.latent_in.matrix == NONE {
            (None, len)
        } else {
            let width = self.any(r.latent_in.matrix)?.rows;
            let latent_in = self.linear(&r.latent_in, width, len)?;
            (Some((latent_in, self.linear(&r.latent_out, self.d_model(), width)?)), width)
        };
        if latent.is_none() && width != self.d_model() {
            return Err(self.field());
        }
        let moe = Moe {
            join,
            experts,
            chosen,
            d_ff,
            width,
            activation: self.activation(r.activation)?,
            routing,
            router: self.matrix(r.router, experts, len)?,
            correction: self.optional(r.correction, experts)?,
            groups,
            chosen_groups,
            weight_scale: self.finite(r.weight_scale)?,
            latent,
            record: *r,
        };
        for e in 0..experts {
            self.expert(&moe, e)?;
        }
        Ok(Block::Moe(moe))
    }

    /// The matrices of expert `e`.
    pub(crate) fn expert(&self, moe: &Moe<'m>, e: usize) -> Result<Expert<'m>, ModelError> {
        let id = |first: u32| first.checked_add(e as u32).ok_or(self.operand(first));
        let r = &moe.record;
        Ok(Expert {
            gate: if r.gate == NONE { None } else { Some(self.matrix(id(r.gate)?, moe.d_ff, moe.width)?) },
            up: self.matrix(id(r.up)?, moe.d_ff, moe.width)?,
            down: self.matrix(id(r.down)?, moe.width, moe.d_ff)?,
        })
    }
}
