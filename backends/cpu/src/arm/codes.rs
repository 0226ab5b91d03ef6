//! Products of codes: what the instruction sets differ in.

use core::arch::aarch64::*;
use sarit_core::GROUP;

/// Products of the codes of a tile and of a group of each of `T` tokens, as [`Simd`](crate::simd::Simd) defines them.
/// The value is the proof that the CPU has the instructions, NEON among them.
///
/// Four rows at a time pass all tokens, for then the sums of eight tokens fit in the registers: register `j` of a line
/// of a tile holds four columns of each of the rows `4j..4j + 4`.
pub(super) trait Codes: Copy {
    /// Of a q8 tile.
    fn q8<const T: usize>(self, tile: &[u8; 512], x: [&[i8; GROUP]; T]) -> [[float32x4_t; 4]; T];
    /// Of a q4 tile; `sums` are those of the activation codes.
    fn q4<const T: usize>(
        self,
        tile: &[u8; 256],
        x: [&[i8; GROUP]; T],
        sums: [i32; T],
    ) -> [[float32x4_t; 4]; T];
}

/// Sixteen codes from `x[16 · i]` on.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
pub(super) unsafe fn sixteen(x: &[i8; GROUP], i: usize) -> int8x16_t {
    // SAFETY: 16 bytes are there; the caller vouches for the CPU.
    unsafe { vld1q_s8(x[16 * i..][..16].as_ptr()) }
}

/// Codes of columns `4k..4k + 4` of rows `4j..4j + 4` of a q8 tile.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
pub(super) unsafe fn q8_codes(tile: &[u8; 512], k: usize, j: usize) -> int8x16_t {
    let codes = &tile[64 * k + 16 * j..][..16];
    // SAFETY: 16 bytes are there; the caller vouches for the CPU.
    unsafe { vld1q_s8(codes.as_ptr().cast()) }
}

/// Codes, 8 too large, of columns `8k..8k + 4` and `8k + 4..8k + 8` of rows `4j..4j + 4` of a q4 tile.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
pub(super) unsafe fn q4_codes(tile: &[u8; 256], k: usize, j: usize) -> [int8x16_t; 2] {
    let codes = &tile[64 * k + 16 * j..][..16];
    // SAFETY: 16 bytes are there; the caller vouches for the CPU.
    unsafe {
        let codes = vld1q_u8(codes.as_ptr());
        let (low, high) = (vandq_u8(codes, vdupq_n_u8(15)), vshrq_n_u8::<4>(codes));
        [vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high)]
    }
}
