//! Granite-4.0-H: Mamba-2 or attention, then a gated MLP and, in some sizes, a mixture of experts beside it.

use crate::attention::Attention;
use crate::config::{Kind, find_size, head_dim, listed_kinds, number_or, rope, size, text_or};
use crate::feed_forward::mixture;
use crate::linalg::{activation, add, map, matvec, multiply, scale, softmax, split, top_k};
use crate::mamba2::Mixer;
use crate::state::Stream;
use crate::weights::{At, Tensor, Weights};

pub(crate) fn step(w: &Weights, stream: &mut Stream, id: u32) -> Vec<f64> {
    let config = &w.config;
    let eps = number_or(config, "rms_norm_eps", 1e-6);
    let act = activation(text_or(config, "hidden_act", "silu"));
    let residual = number_or(config, "residual_multiplier", 1.0);
    let layers = size(config, "num_hidden_layers");
    let kinds = listed_kinds(config).unwrap_or(vec![Kind::Mamba; layers]);
    let mixer = Mixer::of_hybrid(config, eps);
    let rotary = text_or(config, "position_embedding_type", "none") == "rope";
    let attention = Attention {
        heads: size(config, "num_attention_heads"),
        scale: number_or(config, "attention_multiplier", 1.0),
        rope: rotary.then(|| rope(config, head_dim(config), 1.0, 10_000.0)),
    };

    let mut r = w.embed("model.embed_tokens.weight", id); // [d]
    r = scale(&r, number_or(config, "embedding_multiplier", 1.0));
    for i in 0..layers {
        let layer = w.at(format!("model.layers.{i}"));
        let state = stream.layer(i);
        let u = layer.rms_norm("input_layernorm", &r, eps);
        let mixed = match kinds[i] {
            Kind::Mamba => mixer.mix(&layer.at("mamba"), state, &u),
            Kind::Attention => attention.mix(&layer.at("self_attn"), &mut state.cache, &u),
            other => panic!("Granite has no layers of kind {other:?}"),
        };
        r = add(&r, &scale(&mixed, residual));

        let f = layer.rms_norm("post_attention_layernorm", &r, eps);
        let shared = layer.at("shared_mlp");
        let mut fed =
            expert(&f, shared.tensor("input_linear.weight"), shared.tensor("output_linear.weight"), act);
        if find_size(config, "num_local_experts").unwrap_or(0) > 0 {
            let chosen = size(config, "num_experts_per_tok");
            fed = add(&fed, &experts(&layer.at("block_sparse_moe"), &f, chosen, act));
        }
        r = add(&r, &scale(&fed, residual));
    }
    let x = w.at("model").rms_norm("norm", &r, eps);
    scale(&w.head("model.embed_tokens.weight", &x), 1.0 / number_or(config, "logits_scaling", 1.0))
}

/// The best experts by router logit, weighted by the softmax over those chosen.
fn experts(w: &At, f: &[f64], count: usize, act: fn(f64) -> f64) -> Vec<f64> {
    let router = w.linear("router.layer", f); // [E]
    let chosen = top_k(&router, count);
    let weights = softmax(&chosen.iter().map(|&e| router[e]).collect::<Vec<_>>());
    let (input, output) = (w.tensor("input_linear.weight"), w.tensor("output_linear.weight"));
    mixture(&chosen, &weights, |e| expert(f, &slice(input, e), &slice(output, e), act))
}

/// `output( act(gate) · up )`, where `[gate (F) | up (F)] = input f`.
fn expert(f: &[f64], input: &Tensor, output: &Tensor, act: fn(f64) -> f64) -> Vec<f64> {
    let both = matvec(input, f);
    let [gate, up] = split(&both, [both.len() / 2; 2]);
    matvec(output, &multiply(&map(gate, act), up))
}

/// Matrix `e` of a stack `[E, out, in]`.
fn slice(stack: &Tensor, e: usize) -> Tensor {
    let shape = stack.shape[1..].to_vec();
    let size: usize = shape.iter().product();
    Tensor { shape, data: stack.data[e * size..][..size].to_vec() }
}
