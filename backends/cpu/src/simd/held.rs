//! The selective scan with a decay per head, by the equations of [`sarit_core::kernels::Held`].
//!
//! The tokens of a block all read the same state, so their sums over it are a matrix product, and so is what they add to
//! it in the end. Up to 16 channels of a head are taken at a time, which is as many as are folded together: their state
//! stays in the first-level cache from the first token's sum to the rounding after the last one. One in i8 is made floats
//! where several tokens read it and where it is taken forward; memory sees only the codes.

use super::dense::Element;
use super::scan::StateElement;
use super::{Simd, prefetch};
use crate::columns::Part;
use core::ops::Range;
use sarit_core::STATE_GROUP;
use sarit_core::kernels::scalar::{self, HeldTokens};
use sarit_core::kernels::{HELD, Held, LANES, RowSink, Rows, Scan, SsmState};

/// How far ahead of their use elements are fetched by the first token, in bytes.
const PREFETCH: usize = 2048;

/// See [`sarit_core::kernels::scalar::scan`].
#[inline(always)]
pub(super) fn scan<S: Simd>(
    simd: S,
    p: &Scan<'_>,
    (decay, held): (Rows<'_>, Held<'_>),
    heads: Range<usize>,
    state: SsmState<'_>,
    y: &mut Part<'_>,
) {
    match state {
        SsmState::F32(h) => scan_heads(simd, p, decay, held, heads, h, y),
        SsmState::F16(h) => scan_heads(simd, p, decay, held, heads, h, y),
        state if p.d_state > STATE_GROUP => scalar::scan(p, heads, state, y),
        SsmState::I8 { codes, scales } => {
            scan_heads(simd, p, decay, held, heads, &mut Codes { codes, scales }, y)
        }
    }
}

#[inline(always)]
fn scan_heads<S: Simd>(
    simd: S,
    p: &Scan<'_>,
    decay: Rows<'_>,
    held: Held<'_>,
    heads: Range<usize>,
    state: &mut (impl Format + ?Sized),
    y: &mut Part<'_>,
) {
    let (dim, group_heads) = (p.head_dim, p.heads / p.n_groups);
    for tokens in HeldTokens::blocks(p, decay, held) {
        let mut head = heads.start;
        while head < heads.end {
            let group = head / group_heads;
            let products = products(simd, p, &tokens, group);
            let group_end = heads.end.min((group + 1) * group_heads);
            for head in head..group_end {
                let head = Head::new(simd, p, &tokens, head, group, &products);
                for start in (0..dim).step_by(LANES) {
                    let channels = start..dim.min(start + LANES);
                    let first = (head.head - heads.start) * dim + start;
                    head.step(simd, channels, first, state, y);
                }
            }
            head = group_end;
        }
    }
}

/// `sum_n C_t · B_j` of a group for the chunk's tokens `t` of a block, and all `j` up to them.
#[inline(always)]
fn products<S: Simd>(simd: S, p: &Scan<'_>, tokens: &HeldTokens<'_>, group: usize) -> [[f32; HELD]; HELD] {
    const { assert!(HELD == LANES) };
    let (n, block) = (p.d_state, tokens.block());
    let mut products = [[0.0; HELD]; HELD];
    for (products, (last, t)) in products.iter_mut().zip((block.held..).zip(block.tokens.clone())) {
        let c = &p.c.row(t)[group * n..(group + 1) * n];
        let mut sums = [simd.splat(0.0); HELD];
        for j in 0..=last {
            [[sums[j]]] = sums_of::<S, f32, 1, 1>(simd, tokens.b(j, group), [c], false);
        }
        simd.store(simd.fold(sums), products);
    }
    products
}

/// A head and what its channels share.
struct Head<'a> {
    p: &'a Scan<'a>,
    tokens: &'a HeldTokens<'a>,
    head: usize,
    group: usize,
    /// For each of the chunk's tokens: the factors of the tokens up to it, and of the state.
    factors: [([f32; HELD], f32); HELD],
}

impl<'a> Head<'a> {
    #[inline(always)]
    fn new<S: Simd>(
        simd: S,
        p: &'a Scan<'a>,
        tokens: &'a HeldTokens<'a>,
        head: usize,
        group: usize,
        products: &[[f32; HELD]; HELD],
    ) -> Self {
        let mut factors = [([0.0; HELD], 0.0); HELD];
        let block = tokens.block();
        for (i, last) in (block.held..block.held + block.tokens.len()).enumerate() {
            let (w, left) = tokens.left(last, head);
            factors[i].1 = left;
            simd.store(simd.mul(simd.load(&w), simd.load(&products[i])), &mut factors[i].0);
        }
        Self { p, tokens, head, group, factors }
    }

    /// Up to 16 channels of the head through all tokens of the block; the first is row `first` of `state` and `y`.
    #[inline(always)]
    fn step<S: Simd>(
        &self,
        simd: S,
        channels: Range<usize>,
        first: usize,
        state: &mut (impl Format + ?Sized),
        y: &mut Part<'_>,
    ) {
        let (p, block) = (self.p, self.tokens.block());
        let rows = first..first + channels.len();
        let own = self.head * p.head_dim + channels.start..self.head * p.head_dim + channels.end;
        let mut u = [simd.splat(0.0); HELD];
        for (j, u) in u.iter_mut().enumerate().take(block.held + block.tokens.len()) {
            let (dt, x) = self.tokens.u(j, self.head);
            *u = simd.mul(simd.splat(dt), simd.load_part(&x[channels.clone()]));
        }
        let d = simd.load_part(&p.d[own.clone()]);
        let c = |t: usize| &p.c.row(t)[self.group * p.d_state..(self.group + 1) * p.d_state];
        state.sums(
            simd,
            rows.clone(),
            block.tokens.len(),
            |i| c(block.tokens.start + i),
            |i, sums| {
                let (t, (q, left)) = (block.tokens.start + i, &self.factors[i]);
                let mut sum = simd.mul(simd.splat(*left), sums);
                for (q, u) in q.iter().zip(&u).take(block.held + i + 1) {
                    sum = simd.add(sum, simd.mul(simd.splat(*q), *u));
                }
                let skip = simd.mul(d, simd.load_part(&p.x.row(t)[own.clone()]));
                simd.store_part(simd.add(sum, skip), &mut y.row(t)[rows.clone()]);
            },
        );
        if block.is_whole() {
            let (w, left) = self.tokens.left(HELD - 1, self.head);
            let mut v = [[0.0; LANES]; HELD];
            for j in 0..HELD {
                simd.store(simd.mul(simd.splat(w[j]), u[j]), &mut v[j]);
            }
            let b = core::array::from_fn(|j| self.tokens.b(j, self.group));
            let position = p.position + block.tokens.end as u64 - 1;
            state.take_in(simd, rows, left, &v, &b, |i| scalar::dither(position, own.start + i));
        }
    }
}

/// The state in one of its formats.
trait Format {
    /// `each(i, sums)` with `sum_n c(i) · h` of up to 16 rows, for `count` tokens.
    fn sums<'c, S: Simd>(
        &self,
        simd: S,
        rows: Range<usize>,
        count: usize,
        c: impl Fn(usize) -> &'c [f32],
        each: impl FnMut(usize, S::Floats),
    );

    /// `h = left · h + v[0] · b[0] + …` of up to 16 rows, `v[j]` having a lane for each; rounded with the dither of each.
    fn take_in<S: Simd>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        left: f32,
        v: &[[f32; LANES]; HELD],
        b: &[&[f32]; HELD],
        dither: impl Fn(usize) -> u32,
    );
}

impl<E: StateElement> Format for [E] {
    #[inline(always)]
    fn sums<'c, S: Simd>(
        &self,
        simd: S,
        rows: Range<usize>,
        count: usize,
        c: impl Fn(usize) -> &'c [f32],
        each: impl FnMut(usize, S::Floats),
    ) {
        let n = c(0).len();
        all_sums(simd, &self[rows.start * n..rows.end * n], count, c, each);
    }

    #[inline(always)]
    fn take_in<S: Simd>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        left: f32,
        v: &[[f32; LANES]; HELD],
        b: &[&[f32]; HELD],
        _dither: impl Fn(usize) -> u32,
    ) {
        let n = b[0].len();
        take_in(simd, &mut self[rows.start * n..rows.end * n], left, v, b);
    }
}

/// A state in codes, of rows that fit a group.
struct Codes<'a> {
    codes: &'a mut [i8],
    scales: &'a mut [f32],
}

impl Format for Codes<'_> {
    #[inline(always)]
    fn sums<'c, S: Simd>(
        &self,
        simd: S,
        rows: Range<usize>,
        count: usize,
        c: impl Fn(usize) -> &'c [f32],
        mut each: impl FnMut(usize, S::Floats),
    ) {
        let n = c(0).len();
        let codes = &self.codes[rows.start * n..rows.end * n];
        let scales = simd.load_part(&self.scales[rows]);
        let zero = simd.splat(0.0);
        let scaled = |i, sums| each(i, simd.add(zero, simd.mul(sums, scales)));
        if count < 3 {
            return all_sums(simd, codes, count, c, scaled);
        }
        let mut floats = [0.0; LANES * STATE_GROUP];
        let floats = &mut floats[..codes.len()];
        floats.iter_mut().zip(codes).for_each(|(h, code)| *h = f32::from(*code));
        all_sums(simd, floats, count, c, scaled);
    }

    #[inline(always)]
    fn take_in<S: Simd>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        left: f32,
        v: &[[f32; LANES]; HELD],
        b: &[&[f32]; HELD],
        dither: impl Fn(usize) -> u32,
    ) {
        let n = b[0].len();
        let codes = &mut self.codes[rows.start * n..rows.end * n];
        let scales = &mut self.scales[rows];
        let mut floats = [0.0; LANES * STATE_GROUP];
        let floats = &mut floats[..codes.len()];
        for ((codes, scale), h) in codes.chunks_exact(n).zip(&*scales).zip(floats.chunks_exact_mut(n)) {
            scalar::expand_codes(codes, *scale, h);
        }
        take_in(simd, floats, left, v, b);
        let rows = codes.chunks_exact_mut(n).zip(scales).zip(floats.chunks_exact(n));
        for (i, ((codes, scale), h)) in rows.enumerate() {
            *scale = scalar::round_to_codes(h, codes, dither(i));
        }
    }
}

impl Element for i8 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[i8; LANES]) -> S::Floats {
        simd.load(&x.map(f32::from))
    }

    #[inline(always)]
    fn load_part<S: Simd>(simd: S, x: &[i8]) -> S::Floats {
        let mut floats = [0.0; LANES];
        floats.iter_mut().zip(x).for_each(|(float, x)| *float = f32::from(*x));
        simd.load(&floats)
    }
}

/// [`Format::sums`] for the rows `h`.
#[inline(always)]
fn all_sums<'c, S: Simd, E: Element>(
    simd: S,
    h: &[E],
    count: usize,
    c: impl Fn(usize) -> &'c [f32],
    mut each: impl FnMut(usize, S::Floats),
) {
    let mut i = 0;
    while S::REGISTERS >= 32 && i + 4 <= count {
        let sums = rows_of(simd, h, [c(i), c(i + 1), c(i + 2), c(i + 3)], i == 0);
        (0..4).for_each(|t| each(i + t, simd.fold(sums[t])));
        i += 4;
    }
    while i + 2 <= count {
        let sums = rows_of(simd, h, [c(i), c(i + 1)], i == 0);
        (0..2).for_each(|t| each(i + t, simd.fold(sums[t])));
        i += 2;
    }
    if i < count {
        let [sums] = rows_of(simd, h, [c(i)], i == 0);
        each(i, simd.fold(sums));
    }
}

/// The lanes of `sum_n c · h` of up to 16 rows, for `T` tokens.
#[inline(always)]
fn rows_of<S: Simd, E: Element, const T: usize>(
    simd: S,
    h: &[E],
    c: [&[f32]; T],
    is_first: bool,
) -> [[S::Floats; LANES]; T] {
    let n = c[0].len();
    let mut sums = [[simd.splat(0.0); LANES]; T];
    let (mut rest, mut i) = (h, 0);
    // As many sums at once as stay in registers.
    while (T == 1 || S::REGISTERS >= 32) && rest.len() >= 4 * n {
        let some = sums_of::<S, E, 4, T>(simd, rest, c, is_first);
        (0..T).for_each(|t| sums[t][i..i + 4].copy_from_slice(&some[t]));
        (rest, i) = (&rest[4 * n..], i + 4);
    }
    while rest.len() >= 2 * n {
        let some = sums_of::<S, E, 2, T>(simd, rest, c, is_first);
        (0..T).for_each(|t| sums[t][i..i + 2].copy_from_slice(&some[t]));
        (rest, i) = (&rest[2 * n..], i + 2);
    }
    if !rest.is_empty() {
        let some = sums_of::<S, E, 1, T>(simd, rest, c, is_first);
        (0..T).for_each(|t| sums[t][i] = some[t][0]);
    }
    sums
}

/// [`rows_of`] for the first `R` rows of `h`.
#[inline(always)]
fn sums_of<S: Simd, E: Element, const R: usize, const T: usize>(
    simd: S,
    h: &[E],
    c: [&[f32]; T],
    is_first: bool,
) -> [[S::Floats; R]; T] {
    let n = c[0].len();
    let h: [&[E]; R] = core::array::from_fn(|r| &h[r * n..(r + 1) * n]);
    let mut sums = [[simd.splat(0.0); R]; T];
    let mut add = |h: [S::Floats; R], c: [S::Floats; T]| {
        for t in 0..T {
            for r in 0..R {
                sums[t][r] = simd.add(sums[t][r], simd.mul(c[t], h[r]));
            }
        }
    };
    let whole = n / LANES;
    for k in 0..whole {
        let at = |x: usize| x * LANES..(x + 1) * LANES;
        let h = h.map(|h| {
            let h: &[E; LANES] = h[at(k)].try_into().expect("16 elements");
            if is_first {
                prefetch(h, PREFETCH);
            }
            E::load(simd, h)
        });
        add(h, c.map(|c| simd.load(c[at(k)].try_into().expect("16 elements"))));
    }
    if whole * LANES < n {
        add(
            h.map(|h| E::load_part(simd, &h[whole * LANES..])),
            c.map(|c| simd.load_part(&c[whole * LANES..])),
        );
    }
    sums
}

/// [`Format::take_in`] for the rows `h`.
#[inline(always)]
fn take_in<S: Simd, E: StateElement>(
    simd: S,
    h: &mut [E],
    left: f32,
    v: &[[f32; LANES]; HELD],
    b: &[&[f32]; HELD],
) {
    let n = b[0].len();
    let (mut rest, mut i) = (h, 0);
    while rest.len() >= 4 * n {
        let (some, others) = rest.split_at_mut(4 * n);
        take_in_some::<S, E, 4>(simd, some, left, v, i, b);
        (rest, i) = (others, i + 4);
    }
    while !rest.is_empty() {
        let (some, others) = rest.split_at_mut(n);
        take_in_some::<S, E, 1>(simd, some, left, v, i, b);
        (rest, i) = (others, i + 1);
    }
}

/// [`take_in`] for `R` rows, of which `first` is the first.
#[inline(always)]
fn take_in_some<S: Simd, E: StateElement, const R: usize>(
    simd: S,
    h: &mut [E],
    left: f32,
    v: &[[f32; LANES]; HELD],
    first: usize,
    b: &[&[f32]; HELD],
) {
    let n = b[0].len();
    let mut rows = h.chunks_exact_mut(n);
    let h: [&mut [E]; R] = core::array::from_fn(|_| rows.next().expect("R rows"));
    let left = simd.splat(left);
    let add = |mut h: [S::Floats; R], j: usize, b: S::Floats| {
        for r in 0..R {
            h[r] = simd.add(h[r], simd.mul(simd.splat(v[j][first + r]), b));
        }
        h
    };
    let whole = n / LANES;
    let b16: [&[[f32; LANES]]; HELD] = core::array::from_fn(|j| &b[j].as_chunks().0[..whole]);
    for k in 0..whole {
        let at = k * LANES..(k + 1) * LANES;
        let mut new = [left; R];
        for r in 0..R {
            let h: &[E; LANES] = h[r][at.clone()].try_into().expect("16 elements");
            new[r] = simd.mul(left, E::load(simd, h));
        }
        for j in 0..HELD {
            new = add(new, j, simd.load(&b16[j][k]));
        }
        for r in 0..R {
            E::store(simd, new[r], (&mut h[r][at.clone()]).try_into().expect("16 elements"));
        }
    }
    if whole * LANES < n {
        let at = whole * LANES..n;
        let mut new = [left; R];
        for r in 0..R {
            new[r] = simd.mul(left, E::load_part(simd, &h[r][at.clone()]));
        }
        for j in 0..HELD {
            new = add(new, j, simd.load_part(&b[j][at.clone()]));
        }
        for r in 0..R {
            E::store_part(simd, new[r], &mut h[r][at.clone()]);
        }
    }
}
