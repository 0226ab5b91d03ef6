//! Wrong usage, bad input, and streams that end.

use crate::{command, data, fails, run, sign, str, tiny};
use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::process::Stdio;

#[test]
fn wrong_usage_is_exit_code_2() {
    let stream = ["stream", "m", "--csv", "f", "--time-column", "t", "--frame-interval"];
    let cases: [&[&str]; 20] = [
        &[],
        &["answer"],
        &["eval"],
        &["ask", "--question", "q"],
        &["ask", "--context", "c"],
        &["ask", "--context", "c", "--state", "s", "--question", "q"],
        &["ask", "--context", "c", "--question", "q", "--threads", "0"],
        &["ask", "--context", "c", "--question", "q", "--backend", "sse2"],
        &["read", "--context-file", "f"],
        &["convert", "folder"],
        &["convert", "folder", "-o", "out", "--weights", "q3"],
        &["logits", "--ids", "1,x", "-o", "out"],
        &["logits", "--ids", "1", "--chunk", "0", "-o", "out"],
        &["bench", "--runs", "0"],
        &["generate", "--prompt", "p", "--temperature", "-1"],
        &["generate", "--prompt", "p", "--top-p", "0"],
        &["chat", "m", "--top-p", "1.5"],
        &["chat", "m", "--max-tokens", "0"],
        &[&stream[..], &["0"]].concat(),
        &[&stream[..], &["inf"]].concat(),
    ];
    for args in cases {
        let run = run(args);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{args:?}: {}", run.stderr);
        assert!(!run.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn what_has_other_bits_is_not_verified() {
    let words = ["does not have the bits", "verify --backend cuda"];
    fails(&["verify", str(tiny()), "--backend", "cuda-fast"], &words);
}

#[test]
fn bad_models_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.sarit");
    let refused = |bytes: &[u8], words: &[&str]| {
        fs::write(&path, bytes).unwrap();
        for command in ["inspect", "verify"] {
            fails(&[command, str(&path)], &[&["model.sarit"], words].concat());
        }
    };
    fails(&["inspect", str(&path)], &["cannot use model", "model.sarit", "No such file"]);
    fails(&["inspect", str(folder.path())], &["not a regular file"]);
    let good = fs::read(tiny()).unwrap();
    refused(&[], &["empty"]);
    refused(&good[..40], &["too short"]);
    refused(&good[..good.len() - 64], &["truncated or damaged"]);
    refused(&[&b"\x89PNG\r\n\x1a\n"[..], &[0; 200]].concat(), &["not a .sarit model", "`sarit convert`"]);
    for at in [100, good.len() / 2, good.len() - 1] {
        let mut flipped = good.clone();
        flipped[at] ^= 0x10;
        refused(&flipped, &["damaged"]);
    }
    let mut newer = good.clone();
    newer[16] = 9;
    sign(&mut newer);
    refused(&newer, &["format version 9", "newer Sarit"]);
}

#[test]
fn models_that_cannot_be_asked_say_so() {
    fails(&["ask", str(tiny()), "--context", "c", "--question", "q"], &["no tokenizer"]);
    fails(&["generate", str(tiny()), "--prompt", "p"], &["no tokenizer"]);
    fails(&["logits", str(tiny()), "--ids", "5,97", "-o", "out"], &["token id 97", "vocabulary of 97"]);
}

#[test]
fn bad_questions_and_texts_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    fails(&["ask", "--context", "c", "--question", ""], &["the question is empty"]);
    fails(&["ask", "--context", "c", "--question", " \n"], &["the question is empty"]);
    fails(&["ask", "--context", "", "--question", "q"], &["the context is empty"]);
    let ask = ["ask", "--context-file", str(&text), "--question", "q"];
    fails(&ask, &["cannot open", "No such file"]);
    fs::write(&text, "क".repeat(700_000)).unwrap();
    fails(&ask, &["2100000 bytes", "2.00 MiB", "1048576", "1.00 MiB"]);
    let state = folder.path().join("state");
    fails(&["read", "--context-file", str(&text), "-o", str(&state)], &["2100000 bytes", "1048576"]);
    fs::write(&text, [b'a', 0xff, b'b']).unwrap();
    fails(&ask, &["not UTF-8", "at 1"]);
    fs::write(&text, "\n").unwrap();
    fails(&ask, &["the context is empty"]);

    let endless = File::open("/dev/zero").unwrap();
    let output = command(&["ask", "--context-file", "-", "--question", "q"]).stdin(endless).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr).unwrap().contains("standard input holds more than 1048576 bytes")
    );

    fails(&["generate", "--prompt", ""], &["the prompt is empty"]);
}

#[test]
fn bad_rows_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows.jsonl");
    let good = r#"{"lang":"hi","kind":"k","context":"c","question":"q","answer":"a"}"#;
    let eval = ["eval", "qa", str(&rows)];
    fails(&eval, &["rows.jsonl", "No such file"]);
    fs::write(&rows, "\n").unwrap();
    fails(&eval, &["rows.jsonl holds no rows"]);
    fs::write(&rows, format!("{good}\n\n{{\"lang\":\"hi\"}}\n")).unwrap();
    fails(&eval, &["line 3 of", "rows.jsonl", "missing field `kind`"]);
    fs::write(&rows, format!("{good}\n{}\n", good.replace("\"q\"", "\" \""))).unwrap();
    fails(&eval, &["the question in line 2 of", "is empty"]);
    fs::write(&rows, [b'\n', 0xff]).unwrap();
    fails(&["eval", "ppl", str(&rows)], &["rows.jsonl", "UTF-8"]);
    fs::write(&rows, "\n\n").unwrap();
    fails(&["eval", "ppl", str(&rows)], &["rows.jsonl holds no text"]);
}

#[test]
fn outputs_that_cannot_be_written_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    fs::write(&text, "text").unwrap();
    let (missing, taken) = (folder.path().join("missing/out"), folder.path().join("taken"));
    fs::create_dir(&taken).unwrap();
    // As little a file as a device is.
    let socket = folder.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let rows = data("data/indic-qa/natural-dev.jsonl");
    let checkpoint = data("golden/mamba2-tiny");
    for out in [&missing, &taken, &socket] {
        let out = str(out);
        fails(&["read", "--context-file", str(&text), "-o", out], &["cannot write", out]);
        fails(&["logits", str(tiny()), "--ids", "1,2", "-o", out], &["cannot write", out]);
        fails(&["convert", str(&checkpoint), "-o", out], &["cannot write", out]);
        fails(&["eval", "qa", str(&rows), "--predictions", out], &["cannot write", out]);
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

/// A folder in which nobody can create files, and which looks like any other.
#[cfg(target_os = "linux")]
#[test]
fn answers_that_cannot_be_written_are_scored_all_the_same() {
    let rows = data("data/indic-qa/natural-dev.jsonl");
    let run = run(&["eval", "qa", str(&rows), "--predictions", "/proc/answers.jsonl"]);
    assert_eq!(run.code, Some(1));
    assert!(run.stdout.contains("exact match"), "{}", run.stdout);
    assert!(run.stderr.contains("cannot write /proc/answers.jsonl"), "{}", run.stderr);
}

#[test]
fn a_reader_that_leaves_ends_the_run_quietly() {
    let mut child = command(&["generate", "--prompt", "<bos>", "--max-tokens", "2000", "--temperature", "2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}

#[test]
fn a_full_disk_behind_standard_output_is_a_failure() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = command(&["inspect"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot write to standard output"));
}
