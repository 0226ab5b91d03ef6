//! LFM2: gated short convolutions or attention, then a gated MLP.

use crate::attention::{Attention, Cache};
use crate::config::{Kind, head_dim, listed_kinds, number_or, rope, size};
use crate::linalg::{add, map, multiply, rms_norm, silu, split};
use crate::state::{Conv, Stream};
use crate::weights::{At, Weights};

pub(crate) fn step(w: &Weights, stream: &mut Stream, id: u32) -> Vec<f64> {
    let config = &w.config;
    let eps = number_or(config, "norm_eps", 1e-5);
    let head_dim = head_dim(config);
    let attention = Attention {
        heads: size(config, "num_attention_heads"),
        scale: 1.0 / (head_dim as f64).sqrt(),
        rope: Some(rope(config, head_dim, 1.0, 1e6)),
    };

    let mut r = w.embed("model.embed_tokens.weight", id); // [d]
    for (i, kind) in kinds(w).into_iter().enumerate() {
        let layer = w.at(format!("model.layers.{i}"));
        let state = stream.layer(i);
        let u = layer.rms_norm("operator_norm", &r, eps);
        let mixed = match kind {
            Kind::Conv => short_conv(&layer.at("conv"), &mut state.conv, &u),
            Kind::Attention => attend(&layer.at("self_attn"), &attention, &mut state.cache, &u, eps),
            other => panic!("LFM2 has no layers of kind {other:?}"),
        };
        r = add(&r, &mixed);

        let f = layer.rms_norm("ffn_norm", &r, eps);
        let mlp = layer.at("feed_forward");
        r = add(&r, &mlp.linear("w2", &multiply(&map(&mlp.linear("w1", &f), silu), &mlp.linear("w3", &f))));
    }
    w.head("model.embed_tokens.weight", &w.at("model").rms_norm("embedding_norm", &r, eps))
}

/// The layers: listed, or by the indices of those that attend, or all attention.
fn kinds(w: &Weights) -> Vec<Kind> {
    listed_kinds(&w.config).unwrap_or_else(|| {
        let attends =
            |i: usize| w.config["full_attn_idxs"].as_array().is_none_or(|list| list.contains(&i.into()));
        let kind = |i| if attends(i) { Kind::Attention } else { Kind::Conv };
        (0..size(&w.config, "num_hidden_layers")).map(kind).collect()
    })
}

/// `[B (d) | C (d) | x (d)] = W_in u`; then `W_out( C · conv(B · x) )`, with no activation anywhere.
fn short_conv(w: &At, state: &mut Conv, u: &[f64]) -> Vec<f64> {
    let projected = w.linear("in_proj", u);
    let [b, c, x] = split(&projected, [u.len(); 3]);
    w.linear("out_proj", &multiply(c, &state.step(&w.at("conv"), &multiply(b, x))))
}

/// Attention in which each head of q and k is normalized before it is rotated.
fn attend(w: &At, attention: &Attention, cache: &mut Cache, u: &[f64], eps: f64) -> Vec<f64> {
    let normalized = |name: &str| -> Vec<f64> {
        let weight = w.vector(&format!("{name}_layernorm.weight")); // [head_dim]
        let x = w.linear(&format!("{name}_proj"), u);
        x.chunks_exact(weight.len()).flat_map(|head| rms_norm(head, weight, eps)).collect()
    };
    w.linear("out_proj", &attention.attend(cache, normalized("q"), normalized("k"), w.linear("v_proj", u)))
}
