//! The operations on vectors, for every instruction set.
//!
//! Most are the definitions of `sarit-core`, compiled once more with wider vectors: IEEE arithmetic in a stated order
//! gives the same bits whatever the width. The two that a step spends its time in are written here: matrix products
//! ([`tiled`], [`dense`]) and the scan ([`scan`]), each once for all widths, over the few operations of [`Simd`] that an
//! instruction set provides. [`operations`] makes an instruction set of them.

use crate::columns::Part;
use core::ops::Range;
use half::f16;
use sarit_core::kernels::{Conv, LANES, RowSink, scalar};
use sarit_core::{GROUP, TILE_ROWS};

mod compiled;
pub(crate) mod dense;
mod held;
pub(crate) mod scan;
pub(crate) mod tiled;

pub(crate) use compiled::{compiled, operations};

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for the cache line `bytes` behind `x`, which need not be memory of ours. On AArch64 it does nothing: what it
/// would gain there has not been measured.
#[inline(always)]
fn prefetch<T>(x: &T, bytes: usize) {
    let ahead = core::ptr::from_ref(x).wrapping_byte_add(bytes);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 CPU has the instruction, and it may be given any address.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = ahead;
}

/// Asks for what a convolution of `channels` reads of inputs before and of weights: short rows, each in a place of its own.
#[inline(always)]
pub(crate) fn fetch_conv(conv: &Conv<'_>, channels: &Range<usize>, window: &mut Part<'_>) {
    for j in 0..conv.width {
        let weight = &conv.weight[j * conv.channels..][channels.clone()];
        weight.iter().step_by(LINE / size_of::<f32>()).for_each(|weight| prefetch(weight, 0));
        if j + 1 < conv.width {
            window.row(j).iter().step_by(LINE / size_of::<f32>()).for_each(|input| prefetch(input, 0));
        }
    }
}

/// Sixteen floats at a time, in one register or several: the lanes of the numeric contract, and the rows of a tile.
/// The value is the proof that the CPU has the instructions, so every method is safe.
pub(crate) trait Simd: Copy {
    /// Sixteen floats.
    type Floats: Copy;
    /// How many [`Floats`](Self::Floats) fit in the registers.
    const REGISTERS: usize;

    /// `x` in all lanes.
    fn splat(self, x: f32) -> Self::Floats;
    /// The floats at `x`.
    fn load(self, x: &[f32; LANES]) -> Self::Floats;
    /// Up to 16 floats, filled up with zeros.
    fn load_part(self, x: &[f32]) -> Self::Floats;
    /// The f16s at `x`, exactly.
    fn load_f16(self, x: &[f16; LANES]) -> Self::Floats;
    /// Up to 16 f16s, filled up with zeros.
    fn load_f16_part(self, x: &[f16]) -> Self::Floats;
    /// Writes `x` to `to`.
    fn store(self, x: Self::Floats, to: &mut [f32; LANES]);
    /// Writes the first lanes of `x` to `to`, which has up to 16.
    fn store_part(self, x: Self::Floats, to: &mut [f32]);
    /// Writes `x` to `to` as f16, to nearest even; what is beyond the largest finite f16 becomes that.
    #[inline(always)]
    fn store_f16(self, x: Self::Floats, to: &mut [f16; LANES]) {
        let mut floats = [0.0; LANES];
        self.store(x, &mut floats);
        scalar::round_to_halves(&floats, to);
    }
    /// `a + b`.
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a · b`.
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// [`fold`](sarit_core::kernels::fold) of the lanes of each of 16 sums: lane `i` is that of `x[i]`.
    fn fold(self, x: [Self::Floats; LANES]) -> Self::Floats;

    /// `codes · codes` of the rows of a q8 tile and a group of each of `T` tokens, as floats. Activation codes are
    /// -127..=127, weights anything; `sums` are those of the activation codes.
    fn q8<const T: usize>(
        self,
        tile: &[u8; TILE_ROWS * GROUP],
        x: [&[i8; GROUP]; T],
        sums: [i32; T],
    ) -> [Self::Floats; T];
    /// The same for a q4 tile.
    fn q4<const T: usize>(
        self,
        tile: &[u8; TILE_ROWS * GROUP / 2],
        x: [&[i8; GROUP]; T],
        sums: [i32; T],
    ) -> [Self::Floats; T];
}
