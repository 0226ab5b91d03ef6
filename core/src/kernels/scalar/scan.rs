//! The selective scan, on a state in any format.

use super::{SMALLEST, dot, held, largest};
use crate::kernels::{Decay, HELD, LANES, RESTS, Rests, RowSink, Scan, SsmState, fold, rests_len};
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
        SsmState::I8 { codes, scales, rests } => {
            scan_rows(p, heads, &mut Codes { codes, scales, rests, h: [0.0; STATE_GROUP] }, y);
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

/// The same of codes with [`Rests`]: `h = (code + rest / 16 - threshold) · scale`, what of the threshold is less than a
/// sixteenth being left in. `dither` is that with which they were rounded.
#[inline(always)]
pub fn expand_codes_and_rests(codes: &[i8], rests: &[Rests], scale: f32, dither: u32, h: &mut [f32]) {
    let (codes, tail) = codes.as_chunks();
    let (h, h_tail) = h.split_at_mut(codes.len() * RESTS);
    for (k, (codes, h)) in codes.iter().zip(h.as_chunks_mut().0).enumerate() {
        expand_line(codes, &rests[k], scale, spread(dither, k * RESTS), h);
    }
    if !tail.is_empty() {
        let (mut filled, mut filled_h, k) = ([0; RESTS], [0.0; RESTS], codes.len());
        filled[..tail.len()].copy_from_slice(tail);
        expand_line(&filled, &rests[k], scale, spread(dither, k * RESTS), &mut filled_h);
        h_tail.copy_from_slice(&filled_h[..h_tail.len()]);
    }
}

#[inline(always)]
fn expand_line(codes: &[i8; RESTS], rests: &Rests, scale: f32, dither: u32, h: &mut [f32; RESTS]) {
    let scale = scale / 16.0;
    let element = |i: usize, rest: u8| {
        let sixteenths = i32::from(codes[i]) << 4 | i32::from(rest);
        (sixteenths - (threshold(dither, i) >> 10)) as f32 * scale
    };
    for i in 0..LANES {
        h[i] = element(i, rests[i] & 15);
    }
    for i in 0..LANES {
        h[LANES + i] = element(LANES + i, rests[i] >> 4);
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
    let inverse = 127.0 / largest * 16384.0;
    for (n, (code, h)) in codes.iter_mut().zip(h).enumerate() {
        *code = ((fixed(*h, inverse) + threshold(dither, n)) >> 14) as i8;
    }
    largest / 127.0
}

/// The same with [`Rests`], the next four bits of `h / scale + threshold`.
///
/// The codes alone are what tokens read until the next rounding: they keep their thresholds, for nearest codes would read small
/// elements as zero for ever (perplexity after 100,000 tokens +0.2 % on average, up to +0.5 %). To take the whole threshold away
/// on reading gives the same error every time while little changes: -2.4 %.
#[inline(always)]
pub fn round_to_codes_and_rests(h: &[f32], codes: &mut [i8], rests: &mut [Rests], dither: u32) -> f32 {
    let largest = largest(h);
    if largest < SMALLEST {
        codes.fill(0);
        rests.fill([0; LANES]);
        return 0.0;
    }
    let inverse = 127.0 / largest * 16384.0;
    let (codes, tail) = codes.as_chunks_mut();
    let (h, h_tail) = h.split_at(codes.len() * RESTS);
    for (k, (codes, h)) in codes.iter_mut().zip(h.as_chunks().0).enumerate() {
        round_line(h, inverse, spread(dither, k * RESTS), codes, &mut rests[k]);
    }
    if !tail.is_empty() {
        let (mut filled_h, mut filled, k) = ([0.0; RESTS], [0; RESTS], codes.len());
        filled_h[..h_tail.len()].copy_from_slice(h_tail);
        round_line(&filled_h, inverse, spread(dither, k * RESTS), &mut filled, &mut rests[k]);
        tail.copy_from_slice(&filled[..tail.len()]);
    }
    largest / 127.0
}

#[inline(always)]
fn round_line(h: &[f32; RESTS], inverse: f32, dither: u32, codes: &mut [i8; RESTS], rests: &mut Rests) {
    let mut halves = [0; RESTS];
    for i in 0..RESTS {
        let fixed = fixed(h[i], inverse) + threshold(dither, i);
        codes[i] = (fixed >> 14) as i8;
        halves[i] = (fixed >> 10 & 15) as u8;
    }
    for i in 0..LANES {
        rests[i] = halves[i] | halves[LANES + i] << 4;
    }
}

/// `h · inverse` in fixed point with 14 bits, of up to 127: below 2^22, where `ROUND` rounds.
#[inline(always)]
fn fixed(h: f32, inverse: f32) -> i32 {
    (h * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()).cast_signed()
}

/// `dither` for a row's elements from `n` on.
#[inline(always)]
fn spread(dither: u32, n: usize) -> u32 {
    dither.wrapping_add((n as u32).wrapping_mul(0xc2b2_ae35))
}

/// The threshold of element `n` in fixed point with 14 bits.
#[inline(always)]
fn threshold(dither: u32, n: usize) -> i32 {
    (spread(dither, n) >> 18).cast_signed()
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
    rests: &'a mut [Rests],
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
        let (groups, lines) = (n.div_ceil(STATE_GROUP), rests_len(n));
        let scales = &mut self.scales[row * groups..(row + 1) * groups];
        let codes = self.codes[row * n..(row + 1) * n].chunks_mut(STATE_GROUP);
        // None are kept with a decay per element.
        let rests = self.rests.get_mut(row * lines..(row + 1) * lines).unwrap_or_default();
        let mut rests = rests.chunks_mut(rests_len(STATE_GROUP));
        // That of the time before, [`HELD`] tokens ago.
        let before = dither.wrapping_sub(self::dither(HELD as u64, 0));
        for (g, (codes, scale)) in codes.zip(scales).enumerate() {
            let mut rests = rests.next();
            let h = &mut self.h[..codes.len().next_multiple_of(LANES)];
            h[codes.len()..].fill(0.0);
            match &rests {
                Some(rests) => expand_codes_and_rests(codes, rests, *scale, before, h),
                None => expand_codes(codes, *scale, h),
            }
            for (k, h) in h.as_chunks_mut().0.iter_mut().enumerate() {
                step(g * STATE_GROUP / LANES + k, h);
            }
            *scale = match &mut rests {
                Some(rests) => round_to_codes_and_rests(h, codes, rests, dither),
                None => round_to_codes(h, codes, dither),
            };
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

    /// What comes out again is within a sixteenth of a code, whatever the row's length.
    #[test]
    fn codes_with_rests_are_sixteen_times_as_fine() {
        for n in 1..100 {
            let h: [f32; 100] = core::array::from_fn(|i| (i as f32 * 37.3) % 254.0 - 127.0);
            let (mut codes, mut rests, mut back) = ([0; 100], [[0xff; LANES]; 4], [9.0; 100]);
            let (codes, rests, dither) = (&mut codes[..n], &mut rests[..rests_len(n)], dither(3, n));
            let scale = round_to_codes_and_rests(&h[..n], codes, rests, dither);
            expand_codes_and_rests(codes, rests, scale, dither, &mut back[..n]);
            for (back, h) in back[..n].iter().zip(h) {
                assert!((back - h).abs() <= 1.01 / 16.0 * scale, "{n}: {back} for {h}");
            }
        }
    }

    #[test]
    fn rows_of_zeros_and_of_the_smallest_numbers_are_zeros() {
        let (mut codes, mut rests) = ([9; 20], [[9; LANES]]);
        assert_eq!(round_to_codes(&[1e-37; 20], &mut codes, 5), 0.0);
        assert_eq!(codes, [0; 20]);
        codes = [9; 20];
        assert_eq!(round_to_codes_and_rests(&[1e-37; 20], &mut codes, &mut rests, 5), 0.0);
        assert_eq!((codes, rests), ([0; 20], [[0; LANES]]));
    }

    #[test]
    fn halves_end_at_the_largest() {
        let mut halves = [f16::ZERO; 4];
        round_to_halves(&[1e9, f32::NEG_INFINITY, 65519.0, 0.1], &mut halves);
        assert_eq!(halves, [f16::MAX, f16::MIN, f16::MAX, f16::from_f32(0.1)]);
    }
}
