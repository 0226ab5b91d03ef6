//! A file that is read piece by piece at given positions.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::CheckpointError;

/// How a Git LFS pointer begins, in place of the large file it stands for.
const GIT_LFS: &[u8] = b"version https://git-lfs.github.com/spec/";

/// An open file, its path for messages and its length when it was opened.
#[derive(Debug)]
pub(super) struct DataFile {
    path: PathBuf,
    len: u64,
    file: File,
    /// Where a read needs a seek first, two threads must not come between.
    #[cfg(not(unix))]
    seek: std::sync::Mutex<()>,
}

impl DataFile {
    /// Opens `path`; `None` if nothing is there.
    pub(super) fn open(path: PathBuf) -> Result<Option<Self>, CheckpointError> {
        // Looked at before it is opened, because opening a pipe would wait for its other end.
        let found = std::fs::metadata(&path).and_then(|m| Ok((m.is_file(), File::open(&path)?, m.len())));
        let (file, len) = match found {
            Ok((true, file, len)) => (file, len),
            Ok((false, ..)) => return Err(CheckpointError::NotAFile(path)),
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CheckpointError::Io { path, source }),
        };
        let file = Self {
            path,
            len,
            file,
            #[cfg(not(unix))]
            seek: std::sync::Mutex::new(()),
        };
        if file.starts_with(GIT_LFS)? {
            return Err(CheckpointError::GitLfsPointer(file.path));
        }
        Ok(Some(file))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The file as a stream, for parsers that seek by themselves.
    pub(super) fn stream(&self) -> &File {
        &self.file
    }

    /// Whether the file's first bytes are `magic`.
    pub(super) fn starts_with(&self, magic: &[u8]) -> Result<bool, CheckpointError> {
        let mut head = [0; 64];
        let head = &mut head[..magic.len()];
        if self.len < magic.len() as u64 {
            return Ok(false);
        }
        self.read_at(head, 0)?;
        Ok(head == magic)
    }

    /// Fills `out` with the bytes from `offset` on.
    pub(super) fn read_at(&self, out: &mut [u8], offset: u64) -> Result<(), CheckpointError> {
        self.fill(out, offset).map_err(|source| CheckpointError::Io { path: self.path.clone(), source })
    }

    /// `len` bytes from `offset` on, refused if they are more than `limit`.
    pub(super) fn bytes(&self, offset: u64, len: u64, limit: u64) -> Result<Vec<u8>, CheckpointError> {
        if len > limit {
            return Err(CheckpointError::TooLarge { path: self.path.clone(), len, limit });
        }
        let mut bytes = vec![0; len as usize];
        self.read_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// The whole file, refused if it is longer than `limit` bytes.
    pub(super) fn whole(&self, limit: u64) -> Result<Vec<u8>, CheckpointError> {
        self.bytes(0, self.len, limit)
    }

    #[cfg(unix)]
    fn fill(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, offset)
    }

    #[cfg(not(unix))]
    fn fill(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let _alone = self.seek.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (&self.file).seek(SeekFrom::Start(offset))?;
        (&self.file).read_exact(out)
    }
}
