//! Falcon-H1: attention and Mamba-2 side by side in every layer, with multipliers that are folded into the weights.

use super::ImportError;
use super::attention::{Heads, Layer, Rope, attention, names};
use super::builder::{Builder, Frame, NormStyle};
use super::config::{activation_of, count, dt_limits, eps, expect_silu, factor, factors, find_flag, flag};
use super::mlp;
use super::ssm::{Mamba2, join_same, mamba2};
use crate::checkpoint::Checkpoint;
use crate::recipe::Recipe;

pub(super) fn import(checkpoint: &Checkpoint, window: Option<usize>) -> Result<Recipe, ImportError> {
    let mut b = Builder::new(checkpoint);
    let config = b.config();
    expect_silu(config, "hidden_act")?;
    let norm = NormStyle::rms(eps(config, "rms_norm_eps", 1e-5)?);
    b.language_model(&Frame {
        embedding: "model.embed_tokens.weight",
        embedding_scale: factor(config, "embedding_multiplier")?,
        final_norm: "model.final_layernorm",
        norm,
        logits_scale: factor(config, "lm_head_multiplier")?,
    })?;
    let mut heads = Heads::of(&b, window)?;
    heads.rope = Some(Rope::of_config(config, heads.head_dim, 10_000.0)?);
    let [attn_in, attn_out] =
        [factor(config, "attention_in_multiplier")?, factor(config, "attention_out_multiplier")?];
    let key = factor(config, "key_multiplier")?;
    let activation = activation_of(config, "hidden_act", "silu")?;
    let gated = flag(config, "mamba_rms_norm", false)?;

    for i in 0..b.layers(config, "num_hidden_layers")? {
        let layer = format!("model.layers.{i}");
        let prefix = format!("{layer}.mamba");
        b.agree(Some(gated), &format!("{prefix}.norm.weight"))?;
        let mixer = Mamba2 {
            conv_bias: find_flag(config, "mamba_conv_bias")?,
            norm_before_gate: flag(config, "mamba_norm_before_gate", true)?,
            in_factor: factor(config, "ssm_in_multiplier")?,
            part_factors: factors(config, "ssm_multipliers")?,
            out_factor: factor(config, "ssm_out_multiplier")?,
            ..Mamba2::new(
                &prefix,
                count(config, "mamba_n_groups", 1)?,
                dt_limits(config, "time_step_limit")?,
                norm.eps,
            )
        };
        let join = b.join(&format!("{layer}.input_layernorm"), norm)?;
        mamba2(&mut b, join, &mixer)?;

        let names = names(&format!("{layer}.self_attn"));
        let attn = Layer {
            weights: [attn_in, attn_in * key, attn_in, attn_out],
            biases: [1.0, key, 1.0, attn_out],
            ..Layer::new(names.each_ref().map(String::as_str))
        };
        attention(&mut b, join_same(), &heads, &attn)?;

        let join = b.join(&format!("{layer}.pre_ff_layernorm"), norm)?;
        let names = mlp::names(&format!("{layer}.feed_forward"));
        mlp::gated_with(&mut b, join, names, activation, factors(config, "mlp_multipliers")?)?;
    }
    b.finish()
}
