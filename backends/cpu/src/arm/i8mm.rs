//! [`Codes`] with `smmla`: eight columns of two rows by eight columns of two tokens, twice the work of `sdot`. One token
//! alone would leave half of it idle and is given to `sdot`; tokens otherwise come in pairs.

use super::I8mm;
use super::codes::{Codes, q4_codes, q8_codes};
use core::arch::aarch64::*;
use sarit_core::GROUP;

/// Columns `8i..8i + 8` of rows `4j`, `4j + 1`, and of rows `4j + 2`, `4j + 3`, from registers of four columns each.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn eight_columns([a, b]: [int8x16_t; 2]) -> [int8x16_t; 2] {
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        let (a, b) = (vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b));
        [vreinterpretq_s8_s32(vzip1q_s32(a, b)), vreinterpretq_s8_s32(vzip2q_s32(a, b))]
    }
}

/// Codes `8i..8i + 8` of two tokens.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn two_tokens(a: &[i8; GROUP], b: &[i8; GROUP], i: usize) -> int8x16_t {
    let (a, b) = (&a[8 * i..][..8], &b[8 * i..][..8]);
    // SAFETY: 8 bytes are there, of either; the caller vouches for the CPU.
    unsafe { vcombine_s8(vld1_s8(a.as_ptr()), vld1_s8(b.as_ptr())) }
}

impl I8mm {
    /// `w[i]` being columns `8i..8i + 8` of two rows, and of the next two; `sums` is where the two tokens begin.
    #[inline(always)]
    fn dots(
        self,
        sums: int32x4_t,
        w: [[int8x16_t; 2]; 4],
        x: &[i8; GROUP],
        next: &[i8; GROUP],
    ) -> [float32x4_t; 2] {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let mut sums = [sums; 2];
            for i in 0..4 {
                let x = two_tokens(x, next, i);
                sums = [self.smmla(sums[0], w[i][0], x), self.smmla(sums[1], w[i][1], x)];
            }
            // Each sum is [row, token]: the tokens apart.
            [vcvtq_f32_s32(vuzp1q_s32(sums[0], sums[1])), vcvtq_f32_s32(vuzp2q_s32(sums[0], sums[1]))]
        }
    }
}

impl Codes for I8mm {
    #[inline(always)]
    fn q8<const T: usize>(self, tile: &[u8; 512], x: [&[i8; GROUP]; T]) -> [[float32x4_t; 4]; T] {
        if T == 1 {
            return self.0.q8(tile, x);
        }
        const { assert!(T == 1 || T % 2 == 0) };
        // SAFETY: `self` proves the instructions.
        unsafe {
            let mut out = [[vdupq_n_f32(0.0); 4]; T];
            for j in 0..4 {
                let mut w = [[vdupq_n_s8(0); 2]; 4];
                for i in 0..4 {
                    w[i] = eight_columns([q8_codes(tile, 2 * i, j), q8_codes(tile, 2 * i + 1, j)]);
                }
                for t in (0..T).step_by(2) {
                    [out[t][j], out[t + 1][j]] = self.dots(vdupq_n_s32(0), w, x[t], x[t + 1]);
                }
            }
            out
        }
    }

    #[inline(always)]
    fn q4<const T: usize>(
        self,
        tile: &[u8; 256],
        x: [&[i8; GROUP]; T],
        sums: [i32; T],
    ) -> [[float32x4_t; 4]; T] {
        if T == 1 {
            return self.0.q4(tile, x, sums);
        }
        const { assert!(T == 1 || T % 2 == 0) };
        // SAFETY: `self` proves the instructions.
        unsafe {
            let mut out = [[vdupq_n_f32(0.0); 4]; T];
            for j in 0..4 {
                let mut w = [[vdupq_n_s8(0); 2]; 4];
                for i in 0..4 {
                    w[i] = eight_columns(q4_codes(tile, i, j));
                }
                for t in (0..T).step_by(2) {
                    let (a, b) = (vdup_n_s32(-8 * sums[t]), vdup_n_s32(-8 * sums[t + 1]));
                    let a_b = vzip1_s32(a, b);
                    [out[t][j], out[t + 1][j]] = self.dots(vcombine_s32(a_b, a_b), w, x[t], x[t + 1]);
                }
            }
            out
        }
    }
}
