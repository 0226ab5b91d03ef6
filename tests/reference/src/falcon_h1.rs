//! Falcon-H1: attention and Mamba-2 side by side in every layer, and multipliers everywhere.

use crate::attention::Attention;
use crate::config::{flag_or, head_dim, number_or, numbers_or, rope, size, text_or};
use crate::linalg::{activation, add, map, multiply, scale};
use crate::mamba2::{ANY_DT, Gate, Mixer};
use crate::state::Stream;
use crate::weights::Weights;

pub(crate) fn step(w: &Weights, stream: &mut Stream, id: u32) -> Vec<f64> {
    let config = &w.config;
    let eps = number_or(config, "rms_norm_eps", 1e-5);
    let act = activation(text_or(config, "hidden_act", "silu"));
    let multiplier = |key: &str| number_or(config, key, 1.0);
    let [gate_multiplier, down_multiplier] = numbers_or(config, "mlp_multipliers", [1.0; 2]);
    let gate =
        match (flag_or(config, "mamba_rms_norm", false), flag_or(config, "mamba_norm_before_gate", true)) {
            (true, true) => Gate::AfterNorm { eps },
            (true, false) => Gate::ThenNorm { eps },
            (false, _) => Gate::Alone,
        };
    let groups = size(config, "mamba_n_groups");
    let dt_limit = numbers_or(config, "time_step_limit", ANY_DT);
    let mixer = Mixer { groups, dt_limit, conv_activation: act, gate };
    let head_dim = head_dim(config);
    let attention = Attention {
        heads: size(config, "num_attention_heads"),
        scale: 1.0 / (head_dim as f64).sqrt(),
        rope: Some(rope(config, head_dim, 1.0, 10_000.0)),
    };

    let mut r = scale(&w.embed("model.embed_tokens.weight", id), multiplier("embedding_multiplier")); // [d]
    for i in 0..size(config, "num_hidden_layers") {
        let layer = w.at(format!("model.layers.{i}"));
        let state = stream.layer(i);
        let u = layer.rms_norm("input_layernorm", &r, eps);

        let mamba = layer.at("mamba");
        let projected = mamba.linear("in_proj", &scale(&u, multiplier("ssm_in_multiplier")));
        let projected = multiply(&projected, &slice_multipliers(w, projected.len()));
        let m = mamba.linear("out_proj", &mixer.recur(&mamba, state, &projected));
        let m = scale(&m, multiplier("ssm_out_multiplier"));

        let attn = layer.at("self_attn");
        let u = scale(&u, multiplier("attention_in_multiplier"));
        let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|name| attn.linear(name, &u));
        let k = scale(&k, multiplier("key_multiplier"));
        let a = attn.linear("o_proj", &attention.attend(&mut state.cache, q, k, v));
        let a = scale(&a, multiplier("attention_out_multiplier"));

        r = add(&r, &add(&m, &a));

        let mlp = layer.at("feed_forward");
        let f = layer.rms_norm("pre_ff_layernorm", &r, eps);
        let gate = map(&scale(&mlp.linear("gate_proj", &f), gate_multiplier), act);
        let down = mlp.linear("down_proj", &multiply(&mlp.linear("up_proj", &f), &gate));
        r = add(&r, &scale(&down, down_multiplier));
    }
    let x = w.at("model").rms_norm("final_layernorm", &r, eps);
    scale(&w.head("model.embed_tokens.weight", &x), multiplier("lm_head_multiplier"))
}

/// One multiplier for each row of `in_proj`, by its slice: `[z (D) | x (D) | B (G·N) | C (G·N) | dt (H)]`.
fn slice_multipliers(w: &Weights, rows: usize) -> Vec<f64> {
    let heads = size(&w.config, "mamba_n_heads");
    let bc = size(&w.config, "mamba_n_groups") * size(&w.config, "mamba_d_state");
    let channels = (rows - heads - 2 * bc) / 2;
    let lengths = [channels, channels, bc, bc, heads];
    let multipliers = numbers_or(&w.config, "ssm_multipliers", [1.0; 5]);
    multipliers.iter().zip(lengths).flat_map(|(&m, length)| vec![m; length]).collect()
}
