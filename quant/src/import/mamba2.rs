//! Mamba-2: Hugging Face `mamba2`, and the state-spaces authors' own format.

use sarit_core::plan::{NONE, SsmRecord};
use serde_json::Value;

use super::ImportError;
use super::builder::{Builder, count, dt_limits, expect_silu, flag, positive};
use crate::checkpoint::Checkpoint;
use crate::recipe::{Recipe, Role};

/// What the two formats of Mamba-1 and Mamba-2 call the same things.
pub(super) struct Format<'c> {
    /// The embedding's name.
    pub(super) embedding: &'static str,
    /// Number of layers.
    pub(super) layers: usize,
    /// Whether the head is the embedding.
    pub(super) tied: bool,
    /// Of every norm.
    pub(super) eps: f32,
    /// The object that holds the options of the state-space layers.
    pub(super) ssm_config: &'c Value,
    /// In it: whether the projections have biases.
    pub(super) bias_key: &'static str,
    /// In it: whether the convolution has one.
    pub(super) conv_bias_key: &'static str,
    groups_key: &'static str,
    groups_default: usize,
    dt_limit_key: &'static str,
}

impl<'c> Format<'c> {
    pub(super) fn of(config: &'c Value) -> Result<Self, ImportError> {
        let ssm = &config["ssm_cfg"];
        if config.get("model_type").is_some() || !ssm.is_object() {
            return Ok(Self {
                embedding: "backbone.embeddings.weight",
                layers: count(config, "num_hidden_layers", 0)?,
                tied: flag(config, "tie_word_embeddings", true)?,
                eps: positive(config, "layer_norm_epsilon", 1e-5)?,
                ssm_config: config,
                bias_key: "use_bias",
                conv_bias_key: "use_conv_bias",
                groups_key: "n_groups",
                groups_default: 8,
                dt_limit_key: "time_step_limit",
            });
        }
        let refuse = |key: &str| Err(ImportError::Option { key: key.to_owned(), value: config[key].clone() });
        if !flag(config, "rms_norm", true)? {
            return refuse("rms_norm");
        }
        if config["attn_layer_idx"].as_array().is_some_and(|layers| !layers.is_empty()) {
            return refuse("attn_layer_idx");
        }
        if config["d_intermediate"].as_u64().is_some_and(|n| n > 0) {
            return refuse("d_intermediate");
        }
        Ok(Self {
            embedding: "backbone.embedding.weight",
            layers: count(config, "n_layer", 0)?,
            tied: flag(config, "tie_embeddings", true)?,
            eps: 1e-5,
            ssm_config: ssm,
            bias_key: "bias",
            conv_bias_key: "conv_bias",
            groups_key: "ngroups",
            groups_default: 1,
            dt_limit_key: "dt_limit",
        })
    }
}

pub(super) fn import(checkpoint: &Checkpoint) -> Result<Recipe, ImportError> {
    let mut b = Builder::new(checkpoint);
    let format = Format::of(b.config())?;
    expect_silu(b.config(), "hidden_act")?;
    let bias = flag(format.ssm_config, format.bias_key, false)?;
    let conv_bias = flag(format.ssm_config, format.conv_bias_key, true)?;
    let n_groups = count(format.ssm_config, format.groups_key, format.groups_default)?;
    let (dt_min, dt_max) = dt_limits(format.ssm_config, format.dt_limit_key)?;

    let d_model = b.language_model(format.embedding, "backbone.norm_f.weight", format.tied, format.eps)?;
    for layer in 0..format.layers {
        let name = |part: &str| format!("backbone.layers.{layer}.{part}");
        let mixer = |part: &str| name(&format!("mixer.{part}"));
        let [heads] = b.shape(&mixer("A_log"))?;
        let [_, d_inner] = b.shape(&mixer("out_proj.weight"))?;
        let [conv_channels, _, conv_width] = b.shape(&mixer("conv1d.weight"))?;
        if d_inner % heads != 0 {
            return Err(b.bad_shape(&mixer("A_log")));
        }
        let bc = conv_channels.checked_sub(d_inner).filter(|n| *n > 0 && n % (2 * n_groups) == 0);
        let bc = bc.ok_or_else(|| b.bad_shape(&mixer("conv1d.weight")))?;
        if heads % n_groups != 0 {
            let (key, value) = (format.groups_key.to_owned(), n_groups.into());
            return Err(ImportError::Number { key, value, expected: "a divisor of the number of heads" });
        }
        let in_rows = d_inner + conv_channels + heads;

        // D is one number per head, or (D_has_hdim) one per channel.
        let skip = mixer("D");
        let per_head = b.shape(&skip).is_ok_and(|[n]| n == heads);
        let mut d = b.values(&skip, &[if per_head { heads } else { d_inner }])?;
        if per_head {
            d = d.iter().flat_map(|d| std::iter::repeat_n(*d, d_inner / heads)).collect();
        }
        let gated = b.has(&mixer("norm.weight"));
        let record = SsmRecord {
            join: b.join(&name("norm.weight"), d_model, format.eps)?,
            heads: heads as u32,
            head_dim: (d_inner / heads) as u32,
            d_state: (bc / 2 / n_groups) as u32,
            n_groups: n_groups as u32,
            conv_width: conv_width as u32,
            conv_silu: 1,
            // [z | x | B | C | dt], as in the engine.
            in_proj: b.matrix(&mixer("in_proj.weight"), Role::Projection, in_rows, d_model)?,
            in_bias: b.vector_if(bias, &mixer("in_proj.bias"), in_rows)?,
            conv_weight: b.conv_weight(&mixer("conv1d.weight"), conv_channels, conv_width)?,
            conv_bias: b.vector_if(conv_bias, &mixer("conv1d.bias"), conv_channels)?,
            x_proj: NONE,
            dt_proj: NONE,
            dt_bias: b.vector(&mixer("dt_bias"), heads)?,
            dt_min,
            dt_max,
            a_log2: b.a_log2(&mixer("A_log"), &[heads])?,
            d: b.push_values(&skip, 1, d),
            gate_norm: b.vector_if(gated, &mixer("norm.weight"), d_inner)?,
            gate_norm_eps: format.eps,
            out_proj: b.matrix(&mixer("out_proj.weight"), Role::Projection, d_model, d_inner)?,
            out_bias: b.vector_if(bias, &mixer("out_proj.bias"), d_model)?,
        };
        b.recipe().push(&record);
    }
    b.finish()
}
