//! candle-transformers: `models::mamba` and `models::mamba2`.

use crate::{DType, timed};
use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{mamba, mamba2};
use serde_json::{Value, json};
use std::path::Path;

/// Seconds for `count` steps.
pub(crate) fn decode(checkpoint: &Path, dtype: DType, count: usize) -> Result<f64> {
    let dtype = if dtype == DType::F16 { candle_core::DType::F16 } else { candle_core::DType::F32 };
    let config: Value = serde_json::from_slice(&std::fs::read(checkpoint.join("config.json"))?)?;
    let weights = std::fs::read(checkpoint.join("model.safetensors"))?;
    let vb = VarBuilder::from_buffered_safetensors(weights, dtype, &Device::Cpu)?;
    let input = |id: u32| Tensor::new(&[id], &Device::Cpu);
    match config["model_type"].as_str().context("config.json lacks model_type")? {
        "mamba" => {
            let config: mamba::Config = serde_json::from_value(json!({
                "d_model": config["hidden_size"],
                "n_layer": config["num_hidden_layers"],
                "vocab_size": config["vocab_size"],
                "pad_vocab_size_multiple": 8,
            }))?;
            let vb = vb.rename_f(|name| name.replace("embedding.", "embeddings."));
            let model = mamba::Model::new(&config, vb.pp("backbone"))?;
            let mut state = mamba::State::new(1, &config, dtype, &Device::Cpu)?;
            timed(count, |id| Ok(model.forward(&input(id)?, &mut state).map(drop)?))
        }
        "mamba2" => {
            let config: mamba2::Config = serde_json::from_value(config)?;
            let model = mamba2::Model::new(&config, vb.pp("backbone"))?;
            let mut state = mamba2::State::new(1, &config, dtype, &Device::Cpu)?;
            timed(count, |id| Ok(model.forward(&input(id)?, &mut state).map(drop)?))
        }
        other => bail!("candle has no {other}"),
    }
}
