//! Frame models: a linear read-in, Mamba mixers with or without norms and residuals, a pool over frames, a linear head.

use crate::config::{flag_or, number_or, size};
use crate::linalg::{add, silu};
use crate::mamba::{mix, plain};
use crate::state::Stream;
use crate::weights::Weights;

/// Results `[T][K]` after each of `frames`, each with the time since the one before, in intervals of training.
///
/// # Panics
/// On a config or a tensor that does not fit: this is test code.
pub fn results(w: &Weights, frames: &[(Vec<f64>, f64)]) -> Vec<Vec<f64>> {
    let (layers, norms) = (size(&w.config, "num_hidden_layers"), w.config["norm"].is_string());
    let (residual, eps) = (flag_or(&w.config, "residual", false), number_or(&w.config, "norm_eps", 1e-5));
    let pool = w.config["pool"].as_str().expect("a pool");
    let root = w.at("");
    let mut stream = Stream::new(None);
    let mut normed: Vec<Vec<f64>> = Vec::new(); // [t][d]
    let step = |(frame, interval): &(Vec<f64>, f64)| {
        let mut r = root.linear("linear_in", frame); // [d]
        for i in 0..layers {
            let prefix = if layers == 1 && !norms { String::new() } else { format!("layers.{i}") };
            let layer = w.at(prefix);
            let u = if norms { layer.rms_norm("norm", &r, eps) } else { r.clone() };
            let state = stream.layer(i);
            state.interval = *interval;
            let y = mix(&layer.at("mamba"), state, &u, silu, plain);
            r = if residual { add(&r, &y) } else { y };
        }
        normed.push(if norms { root.rms_norm("norm", &r, eps) } else { r });
        let column = |c: usize| normed.iter().map(move |u| u[c]);
        let pooled: Vec<f64> = (0..normed[0].len())
            .map(|c| match pool {
                "last" => column(c).next_back().expect("a frame"),
                "mean" => column(c).sum::<f64>() / normed.len() as f64,
                "max" => column(c).fold(f64::NEG_INFINITY, f64::max),
                other => panic!("the reference knows no pool {other:?}"),
            })
            .collect();
        root.linear("classifier", &pooled)
    };
    frames.iter().map(step).collect()
}
