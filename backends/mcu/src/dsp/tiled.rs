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

use super::exp2::{ZEROS, eight};
use core::arch::naked_asm;
use core::mem::{MaybeUninit, offset_of};
use half::f16;
use sarit_core::kernels::{GROUP_LANES, Quantized, RowSink};
use sarit_core::{GROUP, TILE_ROWS, Tiled};

/// Rows whose sums are accumulated together: half a tile.
const ROWS: usize = 8;
/// Columns of a line of a tile.
const LINE_COLS: usize = 4;
/// Bytes of a tile's codes, of its scales, and of the codes and scales of half a line.
const CODE_BYTES: usize = TILE_ROWS * GROUP;
const SCALE_BYTES: usize = TILE_ROWS * size_of::<f16>();
const HALF_CODE_BYTES: usize = ROWS * LINE_COLS;
const HALF_SCALE_BYTES: usize = ROWS * size_of::<f16>();

/// The order in which [`GROUP_LANES`] lanes are summed up so that each sum of `fold` can be taken as soon as its second
/// half is there; of fewer lanes, every number divided.
const FOLD_ORDER: [usize; GROUP_LANES] = [0, 4, 2, 6, 1, 5, 3, 7];
/// Half tiles of sums that wait for their second half.
const WAITING: usize = 4;

/// The sums of half a tile's rows.
type Sums = [f32; ROWS];

/// See [`sarit_core::Kernels::matmul`].
#[inline(never)]
pub(super) fn matmul(w: &Tiled<'_>, x: Quantized<'_>, y: &mut impl RowSink) {
    for t in 0..x.count {
        let (codes, x_scales, _) = x.row(t);
        let y = &mut y.row(t)[..w.rows];
        if w.groups == 0 {
            y.fill(0.0);
            continue;
        }
        let product = Product::new(w, codes, x_scales);
        let (whole, rest) = y.as_chunks_mut::<ROWS>();
        let mut last = MaybeUninit::<Sums>::uninit();
        let mut first = 0;
        while first * ROWS < w.rows {
            let left = whole.len() - first;
            let (rows, count, sums) = match left {
                0 => (rest.len(), 1, last.as_mut_ptr()),
                _ => (ROWS, left.min(product.most_half_tiles()), whole[first..].as_mut_ptr()),
            };
            // SAFETY: these are sums of so many half tiles of the matrix.
            unsafe { product.half_tiles(first, rows, sums, count) };
            first += count;
        }
        if !rest.is_empty() {
            // SAFETY: the loop has written the sums of the last half tile.
            rest.copy_from_slice(unsafe { &last.assume_init_ref()[..rest.len()] });
        }
    }
}

/// Operands of a product, at least one group.
struct Product<'a> {
    w: &'a Tiled<'a>,
    codes: &'a [[i8; GROUP]],
    x_scales: &'a [f32],
    /// How many sums wait for their second half at the same time; 2 to this power is the number of chains.
    levels: usize,
}

impl<'a> Product<'a> {
    fn new(w: &'a Tiled<'a>, codes: &'a [[i8; GROUP]], x_scales: &'a [f32]) -> Self {
        let tiles = w.tile_rows() * w.groups;
        assert!(w.codes.len() == tiles * CODE_BYTES && w.scales.len() == tiles * TILE_ROWS);
        assert!(codes.len() == w.groups && x_scales.len() == w.groups);
        let chains = (w.groups.next_power_of_two() / 2).clamp(1, GROUP_LANES);
        Self { w, codes, x_scales, levels: chains.ilog2() as usize }
    }

    /// So many that their sums can wait.
    fn most_half_tiles(&self) -> usize {
        WAITING.checked_div(self.levels).unwrap_or(usize::MAX)
    }

    /// The first `rows` rows of `count` half tiles from `first` on.
    ///
    /// # Safety
    /// There are so many half tiles, at least one and no more than [`Self::most_half_tiles`], and `sums`.
    #[inline(always)]
    unsafe fn half_tiles(&self, first: usize, rows: usize, sums: *mut Sums, count: usize) {
        let (groups, chains, half) = (self.w.groups, 1 << self.levels, first % 2);
        let mut waiting = [const { MaybeUninit::<Sums>::uninit() }; WAITING];
        let waiting = waiting.as_mut_ptr().cast::<Sums>();
        // Where sums wait for their second half, level by level; on the first one they become the product.
        let level = |level: usize| match level {
            0 => sums,
            level => waiting.wrapping_add((level - 1) * count),
        };
        let steps = [groups * SCALE_BYTES, groups * CODE_BYTES];
        let first_step = match half {
            0 => [HALF_SCALE_BYTES, HALF_CODE_BYTES],
            _ => [steps[0] - HALF_SCALE_BYTES, steps[1] - HALF_CODE_BYTES],
        };
        let tile = first / 2 * groups;
        let scales = self.w.scales.as_ptr().wrapping_add(tile * TILE_ROWS + half * ROWS);
        let codes = self.w.codes.as_ptr().wrapping_add(tile * CODE_BYTES + half * HALF_CODE_BYTES);
        let whole = start(rows, GROUP);
        let last = start(rows, self.w.cols - (groups - 1) * GROUP);
        let mut here = 0;
        for (i, lane) in FOLD_ORDER[..chains].iter().enumerate() {
            let chain = lane * chains / GROUP_LANES;
            let terms = ((groups - 1 - chain) >> self.levels) + 1;
            let is_last = chain + (terms << self.levels) == groups - 1 + chains;
            let mut work = Chain {
                steps,
                scales: scales.wrapping_add(chain * TILE_ROWS),
                codes: codes.wrapping_add(chain * CODE_BYTES),
                x: self.codes.as_ptr().wrapping_add(chain),
                x_scale: self.x_scales.as_ptr().wrapping_add(chain),
                sums: level(here),
                half_tiles: count,
                first_step,
                distance: chains,
                groups: terms,
                last_start: if is_last { last } else { whole },
                start: whole,
            };
            // SAFETY: as this function asks; a chain has so many groups, and so many sums have a place on every level.
            unsafe { add_groups(&mut work) };
            for _ in 0..i.trailing_ones() {
                // SAFETY: both levels hold so many sums.
                unsafe { add(level(here - 1), level(here), count) };
                here -= 1;
            }
            here += 1;
        }
    }
}

/// Where [`add_groups`] begins with a half tile of which so many rows and columns are wanted: 0 for all of them, 1..=7
/// for so many lines of all rows, 8..=15 for one line more than 0..=7 of four rows.
fn start(rows: usize, cols: usize) -> usize {
    let lines = cols.div_ceil(LINE_COLS);
    match rows {
        ..=4 => 7 + lines,
        _ => lines % (GROUP / LINE_COLS),
    }
}

/// What [`add_groups`] works on: one chain of groups.
#[repr(C)]
struct Chain {
    /// Distances in bytes of scales and codes from half a tile row to the same half of the next.
    steps: [usize; 2],
    /// Where the group's scales and codes of the first half tile are, its codes and scale of `x`. These move on.
    scales: *const f16,
    codes: *const u8,
    x: *const [i8; GROUP],
    x_scale: *const f32,
    sums: *mut Sums,
    /// At least 1.
    half_tiles: usize,
    first_step: [usize; 2],
    /// Groups from one to the next.
    distance: usize,
    /// Left, at least 1.
    groups: usize,
    /// See [`start`]: of the last group, and of the others.
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
    from_step: usize,
    start: usize,
    steps: [usize; 2],
}

/// Two rows of a line, whose weights are at `$at`: `$first` begins or goes on with the sums `$a` and `$b`.
macro_rules! two_rows {
    ($at:literal, $a:literal, $b:literal, $begin:literal, $a0:literal, $b0:literal) => {
        concat!(
            "ldrd r10, r11, [lr, #",
            $at,
            "]\n",
            "sxtb16 r12, r10\nsxtb16 r10, r10, ror #8\n",
            $begin,
            " ",
            $a,
            ", r12, r8",
            $a0,
            "\nsmlad ",
            $a,
            ", r10, r9, ",
            $a,
            "\n",
            "sxtb16 r12, r11\nsxtb16 r11, r11, ror #8\n",
            $begin,
            " ",
            $b,
            ", r12, r8",
            $b0,
            "\nsmlad ",
            $b,
            ", r11, r9, ",
            $b,
            "\n",
        )
    };
}

/// A line: four columns of eight rows. The columns' codes are at `$x` on the stack, the weights of two rows each at the
/// other offsets.
macro_rules! line {
    ($x:literal, $at0:literal, $at1:literal, $at2:literal, $at3:literal) => {
        concat!(
            "ldrd r8, r9, [sp, #{x} + ",
            $x,
            "]\n",
            two_rows!($at0, "r0", "r1", "smlad", ", r0", ", r1"),
            two_rows!($at1, "r2", "r3", "smlad", ", r2", ", r3"),
            two_rows!($at2, "r4", "r5", "smlad", ", r4", ", r5"),
            two_rows!($at3, "r6", "r7", "smlad", ", r6", ", r7"),
        )
    };
}

/// The line that a whole group begins with.
macro_rules! first_line {
    ($x:literal, $at0:literal, $at1:literal, $at2:literal, $at3:literal) => {
        concat!(
            "ldrd r8, r9, [sp, #{x} + ",
            $x,
            "]\n",
            two_rows!($at0, "r0", "r1", "smuad", "", ""),
            two_rows!($at1, "r2", "r3", "smuad", "", ""),
            two_rows!($at2, "r4", "r5", "smuad", "", ""),
            two_rows!($at3, "r6", "r7", "smuad", "", ""),
        )
    };
}

/// Four rows of a line.
macro_rules! half_line {
    ($x:literal, $at0:literal, $at1:literal) => {
        concat!(
            "ldrd r8, r9, [sp, #{x} + ",
            $x,
            "]\n",
            two_rows!($at0, "r0", "r1", "smlad", ", r0", ", r1"),
            two_rows!($at1, "r2", "r3", "smlad", ", r2", ", r3"),
        )
    };
}

/// `sums[r] = 0 + (codes · codes) · (scale · x_scale) + …` for eight rows of every half tile, group after group.
///
/// # Safety
/// There are as many groups, half tiles and sums as `chain` says.
#[unsafe(naked)]
unsafe extern "C" fn add_groups(chain: &mut Chain) {
    /// Of four codes `[x0, x2]` and `[x1, x3]`, sign-extended, to `$to` on the stack.
    macro_rules! unpack {
        ($($at:literal, $to:literal)*) => {
            concat!($(
                "ldr r4, [r2, #", $at, "]\nsxtb16 r6, r4\nsxtb16 r7, r4, ror #8\nstrd r6, r7, [sp, #{x} + ", $to, "]\n"
            ),*)
        };
    }
    naked_asm!(
        CORE!(),
        "push {{r0, r4-r11, lr}}",
        "vpush {{d8-d12}}",
        "sub sp, #{frame}",
        "mov r12, r0",
        "ldr r1, 9f",
        "movs r2, #0",
        "str r1, [sp, #{from}]",
        "str r2, [sp, #{from_step}]",
        "ldm r12!, {{r0, r1}}",
        "strd r0, r1, [sp, #{steps}]",
        // A group: the pointers move on to the next one.
        "4:",
        "ldm r12, {{r0-r7, r9-r11, lr}}", // the fields of [`Chain`] behind steps
        "subs r10, #1",
        "it eq",
        "moveq lr, r11",
        "str lr, [sp, #{start}]",
        "str r10, [r12, #{groups}]",
        "str r0, [sp]",
        "strd r4, r5, [sp, #{out}]",
        "strd r6, r7, [sp, #{step}]",
        "vldr s24, [r3]",
        unpack!("0", "0" "4", "8" "8", "16" "12", "24" "16", "32" "20", "40" "24", "48" "28", "56"),
        "mov r7, lr",
        "mov lr, r1",
        "add r0, r0, r9, lsl #5",
        "add r1, r1, r9, lsl #9",
        "add r2, r2, r9, lsl #5",
        "add r3, r3, r9, lsl #2",
        "stm r12, {{r0-r3}}",
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
        ".hword (21f - 2b) / 2, (22f - 2b) / 2, (23f - 2b) / 2, (24f - 2b) / 2",
        ".hword (25f - 2b) / 2, (26f - 2b) / 2, (27f - 2b) / 2, (28f - 2b) / 2",
        "3:",
        first_line!("56", "448", "456", "464", "472"),
        "17:",
        line!("48", "384", "392", "400", "408"),
        "16:",
        line!("40", "320", "328", "336", "344"),
        "15:",
        line!("32", "256", "264", "272", "280"),
        "14:",
        line!("24", "192", "200", "208", "216"),
        "13:",
        line!("16", "128", "136", "144", "152"),
        "12:",
        line!("8", "64", "72", "80", "88"),
        "11:",
        line!("0", "0", "8", "16", "24"),
        // The sums as floats, times the scales.
        "5:",
        "vmov d4, r0, r1",
        "vmov d5, r2, r3",
        "vmov d6, r4, r5",
        "vmov d7, r6, r7",
        "ldm sp, {{r0-r9}}", // the fields of [`HalfTile`]
        "vldmia r0, {{s20-s23}}",
        "add r0, r4",
        "vcvtb.f32.f16 s16, s20",
        "vcvtt.f32.f16 s17, s20",
        "vcvtb.f32.f16 s18, s21",
        "vcvtt.f32.f16 s19, s21",
        "vcvtb.f32.f16 s20, s22",
        "vcvtt.f32.f16 s21, s22",
        "vcvtb.f32.f16 s22, s23",
        "vcvtt.f32.f16 s23, s23",
        eight!("vcvt.f32.s32": "s8, s8" "s9, s9" "s10, s10" "s11, s11" "s12, s12" "s13, s13" "s14, s14" "s15, s15"),
        eight!("vmul.f32": "s16, s16, s24" "s17, s17, s24" "s18, s18, s24" "s19, s19, s24"
            "s20, s20, s24" "s21, s21, s24" "s22, s22, s24" "s23, s23, s24"),
        "vldmia r1, {{s0-s7}}",
        "add r1, r6",
        eight!("vmla.f32": "s0, s8, s16" "s1, s9, s17" "s2, s10, s18" "s3, s11, s19"
            "s4, s12, s20" "s5, s13, s21" "s6, s14, s22" "s7, s15, s23"),
        "vstmia r2!, {{s0-s7}}",
        "add lr, r5",
        "sub r4, r8, r4",
        "sub r5, r9, r5",
        "subs r3, #1",
        "stm sp, {{r0-r5}}",
        "bne 1b",
        // The next group adds to these sums.
        "ldr r12, [sp, #{chain}]",
        "adds r12, #{scales}",
        "ldr r0, [r12, #{groups}]",
        "cbz r0, 6f",
        "ldr r1, [r12, #{sums}]",
        "movs r2, #32",
        "str r1, [sp, #{from}]",
        "str r2, [sp, #{from_step}]",
        "b 4b",
        "6:",
        "add sp, #{frame}",
        "vpop {{d8-d12}}",
        "pop {{r0, r4-r11, pc}}",
        // Four rows.
        "28:",
        half_line!("56", "448", "456"),
        "27:",
        half_line!("48", "384", "392"),
        "26:",
        half_line!("40", "320", "328"),
        "25:",
        half_line!("32", "256", "264"),
        "24:",
        half_line!("24", "192", "200"),
        "23:",
        half_line!("16", "128", "136"),
        "22:",
        half_line!("8", "64", "72"),
        "21:",
        half_line!("0", "0", "8"),
        "b 5b",
        ".p2align 2",
        "9:",
        ".word {zeros}",
        zeros = sym ZEROS,
        x = const size_of::<HalfTile>(),
        frame = const size_of::<HalfTile>() + 2 * GROUP,
        chain = const size_of::<HalfTile>() + 2 * GROUP + 5 * size_of::<f64>(),
        scales = const offset_of!(Chain, scales),
        sums = const offset_of!(Chain, sums) - offset_of!(Chain, scales),
        groups = const offset_of!(Chain, groups) - offset_of!(Chain, scales),
        from = const offset_of!(HalfTile, from),
        out = const offset_of!(HalfTile, out),
        step = const offset_of!(HalfTile, step),
        from_step = const offset_of!(HalfTile, from_step),
        start = const offset_of!(HalfTile, start),
        steps = const offset_of!(HalfTile, steps),
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
