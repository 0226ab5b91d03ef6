//! What the importers share: tensors looked up by name and shape, and the parts that all language models have.

use std::collections::BTreeSet;
use std::ops::Range;

use sarit_core::plan::{
    FrameInput, FrameOutput, JoinRecord, LinearRecord, LogitsOutput, NONE, NormRecord, Record, TokenInput,
    input, norm_kind, output,
};
use serde_json::Value;

use super::ImportError;
use super::config::{count, find_flag, wrong};
use crate::checkpoint::Checkpoint;
use crate::recipe::{Piece, Recipe, Role, Source};

const HEAD: &str = "lm_head.weight";

/// Builds a recipe and keeps account of the checkpoint's tensors: one that nothing has asked for is an error.
pub(super) struct Builder<'c> {
    checkpoint: &'c Checkpoint,
    recipe: Recipe,
    used: BTreeSet<String>,
    d_model: usize,
}

/// Rows of a checkpoint's matrix, with factors on the weights and on the biases.
#[derive(Debug, Clone)]
pub(super) struct Slice {
    pub(super) rows: Range<usize>,
    pub(super) weight: f32,
    pub(super) bias: f32,
}

impl Slice {
    pub(super) fn of(rows: Range<usize>) -> Self {
        Self { rows, weight: 1.0, bias: 1.0 }
    }
}

/// What stands around the blocks of a language model.
pub(super) struct Frame<'a> {
    /// Name of the embedding.
    pub(super) embedding: &'a str,
    /// Factor on it.
    pub(super) embedding_scale: f32,
    /// Name of the last norm, without `.weight`.
    pub(super) final_norm: &'a str,
    /// Of all norms.
    pub(super) norm: NormStyle,
    /// Factor on the logits.
    pub(super) logits_scale: f32,
}

/// The norm that a family uses throughout.
#[derive(Debug, Clone, Copy)]
pub(super) struct NormStyle {
    /// One of [`norm_kind`].
    pub(super) kind: u32,
    pub(super) eps: f32,
}

impl NormStyle {
    pub(super) fn rms(eps: f32) -> Self {
        Self { kind: norm_kind::RMS, eps }
    }
}

impl<'c> Builder<'c> {
    pub(super) fn new(checkpoint: &'c Checkpoint) -> Self {
        Self { checkpoint, recipe: Recipe::default(), used: BTreeSet::new(), d_model: 0 }
    }

    pub(super) fn config(&self) -> &'c Value {
        self.checkpoint.config()
    }

    /// Width of the residual stream, once [`language_model`](Self::language_model) or
    /// [`frame_model`](Self::frame_model) has been called.
    pub(super) fn d_model(&self) -> usize {
        self.d_model
    }

    pub(super) fn push<R: Record>(&mut self, record: &R) {
        self.recipe.push(record);
    }

    /// Ends the recipe.
    pub(super) fn finish(self) -> Result<Recipe, ImportError> {
        match self.checkpoint.tensors().find(|(name, _)| !self.used.contains(*name)) {
            Some((name, _)) => Err(ImportError::UnknownTensor(name.to_owned())),
            None => Ok(self.recipe),
        }
    }

    /// A number of layers, each of which has at least one tensor.
    pub(super) fn layers(&self, config: &Value, key: &str) -> Result<usize, ImportError> {
        let layers = count(config, key, 0)?;
        let fits = layers <= self.checkpoint.tensors().count();
        if fits { Ok(layers) } else { Err(wrong(config, key, "no more layers than there are tensors")) }
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
        let shape: [usize; N] = info.shape.as_slice().try_into().map_err(|_| self.bad_shape(name))?;
        if shape.contains(&0) { Err(self.bad_shape(name)) } else { Ok(shape) }
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

    /// That a tensor is there if and only if a flag of the configuration says so; anything goes without the flag.
    pub(super) fn agree(&self, flag: Option<bool>, name: &str) -> Result<(), ImportError> {
        match flag {
            Some(true) if !self.has(name) => Err(ImportError::MissingTensor(name.to_owned())),
            Some(false) if self.has(name) => Err(ImportError::UnknownTensor(name.to_owned())),
            _ => Ok(()),
        }
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

    /// Adds a vector if the checkpoint has it, else [`NONE`].
    pub(super) fn vector_if_any(&mut self, name: &str, len: usize) -> Result<u32, ImportError> {
        if self.has(name) { self.vector(name, len) } else { Ok(NONE) }
    }

    /// Adds a matrix just as the checkpoint has it.
    pub(super) fn matrix(
        &mut self,
        name: &str,
        role: Role,
        rows: usize,
        cols: usize,
    ) -> Result<u32, ImportError> {
        self.expect(name, &[rows, cols])?;
        let piece = Piece { tensor: name.to_owned(), start: 0, stride: cols, rows, factor: 1.0 };
        Ok(self.matrix_of(name.to_owned(), role, cols, vec![piece]))
    }

    fn matrix_of(&mut self, name: String, role: Role, cols: usize, pieces: Vec<Piece>) -> u32 {
        let rows = pieces.iter().map(|piece| piece.rows).sum();
        self.recipe.tensor(name, rows, cols, Source::Rows { pieces, role })
    }

    /// The linear map `name.weight` `[rows][cols]`, with `name.bias` if there is one.
    pub(super) fn linear(
        &mut self,
        name: &str,
        role: Role,
        rows: usize,
        cols: usize,
    ) -> Result<LinearRecord, ImportError> {
        self.linear_of(name, role, &[Slice::of(0..rows)], rows, cols)
    }

    /// The rows `slices`, in their order, of the linear map `name.weight` `[rows][cols]`.
    pub(super) fn linear_of(
        &mut self,
        name: &str,
        role: Role,
        slices: &[Slice],
        rows: usize,
        cols: usize,
    ) -> Result<LinearRecord, ImportError> {
        let weight = format!("{name}.weight");
        self.expect(&weight, &[rows, cols])?;
        let piece = |s: &Slice| Piece {
            tensor: weight.clone(),
            start: s.rows.start * cols,
            stride: cols,
            rows: s.rows.len(),
            factor: s.weight,
        };
        let pieces = slices.iter().map(piece).collect();
        let taken: usize = slices.iter().map(|s| s.rows.len()).sum();
        // Parts of one tensor need names of their own.
        let part = if taken == rows { String::new() } else { format!("[{}+{taken}]", slices[0].rows.start) };
        let matrix = self.matrix_of(format!("{weight}{part}"), role, cols, pieces);
        let bias_name = format!("{name}.bias");
        if !self.has(&bias_name) {
            return Ok(LinearRecord::new(matrix, NONE));
        }
        let all = self.values(&bias_name, &[rows])?;
        let bias = slices.iter().flat_map(|s| all[s.rows.clone()].iter().map(|b| b * s.bias)).collect();
        Ok(LinearRecord::new(matrix, self.push_values(&format!("{bias_name}{part}"), 1, bias)))
    }

    /// The columns `cols` of the linear map `name.weight` `[rows][all]`, without a bias.
    pub(super) fn columns(
        &mut self,
        name: &str,
        cols: Range<usize>,
        rows: usize,
        all: usize,
        factor: f32,
    ) -> Result<LinearRecord, ImportError> {
        let weight = format!("{name}.weight");
        self.expect(&weight, &[rows, all])?;
        let piece = Piece { tensor: weight.clone(), start: cols.start, stride: all, rows, factor };
        let part = format!("{weight}[:,{}..{}]", cols.start, cols.end);
        Ok(LinearRecord::new(self.matrix_of(part, Role::Projection, cols.len(), vec![piece]), NONE))
    }

    /// Matrix `index` of the stack `name` `[count][rows][cols]`, or the rows `part` of it.
    pub(super) fn stacked(
        &mut self,
        name: &str,
        index: usize,
        part: Range<usize>,
        shape: [usize; 3],
    ) -> Result<u32, ImportError> {
        self.expect(name, &shape)?;
        let [_, rows, cols] = shape;
        let start = (index * rows + part.start) * cols;
        let piece = Piece { tensor: name.to_owned(), start, stride: cols, rows: part.len(), factor: 1.0 };
        Ok(self.matrix_of(
            format!("{name}[{index}][{}+{}]", part.start, part.len()),
            Role::Projection,
            cols,
            vec![piece],
        ))
    }

    /// The norm `name.weight` `[len]`, with `name.bias` if there is one.
    pub(super) fn norm(
        &mut self,
        name: &str,
        len: usize,
        style: NormStyle,
    ) -> Result<NormRecord, ImportError> {
        let weight = self.vector(&format!("{name}.weight"), len)?;
        let bias = match style.kind {
            norm_kind::LAYER => self.vector_if_any(&format!("{name}.bias"), len)?,
            _ => NONE,
        };
        Ok(NormRecord { kind: style.kind, weight, bias, eps: style.eps })
    }

    /// A block that reads the normed residual stream and is added to it.
    pub(super) fn join(&mut self, norm: &str, style: NormStyle) -> Result<JoinRecord, ImportError> {
        Ok(JoinRecord { norm: self.norm(norm, self.d_model, style)?, ..join(input::RESIDUAL) })
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

    /// Name of the decay rates under `prefix`: `A_log`, or `A` in checkpoints that have them as `-exp(A_log)`.
    pub(super) fn decay_name(&self, prefix: &str) -> String {
        let ready = format!("{prefix}.A");
        if self.has(&ready) { ready } else { format!("{prefix}.A_log") }
    }

    /// The decay rates as the engine reads them: `A · log2(e)`, computed in f64. `name` is of
    /// [`decay_name`](Self::decay_name).
    pub(super) fn a_log2(&mut self, name: &str, shape: &[usize]) -> Result<u32, ImportError> {
        let values = self.values(name, shape)?;
        let a = |x: f32| if name.ends_with("_log") { -f64::from(x).exp() } else { f64::from(x) };
        let ready: Vec<f32> = values.iter().map(|&x| (a(x) * std::f64::consts::LOG2_E) as f32).collect();
        let bad = |element: usize| (name.to_owned(), element, ready[element]);
        if let Some((tensor, element, value)) = ready.iter().position(|a| !a.is_finite()).map(bad) {
            return Err(ImportError::NotFinite { tensor, element, value });
        }
        if let Some((tensor, element, value)) = ready.iter().position(|a| *a > 0.0).map(bad) {
            return Err(ImportError::Growth { tensor, element, value });
        }
        Ok(self.push_values(name, shape[0], ready))
    }

    /// Whether two tensors have the same shape and elements.
    fn equal(&self, a: &str, b: &str) -> Result<bool, ImportError> {
        const BLOCK: usize = 1 << 18;
        let shapes = [a, b].map(|name| self.checkpoint.tensor(name).map(|t| &t.shape));
        if shapes[0] != shapes[1] {
            return Ok(false);
        }
        let len: usize = shapes[0].into_iter().flatten().product();
        let mut blocks = [vec![0.0; BLOCK.min(len)], vec![0.0; BLOCK.min(len)]];
        for start in (0..len).step_by(BLOCK) {
            let count = BLOCK.min(len - start);
            for (name, block) in [a, b].into_iter().zip(&mut blocks) {
                self.checkpoint.read(name, start, &mut block[..count])?;
            }
            if blocks[0][..count] != blocks[1][..count] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the configuration says that the head is not the embedding; families have several names for that.
    fn is_untied(&self) -> Result<bool, ImportError> {
        let mut untied = false;
        for key in ["tie_word_embeddings", "tie_embeddings", "tie_embedding"] {
            match find_flag(self.config(), key)? {
                Some(true) => return Ok(false),
                stated => untied |= stated.is_some(),
            }
        }
        Ok(untied)
    }

    /// Input and output of a language model.
    pub(super) fn language_model(&mut self, frame: &Frame<'_>) -> Result<(), ImportError> {
        let [vocab, d_model] = self.shape(frame.embedding)?;
        self.d_model = d_model;
        let embedding = self.matrix(frame.embedding, Role::Embedding, vocab, d_model)?;
        let norm = self.norm(frame.final_norm, d_model, frame.norm)?;
        if !self.has(HEAD) && self.is_untied()? {
            return Err(ImportError::MissingTensor(HEAD.to_owned()));
        }
        // A stored head counts, whatever the configuration says; unless it is the embedding once more.
        let head = if self.has(HEAD) && !self.equal(frame.embedding, HEAD)? {
            self.matrix(HEAD, Role::Head, vocab, d_model)?
        } else {
            self.ignore(HEAD);
            embedding
        };
        let bias = self.vector_if_any("lm_head.bias", vocab)?;
        self.push(&TokenInput { embedding, scale: frame.embedding_scale });
        self.push(&LogitsOutput { norm, head, bias, scale: frame.logits_scale });
        Ok(())
    }

    /// Input and output of a frame model, with a last norm `norm`; gives the lengths of a frame and of a result.
    pub(super) fn frame_model(
        &mut self,
        norm: Option<NormStyle>,
        pool: u32,
        task: u32,
    ) -> Result<(usize, usize), ImportError> {
        let [d_model, frame_len] = self.shape("linear_in.weight")?;
        let [results, _] = self.shape("classifier.weight")?;
        self.d_model = d_model;
        let read_in = self.linear("linear_in", Role::Projection, d_model, frame_len)?;
        let norm = match norm {
            Some(style) => self.norm("norm", d_model, style)?,
            None => NormRecord::IDENTITY,
        };
        let head = self.linear("classifier", Role::Head, results, d_model)?;
        self.push(&FrameInput { read_in });
        self.push(&FrameOutput { norm, pool, task, head });
        Ok((frame_len, results))
    }
}

/// A join without a norm that is added to the residual stream.
pub(super) fn join(input: u32) -> JoinRecord {
    JoinRecord { input, norm: NormRecord::IDENTITY, output: output::RESIDUAL, scale: 1.0 }
}
