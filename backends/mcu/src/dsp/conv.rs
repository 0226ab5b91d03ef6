//! The convolution over four inputs of eight channels at a time.

use super::exp2::{BLOCK, ZEROS, eight};
use super::functions::silu;
use core::arch::naked_asm;
use core::mem::offset_of;
use sarit_core::kernels::{Conv, RowSink, RowsMut};

/// See [`sarit_core::Kernels::conv`]; the width is 4.
pub(super) fn conv4(conv: &Conv<'_>, window: &mut [f32], mut x: RowsMut<'_>) {
    let n = conv.channels;
    let blocks = n / BLOCK;
    let (w, window) = (conv.weight, &mut window[..3 * n]);
    assert!(w.len() == 4 * n && conv.bias.is_none_or(|bias| bias.len() == n));
    for t in 0..x.count() {
        let x = &mut x.row(t)[..n];
        if blocks > 0 {
            // Zeros instead of a bias.
            let bias = conv.bias.map_or(ZEROS.as_ptr(), <[f32]>::as_ptr);
            let (w, window) = (w.as_ptr(), window.as_mut_ptr());
            let mut channels = Channels {
                window: [window, window.wrapping_add(n), window.wrapping_add(2 * n)],
                x: x.as_mut_ptr(),
                weight: [w, w.wrapping_add(n), w.wrapping_add(2 * n), w.wrapping_add(3 * n)],
                bias,
                bias_bytes: if conv.bias.is_some() { size_of_val(&ZEROS) } else { 0 },
                blocks,
            };
            // SAFETY: there are so many blocks of channels in all of these.
            unsafe { convolve(&mut channels) };
        }
        for i in blocks * BLOCK..n {
            let inputs = [window[i], window[n + i], window[2 * n + i], x[i]];
            let mut sum = conv.bias.map_or(0.0, |bias| bias[i]);
            for (j, input) in inputs.iter().enumerate() {
                sum += w[j * n + i] * input;
            }
            [window[i], window[n + i], window[2 * n + i]] = [inputs[1], inputs[2], inputs[3]];
            x[i] = sum;
        }
        if conv.silu {
            silu(x);
        }
    }
}

/// Operands of [`convolve`]: of the window and of the weights a row for each input, the oldest first.
#[repr(C)]
struct Channels {
    window: [*mut f32; 3],
    x: *mut f32,
    weight: [*const f32; 4],
    bias: *const f32,
    /// From one block's bias to the next one's.
    bias_bytes: usize,
    /// At least 1.
    blocks: usize,
}

/// `x = bias + w0 · oldest + … + w3 · x`, and the window moves on by one input.
///
/// # Safety
/// The pointers reach to the last block.
#[unsafe(naked)]
unsafe extern "C" fn convolve(p: &mut Channels) {
    /// Adds an input, read from `$input`, which then takes the place of the one before it at `$before`.
    macro_rules! add {
        ($input:literal, $weight:literal, $before:literal) => {
            concat!(
                "vldmia ", $input, ", {{s8-s15}}\n",
                "vstmia ", $before, "!, {{s8-s15}}\n",
                "vldmia ", $weight, "!, {{s16-s23}}\n",
                add!(@products),
            )
        };
        (@products) => {
            eight!("vmla.f32": "s0, s8, s16" "s1, s9, s17" "s2, s10, s18" "s3, s11, s19"
                "s4, s12, s20" "s5, s13, s21" "s6, s14, s22" "s7, s15, s23")
        };
    }
    naked_asm!(
        CORE!(),
        "push {{r4-r11}}",
        "vpush {{d8-d11}}",
        "ldr r11, [r0, #{blocks}]",
        "ldm r0, {{r0-r9}}", // window, x, weight, bias, bias_bytes
        "1:",
        "vldmia r8, {{s0-s7}}",
        "add r8, r9",
        "vldmia r0, {{s8-s15}}",
        "vldmia r4!, {{s16-s23}}",
        add!(@products),
        add!("r1", "r5", "r0"),
        add!("r2", "r6", "r1"),
        add!("r3", "r7", "r2"),
        "vstmia r3!, {{s0-s7}}",
        "subs r11, #1",
        "bne 1b",
        "vpop {{d8-d11}}",
        "pop {{r4-r11}}",
        "bx lr",
        blocks = const offset_of!(Channels, blocks),
    )
}
