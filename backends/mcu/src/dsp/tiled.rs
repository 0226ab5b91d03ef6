//! Products of a q8 matrix with codes.
//!
//! Eight rows of a tile are summed at once: eight accumulators, the codes of four columns as two pairs of halfwords,
//! two words of weights, one half-unpacked word and the address are all the registers that a core has. A line of four
//! columns takes 37 instructions for 32 products: two of them are the multiplications of a row, two sign-extend its
//! weights, and the rest is loads. All else is in memory, at [`Chain`].
//!
//! One group of columns after another passes over the rows, and adds to sums that lie in memory. Its codes are unpacked
//! once for all rows.
//!
//! A *chain* is those groups whose terms are added one after another: a lane of the contract, or the two lanes that
//! `fold` adds first where each holds one group only. The bits are the same, because a lane is never -0.

use super::exp2::eight;
use super::{is_in_words, vectors};
use core::arch::naked_asm;
use core::mem::{MaybeUninit, offset_of};
use core::ptr::null;
use core::slice;
use half::f16;
use sarit_core::kernels::{GROUP_LANES, Quantized, RowSink};
use sarit_core::{GROUP, TILE_ROWS, Tiled};

/// Rows whose sums are accumulated together: half a tile.
const ROWS: usize = 8;
/// Columns of a line of a tile, and lines of a tile.
const LINE_COLS: usize = 4;
const LINES: usize = GROUP / LINE_COLS;
/// Added to the place where [`add_groups`] begins with half a tile, to take its first four rows only.
const HALF_ROWS: usize = LINES;
/// Bytes of a tile's codes, of its scales, and of the codes and scales of half a line.
const CODE_BYTES: usize = TILE_ROWS * GROUP;
const SCALE_BYTES: usize = TILE_ROWS * size_of::<f16>();
const HALF_CODE_BYTES: usize = ROWS * LINE_COLS;
const HALF_SCALE_BYTES: usize = ROWS * size_of::<f16>();

/// Half tiles of sums that there is room for beside the product: those that wait for their second half.
const ROOM: usize = 10;

/// What the first terms of a tile's rows are added to.
static ZEROS: [f32; TILE_ROWS] = [0.0; _];

/// The sums of half a tile's rows.
type Sums = [f32; ROWS];

/// See [`sarit_core::Kernels::matmul`].
#[inline(never)]
pub(super) fn matmul(w: &Tiled<'_>, x: Quantized<'_>, y: &mut impl RowSink) {
    assert!(is_in_words(w.codes) && is_in_words(w.scales) && is_in_words(x.codes));
    for t in 0..x.count {
        let groups = t * x.groups..(t + 1) * x.groups;
        // SAFETY: as asserted; each row of `x` has whole groups of codes.
        unsafe { product(w, &x.codes[groups.clone()], &x.scales[groups], &mut y.row(t)[..w.rows]) };
    }
}

/// `y = w · x`.
///
/// # Safety
/// Codes and scales of `w`, and `codes`, begin with a word.
unsafe fn product(w: &Tiled<'_>, codes: &[[i8; GROUP]], x_scales: &[f32], y: &mut [f32]) {
    let tiles = w.tile_rows() * w.groups;
    assert!(w.codes.len() == tiles * CODE_BYTES && w.scales.len() == tiles * TILE_ROWS);
    assert!(codes.len() == w.groups && x_scales.len() == w.groups && y.len() == w.rows);
    // How many sums wait for their second half at the same time: 2 to this power is the number of chains.
    let Some(last_group) = w.groups.checked_sub(1) else { return y.fill(0.0) };
    let levels = (last_group | 1).ilog2().min(GROUP_LANES.ilog2());
    let product = Product { w, codes, x_scales, levels };
    let (mut first, mut rest) = (0, y);
    while !rest.is_empty() {
        let (whole, all) = (rest.len() / ROWS, rest.len().div_ceil(ROWS));
        // A part of a half tile has no room in the product: it comes last, with as many whole ones as have room elsewhere.
        let with_part = all > whole && all * (levels as usize + 1) <= ROOM;
        let most = ROOM.checked_div(levels as usize).unwrap_or(usize::MAX);
        let count = if with_part { all } else { whole.min(most & !1) };
        let (sums, later) = rest.split_at_mut((count * ROWS).min(rest.len()));
        // SAFETY: these are the rows of so many half tiles, for which there is room; operands begin as this function asks.
        unsafe { product.half_tiles(first, sums, count) };
        (first, rest) = (first + count, later);
    }
}

/// A product of at least one group.
struct Product<'a> {
    w: &'a Tiled<'a>,
    codes: &'a [[i8; GROUP]],
    x_scales: &'a [f32],
    /// 2 to this power is the number of chains.
    levels: u32,
}

impl Product<'_> {
    /// The rows of `count` half tiles from `first` on.
    ///
    /// # Safety
    /// There are so many half tiles, at least one, and they have `sums`, the last one perhaps for some rows only; there is
    /// room for those that wait and, where the last one is a part, for all of them once more. Codes and scales of `w`, and
    /// `codes`, begin with a word.
    #[inline(always)]
    unsafe fn half_tiles(&self, first: usize, sums: &mut [f32], count: usize) {
        let Self { w, levels, .. } = *self;
        let (last_group, half, tile) = (w.groups - 1, first % 2, first / 2 * w.groups);
        let mut room = [const { MaybeUninit::<Sums>::uninit() }; ROOM];
        let room = room.as_mut_ptr().cast::<Sums>();
        let last_rows = sums.len() - (count - 1) * ROWS;
        let is_part = last_rows < ROWS;
        // Where sums wait for their second half, level by level; on the first one they become the product.
        let (whole, others) =
            if is_part { (room, room) } else { (sums.as_mut_ptr().cast(), room.wrapping_sub(count)) };
        let level = |level: usize| if level == 0 { whole } else { others.wrapping_add(level * count) };
        let steps = [w.groups * SCALE_BYTES, w.groups * CODE_BYTES];
        let last = if last_rows > ROWS / 2 { 0 } else { HALF_ROWS };
        let first_step = match half {
            0 => [HALF_SCALE_BYTES, HALF_CODE_BYTES],
            _ => [steps[0] - HALF_SCALE_BYTES, steps[1] - HALF_CODE_BYTES],
        };
        let by_tiles = half == 0 && (last == 0 || count % 2 == 1);
        let only = if count == 1 { last } else { 0 };
        let start_of_last = only + (w.cols - last_group * GROUP).div_ceil(LINE_COLS) % LINES;
        let mut work = Chain {
            steps,
            last,
            scales: null(),
            codes: null(),
            x: null(),
            x_scale: null(),
            sums: whole,
            half_tiles: count,
            first_step,
            beyond_two: if by_tiles { count as isize - 2 } else { -1 },
            distance: 1 << levels,
            groups: 0,
            last_start: 0,
            start: only,
        };
        let chains = 1u32 << levels;
        let mut here = 0;
        for i in 0..chains {
            // In this order each sum of `fold` can be taken as soon as its second half is there.
            let chain = ((i.reverse_bits() >> 1) >> (31 - levels)) as usize;
            let terms = (last_group - chain) >> levels;
            let at = tile + chain;
            work.scales = w.scales.as_ptr().wrapping_add(at * TILE_ROWS + half * ROWS);
            work.codes = w.codes.as_ptr().wrapping_add(at * CODE_BYTES + half * HALF_CODE_BYTES);
            work.x = self.codes.as_ptr().wrapping_add(chain);
            work.x_scale = self.x_scales.as_ptr().wrapping_add(chain);
            work.sums = level(here);
            work.groups = terms + 1;
            let has_last = chain == last_group % chains as usize;
            work.last_start = if has_last { start_of_last } else { only };
            // SAFETY: as this function asks; a chain has so many groups, and so many sums have a place on every level. Where
            // operands begin with a word, so does every half line and half tile of them.
            unsafe { add_groups(&mut work) };
            for _ in 0..i.trailing_ones() {
                // SAFETY: both levels hold so many sums.
                unsafe { add(level(here - 1), level(here), count) };
                here -= 1;
            }
            here += 1;
        }
        if is_part {
            // SAFETY: as many sums have been written.
            vectors::copy(unsafe { slice::from_raw_parts(whole.cast(), sums.len()) }, sums);
        }
    }
}

/// What [`add_groups`] works on: one chain of groups.
#[repr(C)]
struct Chain {
    /// Distances in bytes of scales and codes from half a tile row to the same half of the next.
    steps: [usize; 2],
    /// [`HALF_ROWS`] if of the last half tile no more than four rows are wanted, else 0.
    last: usize,
    /// Where the group's scales and codes of the first half tile are, its codes and scale of `x`. These move on.
    scales: *const f16,
    codes: *const u8,
    x: *const [i8; GROUP],
    x_scale: *const f32,
    sums: *mut Sums,
    /// At least 1.
    half_tiles: usize,
    first_step: [usize; 2],
    /// Two fewer than the half tiles, or less than 0 if these do not begin with a whole tile or end in the middle of one:
    /// whether there are tiles to be taken whole.
    beyond_two: isize,
    /// Groups from one to the next.
    distance: usize,
    /// Left, at least 1.
    groups: usize,
    /// Where to begin in half a tile of the last group, and of the others: 0 for all columns, 1..=7 for so many lines;
    /// [`HALF_ROWS`] more for four rows, if that is the only half tile.
    last_start: usize,
    start: usize,
}

/// The half tile that [`add_groups`] is at, on the stack.
#[repr(C)]
struct HalfTile {
    scales: *const f16,
    /// What the terms are added to, and where that goes.
    from: *const Sums,
    out: *mut Sums,
    left: usize,
    /// Distances in bytes of scales and codes to the next half tile. The one after it is as far away as to make
    /// `steps`.
    step: [usize; 2],
    /// What is added to `from` once it has moved on: less than 0 to stay with zeros.
    from_back: isize,
    start: usize,
    steps: [usize; 2],
    last: usize,
}

/// Two rows of a line, `$at` bytes from its first one on: `$op` begins or goes on with the sums `$a` and `$b`.
macro_rules! two_rows {
    ($line:literal, $half:literal, $at:literal, $a:literal, $b:literal, $op:literal, $to_a:expr, $to_b:expr) => {
        concat!(
            "ldrd r10, r11, [lr, #64 * ",
            $line,
            " + ",
            $half,
            " + ",
            $at,
            "]\n",
            "sxtb16 r12, r10\nsxtb16 r10, r10, ror #8\n",
            $op,
            " ",
            $a,
            ", r12, r8",
            $to_a,
            "\nsmlad ",
            $a,
            ", r10, r9, ",
            $a,
            "\n",
            "sxtb16 r12, r11\nsxtb16 r11, r11, ror #8\n",
            $op,
            " ",
            $b,
            ", r12, r8",
            $to_b,
            "\nsmlad ",
            $b,
            ", r11, r9, ",
            $b,
            "\n",
        )
    };
}

/// A line: four columns of eight rows, the first or (`$half` = 32) the second ones of the tile whose codes are at `lr`.
macro_rules! line {
    ($line:literal, $half:literal) => {
        concat!(
            line!(@columns $line),
            line!(@rows $line, $half, "0", "r0", "r1"),
            line!(@rows $line, $half, "8", "r2", "r3"),
            line!(@rows $line, $half, "16", "r4", "r5"),
            line!(@rows $line, $half, "24", "r6", "r7"),
        )
    };
    // Four rows.
    ($line:literal) => {
        concat!(
            line!(@columns $line),
            line!(@rows $line, "0", "0", "r0", "r1"),
            line!(@rows $line, "0", "8", "r2", "r3"),
        )
    };
    (@columns $line:literal) => {
        concat!("ldrd r8, r9, [sp, #{x} + 8 * ", $line, "]\n")
    };
    (@rows $line:literal, $half:literal, $at:literal, $a:literal, $b:literal) => {
        two_rows!($line, $half, $at, $a, $b, "smlad", concat!(", ", $a), concat!(", ", $b))
    };
}

/// All lines of a whole group, of which the first one begins the sums.
macro_rules! lines {
    ($half:literal) => {
        concat!(
            line!(@columns "7"),
            lines!(@rows $half, "0", "r0", "r1"),
            lines!(@rows $half, "8", "r2", "r3"),
            lines!(@rows $half, "16", "r4", "r5"),
            lines!(@rows $half, "24", "r6", "r7"),
            "17:\n", line!("6", $half),
            "16:\n", line!("5", $half),
            "15:\n", line!("4", $half),
            "14:\n", line!("3", $half),
            "13:\n", line!("2", $half),
            "12:\n", line!("1", $half),
            "11:\n", line!("0", $half),
        )
    };
    (@rows $half:literal, $at:literal, $a:literal, $b:literal) => {
        two_rows!("7", $half, $at, $a, $b, "smuad", "", "")
    };
}

/// Sums to floats in `s8..=s15`.
macro_rules! floats {
    () => {
        concat!(
            "vmov d4, r0, r1\nvmov d5, r2, r3\nvmov d6, r4, r5\nvmov d7, r6, r7\n",
            eight!("vcvt.f32.s32": "s8, s8" "s9, s9" "s10, s10" "s11, s11" "s12, s12" "s13, s13" "s14, s14" "s15, s15"),
        )
    };
}

/// `s0..=s7` plus what is in `s8..=s15` times the scales, of which each of the four registers holds two.
macro_rules! add_scaled {
    (@scales $s01:literal, $s23:literal, $s45:literal, $s67:literal) => {
        concat!(
            "vcvtb.f32.f16 s16, ", $s01, "\nvcvtt.f32.f16 s17, ", $s01, "\n",
            "vcvtb.f32.f16 s18, ", $s23, "\nvcvtt.f32.f16 s19, ", $s23, "\n",
            "vcvtb.f32.f16 s20, ", $s45, "\nvcvtt.f32.f16 s21, ", $s45, "\n",
            "vcvtb.f32.f16 s22, ", $s67, "\nvcvtt.f32.f16 s23, ", $s67, "\n",
            eight!("vmul.f32": "s16, s16, s28" "s17, s17, s28" "s18, s18, s28" "s19, s19, s28"
                "s20, s20, s28" "s21, s21, s28" "s22, s22, s28" "s23, s23, s28"),
        )
    };
    () => {
        eight!("vmla.f32": "s0, s8, s16" "s1, s9, s17" "s2, s10, s18" "s3, s11, s19"
            "s4, s12, s20" "s5, s13, s21" "s6, s14, s22" "s7, s15, s23")
    };
}

/// `sums[r] = 0 + (codes · codes) · (scale · x_scale) + …` for eight rows of every half tile, group after group.
///
/// # Safety
/// There are as many groups, half tiles and sums as `chain` says, and all that it points to begins with a word.
#[unsafe(naked)]
unsafe extern "C" fn add_groups(chain: &mut Chain) {
    /// Of four codes in each register `[x0, x2]` and `[x1, x3]`, sign-extended, to a place on the stack.
    macro_rules! unpack {
        ($($codes:literal, $to:literal)*) => {
            concat!($(
                "sxtb16 r6, ", $codes, "\nsxtb16 r7, ", $codes, ", ror #8\nstrd r6, r7, [sp, #{x} + ", $to, "]\n"
            ),*)
        };
    }
    naked_asm!(
        CORE!(),
        "push {{r0, r4-r11, lr}}",
        "vpush {{d8-d14}}",
        "sub sp, #{frame}",
        "mov r12, r0",
        "ldr r1, 9f",
        "mvn r2, #31",
        "str r1, [sp, #{from}]",
        "str r2, [sp, #{from_back}]",
        "ldm r12!, {{r0-r2}}",
        "strd r0, r1, [sp, #{steps}]",
        "str r2, [sp, #{last}]",
        // A group: the pointers move on to the next one.
        "4:",
        "ldm r12, {{r0-r11, lr}}", // the fields of [`Chain`] behind steps
        "subs r10, #1",
        "it eq",
        "moveq lr, r11",
        "str lr, [sp, #{start}]",
        "str r10, [r12, #{groups}]",
        "str r0, [sp]",
        "strd r4, r5, [sp, #{out}]",
        "strd r6, r7, [sp, #{step}]",
        "vldr s28, [r3]",
        "ldrd r4, r5, [r2]",
        "ldrd r10, r11, [r2, #8]",
        unpack!("r4", "0" "r5", "8" "r10", "16" "r11", "24"),
        "ldrd r4, r5, [r2, #16]",
        "ldrd r10, r11, [r2, #24]",
        unpack!("r4", "32" "r5", "40" "r10", "48" "r11", "56"),
        "mov r7, lr",
        "mov lr, r1",
        "add r0, r0, r9, lsl #5",
        "add r1, r1, r9, lsl #9",
        "add r2, r2, r9, lsl #5",
        "add r3, r3, r9, lsl #2",
        "stm r12, {{r0-r3}}",
        "cbnz r7, 1f",
        "cmp r8, #0",
        "bge 6f",
        // Half a tile: its codes are at lr.
        "1:",
        "cbz r7, 3f",
        "mov r8, r7",
        "movs r0, #0",
        "movs r1, #0",
        "movs r2, #0",
        "movs r3, #0",
        "movs r4, #0",
        "movs r5, #0",
        "movs r6, #0",
        "movs r7, #0",
        "tbh [pc, r8, lsl #1]",
        "2:",
        ".hword 0, (11f - 2b) / 2, (12f - 2b) / 2, (13f - 2b) / 2",
        ".hword (14f - 2b) / 2, (15f - 2b) / 2, (16f - 2b) / 2, (17f - 2b) / 2",
        ".hword (28f - 2b) / 2, (21f - 2b) / 2, (22f - 2b) / 2, (23f - 2b) / 2",
        ".hword (24f - 2b) / 2, (25f - 2b) / 2, (26f - 2b) / 2, (27f - 2b) / 2",
        "3:",
        lines!("0"),
        // The sums times the scales.
        "5:",
        floats!(),
        "ldm sp, {{r0-r9}}", // the fields of [`HalfTile`]
        "vldmia r0, {{s20-s23}}",
        "add r0, r4",
        add_scaled!(@scales "s20", "s21", "s22", "s23"),
        "vldmia r1!, {{s0-s7}}",
        "add r1, r6",
        add_scaled!(),
        "vstmia r2!, {{s0-s7}}",
        "add lr, r5",
        "sub r4, r8, r4",
        "sub r5, r9, r5",
        "subs r3, #1",
        "stm sp, {{r0-r5}}",
        "cmp r3, #1",
        "bhi 1b",
        "blo 7f",
        // The last half tile.
        "10:",
        "ldr r8, [sp, #{last}]",
        "orrs r7, r7, r8",
        "b 1b",
        // The next group adds to these sums.
        "7:",
        "ldr r12, [sp, #{chain}]",
        "adds r12, #{scales}",
        "ldr r0, [r12, #{groups}]",
        "cbz r0, 8f",
        "ldr r1, [r12, #{sums}]",
        "movs r2, #0",
        "str r1, [sp, #{from}]",
        "str r2, [sp, #{from_back}]",
        "b 4b",
        "8:",
        "add sp, #{frame}",
        "vpop {{d8-d14}}",
        "pop {{r0, r4-r11, pc}}",
        // Four rows.
        "28:", line!("7"),
        "27:", line!("6"),
        "26:", line!("5"),
        "25:", line!("4"),
        "24:", line!("3"),
        "23:", line!("2"),
        "22:", line!("1"),
        "21:", line!("0"),
        "b 5b",
        ".p2align 2",
        "9:",
        ".word {zeros}",
        // Whole tiles, two fewer halves being left than r8 says.
        "6:",
        "str r8, [sp, #{left}]",
        "6:",
        lines!("0"),
        floats!(),
        "ldm sp, {{r0-r2}}",
        "vldmia r0, {{s20-s27}}",
        add_scaled!(@scales "s20", "s21", "s22", "s23"),
        "vldmia r1!, {{s0-s7}}",
        add_scaled!(),
        "vstmia r2!, {{s0-s7}}",
        "strd r1, r2, [sp, #{from}]",
        lines!("32"),
        floats!(),
        add_scaled!(@scales "s24", "s25", "s26", "s27"),
        "ldm sp, {{r0-r9}}",
        "vldmia r1!, {{s0-s7}}",
        "add r1, r1, r6, lsl #1",
        add_scaled!(),
        "vstmia r2!, {{s0-s7}}",
        "add r0, r8",
        "add lr, r9",
        "subs r3, #2",
        "stm sp, {{r0-r3}}",
        "bge 6b",
        // Half of one may be left.
        "adds r3, #2",
        "beq 7b",
        "str r3, [sp, #{left}]",
        "movs r7, #0",
        "b 10b",
        zeros = sym ZEROS,
        x = const size_of::<HalfTile>(),
        frame = const size_of::<HalfTile>() + 2 * GROUP,
        chain = const size_of::<HalfTile>() + 2 * GROUP + 7 * size_of::<f64>(),
        scales = const offset_of!(Chain, scales),
        sums = const offset_of!(Chain, sums) - offset_of!(Chain, scales),
        groups = const offset_of!(Chain, groups) - offset_of!(Chain, scales),
        from = const offset_of!(HalfTile, from),
        out = const offset_of!(HalfTile, out),
        left = const offset_of!(HalfTile, left),
        step = const offset_of!(HalfTile, step),
        from_back = const offset_of!(HalfTile, from_back),
        start = const offset_of!(HalfTile, start),
        steps = const offset_of!(HalfTile, steps),
        last = const offset_of!(HalfTile, last),
    )
}

/// `to[r] += from[r]` for the rows of `count` half tiles.
///
/// # Safety
/// There are so many of both, at least one.
#[unsafe(naked)]
unsafe extern "C" fn add(to: *mut Sums, from: *const Sums, count: usize) {
    naked_asm!(
        CORE!(),
        "1:",
        "vldmia r0, {{s0-s7}}",
        "vldmia r1!, {{s8-s15}}",
        eight!("vadd.f32": "s0, s0, s8" "s1, s1, s9" "s2, s2, s10" "s3, s3, s11"
            "s4, s4, s12" "s5, s5, s13" "s6, s6, s14" "s7, s7, s15"),
        "vstmia r0!, {{s0-s7}}",
        "subs r2, #1",
        "bne 1b",
        "bx lr",
    )
}
