//! [`Simd`] in NEON: sixteen floats are four registers, each of four lanes or rows.
//!
//! There are no masks: what is shorter than sixteen goes through a filled-up copy.

use super::codes::Codes;
use crate::simd::Simd;
use core::arch::aarch64::*;
use half::f16;
use sarit_core::GROUP;
use sarit_core::kernels::LANES;

impl<C: Codes> Simd for C {
    type Floats = [float32x4_t; 4];
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Floats {
        // SAFETY: `self` proves the instructions.
        unsafe { [vdupq_n_f32(x); 4] }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::Floats {
        // SAFETY: `self` proves the instructions; 16 floats are there.
        unsafe {
            [
                vld1q_f32(x.as_ptr()),
                vld1q_f32(x[4..].as_ptr()),
                vld1q_f32(x[8..].as_ptr()),
                vld1q_f32(x[12..].as_ptr()),
            ]
        }
    }

    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::Floats {
        match x.as_array() {
            Some(x) => self.load(x),
            None => {
                let mut filled = [0.0; LANES];
                filled[..x.len()].copy_from_slice(x);
                self.load(&filled)
            }
        }
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::Floats {
        // SAFETY: `self` proves the instructions; 16 f16s are there.
        unsafe {
            let start = x.as_ptr().cast::<u16>();
            let (low, high) = (vld1q_u16(start), vld1q_u16(start.add(8)));
            let (low, high) = (vreinterpretq_f16_u16(low), vreinterpretq_f16_u16(high));
            [
                vcvt_f32_f16(vget_low_f16(low)),
                vcvt_high_f32_f16(low),
                vcvt_f32_f16(vget_low_f16(high)),
                vcvt_high_f32_f16(high),
            ]
        }
    }

    #[inline(always)]
    fn load_f16_part(self, x: &[f16]) -> Self::Floats {
        let mut filled = [f16::ZERO; LANES];
        filled[..x.len()].copy_from_slice(x);
        self.load_f16(&filled)
    }

    #[inline(always)]
    fn store(self, x: Self::Floats, to: &mut [f32; LANES]) {
        for (x, to) in x.into_iter().zip(to.as_chunks_mut::<4>().0) {
            // SAFETY: `self` proves the instructions; there is room for 4 floats.
            unsafe { vst1q_f32(to.as_mut_ptr(), x) };
        }
    }

    #[inline(always)]
    fn store_part(self, x: Self::Floats, to: &mut [f32]) {
        match to.as_mut_array() {
            Some(to) => self.store(x, to),
            None => {
                let mut all = [0.0; LANES];
                self.store(x, &mut all);
                to.copy_from_slice(&all[..to.len()]);
            }
        }
    }

    #[inline(always)]
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        // SAFETY: `self` proves the instructions.
        unsafe {
            [vaddq_f32(a[0], b[0]), vaddq_f32(a[1], b[1]), vaddq_f32(a[2], b[2]), vaddq_f32(a[3], b[3])]
        }
    }

    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        // SAFETY: `self` proves the instructions.
        unsafe {
            [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1]), vmulq_f32(a[2], b[2]), vmulq_f32(a[3], b[3])]
        }
    }

    #[inline(always)]
    fn fold(self, x: [Self::Floats; LANES]) -> Self::Floats {
        // SAFETY: `self` proves the instructions.
        unsafe { [fold_four(&x, 0), fold_four(&x, 4), fold_four(&x, 8), fold_four(&x, 12)] }
    }

    #[inline(always)]
    fn q8<const T: usize>(
        self,
        tile: &[u8; 512],
        x: [&[i8; GROUP]; T],
        _sums: [i32; T],
    ) -> [Self::Floats; T] {
        Codes::q8(self, tile, x)
    }

    #[inline(always)]
    fn q4<const T: usize>(self, tile: &[u8; 256], x: [&[i8; GROUP]; T], sums: [i32; T]) -> [Self::Floats; T] {
        Codes::q4(self, tile, x, sums)
    }
}

/// [`Simd::fold`] of `x[first..first + 4]`.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn fold_four(x: &[[float32x4_t; 4]; LANES], first: usize) -> float32x4_t {
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        let zero = vdupq_n_f32(0.0);
        // Lanes +8, then +4: four are left of each.
        let mut by_4 = [zero; 4];
        for i in 0..4 {
            let x = x[first + i];
            by_4[i] = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
        }
        // Lanes +2: two of one, two of the next.
        let mut by_2 = [zero; 2];
        for i in 0..2 {
            let (a, b) = (vreinterpretq_f64_f32(by_4[2 * i]), vreinterpretq_f64_f32(by_4[2 * i + 1]));
            by_2[i] =
                vaddq_f32(vreinterpretq_f32_f64(vtrn1q_f64(a, b)), vreinterpretq_f32_f64(vtrn2q_f64(a, b)));
        }
        vpaddq_f32(by_2[0], by_2[1])
    }
}
