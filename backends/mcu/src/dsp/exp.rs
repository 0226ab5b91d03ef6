//! Functions of eight numbers at a time that are made of exponentials.

use super::exp2::{BLOCK, CONSTANTS, Constants, eight, polynomial};
use core::arch::naked_asm;
use sarit_core::math;

/// `s16..=s23 = e^x` for `x` in `s0..=s7`, by the steps of [`math::exp`]; goes to `$far` where one of the exponents is
/// outside -64..=63. `r2` points to [`Constants::coefficients`], `r3` is 1.0; uses `r4..=r12` and `s8..=s27`.
macro_rules! exponentials {
    ($far:literal) => {
        concat!(
            "sub r12, r2, #16\n",
            "vldmia r12, {{s24-s27}}\n",
            // n = round(x · log2(e)), in r4-r11 and as floats.
            eight!("vmul.f32": "s8, s0, s25" "s9, s1, s25" "s10, s2, s25" "s11, s3, s25"
                "s12, s4, s25" "s13, s5, s25" "s14, s6, s25" "s15, s7, s25"),
            eight!("vcvtr.s32.f32": "s8, s8" "s9, s9" "s10, s10" "s11, s11" "s12, s12" "s13, s13" "s14, s14" "s15, s15"),
            "vmov r4, r5, d4\n", "vmov r6, r7, d5\n", "vmov r8, r9, d6\n", "vmov r10, r11, d7\n",
            // Q remembers whether one is outside -64..=63.
            "mov r12, #0\n", "msr apsr_nzcvq, r12\n",
            eight!("ssat r12, #7,": "r4" "r5" "r6" "r7" "r8" "r9" "r10" "r11"),
            "mrs r12, apsr\n",
            "tst r12, #0x08000000\n",
            "bne ", $far, "\n",
            eight!("vcvt.f32.s32": "s8, s8" "s9, s9" "s10, s10" "s11, s11" "s12, s12" "s13, s13" "s14, s14" "s15, s15"),
            // f = ((x - n · high) - n · low) · log2(e)
            eight!("vmls.f32": "s0, s8, s26" "s1, s9, s26" "s2, s10, s26" "s3, s11, s26"
                "s4, s12, s26" "s5, s13, s26" "s6, s14, s26" "s7, s15, s26"),
            eight!("vmls.f32": "s0, s8, s27" "s1, s9, s27" "s2, s10, s27" "s3, s11, s27"
                "s4, s12, s27" "s5, s13, s27" "s6, s14, s27" "s7, s15, s27"),
            eight!("vmul.f32": "s0, s0, s25" "s1, s1, s25" "s2, s2, s25" "s3, s3, s25"
                "s4, s4, s25" "s5, s5, s25" "s6, s6, s25" "s7, s7, s25"),
            "vmov.f32 s16, s24\n",
            "mov r12, r2\n",
            polynomial!("vmla", "r12"),
            "add r4, r3, r4, lsl #23\n", "add r5, r3, r5, lsl #23\n", "add r6, r3, r6, lsl #23\n", "add r7, r3, r7, lsl #23\n",
            "add r8, r3, r8, lsl #23\n", "add r9, r3, r9, lsl #23\n", "add r10, r3, r10, lsl #23\n", "add r11, r3, r11, lsl #23\n",
            "vmov d4, r4, r5\n", "vmov d5, r6, r7\n", "vmov d6, r8, r9\n", "vmov d7, r10, r11\n",
            eight!("vmul.f32": "s16, s16, s8" "s17, s17, s9" "s18, s18, s10" "s19, s19, s11"
                "s20, s20, s12" "s21, s21, s13" "s22, s22, s14" "s23, s23, s15"),
        )
    };
}

/// Leaves the block's function to `$far`, then goes on with the next one.
macro_rules! leave_to {
    ($far:literal) => {
        concat!(
            "mov r4, r0\nmov r5, r1\nmov r6, r2\nmov r7, r3\n",
            "bl ",
            $far,
            "\n",
            "add r0, r4, #32\nmov r1, r5\nmov r2, r6\nmov r3, r7\n",
        )
    };
}

/// `x = silu(x)` for every number.
pub(super) fn silu(x: &mut [[f32; BLOCK]]) {
    if !x.is_empty() {
        // SAFETY: `x` holds that many blocks.
        unsafe { silu_blocks(x.as_mut_ptr(), x.len(), &CONSTANTS) };
    }
}

/// `x = softplus(x)` for every number.
pub(super) fn softplus(x: &mut [[f32; BLOCK]]) {
    if !x.is_empty() {
        // SAFETY: `x` holds that many blocks.
        unsafe { softplus_blocks(x.as_mut_ptr(), x.len(), &CONSTANTS) };
    }
}

extern "C" fn silu_far(x: &mut [f32; BLOCK]) {
    *x = x.map(math::silu);
}

extern "C" fn softplus_far(x: &mut [f32; BLOCK]) {
    *x = x.map(math::softplus);
}

/// `x = x / (1 + e^-x)`, block after block.
///
/// # Safety
/// `x` points to `blocks` blocks, at least one.
#[unsafe(naked)]
unsafe extern "C" fn silu_blocks(x: *mut [f32; BLOCK], blocks: usize, constants: &Constants) {
    naked_asm!(
        CORE!(),
        "push {{r0, r4-r11, lr}}",
        "vpush {{d8-d15}}",
        "adds r2, #16",
        "mov r3, #0x3f800000",
        "1:",
        "vldmia r0, {{s0-s7}}",
        eight!("vneg.f32": "s0, s0" "s1, s1" "s2, s2" "s3, s3" "s4, s4" "s5, s5" "s6, s6" "s7, s7"),
        exponentials!("3f"),
        "vmov.f32 s8, #1.0",
        eight!("vadd.f32": "s16, s16, s8" "s17, s17, s8" "s18, s18, s8" "s19, s19, s8"
            "s20, s20, s8" "s21, s21, s8" "s22, s22, s8" "s23, s23, s8"),
        "vldmia r0, {{s0-s7}}",
        eight!("vdiv.f32": "s0, s0, s16" "s1, s1, s17" "s2, s2, s18" "s3, s3, s19"
            "s4, s4, s20" "s5, s5, s21" "s6, s6, s22" "s7, s7, s23"),
        "vstmia r0!, {{s0-s7}}",
        "2:",
        "subs r1, #1",
        "bne 1b",
        "vpop {{d8-d15}}",
        "pop {{r0, r4-r11, pc}}",
        "3:",
        leave_to!("{far}"),
        "b 2b",
        far = sym silu_far,
    )
}

/// `x = max(x, 0) + ln(1 + e^-|x|)`, block after block.
///
/// # Safety
/// `x` points to `blocks` blocks, at least one.
#[unsafe(naked)]
unsafe extern "C" fn softplus_blocks(x: *mut [f32; BLOCK], blocks: usize, constants: &Constants) {
    naked_asm!(
        CORE!(),
        "push {{r0, r4-r11, lr}}",
        "vpush {{d8-d15}}",
        "adds r2, #16",
        "mov r3, #0x3f800000",
        "1:",
        "vldmia r0, {{s0-s7}}",
        eight!("vabs.f32": "s0, s0" "s1, s1" "s2, s2" "s3, s3" "s4, s4" "s5, s5" "s6, s6" "s7, s7"),
        eight!("vneg.f32": "s0, s0" "s1, s1" "s2, s2" "s3, s3" "s4, s4" "s5, s5" "s6, s6" "s7, s7"),
        exponentials!("3f"),
        // s = e / (2 + e) in s0-s7, its square in s8-s15.
        "vmov.f32 s8, #2.0",
        eight!("vadd.f32": "s0, s8, s16" "s1, s8, s17" "s2, s8, s18" "s3, s8, s19"
            "s4, s8, s20" "s5, s8, s21" "s6, s8, s22" "s7, s8, s23"),
        eight!("vdiv.f32": "s0, s16, s0" "s1, s17, s1" "s2, s18, s2" "s3, s19, s3"
            "s4, s20, s4" "s5, s21, s5" "s6, s22, s6" "s7, s23, s7"),
        eight!("vmul.f32": "s8, s0, s0" "s9, s1, s1" "s10, s2, s2" "s11, s3, s3"
            "s12, s4, s4" "s13, s5, s5" "s14, s6, s6" "s15, s7, s7"),
        // The polynomial.
        "add r12, r2, #192", // [`Constants::ln_1p`]
        "vldr s24, [r12]",
        "adds r12, #32",
        "vldmia r12!, {{s16-s23}}",
        eight!("vmla.f32": "s16, s8, s24" "s17, s9, s24" "s18, s10, s24" "s19, s11, s24"
            "s20, s12, s24" "s21, s13, s24" "s22, s14, s24" "s23, s15, s24"),
        "vldmia r12!, {{s24-s31}}",
        eight!("vmla.f32": "s24, s8, s16" "s25, s9, s17" "s26, s10, s18" "s27, s11, s19"
            "s28, s12, s20" "s29, s13, s21" "s30, s14, s22" "s31, s15, s23"),
        "vldmia r12!, {{s16-s23}}",
        eight!("vmla.f32": "s16, s8, s24" "s17, s9, s25" "s18, s10, s26" "s19, s11, s27"
            "s20, s12, s28" "s21, s13, s29" "s22, s14, s30" "s23, s15, s31"),
        // (s + s) + s · (s² · polynomial)
        eight!("vmul.f32": "s16, s8, s16" "s17, s9, s17" "s18, s10, s18" "s19, s11, s19"
            "s20, s12, s20" "s21, s13, s21" "s22, s14, s22" "s23, s15, s23"),
        eight!("vadd.f32": "s8, s0, s0" "s9, s1, s1" "s10, s2, s2" "s11, s3, s3"
            "s12, s4, s4" "s13, s5, s5" "s14, s6, s6" "s15, s7, s7"),
        eight!("vmla.f32": "s8, s0, s16" "s9, s1, s17" "s10, s2, s18" "s11, s3, s19"
            "s12, s4, s20" "s13, s5, s21" "s14, s6, s22" "s15, s7, s23"),
        "ldmia r0, {{r4-r11}}",
        eight!("bic": "r4, r4, r4, asr #31" "r5, r5, r5, asr #31" "r6, r6, r6, asr #31" "r7, r7, r7, asr #31"
            "r8, r8, r8, asr #31" "r9, r9, r9, asr #31" "r10, r10, r10, asr #31" "r11, r11, r11, asr #31"),
        "vmov d0, r4, r5", "vmov d1, r6, r7", "vmov d2, r8, r9", "vmov d3, r10, r11",
        eight!("vadd.f32": "s8, s0, s8" "s9, s1, s9" "s10, s2, s10" "s11, s3, s11"
            "s12, s4, s12" "s13, s5, s13" "s14, s6, s14" "s15, s7, s15"),
        "vstmia r0!, {{s8-s15}}",
        "2:",
        "subs r1, #1",
        "bne 1b",
        "vpop {{d8-d15}}",
        "pop {{r0, r4-r11, pc}}",
        "3:",
        leave_to!("{far}"),
        "b 2b",
        far = sym softplus_far,
    )
}
