//! Why a checkpoint could not be opened or read.

use std::path::PathBuf;

use super::gguf::GgufError;
use super::pickle::PickleError;

/// Why a checkpoint could not be opened or read. Each message is one sentence: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The path given does not exist.
    #[error("there is no {0}; give a checkpoint folder or a weights file inside one")]
    NotFound(PathBuf),

    /// The operating system refused to open or read a file.
    #[error("cannot read {path}: {source}; check that it may be read and has not changed meanwhile")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// A folder, device or pipe stands where a file belongs.
    #[error("{0} is not a regular file; put the checkpoint's own file there")]
    NotAFile(PathBuf),

    /// A file that is read whole is larger than any real one.
    #[error(
        "{path} needs {len} bytes in memory and at most {limit} are allowed; check that it is the right file"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes that would have to be read at once.
        len: u64,
        /// Bytes allowed.
        limit: u64,
    },

    /// The file is what Git leaves behind where large files were not fetched.
    #[error("{0} is a Git LFS pointer and not the file itself; run `git lfs pull` in its folder")]
    GitLfsPointer(PathBuf),

    /// The folder has no `config.json`.
    #[error("{0} has no config.json; put the model's config.json beside the weights")]
    NoConfig(PathBuf),

    /// The folder has none of the weights files that can be read.
    #[error(
        "{0} has no weights; put model.safetensors or pytorch_model.bin there, or their .index.json with all shards"
    )]
    NoWeights(PathBuf),

    /// A JSON file does not parse.
    #[error("{path} is not valid JSON ({source}); fetch it again or mend it")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why parsing stopped.
        source: serde_json::Error,
    },

    /// A JSON file holds something other than an object.
    #[error("{0} must hold a JSON object; check that it is the model's own file")]
    NotAnObject(PathBuf),

    /// A shard index has no `weight_map` from tensor names to file names.
    #[error("{0} has no weight_map from tensor names to file names; fetch the checkpoint's own index again")]
    BadIndex(PathBuf),

    /// A name that must stay inside the checkpoint's folder would leave it.
    #[error("{name:?}, asked for by {place}, is not a plain file name; name a file in the same folder")]
    FileName {
        /// The index, or the folder for a file asked for by the caller.
        place: PathBuf,
        /// The name refused.
        name: String,
    },

    /// A shard named by the index is not in the folder.
    #[error("the shard {shard:?} named by {index} is missing; fetch it into the same folder")]
    MissingShard {
        /// The index file.
        index: PathBuf,
        /// The shard's file name.
        shard: String,
    },

    /// A shard lacks a tensor that the index says it has.
    #[error("{shard} has no tensor {tensor:?} although {index} says so; fetch both again")]
    MissingTensor {
        /// The index file.
        index: PathBuf,
        /// The shard file.
        shard: PathBuf,
        /// The tensor's name.
        tensor: String,
    },

    /// A safetensors header does not parse, or its tensors overlap, leave gaps or have the wrong size.
    #[error("{path} has a bad safetensors header ({source}); fetch or save the file again")]
    SafetensorsHeader {
        /// The file.
        path: PathBuf,
        /// What the header's parser said.
        source: serde_json::Error,
    },

    /// A safetensors file is shorter or longer than its header says.
    #[error(
        "{path} has {len} bytes but its header asks for {expected}; it is cut short or damaged, fetch it again"
    )]
    FileLength {
        /// The file.
        path: PathBuf,
        /// Bytes that the header asks for.
        expected: u64,
        /// Bytes that the file has.
        len: u64,
    },

    /// The file was written by `torch.save` before it used zip files.
    #[error(
        "{0} is in the format of PyTorch before 1.6; load it and `torch.save` it again with a newer PyTorch"
    )]
    LegacyTorch(PathBuf),

    /// The file is not a readable zip file, so not what `torch.save` writes.
    #[error("{path} is not a whole file of torch.save ({source}); it may be cut short, fetch it again")]
    Zip {
        /// The file.
        path: PathBuf,
        /// What the archive's parser said.
        source: zip::result::ZipError,
    },

    /// The zip file holds no `data.pkl`.
    #[error("{0} is a zip file without data.pkl; save the model with torch.save(model.state_dict(), …)")]
    NoPickle(PathBuf),

    /// The file was written on a big-endian machine.
    #[error("{0} holds big-endian data; save it again on a little-endian machine")]
    BigEndian(PathBuf),

    /// An archive entry is compressed or encrypted, so it cannot be read in place.
    #[error("entry {entry:?} of {path} is compressed or encrypted; save the file again with torch.save")]
    CompressedEntry {
        /// The file.
        path: PathBuf,
        /// The entry's name.
        entry: String,
    },

    /// An archive entry lies outside the file.
    #[error("entry {entry:?} reaches beyond the end of {path}; the file is damaged, fetch it again")]
    EntryBounds {
        /// The file.
        path: PathBuf,
        /// The entry's name.
        entry: String,
    },

    /// The `data.pkl` of a PyTorch file is not a state dict that can be understood safely.
    #[error("cannot take a state dict from {path}: {source}")]
    Pickle {
        /// The file.
        path: PathBuf,
        /// What was found, and where.
        source: PickleError,
    },

    /// A GGUF file cannot be used.
    #[error("cannot take a model from {path}: {source}")]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What was found.
        source: GgufError,
    },

    /// The data of a tensor is not in the archive.
    #[error("the data (entry {entry:?}) of tensor {tensor:?} is not in {path}; fetch the file again")]
    MissingStorage {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The missing entry's name.
        entry: String,
    },

    /// A tensor reaches beyond its data.
    #[error("tensor {tensor:?} reaches beyond its data in {path}; the file is damaged, fetch it again")]
    TensorBounds {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
    },

    /// The checkpoint has no tensor of this name.
    #[error(
        "the checkpoint {folder} has no tensor {tensor:?}; check that it is whole and of the family named by its config"
    )]
    UnknownTensor {
        /// The checkpoint's folder.
        folder: PathBuf,
        /// The name asked for.
        tensor: String,
    },

    /// A tensor that should hold floats has another element type.
    #[error("tensor {tensor:?} in {path} has element type {dtype}; save it as F32, F16, BF16 or F64")]
    UnsupportedDtype {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The element type's name in the file.
        dtype: String,
    },

    /// A PyTorch tensor is a view whose elements are not in row-major order.
    #[error("tensor {tensor:?} in {path} is not row-major; save it again after calling .contiguous()")]
    NotContiguous {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
    },

    /// More elements were asked for than the tensor has.
    #[error(
        "tensor {tensor:?} has {elements} elements and {len} from number {start} were asked for; ask within its shape"
    )]
    ReadRange {
        /// The tensor's name.
        tensor: String,
        /// Elements that it has.
        elements: usize,
        /// First element asked for.
        start: usize,
        /// Number of elements asked for.
        len: usize,
    },
}
