//! Every instruction set that this CPU has, on 1, 2 and 3 threads, against the definitions, operation by operation
//! and bit for bit. Inputs are awkward on purpose: lengths around the widths of vectors, groups of zeros, negative
//! zeros, subnormal and large numbers, codes at the ends of their ranges.

use half::f16;
use sarit_core::kernels::{
    Attend, Conv, Decay, HELD, Held, Input, Kernels, Quantized, QuantizedMut, Rests, Rows, RowsMut, Scan,
    SsmState, TimeStep, rests_len,
};
use sarit_core::plan::{Activation, Norm, NormKind};
use sarit_core::{DType, Dense, GROUP, Matrix, STATE_GROUP, Scalar, StateDType, TILE_ROWS, Tiled};
use sarit_cpu::{Cpu, Isa};
use std::fmt::Debug;
use std::io::Write;
use std::sync::OnceLock;

/// Row and column counts around the widths of vectors, tiles and groups.
const ROWS: [usize; 7] = [1, 15, 16, 17, 31, 48, 100];
/// Tokens in a chunk.
const TOKENS: [usize; 7] = [1, 2, 3, 7, 8, 9, 33];

/// All that can be tried here; says what cannot.
fn machines() -> &'static [Cpu] {
    static MACHINES: OnceLock<Vec<Cpu>> = OnceLock::new();
    MACHINES.get_or_init(|| {
        let have: Vec<Isa> = Isa::available().collect();
        // Written to the stream itself, which tests do not capture: what a run has not tested must be seen.
        let mut out = std::io::stderr();
        for isa in Isa::ALL {
            let note =
                if have.contains(&isa) { "tested" } else { "SKIPPED: not in this CPU, or not in this build" };
            writeln!(out, "{isa}: {note}").unwrap();
        }
        assert!(!have.is_empty(), "the build is forced to an instruction set that this CPU lacks");
        let with_threads = |isa| [1, 2, 3].map(|threads| Cpu::with_isa(isa, threads).unwrap());
        have.into_iter().flat_map(with_threads).collect()
    })
}

/// Runs `run` on the definitions and on every machine; `case` describes it. `run` returns all that it has written.
fn compare(case: &dyn Debug, run: impl Fn(&dyn Kernels) -> Vec<f32>) {
    let want = run(&Scalar);
    for cpu in machines() {
        let got = run(cpu);
        assert_eq!(got.len(), want.len());
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            assert_eq!(g.to_bits(), w.to_bits(), "{cpu:?}, {case:?}: {g:e} instead of {w:e} at {i}");
        }
    }
}

/// Numbers with a fixed seed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// In 0..1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// `len` floats: a cycle of prime length, and stretches of 1 to 40 of something else.
    fn floats(&mut self, len: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(len);
        while out.len() < len {
            let (kind, stretch) = (self.below(8), 1 + self.below(40));
            for _ in 0..stretch {
                let i = out.len();
                out.push(match kind {
                    0 => 0.0,
                    1 => -0.0,
                    2 => (self.unit() - 0.5) * 1e-38,
                    3 => (self.unit() - 0.5) * 1e-30,
                    4 => (self.unit() - 0.5) * 1e9,
                    5 => self.unit() - 0.5,
                    _ => ((i * 97 % 251) as f32 - 125.0) / 31.0,
                });
            }
        }
        out.truncate(len);
        out
    }

    /// `len` floats in `low..high`.
    fn range(&mut self, len: usize, low: f32, high: f32) -> Vec<f32> {
        (0..len).map(|_| low + (high - low) * self.unit()).collect()
    }

    /// A finite f16, of any magnitude.
    fn f16(&mut self) -> f16 {
        let x = f16::from_bits(self.next() as u16);
        if x.is_finite() { x } else { f16::from_f32(-0.37) }
    }
}

/// A matrix's memory.
struct Weights {
    dtype: DType,
    rows: usize,
    cols: usize,
    f32s: Vec<f32>,
    f16s: Vec<f16>,
    codes: Vec<u8>,
}

impl Weights {
    /// Random codes, every value of them, among them stretches of the extremes; scales of any magnitude.
    fn new(random: &mut Random, dtype: DType, rows: usize, cols: usize) -> Self {
        let (groups, tile_rows) = (cols.div_ceil(GROUP), rows.div_ceil(TILE_ROWS));
        let (mut f32s, mut f16s, mut codes) = (Vec::new(), Vec::new(), Vec::new());
        match dtype {
            DType::F32 => f32s = random.floats(rows * cols),
            DType::F16 => f16s = (0..rows * cols).map(|_| random.f16()).collect(),
            DType::Q8 | DType::Q4 => {
                f16s = (0..tile_rows * groups * TILE_ROWS).map(|_| random.f16()).collect();
                let len = tile_rows * groups * dtype.tile_bytes();
                while codes.len() < len {
                    let (kind, stretch) = (random.below(6), 1 + random.below(300));
                    for _ in 0..stretch {
                        codes.push(match (kind, dtype) {
                            (0, DType::Q8) => 127,
                            (1, DType::Q8) => 127i8.wrapping_neg() as u8,
                            (2, DType::Q8) => 128,
                            (0, _) => 0xff,
                            (1, _) => 0,
                            _ => random.next() as u8,
                        });
                    }
                }
                codes.truncate(len);
            }
        }
        Self { dtype, rows, cols, f32s, f16s, codes }
    }

    fn matrix(&self) -> Matrix<'_> {
        let (rows, cols) = (self.rows, self.cols);
        let tiled =
            || Tiled { rows, cols, groups: cols.div_ceil(GROUP), scales: &self.f16s, codes: &self.codes };
        match self.dtype {
            DType::F32 => Matrix::F32(Dense { rows, cols, data: &self.f32s }),
            DType::F16 => Matrix::F16(Dense { rows, cols, data: &self.f16s }),
            DType::Q8 => Matrix::Q8(tiled()),
            DType::Q4 => Matrix::Q4(tiled()),
        }
    }
}

/// Quantized activations' memory.
#[derive(Clone)]
struct Codes {
    count: usize,
    groups: usize,
    codes: Vec<[i8; GROUP]>,
    scales: Vec<f32>,
    sums: Vec<i32>,
}

impl Codes {
    fn empty(count: usize, cols: usize) -> Self {
        let groups = cols.div_ceil(GROUP);
        let all = count * groups;
        Self { count, groups, codes: vec![[99; GROUP]; all], scales: vec![99.0; all], sums: vec![99; all] }
    }

    fn as_mut(&mut self) -> QuantizedMut<'_> {
        let Self { groups, codes, scales, sums, .. } = self;
        QuantizedMut { groups: *groups, codes, scales, sums }
    }

    fn as_ref(&self) -> Quantized<'_> {
        let Self { count, groups, codes, scales, sums } = self;
        Quantized { count: *count, groups: *groups, codes, scales, sums }
    }

    /// Codes -127..=127 with groups of extremes, and zeros where columns are missing.
    fn new(random: &mut Random, count: usize, cols: usize) -> Self {
        let mut x = Self::empty(count, cols);
        for i in 0..x.codes.len() {
            let used = (cols - i % x.groups * GROUP).min(GROUP);
            let kind = random.below(5);
            for c in 0..GROUP {
                x.codes[i][c] = match kind {
                    _ if c >= used => 0,
                    0 => 127,
                    1 => -127,
                    2 if c % 2 == 0 => 127,
                    2 => -127,
                    _ => (random.below(255) as i32 - 127) as i8,
                };
            }
            x.scales[i] = if random.below(9) == 0 { 0.0 } else { random.unit() };
            x.sums[i] = x.codes[i].iter().map(|&c| i32::from(c)).sum();
        }
        x
    }
}

/// A buffer for `count` rows of `cols`, farther apart than they are long, and the distance.
fn output(count: usize, cols: usize) -> (Vec<f32>, usize) {
    (vec![77.0; count * (cols + 3)], cols + 3)
}

fn check_matmul(random: &mut Random, dtype: DType, rows: usize, cols: usize, tokens: usize) {
    let w = Weights::new(random, dtype, rows, cols);
    let (codes, floats, stride) =
        (Codes::new(random, tokens, cols), random.floats(tokens * (cols + 5)), cols + 5);
    compare(&("matmul", dtype, rows, cols, tokens), |kernels| {
        let (mut y, y_stride) = output(tokens, rows);
        let x = match w.matrix().is_quantized() {
            true => Input::Quantized(codes.as_ref()),
            false => Input::Float(Rows::new(&floats, tokens, cols, stride)),
        };
        kernels.matmul(&w.matrix(), x, RowsMut::new(&mut y, tokens, rows, y_stride));
        y
    });
}

#[test]
fn matmul_of_all_lengths() {
    let random = &mut Random(1);
    for dtype in DType::ALL {
        for cols in 1..=130 {
            check_matmul(random, dtype, 19, cols, 1);
            check_matmul(random, dtype, 17, cols, 9);
        }
        for rows in ROWS {
            for cols in [1, 31, 32, 33, 255, 256, 257, 300, 511, 544] {
                for tokens in TOKENS {
                    check_matmul(random, dtype, rows, cols, tokens);
                }
            }
        }
    }
}

#[test]
fn matmul_large_enough_for_threads() {
    let random = &mut Random(2);
    for dtype in DType::ALL {
        for (rows, cols, tokens) in [(1003, 768, 1), (2048, 256, 1), (333, 500, 12), (200, 768, 33)] {
            check_matmul(random, dtype, rows, cols, tokens);
        }
    }
}

/// By hardware and in software: every f16 but NaN, whose bits nobody promises.
#[test]
fn every_f16_is_read_exactly() {
    let (rows, cols) = (1 << 16, 1);
    let number = |bits| Some(f16::from_bits(bits)).filter(|x| !x.is_nan()).unwrap_or(f16::ZERO);
    let data: Vec<f16> = (0..=u16::MAX).map(number).collect();
    let w = Matrix::F16(Dense { rows, cols, data: &data });
    compare(&"f16", |kernels| {
        let mut y = vec![0.0; rows];
        kernels.matmul(&w, Input::Float(Rows::new(&[1.0], 1, 1, 1)), RowsMut::new(&mut y, 1, rows, rows));
        y
    });
}

#[test]
fn norm() {
    let random = &mut Random(3);
    let shapes =
        (1..=130).map(|cols| (2, cols)).chain(TOKENS.map(|t| (t, 100))).chain([(1, 5000), (150, 301)]);
    for (tokens, cols) in shapes {
        let (x, weight) = (random.floats(tokens * (cols + 2)), random.floats(cols));
        let bias = random.floats(cols);
        for (kind, weight, bias) in [
            (NormKind::Rms, Some(&weight[..]), None),
            (NormKind::Rms, None, None),
            (NormKind::Layer, Some(&weight[..]), Some(&bias[..])),
            (NormKind::Identity, None, None),
        ] {
            compare(&("norm", kind, tokens, cols), |kernels| {
                let (mut y, stride) = output(tokens, cols);
                let norm = Norm { kind, weight, bias, eps: 1e-5 };
                let x = Rows::new(&x, tokens, cols, cols + 2);
                kernels.norm(&norm, x, RowsMut::new(&mut y, tokens, cols, stride));
                y
            });
        }
    }
}

#[test]
fn quantize() {
    let random = &mut Random(4);
    let shapes =
        (1..=130).map(|cols| (2, cols)).chain(TOKENS.map(|t| (t, 100))).chain([(1, 5000), (150, 301)]);
    for (tokens, cols) in shapes {
        let mut x = random.floats(tokens * (cols + 2));
        check_quantize(&("quantize", tokens, cols), &x, tokens, cols);
        // What is not a number has code 0, and all in a group with an infinite one.
        for _ in 0..1 + x.len() / 20 {
            let at = random.below(x.len() as u64) as usize;
            x[at] = f32::from_bits(0x7f80_0000 | random.next() as u32);
        }
        check_quantize(&("quantize NaN", tokens, cols), &x, tokens, cols);
        x[0] = f32::NEG_INFINITY;
        check_quantize(&("quantize infinities", tokens, cols), &x, tokens, cols);
    }
}

fn check_quantize(case: &dyn Debug, x: &[f32], tokens: usize, cols: usize) {
    let rows = Rows::new(x, tokens, cols, cols + 2);
    compare(case, |kernels| {
        let mut q = Codes::empty(tokens, cols);
        kernels.quantize(rows, q.as_mut());
        for (x, codes) in (0..tokens).flat_map(|t| rows.row(t).chunks(GROUP)).zip(&q.codes) {
            assert!(x.iter().zip(codes).all(|(x, code)| x.is_finite() || *code == 0), "{case:?}");
        }
        let codes = q.codes.as_flattened().iter().map(|&c| f32::from(c));
        codes.chain(q.scales.iter().copied()).chain(q.sums.iter().map(|&s| s as f32)).collect()
    });
}

#[test]
fn conv() {
    let random = &mut Random(5);
    let shapes = (1..=130).map(|channels| (2, channels)).chain(TOKENS.map(|t| (t, 100))).chain([(40, 1001)]);
    for (tokens, channels) in shapes {
        for (width, bias, silu) in [(4, true, true), (4, false, false), (1, true, false), (2, false, true)] {
            let weight = random.floats(width * channels);
            let bias = bias.then(|| random.floats(channels));
            let before = random.floats((width - 1) * channels);
            let (input, stride) = (random.floats(tokens * (channels + 1)), channels + 1);
            compare(&("conv", tokens, channels, width), |kernels| {
                let (mut window, mut x) = (before.clone(), input.clone());
                let conv = Conv { width, channels, weight: &weight, bias: bias.as_deref(), silu };
                kernels.conv(&conv, &mut window, RowsMut::new(&mut x, tokens, channels, stride));
                x.extend(window);
                x
            });
        }
    }
}

#[test]
fn time_step_and_decay() {
    let random = &mut Random(6);
    let shapes = (1..=130).map(|heads| (2, heads)).chain(TOKENS.map(|t| (t, 24))).chain([(40, 999)]);
    for (tokens, heads) in shapes {
        let (bias, a_log2) = (random.range(heads, -7.0, 3.0), random.range(heads, -20.0, -0.1));
        let raw: Vec<f32> = random.floats(tokens * heads);
        compare(&("time_step and decay", tokens, heads), |kernels| {
            let mut dt = raw.clone();
            let p = TimeStep { bias: &bias, min: 1e-4, max: 1e8 };
            kernels.time_step(&p, RowsMut::new(&mut dt, tokens, heads, heads));
            let (mut y, stride) = output(tokens, heads);
            let rows = Rows::new(&dt, tokens, heads, heads);
            kernels.decay(&a_log2, rows, RowsMut::new(&mut y, tokens, heads, stride));
            y.extend(dt);
            y
        });
    }
}

/// A scan's shape.
#[derive(Debug, Clone, Copy)]
struct Shape {
    heads: usize,
    head_dim: usize,
    d_state: usize,
    n_groups: usize,
    tokens: usize,
    per_element: bool,
    /// Tokens read before.
    position: u64,
}

fn check_scan(random: &mut Random, s: Shape) {
    let Shape { heads, head_dim, d_state, n_groups, tokens, per_element, position } = s;
    let (d_inner, bc) = (heads * head_dim, n_groups * d_state);
    let (x, b, c) =
        (random.floats(tokens * (d_inner + 3)), random.floats(tokens * (bc + 1)), random.floats(tokens * bc));
    let (dt, decay) = (random.range(tokens * heads, 1e-4, 2.0), random.range(tokens * heads, 0.0, 1.0));
    let held = random.floats(HELD * (d_inner + bc + heads));
    let (a_log2, d) = (random.range(heads * d_state, -30.0, -0.1), random.floats(d_inner));
    let states = d_inner * d_state.div_ceil(STATE_GROUP);
    let before = Before {
        floats: random.floats(d_inner * d_state),
        halves: (0..d_inner * d_state).map(|_| random.f16()).collect(),
        codes: (0..d_inner * d_state).map(|_| random.next() as i8).collect(),
        scales: random.floats(states),
        rests: (0..if per_element { 0 } else { d_inner * rests_len(d_state) })
            .map(|_| std::array::from_fn(|_| random.next() as u8))
            .collect(),
    };
    for dtype in StateDType::ALL {
        compare(&(s, dtype), |kernels| {
            let decay = match per_element {
                true => Decay::Element(&a_log2),
                false => Decay::Head {
                    decay: Rows::new(&decay, tokens, heads, heads),
                    held: Held::new(&held, d_inner, bc, heads),
                },
            };
            let scan = Scan {
                heads,
                head_dim,
                d_state,
                n_groups,
                decay,
                dt: Rows::new(&dt, tokens, heads, heads),
                x: Rows::new(&x, tokens, d_inner, d_inner + 3),
                b: Rows::new(&b, tokens, bc, bc + 1),
                c: Rows::new(&c, tokens, bc, bc),
                d: &d,
                position,
            };
            let (mut y, stride) = output(tokens, d_inner);
            let rows = RowsMut::new(&mut y, tokens, d_inner, stride);
            let mut state = before.clone();
            match dtype {
                StateDType::F32 => kernels.scan(&scan, SsmState::F32(&mut state.floats), rows),
                StateDType::F16 => kernels.scan(&scan, SsmState::F16(&mut state.halves), rows),
                StateDType::I8 => {
                    let Before { codes, scales, rests, .. } = &mut state;
                    kernels.scan(&scan, SsmState::I8 { codes, scales, rests }, rows);
                }
            }
            y.extend(state.floats.iter().chain(&state.scales));
            y.extend(state.halves.iter().map(|h| h.to_f32()));
            y.extend(state.codes.iter().map(|&code| f32::from(code)));
            y.extend(state.rests.as_flattened().iter().map(|&rests| f32::from(rests)));
            y
        });
    }
}

/// States in every format.
#[derive(Clone)]
struct Before {
    floats: Vec<f32>,
    halves: Vec<f16>,
    codes: Vec<i8>,
    scales: Vec<f32>,
    rests: Vec<Rests>,
}

fn scan_of_all_shapes(per_element: bool) {
    let random = &mut Random(7);
    for d_state in [1, 8, 15, 16, 17, 24, 32, 64, 128, 300] {
        for head_dim in [1, 16, 20, 64] {
            for (heads, n_groups) in [(1, 1), (3, 1), (6, 2), (5, 5), (40, 2)] {
                let tokens = 1 + (d_state + head_dim + heads) % 3;
                // A few tokens around the 2^32nd, which is the first of a block of held ones.
                let position = u64::from(u32::MAX) - (heads % 5) as u64;
                let shape = Shape { heads, head_dim, d_state, n_groups, tokens, per_element, position };
                check_scan(random, shape);
            }
        }
    }
    for (tokens, position) in TOKENS.iter().flat_map(|tokens| (0..HELD as u64).map(|at| (*tokens, at))) {
        let shape = Shape { heads: 4, head_dim: 20, d_state: 16, n_groups: 2, tokens, per_element, position };
        check_scan(random, shape);
    }
}

/// Two tests, which run beside each other: on an emulated CPU each takes minutes.
#[test]
fn scan_by_head_of_all_shapes() {
    scan_of_all_shapes(false);
}

#[test]
fn scan_by_element_of_all_shapes() {
    scan_of_all_shapes(true);
}

#[test]
fn scan_large_enough_for_threads() {
    let random = &mut Random(8);
    let (tokens, position) = (1, HELD as u64 - 1);
    let shape =
        Shape { heads: 0, head_dim: 1, d_state: 16, n_groups: 1, tokens, per_element: true, position };
    check_scan(random, Shape { heads: 1537, ..shape });
    check_scan(random, Shape { heads: 801, tokens: 9, ..shape });
    let shape = Shape { heads: 24, head_dim: 64, d_state: 128, per_element: false, ..shape };
    for tokens in TOKENS {
        check_scan(random, Shape { tokens, ..shape });
    }
    check_scan(random, Shape { heads: 14, head_dim: 20, n_groups: 2, tokens: 7, ..shape });
}

#[test]
fn gate() {
    let random = &mut Random(9);
    let shapes = (1..=130).map(|cols| (2, cols)).chain(TOKENS.map(|t| (t, 100))).chain([(150, 302)]);
    for (tokens, cols) in shapes {
        let weight = random.floats(cols);
        let (z, y, stride) =
            (random.floats(tokens * (cols + 1)), random.floats(tokens * (cols + 2)), cols + 2);
        for groups in [0, 1, 2, 5] {
            if groups > 0 && cols % groups != 0 {
                continue;
            }
            compare(&("gate", tokens, cols, groups), |kernels| {
                let mut y = y.clone();
                let norm = Norm { kind: NormKind::Rms, weight: Some(&weight), bias: None, eps: 1e-5 };
                let norm = (groups > 0).then_some(&norm);
                let z = Rows::new(&z, tokens, cols, cols + 1);
                kernels.gate(z, norm, groups.max(1), RowsMut::new(&mut y, tokens, cols, stride));
                y
            });
        }
    }
}

#[test]
fn group_norm() {
    let random = &mut Random(12);
    for (tokens, cols, groups) in
        [(1, 1, 1), (2, 31, 1), (3, 34, 2), (9, 100, 5), (2, 130, 13), (150, 304, 4)]
    {
        let (before, weight, stride) = (random.floats(tokens * (cols + 2)), random.floats(cols), cols + 2);
        for weight in [None, Some(&weight[..])] {
            compare(&("group_norm", tokens, cols, groups), |kernels| {
                let mut y = before.clone();
                let norm = Norm { kind: NormKind::Rms, weight, bias: None, eps: 1e-5 };
                kernels.group_norm(&norm, groups, RowsMut::new(&mut y, tokens, cols, stride));
                y
            });
        }
    }
}

#[test]
fn attend() {
    let random = &mut Random(13);
    for (heads, kv_heads) in [(1, 1), (6, 2), (5, 5)] {
        for head_dim in [1, 8, 15, 16, 17, 64, 100] {
            for positions in [1, 2, 15, 16, 17, 33, 300] {
                let all = positions * kv_heads * head_dim;
                let (q, keys) = (random.range(heads * head_dim, -2.0, 2.0), random.range(all, -2.0, 2.0));
                let values = random.floats(all);
                compare(&("attend", heads, kv_heads, head_dim, positions), |kernels| {
                    let (mut scores, mut y) = (vec![0.0; heads * positions], vec![77.0; heads * head_dim]);
                    let (q, keys, values) = (&q[..], &keys[..], &values[..]);
                    let p = Attend { heads, kv_heads, head_dim, scale: 0.125, q, keys, values };
                    kernels.attend(&p, &mut scores, &mut y);
                    y
                });
            }
        }
    }
}

#[test]
fn activate() {
    let random = &mut Random(14);
    let all = [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Relu2];
    for (tokens, cols) in (1..=70).map(|cols| (2, cols)).chain([(9, 100), (150, 302)]) {
        let (gate, before, stride) =
            (random.floats(tokens * (cols + 1)), random.floats(tokens * (cols + 2)), cols + 2);
        for activation in all {
            for gated in [false, true] {
                compare(&("activate", activation, gated, tokens, cols), |kernels| {
                    let mut y = before.clone();
                    let gate = gated.then(|| Rows::new(&gate, tokens, cols, cols + 1));
                    kernels.activate(activation, gate, RowsMut::new(&mut y, tokens, cols, stride));
                    y
                });
            }
        }
    }
}

/// `SARIT_BEST` names what the CPU must have where it is known, as an emulated one's is: then nothing is left untested
/// unseen.
#[test]
fn the_best_is_as_expected() {
    if let Ok(best) = std::env::var("SARIT_BEST") {
        assert_eq!(Cpu::new(1).isa().name(), best);
    }
}

#[test]
fn threads_are_as_asked_for() {
    for cpu in machines() {
        assert_eq!(Cpu::with_isa(cpu.isa(), cpu.threads()).unwrap().threads(), cpu.threads());
        assert_eq!(cpu.name(), cpu.isa().name());
    }
    assert_eq!(Cpu::new(0).threads(), 1);
}

#[test]
fn one_cpu_serves_several_threads() {
    let cpu = &Cpu::new(2);
    let w = &Weights::new(&mut Random(10), DType::Q8, 640, 512);
    let x = &Codes::new(&mut Random(11), 3, 512);
    let product = |kernels: &dyn Kernels| {
        let mut y = vec![0.0; 3 * 640];
        kernels.matmul(&w.matrix(), Input::Quantized(x.as_ref()), RowsMut::new(&mut y, 3, 640, 640));
        y
    };
    let want = product(&Scalar);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..200).for_each(|_| assert_eq!(product(cpu), want)));
        }
    });
}
