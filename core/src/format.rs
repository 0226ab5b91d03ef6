//! The `.sarit` file: what stands where. Readers and writers both use these types; nothing else knows the bytes.
//!
//! Everything is little-endian. A file is a [`Header`], `section_count` [`Section`] entries, and the sections,
//! each on a 64-byte boundary:
//!
//! | kind | content |
//! |---|---|
//! | [`section::PLAN`] | records of [`crate::plan`], one after another, each a [`RecordHeader`] and its payload |
//! | [`section::TENSORS`] | [`TensorTable`], then that many [`TensorEntry`], then their names, then the data, each tensor on a 64-byte boundary |
//! | [`section::TOKENIZER`] | `tokenizer.json` as it came; may be missing |
//! | [`section::META`] | JSON: name, languages, licence, source, prompt format, quantization report; may be missing |
//!
//! A section of a kind that a reader does not know is passed over. A plan record that it does not know is
//! refused: a model is never run in part.

use bytemuck::{Pod, Zeroable};

/// First bytes of a file: a high bit and a line end, so that transfers which mangle text are noticed.
pub const MAGIC: [u8; 8] = *b"\x89SARIT\r\n";

/// The newest version of this format, and the only one so far.
pub const VERSION: u32 = 1;

/// The fingerprint covers the file from this byte to its end.
pub const FINGERPRINT_START: usize = 16;

/// First 64 bytes of the file.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`hash`](crate::hash) of the file from [`FINGERPRINT_START`] on: a model's identity, and its checksum.
    pub fingerprint: u64,
    /// Format version. Stays at this place in every version.
    pub version: u32,
    /// Number of [`Section`] entries that follow the header.
    pub section_count: u32,
    /// Length of the whole file in bytes.
    pub file_bytes: u64,
    /// Zero.
    pub reserved: [u64; 4],
}

/// Where a section lies.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Section {
    /// One of [`section`].
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// First byte, from the start of the file; a multiple of 64.
    pub offset: u64,
    /// Length in bytes, padding excluded.
    pub bytes: u64,
}

/// Kinds of section.
pub mod section {
    /// What to compute: block records.
    pub const PLAN: u32 = 1;
    /// With which numbers.
    pub const TENSORS: u32 = 2;
    /// `tokenizer.json`.
    pub const TOKENIZER: u32 = 3;
    /// JSON about the model.
    pub const META: u32 = 4;
}

/// Start of the tensor section.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct TensorTable {
    /// Number of [`TensorEntry`] that follow.
    pub count: u32,
    /// Length in bytes of the names that follow the entries, one after another without separators.
    pub names_bytes: u32,
}

/// One tensor: a matrix, or a vector as a matrix of one row.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct TensorEntry {
    /// First byte of the data, from the start of the file; a multiple of 64.
    pub offset: u64,
    /// Length of the data in bytes; follows from type and shape.
    pub bytes: u64,
    /// First byte of the name, from the start of the names.
    pub name_offset: u32,
    /// Length of the name in bytes.
    pub name_bytes: u32,
    /// A [`DType`](crate::DType).
    pub dtype: u32,
    /// Rows (outputs of a linear map).
    pub rows: u32,
    /// Columns (inputs of a linear map).
    pub cols: u32,
    /// Zero.
    pub reserved: u32,
}

/// Start of a plan record.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct RecordHeader {
    /// What the payload is: one of [`crate::plan::tag`].
    pub tag: u16,
    /// Version of that payload.
    pub version: u16,
    /// Length of the payload in bytes, a multiple of 4.
    pub bytes: u32,
}

const _: () = assert!(size_of::<Header>() == 64);
const _: () = assert!(size_of::<Section>() == 24);
const _: () = assert!(size_of::<TensorEntry>() == 40);
const _: () = assert!(size_of::<RecordHeader>() == 8);
