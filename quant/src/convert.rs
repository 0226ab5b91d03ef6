//! The whole way from a checkpoint to a model file.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use sarit_core::plan::StateFormat;
use sarit_core::{DType, StateDType};
use serde_json::{Map, Value, json};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::import::{self, ImportError};
use crate::recipe::{Source, TensorRecipe};
use crate::{atomic, write};

/// How to convert.
#[derive(Debug, Clone)]
pub struct Options {
    /// Format of the matrices. With `q4`, those that bear it badly (see [`Role`](crate::recipe::Role)) are kept at
    /// `q8`; matrices too small to gain from a quantized format stay `f32`.
    pub weights: DType,
    /// Element type that states have unless a caller asks for another.
    pub state: StateDType,
    /// Positions that attention layers keep; `None` for as many as the model was trained for, at most 4096.
    pub window: Option<usize>,
    /// Fields for the model's `meta`, put over those that the converter finds itself: name, languages, licence,
    /// source, prompt.
    pub meta: Map<String, Value>,
}

impl Default for Options {
    /// Matrices in `q8`, states in f32, attention over as many positions as fit.
    fn default() -> Self {
        Self { weights: DType::Q8, state: StateDType::F32, window: None, meta: Map::new() }
    }
}

/// How far a conversion is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The checkpoint tensor being read.
    pub tensor: &'a str,
    /// Elements read so far.
    pub done: u64,
    /// Elements to be read; small tensors have been read before and do not count.
    pub total: u64,
}

/// What quantization did to one matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorReport {
    /// Name in the model file.
    pub name: String,
    /// Format that it was written in.
    pub dtype: DType,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Root of the squared error over the squared weights.
    pub relative_error: f64,
}

/// What was written.
#[derive(Debug, Clone)]
pub struct Report {
    /// Length of the model file in bytes.
    pub file_bytes: u64,
    /// Its `meta`.
    pub meta: Value,
    /// Matrices in the order of the file.
    pub tensors: Vec<TensorReport>,
}

/// Why a conversion failed. A file that stood at the output path is untouched, and nothing is left beside it; only where
/// [`ConvertError::Write`] is about the folder may the new file, which is whole, stand there already.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint is not of a kind that can be imported, or not whole.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A weight is infinite or not a number.
    #[error("tensor {tensor:?} of the checkpoint holds {value} at element {element}; weights must be finite")]
    NotFinite {
        /// The checkpoint tensor.
        tensor: String,
        /// Which element, in row-major order.
        element: usize,
        /// What stands there.
        value: f32,
    },
    /// A weight is too large for the format asked for.
    #[error(
        "tensor {tensor:?} holds a weight of {weight}, too large for this format; convert with --weights f32"
    )]
    WeightSize {
        /// The tensor.
        tensor: String,
        /// The weight.
        weight: f32,
    },
    /// A tensor is larger than the file format or the machine can address.
    #[error("tensor {0:?} is too large to be written")]
    TensorSize(String),
    /// The output cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The output path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Writing failed; becomes [`ConvertError::Write`] where the path is known.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The progress callback asked to stop.
    #[error("interrupted; nothing was written")]
    Interrupted,
}

/// Converts the checkpoint at `source` (a folder, or a weights file in one) and writes `out`.
///
/// Memory is bounded by the largest matrix row times 16 for each processor, its scales, and the small tensors; `progress` is called
/// for every few rows and can stop the conversion.
///
/// # Errors
/// See [`ConvertError`].
pub fn convert(
    source: &Path,
    out: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Report, ConvertError> {
    let checkpoint = Checkpoint::open(source)?;
    let mut recipe = import::import(&checkpoint, options.window)?;
    if options.state != StateDType::F32 {
        recipe.push_after_output(&StateFormat { dtype: options.state as u32 });
    }
    let tokenizer = checkpoint.file("tokenizer.json")?;
    let found = import::meta(&checkpoint, tokenizer.as_deref())?;

    let dtypes: Vec<DType> = recipe
        .tensors
        .iter()
        .map(|t| match t.source {
            Source::Values(_) => DType::F32,
            Source::Rows { role, .. } => role.format(t.rows, t.cols, options.weights),
        })
        .collect();
    let is_read = |t: &&TensorRecipe| matches!(t.source, Source::Rows { .. });
    let total = recipe.tensors.iter().filter(is_read).map(|t| (t.rows * t.cols) as u64).sum();
    let mut done = 0;
    let mut read = |name: &str, start: usize, block: &mut [f32]| {
        checkpoint.read(name, start, block)?;
        check_finite(name, start, block)?;
        done += block.len() as u64;
        match progress(Progress { tensor: name, done, total }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ConvertError::Interrupted),
        }
    };
    let mut written = (Value::Null, Vec::new());
    let content = write::Content { recipe: &recipe, dtypes: &dtypes, tokenizer: tokenizer.as_deref() };
    let result = atomic::write(out, |file| {
        write::write(file, &content, &mut read, |tensors| {
            let mut meta = found;
            meta.insert("quantization".into(), quantization_json(options.weights, &tensors));
            meta.extend(options.meta.clone());
            written = (Value::Object(meta), tensors);
            written.0.to_string().into_bytes()
        })
    });
    let file_bytes = result.map_err(|e| match e {
        ConvertError::Io(source) => ConvertError::Write { path: out.to_owned(), source },
        other => other,
    })?;
    let (meta, tensors) = written;
    Ok(Report { file_bytes, meta, tensors })
}

pub(crate) fn check_finite(tensor: &str, start: usize, block: &[f32]) -> Result<(), ConvertError> {
    match block.iter().position(|x| !x.is_finite()) {
        Some(i) => {
            Err(ConvertError::NotFinite { tensor: tensor.to_owned(), element: start + i, value: block[i] })
        }
        None => Ok(()),
    }
}

fn quantization_json(weights: DType, tensors: &[TensorReport]) -> Value {
    let rows: Map<String, Value> = tensors
        .iter()
        .map(|t| {
            let entry = json!({
                "dtype": t.dtype.name(),
                "shape": [t.rows, t.cols],
                "relative_error": t.relative_error,
            });
            (t.name.clone(), entry)
        })
        .collect();
    json!({ "weights": weights.name(), "tensors": rows })
}
