//! Bamba: Mamba-2 or attention, then a gated MLP.

use crate::attention::Attention;
use crate::config::{head_dim, number, number_or, rope, size, text_or};
use crate::feed_forward::gated;
use crate::linalg::{activation, add};
use crate::mamba2::Mixer;
use crate::state::Stream;
use crate::weights::Weights;

pub(crate) fn step(w: &Weights, stream: &mut Stream, id: u32) -> Vec<f64> {
    let config = &w.config;
    let eps = number_or(config, "rms_norm_eps", 1e-5);
    let act = activation(text_or(config, "hidden_act", "silu"));
    let mixer = Mixer::of_hybrid(config, eps);
    let head_dim = head_dim(config);
    let rotated = number(&config["rope_parameters"], "partial_rotary_factor").unwrap_or(0.5);
    let attention = Attention {
        heads: size(config, "num_attention_heads"),
        scale: 1.0 / (head_dim as f64).sqrt(),
        rope: Some(rope(config, head_dim, rotated, 10_000.0)),
    };

    let mut r = w.embed("model.embed_tokens.weight", id); // [d]
    for i in 0..size(config, "num_hidden_layers") {
        let layer = w.at(format!("model.layers.{i}"));
        let state = stream.layer(i);
        let attends = config["attn_layer_indices"].as_array().is_some_and(|list| list.contains(&i.into()));
        let u = layer.rms_norm("input_layernorm", &r, eps);
        let mixed = if attends {
            attention.mix(&layer.at("self_attn"), &mut state.cache, &u)
        } else {
            mixer.mix(&layer.at("mamba"), state, &u)
        };
        r = add(&r, &mixed);
        let f = layer.rms_norm("pre_ff_layernorm", &r, eps);
        r = add(&r, &gated(&layer.at("feed_forward"), &f, act));
    }
    w.head("model.embed_tokens.weight", &w.at("model").rms_norm("final_layernorm", &r, eps))
}
