//! The definitions. Plain loops over fixed numbers of lanes, which compilers turn into vector code unchanged.

use super::{
    Attend, Conv, GROUP_LANES, Input, LANES, Quantized, QuantizedMut, RowSink, Rows, TimeStep, fold,
};
use crate::math::{ROUND, exp, exp2, gelu, gelu_tanh, rsqrt, silu, softplus};
use crate::plan::{Activation, Norm, NormKind};
use crate::tensor::{Dense, GROUP, Matrix, TILE_ROWS, Tiled};
use core::ops::Range;
use half::f16;

mod held;
mod scan;

pub use held::HeldTokens;
pub use scan::{
    dither, expand_codes, expand_codes_and_rests, round_to_codes, round_to_codes_and_rests, round_to_halves,
    scan,
};

/// Rows of a matrix that always stay together when a product is split.
pub const PART_ROWS: usize = TILE_ROWS;

/// Channels that are convolved together: enough for vector code, few enough for a small stack.
const CONV_BLOCK: usize = 128;

/// Groups whose largest magnitude is below this count as zeros: 127 divided by it is still finite.
const SMALLEST: f32 = 1e-36;

/// Less than [`ROUND`] plus any code, with the bits of code 0.
const NO_CODE: f32 = ROUND - 256.0;

/// `sum_i a[i] · b[i]` in the order of the contract; both slices have the same length.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a16, a_tail) = a.as_chunks::<LANES>();
    let (b16, b_tail) = b.as_chunks::<LANES>();
    for (a, b) in a16.iter().zip(b16) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    for (i, (a, b)) in a_tail.iter().zip(b_tail).enumerate() {
        lanes[i] += a * b;
    }
    fold(lanes)
}

/// `sum_i a[i]` in the order of the contract.
#[inline(always)]
fn sum(a: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a16, tail) = a.as_chunks::<LANES>();
    for a in a16 {
        for i in 0..LANES {
            lanes[i] += a[i];
        }
    }
    lanes.iter_mut().zip(tail).for_each(|(lane, a)| *lane += a);
    fold(lanes)
}

/// `1 / sqrt(mean(x²) + eps)`.
#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    rsqrt(dot(x, x) / x.len() as f32 + eps)
}

/// Normalizes rows `tokens` of `x`; row 0 of `y` is the first of them.
#[inline(always)]
pub fn norm(norm: &Norm<'_>, x: Rows<'_>, tokens: Range<usize>, y: &mut impl RowSink) {
    for (i, t) in tokens.enumerate() {
        let (x, y) = (x.row(t), y.row(i));
        match norm.kind {
            NormKind::Identity => y.copy_from_slice(x),
            NormKind::Rms => {
                let scale = inverse_rms(x, norm.eps);
                y.iter_mut().zip(x).for_each(|(y, x)| *y = x * scale);
            }
            NormKind::Layer => {
                let mean = sum(x) / x.len() as f32;
                y.iter_mut().zip(x).for_each(|(y, x)| *y = x - mean);
                let scale = inverse_rms(y, norm.eps);
                y.iter_mut().for_each(|y| *y *= scale);
            }
        }
        if let Some(weight) = norm.weight {
            y.iter_mut().zip(weight).for_each(|(y, w)| *y *= w);
        }
        if let Some(bias) = norm.bias {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
    }
}

/// See [`super::Kernels::quantize`].
#[inline(always)]
pub fn quantize(x: Rows<'_>, q: QuantizedMut<'_>) {
    for t in 0..x.count() {
        let part = t * q.groups..(t + 1) * q.groups;
        let groups = q.codes[part.clone()].iter_mut().zip(&mut q.scales[part.clone()]).zip(&mut q.sums[part]);
        for (x, ((codes, scale), sum)) in x.row(t).chunks(GROUP).zip(groups) {
            match x.as_array::<GROUP>() {
                Some(x) => (*scale, *sum) = quantize_group(x, codes),
                None => {
                    let mut filled = [0.0; GROUP];
                    filled[..x.len()].copy_from_slice(x);
                    (*scale, *sum) = quantize_group(&filled, codes);
                }
            }
        }
    }
}

/// The larger one; `b` where `a` is not a number.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The largest magnitude.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (x16, tail) = x.as_chunks::<LANES>();
    for part in x16 {
        for i in 0..LANES {
            lanes[i] = larger(part[i].abs(), lanes[i]);
        }
    }
    lanes.iter_mut().zip(tail).for_each(|(lane, x)| *lane = larger(x.abs(), *lane));
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = larger(lanes[i + half], lanes[i]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Codes of one group; returns its scale and the sum of its codes. Ties round to even; what is not a number has code 0.
#[inline(always)]
fn quantize_group(x: &[f32; GROUP], codes: &mut [i8; GROUP]) -> (f32, i32) {
    let largest = largest(x);
    if largest < SMALLEST {
        *codes = [0; GROUP];
        return (0.0, 0);
    }
    let inverse = 127.0 / largest;
    let mut sum = 0;
    for i in 0..GROUP {
        codes[i] = larger(x[i] * inverse + ROUND, NO_CODE).to_bits() as i8;
        sum += i32::from(codes[i]);
    }
    (largest / 127.0, sum)
}

/// `y[t] = w · x[t]` for the parts `parts` of [`PART_ROWS`] rows each; `y` holds the columns of those rows only.
#[inline(always)]
pub fn matmul(w: &Matrix<'_>, x: Input<'_>, parts: Range<usize>, y: &mut impl RowSink) {
    match (w, x) {
        (Matrix::F32(w), Input::Float(x)) => matmul_dense(w, x, parts, y, |w| w),
        (Matrix::F16(w), Input::Float(x)) => matmul_dense(w, x, parts, y, f16::to_f32),
        (Matrix::Q8(w), Input::Quantized(x)) => matmul_tiled(w, x, parts, y, q8_products),
        (Matrix::Q4(w), Input::Quantized(x)) => matmul_tiled(w, x, parts, y, q4_products),
        _ => unreachable!("quantized matrices take quantized inputs, float ones floats"),
    }
}

#[inline(always)]
fn matmul_dense<W: Copy>(
    w: &Dense<'_, W>,
    x: Rows<'_>,
    parts: Range<usize>,
    y: &mut impl RowSink,
    to_f32: impl Fn(W) -> f32,
) {
    let rows = parts.start * PART_ROWS..(parts.end * PART_ROWS).min(w.rows);
    for (i, r) in rows.enumerate() {
        let (w16, w_tail) = w.row(r).as_chunks::<LANES>();
        for t in 0..x.count() {
            let (x16, x_tail) = x.row(t).as_chunks::<LANES>();
            let mut lanes = [0.0; LANES];
            for (w, x) in w16.iter().zip(x16) {
                for i in 0..LANES {
                    lanes[i] += to_f32(w[i]) * x[i];
                }
            }
            for (i, (&w, x)) in w_tail.iter().zip(x_tail).enumerate() {
                lanes[i] += to_f32(w) * x;
            }
            y.row(t)[i] = fold(lanes);
        }
    }
}

#[inline(always)]
fn matmul_tiled<const N: usize>(
    w: &Tiled<'_>,
    x: Quantized<'_>,
    parts: Range<usize>,
    y: &mut impl RowSink,
    products: impl Fn(&[u8; N], &[i8; GROUP]) -> [i32; TILE_ROWS],
) {
    for (i, tile_row) in parts.enumerate() {
        let scales = w.tile_scales(tile_row).as_chunks::<TILE_ROWS>().0;
        let tiles = w.tile_codes::<N>(tile_row);
        for t in 0..x.count {
            let (codes, x_scales, _) = x.row(t);
            let mut lanes = [[0.0; TILE_ROWS]; GROUP_LANES];
            for g in 0..w.groups {
                let sums = products(&tiles[g], &codes[g]);
                let lane = &mut lanes[g % GROUP_LANES];
                for r in 0..TILE_ROWS {
                    lane[r] += sums[r] as f32 * (scales[g][r].to_f32() * x_scales[g]);
                }
            }
            let out = &mut y.row(t)[i * TILE_ROWS..];
            for r in 0..out.len().min(TILE_ROWS) {
                out[r] = fold(lanes.map(|lane| lane[r]));
            }
        }
    }
}

/// `sum_c w[r][c] · x[c]` of each of a q8 tile's rows.
#[inline(always)]
fn q8_products(tile: &[u8; 512], x: &[i8; GROUP]) -> [i32; TILE_ROWS] {
    let mut sums = [0; TILE_ROWS];
    for (line, x) in tile.as_chunks::<64>().0.iter().zip(x.as_chunks::<4>().0) {
        for (sum, w) in sums.iter_mut().zip(line.as_chunks::<4>().0) {
            for b in 0..4 {
                *sum += i32::from(w[b] as i8) * i32::from(x[b]);
            }
        }
    }
    sums
}

/// `sum_c w[r][c] · x[c]` of each of a q4 tile's rows.
#[inline(always)]
fn q4_products(tile: &[u8; 256], x: &[i8; GROUP]) -> [i32; TILE_ROWS] {
    let mut sums = [0; TILE_ROWS];
    for (line, x) in tile.as_chunks::<64>().0.iter().zip(x.as_chunks::<8>().0) {
        for (sum, w) in sums.iter_mut().zip(line.as_chunks::<4>().0) {
            for b in 0..4 {
                *sum += (i32::from(w[b] & 15) - 8) * i32::from(x[b]);
                *sum += (i32::from(w[b] >> 4) - 8) * i32::from(x[b + 4]);
            }
        }
    }
    sums
}

/// Convolves the channels `channels` of `count` tokens; `window` and `x` hold the columns of those channels only.
#[inline(always)]
pub fn conv(
    conv: &Conv<'_>,
    channels: Range<usize>,
    count: usize,
    window: &mut impl RowSink,
    x: &mut impl RowSink,
) {
    for t in 0..count {
        for (i, x) in x.row(t).chunks_mut(CONV_BLOCK).enumerate() {
            conv_block(conv, channels.start + i * CONV_BLOCK, i * CONV_BLOCK, window, x);
        }
    }
}

/// Convolves the channels of one token that `x` holds; the first is `channel`, and column `start` of `window`.
#[inline(always)]
fn conv_block(conv: &Conv<'_>, channel: usize, start: usize, window: &mut impl RowSink, x: &mut [f32]) {
    let (len, before) = (x.len(), conv.width - 1);
    let (mut sum, mut newer) = ([0.0; CONV_BLOCK], [0.0; CONV_BLOCK]);
    let (sum, newer) = (&mut sum[..len], &mut newer[..len]);
    if let Some(bias) = conv.bias {
        sum.copy_from_slice(&bias[channel..channel + len]);
    }
    let mut add = |j: usize, input: &[f32]| {
        let weight = &conv.weight[j * conv.channels + channel..][..len];
        for ((sum, w), x) in sum.iter_mut().zip(weight).zip(input) {
            *sum += w * x;
        }
    };
    for j in 0..before {
        add(j, &window.row(j)[start..start + len]);
    }
    add(before, x);
    newer.copy_from_slice(x);
    for j in (0..before).rev() {
        window.row(j)[start..start + len].swap_with_slice(newer);
    }
    for (x, sum) in x.iter_mut().zip(&*sum) {
        *x = if conv.silu { silu(*sum) } else { *sum };
    }
}

/// See [`super::Kernels::time_step`].
#[inline(always)]
pub fn time_step(p: &TimeStep<'_>, count: usize, x: &mut impl RowSink) {
    for t in 0..count {
        for (x, bias) in x.row(t).iter_mut().zip(p.bias) {
            let dt = softplus(*x + bias);
            let dt = if dt < p.min { p.min } else { dt };
            *x = if dt > p.max { p.max } else { dt };
        }
    }
}

/// See [`super::Kernels::decay`].
#[inline(always)]
pub fn decay(a_log2: &[f32], dt: Rows<'_>, y: &mut impl RowSink) {
    for t in 0..dt.count() {
        for ((y, dt), a) in y.row(t).iter_mut().zip(dt.row(t)).zip(a_log2) {
            *y = exp2(dt * a);
        }
    }
}

/// Gates rows `tokens`; row 0 of `y` is the first of them.
#[inline(always)]
pub fn gate(z: Rows<'_>, norm: Option<&Norm<'_>>, groups: usize, tokens: Range<usize>, y: &mut impl RowSink) {
    let count = tokens.len();
    for (i, t) in tokens.enumerate() {
        for (y, z) in y.row(i).iter_mut().zip(z.row(t)) {
            *y *= silu(*z);
        }
    }
    if let Some(norm) = norm {
        group_norm(norm, groups, count, y);
    }
}

/// RMS normalization of `count` rows in place, in `groups` equal parts.
#[inline(always)]
pub fn group_norm(norm: &Norm<'_>, groups: usize, count: usize, y: &mut impl RowSink) {
    for t in 0..count {
        let y = y.row(t);
        let part = y.len() / groups;
        for y in y.chunks_exact_mut(part) {
            let scale = inverse_rms(y, norm.eps);
            y.iter_mut().for_each(|y| *y *= scale);
        }
        if let Some(weight) = norm.weight {
            y.iter_mut().zip(weight).for_each(|(y, w)| *y *= w);
        }
    }
}

/// Attends with the heads `heads`; `scores` and `y` hold those heads only.
#[inline(always)]
pub fn attend(p: &Attend<'_>, heads: Range<usize>, scores: &mut [f32], y: &mut [f32]) {
    let (dim, row, positions) = (p.head_dim, p.kv_heads * p.head_dim, p.positions());
    let outputs = scores.chunks_exact_mut(positions).zip(y.chunks_exact_mut(dim));
    for (head, (scores, y)) in heads.zip(outputs) {
        let first = head / (p.heads / p.kv_heads) * dim;
        let q = &p.q[head * dim..(head + 1) * dim];
        let mut largest = f32::NEG_INFINITY;
        for (score, key) in scores.iter_mut().zip(p.keys.chunks_exact(row)) {
            *score = dot(q, &key[first..first + dim]) * p.scale;
            largest = if *score > largest { *score } else { largest };
        }
        scores.iter_mut().for_each(|score| *score = exp(*score - largest));
        y.fill(0.0);
        for (weight, value) in scores.iter().zip(p.values.chunks_exact(row)) {
            y.iter_mut().zip(&value[first..first + dim]).for_each(|(y, v)| *y += weight * v);
        }
        let all = sum(scores);
        y.iter_mut().for_each(|y| *y /= all);
    }
}

/// Activates rows `tokens`; row 0 of `y` is the first of them.
#[inline(always)]
pub fn activate(activation: Activation, gate: Option<Rows<'_>>, tokens: Range<usize>, y: &mut impl RowSink) {
    match activation {
        Activation::Silu => activate_with(silu, gate, tokens, y),
        Activation::Gelu => activate_with(gelu, gate, tokens, y),
        Activation::GeluTanh => activate_with(gelu_tanh, gate, tokens, y),
        Activation::Relu => activate_with(relu, gate, tokens, y),
        Activation::Relu2 => activate_with(|x| relu(x) * relu(x), gate, tokens, y),
    }
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    if x > 0.0 { x } else { 0.0 }
}

#[inline(always)]
fn activate_with(f: impl Fn(f32) -> f32, gate: Option<Rows<'_>>, tokens: Range<usize>, y: &mut impl RowSink) {
    for (i, t) in tokens.enumerate() {
        match gate {
            Some(gate) => y.row(i).iter_mut().zip(gate.row(t)).for_each(|(y, g)| *y *= f(*g)),
            None => y.row(i).iter_mut().for_each(|y| *y = f(*y)),
        }
    }
}
