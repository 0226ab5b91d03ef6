//! The selective scan.
//!
//! The sixteen lanes run along a channel's state, so each output ends in a fold across lanes. Sixteen channels are
//! therefore stepped together, whatever heads they belong to: within one head for Mamba-2, of sixteen heads for
//! Mamba-1, whose heads have one channel. They share B and C, so a block of channels ends where its group ends. All
//! tokens pass through a block before the next block begins: its state stays in the first-level cache.
//!
//! A state in f16 or in codes is stepped the same way in a block of floats, which it fills before each token and is
//! rounded from after it: memory sees only the small elements. A token through the scans of mamba2-130m (24 layers of
//! 24 heads x 64 x 128) took 2.80 ms in f32, 1.88 ms in f16 and 2.26 ms in i8 on one thread of an AMD EPYC with AVX2.
//! Rounding to codes by loops of sixteen, which the compiler was to make vectors of, took three times as long.

use super::Simd;
use crate::columns::Part;
use core::ops::Range;
use half::f16;
use sarit_core::STATE_GROUP;
use sarit_core::kernels::{Decay, LANES, RowSink, Scan, SsmState, scalar};
use sarit_core::math::exp2;

/// Channels whose steps are interleaved.
const BLOCK: usize = 4;

/// See [`sarit_core::kernels::scalar::scan`].
#[inline(always)]
pub(crate) fn scan<S: Simd>(
    simd: S,
    p: &Scan<'_>,
    heads: Range<usize>,
    state: SsmState<'_>,
    y: &mut Part<'_>,
) {
    match state {
        SsmState::F32(h) => scan_floats(simd, p, heads, h, y),
        state if p.d_state > STATE_GROUP => scalar::scan(p, heads, state, y),
        SsmState::F16(h) => scan_rounded(simd, p, heads, Halves(h), y),
        SsmState::I8 { codes, scales } => scan_rounded(simd, p, heads, Codes { codes, scales }, y),
    }
}

/// Channels of one group, up to 16 of them: ranges that make up those of `heads`, each with its group.
#[inline(always)]
fn blocks(p: &Scan<'_>, heads: &Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
    let group_channels = p.heads / p.n_groups * p.head_dim;
    let (mut start, channels_end) = (heads.start * p.head_dim, heads.end * p.head_dim);
    core::iter::from_fn(move || {
        let group = start / group_channels;
        let end = (start + LANES).min((group + 1) * group_channels).min(channels_end);
        let block = start..end;
        start = end;
        (!block.is_empty()).then_some((group, block))
    })
}

#[inline(always)]
fn scan_floats<S: Simd>(simd: S, p: &Scan<'_>, heads: Range<usize>, state: &mut [f32], y: &mut Part<'_>) {
    let (n, first) = (p.d_state, heads.start * p.head_dim);
    for (group, block) in blocks(p, &heads) {
        let rows = block.start - first..block.end - first;
        let state = &mut state[rows.start * n..rows.end * n];
        for t in 0..p.x.count() {
            step(simd, p, group, block.clone(), t, state, &mut y.row(t)[rows.clone()]);
        }
    }
}

/// The scan of a state in another format than f32, of rows that fit a group.
#[inline(always)]
fn scan_rounded<S: Simd>(
    simd: S,
    p: &Scan<'_>,
    heads: Range<usize>,
    mut state: impl Rounded<S>,
    y: &mut Part<'_>,
) {
    let (n, first) = (p.d_state, heads.start * p.head_dim);
    let mut floats = [0.0; LANES * STATE_GROUP];
    for (group, block) in blocks(p, &heads) {
        let rows = block.start - first..block.end - first;
        let floats = &mut floats[..rows.len() * n];
        for t in 0..p.x.count() {
            for (row, h) in rows.clone().zip(floats.chunks_exact_mut(n)) {
                state.expand(simd, row, h);
            }
            step(simd, p, group, block.clone(), t, floats, &mut y.row(t)[rows.clone()]);
            let position = p.position + t as u64;
            for ((row, channel), h) in rows.clone().zip(block.clone()).zip(floats.chunks_exact(n)) {
                state.round(simd, row, h, position, channel);
            }
        }
    }
}

/// A state that is stepped in floats and rounded.
trait Rounded<S> {
    /// The elements of row `row`.
    fn expand(&self, simd: S, row: usize, h: &mut [f32]);
    /// Rounds the elements of row `row`, which is `channel`, after the token at `position`.
    fn round(&mut self, simd: S, row: usize, h: &[f32], position: u64, channel: usize);
}

/// A state in f16.
struct Halves<'a>(&'a mut [f16]);

impl<S: Simd> Rounded<S> for Halves<'_> {
    #[inline(always)]
    fn expand(&self, simd: S, row: usize, h: &mut [f32]) {
        let n = h.len();
        let (halves, tail) = self.0[row * n..(row + 1) * n].as_chunks::<LANES>();
        let (floats, floats_tail) = h.as_chunks_mut::<LANES>();
        for (h, halves) in floats.iter_mut().zip(halves) {
            simd.store(simd.load_f16(halves), h);
        }
        if !tail.is_empty() {
            simd.store_part(simd.load_f16_part(tail), floats_tail);
        }
    }

    #[inline(always)]
    fn round(&mut self, simd: S, row: usize, h: &[f32], _position: u64, _channel: usize) {
        let n = h.len();
        let (halves, tail) = self.0[row * n..(row + 1) * n].as_chunks_mut::<LANES>();
        let (floats, floats_tail) = h.as_chunks::<LANES>();
        for (h, halves) in floats.iter().zip(halves) {
            simd.store_f16(simd.load(h), halves);
        }
        if !tail.is_empty() {
            let mut filled = [f16::ZERO; LANES];
            simd.store_f16(simd.load_part(floats_tail), &mut filled);
            tail.copy_from_slice(&filled[..tail.len()]);
        }
    }
}

/// A state in codes.
struct Codes<'a> {
    codes: &'a mut [i8],
    scales: &'a mut [f32],
}

impl<S: Simd> Rounded<S> for Codes<'_> {
    #[inline(always)]
    fn expand(&self, _simd: S, row: usize, h: &mut [f32]) {
        let n = h.len();
        scalar::expand_codes(&self.codes[row * n..(row + 1) * n], self.scales[row], h);
    }

    #[inline(always)]
    fn round(&mut self, _simd: S, row: usize, h: &[f32], position: u64, channel: usize) {
        let n = h.len();
        let codes = &mut self.codes[row * n..(row + 1) * n];
        self.scales[row] = scalar::round_to_codes(h, codes, scalar::dither(position, channel));
    }
}

/// Steps up to 16 channels of a group through token `t`; `state` and `y` are those of the channels.
#[inline(always)]
fn step<S: Simd>(
    simd: S,
    p: &Scan<'_>,
    group: usize,
    channels: Range<usize>,
    t: usize,
    state: &mut [f32],
    y: &mut [f32],
) {
    let n = p.d_state;
    let b = &p.b.row(t)[group * n..(group + 1) * n];
    let c = &p.c.row(t)[group * n..(group + 1) * n];
    let x = simd.load_part(&p.x.row(t)[channels.clone()]);
    let d = simd.load_part(&p.d[channels.clone()]);
    let dt = per_channel(p.dt.row(t), p.head_dim, channels.clone());
    let mut u = [0.0; LANES];
    simd.store(simd.mul(simd.load(&dt), x), &mut u);
    let mut sums = [simd.splat(0.0); LANES];
    match p.decay {
        Decay::Head(decay) => {
            let decay = per_channel(decay.row(t), p.head_dim, channels.clone());
            step_channels(simd, state, b, c, &u, &mut sums, Same { simd, decay: &decay });
        }
        Decay::Element(a_log2) => {
            let factors = Each { simd, a_log2, n, dim: p.head_dim, first: channels.start, dt: &dt };
            step_channels(simd, state, b, c, &u, &mut sums, factors);
        }
    }
    simd.store_part(simd.add(simd.fold(sums), simd.mul(d, x)), y);
}

/// The heads' values, for each channel.
#[inline(always)]
fn per_channel(heads: &[f32], dim: usize, channels: Range<usize>) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    if dim == 1 {
        out[..channels.len()].copy_from_slice(&heads[channels]);
        return out;
    }
    let mut i = 0;
    while i < channels.len() {
        let head = (channels.start + i) / dim;
        let end = ((head + 1) * dim - channels.start).min(channels.len());
        out[i..end].fill(heads[head]);
        i = end;
    }
    out
}

/// The factors by which state remains.
trait Factors<S: Simd>: Copy {
    /// What is the same for all of a channel.
    type Channel: Copy;

    /// Channel `i`.
    fn channel(self, i: usize) -> Self::Channel;
    /// Of the elements `at` (up to 16) of a channel.
    fn factors(self, channel: Self::Channel, at: Range<usize>) -> S::Floats;
}

/// One factor per channel.
#[derive(Clone, Copy)]
struct Same<'a, S> {
    simd: S,
    decay: &'a [f32; LANES],
}

impl<S: Simd> Factors<S> for Same<'_, S> {
    type Channel = S::Floats;

    #[inline(always)]
    fn channel(self, i: usize) -> S::Floats {
        self.simd.splat(self.decay[i])
    }

    #[inline(always)]
    fn factors(self, channel: S::Floats, _at: Range<usize>) -> S::Floats {
        channel
    }
}

/// `exp2(dt · a_log2)` per element.
#[derive(Clone, Copy)]
struct Each<'a, S> {
    simd: S,
    a_log2: &'a [f32],
    n: usize,
    dim: usize,
    first: usize,
    dt: &'a [f32; LANES],
}

impl<'a, S: Simd> Factors<S> for Each<'a, S> {
    type Channel = (f32, &'a [f32]);

    #[inline(always)]
    fn channel(self, i: usize) -> (f32, &'a [f32]) {
        let head = (self.first + i) / self.dim;
        (self.dt[i], &self.a_log2[head * self.n..(head + 1) * self.n])
    }

    #[inline(always)]
    fn factors(self, (dt, a_log2): (f32, &[f32]), at: Range<usize>) -> S::Floats {
        // Of a fixed length, so that it is computed in registers.
        let mut factors = [0.0; LANES];
        let a_log2 = &a_log2[at];
        match a_log2.as_array() {
            Some(a_log2) => factors = *a_log2,
            None => factors[..a_log2.len()].copy_from_slice(a_log2),
        }
        for factor in &mut factors {
            *factor = exp2(dt * *factor);
        }
        self.simd.load(&factors)
    }
}

/// `h = factor · h + u · b` for all channels of `state`; `sums[i]` becomes the lanes of `c · h` of channel `i`.
#[inline(always)]
fn step_channels<S: Simd>(
    simd: S,
    state: &mut [f32],
    b: &[f32],
    c: &[f32],
    u: &[f32; LANES],
    sums: &mut [S::Floats; LANES],
    factors: impl Factors<S>,
) {
    let n = b.len();
    let (blocks, rest) = state.split_at_mut(state.len() / (BLOCK * n) * (BLOCK * n));
    let mut i = 0;
    for block in blocks.chunks_exact_mut(BLOCK * n) {
        let (h01, h23) = block.split_at_mut(2 * n);
        let ((h0, h1), (h2, h3)) = (h01.split_at_mut(n), h23.split_at_mut(n));
        let block = step_some(simd, [h0, h1, h2, h3], b, c, u, i, factors);
        sums[i..i + BLOCK].copy_from_slice(&block);
        i += BLOCK;
    }
    for h in rest.chunks_exact_mut(n) {
        [sums[i]] = step_some(simd, [h], b, c, u, i, factors);
        i += 1;
    }
}

/// [`step_channels`] for `R` channels, of which `first` is the first.
#[inline(always)]
fn step_some<S: Simd, F: Factors<S>, const R: usize>(
    simd: S,
    h: [&mut [f32]; R],
    b: &[f32],
    c: &[f32],
    u: &[f32; LANES],
    first: usize,
    factors: F,
) -> [S::Floats; R] {
    let n = b.len();
    let (b16, b_tail) = b.as_chunks::<LANES>();
    let (c16, c_tail) = c.as_chunks::<LANES>();
    let mut sums = [simd.splat(0.0); R];
    let (mut channels, mut us) = ([factors.channel(first); R], [simd.splat(u[first]); R]);
    for r in 1..R {
        (channels[r], us[r]) = (factors.channel(first + r), simd.splat(u[first + r]));
    }
    for (k, (b, c)) in b16.iter().zip(c16).enumerate() {
        let (b, c) = (simd.load(b), simd.load(c));
        let at = k * LANES..(k + 1) * LANES;
        for r in 0..R {
            let h: &mut [f32; LANES] = (&mut h[r][at.clone()]).try_into().expect("16 elements");
            let kept = simd.mul(factors.factors(channels[r], at.clone()), simd.load(h));
            let new = simd.add(kept, simd.mul(us[r], b));
            simd.store(new, h);
            sums[r] = simd.add(sums[r], simd.mul(c, new));
        }
    }
    if !b_tail.is_empty() {
        let (b, c) = (simd.load_part(b_tail), simd.load_part(c_tail));
        let at = n - b_tail.len()..n;
        for r in 0..R {
            let h = &mut h[r][at.clone()];
            let kept = simd.mul(factors.factors(channels[r], at.clone()), simd.load_part(h));
            let new = simd.add(kept, simd.mul(us[r], b));
            simd.store_part(new, h);
            sums[r] = simd.add(sums[r], simd.mul(c, new));
        }
    }
    sums
}
