//! Texts from files and standard input.

use anyhow::{Context, Result, bail, ensure};
use indicatif::HumanBytes;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The longest context, in bytes: it is cut into tokens as a whole, which takes up to 350 times as much memory.
pub(crate) const CONTEXT_LIMIT: u64 = 1 << 20;

/// The UTF-8 text in the file at `path`, of at most `limit` bytes; `-` is standard input.
pub(crate) fn text(path: &Path, limit: u64) -> Result<String> {
    let mut bytes = Vec::new();
    let name = if path == Path::new("-") {
        let stdin = std::io::stdin().lock();
        stdin.take(limit + 1).read_to_end(&mut bytes).context("cannot read standard input")?;
        "standard input".to_owned()
    } else {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        let stated = file.metadata().with_context(|| format!("cannot read {name}"))?.len();
        within(stated, limit).with_context(|| format!("cannot take {name}"))?;
        file.take(limit + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
        name
    };
    let most = HumanBytes(limit);
    ensure!(
        bytes.len() as u64 <= limit,
        "{name} holds more than {limit} bytes ({most}), the most that is taken; cut the text"
    );
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)),
        Err(error) => {
            bail!("{name} is not UTF-8 text (first wrong byte at {})", error.utf8_error().valid_up_to())
        }
    }
}

/// Fails if a text of `len` bytes is longer than `limit`.
pub(crate) fn within(len: u64, limit: u64) -> Result<()> {
    ensure!(
        len <= limit,
        "the text has {len} bytes ({}), the most that is taken is {limit} ({}); cut the text",
        HumanBytes(len),
        HumanBytes(limit)
    );
    Ok(())
}

/// The context in the file at `path`: its text without the newlines at its end.
pub(crate) fn context(path: &Path) -> Result<String> {
    let mut text = text(path, CONTEXT_LIMIT)?;
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    Ok(text)
}
