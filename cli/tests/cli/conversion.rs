//! Conversion: results, refusals and interruption, of `sarit logits` too.

use crate::{command, data, fails, json, str};
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_format_is_written_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let (out, meta) = (folder.path().join("out.sarit"), folder.path().join("meta.json"));
    fs::write(&meta, r#"{"name": "tiny", "licence": "MIT"}"#).unwrap();
    for (weights, most) in [("f32", 0.0), ("f16", 1e-3), ("q8", 1e-2), ("q4", 0.2)] {
        let source = data("golden/mamba2-tiny");
        let convert = ["convert", str(&source), "-o", str(&out), "--weights", weights];
        let report = json(&[&convert[..], &["--meta", str(&meta), "--json"][..]].concat());
        assert_eq!(report["file_bytes"], fs::metadata(&out).unwrap().len());
        for tensor in report["tensors"].as_array().unwrap() {
            assert!(tensor["relative_error"].as_f64().unwrap() <= most, "{tensor}");
        }
        let inspection = json(&["inspect", str(&out), "--json"]);
        assert_eq!(inspection["meta"]["name"], "tiny");
        assert_eq!(inspection["meta"]["quantization"]["weights"], weights);
        assert_eq!(inspection["model_bytes"], report["file_bytes"]);
    }
    assert_eq!(files(folder.path()).len(), 2);
}

#[test]
fn the_format_of_states_is_kept_and_can_be_overridden() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (data("golden/mamba2-tiny"), folder.path().join("out.sarit"));
    let of = |more: &[&str]| {
        let inspection = json(&[&["inspect", str(&out), "--json"], more].concat());
        let state = inspection["memory"]["state"].as_str().unwrap().to_owned();
        (state, inspection["memory"]["state_bytes"].as_u64().unwrap())
    };
    let bytes = ["f32", "f16", "i8"].map(|state| {
        json(&["convert", str(&source), "-o", str(&out), "--state", state, "--json"]);
        let (stated, bytes) = of(&[]);
        assert_eq!(stated, state);
        assert_eq!(of(&["--state", "f32"]).0, "f32");
        bytes
    });
    // In rows as short as these, of 16, half of the room for what rounding leaves over is empty: i8 takes more than f16.
    assert!(bytes[0] > bytes[1] && bytes[0] > bytes[2] && bytes[1] != bytes[2], "{bytes:?}");
}

#[test]
fn bad_sources_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    let out = folder.path().join("out.sarit");
    let convert = ["convert", str(&source), "-o", str(&out)];
    fails(&convert, &["source"]);
    fs::create_dir(&source).unwrap();
    fails(&convert, &[]);

    let golden = data("golden/mamba2-tiny");
    let weights = fs::read(golden.join("model.safetensors")).unwrap();
    let config = fs::read_to_string(golden.join("config.json")).unwrap();
    let refused = |config: &str, weights: &[u8], words: &[&str]| {
        fs::write(source.join("config.json"), config).unwrap();
        fs::write(source.join("model.safetensors"), weights).unwrap();
        fails(&convert, words);
        assert_eq!(files(folder.path()), ["source"]);
    };
    refused(&config.replace("\"mamba2\"", "\"llama\""), &weights, &["llama"]);
    refused("{", &weights, &["config.json"]);
    let mut nan = weights.clone();
    let last = nan.len() - 4;
    nan[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    refused(&config, &nan, &["NaN"]);
    let renamed = String::from_utf8_lossy(&weights[..8000]).find("layers.1.norm.weight").unwrap();
    let mut missing = weights.clone();
    missing[renamed..renamed + 8].copy_from_slice(b"layers.7");
    refused(&config, &missing, &["layers.1.norm.weight"]);
    refused(&config, &weights[..weights.len() - 4], &["model.safetensors"]);

    let meta = folder.path().join("source/meta.json");
    fs::write(&meta, "[]").unwrap();
    let with_meta = ["convert", str(&golden), "-o", str(&out), "--meta", str(&meta)];
    fails(&with_meta, &["meta.json is not a JSON object"]);
    assert_eq!(files(folder.path()), ["source"]);
}

/// A checkpoint with 16 million words, all zero: large for the converter, but a hole in a file for the disk.
fn vast_checkpoint(folder: &Path) {
    const VOCAB: usize = 16 << 20;
    let golden = data("golden/mamba2-tiny");
    let small = fs::read(golden.join("model.safetensors")).unwrap();
    let header_len = u64::from_le_bytes(small[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&small[8..8 + header_len]).unwrap();
    // The embedding comes first; all others move back.
    let (old, new) = (97 * 32 * 4, VOCAB * 32 * 4);
    for (name, tensor) in
        header.as_object_mut().unwrap().iter_mut().filter(|(name, _)| *name != "__metadata__")
    {
        let offset = |i: usize| tensor["data_offsets"][i].as_u64().unwrap() as usize;
        let offsets = match name.as_str() {
            "backbone.embeddings.weight" => [0, new],
            _ => [offset(0) - old + new, offset(1) - old + new],
        };
        tensor["data_offsets"] = offsets.into();
    }
    header["backbone.embeddings.weight"]["shape"][0] = VOCAB.into();
    let header = header.to_string().into_bytes();
    let mut file = File::create(folder.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    file.seek_relative(new as i64).unwrap();
    file.write_all(&small[8 + header_len + old..]).unwrap();
    let config = fs::read_to_string(golden.join("config.json")).unwrap();
    let config = config.replace("\"vocab_size\": 97", &format!("\"vocab_size\": {VOCAB}"));
    fs::write(folder.join("config.json"), config).unwrap();
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// Sends each signal that ends a run to one with `args` and `-o`, when it has begun to write.
fn leaves_nothing_when_interrupted(args: &[&str]) {
    for name in ["-INT", "-TERM"] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let mut child = command(&[args, &["-o", str(&out)]].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        while files(folder.path()).is_empty() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), stderr.as_str()),
            (Some(1), "sarit: interrupted; nothing was written\n")
        );
        assert_eq!(files(folder.path()), [""; 0]);
    }
}

#[test]
fn an_interrupted_conversion_leaves_nothing() {
    let source = tempfile::tempdir().unwrap();
    vast_checkpoint(source.path());
    leaves_nothing_when_interrupted(&["convert", str(source.path()), "--weights", "q4"]);
}

#[test]
fn interrupted_logits_leave_nothing() {
    let ids = vec!["5"; 60_000].join(",");
    leaves_nothing_when_interrupted(&["logits", "--ids", &ids]);
}
