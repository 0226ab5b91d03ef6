//! The selective scan, on a state in any format.

use super::{SMALLEST, largest};
use crate::kernels::{Decay, LANES, RowSink, Scan, SsmState, fold};
use crate::math::{ROUND, at_least, at_most, exp2};
use crate::state::STATE_GROUP;
use core::ops::Range;
use half::f16;

/// Steps the heads `heads` through all tokens. `state` and `y` hold those heads only.
#[inline(always)]
pub fn scan(p: &Scan<'_>, heads: Range<usize>, state: SsmState<'_>, y: &mut impl RowSink) {
    match state {
        SsmState::F32(h) => scan_rows(p, heads, h, y),
        SsmState::F16(h) => scan_rows(p, heads, h, y),
        SsmState::I8 { codes, scales } => {
            scan_rows(p, heads, &mut Codes { codes, scales, h: [0.0; STATE_GROUP] }, y);
        }
    }
}

/// The state in one of its formats.
trait Format {
    /// Calls `step(k, h)` for the elements `16 k..16 k + 16` of row `row`, the last ones filled up with zeros, and
    /// keeps what it has made of them, rounded. A row has `n` elements.
    fn step(&mut self, row: usize, n: usize, step: impl FnMut(usize, &mut [f32; LANES]));
}

impl Format for [f32] {
    #[inline(always)]
    fn step(&mut self, row: usize, n: usize, mut step: impl FnMut(usize, &mut [f32; LANES])) {
        let (whole, tail) = self[row * n..(row + 1) * n].as_chunks_mut();
        for (k, h) in whole.iter_mut().enumerate() {
            step(k, h);
        }
        if !tail.is_empty() {
            let mut h = load(tail);
            step(whole.len(), &mut h);
            tail.copy_from_slice(&h[..tail.len()]);
        }
    }
}

/// Values beyond the largest finite f16 become that.
impl Format for [f16] {
    #[inline(always)]
    fn step(&mut self, row: usize, n: usize, mut step: impl FnMut(usize, &mut [f32; LANES])) {
        for (k, stored) in self[row * n..(row + 1) * n].chunks_mut(LANES).enumerate() {
            let mut h = [0.0; LANES];
            h.iter_mut().zip(&*stored).for_each(|(h, stored)| *h = stored.to_f32());
            step(k, &mut h);
            for (stored, h) in stored.iter_mut().zip(h) {
                *stored = f16::from_f32(at_least(at_most(h, 65504.0), -65504.0));
            }
        }
    }
}

/// `h = code · scale`; per group of a row `scale = max|h| / 127` and `code = round(h / scale)`, ties to even.
struct Codes<'a> {
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    /// A group's elements while they are stepped.
    h: [f32; STATE_GROUP],
}

impl Format for Codes<'_> {
    #[inline(always)]
    fn step(&mut self, row: usize, n: usize, mut step: impl FnMut(usize, &mut [f32; LANES])) {
        let groups = n.div_ceil(STATE_GROUP);
        let scales = &mut self.scales[row * groups..(row + 1) * groups];
        let codes = self.codes[row * n..(row + 1) * n].chunks_mut(STATE_GROUP);
        for (g, (codes, scale)) in codes.zip(scales).enumerate() {
            let lanes = &mut self.h.as_chunks_mut::<LANES>().0[..codes.len().div_ceil(LANES)];
            for (k, (h, codes)) in lanes.iter_mut().zip(codes.chunks(LANES)).enumerate() {
                *h = [0.0; LANES];
                h.iter_mut().zip(codes).for_each(|(h, code)| *h = f32::from(*code) * *scale);
                step(g * STATE_GROUP / LANES + k, h);
            }
            let h = lanes.as_flattened();
            let largest = largest(h);
            let inverse = if largest < SMALLEST { 0.0 } else { 127.0 / largest };
            *scale = if largest < SMALLEST { 0.0 } else { largest / 127.0 };
            for (code, h) in codes.iter_mut().zip(h) {
                *code = (h * inverse + ROUND).to_bits() as i8;
            }
        }
    }
}

#[inline(always)]
fn scan_rows(
    p: &Scan<'_>,
    heads: Range<usize>,
    state: &mut (impl Format + ?Sized),
    y: &mut impl RowSink,
) {
    let (n, dim) = (p.d_state, p.head_dim);
    for head in heads.clone() {
        let group = head / (p.heads / p.n_groups);
        let first = (head - heads.start) * dim;
        for t in 0..p.x.count() {
            let dt = p.dt.row(t)[head];
            let b = &p.b.row(t)[group * n..(group + 1) * n];
            let c = &p.c.row(t)[group * n..(group + 1) * n];
            let x = &p.x.row(t)[head * dim..(head + 1) * dim];
            let d = &p.d[head * dim..(head + 1) * dim];
            let y = &mut y.row(t)[first..first + dim];
            for i in 0..dim {
                let (row, u) = (first + i, dt * x[i]);
                let sum = match p.decay {
                    Decay::Head(decay) => {
                        let decay = decay.row(t)[head];
                        step_row(state, row, u, b, b, c, |_| [decay; LANES])
                    }
                    Decay::Element(a_log2) => {
                        let a = &a_log2[head * n..(head + 1) * n];
                        step_row(state, row, u, a, b, c, |a| a.map(|a| exp2(dt * a)))
                    }
                };
                y[i] = sum + d[i] * x[i];
            }
        }
    }
}

/// `h = decay(a) · h + u · b` in a row of the state; returns `sum_n c · h`, `h` not being rounded yet. All slices have
/// the row's length; a `decay` that is the same for all elements ignores `a`.
#[inline(always)]
fn step_row(
    state: &mut (impl Format + ?Sized),
    row: usize,
    u: f32,
    a: &[f32],
    b: &[f32],
    c: &[f32],
    decay: impl Fn(&[f32; LANES]) -> [f32; LANES],
) -> f32 {
    let mut lanes = [0.0; LANES];
    let mut step = |h: &mut [f32; LANES], a: &[f32; LANES], b: &[f32; LANES], c: &[f32; LANES]| {
        let decay = decay(a);
        for i in 0..LANES {
            h[i] = decay[i] * h[i] + u * b[i];
        }
        for i in 0..LANES {
            lanes[i] += c[i] * h[i];
        }
    };
    let ((a16, a_tail), (b16, b_tail), (c16, c_tail)) = (a.as_chunks(), b.as_chunks(), c.as_chunks());
    state.step(row, b.len(), |k, h| match (a16.get(k), b16.get(k), c16.get(k)) {
        (Some(a), Some(b), Some(c)) => step(h, a, b, c),
        _ => step(h, &load(a_tail), &load(b_tail), &load(c_tail)),
    });
    fold(lanes)
}

/// Up to 16 floats, filled up with zeros.
#[inline(always)]
fn load(x: &[f32]) -> [f32; LANES] {
    match x.as_array() {
        Some(x) => *x,
        None => {
            let mut lanes = [0.0; LANES];
            lanes[..x.len()].copy_from_slice(x);
            lanes
        }
    }
}
