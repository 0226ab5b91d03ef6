//! Phi-Mamba and Hybrid Phi-Mamba (MOHAWK): Phi's parallel blocks, with a discrete Mamba-2 in place of attention.

use sarit_core::plan::{JoinRecord, LinearRecord, NONE, NormRecord, SsmRecord, activation, decay, norm_kind};
use serde_json::Value;

use super::ImportError;
use super::attention::{Heads, Layer, Rope, attention, window_of};
use super::builder::{Builder, Frame, NormStyle, Slice};
use super::config::{count, find_count, find_flag, refused};
use super::mlp;
use super::ssm::join_same;
use crate::checkpoint::Checkpoint;
use crate::recipe::{Recipe, Role};

/// Of every norm, in the authors' code.
const EPS: f32 = 1e-5;

pub(super) fn import(checkpoint: &Checkpoint, window: Option<usize>) -> Result<Recipe, ImportError> {
    let mut b = Builder::new(checkpoint);
    let config = b.config();
    let norm = NormStyle { kind: norm_kind::LAYER, eps: EPS };
    b.language_model(&Frame {
        embedding: "backbone.embedding.weight",
        embedding_scale: 1.0,
        final_norm: "backbone.final_layernorm",
        norm,
        logits_scale: 1.0,
    })?;
    let mut indices = 0..;
    for block in blocks(config) {
        for i in indices.by_ref().take(b.layers(block, "n_layers")?) {
            layer(&mut b, block, &format!("backbone.layers.{i}"), norm, window)?;
        }
    }
    b.finish()
}

/// `Block1`, `Block2`, … in order; each is as many layers as its `n_layers` says.
fn blocks(config: &Value) -> impl Iterator<Item = &Value> {
    (1..).map(|i| &config[format!("Block{i}")]).take_while(|block| block.is_object())
}

/// A layer as its block says, under the name `layer`.
fn layer(
    b: &mut Builder<'_>,
    block: &Value,
    layer: &str,
    norm: NormStyle,
    window: Option<usize>,
) -> Result<(), ImportError> {
    let join = b.join(&format!("{layer}.input_layernorm"), norm)?;
    let core = block["CoreType"].as_str().unwrap_or("").rsplit('.').next();
    match core {
        Some("discrete_mamba2") => mixer(b, join, &format!("{layer}.mixer"), &block["core_input"])?,
        Some("phi_attention") => {
            let prefix = format!("{layer}.mixer.self_attn");
            let projections = ["q_proj", "k_proj", "v_proj", "dense"].map(|part| format!("{prefix}.{part}"));
            // All settings are Phi's defaults; only tiny test models have another number of heads.
            let heads = count(&block["core_input"], "num_attention_heads", 32)?;
            let head_dim = b.d_model() / heads;
            let heads = Heads {
                heads,
                kv_heads: heads,
                head_dim,
                window: window_of(b.config(), window)?,
                scale: (1.0 / (head_dim as f64).sqrt()) as f32,
                rope: Some(Rope::plain(head_dim / 2, 10_000.0)),
            };
            attention(b, join, &heads, &Layer::new(projections.each_ref().map(String::as_str)))?;
        }
        _ => return Err(refused(block, "CoreType")),
    }
    let names = ["fc1", "fc2"].map(|part| format!("{layer}.mlp.{part}"));
    mlp::plain(b, join_same(), names, activation::GELU_TANH)
}

/// Discrete Mamba-2: in_proj makes `[x | B | C | z | a]`, the decay is `sigmoid(-a)`, and there is no dt.
fn mixer(b: &mut Builder<'_>, join: JoinRecord, prefix: &str, config: &Value) -> Result<(), ImportError> {
    let name = |part: &str| format!("{prefix}.{part}");
    let d_model = b.d_model();
    let [heads] = b.shape(&name("D"))?;
    let [_, d_inner] = b.shape(&name("out_proj.weight"))?;
    let [conv_channels, _, conv_width] = b.shape(&name("conv1d.weight"))?;
    b.agree(find_flag(config, "conv_bias")?, &name("conv1d.bias"))?;
    let n_groups = find_count(config, "n_qk_heads")?.filter(|n| *n > 0).unwrap_or(32);
    let bc = conv_channels.checked_sub(d_inner).filter(|n| *n > 0 && n % (2 * n_groups) == 0);
    let bc = bc.ok_or_else(|| b.bad_shape(&name("conv1d.weight")))?;
    if d_inner % heads != 0 || heads % n_groups != 0 {
        return Err(b.bad_shape(&name("D")));
    }
    let conv_silu = match config["activation"].as_str() {
        None | Some("identity") => 0,
        Some("silu" | "swish") => 1,
        Some(_) => return Err(refused(config, "activation")),
    };

    // [x B C | z | a] in the checkpoint, [z | x B C | a] in the engine.
    let in_rows = conv_channels + d_inner + heads;
    let (z, a) = (conv_channels..conv_channels + d_inner, conv_channels + d_inner..in_rows);
    let slices = [z.clone(), 0..conv_channels, a].map(Slice::of);
    let mut in_proj = b.linear_of(&name("in_proj"), Role::Projection, &slices, in_rows, d_model)?;
    if b.has(&name("z_bias")) {
        if in_proj.bias != NONE {
            return Err(ImportError::UnknownTensor(name("z_bias")));
        }
        let mut bias = b.values(&name("z_bias"), &[d_inner])?;
        bias.resize(in_rows, 0.0);
        in_proj = LinearRecord::new(in_proj.matrix, b.push_values(&name("z_bias"), 1, bias));
    }
    let d = b.values(&name("D"), &[heads])?;
    let d = d.iter().flat_map(|d| std::iter::repeat_n(*d, d_inner / heads)).collect();
    let record = SsmRecord {
        join,
        heads: heads as u32,
        head_dim: (d_inner / heads) as u32,
        d_state: (bc / 2 / n_groups) as u32,
        n_groups: n_groups as u32,
        conv_width: conv_width as u32,
        conv_silu,
        in_proj,
        conv_weight: b.conv_weight(&name("conv1d.weight"), conv_channels, conv_width)?,
        conv_bias: b.vector_if_any(&name("conv1d.bias"), conv_channels)?,
        x_proj: NONE,
        dt_proj: NONE,
        dt_norm: NormRecord::IDENTITY,
        b_norm: NormRecord::IDENTITY,
        c_norm: NormRecord::IDENTITY,
        decay: decay::SIGMOID,
        dt_bias: NONE,
        dt_min: 0.0,
        dt_max: f32::INFINITY,
        a_log2: NONE,
        d: b.push_values(&name("D"), 1, d),
        gate_norm: NormRecord::IDENTITY,
        norm_before_gate: 0,
        out_proj: b.linear(&name("out_proj"), Role::Projection, d_model, d_inner)?,
    };
    b.push(&record);
    Ok(())
}
