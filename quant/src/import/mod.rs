//! Importers: one per model family. Each maps a checkpoint to plan records; none of it reaches a device.

mod attention;
mod bamba;
mod builder;
mod config;
mod falcon_h1;
mod frames;
mod granite;
mod jamba;
mod lfm2;
mod mamba;
mod meta;
mod mlp;
mod nemotron_h;
mod original;
mod phi_mamba;
mod ssm;
mod zamba2;

use serde_json::Value;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::recipe::Recipe;

pub(crate) use meta::meta;

/// Why a checkpoint cannot be imported. Each message is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The family named by the configuration is not supported.
    #[error("models of type {0:?} are not supported")]
    Family(String),
    /// The configuration does not say what family the model is of.
    #[error(
        "config.json names no \"model_type\", \"ssm_cfg\" or \"MixerModel\": not a model that can be imported"
    )]
    NoFamily,
    /// An option of the family is set to something that is not implemented.
    #[error("config.json sets {key:?} to {value}, which is not supported")]
    Option {
        /// The key.
        key: String,
        /// Its value.
        value: Value,
    },
    /// A number in the configuration is missing, of the wrong kind, or out of range.
    #[error("config.json needs {expected} as {key:?}, but has {value}")]
    Number {
        /// The key.
        key: String,
        /// What was found.
        value: Value,
        /// What is needed.
        expected: &'static str,
    },
    /// A window of no positions, or of more than a file can say.
    #[error("a window of {0} positions is not possible; it must be at least 1 and below 16777216")]
    Window(usize),
    /// A tensor that the family needs is not there.
    #[error("the checkpoint has no tensor {0:?}, which a model of its kind needs")]
    MissingTensor(String),
    /// A tensor has another shape than the others ask for.
    #[error("tensor {tensor:?} has shape {found:?} but {expected:?} is needed")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape needed.
        expected: Vec<usize>,
    },
    /// A tensor has a shape that cannot be.
    #[error("tensor {tensor:?} has shape {found:?}, which does not fit a model of its kind")]
    BadShape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
    },
    /// A tensor is there that the importer does not know: the model computes something that it would leave out.
    #[error(
        "the checkpoint holds tensor {0:?}, which models of its kind do not have: a variant that is not supported"
    )]
    UnknownTensor(String),
    /// A small tensor holds a number that is not finite.
    #[error("tensor {tensor:?} of the checkpoint holds {value} at element {element}; weights must be finite")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// Which element, in row-major order.
        element: usize,
        /// What stands there.
        value: f32,
    },
    /// A rate at which a state should decay makes it grow.
    #[error(
        "tensor {tensor:?} of the checkpoint holds {value} at element {element}; decay rates must not be positive"
    )]
    Growth {
        /// The tensor.
        tensor: String,
        /// Which element, in row-major order.
        element: usize,
        /// What stands there.
        value: f32,
    },
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Families that can be imported, by the `model_type` of their configuration. The last two are formats that state
/// none: those of the state-spaces authors and of the Phi-Mamba authors.
pub const FAMILIES: [&str; 13] = [
    "mamba",
    "mamba2",
    "falcon_mamba",
    "falcon_h1",
    "granitemoehybrid",
    "bamba",
    "jamba",
    "zamba2",
    "nemotron_h",
    "lfm2",
    FRAMES,
    "state-spaces",
    "phi-mamba",
];

/// The family of models that take frames of numbers instead of tokens.
const FRAMES: &str = "mamba_frame_classifier";

/// The family of a checkpoint, one of [`FAMILIES`] if it can be imported.
pub(crate) fn family(config: &Value) -> Result<&str, ImportError> {
    if let Some(family) = config["model_type"].as_str() {
        return Ok(family);
    }
    if config["MixerModel"].is_object() {
        return Ok("phi-mamba");
    }
    match &config["ssm_cfg"] {
        Value::Object(ssm) => match ssm.get("layer") {
            None => Ok("state-spaces"),
            Some(layer) if layer == "Mamba1" || layer == "Mamba2" => Ok("state-spaces"),
            Some(layer) => Err(ImportError::Family(layer.to_string())),
        },
        _ => Err(ImportError::NoFamily),
    }
}

/// Describes the checkpoint's model. Attention keeps `window` positions, or a number that fits the model.
pub(crate) fn import(checkpoint: &Checkpoint, window: Option<usize>) -> Result<Recipe, ImportError> {
    match family(checkpoint.config())? {
        "mamba" => mamba::import_mamba(checkpoint),
        "mamba2" => mamba::import_mamba2(checkpoint),
        "falcon_mamba" => mamba::import_falcon_mamba(checkpoint),
        "falcon_h1" => falcon_h1::import(checkpoint, window),
        "granitemoehybrid" => granite::import(checkpoint, window),
        "bamba" => bamba::import(checkpoint, window),
        "jamba" => jamba::import(checkpoint, window),
        "zamba2" => zamba2::import(checkpoint, window),
        "nemotron_h" => nemotron_h::import(checkpoint, window),
        "lfm2" => lfm2::import(checkpoint, window),
        FRAMES => frames::import(checkpoint),
        "state-spaces" => original::import(checkpoint, window),
        "phi-mamba" => phi_mamba::import(checkpoint, window),
        other => Err(ImportError::Family(other.to_owned())),
    }
}
