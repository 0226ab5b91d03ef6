//! Tensors of a PyTorch file: the archive's directory and its small pickle are read, the data stays on disk.
//!
//! Since PyTorch 1.6 `torch.save` writes a zip file whose entries are stored as they are: `NAME/data.pkl` says which
//! tensors there are, `NAME/data/KEY` holds the elements of one storage, and several tensors may share a storage.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;

use zip::{CompressionMethod, ZipArchive};

use super::file::DataFile;
use super::pickle::{self, Tensor};
use super::{CheckpointError, TensorInfo};

/// Bytes of `data.pkl` allowed. It takes about 150 bytes a tensor, so real ones stay far below.
const PICKLE_LIMIT: u64 = 16 << 20;
/// How `torch.save` began before 1.6: after the pickle protocol's two bytes, a magic number and another pickle.
const LEGACY_MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80";

/// All tensors of `file` with their places in it.
pub(super) fn tensors(file: &DataFile) -> Result<Vec<(String, TensorInfo)>, CheckpointError> {
    if is_legacy(file)? {
        return Err(CheckpointError::LegacyTorch(file.path().to_owned()));
    }
    let mut archive = Archive::open(file)?;
    archive.refuse_big_endian()?;
    let pickle = archive.pickle()?;
    let state = pickle::state_dict(&pickle)
        .map_err(|source| CheckpointError::Pickle { path: file.path().to_owned(), source })?;

    let mut storages = HashMap::new();
    let mut tensors = Vec::with_capacity(state.len());
    for (name, tensor) in state {
        let offset = archive.locate(name, &tensor, &mut storages)?;
        let Tensor { dtype, shape, row_major, .. } = tensor;
        tensors.push((name.to_owned(), TensorInfo::whole(dtype, shape, offset, row_major)));
    }
    Ok(tensors)
}

fn is_legacy(file: &DataFile) -> Result<bool, CheckpointError> {
    for protocol in 2..=5 {
        if file.starts_with(&[&[0x80, protocol], LEGACY_MAGIC].concat())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where an entry's bytes lie in the file.
#[derive(Clone, Copy)]
struct Extent {
    start: u64,
    len: u64,
}

/// The directory of a PyTorch zip file.
struct Archive<'a> {
    file: &'a DataFile,
    zip: ZipArchive<BufReader<&'a File>>,
    /// The folder of all entries inside the archive, with its slash.
    folder: String,
}

impl<'a> Archive<'a> {
    fn open(file: &'a DataFile) -> Result<Self, CheckpointError> {
        let zip = ZipArchive::new(BufReader::new(file.stream())).map_err(|source| zip_error(file, source))?;
        let folder = zip
            .file_names()
            .filter_map(|name| name.strip_suffix("data.pkl"))
            .find(|folder| folder.is_empty() || folder.find('/') == Some(folder.len() - 1))
            .ok_or_else(|| CheckpointError::NoPickle(file.path().to_owned()))?
            .to_owned();
        Ok(Self { file, zip, folder })
    }

    /// Refuses files written on big-endian machines; files before PyTorch 2.1 do not say and are little-endian.
    fn refuse_big_endian(&mut self) -> Result<(), CheckpointError> {
        let Some(order) = self.entry("byteorder")? else { return Ok(()) };
        match self.file.bytes(order.start, order.len, 16)?.as_slice() {
            b"little" => Ok(()),
            _ => Err(CheckpointError::BigEndian(self.file.path().to_owned())),
        }
    }

    fn pickle(&mut self) -> Result<Vec<u8>, CheckpointError> {
        let pickle =
            self.entry("data.pkl")?.ok_or_else(|| CheckpointError::NoPickle(self.file.path().to_owned()))?;
        self.file.bytes(pickle.start, pickle.len, PICKLE_LIMIT)
    }

    /// The position of the tensor's first byte in the file; 0 for a tensor that can only be listed.
    fn locate<'p>(
        &mut self,
        name: &str,
        tensor: &Tensor<'p>,
        storages: &mut HashMap<&'p str, Extent>,
    ) -> Result<u64, CheckpointError> {
        let Some(element) = tensor.dtype.size().filter(|_| tensor.row_major) else { return Ok(0) };
        let storage = match storages.get(tensor.storage) {
            Some(extent) => *extent,
            None => {
                let entry = format!("data/{}", tensor.storage);
                let extent = self.entry(&entry)?.ok_or_else(|| CheckpointError::MissingStorage {
                    path: self.file.path().to_owned(),
                    tensor: name.to_owned(),
                    entry,
                })?;
                *storages.entry(tensor.storage).or_insert(extent)
            }
        };
        let bytes = |elements: u64| elements.checked_mul(element as u64);
        let elements = tensor.shape.iter().product::<usize>() as u64;
        bytes(tensor.offset)
            .zip(bytes(elements))
            .filter(|(skip, len)| skip.checked_add(*len).is_some_and(|end| end <= storage.len))
            .map(|(skip, _)| storage.start + skip)
            .ok_or_else(|| CheckpointError::TensorBounds {
                path: self.file.path().to_owned(),
                tensor: name.to_owned(),
            })
    }

    /// Where the entry `name` of the archive's folder lies, if there is one.
    fn entry(&mut self, name: &str) -> Result<Option<Extent>, CheckpointError> {
        let name = format!("{}{name}", self.folder);
        let Some(index) = self.zip.index_for_name(&name) else { return Ok(None) };
        let path = || self.file.path().to_owned();
        let entry = self.zip.by_index_raw(index).map_err(|source| zip_error(self.file, source))?;
        let extent = Extent { start: entry.data_start(), len: entry.size() };
        if entry.compression() != CompressionMethod::Stored
            || entry.encrypted()
            || entry.compressed_size() != extent.len
        {
            return Err(CheckpointError::CompressedEntry { path: path(), entry: name });
        }
        if extent.start.checked_add(extent.len).is_none_or(|end| end > self.file.len()) {
            return Err(CheckpointError::EntryBounds { path: path(), entry: name });
        }
        Ok(Some(extent))
    }
}

/// A failing disk is told apart from a damaged file.
fn zip_error(file: &DataFile, source: zip::result::ZipError) -> CheckpointError {
    let path = file.path().to_owned();
    match source {
        // The archive's parser reports a file that ends early in this way too.
        zip::result::ZipError::Io(source) if source.kind() != std::io::ErrorKind::UnexpectedEof => {
            CheckpointError::Io { path, source }
        }
        source => CheckpointError::Zip { path, source },
    }
}
