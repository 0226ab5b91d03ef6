//! Lines of shared memory: room for weights of products with one row that come while a block waits for the product's input, beside those for which
//! its threads have registers.

use super::builder::{Extent, SharedRow, THREADS};
use super::records::{Op, Product};
use sarit_core::GROUP;

/// Rows, and groups of columns, of a step; steps at once; those of a batch, of which the first comes to registers: as the kernels have them.
const STEP_ROWS: usize = 8;
const STEP_GROUPS: usize = 8;
const PAIRS: usize = 8;
const AHEAD: usize = 4;

/// Bytes of a line, which has a step's weights for each thread: as the kernels have it.
const LINE_BYTES: usize = THREADS * 36;
/// Bytes that lines may lie further on for their alignment.
const ALIGN_BYTES: usize = 16;

/// Bytes of lines for so many steps.
pub(super) fn bytes(steps: usize) -> usize {
    if steps > 0 { ALIGN_BYTES + LINE_BYTES * steps } else { 0 }
}

/// Steps of a pair of warps for which there are lines: in whole batches, as many as the longest of the products needs or as have room beside a row.
pub(super) fn steps(ops: &[Op], row: SharedRow, extent: Extent) -> usize {
    let of_pair = |p: Product| {
        let units = (p.w.rows as usize).div_ceil(STEP_ROWS).div_ceil(extent.grid);
        let of_unit = (p.w.cols as usize).div_ceil(GROUP * STEP_GROUPS);
        if p.w.is_quantized() { (units * of_unit).div_ceil(PAIRS) } else { 0 }
    };
    let most = ops.iter().filter_map(Op::product).map(of_pair).max().unwrap_or(0);
    let room = extent.shared_bytes.saturating_sub(row.bytes() + ALIGN_BYTES) / LINE_BYTES;
    most.saturating_sub(AHEAD).next_multiple_of(AHEAD).min(room / AHEAD * AHEAD)
}
