//! [`Simd`] in AVX2: sixteen floats are two registers, the lower and the upper eight lanes or rows.
//!
//! `vpmaddubsw` multiplies unsigned by signed bytes and adds pairs of products with saturation at 16 bits. Neither
//! format reaches it. q8: `|w| · (x with the sign of w)`; as |w| <= 128 and |x| <= 127, a pair is at most 32,512.
//! q4: codes are stored as `w + 8`, 0..=15, so a pair is at most 3,810, and all eight pairs of a row in a group,
//! 30,480 together, can be added in 16 bits before they are widened; `8 · sum(x)` too much is then taken away.

use super::{Avx2, four};
use crate::simd::Simd;
use core::arch::x86_64::*;
use half::f16;
use sarit_core::GROUP;
use sarit_core::kernels::LANES;

/// Sixteen lanes that are on, then sixteen that are off: from the `16 - n`th, `n` are on.
static MASKS: [i32; 32] = {
    let mut masks = [0; 32];
    let mut i = 0;
    while i < 16 {
        masks[i] = -1;
        i += 1;
    }
    masks
};

/// Masks of the first `n` of 16 lanes.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn first(n: usize) -> (__m256i, __m256i) {
    let masks = &MASKS[LANES - n..][..LANES];
    // SAFETY: 16 numbers are there; the caller vouches for the CPU.
    unsafe { (_mm256_loadu_si256(masks.as_ptr().cast()), _mm256_loadu_si256(masks[8..].as_ptr().cast())) }
}

/// Lower or upper half (8 rows x 4 bytes) of line `k` of a tile.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn half_line(tile: &[u8], k: usize, half: usize) -> __m256i {
    let line = &tile[k * 64 + half * 32..][..32];
    // SAFETY: 32 bytes are there; the caller vouches for the CPU.
    unsafe { _mm256_loadu_si256(line.as_ptr().cast()) }
}

impl Simd for Avx2 {
    type Floats = (__m256, __m256);
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Floats {
        // SAFETY: `self` proves the instructions.
        unsafe { (_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::Floats {
        // SAFETY: `self` proves the instructions; 16 floats are there.
        unsafe { (_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x[8..].as_ptr())) }
    }

    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::Floats {
        if let Some(x) = x.as_array() {
            return self.load(x);
        }
        // SAFETY: `self` proves the instructions; lanes behind the end of `x` are not read.
        unsafe {
            let (low, high) = first(x.len());
            let start = x.as_ptr();
            (_mm256_maskload_ps(start, low), _mm256_maskload_ps(start.wrapping_add(8), high))
        }
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::Floats {
        // SAFETY: `self` proves the instructions; 16 f16s are there.
        unsafe {
            (
                _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(x[8..].as_ptr().cast())),
            )
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
        // SAFETY: `self` proves the instructions; there is room for 16 floats.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), x.0);
            _mm256_storeu_ps(to[8..].as_mut_ptr(), x.1);
        }
    }

    #[inline(always)]
    fn store_f16(self, x: Self::Floats, to: &mut [f16; LANES]) {
        // SAFETY: `self` proves the instructions; there is room for 16 f16s.
        unsafe {
            // In this order the clamps keep what is not a number.
            let (low, high) = (_mm256_set1_ps(-65504.0), _mm256_set1_ps(65504.0));
            let a = _mm256_max_ps(low, _mm256_min_ps(high, x.0));
            let b = _mm256_max_ps(low, _mm256_min_ps(high, x.1));
            let a = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a);
            let b = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(b);
            _mm_storeu_si128(to.as_mut_ptr().cast(), a);
            _mm_storeu_si128(to[8..].as_mut_ptr().cast(), b);
        }
    }

    #[inline(always)]
    fn store_part(self, x: Self::Floats, to: &mut [f32]) {
        // Several CPUs take tens of cycles for a masked store.
        if let Some(to) = to.as_mut_array() {
            return self.store(x, to);
        }
        // SAFETY: `self` proves the instructions; lanes behind the end of `to` are not written.
        unsafe {
            let (low, high) = first(to.len());
            let start = to.as_mut_ptr();
            _mm256_maskstore_ps(start, low, x.0);
            _mm256_maskstore_ps(start.wrapping_add(8), high, x.1);
        }
    }

    #[inline(always)]
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        // SAFETY: `self` proves the instructions.
        unsafe { (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        // SAFETY: `self` proves the instructions.
        unsafe { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn fold(self, x: [Self::Floats; LANES]) -> Self::Floats {
        // SAFETY: `self` proves the instructions.
        unsafe { (fold_eight(&x, 0), fold_eight(&x, 8)) }
    }

    #[inline(always)]
    fn q8<const T: usize>(
        self,
        tile: &[u8; 512],
        x: [&[i8; GROUP]; T],
        _sums: [i32; T],
    ) -> [Self::Floats; T] {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let zero = _mm256_setzero_si256();
            let ones = _mm256_set1_epi16(1);
            let mut sums = [[zero; 2]; T];
            for k in 0..8 {
                let w = [half_line(tile, k, 0), half_line(tile, k, 1)];
                let magnitude = [_mm256_abs_epi8(w[0]), _mm256_abs_epi8(w[1])];
                for t in 0..T {
                    let x = _mm256_set1_epi32(four(x[t], k));
                    for half in 0..2 {
                        let pairs = _mm256_maddubs_epi16(magnitude[half], _mm256_sign_epi8(x, w[half]));
                        sums[t][half] = _mm256_add_epi32(sums[t][half], _mm256_madd_epi16(pairs, ones));
                    }
                }
            }
            floats(sums)
        }
    }

    #[inline(always)]
    fn q4<const T: usize>(self, tile: &[u8; 256], x: [&[i8; GROUP]; T], sums: [i32; T]) -> [Self::Floats; T] {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let zero = _mm256_setzero_si256();
            let (ones, nibble) = (_mm256_set1_epi16(1), _mm256_set1_epi8(15));
            let mut pairs = [[zero; 2]; T];
            for k in 0..4 {
                // Lower nibbles, then upper ones: two registers of weights at a time.
                for shifted in [false, true] {
                    let mut w = [zero; 2];
                    for half in 0..2 {
                        let line = half_line(tile, k, half);
                        let line = if shifted { _mm256_srli_epi16::<4>(line) } else { line };
                        w[half] = _mm256_and_si256(line, nibble);
                    }
                    for t in 0..T {
                        let x = _mm256_set1_epi32(four(x[t], 2 * k + usize::from(shifted)));
                        for half in 0..2 {
                            pairs[t][half] =
                                _mm256_add_epi16(pairs[t][half], _mm256_maddubs_epi16(w[half], x));
                        }
                    }
                }
            }
            for t in 0..T {
                let excess = _mm256_slli_epi32::<3>(_mm256_set1_epi32(sums[t]));
                for half in 0..2 {
                    pairs[t][half] = _mm256_sub_epi32(_mm256_madd_epi16(pairs[t][half], ones), excess);
                }
            }
            floats(pairs)
        }
    }
}

/// Two halves of sixteen integers as [`Simd::Floats`].
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn floats<const T: usize>(halves: [[__m256i; 2]; T]) -> [(__m256, __m256); T] {
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        let mut out = [(_mm256_setzero_ps(), _mm256_setzero_ps()); T];
        for t in 0..T {
            out[t] = (_mm256_cvtepi32_ps(halves[t][0]), _mm256_cvtepi32_ps(halves[t][1]));
        }
        out
    }
}

/// [`Simd::fold`] of `x[first..first + 8]`: each addition folds two registers into one, so 15 do for 8 folds.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn fold_eight(x: &[(__m256, __m256); LANES], first: usize) -> __m256 {
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        let zero = _mm256_setzero_ps();
        // Lanes +8, then +4: the halves of `by_4[i]` are those of sums i and i + 4.
        let mut by_4 = [zero; 4];
        for i in 0..4 {
            let (a, b) = (x[first + i], x[first + i + 4]);
            let (a, b) = (_mm256_add_ps(a.0, a.1), _mm256_add_ps(b.0, b.1));
            by_4[i] =
                _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
        }
        // Lanes +2 and +1 within each half.
        let mut by_2 = [zero; 2];
        for i in 0..2 {
            let (a, b) = (by_4[2 * i], by_4[2 * i + 1]);
            by_2[i] = _mm256_add_ps(
                _mm256_shuffle_ps::<0b01_00_01_00>(a, b),
                _mm256_shuffle_ps::<0b11_10_11_10>(a, b),
            );
        }
        let (a, b) = (by_2[0], by_2[1]);
        _mm256_add_ps(_mm256_shuffle_ps::<0b10_00_10_00>(a, b), _mm256_shuffle_ps::<0b11_01_11_01>(a, b))
    }
}
