//! FalconMamba: Mamba with RMSNorms without weights on dt's input, B and C.

use crate::config::{number_or, size, text_or};
use crate::linalg::{activation, add, normalize};
use crate::mamba;
use crate::state::Stream;
use crate::weights::Weights;

pub(crate) fn step(w: &Weights, stream: &mut Stream, id: u32) -> Vec<f64> {
    let eps = number_or(&w.config, "layer_norm_epsilon", 1e-5);
    let mixer_eps = number_or(&w.config, "mixer_rms_eps", 1e-6);
    let conv_activation = activation(text_or(&w.config, "hidden_act", "silu"));
    let norm = |_name: &str, x: &[f64]| normalize(x, mixer_eps);

    let mut r = w.embed("backbone.embeddings.weight", id); // [d]
    for i in 0..size(&w.config, "num_hidden_layers") {
        let layer = w.at(format!("backbone.layers.{i}"));
        let u = layer.rms_norm("norm", &r, eps);
        r = add(&r, &mamba::mix(&layer.at("mixer"), stream.layer(i), &u, conv_activation, norm));
    }
    w.head("backbone.embeddings.weight", &w.at("backbone").rms_norm("norm_f", &r, eps))
}
