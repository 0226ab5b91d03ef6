//! Operations that apply an elementary function to every element.

use super::exp;
use super::exp2::BLOCK;
use sarit_core::kernels::{RowSink, Rows, RowsMut, TimeStep};

/// Up to a block of numbers, filled up with zeros.
fn fill(x: &[f32]) -> [[f32; BLOCK]; 1] {
    let mut block = [0.0; BLOCK];
    block[..x.len()].copy_from_slice(x);
    [block]
}

/// `x = silu(x)`.
pub(super) fn silu(x: &mut [f32]) {
    let (blocks, rest) = x.as_chunks_mut();
    exp::silu(blocks);
    if !rest.is_empty() {
        let mut last = fill(rest);
        exp::silu(&mut last);
        rest.copy_from_slice(&last[0][..rest.len()]);
    }
}

/// `y = y · silu(gate)`.
pub(super) fn gate(gate: Rows<'_>, y: &mut impl RowSink) {
    for t in 0..gate.count() {
        let ((z, z_rest), (y, y_rest)) = (gate.row(t).as_chunks(), y.row(t).as_chunks_mut());
        exp::gate(z, y);
        if !y_rest.is_empty() {
            let mut last = fill(y_rest);
            exp::gate(&fill(z_rest), &mut last);
            y_rest.copy_from_slice(&last[0][..y_rest.len()]);
        }
    }
}

/// See [`sarit_core::Kernels::time_step`].
pub(super) fn time_step(p: &TimeStep<'_>, mut x: RowsMut<'_>) {
    // Softplus is at least 0 and never infinite: these bounds change nothing.
    let unbounded = p.min <= 0.0 && p.max == f32::INFINITY;
    for t in 0..x.count() {
        let x = x.row(t);
        let ((blocks, rest), (bias, bias_rest)) = (x.as_chunks_mut(), p.bias.as_chunks());
        exp::softplus(blocks, bias);
        if !rest.is_empty() {
            let mut last = fill(rest);
            exp::softplus(&mut last, &fill(bias_rest));
            rest.copy_from_slice(&last[0][..rest.len()]);
        }
        if !unbounded {
            for dt in x {
                let at_least = if *dt < p.min { p.min } else { *dt };
                *dt = if at_least > p.max { p.max } else { at_least };
            }
        }
    }
}
