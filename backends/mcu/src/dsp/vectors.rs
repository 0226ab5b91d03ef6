//! Vectors of the residual stream.

use super::exp2::{BLOCK, eight};
use core::arch::naked_asm;

/// `y = x`; both have the same length.
pub(super) fn copy(x: &[f32], y: &mut [f32]) {
    assert!(x.len() == y.len());
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks(), y.as_chunks_mut());
    if !x.is_empty() {
        // SAFETY: both hold so many blocks.
        unsafe { copy_blocks(y.as_mut_ptr(), x.as_ptr(), x.len()) };
    }
    y_rest.iter_mut().zip(x_rest).for_each(|(y, x)| *y = *x);
}

/// See [`sarit_core::Kernels::add_scaled`].
pub(super) fn add_scaled(scale: f32, x: &[f32], y: &mut [f32]) {
    let len = x.len().min(y.len());
    let ((x, x_rest), (y, y_rest)) = (x[..len].as_chunks(), y[..len].as_chunks_mut());
    if !x.is_empty() {
        // SAFETY: both hold so many blocks.
        unsafe { add_scaled_blocks(y.as_mut_ptr(), x.as_ptr(), x.len(), scale) };
    }
    y_rest.iter_mut().zip(x_rest).for_each(|(y, x)| *y += scale * x);
}

/// # Safety
/// `y` and `x` point to `blocks` blocks, at least one.
#[unsafe(naked)]
unsafe extern "C" fn copy_blocks(y: *mut [f32; BLOCK], x: *const [f32; BLOCK], blocks: usize) {
    naked_asm!(
        CORE!(),
        "1:",
        "vldmia r1!, {{s0-s7}}",
        "vstmia r0!, {{s0-s7}}",
        "subs r2, #1",
        "bne 1b",
        "bx lr",
    )
}

/// # Safety
/// `y` and `x` point to `blocks` blocks, at least one.
#[unsafe(naked)]
unsafe extern "C" fn add_scaled_blocks(
    y: *mut [f32; BLOCK],
    x: *const [f32; BLOCK],
    blocks: usize,
    scale: f32,
) {
    naked_asm!(
        CORE!(),
        "vpush {{d8-d11}}",
        "1:",
        "vldmia r0, {{s8-s15}}",
        "vldmia r1!, {{s16-s23}}",
        eight!("vmla.f32": "s8, s16, s0" "s9, s17, s0" "s10, s18, s0" "s11, s19, s0"
            "s12, s20, s0" "s13, s21, s0" "s14, s22, s0" "s15, s23, s0"),
        "vstmia r0!, {{s8-s15}}",
        "subs r2, #1",
        "bne 1b",
        "vpop {{d8-d11}}",
        "bx lr",
    )
}
