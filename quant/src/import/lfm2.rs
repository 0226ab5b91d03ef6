//! LFM2: gated short convolutions or attention, then a gated MLP.

use sarit_core::plan::{ShortConvRecord, activation};

use super::ImportError;
use super::attention::{Heads, Layer, Rope, attention};
use super::builder::{Builder, Frame, NormStyle};
use super::config::{Kind, eps, find_flag, indices, layer_kinds, refused};
use super::mlp;
use crate::checkpoint::Checkpoint;
use crate::recipe::{Recipe, Role};

pub(super) fn import(checkpoint: &Checkpoint, window: Option<usize>) -> Result<Recipe, ImportError> {
    let mut b = Builder::new(checkpoint);
    let config = b.config();
    let norm = NormStyle::rms(eps(config, "norm_eps", 1e-5)?);
    b.language_model(&Frame {
        embedding: "model.embed_tokens.weight",
        embedding_scale: 1.0,
        final_norm: "model.embedding_norm",
        norm,
        logits_scale: 1.0,
    })?;
    let mut heads = Heads::of(&b, window)?;
    heads.rope = Some(Rope::of_config(config, heads.head_dim, 1e6)?);

    for (i, kind) in kinds(&b)?.into_iter().enumerate() {
        let layer = format!("model.layers.{i}");
        let join = b.join(&format!("{layer}.operator_norm"), norm)?;
        match kind {
            Kind::Conv => {
                let conv = format!("{layer}.conv.conv");
                let d_model = b.d_model();
                let [channels, _, width] = b.shape(&format!("{conv}.weight"))?;
                b.agree(find_flag(config, "conv_bias")?, &format!("{conv}.bias"))?;
                let record = ShortConvRecord {
                    join,
                    channels: channels as u32,
                    conv_width: width as u32,
                    in_proj: b.linear(
                        &format!("{layer}.conv.in_proj"),
                        Role::Projection,
                        3 * channels,
                        d_model,
                    )?,
                    conv_weight: b.conv_weight(&format!("{conv}.weight"), channels, width)?,
                    conv_bias: b.vector_if_any(&format!("{conv}.bias"), channels)?,
                    out_proj: b.linear(
                        &format!("{layer}.conv.out_proj"),
                        Role::Projection,
                        d_model,
                        channels,
                    )?,
                };
                b.push(&record);
            }
            Kind::Attention => {
                let name = |part: &str| format!("{layer}.self_attn.{part}");
                let projections = ["q_proj", "k_proj", "v_proj", "out_proj"].map(name);
                let norms = ["q_layernorm", "k_layernorm"].map(name);
                let attn = Layer {
                    norms: Some((norms.each_ref().map(String::as_str), norm)),
                    ..Layer::new(projections.each_ref().map(String::as_str))
                };
                attention(&mut b, join, &heads, &attn)?;
            }
            _ => return Err(refused(config, "layer_types")),
        }
        let join = b.join(&format!("{layer}.ffn_norm"), norm)?;
        let names = ["w1", "w3", "w2"].map(|part| format!("{layer}.feed_forward.{part}"));
        mlp::gated(&mut b, join, names, activation::SILU)?;
    }
    b.finish()
}

/// The layers: listed, or by the indices of those that attend, or all attention.
fn kinds(b: &Builder<'_>) -> Result<Vec<Kind>, ImportError> {
    let config = b.config();
    if let Some(kinds) = layer_kinds(config)? {
        return Ok(kinds);
    }
    let attends = indices(config, "full_attn_idxs")?;
    let all = config["full_attn_idxs"].is_null();
    let kind = |i| if all || attends.contains(&i) { Kind::Attention } else { Kind::Conv };
    Ok((0..b.layers(config, "num_hidden_layers")?).map(kind).collect())
}
