//! The operations that a step is made of, and the contract that gives them the same bits everywhere.
//!
//! # Numeric contract
//!
//! All floating point is IEEE-754 binary32, round to nearest even, subnormals kept, no fused multiply-add, no
//! reassociation. Products of codes are exact integers. What is left to fix is the order of sums:
//!
//! | sum | order |
//! |---|---|
//! | over elements (float dot products, norms, `sum_n C·h`) | 16 lanes, lane `i` adds elements `i, i+16, …` in order from +0; then [`fold`] |
//! | over the groups of a quantized row | 8 lanes, lane `i` adds groups `i, i+8, …` in order from +0; then [`fold`] |
//! | [`fold`] of `n` lanes | add the upper half to the lower, until one is left: `(l0+l8), …`, then `+4`, `+2`, `+1` |
//! | a group's term | `(codes · codes as an integer, then f32) · (weight scale · activation scale)` |
//! | softmax | scores of all ring rows in the order of the ring: their largest, then lanes over `exp(score - largest)`; values are summed row by row, then divided |
//! | convolution | bias, then oldest to newest input, one after another |
//! | state with a decay per element | `decay · h + (dt · x) · B`, each operation rounded; `sum_n C·h` takes it as it then is; in f16 or i8 it is rounded after every token, also inside a chunk |
//! | state with a decay per head | taken forward every [`HELD`] tokens, the tokens since then being held: see [`Held`] |
//! | state in f16 or i8 | read exactly (f16) or as `code · scale` (i8), rounded by [`scalar::round_to_halves`] or [`scalar::round_to_codes`]; in i8 with a decay per head, taken forward with [`Rests`]: [`scalar::expand_codes_and_rests`], [`scalar::round_to_codes_and_rests`] |
//!
//! A lane that starts at +0 never becomes -0, so filling a row up with zeros changes no bit. Elementary functions
//! are those of [`crate::math`].
//!
//! Inputs that are not finite are no errors. Most results are then not finite either, but not all: what is not a number has
//! code 0 in quantized activations, ReLU makes it 0, and a router ranks it below all numbers. Not fixed, and not the same
//! everywhere, are only which NaN a result is, and the code of a NaN in a state in i8.
//!
//! # Level of a back end
//!
//! [`Kernels`] has one method per operation, each with the scalar definition as its default: a back end overrides
//! what it speeds up. The definitions in [`scalar`] work on a part of the output (a range of tile rows, channels
//! or heads), so that threads can share one operation, and are inlined, so that a back end can compile them again
//! with more vector instructions enabled.

use crate::plan::{Activation, Norm};
#[cfg(doc)]
use crate::state::STATE_GROUP;
use crate::tensor::{GROUP, Matrix};
use core::ops::Range;
use half::f16;

pub mod scalar;

/// Lanes of a sum over elements.
pub const LANES: usize = 16;
/// Lanes of a sum over groups.
pub const GROUP_LANES: usize = 8;

/// Adds the upper half of the lanes to the lower until one is left. `N` is a power of two.
#[inline(always)]
pub fn fold<const N: usize>(mut lanes: [f32; N]) -> f32 {
    let mut half = N / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Equally long rows of floats in one slice, at equal distances: `count` rows of `cols`, `stride` apart.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    data: &'a [f32],
    stride: usize,
    cols: usize,
    count: usize,
}

impl<'a> Rows<'a> {
    /// Rows that begin at the start of `data`, which must reach to the end of the last row.
    pub fn new(data: &'a [f32], count: usize, cols: usize, stride: usize) -> Self {
        assert!(cols <= stride && (count == 0 || (count - 1) * stride + cols <= data.len()));
        Self { data, stride, cols, count }
    }

    /// Number of rows.
    #[inline(always)]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Length of a row.
    #[inline(always)]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `t`.
    #[inline(always)]
    pub fn row(&self, t: usize) -> &'a [f32] {
        &self.data[t * self.stride..t * self.stride + self.cols]
    }

    /// The same rows without those before and behind `rows`.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        assert!(rows.end <= self.count);
        let start = (rows.start * self.stride).min(self.data.len());
        Self { data: &self.data[start..], count: rows.len(), ..*self }
    }

    /// The same columns of all rows.
    pub fn columns(&self, start: usize, cols: usize) -> Self {
        assert!(start + cols <= self.cols);
        Self { data: &self.data[start.min(self.data.len())..], cols, ..*self }
    }
}

/// Rows that can be written, or the columns of them that one worker owns.
pub trait RowSink {
    /// Row `t`, or this worker's columns of it.
    fn row(&mut self, t: usize) -> &mut [f32];
}

/// [`Rows`] that can be written.
#[derive(Debug)]
pub struct RowsMut<'a> {
    data: &'a mut [f32],
    stride: usize,
    cols: usize,
    count: usize,
}

impl<'a> RowsMut<'a> {
    /// Rows that begin at the start of `data`, which must reach to the end of the last row.
    pub fn new(data: &'a mut [f32], count: usize, cols: usize, stride: usize) -> Self {
        assert!(cols <= stride && (count == 0 || (count - 1) * stride + cols <= data.len()));
        Self { data, stride, cols, count }
    }

    /// Number of rows.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Length of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Distance of the starts of neighbouring rows.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The elements from the first row's start on.
    pub fn data(&mut self) -> &mut [f32] {
        self.data
    }
}

impl RowSink for RowsMut<'_> {
    #[inline(always)]
    fn row(&mut self, t: usize) -> &mut [f32] {
        &mut self.data[t * self.stride..t * self.stride + self.cols]
    }
}

/// Activations in 8-bit codes, `count` rows of `groups` groups of 32: `x ≈ code · scale`.
#[derive(Debug, Clone, Copy)]
pub struct Quantized<'a> {
    /// Number of rows.
    pub count: usize,
    /// Groups of a row, the last one filled up with zeros.
    pub groups: usize,
    /// `[count][groups][32]`, each -127..=127.
    pub codes: &'a [[i8; GROUP]],
    /// `[count][groups]`.
    pub scales: &'a [f32],
    /// Sum of the codes of each group, `[count][groups]`.
    pub sums: &'a [i32],
}

impl<'a> Quantized<'a> {
    /// Codes, scales and sums of row `t`.
    #[inline(always)]
    pub fn row(&self, t: usize) -> (&'a [[i8; GROUP]], &'a [f32], &'a [i32]) {
        let part = t * self.groups..(t + 1) * self.groups;
        (&self.codes[part.clone()], &self.scales[part.clone()], &self.sums[part])
    }
}

/// [`Quantized`] rows to be written.
#[derive(Debug)]
pub struct QuantizedMut<'a> {
    /// Groups of a row.
    pub groups: usize,
    /// `[count][groups][32]`.
    pub codes: &'a mut [[i8; GROUP]],
    /// `[count][groups]`.
    pub scales: &'a mut [f32],
    /// `[count][groups]`.
    pub sums: &'a mut [i32],
}

/// The right operand of a matrix product: floats for a float matrix, codes for a quantized one.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// Rows of floats.
    Float(Rows<'a>),
    /// Rows of codes.
    Quantized(Quantized<'a>),
}

impl Input<'_> {
    /// Number of rows.
    pub fn count(&self) -> usize {
        match self {
            Self::Float(rows) => rows.count(),
            Self::Quantized(q) => q.count,
        }
    }
}

/// A depthwise convolution over the last `width` inputs of each channel.
#[derive(Debug, Clone, Copy)]
pub struct Conv<'a> {
    /// Inputs seen, the newest included.
    pub width: usize,
    /// Number of channels.
    pub channels: usize,
    /// `[width][channels]`, oldest input first.
    pub weight: &'a [f32],
    /// `[channels]`.
    pub bias: Option<&'a [f32]>,
    /// Whether silu follows.
    pub silu: bool,
}

/// Tokens after which a state with a decay per head is taken forward. A token's place among them is its position in the
/// stream modulo this number.
pub const HELD: usize = 16;

/// How much of the state remains from one token to the next.
#[derive(Debug, Clone, Copy)]
pub enum Decay<'a> {
    /// One factor per head.
    Head {
        /// Rows of `[heads]`.
        decay: Rows<'a>,
        /// The tokens that the state has yet to take in.
        held: Held<'a>,
    },
    /// `exp2(dt · a_log2[head][n])`, `a_log2` being `[heads][d_state]`.
    Element(&'a [f32]),
}

/// The last [`HELD`] tokens of a stream. A state with a decay per head has taken in those up to the last position that is a
/// multiple of [`HELD`]: it is read with every token, but written with one of sixteen.
///
/// Unrolling `h_t = a_t · h_(t-1) + u_t B_t`, `u = dt · x`, from the state `h` before the first held token, token 0 (the dual
/// form of Dao & Gu 2024, arXiv 2405.21060, section 6, over a short block), gives for token `t` of the block:
///
/// | value | is | order |
/// |---|---|---|
/// | `w_j` | `a_t · a_(t-1) · … · a_(j+1)` | from the left; `w_t = 1` |
/// | `g` | `w_0 · a_0` | |
/// | `q_j` | `w_j · (sum_n C_t · B_j)` | sums over elements as everywhere |
/// | `y` | `g · (sum_n C_t · h) + q_0 · u_0 + … + q_t · u_t + D · x` | from the left; of codes the sum is `sum_n C_t · code` times the scale, group by group from +0 |
/// | `h` after the last token | `g · h + (w_0 · u_0) · B_0 + (w_1 · u_1) · B_1 + …` | from the left |
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    /// `dt · x`, `[HELD][heads · head_dim]`.
    pub u: Rows<'a>,
    /// `[HELD][n_groups · d_state]`.
    pub b: Rows<'a>,
    /// `[HELD][heads]`.
    pub decay: Rows<'a>,
}

impl<'a> Held<'a> {
    /// Of `data`, `[HELD][u | b | decay]`.
    pub fn new(data: &'a [f32], d_inner: usize, bc: usize, heads: usize) -> Self {
        let len = d_inner + bc + heads;
        let rows = Rows::new(data, HELD, len, len);
        Self {
            u: rows.columns(0, d_inner),
            b: rows.columns(d_inner, bc),
            decay: rows.columns(d_inner + bc, heads),
        }
    }
}

/// Tokens of a chunk that stand in one block of [`HELD`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBlock {
    /// Tokens of the block that were read before: the place of the first of `tokens`.
    pub held: usize,
    /// Rows of the chunk.
    pub tokens: Range<usize>,
}

impl HeldBlock {
    /// Cuts a chunk of `count` tokens into blocks, the first of its tokens being at `position` of the stream.
    #[inline(always)]
    pub fn of(position: u64, count: usize) -> impl Iterator<Item = Self> {
        let (mut held, mut start) = ((position % HELD as u64) as usize, 0);
        core::iter::from_fn(move || {
            let block = Self { held, tokens: start..count.min(start + HELD - held) };
            (held, start) = (0, block.tokens.end);
            (!block.tokens.is_empty()).then_some(block)
        })
    }

    /// Whether the last of the tokens is the block's last: then the state takes the block in.
    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        self.held + self.tokens.len() == HELD
    }
}

/// Operands of the selective scan (see [`crate::plan::SsmRecord`]); each `Rows` has one row per token.
#[derive(Debug, Clone, Copy)]
pub struct Scan<'a> {
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// State elements of a channel.
    pub d_state: usize,
    /// Groups of heads that share B and C.
    pub n_groups: usize,
    /// Decay of the state.
    pub decay: Decay<'a>,
    /// `[heads]`.
    pub dt: Rows<'a>,
    /// `[heads · head_dim]`.
    pub x: Rows<'a>,
    /// `[n_groups · d_state]`.
    pub b: Rows<'a>,
    /// `[n_groups · d_state]`.
    pub c: Rows<'a>,
    /// Skip, `[heads · head_dim]`.
    pub d: &'a [f32],
    /// Tokens that the stream has read before.
    pub position: u64,
}

/// The state that a scan steps: `[heads][head_dim]` rows of `[d_state]` elements.
#[derive(Debug)]
pub enum SsmState<'a> {
    /// The elements.
    F32(&'a mut [f32]),
    /// The elements.
    F16(&'a mut [f16]),
    /// In codes.
    I8 {
        /// One per element, -127..=127.
        codes: &'a mut [i8],
        /// One per [`STATE_GROUP`] elements of a row, `[heads][head_dim][ceil(d_state / 256)]`.
        scales: &'a mut [f32],
        /// `[heads][head_dim][ceil(d_state / 32)]` with a decay per head, else none.
        rests: &'a mut [Rests],
    },
}

/// Elements whose rests stand together.
pub const RESTS: usize = 2 * LANES;

/// What rounding to codes has left over of [`RESTS`] elements of a row, in sixteenths of a code: of element `i` in the lower half
/// of byte `i`, of element `16 + i` in the upper one. It is read and written only when the state is taken forward. A state that
/// remembers thousands of tokens is rounded hundreds of times before it has forgotten them: to codes alone, what is left over
/// adds up to several codes.
pub type Rests = [u8; LANES];

/// Number of [`Rests`] of a row of `n` elements.
pub const fn rests_len(n: usize) -> usize {
    n.div_ceil(RESTS)
}

/// How raw time steps become dt.
#[derive(Debug, Clone, Copy)]
pub struct TimeStep<'a> {
    /// `[heads]`, added first.
    pub bias: &'a [f32],
    /// Lower bound of dt.
    pub min: f32,
    /// Upper bound of dt.
    pub max: f32,
}

/// One position's attention over a ring of keys and values.
#[derive(Debug, Clone, Copy)]
pub struct Attend<'a> {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Length of a head.
    pub head_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// Queries `[heads][head_dim]`.
    pub q: &'a [f32],
    /// Keys `[positions][kv_heads][head_dim]`: the rows of the ring that are filled.
    pub keys: &'a [f32],
    /// Values `[positions][kv_heads][head_dim]`.
    pub values: &'a [f32],
}

impl Attend<'_> {
    /// Number of rows of the ring that are filled.
    #[inline(always)]
    pub fn positions(&self) -> usize {
        self.keys.len() / (self.kv_heads * self.head_dim)
    }
}

/// The operations of a step. Every method's default is its definition; an override gives the same bits.
pub trait Kernels {
    /// Name of the back end, such as `scalar` or `avx2`.
    fn name(&self) -> &'static str {
        "scalar"
    }

    /// `y[t] = norm(x[t])`; `y` has as many rows as `x`.
    fn norm(&self, norm: &Norm<'_>, x: Rows<'_>, mut y: RowsMut<'_>) {
        scalar::norm(norm, x, 0..x.count(), &mut y);
    }

    /// `y += scale · x`, as far as both reach.
    fn add_scaled(&self, scale: f32, x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += scale * x);
    }

    /// Quantizes rows of floats to codes: per group, `scale = max|x| / 127`, `code = round(x / scale)`.
    fn quantize(&self, x: Rows<'_>, q: QuantizedMut<'_>) {
        scalar::quantize(x, q);
    }

    /// `y[t] = w · x[t]`. `x` is [`Input::Quantized`] if and only if `w` is quantized.
    fn matmul(&self, w: &Matrix<'_>, x: Input<'_>, mut y: RowsMut<'_>) {
        scalar::matmul(w, x, 0..w.rows().div_ceil(scalar::PART_ROWS), &mut y);
    }

    /// Convolves `x` in place, token after token; `window` `[width - 1][channels]` holds the inputs before.
    fn conv(&self, conv: &Conv<'_>, window: &mut [f32], mut x: RowsMut<'_>) {
        let (count, channels) = (x.count(), conv.channels);
        let mut window = RowsMut::new(window, conv.width - 1, channels, channels);
        scalar::conv(conv, 0..channels, count, &mut window, &mut x);
    }

    /// Turns raw time steps into dt, in place: `clamp(softplus(x + bias), min, max)`.
    fn time_step(&self, p: &TimeStep<'_>, mut x: RowsMut<'_>) {
        let count = x.count();
        scalar::time_step(p, count, &mut x);
    }

    /// `y[t][h] = exp2(dt[t][h] · a_log2[h])`, the decay per head.
    fn decay(&self, a_log2: &[f32], dt: Rows<'_>, mut y: RowsMut<'_>) {
        scalar::decay(a_log2, dt, &mut y);
    }

    /// Steps the state `[heads][head_dim][d_state]` through all tokens; `y` `[heads · head_dim]`. With a decay per head
    /// the caller puts the tokens among the held ones afterwards.
    fn scan(&self, p: &Scan<'_>, state: SsmState<'_>, mut y: RowsMut<'_>) {
        scalar::scan(p, 0..p.heads, state, &mut y);
    }

    /// Attends with all heads: `y` `[heads][head_dim]`; `scores` holds `[heads][positions]` while it runs.
    fn attend(&self, p: &Attend<'_>, scores: &mut [f32], y: &mut [f32]) {
        scalar::attend(p, 0..p.heads, scores, y);
    }

    /// `y = act(gate) · y`, or `y = act(y)` without a gate.
    fn activate(&self, activation: Activation, gate: Option<Rows<'_>>, mut y: RowsMut<'_>) {
        scalar::activate(activation, gate, 0..y.count(), &mut y);
    }

    /// RMS normalization of each row in place, in `groups` equal parts.
    fn group_norm(&self, norm: &Norm<'_>, groups: usize, mut y: RowsMut<'_>) {
        let count = y.count();
        scalar::group_norm(norm, groups, count, &mut y);
    }

    /// `y = y · silu(z)`, then, with a norm, RMS normalization in `groups` equal parts.
    fn gate(&self, z: Rows<'_>, norm: Option<&Norm<'_>>, groups: usize, mut y: RowsMut<'_>) {
        scalar::gate(z, norm, groups, 0..z.count(), &mut y);
    }
}

/// The definitions themselves, on any machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scalar;

impl Kernels for Scalar {}

impl<K: Kernels + ?Sized> Kernels for &K {
    fn name(&self) -> &'static str {
        (**self).name()
    }
    fn norm(&self, norm: &Norm<'_>, x: Rows<'_>, y: RowsMut<'_>) {
        (**self).norm(norm, x, y);
    }
    fn add_scaled(&self, scale: f32, x: &[f32], y: &mut [f32]) {
        (**self).add_scaled(scale, x, y);
    }
    fn quantize(&self, x: Rows<'_>, q: QuantizedMut<'_>) {
        (**self).quantize(x, q);
    }
    fn matmul(&self, w: &Matrix<'_>, x: Input<'_>, y: RowsMut<'_>) {
        (**self).matmul(w, x, y);
    }
    fn conv(&self, conv: &Conv<'_>, window: &mut [f32], x: RowsMut<'_>) {
        (**self).conv(conv, window, x);
    }
    fn time_step(&self, p: &TimeStep<'_>, x: RowsMut<'_>) {
        (**self).time_step(p, x);
    }
    fn decay(&self, a_log2: &[f32], dt: Rows<'_>, y: RowsMut<'_>) {
        (**self).decay(a_log2, dt, y);
    }
    fn scan(&self, p: &Scan<'_>, state: SsmState<'_>, y: RowsMut<'_>) {
        (**self).scan(p, state, y);
    }
    fn attend(&self, p: &Attend<'_>, scores: &mut [f32], y: &mut [f32]) {
        (**self).attend(p, scores, y);
    }
    fn activate(&self, activation: Activation, gate: Option<Rows<'_>>, y: RowsMut<'_>) {
        (**self).activate(activation, gate, y);
    }
    fn group_norm(&self, norm: &Norm<'_>, groups: usize, y: RowsMut<'_>) {
        (**self).group_norm(norm, groups, y);
    }
    fn gate(&self, z: Rows<'_>, norm: Option<&Norm<'_>>, groups: usize, y: RowsMut<'_>) {
        (**self).gate(z, norm, groups, y);
    }
}
