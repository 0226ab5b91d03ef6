//! Where things lie: buffers in scratch, and a row in the shared memory of a block.

use super::records::SHARED_START_BYTES;
use crate::error::CudaError;
use sarit_core::{ALIGN, GROUP};
use std::ops::Range;

/// Tokens of a scan in chunks: as the kernels have it.
pub(super) const CHUNK: usize = 64;

/// Most rows of a unit of a product in f16: whole ones are read.
pub(super) const UNIT_ROWS: usize = 192;

/// Bytes of a group in shared memory: codes, scale, sum of codes.
const SHARED_GROUP_BYTES: usize = GROUP + 8;

/// Buffers in scratch; all hold one row for each row of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Buffer {
    Residual,
    Embedded,
    Branch,
    /// Normed input of blocks that share it.
    Hidden,
    /// Input projected.
    Proj,
    /// That convolved.
    Conv,
    /// What goes into the output projection.
    Inner,
    /// Output of `x_proj`; input of experts.
    Select,
    /// The same normed; the sum of experts.
    Normed,
    Dt,
    Decay,
    /// What tokens read of their blocks.
    Reads,
    /// Low-rank part of a linear map.
    Adapter,
    /// The same at full rank.
    Adapted,
    Router,
    ExpertIds,
    ExpertWeights,
    /// Outputs of the chosen experts.
    Parts,
    /// A prepared row as floats; of a low-rank part.
    Floats,
    LowFloats,
    /// Inputs of products in f16; of a scan in chunks the input, projected and convolved, and the output.
    Halves,
    HalfProj,
    HalfConv,
    HalfInner,
    /// Matrices in f16.
    Widened,
    Logits,
    /// Attention scores, and states that parts of a scan in chunks keep: one row for each block of the grid.
    Scores,
    ScanParts,
    /// One row of each as posted numbers.
    PostedResidual,
    PostedProj,
    PostedInner,
    PostedSelect,
}

const BUFFERS: usize = Buffer::PostedSelect as usize + 1;

/// Sets of codes: of inputs, which are prepared; of the low-rank parts of adapters, or of what a product or a scan makes for the next
/// product; of dt.
const CODE_SETS: usize = 3;
pub(super) const INPUTS: usize = 0;
pub(super) const MADE: usize = 1;
pub(super) const STEPS: usize = 2;

/// Where buffers lie, in floats, and what a row of each needs. Measured by building a program once.
#[derive(Debug, Clone, Default)]
pub(super) struct Layout {
    /// Floats of a row.
    lens: [usize; BUFFERS],
    starts: [usize; BUFFERS],
    /// Groups of a row's codes.
    groups: [usize; CODE_SETS],
    /// Codes, scales, sums.
    code_starts: [[usize; 3]; CODE_SETS],
    floats: usize,
    /// Room in shared memory that programs for one row need, and those for many.
    pub(super) one: SharedRow,
    pub(super) many: SharedRow,
}

/// Room in shared memory for a row as floats, and as groups of codes; and for weights that come early.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SharedRow {
    pub(crate) floats: usize,
    pub(crate) groups: usize,
    pub(crate) ring_bytes: usize,
}

impl SharedRow {
    /// Bytes of shared memory of a block with such room.
    pub(crate) fn bytes(self) -> usize {
        shared_bytes(self.floats, self.groups) + self.ring_bytes
    }
}

/// How many rows the buffers hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// Of a launch.
    pub(super) rows: usize,
    /// Whose logits are made at once.
    pub(super) logit_rows: usize,
    /// Blocks of a grid.
    pub(super) grid: usize,
    /// Shared memory that a block can have.
    pub(super) shared_bytes: usize,
}

impl Extent {
    /// Rows with those that tensor cores read beyond the last.
    pub(super) fn padded_rows(self) -> usize {
        self.rows.next_multiple_of(8)
    }
}

impl Layout {
    /// Gives each buffer its place, for rows as long as measured.
    pub(super) fn place(&mut self, extent: Extent) -> Result<(), CudaError> {
        let mut floats = 0usize;
        let mut take = |len: usize, rows: usize| {
            let start = floats;
            let end = len.checked_mul(rows).and_then(|n| n.checked_add(start));
            floats = end.map_or(usize::MAX / 2, |end| end.next_multiple_of(ALIGN / 4));
            start
        };
        for (i, (start, len)) in self.starts.iter_mut().zip(self.lens).enumerate() {
            *start = take(
                len,
                match i {
                    _ if i == Buffer::Scores as usize || i == Buffer::ScanParts as usize => extent.grid,
                    _ if i == Buffer::Logits as usize => extent.logit_rows,
                    _ if i == Buffer::Widened as usize => 1,
                    _ if i == Buffer::Halves as usize => extent.rows.next_multiple_of(UNIT_ROWS),
                    // A chunk more is read.
                    _ if i == Buffer::HalfConv as usize => extent.rows + CHUNK,
                    _ if i >= Buffer::PostedResidual as usize => 1,
                    _ => extent.rows,
                },
            );
        }
        let rows = extent.padded_rows();
        for (starts, groups) in self.code_starts.iter_mut().zip(self.groups) {
            *starts = [take(groups * (GROUP / 4), rows), take(groups, rows), take(groups, rows)];
        }
        self.floats = floats;
        // Places are 4-byte numbers.
        if u32::try_from(floats).is_err() { Err(CudaError::TooLarge) } else { Ok(()) }
    }

    /// Where a buffer starts whose rows are `len` floats long, or longer.
    pub(super) fn row(&mut self, buffer: Buffer, len: usize) -> usize {
        let measured = &mut self.lens[buffer as usize];
        *measured = len.max(*measured);
        self.start(buffer)
    }

    /// Where codes, scales and sums of a set start, with so many groups for each row, or more.
    pub(super) fn codes(&mut self, set: usize, groups: usize) -> [usize; 3] {
        self.groups[set] = groups.max(self.groups[set]);
        self.code_starts[set]
    }

    /// Where a buffer starts, in floats.
    pub(super) fn start(&self, buffer: Buffer) -> usize {
        self.starts[buffer as usize]
    }

    /// Where posted numbers lie, in bytes.
    pub(super) fn posted_bytes(&self) -> Range<usize> {
        let last = Buffer::PostedSelect as usize;
        4 * self.start(Buffer::PostedResidual)..4 * (self.starts[last] + self.lens[last])
    }

    /// Bytes of all buffers.
    pub(super) fn bytes(&self) -> usize {
        4 * self.floats
    }
}

/// Bytes of shared memory with room for a row of floats and one of codes.
pub(super) fn shared_bytes(floats: usize, groups: usize) -> usize {
    SHARED_START_BYTES + 4 * floats + SHARED_GROUP_BYTES * groups
}
