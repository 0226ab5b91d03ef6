//! The selective scan with a decay per head, by the equations of [`Held`].

use super::dot;
use super::scan::{Format, dither, load};
use crate::kernels::{HELD, Held, HeldBlock, LANES, RowSink, Rows, Scan};
use core::ops::Range;

/// The tokens of one block: those held, then those of the chunk.
#[derive(Debug)]
pub struct HeldTokens<'a> {
    scan: &'a Scan<'a>,
    decay: Rows<'a>,
    held: Held<'a>,
    block: HeldBlock,
}

impl<'a> HeldTokens<'a> {
    /// The blocks of a chunk, one after another.
    #[inline(always)]
    pub fn blocks(scan: &'a Scan<'a>, decay: Rows<'a>, held: Held<'a>) -> impl Iterator<Item = Self> {
        HeldBlock::of(scan.position, scan.x.count()).map(move |block| Self { scan, decay, held, block })
    }

    /// Where in the chunk the block's tokens are.
    #[inline(always)]
    pub fn block(&self) -> &HeldBlock {
        &self.block
    }

    /// Row of the chunk that token `j` is, if it is not held.
    #[inline(always)]
    fn row(&self, j: usize) -> Option<usize> {
        j.checked_sub(self.block.held).map(|ahead| self.block.tokens.start + ahead)
    }

    /// B of token `j`, that of `group`.
    #[inline(always)]
    pub fn b(&self, j: usize, group: usize) -> &'a [f32] {
        let row = match self.row(j) {
            Some(t) => self.scan.b.row(t),
            None => self.held.b.row(j),
        };
        &row[group * self.scan.d_state..(group + 1) * self.scan.d_state]
    }

    /// `dt · x` of token `j`: its factors, dt being 1 for a held token.
    #[inline(always)]
    pub fn u(&self, j: usize, head: usize) -> (f32, &'a [f32]) {
        let channels = head * self.scan.head_dim..(head + 1) * self.scan.head_dim;
        match self.row(j) {
            Some(t) => (self.scan.dt.row(t)[head], &self.scan.x.row(t)[channels]),
            None => (1.0, &self.held.u.row(j)[channels]),
        }
    }

    /// How much is left, when token `last` of the block has been read, of the tokens up to it (zeros behind) and of the
    /// state: `(w, g)`.
    #[inline(always)]
    pub fn left(&self, last: usize, head: usize) -> ([f32; HELD], f32) {
        let (mut w, mut left) = ([0.0; HELD], 1.0);
        for j in (0..=last).rev() {
            w[j] = left;
            left *= match self.row(j) {
                Some(t) => self.decay.row(t)[head],
                None => self.held.decay.row(j)[head],
            };
        }
        (w, left)
    }
}

/// See [`super::scan`].
#[inline(always)]
pub(super) fn scan(
    p: &Scan<'_>,
    (decay, held): (Rows<'_>, Held<'_>),
    heads: Range<usize>,
    state: &mut (impl Format + ?Sized),
    y: &mut impl RowSink,
) {
    for tokens in HeldTokens::blocks(p, decay, held) {
        for head in heads.clone() {
            scan_block(p, &tokens, head, (head - heads.start) * p.head_dim, state, y);
        }
    }
}

/// One head through the tokens of one block; its first channel is row `first` of `state` and `y`.
#[inline(always)]
fn scan_block(
    p: &Scan<'_>,
    tokens: &HeldTokens<'_>,
    head: usize,
    first: usize,
    state: &mut (impl Format + ?Sized),
    y: &mut impl RowSink,
) {
    let (n, dim, block) = (p.d_state, p.head_dim, tokens.block());
    let group = head / (p.heads / p.n_groups);
    for (last, t) in (block.held..).zip(block.tokens.clone()) {
        let c = &p.c.row(t)[group * n..(group + 1) * n];
        let (x, d) = (&p.x.row(t)[head * dim..], &p.d[head * dim..]);
        let (mut q, left) = tokens.left(last, head);
        (0..=last).for_each(|j| q[j] *= dot(c, tokens.b(j, group)));
        let y = &mut y.row(t)[first..first + dim];
        for i in 0..dim {
            let mut sum = left * state.dot(first + i, c);
            for j in 0..=last {
                let (dt, x) = tokens.u(j, head);
                sum += q[j] * (dt * x[i]);
            }
            y[i] = sum + d[i] * x[i];
        }
    }
    if block.is_whole() {
        let (w, left) = tokens.left(HELD - 1, head);
        let position = p.position + block.tokens.end as u64 - 1;
        for i in 0..dim {
            let mut v = w;
            for j in 0..HELD {
                let (dt, x) = tokens.u(j, head);
                v[j] *= dt * x[i];
            }
            state.step(first + i, n, dither(position, head * dim + i), |k, h| {
                h.iter_mut().for_each(|h| *h *= left);
                for j in 0..HELD {
                    let b = &tokens.b(j, group)[k * LANES..];
                    let b = load(&b[..b.len().min(LANES)]);
                    (0..LANES).for_each(|lane| h[lane] += v[j] * b[lane]);
                }
            });
        }
    }
}
