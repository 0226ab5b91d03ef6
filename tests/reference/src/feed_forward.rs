//! Feed-forward layers.

use crate::linalg::{add, map, multiply, scale};
use crate::weights::At;

/// `down( act(gate x) · up x )`
pub(crate) fn gated(w: &At, x: &[f64], act: fn(f64) -> f64) -> Vec<f64> {
    let gate = map(&w.linear("gate_proj", x), act);
    w.linear("down_proj", &multiply(&gate, &w.linear("up_proj", x)))
}

/// `down( act(up x) )`
pub(crate) fn plain(w: &At, x: &[f64], act: fn(f64) -> f64) -> Vec<f64> {
    w.linear("down_proj", &map(&w.linear("up_proj", x), act))
}

/// `Σ weight · expert(x)` over the chosen experts and their weights.
pub(crate) fn mixture(chosen: &[usize], weights: &[f64], expert: impl Fn(usize) -> Vec<f64>) -> Vec<f64> {
    let parts = chosen.iter().zip(weights).map(|(&e, &weight)| scale(&expert(e), weight));
    parts.reduce(|a, b| add(&a, &b)).expect("a mixture chooses at least one expert")
}
