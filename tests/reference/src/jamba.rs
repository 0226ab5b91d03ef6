//! Jamba: Mamba-1 with RMSNorms on dt's input, B and C, or attention without positions; then a gated MLP or a
//! mixture of them.

use serde_json::Value;

use crate::attention::Attention;
use crate::config::{find_size, head_dim, number_or, size, text_or};
use crate::feed_forward::{gated, mixture};
use crate::linalg::{activation, add, softmax, top_k};
use crate::mamba;
use crate::state::Stream;
use crate::weights::{At, Weights};

pub(crate) fn step(w: &Weights, stream: &mut Stream, id: u32) -> Vec<f64> {
    let config = &w.config;
    let eps = number_or(config, "rms_norm_eps", 1e-6);
    let act = activation(text_or(config, "hidden_act", "silu"));
    let attention = Attention {
        heads: size(config, "num_attention_heads"),
        scale: 1.0 / (head_dim(config) as f64).sqrt(),
        rope: None,
    };

    let mut r = w.embed("model.embed_tokens.weight", id); // [d]
    for i in 0..size(config, "num_hidden_layers") {
        let layer = w.at(format!("model.layers.{i}"));
        let state = stream.layer(i);
        let u = layer.rms_norm("input_layernorm", &r, eps);
        let mixed = if recurs(config, "attn", i, [8, 4]) {
            attention.mix(&layer.at("self_attn"), &mut state.cache, &u)
        } else {
            let mixer = layer.at("mamba");
            let norm = |name: &str, x: &[f64]| mixer.rms_norm(&format!("{name}_layernorm"), x, eps);
            mamba::mix(&mixer, state, &u, act, norm)
        };
        r = add(&r, &mixed);

        let f = layer.rms_norm("pre_ff_layernorm", &r, eps);
        let mlp = layer.at("feed_forward");
        let experts = find_size(config, "num_experts").unwrap_or(16);
        let fed = if experts > 1 && recurs(config, "expert", i, [2, 1]) {
            mixed_experts(&mlp, &f, size(config, "num_experts_per_tok"), act)
        } else {
            gated(&mlp, &f, act)
        };
        r = add(&r, &fed);
    }
    w.head("model.embed_tokens.weight", &w.at("model").rms_norm("final_layernorm", &r, eps))
}

/// Whether layer `i` is one of those that come once in a period, at an offset.
fn recurs(config: &Value, what: &str, i: usize, [period, offset]: [usize; 2]) -> bool {
    let period = find_size(config, &format!("{what}_layer_period")).unwrap_or(period);
    i % period == find_size(config, &format!("{what}_layer_offset")).unwrap_or(offset)
}

/// The most likely experts, weighted by the softmax over all of them, which is not made to add up to one again.
fn mixed_experts(w: &At, f: &[f64], count: usize, act: fn(f64) -> f64) -> Vec<f64> {
    let likely = softmax(&w.linear("router", f)); // [E]
    let chosen = top_k(&likely, count);
    let weights: Vec<f64> = chosen.iter().map(|&e| likely[e]).collect();
    mixture(&chosen, &weights, |e| gated(&w.at(&format!("experts.{e}")), f, act))
}
