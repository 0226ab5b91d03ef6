//! How the weights of long products with one row come to shared memory before they are needed: `kernels/ring.cuh`.

use super::Program;
use super::builder::WARPS;
use super::layout::SharedRow;
use super::records::{Ahead, LongProduct, Mat};
use sarit_core::{GROUP, TILE_ROWS};
use std::ops::Range;

/// Shared memory that a block has to have: devices with an engine for such copies, since compute capability 9.0, have it, and no others.
const SHARED_LEAST: usize = 200 << 10;

/// Elements of a matrix from which on it is long: of fewer, all weights are under way in registers on a grid of 132 blocks.
const LONG: usize = 8 << 20;

/// Places, at least, and as many as the kernels know.
const SLOTS_LEAST: usize = 4;
const SLOTS_MOST: usize = 16;

/// Bytes of a piece, and of those that are under way, at most: with fewer of those memory is not busy (40 KB of each of 132 blocks make
/// 4.4 TB/s on an H200, 20 KB 3.3), with more what operations read waits longer.
const PIECE_BYTES: usize = 12 << 10;
const UNDER_WAY_BYTES: usize = 46 << 10;

/// Groups of a row whose terms find room in shared memory: floats there, and floats of a group.
const GROUPS_MOST: usize = 4096 / 20;

/// The least common multiple.
fn lcm(a: usize, b: usize) -> usize {
    (a..).step_by(a).find(|n| n.is_multiple_of(b)).expect("the product is one")
}

fn groups_of(w: &Mat) -> usize {
    (w.cols as usize).div_ceil(GROUP)
}

/// Whether a product with one row of `w` takes its weights so, if there is room at all.
pub(super) fn is_long(w: &Mat, shared_bytes: usize) -> bool {
    let is_long = w.rows as usize * w.cols as usize >= LONG;
    w.is_quantized() && is_long && groups_of(w) <= GROUPS_MOST && shared_bytes >= SHARED_LEAST
}

/// The long products of the program for one row.
#[derive(Debug, Clone)]
pub(crate) struct Ring {
    ahead: Ahead,
    /// Numbers of their operations.
    ops: Vec<usize>,
}

impl Ring {
    /// Lets the long products of `program` take their weights so, in what `row` leaves of the shared memory of a block, if that has room.
    pub(super) fn new(program: &mut Program, row: SharedRow, shared_bytes: usize) -> Self {
        let (mut ops, mut all, mut has_body) = (Vec::new(), Vec::new(), false);
        for (i, op) in program.ops.iter_mut().enumerate() {
            let first = op.first;
            let Some(product) = op.product() else { continue };
            if is_long(&product.w, shared_bytes) {
                ops.push(i);
                all.push(LongProduct { w: product.w, passed: first, begin: product.begin });
                has_body |= product.head == 0;
            }
        }
        let none = Self { ahead: Ahead::NONE, ops: Vec::new() };
        // The head alone would keep the others' loads from their cache.
        if !has_body {
            return none;
        }
        let group_bytes = all.iter().map(|long| long.w.tile_bytes() + 2 * TILE_ROWS).max().unwrap_or(1);
        // A warp's groups of a row are in one piece.
        let least = all.iter().map(|long| groups_of(&long.w).div_ceil(WARPS)).fold(1, lcm);
        let groups = least * (PIECE_BYTES / (least * group_bytes)).max(1);
        let place_bytes = groups * group_bytes;
        let slots = (shared_bytes.saturating_sub(row.bytes()) / place_bytes).min(SLOTS_MOST);
        // A row of tiles is there as a whole before its places are free again.
        let parts = all.iter().map(|long| groups_of(&long.w).div_ceil(groups)).max().unwrap_or(1);
        if slots < parts.max(SLOTS_LEAST) {
            return none;
        }
        let under_way = (UNDER_WAY_BYTES / place_bytes).clamp(1, slots);
        let table = program.tables.len();
        program.tables.extend_from_slice(bytemuck::cast_slice(&all));
        let [slots, groups, place_bytes, under_way, table] =
            [slots, groups, place_bytes, under_way, table].map(|n| n as u32);
        let ahead = Ahead { slots, groups, place_bytes, under_way, table, first: 0, last: all.len() as u32 };
        for &i in &ops {
            program.ops[i].product().expect("it is one").ahead = ahead;
        }
        Self { ahead, ops }
    }

    /// Places, of which there may be none.
    pub(super) fn slots(&self) -> usize {
        self.ahead.slots as usize
    }

    /// Bytes of the places.
    pub(super) fn bytes(&self) -> usize {
        (self.ahead.slots * self.ahead.place_bytes) as usize
    }

    /// For a launch of some of the operations.
    pub(crate) fn of(&self, ops: &Range<usize>) -> Ahead {
        let before = |op: usize| self.ops.partition_point(|&own| own < op) as u32;
        Ahead { first: before(ops.start), last: before(ops.end), ..self.ahead }
    }
}
