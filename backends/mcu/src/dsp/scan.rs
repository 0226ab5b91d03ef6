//! The selective scan of Mamba-1: a decay per state element.
//!
//! Eight elements go through each instruction sequence together. The exponent `-dt · a` is at least 0, since `a` is
//! negative, and mostly below one half: then the power needs no scaling, and the instructions for it are left out.

use super::exp2::{BLOCK, CONSTANTS, Constants, eight, polynomial};
use core::arch::naked_asm;
use sarit_core::kernels::{RowSink, Scan};
use sarit_core::math;

/// Whether [`scan`] takes states of this shape: the lanes of more than 16 elements would need more registers.
pub(super) fn takes(p: &Scan<'_>) -> bool {
    p.head_dim == 1 && (p.d_state == BLOCK || p.d_state == 2 * BLOCK)
}

/// See [`sarit_core::Kernels::scan`]; `a_log2` is `[heads][d_state]`.
pub(super) fn scan(p: &Scan<'_>, a_log2: &[f32], state: &mut [f32], y: &mut impl RowSink) {
    let (n, channels) = (p.d_state, p.heads / p.n_groups);
    assert!(takes(p));
    for t in 0..p.x.count() {
        for group in 0..p.n_groups {
            let these = group * channels..(group + 1) * channels;
            let elements = these.start * n..these.end * n;
            let mut channels = Channels {
                a_log2: a_log2[elements.clone()].as_ptr(),
                h: state[elements].as_mut_ptr(),
                dt: p.dt.row(t)[these.clone()].as_ptr(),
                x: p.x.row(t)[these.clone()].as_ptr(),
                d: p.d[these.clone()].as_ptr(),
                y: y.row(t)[these].as_mut_ptr(),
                b: p.b.row(t)[group * n..(group + 1) * n].as_ptr(),
                c: p.c.row(t)[group * n..(group + 1) * n].as_ptr(),
                constants: &CONSTANTS,
                blocks: n / BLOCK,
                channels,
                work: [0; 6],
            };
            // SAFETY: the slices hold so many channels, which are at least one.
            unsafe { step_channels(&mut channels) };
        }
    }
}

/// Operands of [`step_channels`], which moves the pointers on.
#[repr(C)]
struct Channels {
    a_log2: *const f32,
    h: *mut f32,
    dt: *const f32,
    x: *const f32,
    d: *const f32,
    y: *mut f32,
    b: *const f32,
    c: *const f32,
    constants: &'static Constants,
    /// Of 8 elements of a channel, 1 or 2.
    blocks: usize,
    /// At least 1.
    channels: usize,
    /// `-dt`, `dt · x`, `x`, blocks left, and the places in b and c.
    work: [u32; 6],
}

/// `2^-t` for exponents beyond those that [`step_channels`] takes.
extern "C" fn exp2_far(t: &mut [f32; BLOCK]) {
    *t = t.map(|t| math::exp2(-t));
}

/// `h = exp2(dt · a) · h + (dt · x) · b`, `y = c · h + d · x`, channel after channel.
///
/// # Safety
/// The pointers of `p` reach to the last channel.
#[unsafe(naked)]
unsafe extern "C" fn step_channels(p: &mut Channels) {
    naked_asm!(
        CORE!(),
        "push {{r0, r4-r11, lr}}",
        "vpush {{d8-d15}}",
        "ldrd r1, r2, [r0]",   // a, h
        "mov r3, #0x3f800000", // 1.0
        "1:",
        "ldrd r4, r5, [r0, #8]",
        "vldmia r4!, {{s0}}", // dt
        "vldmia r5!, {{s2}}", // x
        "strd r4, r5, [r0, #8]",
        "vmul.f32 s1, s0, s2",
        "vneg.f32 s0, s0",
        "add r4, r0, #44",
        "vstmia r4, {{s0-s2}}",
        "ldr r4, [r0, #36]",
        "str r4, [r0, #56]",
        "ldrd r4, r5, [r0, #24]",
        "strd r4, r5, [r0, #60]",
        "movs r4, #0",
        "vmov d12, r4, r4", "vmov d13, r4, r4", "vmov d14, r4, r4", "vmov d15, r4, r4",
        // t = -dt · a; n = round(t) in r4-r11.
        "2:",
        "vldmia r1!, {{s0-s7}}",
        "vldr s16, [r0, #44]",
        eight!("vmul.f32": "s0, s0, s16" "s1, s1, s16" "s2, s2, s16" "s3, s3, s16"
            "s4, s4, s16" "s5, s5, s16" "s6, s6, s16" "s7, s7, s16"),
        eight!("vcvtr.s32.f32": "s8, s0" "s9, s1" "s10, s2" "s11, s3" "s12, s4" "s13, s5" "s14, s6" "s15, s7"),
        "vmov r4, r5, d4", "vmov r6, r7, d5", "vmov r8, r9, d6", "vmov r10, r11, d7",
        "orr r12, r4, r5", "orr lr, r6, r7", "orr r12, r8", "orr lr, r9", "orr r12, r10", "orr lr, r11",
        "orrs r12, lr",
        "bne 3f",
        // All n are 0.
        "ldr r12, [r0, #32]",
        "vldr s16, [r12]",
        "adds r12, #16",
        polynomial!("vmls", "r12"),
        "b 4f",
        "3:",
        "cmp r12, #64",
        "bhs 5f",
        eight!("vcvt.f32.s32": "s8, s8" "s9, s9" "s10, s10" "s11, s11" "s12, s12" "s13, s13" "s14, s14" "s15, s15"),
        eight!("vsub.f32": "s0, s0, s8" "s1, s1, s9" "s2, s2, s10" "s3, s3, s11"
            "s4, s4, s12" "s5, s5, s13" "s6, s6, s14" "s7, s7, s15"),
        "ldr r12, [r0, #32]",
        "vldr s16, [r12]",
        "adds r12, #16",
        polynomial!("vmls", "r12"),
        "sub r4, r3, r4, lsl #23", "sub r5, r3, r5, lsl #23", "sub r6, r3, r6, lsl #23", "sub r7, r3, r7, lsl #23",
        "sub r8, r3, r8, lsl #23", "sub r9, r3, r9, lsl #23", "sub r10, r3, r10, lsl #23", "sub r11, r3, r11, lsl #23",
        "vmov d4, r4, r5", "vmov d5, r6, r7", "vmov d6, r8, r9", "vmov d7, r10, r11",
        eight!("vmul.f32": "s16, s16, s8" "s17, s17, s9" "s18, s18, s10" "s19, s19, s11"
            "s20, s20, s12" "s21, s21, s13" "s22, s22, s14" "s23, s23, s15"),
        // The decays are in s16-s23.
        "4:",
        "vldmia r2, {{s0-s7}}",
        eight!("vmul.f32": "s0, s0, s16" "s1, s1, s17" "s2, s2, s18" "s3, s3, s19"
            "s4, s4, s20" "s5, s5, s21" "s6, s6, s22" "s7, s7, s23"),
        "ldrd r4, r5, [r0, #60]",
        "vldmia r4!, {{s8-s15}}",
        "vldr s16, [r0, #48]",
        eight!("vmla.f32": "s0, s8, s16" "s1, s9, s16" "s2, s10, s16" "s3, s11, s16"
            "s4, s12, s16" "s5, s13, s16" "s6, s14, s16" "s7, s15, s16"),
        "vstmia r2!, {{s0-s7}}",
        "vldmia r5!, {{s8-s15}}",
        // Lanes i and i + 8 of a channel add to one register: `fold` begins with that.
        eight!("vmla.f32": "s24, s0, s8" "s25, s1, s9" "s26, s2, s10" "s27, s3, s11"
            "s28, s4, s12" "s29, s5, s13" "s30, s6, s14" "s31, s7, s15"),
        "ldr r12, [r0, #56]",
        "strd r4, r5, [r0, #60]",
        "subs r12, #1",
        "str r12, [r0, #56]",
        "bne 2b",
        "vadd.f32 s24, s24, s28", "vadd.f32 s25, s25, s29", "vadd.f32 s26, s26, s30", "vadd.f32 s27, s27, s31",
        "vadd.f32 s24, s24, s26", "vadd.f32 s25, s25, s27",
        "vadd.f32 s24, s24, s25",
        "ldrd r4, r5, [r0, #16]",
        "vldmia r4!, {{s0}}",
        "vldr s1, [r0, #52]",
        "vmla.f32 s24, s0, s1",
        "vstmia r5!, {{s24}}",
        "strd r4, r5, [r0, #16]",
        "ldr r12, [r0, #40]",
        "subs r12, #1",
        "str r12, [r0, #40]",
        "bne 1b",
        "vpop {{d8-d15}}",
        "pop {{r0, r4-r11, pc}}",
        // Far exponents, through memory.
        "5:",
        "sub sp, #32",
        "vstmia sp, {{s0-s7}}",
        "mov r4, r0", "mov r5, r1", "mov r6, r2", "mov r7, r3",
        "mov r0, sp",
        "bl {far}",
        "mov r0, r4", "mov r1, r5", "mov r2, r6", "mov r3, r7",
        "vldmia sp, {{s16-s23}}",
        "add sp, #32",
        "b 4b",
        far = sym exp2_far,
    )
}
