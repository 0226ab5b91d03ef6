//! Functions of eight numbers at a time that are made of exponentials.

use super::exp2::{BLOCK, CONSTANTS, Constants, eight, polynomial};
use core::arch::naked_asm;
use core::mem::offset_of;
use core::ptr::null_mut;
use sarit_core::math;

/// `s16..=s23 = e^-x` for `x` in `s0..=s7`, by the steps of [`math::exp`] with all signs turned; goes to `$far` where the
/// squares of `x` add up to 87² or more, so that a power of two might not be a normal number. `r2` points to
/// [`Constants::coefficients`]; uses `r4..=r12`, `lr` and `s8..=s28`.
macro_rules! exponentials {
    ($far:literal) => {
        concat!(
            "vmul.f32 s16, s0, s0\n",
            "vmla.f32 s16, s1, s1\nvmla.f32 s16, s2, s2\nvmla.f32 s16, s3, s3\nvmla.f32 s16, s4, s4\n",
            "vmla.f32 s16, s5, s5\nvmla.f32 s16, s6, s6\nvmla.f32 s16, s7, s7\n",
            "vmov r12, s16\n",
            "cmp r12, r11\n",
            "bhs ", $far, "\n",
            // n = round(-x · log2(e)): its bits in r4-r11, -n in s8-s15.
            "sub r12, r2, #{coefficients}\n",
            "vldmia r12!, {{s8-s15}}\n",
            "vmov.f32 s28, s8\n",
            "vldmia r12!, {{s25-s27}}\n",
            eight!("vmls.f32": "s8, s0, s25" "s9, s1, s25" "s10, s2, s25" "s11, s3, s25"
                "s12, s4, s25" "s13, s5, s25" "s14, s6, s25" "s15, s7, s25"),
            "vmov r4, r5, d4\n", "vmov r6, r7, d5\n", "vmov r8, r9, d6\n", "vmov r10, r11, d7\n",
            eight!("vsub.f32": "s8, s28, s8" "s9, s28, s9" "s10, s28, s10" "s11, s28, s11"
                "s12, s28, s12" "s13, s28, s13" "s14, s28, s14" "s15, s28, s15"),
            // -f = ((x + n · high) + n · low) · log2(e)
            eight!("vmls.f32": "s0, s8, s26" "s1, s9, s26" "s2, s10, s26" "s3, s11, s26"
                "s4, s12, s26" "s5, s13, s26" "s6, s14, s26" "s7, s15, s26"),
            eight!("vmls.f32": "s0, s8, s27" "s1, s9, s27" "s2, s10, s27" "s3, s11, s27"
                "s4, s12, s27" "s5, s13, s27" "s6, s14, s27" "s7, s15, s27"),
            eight!("vmul.f32": "s0, s0, s25" "s1, s1, s25" "s2, s2, s25" "s3, s3, s25"
                "s4, s4, s25" "s5, s5, s25" "s6, s6, s25" "s7, s7, s25"),
            polynomial!("vmls", "r12"),
            exponentials!(@scale "d8", "r4", "r5"),
            exponentials!(@scale "d9", "r6", "r7"),
            exponentials!(@scale "d10", "r8", "r9"),
            exponentials!(@scale "d11", "r10", "r11"),
        )
    };
    // Two numbers times 2^n, by their exponents' bits.
    (@scale $d:literal, $n0:literal, $n1:literal) => {
        concat!(
            "vmov r12, lr, ", $d, "\n",
            "add r12, r12, ", $n0, ", lsl #23\n",
            "add lr, lr, ", $n1, ", lsl #23\n",
            "vmov ", $d, ", r12, lr\n",
        )
    };
}

/// `x = silu(x)` for every number.
pub(super) fn silu(x: &mut [[f32; BLOCK]]) {
    if !x.is_empty() {
        // SAFETY: `x` holds that many blocks.
        unsafe { silu_blocks(x.as_mut_ptr(), x.len(), &CONSTANTS, null_mut()) };
    }
}

/// `y = y · silu(x)` for every number.
pub(super) fn gate(x: &[[f32; BLOCK]], y: &mut [[f32; BLOCK]]) {
    assert!(x.len() == y.len());
    if !x.is_empty() {
        // SAFETY: `x` and `y` hold that many blocks; with a gate, `x` is only read.
        unsafe { silu_blocks(x.as_ptr().cast_mut(), x.len(), &CONSTANTS, y.as_mut_ptr()) };
    }
}

/// `x = softplus(x + bias)` for every number.
pub(super) fn softplus(x: &mut [[f32; BLOCK]], bias: &[[f32; BLOCK]]) {
    assert!(x.len() == bias.len());
    if !x.is_empty() {
        // SAFETY: `x` and `bias` hold that many blocks.
        unsafe { softplus_blocks(x.as_mut_ptr(), x.len(), &CONSTANTS, bias.as_ptr()) };
    }
}

/// # Safety
/// `x` points to a block, and so does `y` or is null.
unsafe extern "C" fn silu_far(x: *mut [f32; BLOCK], y: *mut [f32; BLOCK]) {
    // SAFETY: as this function asks.
    unsafe {
        match y.as_mut() {
            Some(y) => y.iter_mut().zip(&*x).for_each(|(y, x)| *y *= math::silu(*x)),
            None => (*x).iter_mut().for_each(|x| *x = math::silu(*x)),
        }
    }
}

extern "C" fn softplus_far(x: &mut [f32; BLOCK]) {
    x.iter_mut().for_each(|x| *x = math::softplus(*x));
}

/// The bits of 87², below which [`exponentials`] are taken.
const NEAR: u32 = (87.0f32 * 87.0).to_bits();

/// `x = x / (1 + e^-x)`, or `y = y · x / (1 + e^-x)` where `y` is not null, block after block.
///
/// # Safety
/// `x`, and `y` if it is not null, point to `blocks` blocks, at least one; with `y`, `x` is only read.
#[unsafe(naked)]
unsafe extern "C" fn silu_blocks(
    x: *mut [f32; BLOCK],
    blocks: usize,
    constants: &Constants,
    y: *mut [f32; BLOCK],
) {
    naked_asm!(
        CORE!(),
        "push {{r0, r4-r11, lr}}",
        "vpush {{d8-d15}}",
        "adds r2, #{coefficients}",
        "1:",
        "ldr r11, 5f",
        "vldmia r0, {{s0-s7}}",
        exponentials!("3f"),
        "vmov.f32 s8, #1.0",
        eight!("vadd.f32": "s16, s16, s8" "s17, s17, s8" "s18, s18, s8" "s19, s19, s8"
            "s20, s20, s8" "s21, s21, s8" "s22, s22, s8" "s23, s23, s8"),
        "vldmia r0!, {{s0-s7}}",
        eight!("vdiv.f32": "s0, s0, s16" "s1, s1, s17" "s2, s2, s18" "s3, s3, s19"
            "s4, s4, s20" "s5, s5, s21" "s6, s6, s22" "s7, s7, s23"),
        "cmp r3, #0",
        "beq 4f",
        "vldmia r3, {{s8-s15}}",
        eight!("vmul.f32": "s0, s8, s0" "s1, s9, s1" "s2, s10, s2" "s3, s11, s3"
            "s4, s12, s4" "s5, s13, s5" "s6, s14, s6" "s7, s15, s7"),
        "vstmia r3!, {{s0-s7}}",
        "2:",
        "subs r1, #1",
        "bne 1b",
        "vpop {{d8-d15}}",
        "pop {{r0, r4-r11, pc}}",
        "4:",
        "sub r12, r0, #32",
        "vstmia r12, {{s0-s7}}",
        "b 2b",
        "3:",
        "mov r4, r0", "mov r5, r1", "mov r6, r2", "mov r7, r3",
        "mov r1, r3",
        "bl {far}",
        "add r0, r4, #32", "mov r1, r5", "mov r2, r6", "mov r3, r7",
        "cmp r3, #0",
        "it ne",
        "addne r3, #32",
        "b 2b",
        ".p2align 2",
        "5:",
        ".word {near}",
        far = sym silu_far,
        near = const NEAR,
        coefficients = const offset_of!(Constants, coefficients),
    )
}

/// `x = max(x, 0) + ln(1 + e^-|x|)` with `x + bias` for `x`, block after block.
///
/// # Safety
/// `x` and `bias` point to `blocks` blocks, at least one.
#[unsafe(naked)]
unsafe extern "C" fn softplus_blocks(
    x: *mut [f32; BLOCK],
    blocks: usize,
    constants: &Constants,
    bias: *const [f32; BLOCK],
) {
    naked_asm!(
        CORE!(),
        "push {{r0, r4-r11, lr}}",
        "vpush {{d8-d15}}",
        "adds r2, #{coefficients}",
        "1:",
        "ldr r11, 5f",
        "vldmia r0, {{s0-s7}}",
        "vldmia r3!, {{s8-s15}}",
        eight!("vadd.f32": "s0, s0, s8" "s1, s1, s9" "s2, s2, s10" "s3, s3, s11"
            "s4, s4, s12" "s5, s5, s13" "s6, s6, s14" "s7, s7, s15"),
        "vstmia r0, {{s0-s7}}",
        eight!("vabs.f32": "s0, s0" "s1, s1" "s2, s2" "s3, s3" "s4, s4" "s5, s5" "s6, s6" "s7, s7"),
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
        "add r12, r2, #{ln_1p} - {coefficients}",
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
        "mov r4, r0", "mov r5, r1", "mov r6, r2", "mov r7, r3",
        "bl {far}",
        "add r0, r4, #32", "mov r1, r5", "mov r2, r6", "mov r3, r7",
        "b 2b",
        ".p2align 2",
        "5:",
        ".word {near}",
        far = sym softplus_far,
        near = const NEAR,
        coefficients = const offset_of!(Constants, coefficients),
        ln_1p = const offset_of!(Constants, ln_1p),
    )
}
