//! Nemotron-H: one mixer a layer, which is Mamba-2, attention without positions, an MLP or a mixture of experts.

use crate::attention::Attention;
use crate::config::{Kind, find_size, flag_or, head_dim, listed_kinds, number, number_or, size, text_or};
use crate::feed_forward::{mixture, plain};
use crate::linalg::{activation, add, map, matvec, scale, sigmoid, top_k};
use crate::mamba2::{Gate, Mixer};
use crate::state::Stream;
use crate::weights::{At, Weights};

pub(crate) fn step(w: &Weights, stream: &mut Stream, id: u32) -> Vec<f64> {
    let config = &w.config;
    let eps = number(config, "layer_norm_epsilon").or(number(config, "norm_eps")).unwrap_or(1e-5);
    let act = activation(text_or(config, "mlp_hidden_act", "relu2"));
    let dt_min = number(config, "time_step_min").or(number(config, "mamba_dt_min")).unwrap_or(1e-3);
    let groups = find_size(config, "n_groups").or(find_size(config, "mamba_n_groups"));
    let mixer = Mixer {
        groups: groups.expect("config.json lacks the whole number \"n_groups\""),
        dt_limit: [dt_min, f64::INFINITY],
        conv_activation: activation(text_or(config, "mamba_hidden_act", "silu")),
        gate: Gate::ThenNorm { eps },
    };
    let attention = Attention {
        heads: size(config, "num_attention_heads"),
        scale: 1.0 / (head_dim(config) as f64).sqrt(),
        rope: None,
    };

    let mut r = w.embed("backbone.embeddings.weight", id); // [d]
    for (i, kind) in kinds(w).into_iter().enumerate() {
        let layer = w.at(format!("backbone.layers.{i}"));
        let state = stream.layer(i);
        let u = layer.rms_norm("norm", &r, eps);
        let layer = layer.at("mixer");
        let mixed = match kind {
            Kind::Mamba => mixer.mix(&layer, state, &u),
            Kind::Attention => attention.mix(&layer, &mut state.cache, &u),
            Kind::Mlp => plain(&layer, &u, act),
            Kind::Moe => experts(w, &layer, &u, act),
            other => panic!("Nemotron-H has no layers of kind {other:?}"),
        };
        r = add(&r, &mixed);
    }
    w.head("backbone.embeddings.weight", &w.at("backbone").rms_norm("norm_f", &r, eps))
}

/// The layers, by list or by pattern.
fn kinds(w: &Weights) -> Vec<Kind> {
    let kind = |c: char| match c {
        'M' => Kind::Mamba,
        '*' => Kind::Attention,
        '-' => Kind::Mlp,
        'E' => Kind::Moe,
        _ => panic!("config.json: hybrid_override_pattern knows no layer {c:?}"),
    };
    listed_kinds(&w.config).unwrap_or_else(|| {
        let pattern = w.config["hybrid_override_pattern"].as_str();
        pattern.expect("config.json lists no layers").chars().map(kind).collect()
    })
}

/// Shared experts, plus the chosen ones weighted by their sigmoid scores. The correction bias takes part in the
/// choice only; first the best groups of experts are chosen (by the sum of a group's two best), then experts.
fn experts(w: &Weights, moe: &At, u: &[f64], act: fn(f64) -> f64) -> Vec<f64> {
    let config = &w.config;
    let gate = moe.at("gate");
    let scores = map(&matvec(gate.tensor("weight"), u), sigmoid); // [E]
    let mut corrected = add(&scores, gate.vector("e_score_correction_bias"));

    let groups = find_size(config, "n_group").unwrap_or(1);
    let group_size = scores.len() / groups;
    let group_scores: Vec<f64> = corrected
        .chunks_exact(group_size)
        .map(|group| top_k(group, 2).iter().map(|&e| group[e]).sum())
        .collect();
    let open = top_k(&group_scores, find_size(config, "topk_group").unwrap_or(1));
    for (e, score) in corrected.iter_mut().enumerate() {
        if !open.contains(&(e / group_size)) {
            *score = f64::NEG_INFINITY;
        }
    }

    let chosen = top_k(&corrected, size(config, "num_experts_per_tok"));
    let mut weights: Vec<f64> = chosen.iter().map(|&e| scores[e]).collect();
    if flag_or(config, "norm_topk_prob", true) {
        weights = scale(&weights, 1.0 / (weights.iter().sum::<f64>() + 1e-20));
    }
    weights = scale(&weights, number_or(config, "routed_scaling_factor", 1.0));

    let latent = find_size(config, "moe_latent_size").is_some();
    let input = if latent { moe.linear("fc1_latent_proj", u) } else { u.to_vec() };
    let mixed = mixture(&chosen, &weights, |e| plain(&moe.at(&format!("experts.{e}")), &input, act));
    let mixed = if latent { moe.linear("fc2_latent_proj", &mixed) } else { mixed };
    add(&mixed, &plain(&moe.at("shared_experts"), u, act))
}
