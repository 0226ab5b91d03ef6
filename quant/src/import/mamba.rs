//! Mamba-1: Hugging Face `mamba`, and the state-spaces authors' own format.

use sarit_core::plan::SsmRecord;

use super::ImportError;
use super::builder::{Builder, expect_silu, flag};
use crate::checkpoint::Checkpoint;
use crate::import::mamba2::Format;
use crate::recipe::{Recipe, Role};

/// Both formats have the same tensors but for the embedding's name.
pub(super) fn import(checkpoint: &Checkpoint) -> Result<Recipe, ImportError> {
    let mut b = Builder::new(checkpoint);
    let format = Format::of(b.config())?;
    expect_silu(b.config(), "hidden_act")?;
    let bias = flag(format.ssm_config, format.bias_key, false)?;
    let conv_bias = flag(format.ssm_config, format.conv_bias_key, true)?;

    let d_model = b.language_model(format.embedding, "backbone.norm_f.weight", format.tied, format.eps)?;
    for layer in 0..format.layers {
        let name = |part: &str| format!("backbone.layers.{layer}.{part}");
        let mixer = |part: &str| name(&format!("mixer.{part}"));
        let [d_inner, d_state] = b.shape(&mixer("A_log"))?;
        let [_, dt_rank] = b.shape(&mixer("dt_proj.weight"))?;
        let [_, _, conv_width] = b.shape(&mixer("conv1d.weight"))?;

        let join = b.join(&name("norm.weight"), d_model, format.eps)?;
        // [x | z] in the checkpoint, [z | x] in the engine.
        let halves = [d_inner..2 * d_inner, 0..d_inner];
        let in_proj =
            b.matrix_of(&mixer("in_proj.weight"), Role::Projection, &halves, 2 * d_inner, d_model)?;
        let in_bias = if bias {
            let mut values = b.values(&mixer("in_proj.bias"), &[2 * d_inner])?;
            values.rotate_left(d_inner);
            b.push_values(&mixer("in_proj.bias"), 1, values)
        } else {
            sarit_core::plan::NONE
        };
        let record = SsmRecord {
            join,
            heads: d_inner as u32,
            head_dim: 1,
            d_state: d_state as u32,
            n_groups: 1,
            conv_width: conv_width as u32,
            conv_silu: 1,
            in_proj,
            in_bias,
            conv_weight: b.conv_weight(&mixer("conv1d.weight"), d_inner, conv_width)?,
            conv_bias: b.vector_if(conv_bias, &mixer("conv1d.bias"), d_inner)?,
            x_proj: b.matrix(&mixer("x_proj.weight"), Role::Selection, dt_rank + 2 * d_state, d_inner)?,
            dt_proj: b.matrix(&mixer("dt_proj.weight"), Role::Selection, d_inner, dt_rank)?,
            dt_bias: b.vector(&mixer("dt_proj.bias"), d_inner)?,
            dt_min: 0.0,
            dt_max: f32::INFINITY,
            a_log2: b.a_log2(&mixer("A_log"), &[d_inner, d_state])?,
            d: b.vector(&mixer("D"), d_inner)?,
            gate_norm: sarit_core::plan::NONE,
            gate_norm_eps: 0.0,
            out_proj: b.matrix(&mixer("out_proj.weight"), Role::Projection, d_model, d_inner)?,
            out_bias: b.vector_if(bias, &mixer("out_proj.bias"), d_model)?,
        };
        b.recipe().push(&record);
    }
    b.finish()
}
