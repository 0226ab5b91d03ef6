//! The selective scan, on a state in any format.

use super::{SMALLEST, dot, held, largest};
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

/// Rounds to f16, ties to even; what is beyond the largest finite f16 becomes that.
#[inline(always)]
pub fn round_to_halves(h: &[f32], halves: &mut [f16]) {
    for (half, h) in halves.iter_mut().zip(h) {
        *half = f16::from_f32(at_least(at_most(*h, 65504.0), -65504.0));
    }
}

/// The elements of a group of codes: `h = code · scale`.
#[inline(always)]
pub fn expand_codes(codes: &[i8], scale: f32, h: &mut [f32]) {
    for (h, code) in h.iter_mut().zip(codes) {
        *h = f32::from(*code) * scale;
    }
}

/// Where a row's thresholds begin (see [`round_to_codes`]) after the token at `position` of the stream.
#[inline(always)]
pub fn dither(position: u64, channel: usize) -> u32 {
    let by_token = (position as u32).wrapping_mul(0x9e37_79b9);
    by_token.wrapping_add((channel as u32).wrapping_mul(0x85eb_ca6b))
}

/// Rounds a group of elements to codes and returns their scale, `max|h| / 127`: `code = floor(h / scale + threshold)`.
///
/// The thresholds, in 0..1, differ from element to element and from token to token in steps of golden-ratio kind
/// (Weyl sequences), so that over any few tokens they are spread evenly, and what is too small for a code counts as
/// often as it should. Nearest codes would hold a slow decay for ever (0.999 · 100 is 100) and lose small inputs.
///
/// Measured with `sarit eval ppl` on the first 60 lines of `tests/data/indic-qa/lm-text.txt` (10,451 tokens), a Mamba-2 (the
/// averaged weights of legs 2 and 3 in `training/qa/RESULTS.md`) and rounding after every token, as with a decay per element;
/// perplexity over that of a state in f32: nearest codes +0.99 %; thresholds from a hash +0.30 %; these +0.13 %. To keep a
/// scale (times the decay) while it fits changes little (+1.11 % with nearest codes, +0.10 % with these) and is not done. A
/// state in f16, rounded to nearest: +0.02 %.
#[inline(always)]
pub fn round_to_codes(h: &[f32], codes: &mut [i8], dither: u32) -> f32 {
    let largest = largest(h);
    if largest < SMALLEST {
        codes.fill(0);
        return 0.0;
    }
    // In fixed point with 14 bits: below 2^22, where `ROUND` rounds.
    let inverse = 127.0 / largest * 16384.0;
    for (n, (code, h)) in codes.iter_mut().zip(h).enumerate() {
        let fixed = (h * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
        let threshold = dither.wrapping_add((n as u32).wrapping_mul(0xc2b2_ae35)) >> 18;
        *code = ((fixed + threshold.cast_signed()) >> 14) as i8;
    }
    largest / 127.0
}

/// The state in one of its formats.
pub(super) trait Format {
    /// `sum_n c · h` of row `row`, which has as many elements as `c`.
    fn dot(&self, row: usize, c: &[f32]) -> f32;

    /// Calls `step(k, h)` for the elements `16 k..16 k + 16` of row `row`, the last ones filled up with zeros, and
    /// keeps what it has made of them, rounded. A row has `n` elements; `dither` is that of the row and token.
    fn step(&mut self, row: usize, n: usize, dither: u32, step: impl FnMut(usize, &mut [f32; LANES]));
}

impl Format for [f32] {
    #[inline(always)]
    fn dot(&self, row: usize, c: &[f32]) -> f32 {
        dot(c, &self[row * c.len()..(row + 1) * c.len()])
    }

    #[inline(always)]
    fn step(&mut self, row: usize, n: usize, _dither: u32, mut step: impl FnMut(usize, &mut [f32; LANES])) {
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

impl Format for [f16] {
    #[inline(always)]
    fn dot(&self, row: usize, c: &[f32]) -> f32 {
        dot_converted(c, &self[row * c.len()..(row + 1) * c.len()], f16::to_f32)
    }

    #[inline(always)]
    fn step(&mut self, row: usize, n: usize, _dither: u32, mut step: impl FnMut(usize, &mut [f32; LANES])) {
        for (k, halves) in self[row * n..(row + 1) * n].chunks_mut(LANES).enumerate() {
            let mut h = [0.0; LANES];
            h.iter_mut().zip(&*halves).for_each(|(h, half)| *h = half.to_f32());
            step(k, &mut h);
            round_to_halves(&h, halves);
        }
    }
}

/// A state in codes.
struct Codes<'a> {
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    /// A group's elements while they are stepped.
    h: [f32; STATE_GROUP],
}

impl Format for Codes<'_> {
    #[inline(always)]
    fn dot(&self, row: usize, c: &[f32]) -> f32 {
        let groups = c.len().div_ceil(STATE_GROUP);
        let codes = self.codes[row * c.len()..(row + 1) * c.len()].chunks(STATE_GROUP);
        let mut sum = 0.0;
        for (g, (c, codes)) in c.chunks(STATE_GROUP).zip(codes).enumerate() {
            sum += dot_converted(c, codes, f32::from) * self.scales[row * groups + g];
        }
        sum
    }

    #[inline(always)]
    fn step(&mut self, row: usize, n: usize, dither: u32, mut step: impl FnMut(usize, &mut [f32; LANES])) {
        let groups = n.div_ceil(STATE_GROUP);
        let scales = &mut self.scales[row * groups..(row + 1) * groups];
        let codes = self.codes[row * n..(row + 1) * n].chunks_mut(STATE_GROUP);
        for (g, (codes, scale)) in codes.zip(scales).enumerate() {
            let h = &mut self.h[..codes.len().next_multiple_of(LANES)];
            h[codes.len()..].fill(0.0);
            expand_codes(codes, *scale, h);
            for (k, h) in h.as_chunks_mut().0.iter_mut().enumerate() {
                step(g * STATE_GROUP / LANES + k, h);
            }
            *scale = round_to_codes(h, codes, dither);
        }
    }
}

/// `sum_i a[i] · b[i]`, the elements of `b` being converted one by one.
#[inline(always)]
fn dot_converted<E: Copy>(a: &[f32], b: &[E], convert: impl Fn(E) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * convert(*b);
        }
    }
    fold(lanes)
}

#[inline(always)]
fn scan_rows(p: &Scan<'_>, heads: Range<usize>, state: &mut (impl Format + ?Sized), y: &mut impl RowSink) {
    let (n, dim) = (p.d_state, p.head_dim);
    let a_log2 = match p.decay {
        Decay::Head { decay, held } if cfg!(feature = "head-decay") => {
            return held::scan(p, (decay, held), heads, state, y);
        }
        Decay::Head { .. } => unreachable!("a model that needs it is refused when it is opened"),
        Decay::Element(a_log2) => a_log2,
    };
    for head in heads.clone() {
        let group = head / (p.heads / p.n_groups);
        let first = (head - heads.start) * dim;
        let a = &a_log2[head * n..(head + 1) * n];
        for t in 0..p.x.count() {
            let dt = p.dt.row(t)[head];
            let b = &p.b.row(t)[group * n..(group + 1) * n];
            let c = &p.c.row(t)[group * n..(group + 1) * n];
            let x = &p.x.row(t)[head * dim..(head + 1) * dim];
            let d = &p.d[head * dim..(head + 1) * dim];
            let y = &mut y.row(t)[first..first + dim];
            for i in 0..dim {
                let dither = dither(p.position + t as u64, head * dim + i);
                y[i] = step_row(state, first + i, dither, dt, dt * x[i], a, b, c) + d[i] * x[i];
            }
        }
    }
}

/// `h = exp2(dt · a_log2) · h + u · b` in a row of the state; returns `sum_n c · h`, `h` not being rounded yet. All slices
/// have the row's length.
#[inline(always)]
fn step_row(
    state: &mut (impl Format + ?Sized),
    row: usize,
    dither: u32,
    dt: f32,
    u: f32,
    a_log2: &[f32],
    b: &[f32],
    c: &[f32],
) -> f32 {
    let mut lanes = [0.0; LANES];
    let mut step = |h: &mut [f32; LANES], a: &[f32; LANES], b: &[f32; LANES], c: &[f32; LANES]| {
        for i in 0..LANES {
            h[i] = exp2(dt * a[i]) * h[i] + u * b[i];
        }
        for i in 0..LANES {
            lanes[i] += c[i] * h[i];
        }
    };
    let ((a16, a_tail), (b16, b_tail), (c16, c_tail)) = (a_log2.as_chunks(), b.as_chunks(), c.as_chunks());
    state.step(row, b.len(), dither, |k, h| match (a16.get(k), b16.get(k), c16.get(k)) {
        (Some(a), Some(b), Some(c)) => step(h, a, b, c),
        _ => step(h, &load(a_tail), &load(b_tail), &load(c_tail)),
    });
    fold(lanes)
}

/// Up to 16 floats, filled up with zeros.
#[inline(always)]
pub(super) fn load(x: &[f32]) -> [f32; LANES] {
    match x.as_array() {
        Some(x) => *x,
        None => {
            let mut lanes = [0.0; LANES];
            lanes[..x.len()].copy_from_slice(x);
            lanes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 127 stays, 100 decays by 0.999, and 0 gets a hundredth of a code a token; for a thousand tokens.
    #[test]
    fn codes_follow_what_is_smaller_than_a_code() {
        let mut worst = [0.0f32; 2];
        for channel in 0..100 {
            let (mut codes, mut scale) = ([127i8, 100, 0], 1.0);
            for position in 0..1000 {
                let mut h = [0.0; 3];
                expand_codes(&codes, scale, &mut h);
                h[1] *= 0.999;
                h[2] += 0.01;
                scale = round_to_codes(&h, &mut codes, dither(position, channel));
            }
            assert_eq!((codes[0], scale), (127, 1.0));
            let want = [100.0 * 0.999f32.powi(1000), 10.0];
            for i in 0..2 {
                worst[i] = worst[i].max((f32::from(codes[i + 1]) - want[i]).abs());
            }
        }
        assert!(worst[0] <= 4.0 && worst[1] <= 2.0, "{worst:?}");
    }

    #[test]
    fn rows_of_zeros_and_of_the_smallest_numbers_are_zeros() {
        let mut codes = [9; 20];
        assert_eq!(round_to_codes(&[1e-37; 20], &mut codes, 5), 0.0);
        assert_eq!(codes, [0; 20]);
    }

    #[test]
    fn halves_end_at_the_largest() {
        let mut halves = [f16::ZERO; 4];
        round_to_halves(&[1e9, f32::NEG_INFINITY, 65519.0, 0.1], &mut halves);
        assert_eq!(halves, [f16::MAX, f16::MIN, f16::MAX, f16::from_f32(0.1)]);
    }
}
