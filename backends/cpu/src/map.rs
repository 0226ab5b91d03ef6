//! Model files where they lie on disk.

use memmap2::Mmap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Why a file cannot be mapped. Returned by [`Mapped::open`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The file does not exist or may not be read.
    #[error("it cannot be opened: {0}")]
    Open(#[source] io::Error),
    /// A folder, a pipe or a device.
    #[error("it is not a regular file")]
    NotAFile,
    /// Nothing in it.
    #[error("the file is empty")]
    Empty,
    /// The operating system refuses, for example because the address space is too small.
    #[error("it cannot be mapped into memory: {0}")]
    Map(#[source] io::Error),
}

/// A file mapped into memory, to be read only. It begins on a page boundary, so it is aligned as a model must be.
///
/// Pages are read as they are needed, and processes that map the same file share them.
///
/// The file must stay as it is while it is mapped: nothing here can stop another process from writing to it, and
/// then the bytes change under their reader; if it is cut shorter, the operating system ends this process with SIGBUS.
/// Replace model files by renaming a new one over the old, never by writing into them.
#[derive(Debug)]
pub struct Mapped {
    map: Mmap,
}

impl Mapped {
    /// Maps the whole file.
    ///
    /// # Errors
    /// [`MapError`] says what is wrong with the file; the caller knows its path.
    pub fn open(path: &Path) -> Result<Self, MapError> {
        // Asked before opening, because to open a pipe is to wait for its writer.
        if !fs::metadata(path).map_err(MapError::Open)?.is_file() {
            return Err(MapError::NotAFile);
        }
        let file = File::open(path).map_err(MapError::Open)?;
        if file.metadata().map_err(MapError::Open)?.len() == 0 {
            return Err(MapError::Empty);
        }
        // SAFETY: the mapping is private to reading; that nobody changes the file meanwhile is this type's documented
        // condition, as for every mapped file.
        let map = unsafe { Mmap::map(&file) }.map_err(MapError::Map)?;
        Ok(Self { map })
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_mapped_and_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert!(matches!(Mapped::open(&path), Err(MapError::Open(_))));
        assert!(matches!(Mapped::open(folder.path()), Err(MapError::NotAFile)));
        fs::write(&path, []).unwrap();
        assert!(matches!(Mapped::open(&path), Err(MapError::Empty)));
        fs::write(&path, b"model").unwrap();
        let mapped = Mapped::open(&path).unwrap();
        assert_eq!(mapped.bytes(), b"model");
        assert!(mapped.bytes().as_ptr().addr().is_multiple_of(sarit_core::ALIGN));
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_refused() {
        assert!(matches!(Mapped::open("/dev/null".as_ref()), Err(MapError::NotAFile)));
    }
}
