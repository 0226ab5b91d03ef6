//! Bamba: Mamba-2 or attention, then a gated MLP.

use super::ImportError;
use super::attention::{Heads, Layer, Rope, attention, names, rotated};
use super::builder::{Builder, Frame, NormStyle};
use super::config::{activation_of, count, dt_limits, eps, expect_silu, find_flag, indices};
use super::mlp;
use super::ssm::{Mamba2, mamba2};
use crate::checkpoint::Checkpoint;
use crate::recipe::Recipe;

pub(super) fn import(checkpoint: &Checkpoint, window: Option<usize>) -> Result<Recipe, ImportError> {
    let mut b = Builder::new(checkpoint);
    let config = b.config();
    expect_silu(config, "hidden_act")?;
    let norm = NormStyle::rms(eps(config, "rms_norm_eps", 1e-5)?);
    b.language_model(&Frame {
        embedding: "model.embed_tokens.weight",
        embedding_scale: 1.0,
        final_norm: "model.final_layernorm",
        norm,
        logits_scale: 1.0,
    })?;
    let mut heads = Heads::of(&b, window)?;
    heads.rope = Some(Rope::of_config(config, rotated(config, heads.head_dim, 0.5)?, 10_000.0)?);
    let activation = activation_of(config, "hidden_act", "silu")?;
    let attends = indices(config, "attn_layer_indices")?;

    for i in 0..b.layers(config, "num_hidden_layers")? {
        let layer = format!("model.layers.{i}");
        let join = b.join(&format!("{layer}.input_layernorm"), norm)?;
        if attends.contains(&i) {
            let names = names(&format!("{layer}.self_attn"));
            attention(&mut b, join, &heads, &Layer::new(names.each_ref().map(String::as_str)))?;
        } else {
            let prefix = format!("{layer}.mamba");
            let limits = dt_limits(config, "time_step_limit")?;
            let groups = count(config, "mamba_n_groups", 1)?;
            let conv_bias = find_flag(config, "mamba_conv_bias")?;
            mamba2(&mut b, join, &Mamba2 { conv_bias, ..Mamba2::new(&prefix, groups, limits, norm.eps) })?;
        }
        let join = b.join(&format!("{layer}.pre_ff_layernorm"), norm)?;
        mlp::gated(&mut b, join, mlp::names(&format!("{layer}.feed_forward")), activation)?;
    }
    b.finish()
}
