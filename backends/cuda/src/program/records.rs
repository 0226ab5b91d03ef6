//! The records of a program as the kernels read them: `kernels/program.cuh` says what each field means.
//!
//! All are plain structs of 4-byte numbers, so that they have no padding and one size on host and device.

use bytemuck::{Pod, Zeroable};

/// "Nothing" where a place would stand.
pub(crate) const NONE: u32 = u32::MAX;

/// Stride of a row of posted numbers that no operation has written yet: `program.cuh` has more.
const POSTED: u32 = 1 << 31;

/// What the words of a record are.
pub(crate) trait Words: Pod {
    /// Adds for each 4-byte word whether it is a place or depends on how many rows there are: what operations of one shape
    /// may differ in. Other words are what the operation does.
    fn differ(words: &mut Vec<bool>);
}

impl Words for u32 {
    fn differ(words: &mut Vec<bool>) {
        words.push(false);
    }
}

impl Words for f32 {
    fn differ(words: &mut Vec<bool>) {
        words.push(false);
    }
}

/// Declares records; fields marked `[place]` may differ between operations of one shape.
macro_rules! records {
    (@differ place $words:ident) => { $words.pop().map(|_| $words.push(true)) };
    ($($name:ident { $($field:ident: $type:ty $([$mark:ident])?),* $(,)? })*) => {$(
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
        pub(crate) struct $name { $(pub(crate) $field: $type),* }

        impl Words for $name {
            fn differ(words: &mut Vec<bool>) {
                $(
                    <$type as Words>::differ(words);
                    $(records!(@differ $mark words);)?
                )*
            }
        }
    )*};
}

records! {
    Mat { data: u32 [place], dtype: u32, rows: u32, cols: u32 }
    Vector { start: u32 [place], stride: u32 }
    NormOf { kind: u32, weight: u32 [place], bias: u32 [place], eps: f32, groups: u32 }
    ConvOf {
        x: Vector, factor: Vector, window: u32 [place], weight: u32 [place], bias: u32 [place], width: u32, channels: u32, silu: u32,
    }
    Source {
        kind: u32, len: u32, split: u32, activation: u32, a: Vector, b: Vector, norm: NormOf, after: Vector,
        conv: ConvOf,
    }
    Codes { codes: u32 [place], scales: u32 [place], sums: u32 [place], stride: u32 [place], floats: Vector, halves: u32 [place], half_rows: u32 [place], paired: u32 }
    Target { kind: u32, scale: f32, y: Vector, before: Vector, bias: u32 [place], addend: Vector }
    TimeOf { sigmoid: u32, bias: u32 [place], min: f32, max: f32, a_log2: u32 [place], per_element: u32 }
    Through {
        first: u32, conv: ConvOf, y: Vector, time: TimeOf, heads: u32, dt: Vector, decay: Vector, codes: Codes, codes_len: u32,
    }
    Ahead { slots: u32, groups: u32, place_bytes: u32, under_way: u32, table: u32 [place], first: u32 [place], last: u32 [place] }
    LongProduct { w: Mat, passed: u32, begin: u32 }
    Embed { w: Mat, scale: f32, residual: Vector, embedded: Vector }
    Prepare { source: Source, multiple: u32, head: u32, to: Codes }
    Product { input: u32, head: u32, settled: u32, source: Source, codes: Codes, w: Mat, to: Target, shift: ConvOf, through: Through, ahead: Ahead, begin: u32 }
    Widen { w: Mat, to: u32 [place] }
    Multiply { x: u32 [place], x_rows: u32 [place], w: u32 [place], w_rows: u32, len: u32, stages: u32, most_rows: u32, pairs: u32, to: Target }
    Convolve { conv: ConvOf, y: Vector, halves: Vector, shifts: u32 }
    Times { time: TimeOf, heads: u32, halves: u32, raw: Vector, dt: Vector, decay: Vector }
    ScanOf {
        heads: u32, head_dim: u32, d_state: u32, n_groups: u32, d: u32 [place], state: u32 [place], held: u32 [place],
        x: Vector, b: Vector, c: Vector, dt: Vector, decay: Vector, reads: Vector, parts: Vector, z: Vector, y: Vector,
        time: TimeOf, conv: ConvOf, select: Vector, rank: u32,
        dt_norm: NormOf, b_norm: NormOf, c_norm: NormOf, dt_proj: Mat, places: u32,
    }
    Elements {
        channels: u32, head_dim: u32, d_state: u32, n_groups: u32, d: u32 [place], state: u32 [place],
        x: Vector, z: Vector, dt: Vector, b: Vector, c: Vector, y: Vector, time: TimeOf, dt_proj: Mat, dt_codes: Codes, codes: Codes,
    }
    AttendOf {
        heads: u32, kv_heads: u32, head_dim: u32, window: u32, keys: u32 [place], values: u32 [place], scores: u32 [place], scale: f32,
        qkv: Vector, y: Vector, q_norm: NormOf, k_norm: NormOf, rotary_dims: u32, turns: u32 [place],
    }
    Route {
        logits: Vector, ids: Vector, weights: Vector, experts: u32, chosen: u32, groups: u32, chosen_groups: u32,
        routing: u32, correction: u32 [place], weight_scale: f32,
    }
    Experts { table: u32 [place], chosen: u32, shared: u32, rows: u32, ids: Vector, y: Vector, codes: Codes }
    Combine { parts: Vector, weights: Vector, chosen: u32, width: u32, to: Target }
    Choose { logits: Vector, vocab: u32 }
}

impl Vector {
    pub(crate) const NONE: Self = Self { start: NONE, stride: 0 };

    /// One row of posted numbers at `start`, as who writes it has it.
    pub(crate) fn posted(start: u32) -> Self {
        Self { start, stride: POSTED }
    }

    /// The same for an operation so many after the one that writes it.
    pub(crate) fn aged(self, age: usize) -> Self {
        debug_assert!(self.is_posted() && age > 0);
        Self { stride: POSTED + age as u32, ..self }
    }

    pub(crate) fn is_posted(self) -> bool {
        self.stride >= POSTED
    }

    /// The columns from `i` on.
    pub(crate) fn columns(self, i: usize) -> Self {
        let floats = if self.is_posted() { 2 * i } else { i };
        Self { start: self.start + floats as u32, ..self }
    }

    /// The same of rows in f16; `i` is even.
    pub(crate) fn half_columns(self, i: usize) -> Self {
        debug_assert!(i.is_multiple_of(2));
        Self { start: self.start + (i / 2) as u32, ..self }
    }
}

impl Codes {
    pub(crate) const NONE: Self = Self {
        codes: NONE,
        scales: NONE,
        sums: NONE,
        stride: 0,
        floats: Vector::NONE,
        halves: NONE,
        half_rows: 0,
        paired: 0,
    };
}

/// Numbers of types.
impl Mat {
    pub(crate) const Q8: u32 = 2;
    pub(crate) const NONE: Self = Self { data: NONE, dtype: 0, rows: 0, cols: 0 };

    pub(crate) fn is_quantized(&self) -> bool {
        self.dtype >= Self::Q8
    }

    /// Bytes of the codes of a group of sixteen rows.
    pub(crate) fn tile_bytes(&self) -> usize {
        if self.dtype == Self::Q8 { 512 } else { 256 }
    }
}

impl NormOf {
    pub(crate) const IDENTITY: Self = Self { kind: 0, weight: NONE, bias: NONE, eps: 1.0, groups: 1 };
}

impl ConvOf {
    pub(crate) const NONE: Self = Self {
        x: Vector::NONE,
        factor: Vector::NONE,
        window: NONE,
        weight: NONE,
        bias: NONE,
        width: 0,
        channels: 0,
        silu: 0,
    };
}

impl TimeOf {
    pub(crate) const NONE: Self =
        Self { sigmoid: 0, bias: NONE, min: 0.0, max: 0.0, a_log2: NONE, per_element: 0 };
}

impl Ahead {
    pub(crate) const NONE: Self =
        Self { slots: 0, groups: 0, place_bytes: 0, under_way: 0, table: 0, first: 0, last: 0 };
}

impl Through {
    pub(crate) const NONE: Self = Self {
        first: NONE,
        conv: ConvOf::NONE,
        y: Vector::NONE,
        time: TimeOf::NONE,
        heads: 0,
        dt: Vector::NONE,
        decay: Vector::NONE,
        codes: Codes::NONE,
        codes_len: 0,
    };
}

/// Kinds of [`Source`].
pub(crate) mod source {
    pub(crate) const PLAIN: u32 = 0;
    pub(crate) const SUM: u32 = 1;
    pub(crate) const CONCAT: u32 = 2;
    pub(crate) const ACTIVATE: u32 = 3;
    pub(crate) const CONVOLVED: u32 = 4;
    pub(crate) const HALVES: u32 = 5;
}

impl Source {
    /// `len` elements of each row of `a`.
    pub(crate) fn plain(a: Vector, len: usize) -> Self {
        Self {
            kind: source::PLAIN,
            len: len as u32,
            split: 0,
            activation: 0,
            a,
            b: Vector::NONE,
            norm: NormOf::IDENTITY,
            after: Vector::NONE,
            conv: ConvOf::NONE,
        }
    }
}

/// Kinds of [`Target`].
pub(crate) mod target {
    pub(crate) const STORE: u32 = 0;
    pub(crate) const ADD: u32 = 1;
    pub(crate) const SET: u32 = 2;
    pub(crate) const STORE_HALVES: u32 = 3;
}

impl Target {
    pub(crate) fn store(y: Vector) -> Self {
        Self { kind: target::STORE, scale: 1.0, y, before: Vector::NONE, bias: NONE, addend: Vector::NONE }
    }
}

/// Where the input of a [`Product`] comes from.
pub(crate) mod input {
    pub(crate) const FUSED: u32 = 0;
    pub(crate) const REUSED: u32 = 1;
    pub(crate) const PREPARED: u32 = 2;
}

/// Kinds of [`Op`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Kind {
    Embed,
    Prepare,
    Product,
    Widen,
    Multiply,
    Convolve,
    Window,
    Times,
    Weigh,
    Step,
    Elements,
    Scan,
    Parts,
    Chunks,
    Hold,
    Rotate,
    Attend,
    Ring,
    Route,
    Experts,
    Combine,
    Argmax,
    Choose,
    /// And the three after it: one for each byte of a rank.
    Histogram,
}

/// Who waits for whom after an operation: `kernels/program.cuh` says when it can be nobody.
pub(crate) mod wait {
    pub(crate) const BLOCK: u16 = 0;
    pub(crate) const GRID: u16 = 1;
    pub(crate) const NONE: u16 = 2;
}

/// Words of a payload: those of the largest, [`Product`]. An operation is whole pieces of 16 bytes.
pub(crate) const PAYLOAD_WORDS: usize = 104;

/// An operation: its kind, and one of the records above.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub(crate) struct Op {
    pub(crate) kind: u16,
    /// Number of its case in the kernels made for the model.
    pub(crate) shape: u16,
    /// Who waits for whom afterwards: of [`wait`].
    pub(crate) wait: u16,
    /// 1 if the operation before has a barrier after it.
    pub(crate) waits: u16,
    /// Shape of the operation that comes next in the body, or [`NONE`].
    pub(crate) next: u32,
    /// Units of the operations since the last barrier.
    pub(crate) first: u32,
    pub(crate) payload: [u32; PAYLOAD_WORDS],
}

impl Op {
    pub(crate) fn new(kind: u16, waits: bool, first: u32, record: &impl Pod) -> Self {
        let mut payload = [0; PAYLOAD_WORDS];
        let words: &[u32] = bytemuck::cast_slice(bytemuck::bytes_of(record));
        payload[..words.len()].copy_from_slice(words);
        Self { kind, shape: 0, wait: wait::GRID, waits: waits.into(), next: NONE, first, payload }
    }

    /// The record of a product.
    pub(crate) fn product(&mut self) -> Option<&mut Product> {
        let words = size_of::<Product>() / 4;
        (self.kind == Kind::Product as u16)
            .then(|| bytemuck::from_bytes_mut(bytemuck::cast_slice_mut(&mut self.payload[..words])))
    }
}

/// A stream's part of a launch.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub(crate) struct Sequence {
    pub(crate) position: u64,
    pub(crate) slot: u32,
    pub(crate) reserved: u32,
}

/// How a stream's tokens are chosen.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub(crate) struct SamplingOf {
    pub(crate) random: u64,
    pub(crate) temperature: f32,
    pub(crate) top_p: f32,
    pub(crate) top_k: u32,
    pub(crate) reserved: u32,
}

/// The kernel's argument. Pointers are addresses on the device.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[expect(missing_docs, reason = "documented in kernels/program.cuh")]
pub struct Params {
    pub model: u64,
    pub states: u64,
    pub scratch: u64,
    pub ops: u64,
    pub tables: u64,
    pub sequences: u64,
    pub control: u64,
    pub tokens: u64,
    pub chosen: u64,
    pub best: u64,
    pub histogram: u64,
    pub sampling: u64,
    pub stop: u64,
    pub state_len: u64,
    pub first: u32,
    pub last: u32,
    pub sequence_count: u32,
    pub count: u32,
    pub steps: u32,
    pub stop_count: u32,
    pub head_row: u32,
    pub head_count: u32,
    pub shared_floats: u32,
    pub shared_groups: u32,
    pub(crate) ahead: Ahead,
    pub over_first: u32,
    pub over_end: u32,
    pub turn: u32,
}

/// Sizes in bytes of the records, in the order in which the emulator lists those of the kernels, and of what stands in
/// shared memory before the row.
#[doc(hidden)]
pub const SIZES: [usize; 20] = [
    size_of::<Op>(),
    size_of::<Params>(),
    size_of::<LongProduct>(),
    size_of::<Embed>(),
    size_of::<Prepare>(),
    size_of::<Product>(),
    size_of::<Widen>(),
    size_of::<Multiply>(),
    size_of::<Convolve>(),
    size_of::<Times>(),
    size_of::<ScanOf>(),
    size_of::<Elements>(),
    size_of::<AttendOf>(),
    size_of::<Route>(),
    size_of::<Experts>(),
    size_of::<Combine>(),
    size_of::<Choose>(),
    size_of::<Sequence>(),
    size_of::<SamplingOf>(),
    SHARED_START_BYTES,
];

/// Bytes of `Ring` of the kernels.
const RING_BYTES: usize = 272;

/// Bytes of shared memory before the row, `Shared` of the kernels: parameters, an address, a position, seven numbers, four operations, 256 sums, four words, how far weights have come, 4,096
/// partial results, 1,584 floats of tokens.
pub(crate) const SHARED_START_BYTES: usize = (size_of::<Params>() + 8 * 2 + 4 * 7).next_multiple_of(16)
    + 4 * size_of::<Op>()
    + 4 * 256
    + 8 * 4
    + RING_BYTES
    + 4 * (4096 + 1584);

const _: () = assert!(size_of::<Product>() <= 4 * PAYLOAD_WORDS && size_of::<Op>().is_multiple_of(16));
