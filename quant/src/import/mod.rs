//! Importers: one per model family. Each maps a checkpoint to plan records; none of it reaches a device.

mod builder;
mod mamba;
mod mamba2;
mod meta;

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
        "config.json names neither a \"model_type\" nor an \"ssm_cfg\": not a model that can be imported"
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
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Describes the checkpoint's model.
pub(crate) fn import(checkpoint: &Checkpoint) -> Result<Recipe, ImportError> {
    let config = checkpoint.config();
    let family = match (config["model_type"].as_str(), config["ssm_cfg"].as_object()) {
        (Some(family), _) => family,
        // The state-spaces authors' own format names the layer instead; Mamba-1 is its default.
        (None, Some(ssm)) => match ssm.get("layer").map(|layer| layer.as_str()) {
            None | Some(Some("Mamba1")) => "mamba",
            Some(Some("Mamba2")) => "mamba2",
            Some(other) => return Err(ImportError::Family(other.unwrap_or("?").to_owned())),
        },
        (None, None) => return Err(ImportError::NoFamily),
    };
    match family {
        "mamba" => mamba::import(checkpoint),
        "mamba2" => mamba2::import(checkpoint),
        other => Err(ImportError::Family(other.to_owned())),
    }
}
