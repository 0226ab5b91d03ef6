//! Nemotron-H: one mixer a layer, which is Mamba-2, attention without positions, an MLP or a mixture of experts.

use sarit_core::plan::{JoinRecord, LinearRecord, MoeRecord, NONE, routing};
use serde_json::Value;

use super::ImportError;
use super::attention::{Heads, Layer, attention, names};
use super::builder::{Builder, Frame, NormStyle};
use super::config::{
    Kind, activation_of, bound, count, expect_silu, factor, find_count, find_flag, flag, layer_kinds,
    positive, refused,
};
use super::mlp;
use super::ssm::{Mamba2, join_same, mamba2};
use crate::checkpoint::Checkpoint;
use crate::recipe::{Recipe, Role};

pub(super) fn import(checkpoint: &Checkpoint, window: Option<usize>) -> Result<Recipe, ImportError> {
    let mut b = Builder::new(checkpoint);
    let config = b.config();
    expect_silu(config, "mamba_hidden_act")?;
    let norm =
        NormStyle::rms(positive(config, either(config, "layer_norm_epsilon", "norm_eps"), 1e-5)? as f32);
    b.language_model(&Frame {
        embedding: "backbone.embeddings.weight",
        embedding_scale: 1.0,
        final_norm: "backbone.norm_f",
        norm,
        logits_scale: 1.0,
    })?;
    let heads = Heads::of(&b, window)?;
    let activation = activation_of(config, "mlp_hidden_act", "relu2")?;
    let groups = count(config, either(config, "n_groups", "mamba_n_groups"), 0)?;
    let dt_min = bound(config, either(config, "time_step_min", "mamba_dt_min"), 1e-3)?;

    for (i, kind) in kinds(config)?.into_iter().enumerate() {
        let layer = format!("backbone.layers.{i}");
        let join = b.join(&format!("{layer}.norm"), norm)?;
        let mixer = format!("{layer}.mixer");
        match kind {
            Kind::Mamba => {
                let conv_bias = find_flag(config, "use_conv_bias")?;
                let limits = (dt_min, f32::INFINITY);
                mamba2(&mut b, join, &Mamba2 { conv_bias, ..Mamba2::new(&mixer, groups, limits, norm.eps) })?;
            }
            Kind::Attention => {
                let names = names(&mixer);
                attention(&mut b, join, &heads, &Layer::new(names.each_ref().map(String::as_str)))?;
            }
            Kind::Mlp => mlp::plain(&mut b, join, up_down(&mixer), activation)?,
            Kind::Moe => {
                mixture(&mut b, join, &mixer, activation)?;
                mlp::plain(&mut b, join_same(), up_down(&format!("{mixer}.shared_experts")), activation)?;
            }
            Kind::Hybrid | Kind::Conv => return Err(refused(config, "layers_block_type")),
        }
    }
    b.finish()
}

/// The key that the configuration uses of a new and an old one.
fn either<'a>(config: &Value, new: &'a str, old: &'a str) -> &'a str {
    if config[new].is_null() && !config[old].is_null() { old } else { new }
}

fn up_down(prefix: &str) -> [String; 2] {
    ["up_proj", "down_proj"].map(|part| format!("{prefix}.{part}"))
}

/// The layers, by list or by pattern.
fn kinds(config: &Value) -> Result<Vec<Kind>, ImportError> {
    if let Some(kinds) = layer_kinds(config)? {
        return Ok(kinds);
    }
    let pattern = config["hybrid_override_pattern"].as_str();
    let kind = |c: char| match c {
        'M' => Some(Kind::Mamba),
        '*' => Some(Kind::Attention),
        '-' => Some(Kind::Mlp),
        'E' => Some(Kind::Moe),
        _ => None,
    };
    let kinds: Option<Vec<Kind>> = pattern.and_then(|pattern| pattern.chars().map(kind).collect());
    kinds.ok_or_else(|| refused(config, "hybrid_override_pattern"))
}

/// Experts chosen by sigmoid scores with a correction, group by group; in some models on a narrower vector.
fn mixture(b: &mut Builder<'_>, join: JoinRecord, prefix: &str, activation: u32) -> Result<(), ImportError> {
    let config = b.config();
    let gate = format!("{prefix}.gate.weight");
    let d_model = b.d_model();
    let [experts, _] = b.shape(&gate)?;
    let [d_ff, width] = b.shape(&format!("{prefix}.experts.0.up_proj.weight"))?;
    let router = b.matrix(&gate, Role::Selection, experts, d_model)?;
    let correction = b.vector(&format!("{prefix}.gate.e_score_correction_bias"), experts)?;
    let latent = find_count(config, "moe_latent_size")?.is_some();
    let (mut latent_in, mut latent_out) = (LinearRecord::NONE, LinearRecord::NONE);
    if latent {
        let (fc1, fc2) = (format!("{prefix}.fc1_latent_proj"), format!("{prefix}.fc2_latent_proj"));
        latent_in = b.linear(&fc1, Role::Projection, width, d_model)?;
        latent_out = b.linear(&fc2, Role::Projection, d_model, width)?;
    }
    let mut stack = |part: &str, rows, cols| {
        let name = |e| format!("{prefix}.experts.{e}.{part}.weight");
        let ids: Result<Vec<u32>, _> =
            (0..experts).map(|e| b.matrix(&name(e), Role::Projection, rows, cols)).collect();
        ids.map(|ids| ids[0])
    };
    let up = stack("up_proj", d_ff, width)?;
    let down = stack("down_proj", width, d_ff)?;
    let normalized = flag(config, "norm_topk_prob", true)?;
    let record = MoeRecord {
        join,
        experts: experts as u32,
        chosen: count(config, "num_experts_per_tok", 0)? as u32,
        d_ff: d_ff as u32,
        activation,
        routing: if normalized { routing::SIGMOID_NORMALIZED } else { routing::SIGMOID },
        router,
        correction,
        groups: count(config, "n_group", 1)? as u32,
        chosen_groups: count(config, "topk_group", 1)? as u32,
        weight_scale: factor(config, "routed_scaling_factor")?,
        gate: NONE,
        up,
        down,
        latent_in,
        latent_out,
    };
    b.push(&record);
    Ok(())
}
