//! Products of a quantized matrix with quantized activations.
//!
//! A tile's sixteen rows are the sixteen lanes, so nothing is ever summed across lanes. There are two loops.
//!
//! One token: the weights stream through once, in the order in which they lie in memory, and the eight group lanes of
//! the contract are eight accumulators. The stream is what takes the time, so it is prefetched: the hardware does it
//! too, but begins anew at each page.
//!
//! A chunk of tokens: a tile is loaded and unpacked once for eight of them, or for four where registers are few.
//! Eight accumulators for each of these would not fit in the registers, so the lanes are walked one after another, in the
//! order 0 4 2 6 1 5 3 7: the tree of the contract, `((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7))`, then grows from
//! the left, with at most three sums set aside. A tile row stays in the cache while all tokens pass, so memory is read
//! once a chunk; the first tokens fetch the next tile row, for in this order the hardware does not see it coming.

use super::{LINE, Simd, prefetch};
use crate::columns::Part;
use core::ops::Range;
use half::f16;
use sarit_core::kernels::{GROUP_LANES, Quantized, RowSink};
use sarit_core::{GROUP, TILE_ROWS, Tiled};

/// How far ahead of their use weights are fetched, in bytes: what a thread reads in 0.2 µs, in which a line comes from memory.
const PREFETCH: usize = 8192;

/// The order of the lanes in which their sums can be added up as they come.
const LANE_ORDER: [usize; GROUP_LANES] = [0, 4, 2, 6, 1, 5, 3, 7];

/// A format of tiles of `BYTES` bytes.
pub(crate) trait Format<const BYTES: usize>: Copy {
    /// `codes · codes` of the rows of a tile and a group of each of `T` tokens.
    fn products<S: Simd, const T: usize>(
        self,
        simd: S,
        tile: &[u8; BYTES],
        x: [&[i8; GROUP]; T],
        sums: [i32; T],
    ) -> [S::Floats; T];
}

/// Codes of 8 bits.
#[derive(Clone, Copy)]
pub(crate) struct Q8;

impl Format<512> for Q8 {
    #[inline(always)]
    fn products<S: Simd, const T: usize>(
        self,
        simd: S,
        tile: &[u8; 512],
        x: [&[i8; GROUP]; T],
        sums: [i32; T],
    ) -> [S::Floats; T] {
        simd.q8(tile, x, sums)
    }
}

/// Codes of 4 bits.
#[derive(Clone, Copy)]
pub(crate) struct Q4;

impl Format<256> for Q4 {
    #[inline(always)]
    fn products<S: Simd, const T: usize>(
        self,
        simd: S,
        tile: &[u8; 256],
        x: [&[i8; GROUP]; T],
        sums: [i32; T],
    ) -> [S::Floats; T] {
        simd.q4(tile, x, sums)
    }
}

/// A tile row: its scales and its codes, group by group.
#[derive(Clone, Copy)]
struct TileRow<'a, const BYTES: usize> {
    scales: &'a [[f16; TILE_ROWS]],
    codes: &'a [[u8; BYTES]],
}

/// See [`sarit_core::kernels::scalar::matmul`].
#[inline(always)]
pub(crate) fn matmul<S: Simd, const BYTES: usize>(
    simd: S,
    format: impl Format<BYTES>,
    w: &Tiled<'_>,
    x: Quantized<'_>,
    parts: Range<usize>,
    y: &mut Part<'_>,
) {
    for (i, tile_row) in parts.enumerate() {
        let w =
            TileRow { scales: w.tile_scales(tile_row).as_chunks().0, codes: w.tile_codes::<BYTES>(tile_row) };
        let mut t = 0;
        while S::REGISTERS >= 32 && x.count - t >= 8 {
            some_tokens::<S, BYTES, 8>(simd, format, w, x, t, y, i * TILE_ROWS);
            t += 8;
        }
        while x.count - t >= 4 {
            some_tokens::<S, BYTES, 4>(simd, format, w, x, t, y, i * TILE_ROWS);
            t += 4;
        }
        while t < x.count {
            write(simd, one_token(simd, format, w, x, t), y, t, i * TILE_ROWS);
            t += 1;
        }
    }
}

/// Writes sums to the up to 16 columns of row `t` of `y` from `column` on.
#[inline(always)]
fn write<S: Simd>(simd: S, sums: S::Floats, y: &mut Part<'_>, t: usize, column: usize) {
    let out = &mut y.row(t)[column..];
    let rows = out.len().min(TILE_ROWS);
    simd.store_part(sums, &mut out[..rows]);
}

/// Token `t`, in the order of the weights.
#[inline(always)]
fn one_token<S: Simd, const BYTES: usize>(
    simd: S,
    format: impl Format<BYTES>,
    w: TileRow<'_, BYTES>,
    x: Quantized<'_>,
    t: usize,
) -> S::Floats {
    let (codes, x_scales, x_sums) = x.row(t);
    let n = w.codes.len();
    let (scales, codes) = (&w.scales[..n], &codes[..n]);
    let (x_scales, x_sums) = (&x_scales[..n], &x_sums[..n]);
    let mut lanes = [simd.splat(0.0); GROUP_LANES];
    let mut g = 0;
    while g < n {
        // A whole round of the lanes has a length that the compiler knows, and is unrolled.
        if n - g >= GROUP_LANES {
            for lane in 0..GROUP_LANES {
                let g = g + lane;
                for line in 0..BYTES / LINE {
                    prefetch(&w.codes[g], PREFETCH + line * LINE);
                }
                let [products] = format.products(simd, &w.codes[g], [&codes[g]], [x_sums[g]]);
                let scale = simd.mul(simd.load_f16(&scales[g]), simd.splat(x_scales[g]));
                lanes[lane] = simd.add(lanes[lane], simd.mul(products, scale));
            }
        } else {
            for lane in 0..n - g {
                let g = g + lane;
                let [products] = format.products(simd, &w.codes[g], [&codes[g]], [x_sums[g]]);
                let scale = simd.mul(simd.load_f16(&scales[g]), simd.splat(x_scales[g]));
                lanes[lane] = simd.add(lanes[lane], simd.mul(products, scale));
            }
        }
        g += GROUP_LANES;
    }
    let mut half = GROUP_LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = simd.add(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Tokens `first..first + T`, lane after lane, to the columns of `y` from `column` on.
#[inline(always)]
fn some_tokens<S: Simd, const BYTES: usize, const T: usize>(
    simd: S,
    format: impl Format<BYTES>,
    w: TileRow<'_, BYTES>,
    x: Quantized<'_>,
    first: usize,
    y: &mut Part<'_>,
    column: usize,
) {
    let n = w.codes.len();
    let scales = &w.scales[..n];
    let (mut codes, mut x_scales, mut x_sums) = ([&x.codes[..n]; T], [&x.scales[..n]; T], [&x.sums[..n]; T]);
    for t in 0..T {
        let (c, s, sums) = x.row(first + t);
        (codes[t], x_scales[t], x_sums[t]) = (&c[..n], &s[..n], &sums[..n]);
        // A chunk's outputs are more than the caches near by hold, and lie too far apart for the hardware to see it coming.
        prefetch(&y.row(first + t)[column], 0);
    }
    // Sums of one, two and four lanes that wait for their right neighbours.
    let zero = [simd.splat(0.0); T];
    let (mut one, mut two, mut four) = (zero, zero, zero);
    for (i, lane) in LANE_ORDER.into_iter().enumerate() {
        let mut sum = zero;
        let mut g = lane;
        while g < n {
            let (mut group, mut sums) = ([&codes[0][g]; T], [0; T]);
            for t in 0..T {
                (group[t], sums[t]) = (&codes[t][g], x_sums[t][g]);
            }
            if first == 0 {
                for line in 0..BYTES / LINE {
                    prefetch(&w.codes[g], n * BYTES + line * LINE);
                }
                prefetch(&scales[g], size_of_val(scales));
            }
            let products = format.products(simd, &w.codes[g], group, sums);
            let scale = simd.load_f16(&scales[g]);
            for t in 0..T {
                let scale = simd.mul(scale, simd.splat(x_scales[t][g]));
                sum[t] = simd.add(sum[t], simd.mul(products[t], scale));
            }
            g += GROUP_LANES;
        }
        match i {
            0 | 2 | 4 | 6 => one = sum,
            1 | 5 => two = add(simd, one, sum),
            3 => four = add(simd, two, add(simd, one, sum)),
            _ => {
                let sums = add(simd, four, add(simd, two, add(simd, one, sum)));
                for (t, sums) in sums.into_iter().enumerate() {
                    write(simd, sums, y, first + t, column);
                }
            }
        }
    }
}

/// `a + b`, token by token.
#[inline(always)]
fn add<S: Simd, const T: usize>(simd: S, a: [S::Floats; T], b: [S::Floats; T]) -> [S::Floats; T] {
    let mut sums = a;
    for t in 0..T {
        sums[t] = simd.add(a[t], b[t]);
    }
    sums
}
