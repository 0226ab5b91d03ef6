//! Checksums of files as the Hub states them.

use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Result, Write};
use std::path::Path;

/// Whether the file at `path` has the checksum that `etag` states: SHA-256 for large files, Git's hash for others.
/// Any other tag states none.
pub(super) fn matches(path: &Path, etag: &str) -> Result<bool> {
    let hexadecimal = etag.bytes().all(|b| b.is_ascii_hexdigit());
    let mut file = File::open(path)?;
    let hash = match etag.len() {
        64 if hexadecimal => hash(&mut file, Sha256::new())?,
        40 if hexadecimal => {
            let header = format!("blob {}\0", file.metadata()?.len());
            hash(&mut file, Sha1::new_with_prefix(header))?
        }
        _ => return Ok(true),
    };
    Ok(hash == etag.to_ascii_lowercase())
}

fn hash<D: Digest + Write>(file: &mut File, mut digest: D) -> Result<String> {
    std::io::copy(file, &mut digest)?;
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "hello\n").unwrap();
        // `sha256sum` and `git hash-object` of the same bytes.
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert!(matches(&path, sha256).unwrap() && matches(&path, git).unwrap());
        assert!(matches(&path, "\"some other tag\"").unwrap());
        std::fs::write(&path, "hellp\n").unwrap();
        assert!(!matches(&path, sha256).unwrap() && !matches(&path, git).unwrap());
    }
}
