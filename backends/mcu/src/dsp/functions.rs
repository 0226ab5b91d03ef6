//! Operations that apply an elementary function to every element.

use super::exp;
use super::exp2::BLOCK;
use sarit_core::kernels::{Conv, RowSink, Rows, RowsMut, TimeStep};

/// Elements of a gate worked on together: enough that a call costs little, few enough for a small stack.
const PART: usize = 4 * BLOCK;

/// Applies a function of blocks to all elements; the last ones are filled up to a block.
#[inline(always)]
fn apply(f: impl Fn(&mut [[f32; BLOCK]]), x: &mut [f32]) {
    let (blocks, rest) = x.as_chunks_mut();
    f(blocks);
    if !rest.is_empty() {
        let mut block = [0.0; BLOCK];
        block[..rest.len()].copy_from_slice(rest);
        f(core::slice::from_mut(&mut block));
        rest.copy_from_slice(&block[..rest.len()]);
    }
}

/// `y = y · silu(gate)`, or `silu(y)` without a gate.
pub(super) fn silu(gate: Option<Rows<'_>>, count: usize, y: &mut impl RowSink) {
    for t in 0..count {
        let Some(gate) = gate else {
            apply(exp::silu, y.row(t));
            continue;
        };
        for (y, gate) in y.row(t).chunks_mut(PART).zip(gate.row(t).chunks(PART)) {
            let mut part = [0.0; PART];
            let part = &mut part[..gate.len()];
            part.copy_from_slice(gate);
            apply(exp::silu, part);
            y.iter_mut().zip(&*part).for_each(|(y, s)| *y *= s);
        }
    }
}

/// See [`sarit_core::Kernels::conv`]; the width is 4.
pub(super) fn conv4(conv: &Conv<'_>, window: &mut [f32], mut x: RowsMut<'_>) {
    let channels = conv.channels;
    for t in 0..x.count() {
        let x = &mut x.row(t)[..channels];
        let (oldest, rest) = window.split_at_mut(channels);
        let (older, old) = rest.split_at_mut(channels);
        let (w0, rest) = conv.weight.split_at(channels);
        let (w1, rest) = rest.split_at(channels);
        let (w2, w3) = rest.split_at(channels);
        let (old, w3) = (&mut old[..channels], &w3[..channels]);
        for i in 0..channels {
            let bias = match conv.bias {
                Some(bias) => bias[i],
                None => 0.0,
            };
            let (a, b, c, d) = (oldest[i], older[i], old[i], x[i]);
            (oldest[i], older[i], old[i]) = (b, c, d);
            x[i] = (((bias + w0[i] * a) + w1[i] * b) + w2[i] * c) + w3[i] * d;
        }
        if conv.silu {
            apply(exp::silu, x);
        }
    }
}

/// See [`sarit_core::Kernels::time_step`].
pub(super) fn time_step(p: &TimeStep<'_>, mut x: RowsMut<'_>) {
    // Softplus is at least 0 and never infinite: these bounds change nothing.
    let unbounded = p.min <= 0.0 && p.max == f32::INFINITY;
    for t in 0..x.count() {
        let x = x.row(t);
        x.iter_mut().zip(p.bias).for_each(|(x, bias)| *x += bias);
        apply(exp::softplus, x);
        if !unbounded {
            for dt in x {
                let at_least = if *dt < p.min { p.min } else { *dt };
                *dt = if at_least > p.max { p.max } else { at_least };
            }
        }
    }
}
