//! GGUF files, versions 2 and 3, as llama.cpp's converter writes them: weights, configuration and tokenizer in one.
//!
//! The file is made to look like a Hugging Face checkpoint: [`config`] writes its configuration, [`names`] gives the
//! tensors their names and shapes, [`tokenizer`] writes `tokenizer.json`; so every importer serves as it is.

mod blocks;
mod config;
mod error;
mod families;
mod metadata;
mod names;
mod tokenizer;
mod words;

use std::collections::BTreeMap;

use serde_json::Value as Json;

pub use blocks::BlockType;
pub(super) use blocks::MOST_ELEMENTS;
pub use error::GgufError;
use metadata::{Head, Metadata, Value};
use names::Found;

use super::file::DataFile;
use super::{CheckpointError, SourceDtype, TensorInfo};

/// How a GGUF file begins.
pub(super) const MAGIC: &[u8] = b"GGUF";

/// What an opened file tells.
pub(super) struct Gguf {
    pub(super) config: Json,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
    pub(super) companions: Companions,
}

/// What the metadata says beside the configuration.
#[derive(Debug)]
pub(super) struct Companions(Metadata);

/// Reads the head of `file` and checks all of it. No tensor data is read.
pub(super) fn open(file: &DataFile) -> Result<Gguf, CheckpointError> {
    let head = Head::read(file)?;
    let bad = |source| CheckpointError::Gguf { path: file.path().to_owned(), source };
    let found = locate(&head, file.len()).map_err(bad)?;
    let metadata = head.metadata;
    let family = config::family(&metadata, &found).map_err(bad)?;
    let tensors = names::rename(&found, family.map, family.heads).map_err(bad)?;
    Ok(Gguf { config: family.config, tensors, companions: Companions(metadata) })
}

impl Companions {
    /// The name that the file gives its model.
    pub(super) fn name(&self) -> Option<String> {
        match self.0.get("general.name") {
            Some(Value::Text(name)) if !name.is_empty() => Some(String::from_utf8_lossy(name).into_owned()),
            _ => None,
        }
    }

    /// The contents of `tokenizer.json` and `tokenizer_config.json`, if the file has what they are made of.
    pub(super) fn file(&self, name: &str) -> Result<Option<Vec<u8>>, GgufError> {
        let json = match name {
            "tokenizer.json" => tokenizer::tokenizer(&self.0)?,
            "tokenizer_config.json" => tokenizer::config(&self.0)?,
            _ => None,
        };
        Ok(json.map(|json| json.to_string().into_bytes()))
    }
}

/// Finds all tensors in the file and checks that they lie apart.
fn locate(head: &Head, file_len: u64) -> Result<BTreeMap<String, Found>, GgufError> {
    let mut found = BTreeMap::new();
    let mut places = Vec::new();
    for listed in &head.tensors {
        let name = || listed.name.clone();
        let dtype = dtype(listed.kind);
        let elements: usize = listed.shape.iter().product();
        let columns = listed.shape.last().copied().unwrap_or(1);
        let Some(block) = dtype.block() else {
            return Err(GgufError::TensorType { tensor: name(), dtype: dtype.to_string() });
        };
        if columns % block.elements != 0 {
            return Err(GgufError::PartBlock(name()));
        }
        if listed.offset % head.alignment != 0 {
            return Err(GgufError::Misaligned(name()));
        }
        // At most 2^48 elements of at most 8 bytes.
        let bytes = (elements / block.elements) as u64 * block.bytes as u64;
        let offset = head.data.checked_add(listed.offset);
        let end = offset.and_then(|offset| offset.checked_add(bytes)).filter(|end| *end <= file_len);
        let (Some(offset), Some(end)) = (offset, end) else {
            return Err(GgufError::Outside(name()));
        };
        places.push((offset, end, &listed.name));
        if found.insert(name(), Found { listed: listed.clone(), dtype, offset }).is_some() {
            return Err(GgufError::Duplicate(name()));
        }
    }
    places.sort_unstable();
    match places.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        Some(pair) => Err(GgufError::Overlap(pair[0].2.clone(), pair[1].2.clone())),
        None => Ok(found),
    }
}

/// The type with this number in the format.
fn dtype(kind: u32) -> SourceDtype {
    let name = match kind {
        0 => return SourceDtype::F32,
        1 => return SourceDtype::F16,
        28 => return SourceDtype::F64,
        30 => return SourceDtype::BF16,
        2 => return SourceDtype::Blocks(BlockType::Q4_0),
        3 => return SourceDtype::Blocks(BlockType::Q4_1),
        6 => return SourceDtype::Blocks(BlockType::Q5_0),
        7 => return SourceDtype::Blocks(BlockType::Q5_1),
        8 => return SourceDtype::Blocks(BlockType::Q8_0),
        12 => return SourceDtype::Blocks(BlockType::Q4K),
        13 => return SourceDtype::Blocks(BlockType::Q5K),
        14 => return SourceDtype::Blocks(BlockType::Q6K),
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        _ => return SourceDtype::Other(format!("number {kind}")),
    };
    SourceDtype::Other(name.to_owned())
}
