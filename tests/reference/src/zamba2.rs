//! Zamba2: Mamba-2 layers, into some of which a shared transformer block feeds, adapted to each by low-rank
//! additions.

use crate::attention::Attention;
use crate::config::{Kind, find_size, flag_or, listed_kinds, number_or, rope, size, text_or};
use crate::linalg::{activation, add, map, multiply, silu, split};
use crate::mamba2::{Gate, Mixer};
use crate::state::{Layer, Stream};
use crate::weights::{At, Weights};

pub(crate) fn step(w: &Weights, stream: &mut Stream, id: u32) -> Vec<f64> {
    let config = &w.config;
    let eps = number_or(config, "rms_norm_eps", 1e-5);
    let mixer = Mixer {
        groups: size(config, "mamba_ngroups"),
        dt_limit: [number_or(config, "time_step_min", 1e-3), f64::INFINITY],
        conv_activation: silu,
        gate: Gate::ThenNorm { eps: 1e-5 }, // whatever rms_norm_eps says
    };
    let kinds = listed_kinds(config).expect("config.json lacks the list \"layers_block_type\"");
    let hybrids: Vec<usize> = (0..kinds.len()).filter(|&i| kinds[i] == Kind::Hybrid).collect();
    let blocks = find_size(config, "num_mem_blocks").unwrap_or(1);

    let embedded = w.embed("model.embed_tokens.weight", id); // [d], kept for the whole token
    let mut r = embedded.clone();
    for i in 0..size(config, "num_hidden_layers") {
        let layer = w.at(format!("model.layers.{i}"));
        let state = stream.layer(i);
        let (decoder, input) = match hybrids.iter().position(|&hybrid| hybrid == i) {
            None => (layer, r.clone()),
            Some(nth) => {
                // The blocks take turns. Each is stored at least with the first layer that uses it.
                let own = layer.at("shared_transformer");
                let shared = match own.find("input_layernorm.weight") {
                    Some(_) => own,
                    None => w.at(format!("model.layers.{}.shared_transformer", hybrids[nth % blocks])),
                };
                let t = transformer(w, &shared, nth, state, &[&r[..], &embedded].concat());
                (layer.at("mamba_decoder"), add(&r, &layer.linear("linear", &t)))
            }
        };
        let u = decoder.rms_norm("input_layernorm", &input, eps);
        r = add(&r, &mixer.mix(&decoder.at("mamba"), state, &u));
    }
    w.head("model.embed_tokens.weight", &w.at("model").rms_norm("final_layernorm", &r, eps))
}

/// The shared block as the `nth` hybrid layer runs it: `[2d]` in, `[d]` out. It has no residuals of its own.
fn transformer(w: &Weights, shared: &At, nth: usize, state: &mut Layer, input: &[f64]) -> Vec<f64> {
    let config = &w.config;
    let eps = number_or(config, "rms_norm_eps", 1e-5);
    let act = activation(text_or(config, "hidden_act", "gelu"));
    let heads = size(config, "num_attention_heads");
    let attn = shared.at("self_attn");
    let head_dim = attn.tensor("q_proj.weight").shape[0] / heads;
    let attention = Attention {
        heads,
        scale: 1.0 / (head_dim as f64 / 2.0).sqrt(),
        rope: flag_or(config, "use_mem_rope", false).then(|| rope(config, head_dim, 1.0, 10_000.0)),
    };

    let s = shared.rms_norm("input_layernorm", input, eps); // [2d]
    let [q, k, v] = ["q", "k", "v"].map(|name| {
        let y = attn.linear(&format!("{name}_proj"), &s);
        match flag_or(config, "use_shared_attention_adapter", false) {
            true => add(&y, &adapter(&attn, &format!("linear_{name}_adapter_list"), nth, &s)),
            false => y,
        }
    });
    let s = attn.linear("o_proj", &attention.attend(&mut state.cache, q, k, v)); // [d]

    let s = shared.rms_norm("pre_ff_layernorm", &s, eps);
    let mlp = shared.at("feed_forward");
    let both = add(&mlp.linear("gate_up_proj", &s), &adapter(&mlp, "gate_up_proj_adapter_list", nth, &s));
    let [gate, up] = split(&both, [both.len() / 2; 2]);
    mlp.linear("down_proj", &multiply(&map(gate, act), up))
}

/// The low-rank addition of the `nth` hybrid layer: `W1 W0 x`.
fn adapter(w: &At, list: &str, nth: usize, x: &[f64]) -> Vec<f64> {
    let adapter = w.at(&format!("{list}.{nth}"));
    adapter.linear("1", &adapter.linear("0", x))
}
