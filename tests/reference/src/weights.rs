//! A checkpoint in memory: its config and its tensors by name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::linalg;

/// A tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its dimensions, the slowest first.
    pub shape: Vec<usize>,
    /// Its values.
    pub data: Vec<f64>,
}

/// A checkpoint. Fill it with [`Weights::load`], or field by field from any other reader.
#[derive(Clone, Debug)]
pub struct Weights {
    /// `config.json`, as [`parse_config`] reads it.
    pub config: Value,
    /// The tensors, under the names that the checkpoint gives them.
    pub tensors: BTreeMap<String, Tensor>,
}

impl Weights {
    /// Reads a folder that holds `config.json` and `model*.safetensors`.
    ///
    /// # Panics
    /// Where a file is missing or not what it should be: this is test code.
    pub fn load(folder: &Path) -> Self {
        let config = folder.join("config.json");
        let text = fs::read_to_string(&config).unwrap_or_else(|e| panic!("{}: {e}", config.display()));
        let mut tensors = BTreeMap::new();
        for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let name = entry.unwrap_or_else(|e| panic!("{}: {e}", folder.display())).file_name();
            let name = name.to_string_lossy();
            if name.starts_with("model") && name.ends_with(".safetensors") {
                tensors.append(&mut Tensor::load_all(&folder.join(&*name)));
            }
        }
        assert!(!tensors.is_empty(), "{} holds no model*.safetensors", folder.display());
        Self { config: parse_config(&text), tensors }
    }

    /// The tensors whose names begin with `prefix` and a dot; all of them for an empty one.
    pub(crate) fn at(&self, prefix: impl Into<String>) -> At<'_> {
        At { weights: self, prefix: prefix.into() }
    }

    /// Row `id` of the embedding.
    pub(crate) fn embed(&self, name: &str, id: u32) -> Vec<f64> {
        let table = self.get(name);
        let width = table.shape[1];
        let row = table.data.chunks_exact(width).nth(id as usize);
        row.unwrap_or_else(|| panic!("token {id} lies outside {name} of {:?}", table.shape)).to_vec()
    }

    /// The logits of `x`: by `lm_head` where the checkpoint stores one, else by the embedding it is tied to.
    pub(crate) fn head(&self, embedding: &str, x: &[f64]) -> Vec<f64> {
        linalg::matvec(self.tensors.get("lm_head.weight").unwrap_or_else(|| self.get(embedding)), x)
    }

    fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("the checkpoint lacks the tensor {name:?}"))
    }
}

/// One part of a checkpoint, such as a layer: tensors are named from there on.
#[derive(Clone, Debug)]
pub(crate) struct At<'w> {
    weights: &'w Weights,
    prefix: String,
}

impl<'w> At<'w> {
    pub(crate) fn at(&self, name: &str) -> Self {
        Self { weights: self.weights, prefix: self.full(name) }
    }

    fn full(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    pub(crate) fn find(&self, name: &str) -> Option<&'w Tensor> {
        self.weights.tensors.get(&self.full(name))
    }

    pub(crate) fn tensor(&self, name: &str) -> &'w Tensor {
        self.weights.get(&self.full(name))
    }

    /// A tensor's values, whatever its shape.
    pub(crate) fn vector(&self, name: &str) -> &'w [f64] {
        &self.tensor(name).data
    }

    /// This part as a linear layer: `weight x`, plus `bias` where the checkpoint stores one.
    pub(crate) fn apply(&self, x: &[f64]) -> Vec<f64> {
        let y = linalg::matvec(self.tensor("weight"), x);
        match self.find("bias") {
            Some(bias) => linalg::add(&y, &bias.data),
            None => y,
        }
    }

    /// The linear layer `name` of this part.
    pub(crate) fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        self.at(name).apply(x)
    }

    pub(crate) fn rms_norm(&self, name: &str, x: &[f64], eps: f64) -> Vec<f64> {
        linalg::rms_norm(x, self.at(name).vector("weight"), eps)
    }

    pub(crate) fn layer_norm(&self, name: &str, x: &[f64], eps: f64) -> Vec<f64> {
        linalg::layer_norm(x, self.at(name).vector("weight"), self.at(name).vector("bias"), eps)
    }
}

impl Tensor {
    /// All tensors of one safetensors file.
    fn load_all(file: &Path) -> BTreeMap<String, Self> {
        let bytes = fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let parsed = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let read = |(name, view): (String, TensorView<'_>)| {
            let data = match view.dtype() {
                Dtype::F64 => widen(view.data(), f64::from_le_bytes),
                Dtype::F32 => widen(view.data(), |bytes| f32::from_le_bytes(bytes).into()),
                Dtype::F16 => widen(view.data(), |bytes| from_f16(u16::from_le_bytes(bytes))),
                Dtype::BF16 => widen(view.data(), |[low, high]| f32::from_le_bytes([0, 0, low, high]).into()),
                other => panic!("{}: {name} is of type {other:?}", file.display()),
            };
            (name, Self { shape: view.shape().to_vec(), data })
        };
        parsed.tensors().into_iter().map(read).collect()
    }
}

fn widen<const SIZE: usize>(bytes: &[u8], number: impl Fn([u8; SIZE]) -> f64) -> Vec<f64> {
    bytes.as_chunks().0.iter().map(|&element| number(element)).collect()
}

/// IEEE binary16: a sign, 5 bits of exponent, 10 of fraction.
fn from_f16(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let exponent = i32::from(bits >> 10 & 31);
    let fraction = f64::from(bits & 1023) / 1024.0;
    let magnitude = match exponent {
        0 => fraction * 2f64.powi(-14),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction) * 2f64.powi(exponent - 15),
    };
    sign * magnitude
}

/// Parses `config.json`, in which Python may have written a bare `Infinity`; it is read as the string `"Infinity"`.
///
/// # Panics
/// On anything else that is not JSON.
pub fn parse_config(text: &str) -> Value {
    let mut json = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let bare = ["-Infinity", "Infinity"].into_iter().find(|word| rest.starts_with(word));
        let length = match (first, bare) {
            ('"', _) => string_length(rest),
            (_, Some(word)) => word.len(),
            _ => first.len_utf8(),
        };
        let (token, tail) = rest.split_at(length);
        json += &bare.map_or(token.to_owned(), |word| format!("\"{word}\""));
        rest = tail;
    }
    serde_json::from_str(&json).unwrap_or_else(|e| panic!("config.json: {e}"))
}

/// The length of the JSON string that `text` begins with, its quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = true; // the opening quote closes nothing
    for (i, c) in text.char_indices() {
        if c == '"' && !escaped {
            return i + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::numbers_or;

    #[test]
    fn infinity_is_read_in_both_spellings() {
        let config = parse_config(
            r#"{"a": [0.5, Infinity], "b": [-Infinity, {"__float__": "Infinity"}], "c \"Infinity": "Infinity"}"#,
        );
        assert_eq!(numbers_or(&config, "a", [0.0; 2]), [0.5, f64::INFINITY]);
        assert_eq!(numbers_or(&config, "b", [0.0; 2]), [f64::NEG_INFINITY, f64::INFINITY]);
        assert_eq!(config["c \"Infinity"], "Infinity");
    }

    #[test]
    fn halves_have_their_values() {
        let cases =
            [(0x3c00, 1.0), (0xc000, -2.0), (0x0001, 2f64.powi(-24)), (0x7bff, 65504.0), (0x8000, 0.0)];
        for (bits, value) in cases {
            assert_eq!(from_f16(bits), value);
        }
        assert_eq!(from_f16(0xfc00), f64::NEG_INFINITY);
        assert!(from_f16(0x7e00).is_nan());
    }
}
