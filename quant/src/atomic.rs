//! Files that are either wholly there or not at all.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Writes a file under a temporary name beside `path`, syncs it and renames it to `path`; where that is a link to a
/// file, the file that it leads to is replaced.
///
/// If `fill` fails, or the program is stopped by a panic, the temporary file is removed and what stood at `path`
/// before is untouched.
///
/// # Errors
/// Those of [`prepare`] and [`Prepared::commit`].
pub fn write<T, E: From<io::Error>>(
    path: &Path,
    fill: impl FnOnce(&mut File) -> Result<T, E>,
) -> Result<T, E> {
    let (prepared, result) = prepare(path, fill)?;
    prepared.commit()?;
    Ok(result)
}

/// Looks whether [`write()`] can put a file at `path`, as far as that can be told before there is one: to be asked before
/// long work whose result goes there.
///
/// # Errors
/// If something else than a file is at `path`, or its folder is missing.
pub fn check(path: &Path) -> io::Result<()> {
    fs::metadata(folder(&place(path)?)).map(drop)
}

/// The first half of [`write()`]: the file is on disk, but still under its temporary name. Of several files that belong
/// together all are prepared before one is committed, so that a full disk leaves the old ones.
///
/// # Errors
/// Those of `fill`, and those of creating and syncing the file; and if something else than a file is at `path`, such
/// as a folder or a device, which a rename could replace.
pub fn prepare<T, E: From<io::Error>>(
    path: &Path,
    fill: impl FnOnce(&mut File) -> Result<T, E>,
) -> Result<(Prepared, T), E> {
    let place = place(path)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".sarit-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    // The kind alone: the temporary name would only puzzle a reader of the message.
    let mut temporary = builder.tempfile_in(folder(&place)).map_err(|e| io::Error::from(e.kind()))?;
    let result = fill(temporary.as_file_mut())?;
    temporary.as_file().sync_all()?;
    Ok((Prepared { temporary, place }, result))
}

/// A file that waits for its name; removed when dropped.
#[derive(Debug)]
pub struct Prepared {
    temporary: NamedTempFile,
    place: PathBuf,
}

impl Prepared {
    /// Gives the file its name.
    ///
    /// # Errors
    /// Those of renaming it.
    pub fn commit(self) -> io::Result<()> {
        self.temporary.persist(&self.place).map_err(|e| e.error)?;
        // The rename itself is on disk once its folder is.
        #[cfg(unix)]
        File::open(folder(&self.place))?.sync_all()?;
        Ok(())
    }
}

/// Where the file for `path` is put: at the end of its links.
fn place(path: &Path) -> io::Result<PathBuf> {
    match fs::metadata(path) {
        Ok(there) if there.is_file() => fs::canonicalize(path),
        Ok(there) if there.is_dir() => {
            Err(io::Error::new(ErrorKind::IsADirectory, "a folder is there; name a file"))
        }
        Ok(_) => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "a device or pipe is there, which cannot be replaced; name a file",
        )),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(path.to_owned()),
        Err(error) => Err(error),
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{FileTypeExt, symlink};
    use std::os::unix::net::UnixListener;

    fn write_to(path: &Path) -> io::Result<()> {
        write(path, |file| file.write_all(b"new"))
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // As little a file as a device is.
        let _listener = UnixListener::bind(at("socket")).unwrap();
        symlink("socket", at("link")).unwrap();
        for name in ["socket", "link"] {
            assert!(write_to(&at(name)).unwrap_err().to_string().contains("cannot be replaced"));
        }
        assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
        assert!(fs::metadata(at("link")).unwrap().file_type().is_socket());
        assert!(write_to(folder.path()).unwrap_err().to_string().contains("name a file"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_link_to_a_file_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        symlink("file", &link).unwrap();
        write_to(&link).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
    }
}
