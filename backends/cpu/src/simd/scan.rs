//! The selective scan with a decay per element; that with a decay per head is in [`super::held`].
//!
//! The sixteen lanes run along a channel's state, so each output ends in a fold across lanes. Sixteen channels are
//! therefore stepped together, whatever heads they belong to: of sixteen heads for Mamba-1, whose heads have one channel.
//! They share B and C, so a block of channels ends where its group ends. All
//! tokens pass through a block before the next block begins: its state stays in the first-level cache.
//!
//! A state in f16 is converted where it is loaded and stored. One in codes, whose scale is known only at the end of a row,
//! is stepped in a block of floats, which is filled before each token and rounded after it: memory sees only the codes.
//! In loops of sixteen, which the compiler was to make vectors of, that rounding took three times as long.

use super::dense::Element;
use super::{Simd, prefetch};
use crate::columns::Part;
use core::ops::Range;
use half::f16;
use sarit_core::STATE_GROUP;
use sarit_core::kernels::{Decay, LANES, RowSink, Scan, SsmState, scalar};
use sarit_core::math::exp2;

/// How far ahead of their use elements are fetched by a stream's first token, in bytes.
const PREFETCH: usize = 2048;

/// See [`sarit_core::kernels::scalar::scan`].
#[inline(always)]
pub(crate) fn scan<S: Simd>(
    simd: S,
    p: &Scan<'_>,
    heads: Range<usize>,
    state: SsmState<'_>,
    y: &mut Part<'_>,
) {
    let a_log2 = match p.decay {
        Decay::Head { decay, held } => return super::held::scan(simd, p, (decay, held), heads, state, y),
        Decay::Element(a_log2) => a_log2,
    };
    match state {
        SsmState::F32(h) => scan_elements(simd, p, a_log2, heads, h, y),
        SsmState::F16(h) => scan_elements(simd, p, a_log2, heads, h, y),
        state if p.d_state > STATE_GROUP => scalar::scan(p, heads, state, y),
        SsmState::I8 { codes, scales, .. } => scan_codes(simd, p, a_log2, heads, codes, scales, y),
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

/// The scan of a state that is converted where it is loaded and stored.
#[inline(always)]
fn scan_elements<S: Simd, E: StateElement>(
    simd: S,
    p: &Scan<'_>,
    a_log2: &[f32],
    heads: Range<usize>,
    state: &mut [E],
    y: &mut Part<'_>,
) {
    let (n, first) = (p.d_state, heads.start * p.head_dim);
    for (group, block) in blocks(p, &heads) {
        let rows = block.start - first..block.end - first;
        let state = &mut state[rows.start * n..rows.end * n];
        for t in 0..p.x.count() {
            step(simd, p, a_log2, group, block.clone(), t, state, &mut y.row(t)[rows.clone()]);
        }
    }
}

/// The scan of a state in codes, of rows that fit a group.
#[inline(always)]
fn scan_codes<S: Simd>(
    simd: S,
    p: &Scan<'_>,
    a_log2: &[f32],
    heads: Range<usize>,
    codes: &mut [i8],
    scales: &mut [f32],
    y: &mut Part<'_>,
) {
    let (n, first) = (p.d_state, heads.start * p.head_dim);
    let mut floats = [0.0; LANES * STATE_GROUP];
    for (group, block) in blocks(p, &heads) {
        let rows = block.start - first..block.end - first;
        let floats = &mut floats[..rows.len() * n];
        for t in 0..p.x.count() {
            for (row, h) in rows.clone().zip(floats.chunks_exact_mut(n)) {
                scalar::expand_codes(&codes[row * n..(row + 1) * n], scales[row], h);
            }
            step(simd, p, a_log2, group, block.clone(), t, floats, &mut y.row(t)[rows.clone()]);
            let position = p.position + t as u64;
            for ((row, channel), h) in rows.clone().zip(block.clone()).zip(floats.chunks_exact(n)) {
                let codes = &mut codes[row * n..(row + 1) * n];
                scales[row] = scalar::round_to_codes(h, codes, scalar::dither(position, channel));
            }
        }
    }
}

/// An element of the state.
pub(super) trait StateElement: Element {
    /// Rounds `x` to `h`.
    fn store<S: Simd>(simd: S, x: S::Floats, h: &mut [Self; LANES]);
    /// Rounds the first lanes of `x` to `h`, which has up to 16.
    fn store_part<S: Simd>(simd: S, x: S::Floats, h: &mut [Self]);
}

impl StateElement for f32 {
    #[inline(always)]
    fn store<S: Simd>(simd: S, x: S::Floats, h: &mut [f32; LANES]) {
        simd.store(x, h);
    }

    #[inline(always)]
    fn store_part<S: Simd>(simd: S, x: S::Floats, h: &mut [f32]) {
        simd.store_part(x, h);
    }
}

impl StateElement for f16 {
    #[inline(always)]
    fn store<S: Simd>(simd: S, x: S::Floats, h: &mut [f16; LANES]) {
        simd.store_f16(x, h);
    }

    #[inline(always)]
    fn store_part<S: Simd>(simd: S, x: S::Floats, h: &mut [f16]) {
        let mut filled = [f16::ZERO; LANES];
        simd.store_f16(x, &mut filled);
        h.copy_from_slice(&filled[..h.len()]);
    }
}

/// Steps up to 16 channels of a group through token `t`; `state` and `y` are those of the channels.
#[inline(always)]
fn step<S: Simd, E: StateElement>(
    simd: S,
    p: &Scan<'_>,
    a_log2: &[f32],
    group: usize,
    channels: Range<usize>,
    t: usize,
    state: &mut [E],
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
    let (mut sums, is_first) = ([simd.splat(0.0); LANES], t == 0);
    let factors = Factors { simd, a_log2, n, dim: p.head_dim, first: channels.start, dt: &dt };
    step_channels(simd, state, b, c, &u, &mut sums, factors, is_first);
    simd.store_part(simd.add(simd.fold(sums), simd.mul(d, x)), y);
}

/// The heads' values, for each channel.
#[inline(always)]
fn per_channel(heads: &[f32], dim: usize, channels: Range<usize>) -> [f32; LANES] {
    if dim == 1
        && let Some(heads) = heads[channels.clone()].as_array()
    {
        return *heads;
    }
    let head = channels.start / dim;
    if channels.end <= (head + 1) * dim {
        return [heads[head]; LANES];
    }
    let mut out = [0.0; LANES];
    for (out, channel) in out.iter_mut().zip(channels) {
        *out = heads[channel / dim];
    }
    out
}

/// The factors by which state remains: `exp2(dt · a_log2)` per element.
#[derive(Clone, Copy)]
struct Factors<'a, S> {
    simd: S,
    a_log2: &'a [f32],
    n: usize,
    dim: usize,
    first: usize,
    dt: &'a [f32; LANES],
}

impl<'a, S: Simd> Factors<'a, S> {
    /// What is the same for all of channel `i`.
    #[inline(always)]
    fn channel(self, i: usize) -> (f32, &'a [f32]) {
        let head = (self.first + i) / self.dim;
        (self.dt[i], &self.a_log2[head * self.n..(head + 1) * self.n])
    }

    /// Of the elements `at` (up to 16) of a channel.
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
fn step_channels<S: Simd, E: StateElement>(
    simd: S,
    state: &mut [E],
    b: &[f32],
    c: &[f32],
    u: &[f32; LANES],
    sums: &mut [S::Floats; LANES],
    factors: Factors<'_, S>,
    is_first: bool,
) {
    let (n, mut i) = (b.len(), 0);
    let mut rest = state;
    while S::REGISTERS >= 32 && rest.len() >= 4 * n {
        let (h, others) = rest.split_at_mut(4 * n);
        let some = step_some::<S, E, 4>(simd, h, b, c, u, i, factors, is_first);
        sums[i..i + 4].copy_from_slice(&some);
        (rest, i) = (others, i + 4);
    }
    while rest.len() >= 2 * n {
        let (h, others) = rest.split_at_mut(2 * n);
        let some = step_some::<S, E, 2>(simd, h, b, c, u, i, factors, is_first);
        sums[i..i + 2].copy_from_slice(&some);
        (rest, i) = (others, i + 2);
    }
    if !rest.is_empty() {
        [sums[i]] = step_some::<S, E, 1>(simd, rest, b, c, u, i, factors, is_first);
    }
}

/// [`step_channels`] for `R` channels, of which `first` is the first.
#[inline(always)]
fn step_some<S: Simd, E: StateElement, const R: usize>(
    simd: S,
    h: &mut [E],
    b: &[f32],
    c: &[f32],
    u: &[f32; LANES],
    first: usize,
    factors: Factors<'_, S>,
    is_first: bool,
) -> [S::Floats; R] {
    let n = b.len();
    let mut rows = h.chunks_exact_mut(n);
    let h: [&mut [E]; R] = core::array::from_fn(|_| rows.next().expect("R rows"));
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
            let h: &mut [E; LANES] = (&mut h[r][at.clone()]).try_into().expect("16 elements");
            if is_first {
                prefetch(h, PREFETCH);
            }
            let kept = simd.mul(factors.factors(channels[r], at.clone()), E::load(simd, h));
            let new = simd.add(kept, simd.mul(us[r], b));
            E::store(simd, new, h);
            sums[r] = simd.add(sums[r], simd.mul(c, new));
        }
    }
    if !b_tail.is_empty() {
        let (b, c) = (simd.load_part(b_tail), simd.load_part(c_tail));
        let at = n - b_tail.len()..n;
        for r in 0..R {
            let h = &mut h[r][at.clone()];
            let kept = simd.mul(factors.factors(channels[r], at.clone()), E::load_part(simd, h));
            let new = simd.add(kept, simd.mul(us[r], b));
            E::store_part(simd, new, h);
            sums[r] = simd.add(sums[r], simd.mul(c, new));
        }
    }
    sums
}
