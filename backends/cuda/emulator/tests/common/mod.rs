//! A model of any size.

use sarit_core::DType;
use sarit_cpu::AlignedBytes;
use sarit_tests::{converted, write_checkpoint};
use std::collections::BTreeMap;

/// Mamba-2 with states of `d_state` elements, two groups, four heads and, with 48 channels, units that are not full.
pub(crate) fn mamba2(d_state: usize, d_inner: usize, weights: DType) -> AlignedBytes {
    mamba2_of(24, 31, d_state, d_inner, weights)
}

/// The same with rows of `d_model` elements and so many tokens.
pub(crate) fn mamba2_of(
    d_model: usize,
    vocab: usize,
    d_state: usize,
    d_inner: usize,
    weights: DType,
) -> AlignedBytes {
    let (heads, bc) = (4, 2 * 2 * d_state);
    let (head_dim, expand) = (d_inner / heads, d_inner as f64 / d_model as f64);
    let config = format!(
        r#"{{"model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"], "hidden_size": {d_model},
        "num_hidden_layers": 1, "vocab_size": {vocab}, "state_size": {d_state}, "expand": {expand}, "conv_kernel": 4,
        "n_groups": 2, "head_dim": {head_dim}, "num_heads": {heads}, "rms_norm": true, "use_bias": false,
        "use_conv_bias": true, "hidden_act": "silu", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true,
        "time_step_limit": [0.0, {{"__float__": "Infinity"}}]}}"#
    );
    let layer = "backbone.layers.0";
    let tensors = [
        ("backbone.embeddings.weight".into(), (vec![vocab, d_model], 1.0)),
        ("backbone.norm_f.weight".into(), (vec![d_model], 1.0)),
        (format!("{layer}.norm.weight"), (vec![d_model], 1.0)),
        (format!("{layer}.mixer.in_proj.weight"), (vec![2 * d_inner + bc + heads, d_model], 0.5)),
        (format!("{layer}.mixer.conv1d.weight"), (vec![d_inner + bc, 1, 4], 0.7)),
        (format!("{layer}.mixer.conv1d.bias"), (vec![d_inner + bc], 0.2)),
        (format!("{layer}.mixer.dt_bias"), (vec![heads], 1.0)),
        (format!("{layer}.mixer.A_log"), (vec![heads], 1.0)),
        (format!("{layer}.mixer.D"), (vec![heads], 1.0)),
        (format!("{layer}.mixer.norm.weight"), (vec![d_inner], 1.0)),
        (format!("{layer}.mixer.out_proj.weight"), (vec![d_model, d_inner], 0.5)),
    ];
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path(), &config, &BTreeMap::from(tensors), d_state as u64);
    converted(folder.path(), weights)
}
