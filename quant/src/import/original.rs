//! The state-spaces authors' own format: Mamba-1 or Mamba-2, with attention or MLPs in some layers.

use sarit_core::plan::{NONE, activation, norm_kind};
use serde_json::Value;

use super::ImportError;
use super::attention::{Heads, Rope, record, window_of};
use super::builder::{Builder, Frame, NormStyle, Slice};
use super::config::{count, dt_limits, find_count, find_flag, find_size, flag, indices, refused};
use super::mlp;
use super::ssm::{Mamba1, Mamba2, SelectionNorms, mamba1, mamba2};
use crate::checkpoint::Checkpoint;
use crate::recipe::{Recipe, Role};

/// Of every norm: a constructor's default, which no configuration states.
const EPS: f32 = 1e-5;

pub(super) fn import(checkpoint: &Checkpoint, window: Option<usize>) -> Result<Recipe, ImportError> {
    let mut b = Builder::new(checkpoint);
    let config = b.config();
    let kind = if flag(config, "rms_norm", true)? { norm_kind::RMS } else { norm_kind::LAYER };
    let norm = NormStyle { kind, eps: EPS };
    b.language_model(&Frame {
        embedding: "backbone.embedding.weight",
        embedding_scale: 1.0,
        final_norm: "backbone.norm_f",
        norm,
        logits_scale: 1.0,
    })?;
    let attends = indices(config, "attn_layer_idx")?;
    for i in 0..b.layers(config, "n_layer")? {
        let layer = format!("backbone.layers.{i}");
        let mixer = format!("{layer}.mixer");
        let join = b.join(&format!("{layer}.norm"), norm)?;
        if attends.contains(&i) {
            attention(&mut b, join, &mixer, window)?;
        } else {
            state_space(&mut b, join, &mixer)?;
        }
        if b.has(&format!("{layer}.norm2.weight")) {
            let join = b.join(&format!("{layer}.norm2"), norm)?;
            // [value | gate]: the activation is on the second half.
            let names = ["fc1", "fc2"].map(|part| format!("{layer}.mlp.{part}"));
            mlp::fused(&mut b, join, names, activation::SILU, false)?;
        }
    }
    b.finish()
}

fn state_space(
    b: &mut Builder<'_>,
    join: sarit_core::plan::JoinRecord,
    mixer: &str,
) -> Result<(), ImportError> {
    let ssm = &b.config()["ssm_cfg"];
    let conv_bias = find_flag(ssm, "conv_bias")?;
    match ssm["layer"].as_str() {
        None | Some("Mamba1") => {
            let bias = find_flag(ssm, "bias")?;
            mamba1(b, join, &Mamba1 { prefix: mixer, conv_bias, bias, norms: SelectionNorms::None })
        }
        _ => {
            let (n_groups, limits) = (count(ssm, "ngroups", 1)?, dt_limits(ssm, "dt_limit")?);
            let norm_before_gate = flag(ssm, "norm_before_gate", false)?;
            b.agree(find_flag(ssm, "rmsnorm")?, &format!("{mixer}.norm.weight"))?;
            let mixer = Mamba2 { conv_bias, norm_before_gate, ..Mamba2::new(mixer, n_groups, limits, EPS) };
            mamba2(b, join, &mixer)
        }
    }
}

/// Multi-head attention with one projection `[q | k | v]` and perhaps a convolution over it.
fn attention(
    b: &mut Builder<'_>,
    join: sarit_core::plan::JoinRecord,
    mixer: &str,
    window: Option<usize>,
) -> Result<(), ImportError> {
    let config: &Value = &b.config()["attn_cfg"];
    for key in ["mlp_dim", "num_heads_mlp"] {
        if find_count(config, key)?.is_some_and(|n| n > 0) {
            return Err(refused(config, key));
        }
    }
    for (key, only) in [("causal", true), ("rotary_emb_interleaved", false)] {
        if flag(config, key, only)? != only {
            return Err(refused(config, key));
        }
    }
    if !config["softmax_scale"].is_null() {
        return Err(refused(config, "softmax_scale"));
    }
    let d_model = b.d_model();
    let heads = count(config, "num_heads", 0)?;
    let kv_heads = count(config, "num_heads_kv", heads)?;
    let head_dim = match find_size(config, "head_dim")? {
        Some(n) if n > 0 => n,
        _ => d_model / heads,
    };
    let rotary = find_size(config, "rotary_emb_dim")?.unwrap_or(0);
    let theta = super::config::positive(config, "rotary_emb_base", 10_000.0)?;
    let rope = (rotary > 0).then(|| Rope::plain(rotary, theta));
    let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
    let heads = Heads { heads, kv_heads, head_dim, window: window_of(config, window)?, scale, rope };

    let (q_len, kv_len) = (heads.heads * head_dim, kv_heads * head_dim);
    let qkv_len = q_len + 2 * kv_len;
    let name = format!("{mixer}.in_proj");
    let mut part = |rows| b.linear_of(&name, Role::Projection, &[Slice::of(rows)], qkv_len, d_model);
    let parts = [part(0..q_len)?, part(q_len..q_len + kv_len)?, part(q_len + kv_len..qkv_len)?];
    let o = b.linear(&format!("{mixer}.out_proj"), Role::Projection, d_model, q_len)?;
    let mut record = record(b, join, &heads, [parts[0], parts[1], parts[2], o]);
    let conv = format!("{mixer}.conv1d.weight");
    if b.has(&conv) {
        let [_, _, width] = b.shape(&conv)?;
        record.conv_width = width as u32;
        record.conv_weight = b.conv_weight(&conv, qkv_len, width)?;
        record.conv_bias = b.vector_if_any(&format!("{mixer}.conv1d.bias"), qkv_len)?;
    }
    debug_assert!(record.conv_width == 1 || record.conv_weight != NONE);
    b.push(&record);
    Ok(())
}
