//! The selective scan of Mamba-1: a decay per state element.
//!
//! Eight elements go through each instruction sequence together. The exponent `-dt · a` is at least 0, since `a` is
//! negative, and mostly below one half: then the power needs no scaling, and the instructions for it are left out. To
//! see that of eight at once, the polynomial is one in four times the exponent (a power of two changes no rounding):
//! that is below 2 where bit 30 of a float is 0.

use super::exp2::{BLOCK, Coefficients, ROUND, eight, polynomial};
use core::arch::naked_asm;
use core::mem::offset_of;
use sarit_core::kernels::{RowSink, Scan};
use sarit_core::math;

/// Factor on the exponent.
const FACTOR: f32 = 4.0;

/// The polynomial in [`FACTOR`] times the exponent: [`math::EXP2`], each coefficient divided by that to its power.
const SCALED: [f32; math::EXP2.len()] = {
    let (mut scaled, mut i, mut divisor) = (math::EXP2, math::EXP2.len(), 1.0);
    while i > 0 {
        i -= 1;
        scaled[i] /= divisor;
        divisor *= FACTOR;
    }
    scaled
};

/// What the loop reads for a channel, in this order: the coefficients once for each block of the most that it has.
#[repr(C)]
struct Constants {
    zeros: [f32; BLOCK],
    coefficients: [Coefficients; BLOCKS],
}

static CONSTANTS: Constants =
    Constants { zeros: [0.0; BLOCK], coefficients: [Coefficients::new(&SCALED); BLOCKS] };

/// Blocks of a channel's state at most: the lanes of more than 16 elements would need more registers.
const BLOCKS: usize = 2;

/// Whether [`scan`] takes states of this shape.
pub(super) fn takes(p: &Scan<'_>) -> bool {
    p.head_dim == 1 && (p.d_state == BLOCK || p.d_state == BLOCKS * BLOCK)
}

/// See [`sarit_core::Kernels::scan`]; `a_log2` is `[heads][d_state]`.
#[inline(never)]
pub(super) fn scan(p: &Scan<'_>, a_log2: &[f32], state: &mut [f32], y: &mut impl RowSink) {
    let (n, heads, channels) = (p.d_state, p.heads, p.heads / p.n_groups);
    assert!(takes(p) && channels > 0 && channels * p.n_groups == heads && p.d.len() == heads);
    assert!(a_log2.len() == heads * n && state.len() == heads * n);
    assert!(p.dt.cols() == heads && p.x.cols() == heads);
    assert!(p.b.cols() == p.n_groups * n && p.c.cols() == p.n_groups * n);
    for t in 0..p.x.count() {
        let y = y.row(t);
        assert!(y.len() == heads);
        let mut work = Channels {
            a_log2: a_log2.as_ptr(),
            h: state.as_mut_ptr(),
            dt: p.dt.row(t).as_ptr(),
            x: p.x.row(t).as_ptr(),
            d: p.d.as_ptr(),
            y: y.as_mut_ptr(),
            b: p.b.row(t).as_ptr(),
            channels,
            c: p.c.row(t).as_ptr(),
            blocks: n / BLOCK,
            constants: &CONSTANTS,
        };
        for _ in 0..p.n_groups {
            // SAFETY: all of these hold so many groups of so many channels, which are at least one, of so many blocks.
            unsafe { step_channels(&mut work) };
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
    /// At least 1.
    channels: usize,
    c: *const f32,
    /// Of a channel's state, at most [`BLOCKS`].
    blocks: usize,
    constants: &'static Constants,
}

/// What eight elements of the state are taken with, on the stack.
#[repr(C)]
struct Shared {
    b: [f32; BLOCK],
    /// Of the channel.
    dt_x: f32,
    c: [f32; BLOCK],
    /// `-4 · dt` of the channel, for the next eight.
    t: f32,
}

/// `2^(-t / 4)` for exponents beyond those that [`step_channels`] takes itself.
extern "C" fn exp2_far(t: &mut [f32; BLOCK]) {
    t.iter_mut().for_each(|t| *t = math::exp2(*t * (-1.0 / FACTOR)));
}

/// Two powers, in `$d`, times `2^-n` of the two n at `$at`.
macro_rules! scale {
    ($at:literal, $d:literal) => {
        concat!(
            "ldrd r10, r11, [sp, #{n} + ",
            $at,
            "]\n",
            "vmov r12, r9, ",
            $d,
            "\n",
            "sub r12, r12, r10, lsl #23\n",
            "sub r9, r9, r11, lsl #23\n",
            "vmov ",
            $d,
            ", r12, r9\n",
        )
    };
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
        "sub sp, #{frame}",
        "add r12, r0, #{blocks}",
        "ldm r12, {{r11, lr}}", // blocks, constants
        "str lr, [sp, #{constants}]",
        "ldm r0, {{r0-r8}}", // a_log2, h, dt, x, d, y, b, channels, c
        "mov lr, sp",
        "1:",
        "vldmia r6!, {{s0-s7}}",
        "vstmia lr!, {{s0-s8}}",
        "vldmia r8!, {{s0-s7}}",
        "vstmia lr!, {{s0-s8}}",
        "subs r11, #1",
        "bne 1b",
        "ldr r12, [sp, #{channels}]",
        "str r6, [r12, #{b}]",
        "str r8, [r12, #{c}]",
        // A channel: -4 · dt and dt · x beside B and C; the lanes i and i + 8 add to one register, as `fold` begins.
        "2:",
        "vldmia r2!, {{s8}}",
        "vldmia r3!, {{s9}}",
        "vmov.f32 s10, #4.0",
        "vnmul.f32 s16, s8, s10",
        "vmul.f32 s17, s8, s9",
        "vstr s16, [sp, #{t}]",
        "vstr s17, [sp, #{dt_x}]",
        "vstr s17, [sp, #{shared} + {dt_x}]",
        "mov r6, sp",
        "ldr r8, [sp, #{constants}]",
        "vldmia r8!, {{s24-s31}}",
        // Eight elements: t = -4 · dt · a.
        "3:",
        "vldmia r0!, {{s0-s7}}",
        eight!("vmul.f32": "s0, s0, s16" "s1, s1, s16" "s2, s2, s16" "s3, s3, s16"
            "s4, s4, s16" "s5, s5, s16" "s6, s6, s16" "s7, s7, s16"),
        "vmov r9, r10, d0", "vmov r11, r12, d1",
        "orr r9, r10", "orr r11, r12",
        "vmov r10, r12, d2",
        "orr r9, r10", "orr r11, r12",
        "vmov r10, r12, d3",
        "orr r9, r10", "orr r11, r12",
        "orr r9, r11",
        "cmp r9, #0x40000000", // 2.0
        "bhs 6f",
        polynomial!("vmls", "r8"),
        // The decays are in s16-s23.
        "4:",
        "vldmia r1, {{s0-s7}}",
        eight!("vmul.f32": "s0, s0, s16" "s1, s1, s17" "s2, s2, s18" "s3, s3, s19"
            "s4, s4, s20" "s5, s5, s21" "s6, s6, s22" "s7, s7, s23"),
        "vldmia r6!, {{s8-s16}}",
        eight!("vmla.f32": "s0, s8, s16" "s1, s9, s16" "s2, s10, s16" "s3, s11, s16"
            "s4, s12, s16" "s5, s13, s16" "s6, s14, s16" "s7, s15, s16"),
        "vstmia r1!, {{s0-s7}}",
        "vldmia r6!, {{s8-s16}}",
        eight!("vmla.f32": "s24, s0, s8" "s25, s1, s9" "s26, s2, s10" "s27, s3, s11"
            "s28, s4, s12" "s29, s5, s13" "s30, s6, s14" "s31, s7, s15"),
        "cmp r6, lr",
        "bne 3b",
        "vadd.f32 s24, s24, s28", "vadd.f32 s25, s25, s29", "vadd.f32 s26, s26, s30", "vadd.f32 s27, s27, s31",
        "vadd.f32 s24, s24, s26", "vadd.f32 s25, s25, s27",
        "vadd.f32 s24, s24, s25",
        "vldmia r4!, {{s0}}",
        "vldr s1, [r3, #-4]",
        "vmla.f32 s24, s0, s1",
        "vstmia r5!, {{s24}}",
        "subs r7, #1",
        "bne 2b",
        "ldr r12, [sp, #{channels}]",
        "stm r12, {{r0-r5}}",
        "add sp, #{frame}",
        "vpop {{d8-d15}}",
        "pop {{r0, r4-r11, pc}}",
        // Exponents of which one is 2 or more: t - 4 n for n = round(t / 4), and n to the stack. Where none is negative,
        // the sum of all tells whether one is far out.
        "6:",
        "cmp r9, #0",
        "bmi 8f",
        "vadd.f32 s8, s0, s1", "vadd.f32 s9, s2, s3", "vadd.f32 s10, s4, s5", "vadd.f32 s11, s6, s7",
        "vadd.f32 s8, s8, s9", "vadd.f32 s10, s10, s11", "vadd.f32 s8, s8, s10",
        "vmov r10, s8",
        "cmp r10, #0x43800000", // 256.0
        "bhs 8f",
        "vldr s16, 9f",
        eight!("vadd.f32": "s8, s0, s16" "s9, s1, s16" "s10, s2, s16" "s11, s3, s16"
            "s12, s4, s16" "s13, s5, s16" "s14, s6, s16" "s15, s7, s16"),
        "add r10, sp, #{n}",
        "vstmia r10, {{s8-s15}}",
        eight!("vsub.f32": "s8, s8, s16" "s9, s9, s16" "s10, s10, s16" "s11, s11, s16"
            "s12, s12, s16" "s13, s13, s16" "s14, s14, s16" "s15, s15, s16"),
        eight!("vsub.f32": "s0, s0, s8" "s1, s1, s9" "s2, s2, s10" "s3, s3, s11"
            "s4, s4, s12" "s5, s5, s13" "s6, s6, s14" "s7, s7, s15"),
        polynomial!("vmls", "r8"),
        // 2^-n times their powers, by the exponents' bits.
        scale!("0", "d8"),
        scale!("8", "d9"),
        scale!("16", "d10"),
        scale!("24", "d11"),
        "b 4b",
        // Far out, through memory.
        "8:",
        "add r10, sp, #{n}",
        "vstmia r10, {{s0-s7}}",
        "push {{r0-r3, r10, lr}}",
        "mov r0, r10",
        "bl {far}",
        "pop {{r0-r3, r10, lr}}",
        "vldmia r10, {{s16-s23}}",
        "add r8, #{coefficients}",
        "b 4b",
        ".p2align 2",
        "9:",
        ".word {round}",
        far = sym exp2_far,
        b = const offset_of!(Channels, b),
        c = const offset_of!(Channels, c),
        blocks = const offset_of!(Channels, blocks),
        dt_x = const offset_of!(Shared, dt_x),
        t = const offset_of!(Shared, t),
        shared = const size_of::<Shared>(),
        n = const BLOCKS * size_of::<Shared>(),
        constants = const BLOCKS * size_of::<Shared>() + size_of::<[f32; BLOCK]>(),
        frame = const BLOCKS * size_of::<Shared>() + size_of::<[f32; BLOCK]>() + 8,
        channels = const BLOCKS * size_of::<Shared>() + size_of::<[f32; BLOCK]>() + 8 + 8 * size_of::<f64>(),
        coefficients = const size_of::<Coefficients>(),
        round = const (FACTOR * ROUND).to_bits(), // added to t, it rounds that to 4 n, and n stands in the low bits
    )
}
