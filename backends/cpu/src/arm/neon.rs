//! [`Codes`] with the widening multiplications of NEON's baseline, `smull` and `smlal`: eight products in 16 bits.
//!
//! Each row of a register has two of its four columns' pairs in one place each, which `sadalp` and `addp` add up. No
//! sum leaves 16 bits before it is widened. q8: two products, 2 · 128 · 127 = 32,512 at most. q4: codes are stored as
//! `w + 8`, 0..=15, so all eight products of a place, 15,240 together; `8 · sum(x)` too much is then taken away.

use super::Neon;
use super::codes::{Codes, q4_codes, q8_codes, sixteen};
use core::arch::aarch64::*;
use sarit_core::GROUP;

/// Codes `4k..4k + 4` four times, for each `k`.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn fours(x: &[i8; GROUP]) -> [int8x16_t; 8] {
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        let low = vreinterpretq_s32_s8(sixteen(x, 0));
        let high = vreinterpretq_s32_s8(sixteen(x, 1));
        [
            vdupq_laneq_s32::<0>(low),
            vdupq_laneq_s32::<1>(low),
            vdupq_laneq_s32::<2>(low),
            vdupq_laneq_s32::<3>(low),
            vdupq_laneq_s32::<0>(high),
            vdupq_laneq_s32::<1>(high),
            vdupq_laneq_s32::<2>(high),
            vdupq_laneq_s32::<3>(high),
        ]
        .map(|four| vreinterpretq_s8_s32(four))
    }
}

impl Codes for Neon {
    #[inline(always)]
    fn q8<const T: usize>(self, tile: &[u8; 512], x: [&[i8; GROUP]; T]) -> [[float32x4_t; 4]; T] {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let mut out = [[vdupq_n_f32(0.0); 4]; T];
            for t in 0..T {
                let x = fours(x[t]);
                for j in 0..4 {
                    let mut sums = [vdupq_n_s32(0); 2];
                    for k in (0..8).step_by(2) {
                        let (a, b) = (q8_codes(tile, k, j), q8_codes(tile, k + 1, j));
                        let low = vmull_s8(vget_low_s8(a), vget_low_s8(x[k]));
                        let low = vmlal_s8(low, vget_low_s8(b), vget_low_s8(x[k + 1]));
                        let high = vmlal_high_s8(vmull_high_s8(a, x[k]), b, x[k + 1]);
                        sums = [vpadalq_s16(sums[0], low), vpadalq_s16(sums[1], high)];
                    }
                    out[t][j] = vcvtq_f32_s32(vpaddq_s32(sums[0], sums[1]));
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
        // SAFETY: `self` proves the instructions.
        unsafe {
            let mut out = [[vdupq_n_f32(0.0); 4]; T];
            for t in 0..T {
                let x = fours(x[t]);
                let too_much = vdupq_n_s32(8 * sums[t]);
                for j in 0..4 {
                    let (mut low, mut high) = (vdupq_n_s16(0), vdupq_n_s16(0));
                    for k in 0..4 {
                        let [a, b] = q4_codes(tile, k, j);
                        low = vmlal_s8(low, vget_low_s8(a), vget_low_s8(x[2 * k]));
                        low = vmlal_s8(low, vget_low_s8(b), vget_low_s8(x[2 * k + 1]));
                        high = vmlal_high_s8(high, a, x[2 * k]);
                        high = vmlal_high_s8(high, b, x[2 * k + 1]);
                    }
                    let sum = vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
                    out[t][j] = vcvtq_f32_s32(vsubq_s32(sum, too_much));
                }
            }
            out
        }
    }
}
