//! Products of a float matrix with float activations.
//!
//! Here the sixteen lanes run along a row, so each product ends in a fold across lanes. Sixteen folds together cost
//! little more than one, so products are computed sixteen at a time: of 16 rows with one token, or of 4 rows with
//! 4 tokens. Rows or tokens that are missing at the end repeat the last one; their products are not written.

use super::{LINE, Simd, prefetch};
use crate::columns::Part;
use core::ops::Range;
use half::f16;
use sarit_core::Dense;
use sarit_core::kernels::scalar::PART_ROWS;
use sarit_core::kernels::{LANES, RowSink, Rows};

/// Rows, and tokens, whose products are accumulated at once.
pub(super) const BLOCK: usize = 4;

/// An element type of float matrices.
pub(crate) trait Element: Copy {
    /// Sixteen elements as floats.
    fn load<S: Simd>(simd: S, x: &[Self; LANES]) -> S::Floats;
    /// Up to 16 elements as floats, filled up with zeros.
    fn load_part<S: Simd>(simd: S, x: &[Self]) -> S::Floats;
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[f32; LANES]) -> S::Floats {
        simd.load(x)
    }

    #[inline(always)]
    fn load_part<S: Simd>(simd: S, x: &[f32]) -> S::Floats {
        simd.load_part(x)
    }
}

impl Element for f16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[f16; LANES]) -> S::Floats {
        simd.load_f16(x)
    }

    #[inline(always)]
    fn load_part<S: Simd>(simd: S, x: &[f16]) -> S::Floats {
        simd.load_f16_part(x)
    }
}

/// See [`sarit_core::kernels::scalar::matmul`].
#[inline(always)]
pub(crate) fn matmul<S: Simd, W: Element>(
    simd: S,
    w: &Dense<'_, W>,
    x: Rows<'_>,
    parts: Range<usize>,
    y: &mut Part<'_>,
) {
    const { assert!(BLOCK * BLOCK == LANES && PART_ROWS == LANES) };
    for (i, part) in parts.enumerate() {
        let first = part * PART_ROWS;
        let count = (w.rows - first).min(PART_ROWS);
        // Row `i` of the part, or its last.
        let row = |i: usize| w.row(first + i.min(count - 1));
        let block = |i: usize| [row(i), row(i + 1), row(i + 2), row(i + 3)];
        let mut t = 0;
        while x.count() - t > 1 {
            let tokens = (x.count() - t).min(BLOCK);
            let x = [0, 1, 2, 3].map(|j: usize| x.row(t + j.min(tokens - 1)));
            for r in (0..count).step_by(BLOCK) {
                let mut folded = [0.0; LANES];
                simd.store(simd.fold(flat(dots::<_, _, _, false>(simd, x, block(r), 0))), &mut folded);
                for (j, folded) in folded.as_chunks::<BLOCK>().0[..tokens].iter().enumerate() {
                    let rows = (count - r).min(BLOCK);
                    y.row(t + j)[i * PART_ROWS + r..][..rows].copy_from_slice(&folded[..rows]);
                }
            }
            t += tokens;
        }
        if t < x.count() {
            // The block of rows after the one that is read.
            let ahead = BLOCK * w.cols * size_of::<W>();
            let products = products::<_, _, true>(simd, x.row(t), count, row, ahead);
            simd.store_part(products, &mut y.row(t)[i * PART_ROWS..][..count]);
        }
    }
}

/// `x · row(r)` of `count` rows, up to 16, a lane for each; `FETCH` and `ahead` as in [`dots`].
#[inline(always)]
pub(super) fn products<'a, S: Simd, W: Element + 'a, const FETCH: bool>(
    simd: S,
    x: &[f32],
    count: usize,
    row: impl Fn(usize) -> &'a [W],
    ahead: usize,
) -> S::Floats {
    let row = |r: usize| row(r.min(count - 1));
    let mut sums = [simd.splat(0.0); LANES];
    for r in (0..count).step_by(BLOCK) {
        let rows = [row(r), row(r + 1), row(r + 2), row(r + 3)];
        [sums[r], sums[r + 1], sums[r + 2], sums[r + 3]] = dots::<_, _, 1, FETCH>(simd, [x], rows, ahead)[0];
    }
    simd.fold(sums)
}

/// The lanes of `x[t] · w[r]`, at `[t][r]`; with `FETCH` what lies `ahead` bytes behind `w` is asked for.
#[inline(always)]
fn dots<S: Simd, W: Element, const T: usize, const FETCH: bool>(
    simd: S,
    x: [&[f32]; T],
    w: [&[W]; BLOCK],
    ahead: usize,
) -> [[S::Floats; BLOCK]; T] {
    let cols = w[0].len();
    let whole = cols / LANES;
    let mut x16 = [x[0].as_chunks::<LANES>().0; T];
    let mut w16 = [w[0].as_chunks::<LANES>().0; BLOCK];
    for t in 0..T {
        x16[t] = &x[t].as_chunks().0[..whole];
    }
    for r in 0..BLOCK {
        w16[r] = &w[r].as_chunks().0[..whole];
    }
    let mut sums = [[simd.splat(0.0); BLOCK]; T];
    for k in 0..whole {
        for r in 0..BLOCK {
            // Once a line, of which elements of a byte are four times sixteen.
            if FETCH && (r * size_of::<[W; LANES]>()).is_multiple_of(LINE) {
                prefetch(&w[0][0], ahead + (k * BLOCK + r) * size_of::<[W; LANES]>());
            }
            let w = W::load(simd, &w16[r][k]);
            for t in 0..T {
                sums[t][r] = simd.add(sums[t][r], simd.mul(w, simd.load(&x16[t][k])));
            }
        }
    }
    let tail = whole * LANES..cols;
    if !tail.is_empty() {
        for r in 0..BLOCK {
            let w = W::load_part(simd, &w[r][tail.clone()]);
            for t in 0..T {
                let x = simd.load_part(&x[t][tail.clone()]);
                sums[t][r] = simd.add(sums[t][r], simd.mul(w, x));
            }
        }
    }
    sums
}

/// The sixteen sums in one row.
#[inline(always)]
fn flat<F: Copy>(sums: [[F; BLOCK]; BLOCK]) -> [F; LANES] {
    let mut flat = [sums[0][0]; LANES];
    for i in 0..LANES {
        flat[i] = sums[i / BLOCK][i % BLOCK];
    }
    flat
}
