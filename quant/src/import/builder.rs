//! What the importers share: tensors looked up by name and shape, and the parts that all language models have.

use std::collections::BTreeSet;

use sarit_core::plan::{JoinRecord, LogitsOutput, NONE, NormRecord, TokenInput, norm_kind};
use serde_json::Value;

use super::ImportError;
use crate::checkpoint::{Checkpoint, json};
use crate::recipe::{Piece, Recipe, Role, Source};

/// Builds a recipe and keeps account of the checkpoint's tensors: one that nothing has asked for is an error.
pub(super) struct Builder<'c> {
    checkpoint: &'c Checkpoint,
    recipe: Recipe,
    used: BTreeSet<String>,
}

impl<'c> Builder<'c> {
    pub(super) fn new(checkpoint: &'c Checkpoint) -> Self {
        Self { checkpoint, recipe: Recipe::default(), used: BTreeSet::new() }
    }

    pub(super) fn config(&self) -> &'c Value {
        self.checkpoint.config()
    }

    pub(super) fn recipe(&mut self) -> &mut Recipe {
        &mut self.recipe
    }

    /// Ends the recipe.
    pub(super) fn finish(self) -> Result<Recipe, ImportError> {
        match self.checkpoint.tensors().find(|(name, _)| !self.used.contains(*name)) {
            Some((name, _)) => Err(ImportError::UnknownTensor(name.to_owned())),
            None => Ok(self.recipe),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.checkpoint.tensor(name).is_some()
    }

    /// Says that a tensor is known and not needed.
    pub(super) fn ignore(&mut self, name: &str) {
        self.used.insert(name.to_owned());
    }

    /// The shape of a tensor that must have `N` dimensions, none of them 0.
    pub(super) fn shape<const N: usize>(&self, name: &str) -> Result<[usize; N], ImportError> {
        let info = self.checkpoint.tensor(name).ok_or_else(|| ImportError::MissingTensor(name.to_owned()))?;
        let bad = || ImportError::BadShape { tensor: name.to_owned(), found: info.shape.clone() };
        let shape: [usize; N] = info.shape.as_slice().try_into().map_err(|_| bad())?;
        if shape.contains(&0) { Err(bad()) } else { Ok(shape) }
    }

    /// That a tensor's shape is wrong in a way that no other shape explains.
    pub(super) fn bad_shape(&self, name: &str) -> ImportError {
        let found = self.checkpoint.tensor(name).map(|t| t.shape.clone()).unwrap_or_default();
        ImportError::BadShape { tensor: name.to_owned(), found }
    }

    fn expect(&mut self, name: &str, expected: &[usize]) -> Result<(), ImportError> {
        let info = self.checkpoint.tensor(name).ok_or_else(|| ImportError::MissingTensor(name.to_owned()))?;
        if info.shape != expected {
            return Err(ImportError::Shape {
                tensor: name.to_owned(),
                found: info.shape.clone(),
                expected: expected.to_vec(),
            });
        }
        self.used.insert(name.to_owned());
        Ok(())
    }

    /// Reads a small tensor of exactly this shape.
    pub(super) fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ImportError> {
        self.expect(name, shape)?;
        let mut values = vec![0.0; shape.iter().product()];
        self.checkpoint.read(name, 0, &mut values)?;
        match values.iter().position(|x| !x.is_finite()) {
            Some(element) => {
                Err(ImportError::NotFinite { tensor: name.to_owned(), element, value: values[element] })
            }
            None => Ok(values),
        }
    }

    /// Adds a small tensor, as it will be used, under the name of the one it comes from.
    pub(super) fn push_values(&mut self, name: &str, rows: usize, values: Vec<f32>) -> u32 {
        let cols = values.len() / rows;
        self.recipe.tensor(name.to_owned(), rows, cols, Source::Values(values))
    }

    /// Adds a vector just as the checkpoint has it.
    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<u32, ImportError> {
        let values = self.values(name, &[len])?;
        Ok(self.push_values(name, 1, values))
    }

    /// Adds a vector if `wanted`, else [`NONE`].
    pub(super) fn vector_if(&mut self, wanted: bool, name: &str, len: usize) -> Result<u32, ImportError> {
        if wanted { self.vector(name, len) } else { Ok(NONE) }
    }

    /// Adds a matrix just as the checkpoint has it.
    pub(super) fn matrix(
        &mut self,
        name: &str,
        role: Role,
        rows: usize,
        cols: usize,
    ) -> Result<u32, ImportError> {
        self.matrix_of(name, role, std::slice::from_ref(&(0..rows)), rows, cols)
    }

    /// Adds a matrix whose rows are ranges of the checkpoint's, which has `rows` of them, in the order given.
    pub(super) fn matrix_of(
        &mut self,
        name: &str,
        role: Role,
        ranges: &[std::ops::Range<usize>],
        rows: usize,
        cols: usize,
    ) -> Result<u32, ImportError> {
        self.expect(name, &[rows, cols])?;
        let piece =
            |r: &std::ops::Range<usize>| Piece { tensor: name.to_owned(), start: r.start, rows: r.len() };
        let source = Source::Rows { pieces: ranges.iter().map(piece).collect(), role };
        let rows = ranges.iter().map(|r| r.len()).sum();
        Ok(self.recipe.tensor(name.to_owned(), rows, cols, source))
    }

    /// RMS norm with a weight `[len]`.
    pub(super) fn rms_norm(&mut self, name: &str, len: usize, eps: f32) -> Result<NormRecord, ImportError> {
        Ok(NormRecord { kind: norm_kind::RMS, weight: self.vector(name, len)?, eps })
    }

    /// A block that reads the RMS-normed residual stream and is added to it.
    pub(super) fn join(&mut self, norm: &str, d_model: usize, eps: f32) -> Result<JoinRecord, ImportError> {
        Ok(JoinRecord { norm: self.rms_norm(norm, d_model, eps)?, scale: 1.0 })
    }

    /// Convolution weights `[channels][1][width]` as `[width][channels]`, oldest input first.
    pub(super) fn conv_weight(
        &mut self,
        name: &str,
        channels: usize,
        width: usize,
    ) -> Result<u32, ImportError> {
        let values = self.values(name, &[channels, 1, width])?;
        let transposed = (0..width * channels).map(|i| values[i % channels * width + i / channels]).collect();
        Ok(self.push_values(name, width, transposed))
    }

    /// `A_log` as the engine reads it: `-exp(A_log) · log2(e)`, computed in f64.
    pub(super) fn a_log2(&mut self, name: &str, shape: &[usize]) -> Result<u32, ImportError> {
        let values = self.values(name, shape)?;
        let ready: Vec<f32> =
            values.iter().map(|&a| (-f64::from(a).exp() * std::f64::consts::LOG2_E) as f32).collect();
        match ready.iter().position(|a| !a.is_finite()) {
            Some(element) => {
                Err(ImportError::NotFinite { tensor: name.to_owned(), element, value: ready[element] })
            }
            None => Ok(self.push_values(name, shape[0], ready)),
        }
    }

    /// Input and output of a language model: embedding, final norm, and the head, which is the embedding if `tied`.
    /// Returns `d_model`.
    pub(super) fn language_model(
        &mut self,
        embedding: &str,
        final_norm: &str,
        tied: bool,
        eps: f32,
    ) -> Result<usize, ImportError> {
        const HEAD: &str = "lm_head.weight";
        let [vocab, d_model] = self.shape(embedding)?;
        let embedding = self.matrix(embedding, Role::Embedding, vocab, d_model)?;
        let norm = self.rms_norm(final_norm, d_model, eps)?;
        let head = if tied || !self.has(HEAD) {
            self.ignore(HEAD);
            embedding
        } else {
            self.matrix(HEAD, Role::Head, vocab, d_model)?
        };
        self.recipe.push(&TokenInput { embedding });
        self.recipe.push(&LogitsOutput { norm, head });
        Ok(d_model)
    }
}

/// A flag of the configuration; `default` where it is absent or null.
pub(super) fn flag(config: &Value, key: &str, default: bool) -> Result<bool, ImportError> {
    match &config[key] {
        Value::Null => Ok(default),
        Value::Bool(flag) => Ok(*flag),
        value => {
            Err(ImportError::Number { key: key.to_owned(), value: value.clone(), expected: "true or false" })
        }
    }
}

/// A positive, finite number of the configuration; `default` where it is absent or null.
pub(super) fn positive(config: &Value, key: &str, default: f64) -> Result<f32, ImportError> {
    let value = &config[key];
    let number = if value.is_null() { Some(default) } else { json::number(value) };
    number.filter(|n| *n > 0.0 && n.is_finite()).map(|n| n as f32).ok_or_else(|| ImportError::Number {
        key: key.to_owned(),
        value: value.clone(),
        expected: "a positive number",
    })
}

/// A whole number of at least 1; `default` where it is absent or null.
pub(super) fn count(config: &Value, key: &str, default: usize) -> Result<usize, ImportError> {
    let value = &config[key];
    let number = if value.is_null() { Some(default as u64) } else { value.as_u64() };
    number.filter(|n| (1..1 << 32).contains(n)).map(|n| n as usize).ok_or_else(|| ImportError::Number {
        key: key.to_owned(),
        value: value.clone(),
        expected: "a whole number of at least 1",
    })
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
        .ok_or_else(|| ImportError::Number {
            key: key.to_owned(),
            value: value.clone(),
            expected: "a lower and an upper bound",
        })
}

/// That an activation is silu; refuses others by name.
pub(super) fn expect_silu(config: &Value, key: &str) -> Result<(), ImportError> {
    match &config[key] {
        Value::Null => Ok(()),
        value if matches!(value.as_str(), Some("silu" | "swish")) => Ok(()),
        value => Err(ImportError::Option { key: key.to_owned(), value: value.clone() }),
    }
}
