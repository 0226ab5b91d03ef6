//! Mamba (Gu and Dao, 2023): `mamba` checkpoints of Hugging Face and of state-spaces, and the mixer that
//! FalconMamba and Jamba share.

use crate::config::{flag_or, number_or, size, text_or};
use crate::linalg::{activation, add, multiply, silu, softplus, split};
use crate::state::{Layer, Stream};
use crate::weights::{At, Weights};

/// One token through the Hugging Face form.
pub(crate) fn step(w: &Weights, stream: &mut Stream, id: u32) -> Vec<f64> {
    let eps = number_or(&w.config, "layer_norm_epsilon", 1e-5);
    let conv_activation = activation(text_or(&w.config, "hidden_act", "silu"));

    let mut r = w.embed("backbone.embeddings.weight", id); // [d]
    for i in 0..size(&w.config, "num_hidden_layers") {
        let layer = w.at(format!("backbone.layers.{i}"));
        let u = layer.rms_norm("norm", &r, eps);
        r = add(&r, &mix(&layer.at("mixer"), stream.layer(i), &u, conv_activation, plain));
    }
    w.head("backbone.embeddings.weight", &w.at("backbone").rms_norm("norm_f", &r, eps))
}

/// One token through the state-spaces form.
pub(crate) fn step_original(w: &Weights, stream: &mut Stream, id: u32) -> Vec<f64> {
    original(w, stream, id, |mixer, state, u| mix(mixer, state, u, silu, plain))
}

/// The model around the mixers of a state-spaces checkpoint: `r += mixer(norm(r))`, and with `d_intermediate > 0`
/// then `r += mlp(norm2(r))`.
pub(crate) fn original(
    w: &Weights,
    stream: &mut Stream,
    id: u32,
    mixer: impl Fn(&At, &mut Layer, &[f64]) -> Vec<f64>,
) -> Vec<f64> {
    let attention = w.config["attn_layer_idx"].as_array().is_none_or(Vec::is_empty);
    assert!(attention, "the reference knows no attention layers in state-spaces checkpoints");
    const EPS: f64 = 1e-5; // a constructor's default; the config does not say
    let rms = flag_or(&w.config, "rms_norm", true);
    let norm = |at: &At, name: &str, x: &[f64]| {
        if rms { at.rms_norm(name, x, EPS) } else { at.layer_norm(name, x, EPS) }
    };

    let mut r = w.embed("backbone.embedding.weight", id); // [d]
    for i in 0..size(&w.config, "n_layer") {
        let layer = w.at(format!("backbone.layers.{i}"));
        r = add(&r, &mixer(&layer.at("mixer"), stream.layer(i), &norm(&layer, "norm", &r)));
        if layer.find("norm2.weight").is_some() {
            // Here the activation is on the second half.
            let both = layer.linear("mlp.fc1", &norm(&layer, "norm2", &r)); // [value (F) | gate (F)]
            let [value, gate] = split(&both, [both.len() / 2; 2]);
            let gate: Vec<f64> = gate.iter().map(|&g| silu(g)).collect();
            r = add(&r, &layer.linear("mlp.fc2", &multiply(value, &gate)));
        }
    }
    w.head("backbone.embedding.weight", &norm(&w.at("backbone"), "norm_f", &r))
}

/// What some families do to dt's low-rank input `[R]`, B `[N]` and C `[N]` (named `dt`, `b`, `c`); Mamba does nothing.
pub(crate) fn plain(_name: &str, x: &[f64]) -> Vec<f64> {
    x.to_vec()
}

/// The mixer: `[d]` in, `[d]` out.
pub(crate) fn mix(
    w: &At,
    state: &mut Layer,
    u: &[f64],
    conv_activation: fn(f64) -> f64,
    norm: impl Fn(&str, &[f64]) -> Vec<f64>,
) -> Vec<f64> {
    let a_log = w.tensor("A_log");
    let [channels, states] = a_log.shape[..] else { panic!("A_log of {:?}", a_log.shape) }; // [D, N]
    let skip = w.vector("D"); // [D]
    let rank = w.tensor("dt_proj.weight").shape[1]; // [D, R]

    let projected = w.linear("in_proj", u);
    let [x, z] = split(&projected, [channels, channels]);
    let x = state.conv.step(&w.at("conv1d"), x);
    let x: Vec<f64> = x.iter().map(|&x| conv_activation(x)).collect();

    let selected = w.linear("x_proj", &x);
    let [dt, b, c] = split(&selected, [rank, states, states]);
    let (dt, b, c) = (norm("dt", dt), norm("b", b), norm("c", c));
    let dt = w.linear("dt_proj", &dt); // [D]

    state.ssm.resize(channels * states, 0.0);
    let mut y = vec![0.0; channels];
    for i in 0..channels {
        let dt = state.interval * softplus(dt[i]);
        for n in 0..states {
            let a = -a_log.data[i * states + n].exp();
            let h = &mut state.ssm[i * states + n];
            *h = (dt * a).exp() * *h + dt * b[n] * x[i];
            y[i] += c[n] * *h;
        }
        y[i] += skip[i] * x[i];
        y[i] *= silu(z[i]);
    }
    w.linear("out_proj", &y)
}
