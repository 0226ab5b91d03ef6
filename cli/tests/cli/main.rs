//! The command as its users meet it: arguments, files, standard streams and exit codes.

mod answers;
mod chat;
mod commands;
mod conversion;
mod failures;
mod frames;
mod instruct;
mod pull;
mod readme;
mod stream;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// How a run ended.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn command<A: AsRef<OsStr>>(args: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sarit"));
    command.args(args).stdin(Stdio::null());
    command
}

fn run<A: AsRef<OsStr>>(args: &[A]) -> Run {
    let output = command(args).output().unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Standard output of a run that must succeed and say nothing else.
fn output<A: AsRef<OsStr>>(args: &[A]) -> String {
    let run = run(args);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{}", run.stdout);
    run.stdout
}

/// The JSON object that a run prints.
fn json<A: AsRef<OsStr>>(args: &[A]) -> serde_json::Value {
    serde_json::from_str(&output(args)).unwrap()
}

/// Checks that a run fails with one sentence that contains all of `words`, and prints nothing.
fn fails<A: AsRef<OsStr>>(args: &[A], words: &[&str]) {
    let run = run(args);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{}", run.stderr);
    let sentence = run.stderr.strip_suffix('\n').unwrap();
    assert!(sentence.starts_with("sarit: ") && !sentence.contains('\n'), "{sentence}");
    for word in words {
        assert!(sentence.contains(word), "{sentence:?} lacks {word:?}");
    }
}

/// A file or folder of the workspace's tests.
fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests").join(path)
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A small model without a tokenizer, converted from a golden checkpoint.
fn tiny() -> &'static Path {
    static TINY: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.sarit");
        output(&["convert", str(&data("golden/mamba2-tiny")), "-o", str(&path), "--weights", "f32"]);
        (folder, path)
    });
    &TINY.1
}

/// Bytes of a model with another fingerprint than `model` but the same meaning.
fn relabelled(model: &[u8]) -> Vec<u8> {
    let mut model = model.to_vec();
    let at = model.windows(9).rposition(|window| window == b"\"licence\"").unwrap();
    model[at + 1] = b'L';
    sign(&mut model);
    model
}

/// Writes the fingerprint that `model` should have into its header.
fn sign(model: &mut [u8]) {
    let start = sarit_core::format::FINGERPRINT_START;
    let fingerprint = sarit_core::hash(&model[start..]);
    model[start - 8..start].copy_from_slice(&fingerprint.to_le_bytes());
}

/// The bundled model's file.
fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/indic-qa-natural.sarit")
}

/// The model that the reference's answers in `golden.json` come from.
fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/indic-qa.sarit")
}
