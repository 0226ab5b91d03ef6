//! Tensors as they lie in the file, and the blocks that quantized ones are made of.
//!
//! A quantized matrix is cut into tiles of [`TILE_ROWS`] rows by [`GROUP`] columns; the last tile is filled up
//! with zeros. The scales of all tiles come first, then the codes of all tiles, tile row by tile row:
//!
//! ```text
//! scales  [tile_row][group][16]       f16, one per row and group; padded to 64 bytes
//! codes   [tile_row][group][k][16][4] 64-byte lines of 16 rows x 4 bytes
//! q8: k = 0..8, byte b of row r  = code of column 4k + b, as i8
//! q4: k = 0..4, byte b of row r  = low nibble: code + 8 of column 8k + b, high nibble: of column 8k + 4 + b
//! ```
//!
//! So one line is an AVX-512 load, four NEON `sdot` operands, or a coalesced read of 16 CUDA threads.
//! A weight is `code · scale`; codes are -127..=127 (q8) and -8..=7 (q4). Float matrices lie row by row.

use crate::format::TensorEntry;
use crate::model::slice;
use crate::{ALIGN, round_up};
use half::f16;

/// Columns that share a scale, in weights and in activations.
pub const GROUP: usize = 32;
/// Rows of a tile.
pub const TILE_ROWS: usize = 16;

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum DType {
    /// IEEE binary32.
    F32 = 0,
    /// IEEE binary16.
    F16 = 1,
    /// 8-bit codes, one f16 scale per row and group of 32 columns: 8.5 bits a weight.
    Q8 = 2,
    /// 4-bit codes, one f16 scale per row and group of 32 columns: 4.5 bits a weight.
    Q4 = 3,
}

impl DType {
    /// All types, in the order of their numbers.
    pub const ALL: [DType; 4] = [Self::F32, Self::F16, Self::Q8, Self::Q4];

    /// The type with this number in a file.
    pub fn from_u32(n: u32) -> Option<Self> {
        Self::ALL.get(n as usize).copied()
    }

    /// Name as on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }

    /// Bytes of codes per tile, 0 for a float type.
    pub const fn tile_bytes(self) -> usize {
        match self {
            Self::F32 | Self::F16 => 0,
            Self::Q8 => TILE_ROWS * GROUP,
            Self::Q4 => TILE_ROWS * GROUP / 2,
        }
    }

    /// Bytes of a `rows` x `cols` tensor, or `None` where that does not fit in memory.
    pub fn bytes(self, rows: usize, cols: usize) -> Option<usize> {
        match self {
            Self::F32 => rows.checked_mul(cols)?.checked_mul(4),
            Self::F16 => rows.checked_mul(cols)?.checked_mul(2),
            Self::Q8 | Self::Q4 => {
                let tiles = rows.div_ceil(TILE_ROWS).checked_mul(cols.div_ceil(GROUP))?;
                let scales = tiles.checked_mul(2 * TILE_ROWS)?.checked_next_multiple_of(ALIGN)?;
                tiles.checked_mul(self.tile_bytes())?.checked_add(scales)
            }
        }
    }
}

/// A tensor of the file.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'m> {
    /// Element type.
    pub dtype: DType,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// The data.
    pub data: &'m [u8],
}

impl<'m> Tensor<'m> {
    /// The tensor that `entry` describes, if its data is in the file.
    pub(crate) fn read(file: &'m [u8], entry: &TensorEntry) -> Option<Self> {
        let data = slice(file, entry.offset, entry.bytes)?;
        let (rows, cols) = (entry.rows as usize, entry.cols as usize);
        let dtype = DType::from_u32(entry.dtype)?;
        Some(Self { dtype, rows, cols, data })
    }

    /// Whether the data is as long as type and shape ask.
    pub(crate) fn fits(&self) -> bool {
        self.dtype.bytes(self.rows, self.cols) == Some(self.data.len()) && !self.data.is_empty()
    }

    /// The tensor as an operand of a matrix product.
    ///
    /// `data` is 64-byte aligned and as long as type and shape ask: that was checked when the model was opened.
    pub(crate) fn matrix(&self) -> Matrix<'m> {
        let (rows, cols) = (self.rows, self.cols);
        match self.dtype {
            DType::F32 => Matrix::F32(Dense { rows, cols, data: bytemuck::cast_slice(self.data) }),
            DType::F16 => Matrix::F16(Dense { rows, cols, data: bytemuck::cast_slice(self.data) }),
            DType::Q8 => Matrix::Q8(Tiled::new(self.dtype, rows, cols, self.data)),
            DType::Q4 => Matrix::Q4(Tiled::new(self.dtype, rows, cols, self.data)),
        }
    }
}

/// A float matrix, row by row.
#[derive(Debug, Clone, Copy)]
pub struct Dense<'m, T> {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// `[rows][cols]`.
    pub data: &'m [T],
}

impl<'m, T> Dense<'m, T> {
    /// Row `r`, `[cols]`.
    #[inline(always)]
    pub fn row(&self, r: usize) -> &'m [T] {
        &self.data[r * self.cols..(r + 1) * self.cols]
    }
}

/// A quantized matrix in tiles.
#[derive(Debug, Clone, Copy)]
pub struct Tiled<'m> {
    /// Rows, padding excluded.
    pub rows: usize,
    /// Columns, padding excluded.
    pub cols: usize,
    /// Groups of 32 columns, the last one filled up.
    pub groups: usize,
    /// `[tile_row][group][16]`.
    pub scales: &'m [f16],
    /// `[tile_row][group][tile_bytes]`.
    pub codes: &'m [u8],
}

impl<'m> Tiled<'m> {
    fn new(dtype: DType, rows: usize, cols: usize, data: &'m [u8]) -> Self {
        let groups = cols.div_ceil(GROUP);
        let scale_bytes = rows.div_ceil(TILE_ROWS) * groups * TILE_ROWS * 2;
        let (scales, codes) = data.split_at(round_up(scale_bytes, ALIGN));
        debug_assert_eq!(codes.len(), rows.div_ceil(TILE_ROWS) * groups * dtype.tile_bytes());
        Self { rows, cols, groups, scales: bytemuck::cast_slice(&scales[..scale_bytes]), codes }
    }

    /// Number of tile rows.
    #[inline(always)]
    pub fn tile_rows(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Scales `[groups][16]` of tile row `i`.
    #[inline(always)]
    pub fn tile_scales(&self, i: usize) -> &'m [f16] {
        let n = self.groups * TILE_ROWS;
        &self.scales[i * n..(i + 1) * n]
    }

    /// Codes `[groups][TILE_BYTES]` of tile row `i`, where `TILE_BYTES` is [`DType::tile_bytes`].
    #[inline(always)]
    pub fn tile_codes<const TILE_BYTES: usize>(&self, i: usize) -> &'m [[u8; TILE_BYTES]] {
        let n = self.groups * TILE_BYTES;
        self.codes[i * n..(i + 1) * n].as_chunks().0
    }
}

/// Code of `column` (0..32) of `row` (0..16) in a q8 tile.
#[inline(always)]
pub(crate) fn q8_code(tile: &[u8; 512], row: usize, column: usize) -> i32 {
    i32::from(tile[column / 4 * 64 + row * 4 + column % 4] as i8)
}

/// Code of `column` (0..32) of `row` (0..16) in a q4 tile, -8..=7.
#[inline(always)]
pub(crate) fn q4_code(tile: &[u8; 256], row: usize, column: usize) -> i32 {
    let byte = tile[column / 8 * 64 + row * 4 + column % 4];
    i32::from((byte >> (column % 8 / 4 * 4)) & 15) - 8
}

/// Any matrix of the file.
#[derive(Debug, Clone, Copy)]
pub enum Matrix<'m> {
    /// `f32`.
    F32(Dense<'m, f32>),
    /// `f16`.
    F16(Dense<'m, f16>),
    /// `q8`.
    Q8(Tiled<'m>),
    /// `q4`.
    Q4(Tiled<'m>),
}

impl Matrix<'_> {
    /// Rows, the length of a product.
    pub fn rows(&self) -> usize {
        match self {
            Self::F32(d) => d.rows,
            Self::F16(d) => d.rows,
            Self::Q8(t) | Self::Q4(t) => t.rows,
        }
    }

    /// Columns, the length of an operand.
    pub fn cols(&self) -> usize {
        match self {
            Self::F32(d) => d.cols,
            Self::F16(d) => d.cols,
            Self::Q8(t) | Self::Q4(t) => t.cols,
        }
    }

    /// Whether products take activations in 8-bit codes.
    pub fn is_quantized(&self) -> bool {
        matches!(self, Self::Q8(_) | Self::Q4(_))
    }

    /// Writes row `r` as f32 into `out` `[cols]`: `code · scale`, one rounding.
    pub fn read_row(&self, r: usize, out: &mut [f32]) {
        match self {
            Self::F32(d) => out.copy_from_slice(d.row(r)),
            Self::F16(d) => out.iter_mut().zip(d.row(r)).for_each(|(o, w)| *o = w.to_f32()),
            Self::Q8(t) => read_tiled_row(t, r, t.tile_codes::<512>(r / TILE_ROWS), q8_code, out),
            Self::Q4(t) => read_tiled_row(t, r, t.tile_codes::<256>(r / TILE_ROWS), q4_code, out),
        }
    }
}

fn read_tiled_row<const N: usize>(
    t: &Tiled<'_>,
    r: usize,
    tiles: &[[u8; N]],
    code: impl Fn(&[u8; N], usize, usize) -> i32,
    out: &mut [f32],
) {
    let (tile_row, row) = (r / TILE_ROWS, r % TILE_ROWS);
    let scales = t.tile_scales(tile_row);
    for (g, part) in out.chunks_mut(GROUP).enumerate() {
        let scale = scales[g * TILE_ROWS + row].to_f32();
        for (column, o) in part.iter_mut().enumerate() {
            *o = code(&tiles[g], row, column) as f32 * scale;
        }
    }
}
