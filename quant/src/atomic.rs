//! Files that are either wholly there or not at all.

use std::fs::File;
use std::io;
use std::path::Path;

/// Writes a file under a temporary name beside `path`, syncs it and renames it to `path`.
///
/// If `fill` fails, or the program is stopped by a panic, the temporary file is removed and what stood at `path`
/// before is untouched.
///
/// # Errors
/// Those of `fill`, and those of creating, syncing and renaming the file.
pub fn write<T, E: From<io::Error>>(
    path: &Path,
    fill: impl FnOnce(&mut File) -> Result<T, E>,
) -> Result<T, E> {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".sarit-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    // The kind alone: the temporary name would only puzzle a reader of the message.
    let mut temporary = builder.tempfile_in(folder).map_err(|e| io::Error::from(e.kind()))?;
    let result = fill(temporary.as_file_mut())?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|e| e.error)?;
    // The rename itself is on disk once its folder is.
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    Ok(result)
}
