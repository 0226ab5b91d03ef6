//! The kernels of a back end against the definitions, on the target itself.

use core::fmt::Write;
use half::f16;
use sarit_core::kernels::{
    Conv, Decay, Input, Kernels, Quantized, QuantizedMut, Rows, RowsMut, Scan, SsmState, TimeStep,
};
use sarit_core::plan::{Activation, Norm, NormKind};
use sarit_core::{Dense, GROUP, Matrix, Scalar, TILE_ROWS, Tiled};

/// Most columns of a matrix here, filled up to whole groups.
const COLS: usize = 320;
/// Rows and columns of matrices: those of a keyword spotter, and awkward ones.
const SHAPES: [(usize, usize); 14] = [
    (64, 40),
    (36, 128),
    (128, 4),
    (7, 4),
    (48, 96),
    (10, 64),
    (1, 1),
    (17, 33),
    (9, 200),
    (14, 300),
    (40, 100),
    (24, 160),
    (5, 96),
    (60, 65),
];
/// Most floats, and most codes, of a matrix here; 64 channels of state and their operands are fewer.
const ELEMENTS: usize = 36 * 128;
const CODES: usize = 48 * 128;

/// What kernels may read a word at a time, as in models and scratch.
#[repr(align(4))]
struct Words<T>(T);

/// Memory of the tests.
pub struct Memory {
    weights: [f32; ELEMENTS],
    codes: Words<[u8; CODES]>,
    scales: Words<[f16; CODES / GROUP]>,
    x: [f32; COLS],
    got: [f32; 2048],
    want: [f32; 2048],
}

impl Memory {
    /// All zeros.
    pub const fn new() -> Self {
        Self {
            weights: [0.0; _],
            codes: Words([0; _]),
            scales: Words([f16::ZERO; _]),
            x: [0.0; _],
            got: [0.0; _],
            want: [0.0; _],
        }
    }
}

/// A generator of awkward numbers.
struct Random(u32);

impl Random {
    fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    /// -`range`..`range`, now and then exactly 0.
    fn float(&mut self, range: f32) -> f32 {
        let bits = self.bits();
        if bits.is_multiple_of(17) { 0.0 } else { (bits as i32 as f32) * (range / 2_147_483_648.0) }
    }

    fn fill(&mut self, x: &mut [f32], range: f32) {
        x.iter_mut().for_each(|x| *x = self.float(range));
    }
}

/// Compares the operations of `kernels` with the definitions; says on `out` what it cost (in units of `clock`) and
/// which differ. Returns the number that differ.
pub fn check(kernels: &impl Kernels, m: &mut Memory, clock: impl Fn() -> u32, out: &mut impl Write) -> usize {
    let mut t = Test { random: Random(0x9e37_79b9), clock, failures: 0, out };
    let _ = writeln!(t.out, "operation: {} | scalar", kernels.name());
    for (rows, cols) in SHAPES {
        t.tiled(kernels, m, rows, cols);
        t.dense(kernels, m, rows, cols);
    }
    for (d_state, groups, dt) in [
        (16, 1, 0.02),
        (16, 1, 0.3),
        (16, 1, 40.0),
        (16, 2, 0.2),
        (8, 1, 0.2),
        (8, 4, 0.2),
        (5, 2, 0.2),
        (20, 1, 0.2),
    ] {
        t.scan(kernels, m, d_state, groups, dt);
    }
    for (silu, bias, width) in [(true, true, 4), (true, false, 4), (false, true, 4), (true, true, 3)] {
        t.conv(kernels, m, width, silu, bias);
    }
    t.vectors(kernels, m);
    for range in [1.0, 20.0, 200.0] {
        t.time_step(kernels, m, range, 0.0, f32::INFINITY);
        t.time_step(kernels, m, range, 0.001, 0.1);
        t.gate(kernels, m, range, None);
        t.activate(kernels, m, range);
    }
    t.gate(kernels, m, 3.0, Some(&Norm { kind: NormKind::Rms, weight: None, bias: None, eps: 1e-5 }));
    let _ = writeln!(t.out, "{} operations differ", t.failures);
    t.failures
}

struct Test<'a, C, W> {
    random: Random,
    clock: C,
    failures: usize,
    out: &'a mut W,
}

impl<C: Fn() -> u32, W: Write> Test<'_, C, W> {
    /// Runs `f` with both kinds of kernels on the two halves of memory and compares what it leaves there.
    fn compare<K: Kernels>(
        &mut self,
        name: core::fmt::Arguments<'_>,
        kernels: &K,
        (got, want): (&mut [f32], &mut [f32]),
        fast: impl Fn(&K, &mut [f32]),
        definition: impl Fn(&Scalar, &mut [f32]),
    ) {
        let start = (self.clock)();
        fast(kernels, got);
        let middle = (self.clock)();
        definition(&Scalar, want);
        let end = (self.clock)();
        let same = got.iter().zip(&*want).position(|(a, b)| a.to_bits() != b.to_bits());
        let _ = write!(self.out, "{name}: {} | {}", middle.wrapping_sub(start), end.wrapping_sub(middle));
        if let Some(i) = same {
            self.failures += 1;
            let _ = write!(self.out, " DIFFERS at {i}: {:08x} {:08x}", got[i].to_bits(), want[i].to_bits());
        }
        let _ = writeln!(self.out);
    }

    fn tiled<K: Kernels>(&mut self, kernels: &K, m: &mut Memory, rows: usize, cols: usize) {
        let groups = cols.div_ceil(GROUP);
        let tiles = rows.div_ceil(TILE_ROWS) * groups;
        let tile_codes = &mut m.codes.0[..tiles * TILE_ROWS * GROUP];
        for (i, byte) in tile_codes.iter_mut().enumerate() {
            // Columns beyond the last are zeros in a file.
            let column = i / (TILE_ROWS * GROUP) % groups * GROUP + i / 64 % 8 * 4 + i % 4;
            let code = (self.random.bits() % 255) as u8;
            *byte = if column < cols { code.wrapping_sub(127) } else { 0 };
        }
        let scales = &mut m.scales.0[..tiles * TILE_ROWS];
        scales.iter_mut().for_each(|s| *s = f16::from_f32(self.random.float(0.01)));
        let w = Matrix::Q8(Tiled { rows, cols, groups, scales, codes: tile_codes });
        let x = &mut m.x[..cols];
        self.random.fill(x, 3.0);
        // A group of zeros, of numbers that are almost zero, and of one that is not finite.
        match cols {
            96 => x[GROUP..2 * GROUP].fill(0.0),
            100 => x[..GROUP].iter_mut().for_each(|x| *x *= 1e-36),
            160 => x[2 * GROUP] = f32::INFINITY,
            _ => {}
        }

        let (mut codes, mut scales, mut sums) =
            (Words([[0; GROUP]; COLS / GROUP]), [0.0; COLS / GROUP], [0; COLS / GROUP]);
        let quantize = |k: &dyn Kernels, out: &mut [f32]| {
            let (mut codes, mut sums) = (Words([[0; GROUP]; COLS / GROUP]), [0; COLS / GROUP]);
            let (scales, rest) = out.split_at_mut(groups);
            let q = QuantizedMut { groups, codes: &mut codes.0[..groups], scales, sums: &mut sums[..groups] };
            k.quantize(Rows::new(x, 1, cols, cols), q);
            for (rest, (codes, sum)) in rest.chunks_exact_mut(GROUP + 1).zip(codes.0.iter().zip(&sums)) {
                rest[0] = *sum as f32;
                rest[1..].iter_mut().zip(codes).for_each(|(r, c)| *r = f32::from(*c));
            }
        };
        let pair = (&mut m.got[..groups * (GROUP + 2)], &mut m.want[..groups * (GROUP + 2)]);
        self.compare(
            format_args!("quantize {cols}"),
            kernels,
            pair,
            |k, out| quantize(&k, out),
            |k, out| quantize(k, out),
        );

        let q = QuantizedMut {
            groups,
            codes: &mut codes.0[..groups],
            scales: &mut scales[..groups],
            sums: &mut sums[..groups],
        };
        Scalar.quantize(Rows::new(x, 1, cols, cols), q);
        let q = Quantized {
            count: 1,
            groups,
            codes: &codes.0[..groups],
            scales: &scales[..groups],
            sums: &sums[..groups],
        };
        let pair = (&mut m.got[..rows], &mut m.want[..rows]);
        self.compare(
            format_args!("q8 {rows} x {cols}"),
            kernels,
            pair,
            |k, y| k.matmul(&w, Input::Quantized(q), RowsMut::new(y, 1, rows, rows)),
            |k, y| k.matmul(&w, Input::Quantized(q), RowsMut::new(y, 1, rows, rows)),
        );
    }

    fn dense<K: Kernels>(&mut self, kernels: &K, m: &mut Memory, rows: usize, cols: usize) {
        self.random.fill(&mut m.weights[..rows * cols], 0.5);
        self.random.fill(&mut m.x[..cols], 3.0);
        let w = Matrix::F32(Dense { rows, cols, data: &m.weights[..rows * cols] });
        let x = Input::Float(Rows::new(&m.x, 1, cols, cols));
        self.compare(
            format_args!("f32 {rows} x {cols}"),
            kernels,
            (&mut m.got[..rows], &mut m.want[..rows]),
            |k, y| k.matmul(&w, x, RowsMut::new(y, 1, rows, rows)),
            |k, y| k.matmul(&w, x, RowsMut::new(y, 1, rows, rows)),
        );
    }

    /// 64 heads of one channel; the state, then y.
    fn scan<K: Kernels>(
        &mut self,
        kernels: &K,
        m: &mut Memory,
        d_state: usize,
        n_groups: usize,
        dt_range: f32,
    ) {
        const HEADS: usize = 64;
        let shared = n_groups * d_state;
        let [a, dt, x, d, b, c] = {
            let (a, rest) = m.weights.split_at_mut(HEADS * d_state);
            let (dt, rest) = rest.split_at_mut(HEADS);
            let (x, rest) = rest.split_at_mut(HEADS);
            let (d, rest) = rest.split_at_mut(HEADS);
            let (b, rest) = rest.split_at_mut(shared);
            [a, dt, x, d, b, &mut rest[..shared]]
        };
        a.iter_mut().for_each(|a| *a = self.random.float(11.0) - 12.0);
        dt.iter_mut().for_each(|dt| *dt = self.random.float(0.5) * dt_range + dt_range / 2.0);
        [&mut *x, &mut *d, &mut *b, &mut *c].into_iter().for_each(|v| self.random.fill(v, 2.0));
        let scan = Scan {
            heads: HEADS,
            head_dim: 1,
            d_state,
            n_groups,
            decay: Decay::Element(a),
            dt: Rows::new(dt, 1, HEADS, HEADS),
            x: Rows::new(x, 1, HEADS, HEADS),
            b: Rows::new(b, 1, shared, shared),
            c: Rows::new(c, 1, shared, shared),
            d,
            position: 0,
        };
        let len = HEADS * (d_state + 1);
        self.random.fill(&mut m.got[..len], 1.0);
        m.want.copy_from_slice(&m.got);
        fn run(k: &impl Kernels, scan: &Scan<'_>, memory: &mut [f32]) {
            let (state, y) = memory.split_at_mut(HEADS * scan.d_state);
            k.scan(scan, SsmState::F32(state), RowsMut::new(y, 1, HEADS, HEADS));
        }
        self.compare(
            format_args!("scan {HEADS} x {d_state}, {n_groups} groups, dt < {dt_range}"),
            kernels,
            (&mut m.got[..len], &mut m.want[..len]),
            |k, memory| run(k, &scan, memory),
            |k, memory| run(k, &scan, memory),
        );
    }

    fn conv<K: Kernels>(&mut self, kernels: &K, m: &mut Memory, width: usize, silu: bool, bias: bool) {
        const CHANNELS: usize = 133;
        self.random.fill(&mut m.weights[..CHANNELS * (width + 1)], 1.0);
        let (weight, rest) = m.weights.split_at(CHANNELS * width);
        let conv = Conv { width, channels: CHANNELS, weight, bias: bias.then_some(&rest[..CHANNELS]), silu };
        let len = CHANNELS * width;
        self.random.fill(&mut m.got[..len], 2.0);
        m.want.copy_from_slice(&m.got);
        fn run(k: &impl Kernels, conv: &Conv<'_>, memory: &mut [f32]) {
            let (window, x) = memory.split_at_mut(CHANNELS * (conv.width - 1));
            k.conv(conv, window, RowsMut::new(x, 1, CHANNELS, CHANNELS));
        }
        self.compare(
            format_args!("conv {CHANNELS} x {width}"),
            kernels,
            (&mut m.got[..len], &mut m.want[..len]),
            |k, memory| run(k, &conv, memory),
            |k, memory| run(k, &conv, memory),
        );
    }

    fn time_step<K: Kernels>(&mut self, kernels: &K, m: &mut Memory, range: f32, min: f32, max: f32) {
        const HEADS: usize = 133;
        self.random.fill(&mut m.got[..HEADS], range);
        m.want.copy_from_slice(&m.got);
        self.random.fill(&mut m.weights[..HEADS], 1.0);
        let p = TimeStep { bias: &m.weights[..HEADS], min, max };
        self.compare(
            format_args!("time step {HEADS}, range {range}"),
            kernels,
            (&mut m.got[..HEADS], &mut m.want[..HEADS]),
            |k, x| k.time_step(&p, RowsMut::new(x, 1, HEADS, HEADS)),
            |k, x| k.time_step(&p, RowsMut::new(x, 1, HEADS, HEADS)),
        );
    }

    /// Sums, and copies that are called a norm.
    fn vectors<K: Kernels>(&mut self, kernels: &K, m: &mut Memory) {
        const LEN: usize = 133;
        self.random.fill(&mut m.got[..LEN], 2.0);
        m.want.copy_from_slice(&m.got);
        self.random.fill(&mut m.x[..LEN], 3.0);
        let x = &m.x[..LEN];
        self.compare(
            format_args!("add scaled {LEN}"),
            kernels,
            (&mut m.got[..LEN], &mut m.want[..LEN]),
            |k, y| k.add_scaled(0.3, x, y),
            |k, y| k.add_scaled(0.3, x, y),
        );
        self.compare(
            format_args!("copy {LEN}"),
            kernels,
            (&mut m.got[..LEN], &mut m.want[..LEN]),
            |k, y| k.norm(&Norm::COPY, Rows::new(x, 1, LEN, LEN), RowsMut::new(y, 1, LEN, LEN)),
            |k, y| k.norm(&Norm::COPY, Rows::new(x, 1, LEN, LEN), RowsMut::new(y, 1, LEN, LEN)),
        );
    }

    fn gate<K: Kernels>(&mut self, kernels: &K, m: &mut Memory, range: f32, norm: Option<&Norm<'_>>) {
        const LEN: usize = 133;
        self.random.fill(&mut m.got[..LEN], 2.0);
        m.want.copy_from_slice(&m.got);
        self.random.fill(&mut m.x[..LEN], range);
        let z = Rows::new(&m.x, 1, LEN, LEN);
        self.compare(
            format_args!("gate {LEN}, range {range}"),
            kernels,
            (&mut m.got[..LEN], &mut m.want[..LEN]),
            |k, y| k.gate(z, norm, 1, RowsMut::new(y, 1, LEN, LEN)),
            |k, y| k.gate(z, norm, 1, RowsMut::new(y, 1, LEN, LEN)),
        );
    }

    fn activate<K: Kernels>(&mut self, kernels: &K, m: &mut Memory, range: f32) {
        const LEN: usize = 133;
        for activation in [Activation::Silu, Activation::Gelu, Activation::Relu2] {
            self.random.fill(&mut m.got[..LEN], range);
            m.want.copy_from_slice(&m.got);
            self.compare(
                format_args!("activate {LEN} {activation:?}, range {range}"),
                kernels,
                (&mut m.got[..LEN], &mut m.want[..LEN]),
                |k, y| k.activate(activation, None, RowsMut::new(y, 1, LEN, LEN)),
                |k, y| k.activate(activation, None, RowsMut::new(y, 1, LEN, LEN)),
            );
        }
    }
}
