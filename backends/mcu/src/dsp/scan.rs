//! The selective scan of Mamba-1: a decay per state element.
//!
//! Eight elements go through each instruction sequence together. The exponent `-dt · a` is at least 0, since `a` is
//! negative, and mostly below one half: then the power needs no scaling, and the instructions for it are left out. To
//! see that of eight at once, the polynomial is one in four times the exponent (a power of two changes no rounding):
//! that is below 2 where bit 30 of a float is 0.

use super::exp2::{BLOCK, Coefficients, eight, polynomial};
use core::arch::naked_asm;
use core::mem::offset_of;
use sarit_core::kernels::{RowSink, Scan};
use sarit_core::math::{self, ROUND};

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
    factor: f32,
    zeros: [f32; BLOCK],
    coefficients: [Coefficients; BLOCKS],
}

static CONSTANTS: Constants =
    Constants { factor: FACTOR, zeros: [0.0; BLOCK], coefficients: [Coefficients::new(&SCALED); BLOCKS] };

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
            constants: &CONSTANTS,
        };
        for _ in 0..p.n_groups {
            // SAFETY: all of these hold so many groups of so many channels, which are at least one, of so many blocks.
            unsafe {
                match n {
                    BLOCK => step_channels::<1>(&mut work),
                    _ => step_channels::<BLOCKS>(&mut work),
                }
            }
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

/// Eight elements of the state, on which the registers are moved on, with the decays from `$decays` on in `s16..=s23`;
/// goes to `$beyond` where an exponent is 2 or more, or negative.
macro_rules! eight_elements {
    ($decays:literal, $beyond:literal) => {
        concat!(
            // t = -4 · dt · a
            "vldmia r0!, {{s0-s7}}\n",
            eight!("vmul.f32": "s0, s0, s16" "s1, s1, s16" "s2, s2, s16" "s3, s3, s16"
                "s4, s4, s16" "s5, s5, s16" "s6, s6, s16" "s7, s7, s16"),
            "vmov r9, r10, d0\nvmov r11, r12, d1\n",
            "orr r9, r10\norr r11, r12\n",
            "vmov r10, r12, d2\n",
            "orr r9, r10\norr r11, r12\n",
            "vmov r10, r12, d3\n",
            "orr r9, r10\norr r11, r12\n",
            "orr r9, r11\n",
            "cmp r9, #0x40000000\n", // 2.0
            "bhs ", $beyond, "f\n",
            polynomial!("vmls", "r8"),
            $decays, ":\n",
            "vldmia r1, {{s0-s7}}\n",
            eight!("vmul.f32": "s0, s0, s16" "s1, s1, s17" "s2, s2, s18" "s3, s3, s19"
                "s4, s4, s20" "s5, s5, s21" "s6, s6, s22" "s7, s7, s23"),
            "vldmia r6!, {{s8-s16}}\n",
            eight!("vmla.f32": "s0, s8, s16" "s1, s9, s16" "s2, s10, s16" "s3, s11, s16"
                "s4, s12, s16" "s5, s13, s16" "s6, s14, s16" "s7, s15, s16"),
            "vstmia r1!, {{s0-s7}}\n",
            "vldmia r6!, {{s8-s16}}\n",
            eight!("vmla.f32": "s24, s0, s8" "s25, s1, s9" "s26, s2, s10" "s27, s3, s11"
                "s28, s4, s12" "s29, s5, s13" "s30, s6, s14" "s31, s7, s15"),
        )
    };
}

/// The decays of eight exponents in `s0..=s7` that [`eight_elements`] leaves to `$beyond`; ends at its `$decays`.
macro_rules! beyond {
    ($decays:literal, $beyond:literal, $far:literal) => {
        concat!(
            // t - 4 n for n = round(t / 4), and n to the stack. Where no exponent is negative, the sum of all tells
            // whether one is far out.
            $beyond, ":\n",
            "blt ", $far, "f\n",
            "vadd.f32 s8, s0, s1\nvadd.f32 s9, s2, s3\nvadd.f32 s10, s4, s5\nvadd.f32 s11, s6, s7\n",
            "vadd.f32 s8, s8, s9\nvadd.f32 s10, s10, s11\nvadd.f32 s8, s8, s10\n",
            "vmov r10, s8\n",
            "cmp r10, #0x43800000\n", // 256.0
            "bhs ", $far, "f\n",
            "vldr s16, 9f\n",
            eight!("vadd.f32": "s8, s0, s16" "s9, s1, s16" "s10, s2, s16" "s11, s3, s16"
                "s12, s4, s16" "s13, s5, s16" "s14, s6, s16" "s15, s7, s16"),
            "add r10, sp, #{n}\n",
            "vstmia r10, {{s8-s15}}\n",
            eight!("vsub.f32": "s8, s8, s16" "s9, s9, s16" "s10, s10, s16" "s11, s11, s16"
                "s12, s12, s16" "s13, s13, s16" "s14, s14, s16" "s15, s15, s16"),
            eight!("vsub.f32": "s0, s0, s8" "s1, s1, s9" "s2, s2, s10" "s3, s3, s11"
                "s4, s4, s12" "s5, s5, s13" "s6, s6, s14" "s7, s7, s15"),
            polynomial!("vmls", "r8"),
            // 2^-n times their powers, by the exponents' bits.
            beyond!(@scale "0", "d8"),
            beyond!(@scale "8", "d9"),
            beyond!(@scale "16", "d10"),
            beyond!(@scale "24", "d11"),
            "b ", $decays, "b\n",
            // Far out, through memory.
            $far, ":\n",
            "add r10, sp, #{n}\n",
            "vstmia r10, {{s0-s7}}\n",
            "push {{r0-r3, r10, lr}}\n",
            "mov r0, r10\n",
            "bl {far}\n",
            "pop {{r0-r3, r10, lr}}\n",
            "vldmia r10, {{s16-s23}}\n",
            "add r8, #{coefficients}\n",
            "b ", $decays, "b\n",
        )
    };
    // Two powers, in `$d`, times `2^-n` of the two n at `$at`.
    (@scale $at:literal, $d:literal) => {
        concat!(
            "ldrd r10, r11, [sp, #{n} + ", $at, "]\n",
            "vmov r12, r9, ", $d, "\n",
            "sub r12, r12, r10, lsl #23\n",
            "sub r9, r9, r11, lsl #23\n",
            "vmov ", $d, ", r12, r9\n",
        )
    };
}

/// `h = exp2(dt · a) · h + (dt · x) · b`, `y = c · h + d · x`, channel after channel, for channels of `N` blocks of state.
///
/// # Safety
/// `N` is 1 or [`BLOCKS`], and the pointers of `p` reach to the last channel.
#[unsafe(naked)]
unsafe extern "C" fn step_channels<const N: usize>(p: &mut Channels) {
    naked_asm!(
        CORE!(),
        "push {{r0, r4-r11, lr}}",
        "vpush {{d8-d15}}",
        "sub sp, #{frame}",
        "ldr r12, [r0, #{constants_of}]",
        "str r12, [sp, #{constants}]",
        "ldm r0, {{r0-r8}}", // a_log2, h, dt, x, d, y, b, channels, c
        "mov lr, sp",
        ".rept {blocks}",
        "vldmia r6!, {{s0-s7}}",
        "vstmia lr!, {{s0-s8}}",
        "vldmia r8!, {{s0-s7}}",
        "vstmia lr!, {{s0-s8}}",
        ".endr",
        "ldr r12, [sp, #{channels}]",
        "str r6, [r12, #{b}]",
        "str r8, [r12, #{c}]",
        // A channel: -4 · dt and dt · x beside B and C; the lanes i and i + 8 add to one register, as `fold` begins.
        "2:",
        "ldr r8, [sp, #{constants}]",
        "vldmia r8!, {{s23-s31}}",
        "vldmia r2!, {{s8}}",
        "vldmia r3!, {{s9}}",
        "vnmul.f32 s16, s8, s23",
        "vmul.f32 s17, s8, s9",
        "vstr s17, [sp, #{dt_x}]",
        ".if {blocks} > 1",
        "vstr s16, [sp, #{t}]",
        "vstr s17, [sp, #{shared} + {dt_x}]",
        ".endif",
        "mov r6, sp",
        eight_elements!("3", "5"),
        ".if {blocks} > 1",
        eight_elements!("4", "7"),
        ".endif",
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
        beyond!("3", "5", "6"),
        ".p2align 2",
        "9:",
        ".word {round}",
        ".if {blocks} > 1",
        beyond!("4", "7", "8"),
        ".p2align 2",
        "9:",
        ".word {round}",
        ".endif",
        blocks = const N,
        far = sym exp2_far,
        b = const offset_of!(Channels, b),
        c = const offset_of!(Channels, c),
        constants_of = const offset_of!(Channels, constants),
        dt_x = const offset_of!(Shared, dt_x),
        t = const offset_of!(Shared, t),
        shared = const size_of::<Shared>(),
        n = const N * size_of::<Shared>(),
        constants = const N * size_of::<Shared>() + size_of::<[f32; BLOCK]>(),
        frame = const N * size_of::<Shared>() + size_of::<[f32; BLOCK]>() + 8,
        channels = const N * size_of::<Shared>() + size_of::<[f32; BLOCK]>() + 8 + 8 * size_of::<f64>(),
        coefficients = const size_of::<Coefficients>(),
        round = const (FACTOR * ROUND).to_bits(), // added to t, it rounds that to 4 n, and n stands in the low bits
    )
}
