//! Products of a q8 matrix with codes.
//!
//! Eight rows of a tile are summed at once: eight accumulators, the codes of four columns as two pairs of halfwords,
//! two words of weights, one half-unpacked word and the address are all the registers that a core has. A line of four
//! columns takes 37 instructions for 32 products: two of them are the multiplications of a row, two sign-extend its
//! weights, and the rest is loads. All else is in memory, at [`Work`].
//!
//! A *chain* is those groups of the rows that are added one after another: a lane of the contract, or the two lanes
//! that `fold` adds first where each holds one group only. The bits are the same, because a lane is never -0.

use super::exp2::eight;
use core::arch::{asm, naked_asm};
use core::mem::{MaybeUninit, offset_of};
use core::ptr::null_mut;
use half::f16;
use sarit_core::kernels::{GROUP_LANES, Quantized, RowSink, fold};
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

/// A group's codes as halfwords, of each four columns `[x0, x2]` and `[x1, x3]`; groups lie in the order in which they
/// are added.
#[repr(C)]
struct Group {
    pairs: [[u32; 2]; GROUP / LINE_COLS],
    scale: f32,
    /// What ends with it: [`CHAIN`], [`HALF_TILE`], or nothing (0).
    ends: usize,
    /// Where its tile begins in the tile row.
    code_bytes: usize,
    /// 0 for a whole group, else the lines that hold columns.
    lines: usize,
}

const CHAIN: usize = 1;
const HALF_TILE: usize = 2;

/// See [`sarit_core::Kernels::matmul`].
pub(super) fn matmul(w: &Tiled<'_>, x: Quantized<'_>, y: &mut impl RowSink) {
    for t in 0..x.count {
        let (codes, x_scales, _) = x.row(t);
        let y = &mut y.row(t)[..w.rows];
        match w.groups {
            0 => y.fill(0.0),
            1..=4 => few_groups::<2, 4>(w, codes, x_scales, y),
            5..=GROUP_LANES => few_groups::<4, 8>(w, codes, x_scales, y),
            _ => many_groups(w, codes, x_scales, y),
        }
    }
}

/// Products with at most `GROUPS` groups, which make at most `CHAINS` chains.
#[inline(never)]
fn few_groups<const CHAINS: usize, const GROUPS: usize>(
    w: &Tiled<'_>,
    codes: &[[i8; GROUP]],
    x_scales: &[f32],
    y: &mut [f32],
) {
    let mut x = [const { MaybeUninit::uninit() }; GROUPS];
    let mut sums = [[0.0; ROWS]; CHAINS];
    let chains = w.groups.next_power_of_two().div_ceil(2);
    let x = expand(w, 0, codes, x_scales, chains, &mut x);
    let mut work = Work::new(w, 0, 0, x, &mut sums[..chains]);
    let (whole, rest) = y.as_chunks_mut();
    if !whole.is_empty() {
        work.rows(whole);
    }
    if !rest.is_empty() {
        work.last_rows();
        rest.copy_from_slice(&sums[0][..rest.len()]);
    }
}

/// Products with any number of groups, whose codes are expanded eight groups at a time.
#[inline(never)]
fn many_groups(w: &Tiled<'_>, codes: &[[i8; GROUP]], x_scales: &[f32], y: &mut [f32]) {
    let mut x = [const { MaybeUninit::uninit() }; GROUP_LANES];
    for (i, out) in y.chunks_mut(ROWS).enumerate() {
        let mut lanes = [[0.0; ROWS]; GROUP_LANES];
        for first in (0..w.groups).step_by(GROUP_LANES) {
            let end = w.groups.min(first + GROUP_LANES);
            let x = expand(w, first, &codes[first..end], &x_scales[first..end], GROUP_LANES, &mut x);
            let mut terms = [[0.0; ROWS]; GROUP_LANES];
            Work::new(w, i, first, x, &mut terms).chains();
            for (lane, term) in lanes.iter_mut().zip(&terms) {
                lane.iter_mut().zip(term).for_each(|(lane, term)| *lane += term);
            }
        }
        for (r, out) in out.iter_mut().enumerate() {
            *out = fold(lanes.map(|lane| lane[r]));
        }
    }
}

/// Sign-extends the codes of groups of which the first is group `first` of the matrix, and puts them in order.
fn expand<'a>(
    w: &Tiled<'_>,
    first: usize,
    codes: &[[i8; GROUP]],
    x_scales: &[f32],
    chains: usize,
    x: &'a mut [MaybeUninit<Group>],
) -> &'a [Group] {
    let x = &mut x[..codes.len()];
    let mut place = 0;
    for chain in 0..chains.min(codes.len()) {
        for g in (chain..codes.len()).step_by(chains) {
            let cols = w.cols - (first + g) * GROUP;
            let ends = if g + chains < codes.len() { 0 } else { CHAIN };
            let group = x[place].as_mut_ptr();
            // SAFETY: a place for a group, of which all fields are written.
            unsafe {
                extend(&codes[g], &raw mut (*group).pairs);
                (&raw mut (*group).scale).write(x_scales[g]);
                (&raw mut (*group).ends).write(if place + 1 < codes.len() { ends } else { HALF_TILE });
                (&raw mut (*group).code_bytes).write(g * CODE_BYTES);
                let lines = if cols > GROUP - LINE_COLS { 0 } else { cols.div_ceil(LINE_COLS) };
                (&raw mut (*group).lines).write(lines);
            }
            place += 1;
        }
    }
    assert!(place == x.len());
    // SAFETY: each place has been written: every group is in one of the chains.
    unsafe { x.assume_init_ref() }
}

/// Of each four codes `[x0, x2]` and `[x1, x3]`, sign-extended.
///
/// # Safety
/// `pairs` may be written.
#[inline(always)]
unsafe fn extend(codes: &[i8; GROUP], pairs: *mut [[u32; 2]; GROUP / LINE_COLS]) {
    /// Of four codes, which need not lie on a boundary of a word.
    macro_rules! four {
        () => {
            "ldr {a}, [{codes}], #4\nsxtb16 {b}, {a}\nsxtb16 {a}, {a}, ror #8\nstrd {b}, {a}, [{pairs}], #8"
        };
    }
    // SAFETY: reads all codes and writes all pairs.
    unsafe {
        asm!(
            four!(), four!(), four!(), four!(), four!(), four!(), four!(), four!(),
            codes = inout(reg) codes.as_ptr() => _, pairs = inout(reg) pairs => _,
            a = out(reg) _, b = out(reg) _,
            options(nostack, preserves_flags)
        );
    }
}

/// What [`add_half_tiles`] works on; it moves the pointers on.
#[repr(C)]
struct Work {
    /// Codes of eight rows of a tile row.
    codes: *const u8,
    /// The same of its scales.
    scales: *const f16,
    /// The group that is added.
    x: *const Group,
    /// Where the chain's sums go.
    sum: *mut [f32; ROWS],
    /// The first group, and where the first chain's sums go.
    first_x: *const Group,
    sums: *mut [f32; ROWS],
    /// Chains, a power of two.
    chains: usize,
    /// Distances in bytes of codes and scales to the next half tile, and from that to the one after it.
    steps: [[usize; 2]; 2],
    /// Where the rows go, or null to leave the chains alone.
    out: *mut [f32; ROWS],
    /// Half tiles left, at least 1.
    half_tiles: usize,
}

impl Work {
    /// From half tile `half_tile` on, with the groups `x`, of which the first is group `first` of the matrix.
    fn new(w: &Tiled<'_>, half_tile: usize, first: usize, x: &[Group], sums: &mut [[f32; ROWS]]) -> Self {
        let (tile_row, half) = (half_tile / 2, half_tile % 2);
        let codes = &w.tile_codes::<CODE_BYTES>(tile_row)[first..first + x.len()];
        let scales = &w.tile_scales(tile_row)[first * TILE_ROWS..(first + x.len()) * TILE_ROWS];
        assert!(!x.is_empty());
        let over = [HALF_CODE_BYTES, HALF_SCALE_BYTES];
        let down = [w.groups * CODE_BYTES - over[0], w.groups * SCALE_BYTES - over[1]];
        Self {
            codes: codes.as_flattened()[half * HALF_CODE_BYTES..].as_ptr(),
            scales: scales[half * ROWS..].as_ptr(),
            x: x.as_ptr(),
            sum: sums.as_mut_ptr(),
            first_x: x.as_ptr(),
            sums: sums.as_mut_ptr(),
            chains: sums.len(),
            steps: if half == 0 { [over, down] } else { [down, over] },
            out: null_mut(),
            half_tiles: 1,
        }
    }

    /// The chains of one half tile.
    fn chains(mut self) {
        // SAFETY: `new` has found that the matrix holds this half tile.
        unsafe { add_half_tiles(&mut self) };
    }

    /// The rows of the next half tile, in place of the first chain.
    fn last_rows(&mut self) {
        (self.out, self.half_tiles) = (self.sums, 1);
        // SAFETY: the caller asks for a half tile that holds rows of the matrix.
        unsafe { add_half_tiles(self) };
    }

    /// The rows of the next half tiles, as many as `out` has.
    fn rows(&mut self, out: &mut [[f32; ROWS]]) {
        (self.out, self.half_tiles) = (out.as_mut_ptr(), out.len());
        // SAFETY: the callers ask for half tiles that hold rows of the matrix.
        unsafe { add_half_tiles(self) };
    }
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

/// A line: four columns of eight rows. `$x` holds the columns' codes, the offsets are those of two rows each.
macro_rules! line {
    ($x:literal, $at0:literal, $at1:literal, $at2:literal, $at3:literal) => {
        concat!(
            "vmov r8, r9, ",
            $x,
            "\n",
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
            "vmov r8, r9, ",
            $x,
            "\n",
            two_rows!($at0, "r0", "r1", "smuad", "", ""),
            two_rows!($at1, "r2", "r3", "smuad", "", ""),
            two_rows!($at2, "r4", "r5", "smuad", "", ""),
            two_rows!($at3, "r6", "r7", "smuad", "", ""),
        )
    };
}

/// `sum[r] += (codes · codes) · (scale · x_scale)` for eight rows, group after group of a chain; the chains folded are
/// the rows of half a tile.
///
/// # Safety
/// There are as many groups, chains and half tiles as `work` says.
#[unsafe(naked)]
unsafe extern "C" fn add_half_tiles(work: &mut Work) {
    naked_asm!(
        CORE!(),
        "push {{r0, r4-r11, lr}}",
        "vpush {{d8-d15}}",
        "mov r8, r0",
        "1:",
        "ldm r8, {{r0-r2}}",
        // A chain: its sums are s0-s7.
        "2:",
        "movs r3, #0",
        "vmov d0, r3, r3",
        "vmov d1, r3, r3",
        "vmov d2, r3, r3",
        "vmov d3, r3, r3",
        // A group: the codes of its tile at lr, those of x in d8-d15.
        "3:",
        "ldrd r3, r4, [r2, #{group_codes}]",
        "vldmia r2, {{d8-d15}}",
        "add lr, r0, r3",
        "cmp r4, #0",
        "bne 6f",
        first_line!("d15", "448", "456", "464", "472"),
        "17:",
        line!("d14", "384", "392", "400", "408"),
        "16:",
        line!("d13", "320", "328", "336", "344"),
        "15:",
        line!("d12", "256", "264", "272", "280"),
        "14:",
        line!("d11", "192", "200", "208", "216"),
        "13:",
        line!("d10", "128", "136", "144", "152"),
        "12:",
        line!("d9", "64", "72", "80", "88"),
        "11:",
        line!("d8", "0", "8", "16", "24"),
        // The sums as floats, times the scales.
        "vmov d4, r0, r1",
        "vmov d5, r2, r3",
        "vmov d6, r4, r5",
        "vmov d7, r6, r7",
        "ldr r8, [sp, #64]",
        "ldm r8, {{r0-r2}}",
        "ldrd r3, r4, [r2, #{group_ends}]",
        "vldr s20, [r2, #{group_scale}]",
        "add r4, r1, r4, lsr #4",
        "vldmia r4, {{s16-s19}}",
        "vcvtb.f32.f16 s24, s16",
        "vcvtt.f32.f16 s25, s16",
        "vcvtb.f32.f16 s26, s17",
        "vcvtt.f32.f16 s27, s17",
        "vcvtb.f32.f16 s28, s18",
        "vcvtt.f32.f16 s29, s18",
        "vcvtb.f32.f16 s30, s19",
        "vcvtt.f32.f16 s31, s19",
        eight!("vcvt.f32.s32": "s8, s8" "s9, s9" "s10, s10" "s11, s11" "s12, s12" "s13, s13" "s14, s14" "s15, s15"),
        eight!("vmul.f32": "s24, s24, s20" "s25, s25, s20" "s26, s26, s20" "s27, s27, s20"
            "s28, s28, s20" "s29, s29, s20" "s30, s30, s20" "s31, s31, s20"),
        eight!("vmla.f32": "s0, s8, s24" "s1, s9, s25" "s2, s10, s26" "s3, s11, s27"
            "s4, s12, s28" "s5, s13, s29" "s6, s14, s30" "s7, s15, s31"),
        "add r2, #{group_bytes}",
        "str r2, [r8, #{x}]",
        "cmp r3, #{chain_ends}",
        "blo 3b",
        // The chain's end.
        "ldr r5, [r8, #{chains}]",
        "lsrs r5, #1",
        "beq 5f",
        "ldr r4, [r8, #{sum}]",
        "vstmia r4!, {{s0-s7}}",
        "str r4, [r8, #{sum}]",
        "cmp r3, #{chain_ends}",
        "beq 2b",
        // All chains: `fold` them into the first, of which s0-s7 are a copy in the end.
        "ldr r6, [r8, #{out}]",
        "cmp r6, #0",
        "beq 9f",
        "4:",
        "ldr r3, [r8, #{sums}]",
        "add r4, r3, r5, lsl #5",
        "mov r6, r5",
        "7:",
        "vldmia r3, {{s0-s7}}",
        "vldmia r4!, {{s8-s15}}",
        eight!("vadd.f32": "s0, s0, s8" "s1, s1, s9" "s2, s2, s10" "s3, s3, s11"
            "s4, s4, s12" "s5, s5, s13" "s6, s6, s14" "s7, s7, s15"),
        "vstmia r3!, {{s0-s7}}",
        "subs r6, #1",
        "bne 7b",
        "lsrs r5, #1",
        "bne 4b",
        // The rows, and the next half tile.
        "5:",
        "ldr r6, [r8, #{out}]",
        "vstmia r6!, {{s0-s7}}",
        "str r6, [r8, #{out}]",
        "ldrd r2, r3, [r8, #{first_x}]",
        "add r12, r8, #{steps}",
        "ldm r12, {{r4-r7}}",
        "strd r6, r7, [r12]",
        "strd r4, r5, [r12, #8]",
        "add r0, r4",
        "add r1, r5",
        "stm r8, {{r0-r3}}",
        "ldr r4, [r8, #{half_tiles}]",
        "subs r4, #1",
        "str r4, [r8, #{half_tiles}]",
        "bne 2b",
        "9:",
        "vpop {{d8-d15}}",
        "pop {{r0, r4-r11, pc}}",
        // A group with fewer lines.
        "6:",
        "adr r8, 8f",
        "ldr r12, [r8, r4, lsl #2]",
        "add r8, r12",
        "movs r0, #0",
        "movs r1, #0",
        "movs r2, #0",
        "movs r3, #0",
        "movs r4, #0",
        "movs r5, #0",
        "movs r6, #0",
        "movs r7, #0",
        "bx r8",
        ".p2align 2",
        "8:",
        ".word 0, 11b - 8b + 1, 12b - 8b + 1, 13b - 8b + 1",
        ".word 14b - 8b + 1, 15b - 8b + 1, 16b - 8b + 1, 17b - 8b + 1",
        x = const offset_of!(Work, x),
        sum = const offset_of!(Work, sum),
        first_x = const offset_of!(Work, first_x),
        sums = const offset_of!(Work, sums),
        chains = const offset_of!(Work, chains),
        steps = const offset_of!(Work, steps),
        out = const offset_of!(Work, out),
        half_tiles = const offset_of!(Work, half_tiles),
        group_scale = const offset_of!(Group, scale),
        group_ends = const offset_of!(Group, ends),
        group_codes = const offset_of!(Group, code_bytes),
        group_bytes = const size_of::<Group>(),
        chain_ends = const CHAIN,
    )
}
