//! The selective scan with a decay per head, by the equations of [`sarit_core::kernels::Held`].
//!
//! The tokens of a block all read the same state. Up to 16 channels of a head are taken through all of them, as many as are
//! folded together: their state stays in the first-level cache from the first token's sum to the rounding after the last
//! one. Elements that are no floats are converted once for several tokens; memory sees only them.

use super::dense::{self, BLOCK, Element};
use super::scan::StateElement;
use super::{Simd, prefetch};
use crate::columns::Part;
use core::ops::Range;
use sarit_core::STATE_GROUP;
use sarit_core::kernels::scalar::{self, HeldTokens};
use sarit_core::kernels::{HELD, Held, LANES, Rests, RowSink, Rows, Scan, SsmState, rests_len};

/// How far ahead of their use elements are fetched by the first token of a chunk, in bytes: they are used up fast.
const AHEAD: usize = 8192;

/// The same for `dt · x` of each token: four blocks of channels.
const U_AHEAD: usize = 4 * LANES * size_of::<f32>();

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
        SsmState::I8 { codes, scales, rests } => {
            scan_heads(simd, p, decay, held, heads, &mut Codes { codes, scales, rests }, y)
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
    let mut room =
        Room { floats: [0.0; LANES * STATE_GROUP], u: [[0.0; LANES]; HELD], v: [[0.0; LANES]; HELD] };
    let mut factors = [([0.0; HELD], 0.0); HELD];
    let mut products = [[0.0; HELD]; HELD];
    for tokens in HeldTokens::blocks(p, decay, held) {
        for head in heads.clone() {
            let group = head / group_heads;
            if head == heads.start || head % group_heads == 0 {
                multiply(simd, p, &tokens, group, &mut products);
            }
            let first = tokens.block().held;
            for (i, (factors, products)) in
                factors.iter_mut().zip(&products).enumerate().take(tokens.block().tokens.len())
            {
                let (w, left) = tokens.left(first + i, head);
                simd.store(simd.mul(simd.load(&w), simd.load(products)), &mut factors.0);
                factors.1 = left;
            }
            let mut u = [(0.0, &[][..]); HELD];
            for (j, u) in u.iter_mut().enumerate().take(first + tokens.block().tokens.len()) {
                *u = tokens.u(j, head);
            }
            let head = Head { p, tokens: &tokens, head, group, factors: &factors, u: &u };
            for start in (0..dim).step_by(LANES) {
                let channels = start..dim.min(start + LANES);
                let first = (head.head - heads.start) * dim + start;
                head.step(simd, channels, first, state, y, &mut room);
            }
        }
    }
}

/// `sum_n C_t · B_j` of a group for the chunk's tokens `t` of a block, and all `j` up to them.
#[inline(always)]
fn multiply<S: Simd>(
    simd: S,
    p: &Scan<'_>,
    tokens: &HeldTokens<'_>,
    group: usize,
    products: &mut [[f32; HELD]; HELD],
) {
    const { assert!(HELD == LANES) };
    let (n, block) = (p.d_state, tokens.block());
    for (products, (last, t)) in products.iter_mut().zip((block.held..).zip(block.tokens.clone())) {
        let c = &p.c.row(t)[group * n..(group + 1) * n];
        let of_tokens = dense::products::<_, _, false>(simd, c, last + 1, |j| tokens.b(j, group), 0);
        simd.store(of_tokens, products);
    }
}

/// What up to 16 channels need while they pass through a block.
struct Room {
    /// Their state, where its elements are no floats.
    floats: [f32; LANES * STATE_GROUP],
    /// `dt · x` of each token.
    u: [[f32; LANES]; HELD],
    /// What of it is left after the last one.
    v: [[f32; LANES]; HELD],
}

/// A head and what its channels share.
struct Head<'a> {
    p: &'a Scan<'a>,
    tokens: &'a HeldTokens<'a>,
    head: usize,
    group: usize,
    /// For each of the chunk's tokens: `q` of the tokens up to it, and how much of the state is left.
    factors: &'a [([f32; HELD], f32); HELD],
    /// The factors of `dt · x` of each token of the block.
    u: &'a [(f32, &'a [f32]); HELD],
}

impl Head<'_> {
    /// Up to 16 channels of the head through all tokens of the block; the first is row `first` of `state` and `y`.
    #[inline(always)]
    fn step<S: Simd, F: Format + ?Sized>(
        &self,
        simd: S,
        channels: Range<usize>,
        first: usize,
        state: &mut F,
        y: &mut Part<'_>,
        room: &mut Room,
    ) {
        let (p, block, n) = (self.p, self.tokens.block(), self.p.d_state);
        let rows = first..first + channels.len();
        let own = self.head * p.head_dim + channels.start..self.head * p.head_dim + channels.end;
        for (u, (dt, x)) in room.u.iter_mut().zip(self.u).take(block.held + block.tokens.len()) {
            let x = &x[channels.clone()];
            // A token's lie far from the next one's: too many places for the hardware to follow.
            prefetch(&x[0], U_AHEAD);
            simd.store(simd.mul(simd.splat(*dt), simd.load_part(x)), u);
        }
        let elements = state.elements(rows.start * n..rows.end * n);
        let converts =
            size_of::<F::Element>() < size_of::<f32>() && block.tokens.len() > 2 && n <= STATE_GROUP;
        let floats = &mut room.floats[..if converts { elements.len() } else { 0 }];
        for (floats, elements) in floats.chunks_mut(LANES).zip(elements.chunks(LANES)) {
            match elements.as_array() {
                Some(elements) => simd.store_part(F::Element::load(simd, elements), floats),
                None => simd.store_part(F::Element::load_part(simd, elements), floats),
            }
        }
        let scales = state.scales(simd, rows.clone());
        let d = simd.load_part(&p.d[own.clone()]);
        for (t, (q, left)) in block.tokens.clone().zip(self.factors) {
            let c = &p.c.row(t)[self.group * n..(self.group + 1) * n];
            let sums = match (converts, t == block.tokens.start) {
                (true, _) => sums::<_, _, false>(simd, floats, c),
                (false, false) => sums::<_, _, false>(simd, elements, c),
                (false, true) => sums::<_, _, true>(simd, elements, c),
            };
            let sums = simd.add(simd.splat(0.0), simd.mul(sums, scales));
            let mut sum = simd.mul(simd.splat(*left), sums);
            for (q, u) in q.iter().zip(&room.u).take(block.held + t - block.tokens.start + 1) {
                sum = simd.add(sum, simd.mul(simd.splat(*q), simd.load(u)));
            }
            let x = simd.load_part(&p.x.row(t)[own.clone()]);
            simd.store_part(simd.add(sum, simd.mul(d, x)), &mut y.row(t)[rows.clone()]);
        }
        if block.is_whole() {
            let (w, left) = self.tokens.left(HELD - 1, self.head);
            for (j, v) in room.v.iter_mut().enumerate() {
                simd.store(simd.mul(simd.splat(w[j]), simd.load(&room.u[j])), v);
            }
            let mut b = [self.tokens.b(0, self.group); HELD];
            b.iter_mut().enumerate().for_each(|(j, b)| *b = self.tokens.b(j, self.group));
            let at = (p.position + block.tokens.end as u64 - 1, own.start);
            state.take_in(simd, rows, left, &room.v, &b, at, &mut room.floats);
        }
    }
}

/// `sum_n c · h` of up to 16 rows.
#[inline(always)]
fn sums<S: Simd, E: Element, const FETCH: bool>(simd: S, h: &[E], c: &[f32]) -> S::Floats {
    let n = c.len();
    dense::products::<_, _, FETCH>(simd, c, h.len() / n, |r| &h[r * n..][..n], AHEAD)
}

/// The state in one of its formats.
trait Format {
    /// What it is made of.
    type Element: Element;

    /// Some of the elements.
    fn elements(&self, at: Range<usize>) -> &[Self::Element];

    /// By what the elements of up to 16 rows are multiplied.
    fn scales<S: Simd>(&self, simd: S, rows: Range<usize>) -> S::Floats;

    /// `h = left · h + v[0] · b[0] + …` of up to 16 rows, `v[j]` having a lane for each, after the token at a position of
    /// the stream, for channels of which the first is named. `floats` may be written.
    fn take_in<S: Simd>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        left: f32,
        v: &[[f32; LANES]; HELD],
        b: &[&[f32]; HELD],
        at: (u64, usize),
        floats: &mut [f32],
    );
}

impl<E: StateElement> Format for [E] {
    type Element = E;

    #[inline(always)]
    fn elements(&self, at: Range<usize>) -> &[E] {
        &self[at]
    }

    #[inline(always)]
    fn scales<S: Simd>(&self, simd: S, _rows: Range<usize>) -> S::Floats {
        simd.splat(1.0)
    }

    #[inline(always)]
    fn take_in<S: Simd>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        left: f32,
        v: &[[f32; LANES]; HELD],
        b: &[&[f32]; HELD],
        _at: (u64, usize),
        _floats: &mut [f32],
    ) {
        let n = b[0].len();
        take_in(simd, &mut self[rows.start * n..rows.end * n], left, v, b);
    }
}

/// A state in codes, of rows that fit a group.
struct Codes<'a> {
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    rests: &'a mut [Rests],
}

impl Format for Codes<'_> {
    type Element = i8;

    #[inline(always)]
    fn elements(&self, at: Range<usize>) -> &[i8] {
        &self.codes[at]
    }

    #[inline(always)]
    fn scales<S: Simd>(&self, simd: S, rows: Range<usize>) -> S::Floats {
        simd.load_part(&self.scales[rows])
    }

    #[inline(always)]
    fn take_in<S: Simd>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        left: f32,
        v: &[[f32; LANES]; HELD],
        b: &[&[f32]; HELD],
        (position, channel): (u64, usize),
        floats: &mut [f32],
    ) {
        let n = b[0].len();
        let lines = rests_len(n);
        let codes = &mut self.codes[rows.start * n..rows.end * n];
        let rests = &mut self.rests[rows.start * lines..rows.end * lines];
        let scales = &mut self.scales[rows];
        let floats = &mut floats[..codes.len()];
        let rows = codes.chunks_exact(n).zip(rests.chunks_exact(lines)).zip(&*scales);
        for (i, (((codes, rests), scale), h)) in rows.zip(floats.chunks_exact_mut(n)).enumerate() {
            let before = scalar::dither(position.wrapping_sub(HELD as u64), channel + i);
            scalar::expand_codes_and_rests(codes, rests, *scale, before, h);
        }
        take_in(simd, floats, left, v, b);
        let rows = codes.chunks_exact_mut(n).zip(rests.chunks_exact_mut(lines)).zip(scales);
        for (i, (((codes, rests), scale), h)) in rows.zip(floats.chunks_exact(n)).enumerate() {
            let dither = scalar::dither(position, channel + i);
            *scale = scalar::round_to_codes_and_rests(h, codes, rests, dither);
        }
    }
}

impl Element for i8 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[i8; LANES]) -> S::Floats {
        let mut floats = [0.0; LANES];
        for i in 0..LANES {
            floats[i] = f32::from(x[i]);
        }
        simd.load(&floats)
    }

    #[inline(always)]
    fn load_part<S: Simd>(simd: S, x: &[i8]) -> S::Floats {
        let mut floats = [0.0; LANES];
        for (float, x) in floats.iter_mut().zip(x) {
            *float = f32::from(*x);
        }
        simd.load(&floats)
    }
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
    for (i, h) in h.chunks_mut(BLOCK * n).enumerate() {
        if h.len() == BLOCK * n {
            take_in_some::<S, E, BLOCK>(simd, h, left, v, i * BLOCK, b);
        } else {
            for (r, h) in h.chunks_exact_mut(n).enumerate() {
                take_in_some::<S, E, 1>(simd, h, left, v, i * BLOCK + r, b);
            }
        }
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
    let left = simd.splat(left);
    let whole = n / LANES;
    let mut k = 0;
    // Where they fit, twice as many sums: an addition waits for the one before.
    while S::REGISTERS >= 32 && whole - k >= 2 {
        take_in_part::<S, E, R, 2>(simd, h, left, v, first, b, k * LANES);
        k += 2;
    }
    while k < whole {
        take_in_part::<S, E, R, 1>(simd, h, left, v, first, b, k * LANES);
        k += 1;
    }
    if whole * LANES < n {
        let at = whole * LANES..n;
        let mut new = [left; R];
        for r in 0..R {
            new[r] = simd.mul(left, E::load_part(simd, &h[r * n..][at.clone()]));
        }
        for j in 0..HELD {
            let b = simd.load_part(&b[j][at.clone()]);
            for (new, v) in new.iter_mut().zip(spread::<_, R>(simd, &v[j], first)) {
                *new = simd.add(*new, simd.mul(v, b));
            }
        }
        for r in 0..R {
            E::store_part(simd, new[r], &mut h[r * n..][at.clone()]);
        }
    }
}

/// [`take_in_some`] for `K` times sixteen elements of each row, from element `at` on.
#[inline(always)]
fn take_in_part<S: Simd, E: StateElement, const R: usize, const K: usize>(
    simd: S,
    h: &mut [E],
    left: S::Floats,
    v: &[[f32; LANES]; HELD],
    first: usize,
    b: &[&[f32]; HELD],
    at: usize,
) {
    let n = b[0].len();
    let mut new = [[left; K]; R];
    for r in 0..R {
        let h = h[r * n + at..].as_chunks().0[..K].iter();
        for (new, h) in new[r].iter_mut().zip(h) {
            *new = simd.mul(left, E::load(simd, h));
        }
    }
    for j in 0..HELD {
        let b = &b[j][at..].as_chunks().0[..K];
        let v = spread::<_, R>(simd, &v[j], first);
        for k in 0..K {
            let b = simd.load(&b[k]);
            for r in 0..R {
                new[r][k] = simd.add(new[r][k], simd.mul(v[r], b));
            }
        }
    }
    for r in 0..R {
        let h = h[r * n + at..].as_chunks_mut().0[..K].iter_mut();
        for (new, h) in new[r].iter().zip(h) {
            E::store(simd, *new, h);
        }
    }
}

/// `R` floats from `x[first]` on, each in all lanes of its own.
#[inline(always)]
fn spread<S: Simd, const R: usize>(simd: S, x: &[f32; LANES], first: usize) -> [S::Floats; R] {
    let mut all = [simd.splat(x[first]); R];
    for r in 1..R {
        all[r] = simd.splat(x[first + r]);
    }
    all
}
