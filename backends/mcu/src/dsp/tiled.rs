//! Products of a q8 matrix with codes.
//!
//! Eight rows of a tile are summed at once: eight accumulators, the codes of four columns as two pairs of halfwords,
//! two words of weights, one half-unpacked word and the address are all the registers that a core has. Five
//! instructions make four products.
//!
//! A *chain* is those groups of the rows that are added one after another: a lane of the contract, or the two lanes
//! that `fold` adds first where each holds one group only. The bits are the same, because a lane is never -0.

use core::arch::{asm, naked_asm};
use half::f16;
use sarit_core::kernels::{GROUP_LANES, Quantized, RowSink};
use sarit_core::{GROUP, TILE_ROWS, Tiled};

/// Rows whose sums are accumulated together.
const ROWS: usize = 8;
/// Bytes of a tile's codes.
const TILE_BYTES: usize = TILE_ROWS * GROUP;
/// Columns of a line of a tile.
const LINE_COLS: usize = 4;

/// A group's codes as halfwords: of each four columns `[x0, x2]` and `[x1, x3]`.
type Pairs = [[u32; 2]; GROUP / LINE_COLS];

/// See [`sarit_core::Kernels::matmul`].
pub(super) fn matmul(w: &Tiled<'_>, x: Quantized<'_>, y: &mut impl RowSink) {
    for t in 0..x.count {
        let (codes, x_scales, _) = x.row(t);
        let y = &mut y.row(t)[..w.rows];
        match w.groups {
            0 => y.fill(0.0),
            1 | 2 => few_groups::<1, 2>(w, codes, x_scales, y),
            3 | 4 => few_groups::<2, 4>(w, codes, x_scales, y),
            5..=GROUP_LANES => few_groups::<4, 8>(w, codes, x_scales, y),
            _ => many_groups(w, codes, x_scales, y),
        }
    }
}

/// Products with at most `GROUPS` groups, twice as many as chains.
fn few_groups<const CHAINS: usize, const GROUPS: usize>(
    w: &Tiled<'_>,
    codes: &[[i8; GROUP]],
    x_scales: &[f32],
    y: &mut [f32],
) {
    let mut pairs = [[[0; 2]; GROUP / LINE_COLS]; GROUPS];
    expand(codes, &mut pairs);
    for (i, out) in y.chunks_mut(ROWS).enumerate() {
        let rows = HalfTile::new(w, i, x_scales);
        let mut lanes = [[0.0; ROWS]; CHAINS];
        rows.add(0, &pairs[..w.groups], &mut lanes);
        fold(&mut lanes);
        put(&lanes[0], out);
    }
}

/// Products with any number of groups, whose codes are expanded eight groups at a time.
fn many_groups(w: &Tiled<'_>, codes: &[[i8; GROUP]], x_scales: &[f32], y: &mut [f32]) {
    let mut pairs = [[[0; 2]; GROUP / LINE_COLS]; GROUP_LANES];
    for (i, out) in y.chunks_mut(ROWS).enumerate() {
        let rows = HalfTile::new(w, i, x_scales);
        let mut lanes = [[0.0; ROWS]; GROUP_LANES];
        for (block, codes) in codes.chunks(GROUP_LANES).enumerate() {
            expand(codes, &mut pairs);
            rows.add(block * GROUP_LANES, &pairs[..codes.len()], &mut lanes);
        }
        fold(&mut lanes);
        put(&lanes[0], out);
    }
}

/// Writes as many sums as `out` holds.
#[inline(always)]
fn put(sums: &[f32; ROWS], out: &mut [f32]) {
    match out.as_mut_array() {
        Some(out) => *out = *sums,
        None => out.copy_from_slice(&sums[..out.len()]),
    }
}

/// Eight rows of a tile row, and what they are multiplied by.
struct HalfTile<'a> {
    cols: usize,
    tiles: &'a [[u8; TILE_BYTES]],
    scales: &'a [[f16; TILE_ROWS]],
    x_scales: &'a [f32],
    /// 0, or 8 for the rows that end a tile.
    row: usize,
}

impl<'a> HalfTile<'a> {
    #[inline(always)]
    fn new(w: &Tiled<'a>, i: usize, x_scales: &'a [f32]) -> Self {
        let tile_row = i / 2;
        Self {
            cols: w.cols,
            tiles: w.tile_codes(tile_row),
            scales: w.tile_scales(tile_row).as_chunks().0,
            x_scales,
            row: i % 2 * ROWS,
        }
    }

    /// Adds the groups from `first` on, whose codes are `pairs`, to the chains in turn; there is a group for each.
    #[inline(always)]
    fn add(&self, first: usize, pairs: &[Pairs], chains: &mut [[f32; ROWS]]) {
        let (groups, end) = (pairs.len(), first + pairs.len());
        let (tiles, scales, x_scales) =
            (&self.tiles[first..end], &self.scales[first..end], &self.x_scales[first..end]);
        assert!(groups > 0);
        let last_cols = self.cols - (end - 1) * GROUP;
        let first = Group {
            codes: tiles[0][self.row * LINE_COLS..].as_ptr(),
            x: pairs.as_ptr(),
            scales: scales[0][self.row..].as_ptr(),
            x_scale: x_scales.as_ptr(),
        };
        let mut work = Work {
            group: first,
            first,
            stride: chains.len(),
            lines: last_cols.div_ceil(LINE_COLS).min(GROUP / LINE_COLS),
            left: 0,
            groups,
            chains: chains.len().min(groups),
        };
        // SAFETY: there are so many groups and chains.
        unsafe { add_chains(&mut work, chains.as_mut_ptr()) };
    }
}

/// Sign-extends the codes of up to eight groups.
fn expand(codes: &[[i8; GROUP]], pairs: &mut [Pairs]) {
    for (codes, pairs) in codes.iter().zip(pairs) {
        for (four, pair) in codes.as_chunks::<LINE_COLS>().0.iter().zip(pairs) {
            let word = u32::from_le_bytes(four.map(i8::cast_unsigned));
            // SAFETY: arithmetic on registers.
            unsafe {
                asm!(
                    "sxtb16 {even}, {word}",
                    "sxtb16 {odd}, {word}, ror #8",
                    word = in(reg) word, even = out(reg) pair[0], odd = lateout(reg) pair[1],
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
        }
    }
}

/// [`sarit_core::kernels::fold`] for eight rows, into the first lane.
#[inline(always)]
fn fold<const N: usize>(lanes: &mut [[f32; ROWS]; N]) {
    let mut half = N / 2;
    while half > 0 {
        let (low, high) = lanes.split_at_mut(half);
        low.iter_mut().zip(high).for_each(|(low, high)| add_rows(low, high));
        half /= 2;
    }
}

/// `a += b`.
#[inline(always)]
fn add_rows(a: &mut [f32; ROWS], b: &[f32; ROWS]) {
    // SAFETY: reads and writes the two arrays.
    unsafe {
        asm!(
            "vldmia {a}, {{s0-s7}}",
            "vldmia {b}, {{s8-s15}}",
            "vadd.f32 s0, s0, s8", "vadd.f32 s1, s1, s9", "vadd.f32 s2, s2, s10", "vadd.f32 s3, s3, s11",
            "vadd.f32 s4, s4, s12", "vadd.f32 s5, s5, s13", "vadd.f32 s6, s6, s14", "vadd.f32 s7, s7, s15",
            "vstmia {a}, {{s0-s7}}",
            a = in(reg) a, b = in(reg) b,
            out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _, out("s6") _, out("s7") _,
            out("s8") _, out("s9") _, out("s10") _, out("s11") _, out("s12") _, out("s13") _, out("s14") _,
            out("s15") _,
            options(nostack, preserves_flags)
        );
    }
}

/// Where a group's operands are.
#[repr(C)]
#[derive(Clone, Copy)]
struct Group {
    /// Eight rows of a tile.
    codes: *const u8,
    x: *const Pairs,
    /// Of eight rows.
    scales: *const f16,
    x_scale: *const f32,
}

/// What [`add_chains`] works on.
#[repr(C)]
struct Work {
    /// The group that is added.
    group: Group,
    /// The first one of the chain.
    first: Group,
    /// Distance of a chain's groups.
    stride: usize,
    /// Lines of the last group that hold columns, 1..=8. All others have 8.
    lines: usize,
    /// Groups from the one that is added to the last.
    left: usize,
    /// Groups from the chain's first one to the last, at least 1.
    groups: usize,
    /// Chains left, at least 1.
    chains: usize,
}

/// Four products of two rows, whose weights are at `$at` of the line: `$smuad` begins a sum, `smlad` goes on.
macro_rules! two_rows {
    ($at:literal, $a:literal, $b:literal) => {
        concat!(
            "ldrd r10, r11, [lr, #",
            $at,
            "]\n",
            "sxtb16 r12, r10\n",
            "sxtb16 r10, r10, ror #8\n",
            "smlad ",
            $a,
            ", r12, r8, ",
            $a,
            "\n",
            "smlad ",
            $a,
            ", r10, r9, ",
            $a,
            "\n",
            "sxtb16 r12, r11\n",
            "sxtb16 r11, r11, ror #8\n",
            "smlad ",
            $b,
            ", r12, r8, ",
            $b,
            "\n",
            "smlad ",
            $b,
            ", r11, r9, ",
            $b,
            "\n",
        )
    };
}

/// A line: four columns of eight rows. `$x` holds the columns' codes, the offsets are those of two rows each.
macro_rules! line {
    ($x:literal, $at0:literal, $at1:literal, $at2:literal, $at3:literal) => {
        concat!(
            "vmov r8, r9, ",
            $x,
            "\n",
            two_rows!($at0, "r0", "r1"),
            two_rows!($at1, "r2", "r3"),
            two_rows!($at2, "r4", "r5"),
            two_rows!($at3, "r6", "r7"),
        )
    };
}

/// `chain[r] += (codes · codes) · (scale · x_scale)` for eight rows, group after group, chain after chain.
///
/// # Safety
/// There are as many groups and chains as `work` says.
#[unsafe(naked)]
unsafe extern "C" fn add_chains(work: &mut Work, chains: *mut [f32; ROWS]) {
    naked_asm!(
        CORE!(),
        "push {{r0, r1, r4-r11, lr}}",
        "vpush {{d8-d15}}",
        // A chain: r12 is `work`, s0-s7 the sums.
        "1:",
        "ldrd r12, r1, [sp, #64]",
        "vldmia r1, {{s0-s7}}",
        "add lr, r12, #16",
        "ldmia lr, {{r2-r5}}",
        "stmia r12, {{r2-r5}}",
        "add r2, r2, #512",
        "adds r3, #64",
        "adds r4, #32",
        "adds r5, #4",
        "stmia lr, {{r2-r5}}",
        "ldr r0, [r12, #44]",
        "str r0, [r12, #40]",
        "subs r0, #1",
        "str r0, [r12, #44]",
        // A group: its first line's address in lr, the codes in d8-d15.
        "2:",
        "ldrd r2, r3, [r12]",
        "ldrd r4, r5, [r12, #32]",
        "ldr r1, [r12, #40]",
        "vldmia r3, {{d8-d15}}",
        "mov lr, r2",
        "add r2, r2, r4, lsl #9",
        "add r3, r3, r4, lsl #6",
        "strd r2, r3, [r12]",
        "cmp r1, #1",
        "it ne",
        "movne r5, #8",
        "rsb r12, r5, #8",
        "movs r0, #0",
        "movs r1, #0",
        "movs r2, #0",
        "movs r3, #0",
        "movs r4, #0",
        "movs r5, #0",
        "movs r6, #0",
        "movs r7, #0",
        "tbh [pc, r12, lsl #1]",
        "3:",
        ".hword (10f - 3b) / 2, (11f - 3b) / 2, (12f - 3b) / 2, (13f - 3b) / 2",
        ".hword (14f - 3b) / 2, (15f - 3b) / 2, (16f - 3b) / 2, (17f - 3b) / 2",
        "10:",
        line!("d15", "448", "456", "464", "472"),
        "11:",
        line!("d14", "384", "392", "400", "408"),
        "12:",
        line!("d13", "320", "328", "336", "344"),
        "13:",
        line!("d12", "256", "264", "272", "280"),
        "14:",
        line!("d11", "192", "200", "208", "216"),
        "15:",
        line!("d10", "128", "136", "144", "152"),
        "16:",
        line!("d9", "64", "72", "80", "88"),
        "17:",
        line!("d8", "0", "8", "16", "24"),
        // The sums as floats, times the scales.
        "ldr r12, [sp, #64]",
        "vmov d4, r0, r1",
        "vmov d5, r2, r3",
        "vmov d6, r4, r5",
        "vmov d7, r6, r7",
        "ldr r3, [r12, #32]",
        "ldrd r1, r2, [r12, #8]",
        "ldr r0, [r12, #40]",
        "vldmia r1, {{s16-s19}}",
        "vldr s20, [r2]",
        "add r1, r1, r3, lsl #5",
        "add r2, r2, r3, lsl #2",
        "strd r1, r2, [r12, #8]",
        "vcvtb.f32.f16 s24, s16",
        "vcvtt.f32.f16 s25, s16",
        "vcvtb.f32.f16 s26, s17",
        "vcvtt.f32.f16 s27, s17",
        "vcvtb.f32.f16 s28, s18",
        "vcvtt.f32.f16 s29, s18",
        "vcvtb.f32.f16 s30, s19",
        "vcvtt.f32.f16 s31, s19",
        "vcvt.f32.s32 s8, s8",
        "vcvt.f32.s32 s9, s9",
        "vcvt.f32.s32 s10, s10",
        "vcvt.f32.s32 s11, s11",
        "vcvt.f32.s32 s12, s12",
        "vcvt.f32.s32 s13, s13",
        "vcvt.f32.s32 s14, s14",
        "vcvt.f32.s32 s15, s15",
        "vmul.f32 s24, s24, s20",
        "vmul.f32 s25, s25, s20",
        "vmul.f32 s26, s26, s20",
        "vmul.f32 s27, s27, s20",
        "vmul.f32 s28, s28, s20",
        "vmul.f32 s29, s29, s20",
        "vmul.f32 s30, s30, s20",
        "vmul.f32 s31, s31, s20",
        "vmla.f32 s0, s8, s24",
        "vmla.f32 s1, s9, s25",
        "vmla.f32 s2, s10, s26",
        "vmla.f32 s3, s11, s27",
        "vmla.f32 s4, s12, s28",
        "vmla.f32 s5, s13, s29",
        "vmla.f32 s6, s14, s30",
        "vmla.f32 s7, s15, s31",
        "subs r0, r0, r3",
        "str r0, [r12, #40]",
        "bgt 2b",
        "ldr r1, [sp, #68]",
        "vstmia r1!, {{s0-s7}}",
        "str r1, [sp, #68]",
        "ldr r0, [r12, #48]",
        "subs r0, #1",
        "str r0, [r12, #48]",
        "bne 1b",
        "vpop {{d8-d15}}",
        "pop {{r0, r1, r4-r11, pc}}",
    )
}
