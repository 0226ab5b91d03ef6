//! Activations to codes, a group at a time.

use super::exp2::{BLOCK, eight};
use super::{is_in_words, vectors};
use core::arch::naked_asm;
use core::mem::{MaybeUninit, offset_of};
use sarit_core::kernels::{Kernels, QuantizedMut, Rows};
use sarit_core::math::ROUND;
use sarit_core::{GROUP, Scalar};

/// Groups whose largest magnitude is outside are left to the definition: too small, infinite, or not a number.
const USUAL: core::ops::RangeInclusive<f32> = 1e-30..=f32::MAX;

/// Added to a code that is not rounded yet, it rounds it.
static ROUNDS: [f32; BLOCK] = [ROUND; BLOCK];

/// See [`Kernels::quantize`].
#[inline(never)]
pub(super) fn quantize(x: Rows<'_>, mut q: QuantizedMut<'_>) {
    let (mut work, groups) = (Work::new(&mut q), x.cols().div_ceil(GROUP));
    let all = x.count() * groups;
    assert!(groups == q.groups && q.codes.len() == all && q.scales.len() == all && q.sums.len() == all);
    assert!(is_in_words(q.codes));
    for t in 0..x.count() {
        let (whole, rest) = x.row(t).as_chunks();
        if !whole.is_empty() {
            // SAFETY: so many groups of this row are in the buffers, which begin with a word.
            unsafe { encode(whole.as_ptr(), whole.len(), &mut work) };
        }
        if !rest.is_empty() {
            let mut group = MaybeUninit::uninit();
            // SAFETY: one more group of this row is in the buffers, which begin with a word.
            unsafe { encode(vectors::filled_up(rest, &mut group), 1, &mut work) };
        }
    }
}

/// The definition, of one group.
extern "C" fn encode_unusual(x: &[f32; GROUP], codes: &mut [i8; GROUP], scale: &mut f32, sum: &mut i32) {
    use core::slice::from_mut;
    let q = QuantizedMut { groups: 1, codes: from_mut(codes), scales: from_mut(scale), sums: from_mut(sum) };
    Scalar.quantize(Rows::new(x, 1, GROUP, GROUP), q);
}

/// Where [`encode`] writes; it moves the pointers on.
#[repr(C)]
struct Work {
    scales: *mut f32,
    sums: *mut i32,
    codes: *mut [i8; GROUP],
}

impl Work {
    fn new(q: &mut QuantizedMut<'_>) -> Self {
        Self { scales: q.scales.as_mut_ptr(), sums: q.sums.as_mut_ptr(), codes: q.codes.as_mut_ptr() }
    }
}

/// `scale = largest magnitude / 127`, `code = round(x · (127 / largest magnitude))`, and the sum of the codes, group
/// after group.
///
/// # Safety
/// There are so many groups, at least one, in `x` and where `work` points to, and each begins with a word.
#[unsafe(naked)]
unsafe extern "C" fn encode(x: *const [f32; GROUP], groups: usize, work: &mut Work) {
    /// Keeps the larger one of `lr` and twice the magnitude of a register; so a NaN is larger than any number. That is
    /// rarely the new one: the branch is to [`larger`].
    macro_rules! keep {
        ($($x:literal)*) => {
            concat!($("cmp lr, r", $x, ", lsl #1\nblo 2", $x, "f\n3", $x, ":\n"),*)
        };
    }
    macro_rules! larger {
        ($($x:literal)*) => {
            concat!($("2", $x, ":\nlsl lr, r", $x, ", #1\nb 3", $x, "b\n"),*)
        };
    }
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
        "push {{r2, r4-r11, lr}}",
        "vpush {{d8-d9}}",
        "mov r11, r1",
        "ldr r1, [r2, #{codes}]",
        "1:",
        "mov lr, #0",
        "add r10, r0, #128",
        "2:",
        "ldmia r0!, {{r2-r9}}",
        keep!("2" "3" "4" "5" "6" "7" "8" "9"),
        "cmp r0, r10",
        "bne 2b",
        "sub r0, #128",
        "cmp lr, #0",
        "beq 4f",
        "lsr r2, lr, #1",
        "vmov s0, r2",
        "ldr r3, 7f",
        "sub r2, r3",
        "ldr r3, 8f",
        "cmp r2, r3",
        "bhi 5f",
        "vldr s1, 9f",
        "vdiv.f32 s17, s0, s1",
        "vdiv.f32 s16, s1, s0",
        "vmov s18, r11",
        "ldr r2, 6f",
        "movs r3, #0",
        "movs r12, #0",
        codes!(),
        codes!(),
        codes!(),
        codes!(),
        "sub r12, r12, #4096", // 32 times 128
        "vmov r11, s18",
        "ldr r4, [sp, #16]",
        "ldm r4, {{r2, r3}}", // scales, sums
        "vstmia r2!, {{s17}}",
        "str r12, [r3], #4",
        "3:",
        "stm r4, {{r2, r3}}",
        "subs r11, #1",
        "bne 1b",
        "str r1, [r4, #{codes}]",
        "vpop {{d8-d9}}",
        "pop {{r2, r4-r11, pc}}",
        larger!("2" "3" "4" "5" "6" "7" "8" "9"),
        // Nothing but zeros.
        "4:",
        "ldr r4, [sp, #16]",
        "ldm r4, {{r2, r3}}",
        "movs r12, #0",
        "str r12, [r2], #4",
        "str r12, [r3], #4",
        "vmov d0, r12, r12",
        "vmov d1, r12, r12",
        "vmov d2, r12, r12",
        "vmov d3, r12, r12",
        "vstmia r1!, {{s0-s7}}",
        "adds r0, #128",
        "b 3b",
        "5:",
        "ldr r4, [sp, #16]",
        "ldm r4, {{r2, r3}}",
        "mov r5, r0", "mov r6, r1",
        "bl {unusual}",
        "add r0, r5, #128", "add r1, r6, #32",
        "ldm r4, {{r2, r3}}",
        "adds r2, #4",
        "adds r3, #4",
        "b 3b",
        ".p2align 2",
        "6:",
        ".word {rounds}",
        "7:",
        ".word {least}",
        "8:",
        ".word {most} - {least}",
        "9:",
        ".float 127.0",
        codes = const offset_of!(Work, codes),
        rounds = sym ROUNDS,
        unusual = sym encode_unusual,
        least = const USUAL.start().to_bits(),
        most = const USUAL.end().to_bits(),
    )
}
