//! Frame models: small classifiers and regressors of sensor streams, as `training/sensors` and the authors of
//! MambaLite-Micro make them: a linear read-in, Mamba-1 mixers, a pool over frames and a linear head.
//!
//! A single mixer without norms is called `mamba`; otherwise mixers are `layers.{i}.mamba`, with `layers.{i}.norm`
//! before each and `norm` after the last if there are norms. The read-in is `linear_in`, the head `classifier`.
//! Standardization of the inputs is part of the read-in.

use sarit_core::plan::{JoinRecord, input, output, pool, task};
use serde_json::{Map, Value};

use super::ImportError;
use super::builder::{Builder, NormStyle, join};
use super::config::{agree, count, eps, find_names, flag, positive, refused};
use super::ssm::{Mamba1, SelectionNorms, mamba1};
use crate::checkpoint::Checkpoint;
use crate::recipe::Recipe;

pub(super) fn import(checkpoint: &Checkpoint) -> Result<Recipe, ImportError> {
    let mut b = Builder::new(checkpoint);
    let config = b.config();
    let norm = match config["norm"].as_str() {
        None if config["norm"].is_null() => None,
        Some("rms") => Some(NormStyle::rms(eps(config, "norm_eps", 1e-5)?)),
        _ => return Err(refused(config, "norm")),
    };
    let pool = match config["pool"].as_str() {
        Some("last") => pool::LAST,
        Some("mean") => pool::MEAN,
        Some("max") => pool::MAX,
        _ => return Err(refused(config, "pool")),
    };
    let task = match config["task"].as_str() {
        None if config["task"].is_null() => task::CLASSES,
        Some("classification") => task::CLASSES,
        Some("regression") => task::REGRESSION,
        _ => return Err(refused(config, "task")),
    };
    let output = if flag(config, "residual", false)? { output::RESIDUAL } else { output::REPLACE };
    let layers = count(config, "num_hidden_layers", 1)?;

    let (frame_len, results) = b.frame_model(norm, pool, task)?;
    agree(config, "input_size", frame_len)?;
    agree(config, "hidden_size", b.d_model())?;
    agree(config, "num_labels", results)?;
    find_names(config, "columns", frame_len)?;
    find_names(config, "labels", results)?;
    positive(config, "frame_interval_s", 1.0)?;
    for i in 0..layers {
        let plain = layers == 1 && norm.is_none();
        let prefix = if plain { "mamba".to_owned() } else { format!("layers.{i}.mamba") };
        let join = match norm {
            Some(style) => b.join(&format!("layers.{i}.norm"), style)?,
            None => join(input::RESIDUAL),
        };
        let mixer = Mamba1 { prefix: &prefix, conv_bias: None, bias: None, norms: SelectionNorms::None };
        mamba1(&mut b, JoinRecord { output, ..join }, &mixer)?;
    }
    b.finish()
}

/// What a user of the model has to know beside its sizes, as the configuration states it.
pub(super) fn meta(config: &Value) -> Map<String, Value> {
    let keys = ["columns", "labels", "frame_interval_s"];
    let stated = keys.into_iter().filter(|key| !config[*key].is_null());
    stated.map(|key| (key.to_owned(), config[key].clone())).collect()
}
