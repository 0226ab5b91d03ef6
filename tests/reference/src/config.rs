//! Reading a config: numbers, flags and the several spellings of layer kinds.

use serde_json::Value;

use crate::attention::Rope;

/// A number. What JSON cannot write is `"Infinity"`, or `{"__float__": "Infinity"}` in transformers 5.
pub(crate) fn number(config: &Value, key: &str) -> Option<f64> {
    as_number(&config[key])
}

pub(crate) fn number_or(config: &Value, key: &str, default: f64) -> f64 {
    number(config, key).unwrap_or(default)
}

pub(crate) fn size(config: &Value, key: &str) -> usize {
    find_size(config, key).unwrap_or_else(|| panic!("config.json lacks the whole number {key:?}"))
}

pub(crate) fn find_size(config: &Value, key: &str) -> Option<usize> {
    config[key].as_u64().map(|value| value as usize)
}

pub(crate) fn flag_or(config: &Value, key: &str, default: bool) -> bool {
    config[key].as_bool().unwrap_or(default)
}

pub(crate) fn text_or<'a>(config: &'a Value, key: &str, default: &'a str) -> &'a str {
    config[key].as_str().unwrap_or(default)
}

/// A list of numbers, or `default` where there is none.
pub(crate) fn numbers_or<const COUNT: usize>(
    config: &Value,
    key: &str,
    default: [f64; COUNT],
) -> [f64; COUNT] {
    let Some(list) = config[key].as_array() else { return default };
    let numbers: Vec<f64> = list.iter().filter_map(as_number).collect();
    numbers.try_into().unwrap_or_else(|_| panic!("config.json: {key:?} must hold {COUNT} numbers"))
}

fn as_number(value: &Value) -> Option<f64> {
    match value.as_str().or(value["__float__"].as_str()) {
        Some(text) => Some(text.parse().unwrap_or_else(|_| panic!("config.json: {text:?} is no number"))),
        None => value.as_f64(),
    }
}

/// The width of an attention head.
pub(crate) fn head_dim(config: &Value) -> usize {
    find_size(config, "head_dim")
        .unwrap_or_else(|| size(config, "hidden_size") / size(config, "num_attention_heads"))
}

/// What a layer of a hybrid model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A state-space mixer.
    Mamba,
    Attention,
    /// Zamba2: the shared transformer block, then a state-space mixer.
    Hybrid,
    /// LFM2: the gated short convolution.
    Conv,
    Mlp,
    Moe,
}

/// The kinds listed under `layer_types` or `layers_block_type`, old spellings included.
pub(crate) fn listed_kinds(config: &Value) -> Option<Vec<Kind>> {
    let list = config["layer_types"].as_array().or(config["layers_block_type"].as_array())?;
    let kind = |name: &Value| match name.as_str() {
        Some("mamba" | "mamba2" | "linear_attention" | "m") => Kind::Mamba,
        Some("attention" | "full_attention") => Kind::Attention,
        Some("hybrid" | "g") => Kind::Hybrid,
        Some("conv") => Kind::Conv,
        Some("mlp") => Kind::Mlp,
        Some("moe") => Kind::Moe,
        _ => panic!("config.json: the reference knows no layer type {name}"),
    };
    Some(list.iter().map(kind).collect())
}

/// The rotary embedding that the config describes, for heads of `head_dim` of which `part` is rotated.
pub(crate) fn rope(config: &Value, head_dim: usize, part: f64, default_theta: f64) -> Rope {
    let new = &config["rope_parameters"];
    for kind in [&new["rope_type"], &config["rope_scaling"]["rope_type"], &config["rope_scaling"]["type"]] {
        let kind = kind.as_str().unwrap_or("default");
        assert_eq!(kind, "default", "the reference knows no scaled rotary positions");
    }
    let theta = number(new, "rope_theta").or(number(config, "rope_theta")).unwrap_or(default_theta);
    Rope { theta, dims: (head_dim as f64 * part) as usize }
}
