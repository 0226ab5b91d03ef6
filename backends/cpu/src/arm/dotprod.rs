//! [`Codes`] with `sdot`: four columns of four rows by four columns of a token. The sums begin at what the codes of q4
//! are too large by: `-8 · sum(x)`.

use super::DotProd;
use super::codes::{Codes, q4_codes, q8_codes, sixteen};
use core::arch::aarch64::*;
use sarit_core::GROUP;

impl DotProd {
    /// `w[k]` being columns `4k..4k + 4` of four rows.
    #[inline(always)]
    fn dots(self, sums: int32x4_t, w: [int8x16_t; 8], x: &[i8; GROUP]) -> float32x4_t {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let (low, high) = (sixteen(x, 0), sixteen(x, 1));
            let sums = self.sdot::<0>(sums, w[0], low);
            let sums = self.sdot::<1>(sums, w[1], low);
            let sums = self.sdot::<2>(sums, w[2], low);
            let sums = self.sdot::<3>(sums, w[3], low);
            let sums = self.sdot::<0>(sums, w[4], high);
            let sums = self.sdot::<1>(sums, w[5], high);
            let sums = self.sdot::<2>(sums, w[6], high);
            let sums = self.sdot::<3>(sums, w[7], high);
            vcvtq_f32_s32(sums)
        }
    }
}

impl Codes for DotProd {
    #[inline(always)]
    fn q8<const T: usize>(self, tile: &[u8; 512], x: [&[i8; GROUP]; T]) -> [[float32x4_t; 4]; T] {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let mut out = [[vdupq_n_f32(0.0); 4]; T];
            for j in 0..4 {
                let mut w = [vdupq_n_s8(0); 8];
                for k in 0..8 {
                    w[k] = q8_codes(tile, k, j);
                }
                for t in 0..T {
                    out[t][j] = self.dots(vdupq_n_s32(0), w, x[t]);
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
            for j in 0..4 {
                let mut w = [vdupq_n_s8(0); 8];
                for k in 0..4 {
                    [w[2 * k], w[2 * k + 1]] = q4_codes(tile, k, j);
                }
                for t in 0..T {
                    out[t][j] = self.dots(vdupq_n_s32(-8 * sums[t]), w, x[t]);
                }
            }
            out
        }
    }
}
