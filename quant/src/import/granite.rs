//! Granite-4.0-H: Mamba-2 or attention, then a gated MLP, in some sizes with a mixture of experts beside it.

use sarit_core::plan::{JoinRecord, LinearRecord, MoeRecord, NONE, routing};

use super::ImportError;
use super::attention::{Heads, Layer, Rope, attention, names};
use super::builder::{Builder, Frame, NormStyle};
use super::config::{
    Kind, activation_of, count, dt_limits, eps, expect_silu, factor, find_count, find_flag, layer_kinds,
    positive, refused,
};
use super::mlp;
use super::ssm::{Mamba2, join_same, mamba2};
use crate::checkpoint::Checkpoint;
use crate::recipe::{Recipe, Role};

pub(super) fn import(checkpoint: &Checkpoint, window: Option<usize>) -> Result<Recipe, ImportError> {
    let mut b = Builder::new(checkpoint);
    let config = b.config();
    expect_silu(config, "hidden_act")?;
    let norm = NormStyle::rms(eps(config, "rms_norm_eps", 1e-6)?);
    b.language_model(&Frame {
        embedding: "model.embed_tokens.weight",
        embedding_scale: factor(config, "embedding_multiplier")?,
        final_norm: "model.norm",
        norm,
        logits_scale: (1.0 / positive(config, "logits_scaling", 1.0)?) as f32,
    })?;
    let mut heads = Heads::of(&b, window)?;
    heads.scale = factor(config, "attention_multiplier")?;
    heads.rope = match config["position_embedding_type"].as_str() {
        Some("rope") => Some(Rope::of_config(config, heads.head_dim, 10_000.0)?),
        Some("nope") | None => None,
        Some(_) => return Err(refused(config, "position_embedding_type")),
    };
    let residual = factor(config, "residual_multiplier")?;
    let activation = activation_of(config, "hidden_act", "silu")?;
    let layers = b.layers(config, "num_hidden_layers")?;
    let kinds = layer_kinds(config)?.unwrap_or_else(|| vec![Kind::Mamba; layers]);
    let experts = find_count(config, "num_local_experts")?.unwrap_or(0);

    for (i, kind) in kinds.into_iter().enumerate() {
        let layer = format!("model.layers.{i}");
        let join = JoinRecord { scale: residual, ..b.join(&format!("{layer}.input_layernorm"), norm)? };
        match kind {
            Kind::Mamba => {
                let prefix = format!("{layer}.mamba");
                let limits = dt_limits(config, "time_step_limit")?;
                let groups = count(config, "mamba_n_groups", 1)?;
                let conv_bias = find_flag(config, "mamba_conv_bias")?;
                mamba2(
                    &mut b,
                    join,
                    &Mamba2 { conv_bias, ..Mamba2::new(&prefix, groups, limits, norm.eps) },
                )?;
            }
            Kind::Attention => {
                let names = names(&format!("{layer}.self_attn"));
                attention(&mut b, join, &heads, &Layer::new(names.each_ref().map(String::as_str)))?;
            }
            _ => return Err(refused(config, "layer_types")),
        }
        let join =
            JoinRecord { scale: residual, ..b.join(&format!("{layer}.post_attention_layernorm"), norm)? };
        let names = ["input_linear", "output_linear"].map(|part| format!("{layer}.shared_mlp.{part}"));
        mlp::fused(&mut b, join, names, activation, true)?;
        if experts > 0 {
            let same = JoinRecord { scale: residual, ..join_same() };
            let chosen = count(config, "num_experts_per_tok", 0)?;
            mixture(&mut b, same, &format!("{layer}.block_sparse_moe"), [experts, chosen], activation)?;
        }
    }
    b.finish()
}

/// Experts stacked as `input_linear` `[E][2F][d]`, `[gate | up]`, and `output_linear` `[E][d][F]`.
fn mixture(
    b: &mut Builder<'_>,
    join: JoinRecord,
    prefix: &str,
    [experts, chosen]: [usize; 2],
    activation: u32,
) -> Result<(), ImportError> {
    let (both, down) = (format!("{prefix}.input_linear.weight"), format!("{prefix}.output_linear.weight"));
    let [_, rows, d_model] = b.shape(&both)?;
    let d_ff = rows / 2;
    let router = b.matrix(&format!("{prefix}.router.layer.weight"), Role::Selection, experts, d_model)?;
    let mut stack = |name: &str, part: std::ops::Range<usize>, shape: [usize; 3]| {
        let ids: Result<Vec<u32>, _> =
            (0..experts).map(|e| b.stacked(name, e, part.clone(), shape)).collect();
        ids.map(|ids| ids[0])
    };
    let gate = stack(&both, 0..d_ff, [experts, rows, d_model])?;
    let up = stack(&both, d_ff..2 * d_ff, [experts, rows, d_model])?;
    let down = stack(&down, 0..d_model, [experts, d_model, d_ff])?;
    b.push(&MoeRecord {
        join,
        experts: experts as u32,
        chosen: chosen as u32,
        d_ff: d_ff as u32,
        activation,
        routing: routing::SOFTMAX_OF_CHOSEN,
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
