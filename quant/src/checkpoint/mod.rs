//! Reads model checkpoints: the configuration and the tensors' names first, their elements piece by piece.
//!
//! A checkpoint is a folder with `config.json` and weights, as Hugging Face's `save_pretrained` and the state-spaces
//! authors write it. Weights are the first of these that the folder has:
//!
//! 1. `model.safetensors`
//! 2. `model.safetensors.index.json` and the shards that it names
//! 3. `pytorch_model.bin`, as `torch.save` writes it since PyTorch 1.6
//! 4. `pytorch_model.bin.index.json` and the shards that it names
//!
//! Or it is one GGUF file of version 2 or 3, which has everything in it: its configuration, tokenizer and tensor names
//! are given as a folder would give them, and its blocks are read as the numbers that they stand for.
//!
//! Opening reads the names, shapes and positions of the tensors only, and checks that each lies inside its file.
//! [`Checkpoint::read`] then converts any part of a tensor to `f32` through a buffer of at most 1 MiB, so a checkpoint
//! larger than memory is no obstacle. Nothing in a file is ever executed, and no file makes this module panic.
//!
//! ```no_run
//! # fn main() -> Result<(), sarit_quant::checkpoint::CheckpointError> {
//! let checkpoint = sarit_quant::checkpoint::Checkpoint::open("mamba-130m-hf".as_ref())?;
//! for (name, info) in checkpoint.tensors() {
//!     println!("{name} {} {:?}", info.dtype, info.shape);
//! }
//! let mut norm = vec![0.0; 768];
//! checkpoint.read("backbone.norm_f.weight", 0, &mut norm)?;
//! # Ok(()) }
//! ```

mod error;
mod file;
mod gguf;
pub mod json;
mod pickle;
mod pytorch;
mod safetensors;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use serde_json::Value;

pub use error::CheckpointError;
use file::DataFile;
pub use gguf::{BlockType, GgufError};
pub use pickle::PickleError;

/// Weights files looked for in a folder, the preferred one first.
const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];
/// Bytes of a JSON file that is parsed whole. An index takes about 100 bytes a tensor.
const JSON_LIMIT: u64 = 32 << 20;
/// Bytes of a companion file. The largest vocabularies' tokenizer.json have about 35 MB.
const COMPANION_LIMIT: u64 = 128 << 20;
/// Bytes that a read takes from the disk at a time.
const READ_BYTES: usize = 1 << 20;

/// A model checkpoint on disk: configuration and named tensors, read piece by piece.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    config: Value,
    weights: Weights,
    /// What a GGUF file has in place of the folder's other files.
    gguf: Option<gguf::Companions>,
}

impl Checkpoint {
    /// Opens a folder, or one weights file (`.safetensors`, a `torch.save` file or an `.index.json`) whose folder has
    /// the `config.json`, or a GGUF file. Tensor data is not read, but every tensor is checked to lie inside its file.
    ///
    /// # Errors
    /// Any [`CheckpointError`] but those of [`Checkpoint::read`].
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let found = std::fs::metadata(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => CheckpointError::NotFound(path.to_owned()),
            _ => CheckpointError::Io { path: path.to_owned(), source },
        })?;
        // The parent of a bare file name is the empty path, which would not read well in messages.
        let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        let folder = if found.is_dir() { path } else { parent }.to_owned();

        if !found.is_dir() {
            let file = DataFile::open(path.to_owned())?;
            let file = file.ok_or_else(|| CheckpointError::NotFound(path.to_owned()))?;
            if has_suffix(path, ".gguf") || file.starts_with(gguf::MAGIC)? {
                let gguf::Gguf { config, tensors, companions } = gguf::open(&file)?;
                let weights = Weights { files: vec![file], tensors };
                return Ok(Self { folder, config, weights, gguf: Some(companions) });
            }
        }
        let config = DataFile::open(folder.join("config.json"))?
            .ok_or_else(|| CheckpointError::NoConfig(folder.clone()))
            .and_then(|file| json_object(&file))?;
        let mut weights = Weights::default();
        if found.is_dir() {
            weights.add(find_weights(&folder)?, &folder)?;
        } else {
            let file = DataFile::open(path.to_owned())?;
            weights.add(file.ok_or_else(|| CheckpointError::NotFound(path.to_owned()))?, &folder)?;
        }
        Ok(Self { folder, config, weights, gguf: None })
    }

    /// The `config.json`, always an object. Infinite and undefined numbers are as [`json::number`] understands them.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// What the model is called: what a GGUF file says, or the name of that file, or of the folder.
    pub fn name(&self) -> String {
        let path = match &self.gguf {
            Some(gguf) => match gguf.name() {
                Some(name) => return name,
                None => self.weights.files[0].path().with_extension(""),
            },
            None => self.folder.canonicalize().unwrap_or(self.folder.clone()),
        };
        path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The folder that the checkpoint is in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.weights.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// The element type and shape of one tensor, if the checkpoint has it.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.weights.tensors.get(name)
    }

    /// Reads the elements `start..start + out.len()` of a tensor in row-major order. F16 and BF16 convert exactly,
    /// F64 is rounded to nearest. The values may be infinite or NaN: nothing is said about them here.
    ///
    /// # Errors
    /// [`UnknownTensor`](CheckpointError::UnknownTensor), [`UnsupportedDtype`](CheckpointError::UnsupportedDtype),
    /// [`NotContiguous`](CheckpointError::NotContiguous), [`ReadRange`](CheckpointError::ReadRange), and
    /// [`Io`](CheckpointError::Io) if the file cannot be read or has become shorter; `out` is then unspecified.
    pub fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<(), CheckpointError> {
        let tensor = || name.to_owned();
        let info = self.tensor(name).ok_or_else(|| CheckpointError::UnknownTensor {
            folder: self.folder.clone(),
            tensor: tensor(),
        })?;
        if !info.row_major {
            return Err(CheckpointError::NotContiguous { path: self.path_of(info), tensor: tensor() });
        }
        let (elements, len) = (info.elements(), out.len());
        let end = start.checked_add(len).filter(|end| *end <= elements);
        let end = end.ok_or_else(|| CheckpointError::ReadRange { tensor: tensor(), elements, start, len })?;

        let mut out = out;
        let mut buffer = Vec::new();
        // The first part begins at 0, so there is one before `start`.
        let first = info.parts.partition_point(|part| part.start <= start).saturating_sub(1);
        for (i, part) in info.parts.iter().enumerate().skip(first).take_while(|(_, part)| part.start < end) {
            let part_end = info.parts.get(i + 1).map_or(elements, |next| next.start).min(end);
            let from = start.max(part.start);
            let piece = out.split_off_mut(..part_end - from).unwrap_or_default();
            let block = part.dtype.block().ok_or_else(|| CheckpointError::UnsupportedDtype {
                path: self.path_of(info),
                tensor: tensor(),
                dtype: part.dtype.to_string(),
            })?;
            self.read_part(part, block, from - part.start, piece, &mut buffer)?;
        }
        Ok(())
    }

    /// Reads elements of one part of a tensor from number `at` of the part on.
    fn read_part(
        &self,
        part: &Part,
        block: Block,
        mut at: usize,
        mut out: &mut [f32],
        buffer: &mut Vec<u8>,
    ) -> Result<(), CheckpointError> {
        while !out.is_empty() {
            let (first, skip) = (at / block.elements, at % block.elements);
            let blocks = (skip + out.len()).div_ceil(block.elements).min(READ_BYTES / block.bytes);
            let count = (blocks * block.elements - skip).min(out.len());
            let piece = out.split_off_mut(..count).unwrap_or_default();
            buffer.resize(blocks * block.bytes, 0);
            // In range, because the whole tensor was found to lie inside its file.
            let offset = part.offset + first as u64 * block.bytes as u64;
            self.weights.files[part.file].read_at(buffer, offset)?;
            part.dtype.to_f32(buffer, skip, piece);
            at += count;
        }
        Ok(())
    }

    fn path_of(&self, info: &TensorInfo) -> PathBuf {
        let part = info.parts.first().map_or(0, |part| part.file);
        self.weights.files[part].path().to_owned()
    }

    /// Reads a companion of the weights whole, such as `tokenizer.json`, `tokenizer_config.json` or
    /// `generation_config.json`: at most 128 MiB. `None` if the folder has no file of this name. Of a GGUF file, the
    /// first two are made from what it holds.
    ///
    /// # Errors
    /// [`FileName`](CheckpointError::FileName) unless `name` is a plain file name,
    /// [`TooLarge`](CheckpointError::TooLarge), [`NotAFile`](CheckpointError::NotAFile),
    /// [`GitLfsPointer`](CheckpointError::GitLfsPointer), [`Io`](CheckpointError::Io), [`Gguf`](CheckpointError::Gguf).
    pub fn file(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        check_file_name(name, &self.folder)?;
        if let Some(gguf) = &self.gguf {
            let bad =
                |source| CheckpointError::Gguf { path: self.weights.files[0].path().to_owned(), source };
            return gguf.file(name).map_err(bad);
        }
        DataFile::open(self.folder.join(name))?.map(|file| file.whole(COMPANION_LIMIT)).transpose()
    }
}

/// Name, element type and place of one tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Type of the elements on disk.
    pub dtype: SourceDtype,
    /// Sizes of the dimensions, the slowest first; empty for a single number.
    pub shape: Vec<usize>,
    /// Where the elements are: at least one part, in the order of the elements.
    parts: Vec<Part>,
    /// Whether the elements can be read one after the other.
    row_major: bool,
}

/// Elements of a tensor that lie one after the other, up to where the next part starts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    dtype: SourceDtype,
    /// Elements of the tensor before it.
    start: usize,
    /// Which of the checkpoint's files.
    file: usize,
    /// Bytes before the first element in that file.
    offset: u64,
}

/// Elements that are stored together.
#[derive(Clone, Copy, Debug)]
struct Block {
    elements: usize,
    bytes: usize,
}

impl TensorInfo {
    /// A tensor that lies in one piece, `offset` bytes after the start of the first file.
    fn whole(dtype: SourceDtype, shape: Vec<usize>, offset: u64, row_major: bool) -> Self {
        let part = Part { dtype: dtype.clone(), start: 0, file: 0, offset };
        Self { dtype, shape, parts: vec![part], row_major }
    }

    /// Number of elements: the product of `shape`.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Type of a tensor's elements on disk, little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceDtype {
    /// IEEE-754 binary32.
    F32,
    /// IEEE-754 binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// IEEE-754 binary64.
    F64,
    /// Blocks of a few numbers with common scales, in GGUF files.
    Blocks(BlockType),
    /// A type that is listed but cannot be read, by its name in the file: `I64` and so on in safetensors files,
    /// `LongStorage` and so on in PyTorch files.
    Other(String),
}

impl SourceDtype {
    /// Bytes of an element; `None` for a type that cannot be read, or whose elements come in blocks.
    pub fn size(&self) -> Option<usize> {
        self.block().filter(|block| block.elements == 1).map(|block| block.bytes)
    }

    /// The elements that are read together: one, unless they come in blocks. `None` for a type that cannot be read.
    fn block(&self) -> Option<Block> {
        let bytes = match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
            Self::Blocks(kind) => return Some(Block { elements: kind.elements(), bytes: kind.bytes() }),
            Self::Other(_) => return None,
        };
        Some(Block { elements: 1, bytes })
    }

    /// Bytes of this many elements; `None` if they are not whole blocks, or of a type that cannot be read.
    fn bytes(&self, elements: usize) -> Option<usize> {
        let block = self.block()?;
        elements.is_multiple_of(block.elements).then(|| elements / block.elements * block.bytes)
    }

    /// Converts the elements in the blocks `bytes` from number `skip` on to as many numbers as `out` has.
    fn to_f32(&self, bytes: &[u8], skip: usize, out: &mut [f32]) {
        fn each<const N: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
            let (elements, _) = bytes.as_chunks();
            for (number, element) in out.iter_mut().zip(elements) {
                *number = convert(*element);
            }
        }
        match self {
            Self::F32 => each(bytes, out, f32::from_le_bytes),
            Self::F16 => each(bytes, out, |element| f16::from_le_bytes(element).to_f32()),
            Self::BF16 => each(bytes, out, |element| bf16::from_le_bytes(element).to_f32()),
            Self::F64 => each(bytes, out, |element| f64::from_le_bytes(element) as f32),
            Self::Blocks(kind) => blocks_to_f32(*kind, bytes, skip, out),
            Self::Other(_) => unreachable!("a type without a size is refused before it is read"),
        }
    }
}

impl fmt::Display for SourceDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32 => f.write_str("F32"),
            Self::F16 => f.write_str("F16"),
            Self::BF16 => f.write_str("BF16"),
            Self::F64 => f.write_str("F64"),
            Self::Blocks(kind) => kind.fmt(f),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// Converts blocks, of the first one only what comes after `skip` elements, and of the last one what `out` has room for.
fn blocks_to_f32(kind: BlockType, bytes: &[u8], mut skip: usize, mut out: &mut [f32]) {
    let elements = kind.elements();
    for block in bytes.chunks_exact(kind.bytes()) {
        let piece = out.split_off_mut(..(elements - skip).min(out.len())).unwrap_or_default();
        if piece.len() == elements {
            kind.decode(block, piece);
        } else {
            let mut whole = [0.0; gguf::MOST_ELEMENTS];
            kind.decode(block, &mut whole[..elements]);
            piece.copy_from_slice(&whole[skip..skip + piece.len()]);
        }
        skip = 0;
    }
}

/// The tensors of all weights files of a checkpoint.
#[derive(Debug, Default)]
struct Weights {
    files: Vec<DataFile>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Weights {
    /// Adds what `file` holds, or the shards that it names in `folder`. The kind of file is told by its name, as
    /// everywhere in the Hugging Face ecosystem.
    fn add(&mut self, file: DataFile, folder: &Path) -> Result<(), CheckpointError> {
        if has_suffix(file.path(), ".index.json") {
            return self.add_shards(&file, folder);
        }
        let tensors = self.add_file(file)?;
        self.tensors.extend(tensors);
        Ok(())
    }

    /// Adds the shards named by an index. The index decides which tensors there are, and in which shard.
    fn add_shards(&mut self, index: &DataFile, folder: &Path) -> Result<(), CheckpointError> {
        let bad_index = || CheckpointError::BadIndex(index.path().to_owned());
        let json = json_object(index)?;
        let mut shards = BTreeMap::<&str, Vec<&str>>::new();
        for (tensor, shard) in json["weight_map"].as_object().ok_or_else(bad_index)? {
            shards.entry(shard.as_str().ok_or_else(bad_index)?).or_default().push(tensor);
        }
        for (shard, wanted) in shards {
            check_file_name(shard, index.path())?;
            let file = DataFile::open(folder.join(shard))?.ok_or_else(|| CheckpointError::MissingShard {
                index: index.path().to_owned(),
                shard: shard.to_owned(),
            })?;
            let mut tensors: BTreeMap<_, _> = self.add_file(file)?.into_iter().collect();
            for name in wanted {
                let (name, info) =
                    tensors.remove_entry(name).ok_or_else(|| CheckpointError::MissingTensor {
                        index: index.path().to_owned(),
                        shard: folder.join(shard),
                        tensor: name.to_owned(),
                    })?;
                self.tensors.insert(name, info);
            }
        }
        Ok(())
    }

    /// Keeps `file` open and gives its tensors.
    fn add_file(&mut self, file: DataFile) -> Result<Vec<(String, TensorInfo)>, CheckpointError> {
        let mut tensors = if has_suffix(file.path(), ".safetensors") {
            safetensors::tensors(&file)?
        } else {
            pytorch::tensors(&file)?
        };
        for part in tensors.iter_mut().flat_map(|(_, info)| &mut info.parts) {
            part.file = self.files.len();
        }
        self.files.push(file);
        Ok(tensors)
    }
}

/// The weights file that a folder is read from.
fn find_weights(folder: &Path) -> Result<DataFile, CheckpointError> {
    for name in WEIGHTS {
        if let Some(file) = DataFile::open(folder.join(name))? {
            return Ok(file);
        }
    }
    Err(CheckpointError::NoWeights(folder.to_owned()))
}

fn json_object(file: &DataFile) -> Result<Value, CheckpointError> {
    let path = || file.path().to_owned();
    let value = json::parse(&file.whole(JSON_LIMIT)?)
        .map_err(|source| CheckpointError::Json { path: path(), source })?;
    if value.is_object() { Ok(value) } else { Err(CheckpointError::NotAnObject(path())) }
}

/// Refuses names that would lead out of the checkpoint's folder.
fn check_file_name(name: &str, place: &Path) -> Result<(), CheckpointError> {
    if Path::new(name).file_name() == Some(OsStr::new(name)) {
        return Ok(());
    }
    Err(CheckpointError::FileName { place: place.to_owned(), name: name.to_owned() })
}

fn has_suffix(path: &Path, suffix: &str) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(suffix.as_bytes()))
}
