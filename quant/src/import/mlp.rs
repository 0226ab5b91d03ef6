//! Feed-forward blocks.

use sarit_core::plan::{JoinRecord, LinearRecord, MlpRecord};

use super::ImportError;
use super::builder::{Builder, Slice};
use crate::recipe::Role;

/// Adds `down(act(gate) ⊙ up)`; `names` are those of gate, up and down, without `.weight`.
pub(super) fn gated(
    b: &mut Builder<'_>,
    join: JoinRecord,
    names: [String; 3],
    activation: u32,
) -> Result<(), ImportError> {
    gated_with(b, join, names, activation, [1.0; 2])
}

/// The same with factors on the gate and on the output.
pub(super) fn gated_with(
    b: &mut Builder<'_>,
    join: JoinRecord,
    [gate, up, down]: [String; 3],
    activation: u32,
    [gate_factor, down_factor]: [f32; 2],
) -> Result<(), ImportError> {
    let d_model = b.d_model();
    let [d_ff, _] = b.shape(&format!("{up}.weight"))?;
    let scaled = |rows, factor| [Slice { rows: 0..rows, weight: factor, bias: factor }];
    let record = MlpRecord {
        join,
        d_ff: d_ff as u32,
        activation,
        gate: b.linear_of(&gate, Role::Projection, &scaled(d_ff, gate_factor), d_ff, d_model)?,
        up: b.linear(&up, Role::Projection, d_ff, d_model)?,
        down: b.linear_of(&down, Role::Projection, &scaled(d_model, down_factor), d_model, d_ff)?,
    };
    b.push(&record);
    Ok(())
}

/// Adds `down(act(up))`.
pub(super) fn plain(
    b: &mut Builder<'_>,
    join: JoinRecord,
    [up, down]: [String; 2],
    activation: u32,
) -> Result<(), ImportError> {
    let d_model = b.d_model();
    let [d_ff, _] = b.shape(&format!("{up}.weight"))?;
    let record = MlpRecord {
        join,
        d_ff: d_ff as u32,
        activation,
        gate: LinearRecord::NONE,
        up: b.linear(&up, Role::Projection, d_ff, d_model)?,
        down: b.linear(&down, Role::Projection, d_model, d_ff)?,
    };
    b.push(&record);
    Ok(())
}

/// Names of gate, up and down under a prefix, as most families have them.
pub(super) fn names(prefix: &str) -> [String; 3] {
    ["gate_proj", "up_proj", "down_proj"].map(|part| format!("{prefix}.{part}"))
}

/// Adds a gated MLP whose gate and up projections are one matrix `name.weight` `[2 · d_ff][d_model]`; `gate_first`
/// says which half comes first.
pub(super) fn fused(
    b: &mut Builder<'_>,
    join: JoinRecord,
    [both, down]: [String; 2],
    activation: u32,
    gate_first: bool,
) -> Result<(), ImportError> {
    let d_model = b.d_model();
    let [rows, _] = b.shape(&format!("{both}.weight"))?;
    if rows % 2 != 0 {
        return Err(b.bad_shape(&format!("{both}.weight")));
    }
    let d_ff = rows / 2;
    let mut half = |rows_of| b.linear_of(&both, Role::Projection, &[Slice::of(rows_of)], rows, d_model);
    let (first, second) = (half(0..d_ff)?, half(d_ff..rows)?);
    let (gate, up) = if gate_first { (first, second) } else { (second, first) };
    let down = b.linear(&down, Role::Projection, d_model, d_ff)?;
    b.push(&MlpRecord { join, d_ff: d_ff as u32, activation, gate, up, down });
    Ok(())
}
