//! [`Simd`] in AVX-512: sixteen floats are one register, and `vpdpbusd` does a tile's line of 16 rows x 4 columns.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes, so weights are made unsigned: a q8 code `w` becomes `w + 128`
//! (its top bit flipped), a q4 code is stored as `w + 8`. The sum of `(w + 128) · x` is `128 · sum(x)` too large;
//! the sums of the activation codes are at hand, and one `vpdpwssd` subtracts the multiple. All of it is exact:
//! four products of 8 bits are below 2^17, a group's sum below 2^21.

use super::{Avx512, four};
use crate::simd::Simd;
use core::arch::x86_64::*;
use half::f16;
use sarit_core::GROUP;
use sarit_core::kernels::LANES;

/// The first `n` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    debug_assert!(n <= LANES);
    ((1u32 << n) - 1) as __mmask16
}

/// Line `k` of a tile.
///
/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn line(tile: &[u8], k: usize) -> __m512i {
    let line = &tile[k * 64..(k + 1) * 64];
    // SAFETY: 64 bytes are there; the caller vouches for the CPU.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

/// `sum · -OFFSET` in all lanes, for |sum| < 2^15.
///
/// # Safety
/// The CPU has AVX-512 F and VNNI.
#[inline(always)]
unsafe fn correction<const OFFSET: i32>(sum: i32) -> __m512i {
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        // As pairs of 16 bits: the low halves are the sum and the negative offset, the high halves meet a 0.
        let offset = _mm512_set1_epi32(-OFFSET & 0xffff);
        _mm512_dpwssd_epi32(_mm512_setzero_si512(), offset, _mm512_set1_epi32(sum))
    }
}

/// `w · x` of unsigned weights, `OFFSET` too large, with `k` = 0..8 groups of four columns.
///
/// # Safety
/// The CPU has AVX-512 F and VNNI.
#[inline(always)]
unsafe fn dots<const OFFSET: i32, const T: usize>(
    w: [__m512i; 8],
    x: [&[i8; GROUP]; T],
    sums: [i32; T],
) -> [__m512; T] {
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        let mut dots = [_mm512_setzero_si512(); T];
        for t in 0..T {
            dots[t] = correction::<OFFSET>(sums[t]);
        }
        for k in 0..8 {
            for t in 0..T {
                dots[t] = _mm512_dpbusd_epi32(dots[t], w[k], _mm512_set1_epi32(four(x[t], k)));
            }
        }
        let mut out = [_mm512_setzero_ps(); T];
        for t in 0..T {
            out[t] = _mm512_cvtepi32_ps(dots[t]);
        }
        out
    }
}

impl Simd for Avx512 {
    type Floats = __m512;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> __m512 {
        // SAFETY: `self` proves the instructions; 16 floats are there.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn load_part(self, x: &[f32]) -> __m512 {
        // A whole one needs no mask to be made.
        if let Some(x) = x.as_array() {
            return self.load(x);
        }
        // SAFETY: `self` proves the instructions; lanes behind the end of `x` are not read.
        unsafe { _mm512_maskz_loadu_ps(first(x.len()), x.as_ptr()) }
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> __m512 {
        // SAFETY: `self` proves the instructions; 16 f16s are there.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_f16_part(self, x: &[f16]) -> __m512 {
        // SAFETY: `self` proves the instructions; lanes behind the end of `x` are not read.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(x.len()), x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store(self, x: __m512, to: &mut [f32; LANES]) {
        // SAFETY: `self` proves the instructions; there is room for 16 floats.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn store_f16(self, x: __m512, to: &mut [f16; LANES]) {
        // SAFETY: `self` proves the instructions; there is room for 16 f16s.
        unsafe {
            // In this order the clamps keep what is not a number.
            let x = _mm512_min_ps(_mm512_set1_ps(65504.0), x);
            let x = _mm512_max_ps(_mm512_set1_ps(-65504.0), x);
            let x = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), x);
        }
    }

    #[inline(always)]
    fn store_part(self, x: __m512, to: &mut [f32]) {
        // SAFETY: `self` proves the instructions; lanes behind the end of `to` are not written.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), first(to.len()), x) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_mul_ps(a, b) }
    }

    /// Each addition folds two to four registers into half as many, so 15 additions do for 16 folds.
    #[inline(always)]
    fn fold(self, x: [__m512; LANES]) -> __m512 {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let zero = _mm512_setzero_ps();
            // Lanes +8: blocks of four [a a b b].
            let mut by_8 = [zero; 8];
            for i in 0..8 {
                let (a, b) = (x[i], x[i + 8]);
                by_8[i] = _mm512_add_ps(
                    _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b),
                    _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b),
                );
            }
            // Lanes +4: blocks [a c b d], where c, d are those of `i + 4`.
            let mut by_4 = [zero; 4];
            for i in 0..4 {
                let (a, b) = (by_8[i], by_8[i + 4]);
                by_4[i] = _mm512_add_ps(
                    _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b),
                    _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b),
                );
            }
            // Lanes +2 and +1 within each block; block j of `by_4[i]` is that of one sum.
            let mut by_2 = [zero; 2];
            for i in 0..2 {
                let (a, b) = (by_4[2 * i], by_4[2 * i + 1]);
                by_2[i] = _mm512_add_ps(
                    _mm512_shuffle_ps::<0b01_00_01_00>(a, b),
                    _mm512_shuffle_ps::<0b11_10_11_10>(a, b),
                );
            }
            let (a, b) = (by_2[0], by_2[1]);
            let by_1 = _mm512_add_ps(
                _mm512_shuffle_ps::<0b10_00_10_00>(a, b),
                _mm512_shuffle_ps::<0b11_01_11_01>(a, b),
            );
            // `by_8[i]` held i, i+8; `by_4[i]` blocks i, i+8, i+4, i+12: put the two in the middle in order.
            _mm512_shuffle_f32x4::<0b11_01_10_00>(by_1, by_1)
        }
    }

    #[inline(always)]
    fn q8<const T: usize>(self, tile: &[u8; 512], x: [&[i8; GROUP]; T], sums: [i32; T]) -> [__m512; T] {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let mut w = [_mm512_setzero_si512(); 8];
            for k in 0..8 {
                w[k] = _mm512_xor_si512(line(tile, k), _mm512_set1_epi8(-128));
            }
            dots::<128, T>(w, x, sums)
        }
    }

    #[inline(always)]
    fn q4<const T: usize>(self, tile: &[u8; 256], x: [&[i8; GROUP]; T], sums: [i32; T]) -> [__m512; T] {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let nibble = _mm512_set1_epi8(15);
            let mut w = [_mm512_setzero_si512(); 8];
            for k in 0..4 {
                let line = line(tile, k);
                w[2 * k] = _mm512_and_si512(line, nibble);
                w[2 * k + 1] = _mm512_and_si512(_mm512_srli_epi16::<4>(line), nibble);
            }
            dots::<8, T>(w, x, sums)
        }
    }
}
