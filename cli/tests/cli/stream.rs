//! `sarit stream`: rows in, results out, and what is said about rows that cannot be used.

use super::{Run, command, data, fails, output, run, str};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::LazyLock;

/// The keyword spotter, with names for its columns and classes and 10 ms from frame to frame.
fn spotter() -> &'static Path {
    static SPOTTER: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kws.sarit");
        let meta = folder.path().join("meta.json");
        let labels: Vec<String> = (0..10).map(|i| format!("word {i}")).collect();
        let columns: Vec<String> = (0..40).map(|i| format!("c{i}")).collect();
        let stated = json!({ "labels": labels, "columns": columns, "frame_interval_s": 0.01 });
        std::fs::write(&meta, stated.to_string()).unwrap();
        let source = data("golden-frames/mambalite-kws");
        output(&["convert", str(&source), "-o", str(&path), "--weights", "f32", "--meta", str(&meta)]);
        (folder, path)
    });
    &SPOTTER.1
}

/// The golden input's rows.
fn frames() -> Vec<Vec<f32>> {
    golden("input", 40)
}

fn golden(tensor: &str, cols: usize) -> Vec<Vec<f32>> {
    let file = std::fs::read(data("golden-frames/mambalite-kws/golden.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let numbers: Vec<f32> =
        tensors.tensor(tensor).unwrap().data().as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
    numbers.chunks(cols).map(<[f32]>::to_vec).collect()
}

fn line(frame: &[f32]) -> String {
    frame.iter().map(f32::to_string).collect::<Vec<_>>().join(",")
}

fn names() -> String {
    (0..40).map(|i| format!("c{i}")).collect::<Vec<_>>().join(",")
}

/// Runs the spotter on a text with these lines, and gives what it printed.
fn stream(lines: &[String], end: &str, args: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    std::fs::write(&path, lines.iter().map(|line| format!("{line}{end}")).collect::<String>()).unwrap();
    let mut all = vec!["stream", str(spotter()), "--csv", str(&path)];
    all.extend(args);
    run(&all)
}

/// The spotter, waiting for rows on its standard input.
fn start(args: &[&str]) -> Child {
    command(&[&["stream", str(spotter()), "--csv", "-"], args].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn objects(run: &Run) -> Vec<Value> {
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_row_has_its_result() {
    let want = golden("logits", 10);
    let rows: Vec<String> = frames().iter().map(|frame| line(frame)).collect();
    let run = stream(&rows, "\n", &["--json"]);
    let mut objects = objects(&run);
    let summary = objects.pop().unwrap()["summary"].take();
    assert_eq!((summary["rows"].as_u64(), summary["skipped"].as_u64()), (Some(100), Some(0)));
    for field in ["mean", "p99", "max"] {
        assert!(summary["latency_us"][field].as_f64().is_some_and(f64::is_finite), "{summary}");
    }
    assert!(run.stderr.starts_with("100 rows in ") && run.stderr.lines().count() == 1, "{}", run.stderr);
    assert_eq!(objects.len(), 100);
    for (i, (object, want)) in objects.iter().zip(&want).enumerate() {
        assert_eq!(object["line"], i + 1);
        let scores: Vec<f64> =
            object["scores"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        assert!(scores.iter().zip(want).all(|(a, b)| (a - f64::from(*b)).abs() <= 1e-4));
    }
    assert_eq!((&objects[99]["class"], &objects[99]["label"]), (&json!(9), &json!("word 9")));
    assert!(objects[99]["probability"].as_f64().unwrap() > 0.999);
    let text = stream(&rows, "\n", &[]).stdout;
    assert_eq!(text.lines().last(), Some("word 9\t1.0000"));
}

/// A file's dialect makes no difference: names, line ends, blanks, quotes, a byte order mark, more columns.
#[test]
fn dialects_mean_the_same() {
    let frames = frames();
    let rows: Vec<String> = frames.iter().take(20).map(|frame| line(frame)).collect();
    let plain = stream(&rows, "\n", &[]).stdout;
    assert_eq!(plain.lines().count(), 20);
    let named = [&[format!("\u{feff}{}", names())], &rows[..]].concat();
    assert_eq!(stream(&named, "\r\n", &[]).stdout, plain);
    let quoted = |row: &String| format!("\"{}\"\n", row.replace(',', "\",\""));
    assert_eq!(stream(&named[1..].iter().map(quoted).collect::<Vec<_>>(), "\n", &[]).stdout, plain);
    let spaced = |row: &String| format!(" {} ", row.replace(',', " , "));
    assert_eq!(stream(&named[1..].iter().map(spaced).collect::<Vec<_>>(), "\n", &[]).stdout, plain);
    // Columns in another order among others.
    let mixed: Vec<String> = frames
        .iter()
        .take(20)
        .map(|frame| format!("x,{}", line(&frame.iter().rev().copied().collect::<Vec<_>>())))
        .collect();
    let header = format!("note,{}", names().split(',').rev().collect::<Vec<_>>().join(","));
    assert_eq!(stream(&[&[header], &mixed[..]].concat(), "\n", &[]).stdout, plain);
    let numbers: Vec<String> = (1..=40).rev().map(|i| i.to_string()).collect();
    let reversed: Vec<String> = mixed.iter().map(|row| row[2..].to_owned()).collect();
    assert_eq!(stream(&reversed, "\n", &["--columns", &numbers.join(",")]).stdout, plain);
}

#[test]
fn times_scale_the_step() {
    let frames = frames();
    let rows = |times: &dyn Fn(usize) -> f64| -> Vec<String> {
        let row = |(i, frame): (usize, &Vec<f32>)| format!("{},{}", times(i), line(frame));
        [format!("t,{}", names())].into_iter().chain(frames.iter().take(30).enumerate().map(row)).collect()
    };
    let untimed = stream(&rows(&|i| i as f64), "\n", &["--json"]);
    let hash = |run: &Run| objects(run).last().unwrap()["summary"]["state_hash"].clone();
    // Powers of two: intervals of exactly 1.
    let args = ["--json", "--time-column", "t", "--frame-interval", "0.25"];
    assert_eq!(hash(&stream(&rows(&|i| 0.25 * i as f64), "\n", &args)), hash(&untimed));
    let late = stream(&rows(&|i| 0.75 * i as f64), "\n", &args);
    assert_ne!(hash(&late), hash(&untimed));
    assert_eq!(objects(&late)[2]["time"], 1.5);
    let back = stream(&rows(&|i| if i == 7 { 0.0 } else { i as f64 }), "\n", &["--time-column", "t"]);
    assert_eq!(back.code, Some(1));
    assert!(back.stderr.contains("line 9") && back.stderr.contains("later than 6"), "{}", back.stderr);
    let far = stream(&rows(&|i| 1e9 * i as f64), "\n", &["--time-column", "t"]);
    assert!(far.code == Some(1) && far.stderr.contains("line 3"), "{}", far.stderr);
}

/// Each result is there before the next row is.
/// What the system says of the pages, or the limit that forbids it.
#[cfg(target_os = "linux")]
#[test]
fn a_model_is_kept_in_memory() {
    let mut child = start(&["--lock"]);
    let mut input = child.stdin.take().unwrap();
    // A child that may not lock pages ends and does not read.
    let _ = writeln!(input, "{}", line(&frames()[0]));
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    drop(input);
    let ended = child.wait_with_output().unwrap();
    if first.is_empty() {
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.code() == Some(1) && stderr.contains("ulimit -l"), "{stderr}");
        return;
    }
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    let locked: u64 = locked.trim().strip_suffix("kB").unwrap().trim().parse().unwrap();
    assert!(1024 * locked >= std::fs::metadata(spotter()).unwrap().len(), "{locked} KiB");
}

#[test]
fn rows_are_answered_as_they_arrive() {
    let mut child = start(&[]);
    let mut rows = child.stdin.take().unwrap();
    let mut results = BufReader::new(child.stdout.take().unwrap());
    for frame in frames().iter().take(5) {
        writeln!(rows, "{}", line(frame)).unwrap();
        let mut result = String::new();
        results.read_line(&mut result).unwrap();
        assert!(result.starts_with("word ") && result.ends_with('\n'), "{result:?}");
    }
    drop(rows);
    assert!(child.wait().unwrap().success());
}

#[test]
fn bad_rows_are_named_or_passed_over() {
    let frames = frames();
    let good: Vec<String> = frames.iter().take(6).map(|frame| line(frame)).collect();
    let with = |at: usize, row: &str| {
        let mut rows = good.clone();
        rows.insert(at, row.to_owned());
        rows
    };
    let mut word: Vec<String> = frames[0].iter().map(f32::to_string).collect();
    word[3] = "high".to_owned();
    let mut infinite = word.clone();
    infinite[3] = "inf".to_owned();
    let mut huge = word.clone();
    huge[3] = "1e39".to_owned();
    let cases = [
        (with(3, "1,2,3"), ["line 4", "40 fields were expected", "there are 3"]),
        (with(2, &word.join(",")), ["line 3", "a number was expected in column 4", "\"high\""]),
        (with(2, &infinite.join(",")), ["line 3", "a number was expected in column 4", "\"inf\""]),
        (with(5, &huge.join(",")), ["line 6", "column 4", "too large"]),
        (with(0, &word.join(",")), ["line 1", "a number was expected in column 4", "\"high\""]),
        (with(4, &format!("\n\n{}", word.join(","))), ["line 7", "column 4", "\"high\""]),
        (with(2, &format!("{0}\r{0}", good[0])), ["line 3", "carriage return", "newline"]),
        (with(2, &format!("{}\r1,2", good[0])), ["line 3", "carriage return", "newline"]),
    ];
    let plain = stream(&good, "\n", &[]).stdout;
    for (rows, expected) in &cases {
        for end in ["\n", "\r\n"] {
            let failed = stream(rows, end, &[]);
            assert_eq!(failed.code, Some(1), "{}", failed.stderr);
            for part in expected {
                assert!(failed.stderr.contains(part), "{:?} lacks {part:?}", failed.stderr);
            }
            let passed = stream(rows, end, &["--skip-bad"]);
            assert_eq!((passed.code, &passed.stdout), (Some(0), &plain), "{}", passed.stderr);
            assert!(passed.stderr.contains("1 passed over") && passed.stderr.contains(expected[0]));
        }
    }
}

#[test]
fn texts_that_hold_no_frames_are_refused() {
    let refused = |lines: &[&str], args: &[&str], words: &[&str]| {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let run = stream(&lines, "\n", args);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{}", run.stderr);
        for word in words {
            assert!(run.stderr.contains(word), "{:?} lacks {word:?}", run.stderr);
        }
    };
    refused(&[], &[], &["is empty", "a row of 40 numbers"]);
    refused(&["", "  "], &[], &["is empty"]);
    refused(&["a,b"], &[], &["line 1", "\"c0\" was expected", "a, b"]);
    refused(&[&format!("{}\r{}", names(), names())], &[], &["line 1", "carriage return"]);
    refused(&["1,2,3"], &[], &["line 1", "40 columns were expected", "there are 3"]);
    refused(&[&names()], &[], &["line 1", "no row"]);
    refused(&[&names(), "1,2"], &["--skip-bad"], &["no row", "1 were passed over"]);
    refused(&[&names()], &["--columns", "c0,c1"], &["40 columns were expected", "there are 2"]);
    refused(&[&names()], &["--time-column", "when"], &["\"when\" was expected"]);
    refused(&["1,2,3"], &["--time-column", "when"], &["\"when\" was expected", "numbers from 1 to 3"]);
    refused(&[&format!("c0,{}", names())], &[], &["two columns are called \"c0\""]);
    fails(&["stream", str(spotter()), "--csv", "/nonexistent.csv"], &["cannot open /nonexistent.csv"]);
    fails(&["stream", str(super::tiny()), "--csv", "-"], &["takes tokens"]);
    fails(&["logits", str(spotter()), "--ids", "1", "-o", "/tmp/never"], &["takes frames"]);
    fails(&["bench", str(spotter())], &["takes frames"]);
    fails(&["verify", str(spotter()), "--backend", "cuda"], &["takes frames", "leave --backend cuda out"]);
}

#[test]
fn a_frame_model_is_inspected_and_verified() {
    let text = output(&["inspect", str(spotter())]);
    for part in ["40 numbers every 0.01 s, width 64", "classification, 10 numbers, pool mean", "word 3"] {
        assert!(text.contains(part), "{text}");
    }
    let json = super::json(&["inspect", str(spotter()), "--json"]);
    assert_eq!(
        (&json["frame_len"], &json["results"], &json["pool"]),
        (&json!(40), &json!(10), &json!("mean"))
    );
    assert_eq!(json["memory"]["state_bytes"], 4 * (3 * 128 + 128 * 16 + 64));
    assert_eq!(super::json(&["verify", str(spotter()), "--json"])["same"], true);
}
