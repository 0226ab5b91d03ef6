//! Activations to codes, a group at a time.

use super::exp2::{BLOCK, ROUND, eight};
use core::arch::naked_asm;
use sarit_core::kernels::{Kernels, QuantizedMut, Rows};
use sarit_core::{GROUP, Scalar};

/// Groups whose largest magnitude is outside are left to the definition: too small, infinite, or not a number.
const USUAL: core::ops::RangeInclusive<f32> = 1e-30..=f32::MAX;

/// See [`Kernels::quantize`].
#[inline(never)]
pub(super) fn quantize(x: Rows<'_>, q: QuantizedMut<'_>) {
    for t in 0..x.count() {
        let part = t * q.groups..(t + 1) * q.groups;
        let groups = q.codes[part.clone()].iter_mut().zip(&mut q.scales[part.clone()]).zip(&mut q.sums[part]);
        for (x, ((codes, scale), sum)) in x.row(t).chunks(GROUP).zip(groups) {
            (*scale, *sum) = match x.as_array() {
                Some(x) => quantize_group(x, codes),
                None => {
                    let mut filled = [0.0; GROUP];
                    filled[..x.len()].copy_from_slice(x);
                    quantize_group(&filled, codes)
                }
            };
        }
    }
}

/// Codes of one group; returns its scale and the sum of its codes.
fn quantize_group(x: &[f32; GROUP], codes: &mut [i8; GROUP]) -> (f32, i32) {
    let largest = f32::from_bits(largest(x));
    if USUAL.contains(&largest) {
        return (largest / 127.0, encode(x, codes, 127.0 / largest, &[ROUND; BLOCK]));
    }
    let (mut scale, mut sum) = (0.0, 0);
    let (scales, sums) = (core::slice::from_mut(&mut scale), core::slice::from_mut(&mut sum));
    let q = QuantizedMut { groups: 1, codes: core::slice::from_mut(codes), scales, sums };
    Scalar.quantize(Rows::new(x, 1, GROUP, GROUP), q);
    (scale, sum)
}

/// The largest magnitude, as its bits; those of a NaN are larger than those of any number.
#[unsafe(naked)]
extern "C" fn largest(x: &[f32; GROUP]) -> u32 {
    /// Keeps the larger one of `lr` and twice the magnitude of a register.
    macro_rules! keep {
        ($($x:literal)*) => {
            concat!($("cmp lr, ", $x, ", lsl #1\nit lo\nlsllo lr, ", $x, ", #1\n"),*)
        };
    }
    naked_asm!(
        CORE!(),
        "push {{r4-r11, lr}}",
        "mov lr, #0",
        "add r1, r0, #128",
        "1:",
        "ldmia r0!, {{r2-r9}}",
        keep!("r2" "r3" "r4" "r5" "r6" "r7" "r8" "r9"),
        "cmp r0, r1",
        "bne 1b",
        "lsr r0, lr, #1",
        "pop {{r4-r11, pc}}",
    )
}

/// `code = round(x · inverse)`; returns the sum of the codes.
#[unsafe(naked)]
extern "C" fn encode(x: &[f32; GROUP], codes: &mut [i8; GROUP], inverse: f32, round: &[f32; BLOCK]) -> i32 {
    /// Eight codes in two words, whose bytes are summed as numbers of 0..=255.
    macro_rules! codes {
        () => {
            concat!(
                "vldmia r0!, {{s0-s7}}\n",
                "vldmia r2, {{s8-s15}}\n",
                eight!("vmla.f32": "s8, s0, s16" "s9, s1, s16" "s10, s2, s16" "s11, s3, s16"
                    "s12, s4, s16" "s13, s5, s16" "s14, s6, s16" "s15, s7, s16"),
                "vmov r4, r5, d4\nvmov r6, r7, d5\nvmov r8, r9, d6\nvmov r10, r11, d7\n",
                "bfi r4, r5, #8, #8\nbfi r4, r6, #16, #8\nbfi r4, r7, #24, #8\n",
                "bfi r8, r9, #8, #8\nbfi r8, r10, #16, #8\nbfi r8, r11, #24, #8\n",
                "strd r4, r8, [r1], #8\n",
                "eor r4, r4, #0x80808080\n",
                "eor r8, r8, #0x80808080\n",
                "usada8 r12, r4, r3, r12\n",
                "usada8 r12, r8, r3, r12\n",
            )
        };
    }
    naked_asm!(
        CORE!(),
        "push {{r4-r11}}",
        "vpush {{d8}}",
        "vmov.f32 s16, s0",
        "movs r3, #0",
        "movs r12, #0",
        codes!(),
        codes!(),
        codes!(),
        codes!(),
        "sub r0, r12, #4096", // 32 times 128
        "vpop {{d8}}",
        "pop {{r4-r11}}",
        "bx lr",
    )
}
