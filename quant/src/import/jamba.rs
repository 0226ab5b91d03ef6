//! Jamba: Mamba-1 with norms on dt_low, B and C, or attention without positions; then an MLP or a mixture of them.

use sarit_core::plan::{JoinRecord, LinearRecord, MoeRecord, NONE, routing};
use serde_json::Value;

use super::ImportError;
use super::attention::{Heads, Layer, attention, names};
use super::builder::{Builder, Frame, NormStyle};
use super::config::{Kind, activation_of, count, eps, expect_silu, find_count, find_flag, layer_kinds};
use super::mlp;
use super::ssm::{Mamba1, SelectionNorms, mamba1};
use crate::checkpoint::Checkpoint;
use crate::recipe::{Recipe, Role};

pub(super) fn import(checkpoint: &Checkpoint, window: Option<usize>) -> Result<Recipe, ImportError> {
    let mut b = Builder::new(checkpoint);
    let config = b.config();
    expect_silu(config, "hidden_act")?;
    let norm = NormStyle::rms(eps(config, "rms_norm_eps", 1e-6)?);
    b.language_model(&Frame {
        embedding: "model.embed_tokens.weight",
        embedding_scale: 1.0,
        final_norm: "model.final_layernorm",
        norm,
        logits_scale: 1.0,
    })?;
    let heads = Heads::of(&b, window)?;
    let activation = activation_of(config, "hidden_act", "silu")?;
    let kinds = layer_kinds(config)?;

    for i in 0..b.layers(config, "num_hidden_layers")? {
        let layer = format!("model.layers.{i}");
        let join = b.join(&format!("{layer}.input_layernorm"), norm)?;
        let attends = match &kinds {
            Some(kinds) => kinds.get(i) == Some(&Kind::Attention),
            None => recurs(config, "attn", i, [8, 4])?,
        };
        if attends {
            let names = names(&format!("{layer}.self_attn"));
            attention(&mut b, join, &heads, &Layer::new(names.each_ref().map(String::as_str)))?;
        } else {
            let mixer = Mamba1 {
                prefix: &format!("{layer}.mamba"),
                conv_bias: find_flag(config, "mamba_conv_bias")?,
                bias: find_flag(config, "mamba_proj_bias")?,
                norms: SelectionNorms::Weighted { eps: norm.eps },
            };
            mamba1(&mut b, join, &mixer)?;
        }
        let join = b.join(&format!("{layer}.pre_ff_layernorm"), norm)?;
        let feed_forward = format!("{layer}.feed_forward");
        // Whether a layer chooses among experts is plain from its tensors.
        if b.has(&format!("{feed_forward}.router.weight")) {
            let experts = count(config, "num_experts", 16)?;
            let chosen = count(config, "num_experts_per_tok", 2)?;
            mixture(&mut b, join, &feed_forward, [experts, chosen], activation)?;
        } else {
            mlp::gated(&mut b, join, mlp::names(&feed_forward), activation)?;
        }
    }
    b.finish()
}

/// Whether layer `i` is one of those that come once in a period, at an offset.
fn recurs(config: &Value, what: &str, i: usize, [period, offset]: [usize; 2]) -> Result<bool, ImportError> {
    let period = count(config, &format!("{what}_layer_period"), period)?;
    let offset = find_count(config, &format!("{what}_layer_offset"))?.unwrap_or(offset);
    Ok(i % period == offset)
}

/// Experts with matrices of their own.
fn mixture(
    b: &mut Builder<'_>,
    join: JoinRecord,
    prefix: &str,
    [experts, chosen]: [usize; 2],
    activation: u32,
) -> Result<(), ImportError> {
    let d_model = b.d_model();
    let [d_ff, _] = b.shape(&format!("{prefix}.experts.0.up_proj.weight"))?;
    let router = b.matrix(&format!("{prefix}.router.weight"), Role::Selection, experts, d_model)?;
    let mut stack = |part: &str, rows, cols| {
        let name = |e| format!("{prefix}.experts.{e}.{part}.weight");
        let ids: Result<Vec<u32>, _> =
            (0..experts).map(|e| b.matrix(&name(e), Role::Projection, rows, cols)).collect();
        ids.map(|ids| ids[0])
    };
    let gate = stack("gate_proj", d_ff, d_model)?;
    let up = stack("up_proj", d_ff, d_model)?;
    let down = stack("down_proj", d_model, d_ff)?;
    b.push(&MoeRecord {
        join,
        experts: experts as u32,
        chosen: chosen as u32,
        d_ff: d_ff as u32,
        activation,
        routing: routing::SOFTMAX_OF_ALL,
        router,
        correction: NONE,
        groups: 1,
        chosen_groups: 1,
        weight_scale: 1.0,
        gate,
        up,
        down,
        latent_in: LinearRecord::NONE,
        latent_out: LinearRecord::NONE,
    });
    Ok(())
}
