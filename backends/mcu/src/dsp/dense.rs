//! Products of an f32 matrix with floats: the sixteen lanes of a row are sixteen registers.

use super::exp2::eight;
use core::arch::naked_asm;
use sarit_core::Dense;
use sarit_core::kernels::{LANES, RowSink, Rows};

/// See [`sarit_core::Kernels::matmul`].
#[inline(never)]
pub(super) fn matmul(w: &Dense<'_, f32>, x: Rows<'_>, y: &mut impl RowSink) {
    for t in 0..x.count() {
        let (x, y) = (x.row(t), &mut y.row(t)[..w.rows]);
        assert!(x.len() == w.cols && w.data.len() == w.rows * w.cols && w.rows > 0);
        if let Some(x) = x.as_array() {
            rows_of_four(w.data.as_chunks().0, x, y);
            continue;
        }
        let shape = Shape { rows: w.rows, whole: w.cols / LANES, rest: w.cols % LANES };
        // SAFETY: the slices have the lengths that `shape` says.
        unsafe { rows(w.data.as_ptr(), x.as_ptr(), y.as_mut_ptr(), &shape) };
    }
}

/// `y[r] = w[r] · x` for four columns.
fn rows_of_four(w: &[[f32; 4]], x: &[f32; 4], y: &mut [f32]) {
    assert!(w.len() == y.len());
    let (fours, rest) = w.as_chunks::<4>();
    if !fours.is_empty() {
        // SAFETY: `y` has four elements for each of these.
        unsafe { four_rows_of_four(fours.as_ptr(), x, y.as_mut_ptr(), fours.len()) };
    }
    for (w, y) in rest.iter().zip(&mut y[w.len() - rest.len()..]) {
        let lane = |i: usize| 0.0 + w[i] * x[i];
        *y = (lane(0) + lane(2)) + (lane(1) + lane(3));
    }
}

/// Rows of four columns, four at a time. Lanes that begin with a product in place of 0 plus that differ where all are
/// -0: for that 0 is added in the end.
///
/// # Safety
/// `w` points to `fours` times four rows, at least one, and `y` to as many sums.
#[unsafe(naked)]
unsafe extern "C" fn four_rows_of_four(w: *const [[f32; 4]; 4], x: &[f32; 4], y: *mut f32, fours: usize) {
    naked_asm!(
        CORE!(),
        "vpush {{d8-d11}}",
        "vldmia r1, {{s0-s3}}",
        "movs r1, #0",
        "vmov s4, r1",
        "1:",
        "vldmia r0!, {{s8-s23}}",
        eight!("vmul.f32": "s8, s8, s0" "s9, s9, s1" "s12, s12, s0" "s13, s13, s1"
            "s16, s16, s0" "s17, s17, s1" "s20, s20, s0" "s21, s21, s1"),
        eight!("vmla.f32": "s8, s10, s2" "s9, s11, s3" "s12, s14, s2" "s13, s15, s3"
            "s16, s18, s2" "s17, s19, s3" "s20, s22, s2" "s21, s23, s3"),
        eight!("vadd.f32": "s8, s8, s9" "s9, s12, s13" "s10, s16, s17" "s11, s20, s21"
            "s8, s8, s4" "s9, s9, s4" "s10, s10, s4" "s11, s11, s4"),
        "vstmia r2!, {{s8-s11}}",
        "subs r3, #1",
        "bne 1b",
        "vpop {{d8-d11}}",
        "bx lr",
    )
}

/// Of a matrix; its columns are `whole` times sixteen and `rest`.
#[repr(C)]
struct Shape {
    rows: usize,
    whole: usize,
    rest: usize,
}

/// Lane `$lane` of the columns at the end of a row.
macro_rules! last {
    ($lane:literal, $at:literal) => {
        concat!("vldr s16, [r0, #", $at, "]\nvldr s24, [r8, #", $at, "]\nvmla.f32 s", $lane, ", s16, s24\n")
    };
}

/// `y[r] = w[r] · x`.
///
/// # Safety
/// `w` is `[rows][cols]`, `x` `[cols]` and `y` `[rows]`; there is a row.
#[unsafe(naked)]
unsafe extern "C" fn rows(w: *const f32, x: *const f32, y: *mut f32, shape: &Shape) {
    naked_asm!(
        CORE!(),
        "push {{r0, r4-r11, lr}}",
        "vpush {{d8-d15}}",
        "ldmia r3, {{r4-r6}}", // rows left, whole, rest
        "rsb r7, r6, #15",
        "movs r10, #0",
        "1:",
        "vmov d0, r10, r10",
        "vmov d1, r10, r10",
        "vmov d2, r10, r10",
        "vmov d3, r10, r10",
        "vmov d4, r10, r10",
        "vmov d5, r10, r10",
        "vmov d6, r10, r10",
        "vmov d7, r10, r10",
        "mov r8, r1",
        "movs r9, r5",
        "beq 3f",
        "2:",
        "vldmia r0!, {{s16-s23}}",
        "vldmia r8!, {{s24-s31}}",
        eight!("vmla.f32": "s0, s16, s24" "s1, s17, s25" "s2, s18, s26" "s3, s19, s27"
            "s4, s20, s28" "s5, s21, s29" "s6, s22, s30" "s7, s23, s31"),
        "vldmia r0!, {{s16-s23}}",
        "vldmia r8!, {{s24-s31}}",
        eight!("vmla.f32": "s8, s16, s24" "s9, s17, s25" "s10, s18, s26" "s11, s19, s27"
            "s12, s20, s28" "s13, s21, s29" "s14, s22, s30" "s15, s23, s31"),
        "subs r9, #1",
        "bne 2b",
        "3:",
        "tbb [pc, r7]",
        "4:",
        ".byte (34f - 4b) / 2, (33f - 4b) / 2, (32f - 4b) / 2, (31f - 4b) / 2",
        ".byte (30f - 4b) / 2, (29f - 4b) / 2, (28f - 4b) / 2, (27f - 4b) / 2",
        ".byte (26f - 4b) / 2, (25f - 4b) / 2, (24f - 4b) / 2, (23f - 4b) / 2",
        ".byte (22f - 4b) / 2, (21f - 4b) / 2, (20f - 4b) / 2, (19f - 4b) / 2",
        "34:",
        last!("14", "56"),
        "33:",
        last!("13", "52"),
        "32:",
        last!("12", "48"),
        "31:",
        last!("11", "44"),
        "30:",
        last!("10", "40"),
        "29:",
        last!("9", "36"),
        "28:",
        last!("8", "32"),
        "27:",
        last!("7", "28"),
        "26:",
        last!("6", "24"),
        "25:",
        last!("5", "20"),
        "24:",
        last!("4", "16"),
        "23:",
        last!("3", "12"),
        "22:",
        last!("2", "8"),
        "21:",
        last!("1", "4"),
        "20:",
        last!("0", "0"),
        "19:",
        "add r0, r0, r6, lsl #2",
        eight!("vadd.f32": "s0, s0, s8" "s1, s1, s9" "s2, s2, s10" "s3, s3, s11"
            "s4, s4, s12" "s5, s5, s13" "s6, s6, s14" "s7, s7, s15"),
        "vadd.f32 s0, s0, s4",
        "vadd.f32 s1, s1, s5",
        "vadd.f32 s2, s2, s6",
        "vadd.f32 s3, s3, s7",
        "vadd.f32 s0, s0, s2",
        "vadd.f32 s1, s1, s3",
        "vadd.f32 s0, s0, s1",
        "vstmia r2!, {{s0}}",
        "subs r4, #1",
        "bne 1b",
        "vpop {{d8-d15}}",
        "pop {{r0, r4-r11, pc}}",
    )
}
