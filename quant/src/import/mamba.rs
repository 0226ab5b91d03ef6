//! Hugging Face `mamba`, `mamba2` and `falcon_mamba`: state-space blocks only.

use super::ImportError;
use super::builder::{Builder, Frame, NormStyle};
use super::config::{count, dt_limits, eps, expect_silu, find_flag};
use super::ssm::{Mamba1, Mamba2, SelectionNorms, mamba1, mamba2};
use crate::checkpoint::Checkpoint;
use crate::recipe::Recipe;

pub(super) fn import_mamba(checkpoint: &Checkpoint) -> Result<Recipe, ImportError> {
    mamba1_layers(checkpoint, SelectionNorms::None)
}

/// Mamba-1 with RMS norms without weights on dt_low, B and C.
pub(super) fn import_falcon_mamba(checkpoint: &Checkpoint) -> Result<Recipe, ImportError> {
    let eps = eps(checkpoint.config(), "mixer_rms_eps", 1e-6)?;
    mamba1_layers(checkpoint, SelectionNorms::Bare { eps })
}

fn mamba1_layers(checkpoint: &Checkpoint, norms: SelectionNorms) -> Result<Recipe, ImportError> {
    layers(checkpoint, |b, layer, join_norm, norm| {
        let (conv_bias, bias) = (find_flag(b.config(), "use_conv_bias")?, find_flag(b.config(), "use_bias")?);
        let join = b.join(join_norm, norm)?;
        mamba1(b, join, &Mamba1 { prefix: layer, conv_bias, bias, norms })
    })
}

pub(super) fn import_mamba2(checkpoint: &Checkpoint) -> Result<Recipe, ImportError> {
    let config = checkpoint.config();
    let n_groups = count(config, "n_groups", 8)?;
    let dt_limits = dt_limits(config, "time_step_limit")?;
    layers(checkpoint, |b, layer, join_norm, norm| {
        let conv_bias = find_flag(b.config(), "use_conv_bias")?;
        let bias = find_flag(b.config(), "use_bias")?;
        ["in_proj", "out_proj"].into_iter().try_for_each(|p| b.agree(bias, &format!("{layer}.{p}.bias")))?;
        let join = b.join(join_norm, norm)?;
        mamba2(b, join, &Mamba2 { conv_bias, ..Mamba2::new(layer, n_groups, dt_limits, norm.eps) })
    })
}

/// A model of layers that are all alike; `block` is given the names of the mixer and of the norm before it.
fn layers(
    checkpoint: &Checkpoint,
    block: impl Fn(&mut Builder<'_>, &str, &str, NormStyle) -> Result<(), ImportError>,
) -> Result<Recipe, ImportError> {
    let mut b = Builder::new(checkpoint);
    let config = b.config();
    expect_silu(config, "hidden_act")?;
    let norm = NormStyle::rms(eps(config, "layer_norm_epsilon", 1e-5)?);
    b.language_model(&Frame {
        embedding: "backbone.embeddings.weight",
        embedding_scale: 1.0,
        final_norm: "backbone.norm_f",
        norm,
        logits_scale: 1.0,
    })?;
    for i in 0..b.layers(config, "num_hidden_layers")? {
        let layer = format!("backbone.layers.{i}");
        block(&mut b, &format!("{layer}.mixer"), &format!("{layer}.norm"), norm)?;
    }
    b.finish()
}
