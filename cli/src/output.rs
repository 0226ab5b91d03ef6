//! Standard output, and progress bars on standard error.

use crate::text::{Decoder, Text};
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::{ErrorKind, Write};

/// Standard output was closed by its reader: nobody is left to hear of it.
#[derive(Debug)]
pub(crate) struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for Closed {}

/// Writes `text` to standard output at once.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        result => result.context("cannot write to standard output"),
    }
}

/// Shows a text while its tokens come, or keeps it for the one JSON object at the end.
pub(crate) struct Live<'t> {
    decoder: Decoder<'t>,
    kept: Option<String>,
}

impl<'t> Live<'t> {
    /// A text that is kept if the output is to be JSON.
    pub(crate) fn new(text: &'t Text, json: bool) -> Self {
        Self { decoder: text.decoder(), kept: json.then(String::new) }
    }

    /// Takes the next token.
    pub(crate) fn push(&mut self, token: u32) -> Result<()> {
        let part = self.decoder.push(token)?;
        self.show(&part)
    }

    /// Shows what was held back; the whole text if it was kept, else nothing.
    pub(crate) fn finish(mut self) -> Result<Option<String>> {
        let part = self.decoder.finish()?;
        self.show(&part)?;
        if self.kept.is_none() {
            print("\n")?;
        }
        Ok(self.kept)
    }

    fn show(&mut self, part: &str) -> Result<()> {
        match &mut self.kept {
            Some(kept) => kept.push_str(part),
            None => print(part)?,
        }
        Ok(())
    }
}

/// Writes `value` as one line of JSON to standard output.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string(value)?))
}

/// A progress bar of `len` steps; invisible where standard error is not a terminal.
pub(crate) fn bar(len: u64, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {percent:>3} % {eta:>4}")
        .expect("the template is well-formed");
    ProgressBar::new(len).with_style(style).with_message(what.to_owned())
}
