//! [`Cpu`]: which instruction set runs an operation, and how threads share it. The only file that decides either.

use crate::columns::{Columns, Cuttable, CuttableState};
use crate::isa::{Isa, Level};
use crate::operations::Operations;
use crate::pool::Pool;
use core::fmt;
use core::ops::Range;
use sarit_core::kernels::scalar::PART_ROWS;
use sarit_core::kernels::{
    Attend, Conv, Decay, Input, Kernels, LANES, QuantizedMut, Rows, RowsMut, Scan, SsmState, TimeStep,
};
use sarit_core::plan::{Activation, Norm};
use sarit_core::{Matrix, Scalar};

/// The least work worth handing to another thread, in units of [`cost`].
///
/// Measured on a Xeon with AVX-512 and 2 CPUs: to share an operation costs 0.3 µs while the workers are awake, and
/// this much work takes 0.7 µs with its operands in the cache. So an operation is shared from 1.3 µs on.
const PIECE_COST: usize = 16 * 1024;

/// Pieces per thread that an operation is cut into at most, so that a thread that is held up leaves some to others.
const PIECES_PER_THREAD: usize = 4;

/// The least work of a piece where there are more of them than threads.
///
/// Measured on an EPYC with AVX-512 and 2 CPUs: a piece more takes each thread 0.5 µs, for the weights and the state
/// of another place have yet to come from memory. This much work takes 40 µs, and a decoded token's operations take less.
const SPARE_COST: usize = 64 * PIECE_COST;

/// What an element costs, in multiplications of floats of a matrix product (25 a nanosecond where [`PIECE_COST`] was
/// measured).
mod cost {
    /// Products of codes that take the time of one of floats.
    pub(super) const CODES: usize = 4;
    /// A weight and an input before, out of a cache far away.
    pub(super) const FETCHED: usize = 8;
    /// An elementary function.
    pub(super) const FUNCTION: usize = 8;
    /// Normalization.
    pub(super) const NORM: usize = 3;
    /// Quantization.
    pub(super) const QUANTIZE: usize = 8;
    /// A step of the state, without its decay.
    pub(super) const STATE: usize = 2;
}

/// The operations of a step on this machine's CPU. Give it, or a reference to it, to [`sarit_core::Engine`].
///
/// Its bits are those of [`sarit_core::Scalar`] for every instruction set and number of threads. Threads are made
/// once, here; operations allocate nothing. Several threads may use one `Cpu`: while one of them has its workers,
/// the others go on alone. Dropping it ends the workers.
pub struct Cpu {
    level: Level,
    pool: Option<Pool>,
}

/// Calls an operation of the chosen instruction set.
macro_rules! call {
    ($cpu:expr, $operation:ident($($arg:expr),* $(,)?)) => {
        match $cpu.level {
            Level::Scalar => Scalar.$operation($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(avx2) => avx2.$operation($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(avx512) => avx512.$operation($($arg),*),
            #[cfg(target_arch = "aarch64")]
            Level::Neon(neon) => neon.$operation($($arg),*),
            #[cfg(target_arch = "aarch64")]
            Level::DotProd(dotprod) => dotprod.$operation($($arg),*),
            #[cfg(target_arch = "aarch64")]
            Level::I8mm(i8mm) => i8mm.$operation($($arg),*),
        }
    };
}

impl Cpu {
    /// The best instruction set of this CPU on `threads` threads, the caller's included; 0 counts as 1.
    ///
    /// # Panics
    /// If the build is forced (`--cfg sarit_backend="…"`) to an instruction set that this CPU lacks.
    pub fn new(threads: usize) -> Self {
        let best = Isa::available().last();
        let best = best.expect("this build is forced to an instruction set that this CPU lacks");
        Self::with_isa(best, threads).expect("it is available")
    }

    /// `isa` on `threads` threads, the caller's included; `None` where `isa` is not among [`Isa::available`].
    pub fn with_isa(isa: Isa, threads: usize) -> Option<Self> {
        let level = Level::new(isa)?;
        let pool = (threads > 1).then(|| Pool::new(threads - 1)).filter(|pool| pool.workers() > 0);
        Some(Self { level, pool })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.level.isa()
    }

    /// Threads in use, the caller's included: as many as asked for, unless the system allows fewer.
    pub fn threads(&self) -> usize {
        self.pool.as_ref().map_or(0, Pool::workers) + 1
    }

    /// Calls `part` with ranges that make up `0..units`, on several threads if `cost` is worth it.
    fn split(&self, units: usize, cost: usize, part: impl Fn(Range<usize>) + Sync) {
        if let Some(pool) = &self.pool {
            let most = (cost / SPARE_COST).clamp(self.threads(), self.threads() * PIECES_PER_THREAD);
            let pieces = (cost / PIECE_COST).min(most).min(units);
            if pieces > 1 {
                let bound = |piece: usize| units * piece / pieces;
                return pool.run(pieces as u32, &|piece| part(bound(piece)..bound(piece + 1)));
            }
        }
        part(0..units);
    }

    /// [`split`](Self::split) of `0..len` at multiples of `unit`.
    fn split_at(&self, unit: usize, len: usize, cost: usize, part: impl Fn(Range<usize>) + Sync) {
        self.split(len.div_ceil(unit), cost, |units| part(units.start * unit..(units.end * unit).min(len)));
    }
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu").field("isa", &self.isa()).field("threads", &self.threads()).finish()
    }
}

// Each `SAFETY` comment below rests on this: the ranges that `split` hands out do not overlap.
impl Kernels for Cpu {
    fn name(&self) -> &'static str {
        self.isa().name()
    }

    fn norm(&self, norm: &Norm<'_>, x: Rows<'_>, y: RowsMut<'_>) {
        let cols = y.cols();
        let y = Columns::new(y);
        self.split(x.count(), x.count() * cols * cost::NORM, |tokens| {
            // SAFETY: parts are different tokens.
            let mut y = unsafe { y.part(tokens.clone(), 0..cols) };
            call!(self, norm(norm, x, tokens, &mut y));
        });
    }

    fn quantize(&self, x: Rows<'_>, q: QuantizedMut<'_>) {
        let (tokens, cols, groups) = (x.count(), x.cols(), q.groups);
        let (codes, scales, sums) = (Cuttable::new(q.codes), Cuttable::new(q.scales), Cuttable::new(q.sums));
        self.split(tokens, tokens * cols * cost::QUANTIZE, |tokens| {
            for t in tokens {
                let row = t * groups..(t + 1) * groups;
                // SAFETY: parts are different tokens, of all three.
                let (codes, scales, sums) =
                    unsafe { (codes.range(row.clone()), scales.range(row.clone()), sums.range(row)) };
                let x = Rows::new(x.row(t), 1, cols, cols);
                call!(self, quantize(x, QuantizedMut { groups, codes, scales, sums }));
            }
        });
    }

    fn matmul(&self, w: &Matrix<'_>, x: Input<'_>, y: RowsMut<'_>) {
        let (rows, tokens) = (w.rows(), x.count());
        let products = rows * w.cols() * tokens;
        let cost = if w.is_quantized() { products / cost::CODES } else { products };
        let y = Columns::new(y);
        self.split(rows.div_ceil(PART_ROWS), cost, |parts| {
            let columns = parts.start * PART_ROWS..(parts.end * PART_ROWS).min(rows);
            // SAFETY: parts are different columns.
            let mut y = unsafe { y.part(0..tokens, columns) };
            call!(self, matmul(w, x, parts, &mut y));
        });
    }

    fn conv(&self, conv: &Conv<'_>, window: &mut [f32], x: RowsMut<'_>) {
        let (tokens, channels) = (x.count(), conv.channels);
        let before = conv.width - 1;
        let window = Columns::new(RowsMut::new(window, before, channels, channels));
        let x = Columns::new(x);
        let once = channels * conv.width * cost::FETCHED;
        let cost = once + tokens * channels * (conv.width + if conv.silu { cost::FUNCTION } else { 0 });
        self.split_at(LANES, channels, cost, |channels| {
            // SAFETY: parts are different columns, of either.
            let (mut window, mut x) =
                unsafe { (window.part(0..before, channels.clone()), x.part(0..tokens, channels.clone())) };
            call!(self, conv(conv, channels, tokens, &mut window, &mut x));
        });
    }

    fn time_step(&self, p: &TimeStep<'_>, x: RowsMut<'_>) {
        let (tokens, cols) = (x.count(), x.cols());
        let x = Columns::new(x);
        self.split(tokens, tokens * cols * 2 * cost::FUNCTION, |tokens| {
            // SAFETY: parts are different tokens.
            let mut x = unsafe { x.part(tokens.clone(), 0..cols) };
            call!(self, time_step(p, tokens.len(), &mut x));
        });
    }

    fn decay(&self, a_log2: &[f32], dt: Rows<'_>, y: RowsMut<'_>) {
        // One number per head and token: never worth a second thread.
        // SAFETY: there is no other part.
        let mut y = unsafe { Columns::new(y).part(0..dt.count(), 0..dt.cols()) };
        call!(self, decay(a_log2, dt, &mut y));
    }

    fn scan(&self, p: &Scan<'_>, state: SsmState<'_>, y: RowsMut<'_>) {
        let (tokens, dim, n) = (p.x.count(), p.head_dim, p.d_state);
        let (state, y) = (CuttableState::new(state), Columns::new(y));
        let element = cost::STATE + if matches!(p.decay, Decay::Element(_)) { cost::FUNCTION } else { 0 };
        // Vector code takes 16 channels at a time, of several heads where those are small.
        self.split_at(LANES.div_ceil(dim), p.heads, tokens * p.heads * dim * n * element, |heads| {
            let channels = heads.start * dim..heads.end * dim;
            // SAFETY: parts are different heads, of either.
            let (state, mut y) = unsafe { (state.rows(channels.clone(), n), y.part(0..tokens, channels)) };
            call!(self, scan(p, heads, state, &mut y));
        });
    }

    fn gate(&self, z: Rows<'_>, norm: Option<&Norm<'_>>, groups: usize, y: RowsMut<'_>) {
        let cols = y.cols();
        let y = Columns::new(y);
        self.split(z.count(), z.count() * cols * (cost::FUNCTION + cost::NORM), |tokens| {
            // SAFETY: parts are different tokens.
            let mut y = unsafe { y.part(tokens.clone(), 0..cols) };
            call!(self, gate(z, norm, groups, tokens, &mut y));
        });
    }

    fn group_norm(&self, norm: &Norm<'_>, groups: usize, y: RowsMut<'_>) {
        let (tokens, cols) = (y.count(), y.cols());
        let y = Columns::new(y);
        self.split(tokens, tokens * cols * cost::NORM, |tokens| {
            // SAFETY: parts are different rows.
            let mut y = unsafe { y.part(tokens.clone(), 0..cols) };
            call!(self, group_norm(norm, groups, tokens.len(), &mut y));
        });
    }

    fn attend(&self, p: &Attend<'_>, scores: &mut [f32], y: &mut [f32]) {
        let (positions, dim) = (p.positions(), p.head_dim);
        let (scores, y) = (Cuttable::new(scores), Cuttable::new(y));
        let cost = p.heads * positions * (2 * dim + cost::FUNCTION);
        self.split(p.heads, cost, |heads| {
            let part = |len: usize| heads.start * len..heads.end * len;
            // SAFETY: parts are different heads, of either.
            let (scores, y) = unsafe { (scores.range(part(positions)), y.range(part(dim))) };
            call!(self, attend(p, heads, scores, y));
        });
    }

    fn activate(&self, activation: Activation, gate: Option<Rows<'_>>, y: RowsMut<'_>) {
        let (tokens, cols) = (y.count(), y.cols());
        let y = Columns::new(y);
        self.split(tokens, tokens * cols * cost::FUNCTION, |tokens| {
            // SAFETY: parts are different tokens.
            let mut y = unsafe { y.part(tokens.clone(), 0..cols) };
            call!(self, activate(activation, gate, tokens, &mut y));
        });
    }
}
