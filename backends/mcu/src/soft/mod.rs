//! Cores without a floating-point unit.

mod float;
mod functions;

use core::ops::Range;
use float::{add, mul};
use functions::{encode, exp2, silu, softplus};
use half::f16;
use sarit_core::kernels::{
    Conv, Decay, GROUP_LANES, Input, Kernels, LANES, Quantized, QuantizedMut, RowSink, Rows, RowsMut, Scan,
    SsmState, TimeStep,
};
use sarit_core::plan::{Activation, Norm};
use sarit_core::{GROUP, Matrix, Scalar, TILE_ROWS, Tiled};

/// Kernels for cores without a floating-point unit, such as Cortex-M0 to M3 and RV32IMC: integers wherever the contract
/// allows, and sums and products of floats in a form that is shorter than the one of the run-time library.
#[derive(Debug, Clone, Copy, Default)]
pub struct Soft;

impl Kernels for Soft {
    fn name(&self) -> &'static str {
        "soft"
    }

    fn quantize(&self, x: Rows<'_>, q: QuantizedMut<'_>) {
        for t in 0..x.count() {
            for (g, x) in (t * q.groups..(t + 1) * q.groups).zip(x.row(t).chunks(GROUP)) {
                let (codes, scale, sum) = (&mut q.codes[g], &mut q.scales[g], &mut q.sums[g]);
                quantize_group(x, codes, scale, sum);
            }
        }
    }

    fn matmul(&self, w: &Matrix<'_>, x: Input<'_>, mut y: RowsMut<'_>) {
        match (w, x) {
            (Matrix::Q8(w), Input::Quantized(x)) => matmul_q8(w, x, &mut y),
            (Matrix::F32(w), Input::Float(x)) => {
                for t in 0..x.count() {
                    let y = &mut y.row(t)[..w.rows];
                    y.iter_mut().enumerate().for_each(|(r, y)| *y = dot(w.row(r), x.row(t)));
                }
            }
            (w, x) => Scalar.matmul(w, x, y),
        }
    }

    fn conv(&self, conv: &Conv<'_>, window: &mut [f32], mut x: RowsMut<'_>) {
        let channels = conv.channels;
        let newest = conv.width - 1;
        for t in 0..x.count() {
            for (i, x) in x.row(t)[..channels].iter_mut().enumerate() {
                let weight = |j: usize| conv.weight[j * channels + i];
                let mut sum = conv.bias.map_or(0.0, |bias| bias[i]);
                for j in 0..newest {
                    let input = window[j * channels + i];
                    sum = add(sum, mul(weight(j), input));
                    if j > 0 {
                        window[(j - 1) * channels + i] = input;
                    }
                }
                sum = add(sum, mul(weight(newest), *x));
                if newest > 0 {
                    window[(newest - 1) * channels + i] = *x;
                }
                *x = if conv.silu { silu(sum) } else { sum };
            }
        }
    }

    fn time_step(&self, p: &TimeStep<'_>, mut x: RowsMut<'_>) {
        for t in 0..x.count() {
            for (x, bias) in x.row(t).iter_mut().zip(p.bias) {
                let dt = softplus(add(*x, *bias));
                let dt = if dt < p.min { p.min } else { dt };
                *x = if dt > p.max { p.max } else { dt };
            }
        }
    }

    fn scan(&self, p: &Scan<'_>, state: SsmState<'_>, mut y: RowsMut<'_>) {
        let (a_log2, state) = match (p.decay, state) {
            (Decay::Element(a_log2), SsmState::F32(state)) => (a_log2, state),
            (_, state) => return Scalar.scan(p, state, y),
        };
        let (n, dim) = (p.d_state, p.head_dim);
        for t in 0..p.x.count() {
            for (head, state) in state.chunks_exact_mut(dim * n).enumerate() {
                let group = head / (p.heads / p.n_groups) * n;
                let (b, c) = (&p.b.row(t)[group..group + n], &p.c.row(t)[group..group + n]);
                let dt = p.dt.row(t)[head];
                for (i, h) in (head * dim..).zip(state.chunks_exact_mut(n)) {
                    let x = p.x.row(t)[i];
                    let a = &a_log2[head * n..(head + 1) * n];
                    let sum = step_channel(h, dt, mul(dt, x), a, b, c);
                    y.row(t)[i] = add(sum, mul(p.d[i], x));
                }
            }
        }
    }

    fn activate(&self, activation: Activation, gate: Option<Rows<'_>>, mut y: RowsMut<'_>) {
        match (activation, gate) {
            (Activation::Silu, Some(z)) => gate_rows(z, &mut y),
            (activation, gate) => Scalar.activate(activation, gate, y),
        }
    }

    fn gate(&self, z: Rows<'_>, norm: Option<&Norm<'_>>, groups: usize, mut y: RowsMut<'_>) {
        gate_rows(z, &mut y);
        if let Some(norm) = norm {
            self.group_norm(norm, groups, y);
        }
    }
}

/// `y = y · silu(z)`.
fn gate_rows(z: Rows<'_>, y: &mut RowsMut<'_>) {
    for t in 0..z.count() {
        y.row(t).iter_mut().zip(z.row(t)).for_each(|(y, z)| *y = mul(*y, silu(*z)));
    }
}

/// `h = decay(j) · h + u · b`; returns `sum_j c · h`.
#[inline(always)]
fn step_channel(h: &mut [f32], dt: f32, u: f32, a_log2: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    for (j, ((h, b), c)) in h.iter_mut().zip(b).zip(c).enumerate() {
        *h = add(mul(exp2(mul(dt, a_log2[j])), *h), mul(u, *b));
        lanes[j % LANES] = add(lanes[j % LANES], mul(*c, *h));
    }
    fold(lanes)
}

/// `sum_i a[i] · b[i]`.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        lanes[i % LANES] = add(lanes[i % LANES], mul(*a, *b));
    }
    fold(lanes)
}

/// [`sarit_core::kernels::fold`].
fn fold<const N: usize>(mut lanes: [f32; N]) -> f32 {
    let mut half = N / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = add(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Groups whose largest magnitude is outside are left to the definition: too small, infinite, or not a number.
const USUAL: Range<u32> = 0x0da2_4260..0x7f80_0000; // 1e-30 to infinity

fn quantize_group(x: &[f32], codes: &mut [i8; GROUP], scale: &mut f32, sum: &mut i32) {
    let magnitude = |x: &f32| x.to_bits() & 0x7fff_ffff;
    let largest = x.iter().map(magnitude).max().unwrap_or(0);
    if !USUAL.contains(&largest) {
        let q = QuantizedMut {
            groups: 1,
            codes: core::slice::from_mut(codes),
            scales: core::slice::from_mut(scale),
            sums: core::slice::from_mut(sum),
        };
        return Scalar.quantize(Rows::new(x, 1, x.len(), x.len()), q);
    }
    let largest = f32::from_bits(largest);
    let inverse = 127.0 / largest;
    *codes = [0; GROUP];
    codes.iter_mut().zip(x).for_each(|(code, x)| *code = encode(*x, inverse));
    *scale = largest / 127.0;
    *sum = codes.iter().map(|c| i32::from(*c)).sum();
}

fn matmul_q8(w: &Tiled<'_>, x: Quantized<'_>, y: &mut RowsMut<'_>) {
    for t in 0..x.count {
        let (codes, x_scales, _) = x.row(t);
        for (i, out) in y.row(t).chunks_mut(TILE_ROWS).enumerate() {
            let tiles = w.tile_codes::<512>(i);
            let scales = w.tile_scales(i).as_chunks::<TILE_ROWS>().0;
            for (r, out) in out.iter_mut().enumerate() {
                let mut lanes = [0.0; GROUP_LANES];
                for g in 0..w.groups {
                    let lines = (w.cols - g * GROUP).div_ceil(4).min(8);
                    let product = row_product(&tiles[g], r, &codes[g], lines);
                    let scale = mul(from_f16(scales[g][r]), x_scales[g]);
                    lanes[g % GROUP_LANES] = add(lanes[g % GROUP_LANES], mul(from_int(product), scale));
                }
                *out = fold(lanes);
            }
        }
    }
}

/// `sum_c w[r][c] · x[c]` over the first `lines` times four columns.
#[inline(always)]
fn row_product(tile: &[u8; 512], r: usize, x: &[i8; GROUP], lines: usize) -> i32 {
    let mut sum = 0;
    for (line, x) in tile.as_chunks::<64>().0.iter().zip(x.as_chunks::<4>().0).take(lines) {
        let w = line.as_chunks::<4>().0[r];
        for b in 0..4 {
            sum += i32::from(w[b] as i8) * i32::from(x[b]);
        }
    }
    sum
}

/// An integer below 2^24 in magnitude as a float.
#[inline(always)]
fn from_int(n: i32) -> f32 {
    functions::from_int(n, 0, false)
}

/// An f16 that is finite as a float.
#[inline(always)]
fn from_f16(x: f16) -> f32 {
    let bits = u32::from(x.to_bits());
    let (sign, rest) = ((bits & 0x8000) << 16, bits & 0x7fff);
    if rest.wrapping_sub(0x400) < 0x7800 {
        f32::from_bits(sign | ((rest << 13) + (112 << 23)))
    } else {
        x.to_f32()
    }
}
