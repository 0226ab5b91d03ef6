//! Tensors of a safetensors file: the header is parsed, the data stays on disk.
//!
//! The file is an 8-byte little-endian header length, that many bytes of JSON, and the tensors' data without gaps.

use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::file::DataFile;
use super::{CheckpointError, SourceDtype, TensorInfo};

/// Bytes of header allowed. A header takes about 100 bytes a tensor, so real ones stay far below.
const HEADER_LIMIT: u64 = 32 << 20;
/// Bytes of the header's length, which come first.
const LENGTH_BYTES: u64 = 8;

/// All tensors of `file` with their places in it.
pub(super) fn tensors(file: &DataFile) -> Result<Vec<(String, TensorInfo)>, CheckpointError> {
    let wrong_length =
        |expected| CheckpointError::FileLength { path: file.path().to_owned(), expected, len: file.len() };
    if file.len() < LENGTH_BYTES {
        return Err(wrong_length(LENGTH_BYTES));
    }
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_at(&mut length, 0)?;
    let header_len = u64::from_le_bytes(length);
    let data_start = header_len.saturating_add(LENGTH_BYTES);
    if data_start > file.len() {
        return Err(wrong_length(data_start));
    }

    // Parsing checks that the tensors follow each other without gap or overlap, each as long as its shape asks for.
    let header = file.bytes(LENGTH_BYTES, header_len, HEADER_LIMIT)?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|source| CheckpointError::SafetensorsHeader { path: file.path().to_owned(), source })?;
    let data_end = data_start.saturating_add(metadata.data_len() as u64);
    if data_end != file.len() {
        return Err(wrong_length(data_end));
    }

    let info = |tensor: &safetensors::tensor::TensorInfo| {
        let offset = data_start + tensor.data_offsets.0 as u64;
        TensorInfo::whole(dtype(tensor.dtype), tensor.shape.clone(), offset, true)
    };
    Ok(metadata.tensors().into_iter().map(|(name, tensor)| (name, info(tensor))).collect())
}

fn dtype(dtype: Dtype) -> SourceDtype {
    match dtype {
        Dtype::F32 => SourceDtype::F32,
        Dtype::F16 => SourceDtype::F16,
        Dtype::BF16 => SourceDtype::BF16,
        Dtype::F64 => SourceDtype::F64,
        other => SourceDtype::Other(format!("{other:?}")),
    }
}
