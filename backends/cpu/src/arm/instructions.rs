//! The two instructions that Rust has no stable names for.

use super::{DotProd, I8mm};
use core::arch::aarch64::{int8x16_t, int32x4_t};
use core::arch::asm;

impl DotProd {
    /// Adds to each of four sums the product of its four bytes of `w` and bytes `4 · I..4 · I + 4` of `x`.
    #[inline(always)]
    pub(super) fn sdot<const I: usize>(self, mut sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        const { assert!(I < 4) };
        // SAFETY: `self` proves the instruction; it touches nothing but these registers.
        unsafe {
            asm!(
                "sdot {sums:v}.4s, {w:v}.16b, {x:v}.4b[{i}]",
                sums = inout(vreg) sums,
                w = in(vreg) w,
                x = in(vreg) x,
                i = const I,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    }
}

impl I8mm {
    /// Adds to `[[a0 · b0, a0 · b1], [a1 · b0, a1 · b1]]`, where `a0` are the lower and `a1` the upper 8 bytes of `a`.
    #[inline(always)]
    pub(super) fn smmla(self, mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: `self` proves the instruction; it touches nothing but these registers.
        unsafe {
            asm!(
                "smmla {sums:v}.4s, {a:v}.16b, {b:v}.16b",
                sums = inout(vreg) sums,
                a = in(vreg) a,
                b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    }
}
