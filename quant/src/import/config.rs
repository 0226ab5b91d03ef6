//! Reading `config.json`: every value is checked, and what is not implemented is refused by name.

use sarit_core::plan::activation;
use serde_json::Value;

use super::ImportError;
use crate::checkpoint::json;

/// That a value is not what it has to be.
pub(super) fn wrong(config: &Value, key: &str, expected: &'static str) -> ImportError {
    ImportError::Number { key: key.to_owned(), value: config[key].clone(), expected }
}

/// That an option is set to something that is not implemented.
pub(super) fn refused(config: &Value, key: &str) -> ImportError {
    ImportError::Option { key: key.to_owned(), value: config[key].clone() }
}

/// A flag, if the key is there and not null.
pub(super) fn find_flag(config: &Value, key: &str) -> Result<Option<bool>, ImportError> {
    match &config[key] {
        Value::Null => Ok(None),
        Value::Bool(flag) => Ok(Some(*flag)),
        _ => Err(wrong(config, key, "true or false")),
    }
}

/// A flag; `default` where it is absent or null.
pub(super) fn flag(config: &Value, key: &str, default: bool) -> Result<bool, ImportError> {
    Ok(find_flag(config, key)?.unwrap_or(default))
}

/// A finite number; `default` where it is absent or null.
pub(super) fn finite(config: &Value, key: &str, default: f64) -> Result<f64, ImportError> {
    let value = &config[key];
    let number = if value.is_null() { Some(default) } else { json::number(value) };
    number.filter(|n| n.is_finite()).ok_or_else(|| wrong(config, key, "a finite number"))
}

/// A finite number as f32.
pub(super) fn factor(config: &Value, key: &str) -> Result<f32, ImportError> {
    Ok(finite(config, key, 1.0)? as f32)
}

/// `N` finite numbers; ones where they are absent or null.
pub(super) fn factors<const N: usize>(config: &Value, key: &str) -> Result<[f32; N], ImportError> {
    let Some(list) = config[key].as_array() else {
        return if config[key].is_null() {
            Ok([1.0; N])
        } else {
            Err(wrong(config, key, "a list of numbers"))
        };
    };
    let numbers: Option<Vec<f32>> =
        list.iter().map(|v| json::number(v).filter(|n| n.is_finite()).map(|n| n as f32)).collect();
    numbers
        .and_then(|n| n.try_into().ok())
        .ok_or_else(|| wrong(config, key, "as many numbers as there are parts"))
}

/// A positive, finite number; `default` where it is absent or null.
pub(super) fn positive(config: &Value, key: &str, default: f64) -> Result<f64, ImportError> {
    let number = finite(config, key, default)?;
    if number > 0.0 { Ok(number) } else { Err(wrong(config, key, "a positive number")) }
}

/// A finite number of at least 0, as f32; `default` where it is absent or null.
pub(super) fn bound(config: &Value, key: &str, default: f64) -> Result<f32, ImportError> {
    let number = finite(config, key, default)?;
    if number >= 0.0 { Ok(number as f32) } else { Err(wrong(config, key, "a number of at least 0")) }
}

/// A positive, finite number for an epsilon.
pub(super) fn eps(config: &Value, key: &str, default: f64) -> Result<f32, ImportError> {
    Ok(positive(config, key, default)? as f32)
}

/// A whole number, if the key is there and not null.
pub(super) fn find_count(config: &Value, key: &str) -> Result<Option<usize>, ImportError> {
    match &config[key] {
        Value::Null => Ok(None),
        value => {
            let number = value.as_u64().filter(|n| *n < 1 << 32);
            number.map(|n| Some(n as usize)).ok_or_else(|| wrong(config, key, "a whole number"))
        }
    }
}

/// A whole number below 2^24, as all sizes in a plan are, if the key is there and not null.
pub(super) fn find_size(config: &Value, key: &str) -> Result<Option<usize>, ImportError> {
    match find_count(config, key)? {
        Some(n) if n >= 1 << 24 => Err(wrong(config, key, "a size below 16777216")),
        size => Ok(size),
    }
}

/// A whole number of at least 1; `default` where it is absent or null, unless that is 0.
pub(super) fn count(config: &Value, key: &str, default: usize) -> Result<usize, ImportError> {
    match find_count(config, key)?.unwrap_or(default) {
        0 => Err(wrong(config, key, "a whole number of at least 1")),
        n => Ok(n),
    }
}

/// That a size is as the tensors have it, where the configuration states it.
pub(super) fn agree(config: &Value, key: &str, size: usize) -> Result<(), ImportError> {
    match find_count(config, key)? {
        Some(stated) if stated != size => Err(wrong(config, key, "the size that the tensors have")),
        _ => Ok(()),
    }
}

/// `len` names, if the key is there and not null.
pub(super) fn find_names(config: &Value, key: &str, len: usize) -> Result<(), ImportError> {
    match &config[key] {
        Value::Null => Ok(()),
        Value::Array(names) if names.len() == len && names.iter().all(Value::is_string) => Ok(()),
        _ => Err(wrong(config, key, "a list of one name for each")),
    }
}

/// Whole numbers in a list; an empty one where it is absent or null.
pub(super) fn indices(config: &Value, key: &str) -> Result<Vec<usize>, ImportError> {
    let list = match &config[key] {
        Value::Null => return Ok(Vec::new()),
        value => value.as_array().ok_or_else(|| wrong(config, key, "a list of whole numbers"))?,
    };
    let numbers: Option<Vec<usize>> = list.iter().map(|v| v.as_u64().map(|n| n as usize)).collect();
    numbers.ok_or_else(|| wrong(config, key, "a list of whole numbers"))
}

/// Bounds of dt, `[low, high]`; the upper one may be infinite. No bounds where the key is absent or null.
pub(super) fn dt_limits(config: &Value, key: &str) -> Result<(f32, f32), ImportError> {
    let value = &config[key];
    let limits = match value.as_array().map(Vec::as_slice) {
        None if value.is_null() => Some((0.0, f64::INFINITY)),
        Some([low, high]) => json::number(low).zip(json::number(high)),
        _ => None,
    };
    limits
        .filter(|(low, high)| *low >= 0.0 && low.is_finite() && high >= low)
        .map(|(low, high)| (low as f32, high as f32))
        .ok_or_else(|| wrong(config, key, "a lower and an upper bound"))
}

/// That an activation is silu, which is what stands after a convolution; refuses others by name.
pub(super) fn expect_silu(config: &Value, key: &str) -> Result<(), ImportError> {
    match activation_of(config, key, "silu")? {
        activation::SILU => Ok(()),
        _ => Err(refused(config, key)),
    }
}

/// An activation by its Hugging Face name.
pub(super) fn activation_of(config: &Value, key: &str, default: &str) -> Result<u32, ImportError> {
    let name = if config[key].is_null() { Some(default) } else { config[key].as_str() };
    Ok(match name {
        Some("silu" | "swish") => activation::SILU,
        Some("gelu") => activation::GELU,
        Some("gelu_new" | "gelu_pytorch_tanh") => activation::GELU_TANH,
        Some("relu2") => activation::RELU2,
        Some("relu") => activation::RELU,
        _ => return Err(refused(config, key)),
    })
}

/// What a layer of a hybrid model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Mamba,
    Attention,
    /// Zamba2: the shared transformer block, then a state-space mixer.
    Hybrid,
    Conv,
    Mlp,
    Moe,
}

/// The layers listed under `layer_types` or `layers_block_type`, in all spellings; `None` where there is no list.
pub(super) fn layer_kinds(config: &Value) -> Result<Option<Vec<Kind>>, ImportError> {
    let Some(key) = ["layer_types", "layers_block_type"].into_iter().find(|key| config[*key].is_array())
    else {
        return Ok(None);
    };
    let kind = |name: &Value| match name.as_str() {
        Some("mamba" | "mamba2" | "linear_attention" | "m") => Some(Kind::Mamba),
        Some("attention" | "full_attention") => Some(Kind::Attention),
        Some("hybrid" | "g") => Some(Kind::Hybrid),
        Some("conv") => Some(Kind::Conv),
        Some("mlp") => Some(Kind::Mlp),
        Some("moe") => Some(Kind::Moe),
        _ => None,
    };
    let kinds: Option<Vec<Kind>> = config[key].as_array().into_iter().flatten().map(kind).collect();
    kinds.map(Some).ok_or_else(|| refused(config, key))
}
