//! The other commands, and help.

use crate::{bundled, data, fails, json, output, run, str, tiny};
use safetensors::SafeTensors;
use std::fs;

#[test]
fn every_command_has_help_with_examples() {
    let commands = [
        "ask", "read", "generate", "chat", "pull", "convert", "inspect", "logits", "eval", "bench", "verify",
    ];
    for args in
        commands.iter().map(|name| vec![*name]).chain([vec![], vec!["eval", "qa"], vec!["eval", "ppl"]])
    {
        let help = output(&[&args[..], &["--help"][..]].concat());
        let example = format!("  sarit {}", args.join(" "));
        assert!(help.contains("Example") && help.contains(&example), "{args:?}: {help}");
    }
    let version = output(&["--version"]);
    assert_eq!(version.trim_end(), concat!("sarit ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_bundled_model_is_shown() {
    let text = output(&["inspect"]);
    for word in ["fingerprint", "mamba2", "scratch", "vocabulary 16384"] {
        assert!(text.contains(word), "{text}");
    }
    let inspection = json(&["inspect", "--json"]);
    assert_eq!(inspection["vocab"], 16384);
    assert_eq!(inspection["blocks"].as_array().unwrap().len(), 14);
    let bytes = inspection["tensors"].as_array().unwrap().iter().map(|t| t["bytes"].as_u64().unwrap());
    assert!(bytes.sum::<u64>() < inspection["model_bytes"].as_u64().unwrap());
}

#[test]
fn chunks_threads_and_backends_give_the_same_logits() {
    let folder = tempfile::tempdir().unwrap();
    let (first, other) = (folder.path().join("first"), folder.path().join("other"));
    let golden = fs::read(data("golden/mamba2-tiny/golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let ids = golden.tensor("input_ids").unwrap().data().chunks_exact(8).map(|id| id[0].to_string());
    let ids = ids.collect::<Vec<_>>().join(",");
    let logits = |chunk: &str, out, options: &[&str]| {
        let args = ["logits", str(tiny()), "--ids", &ids, "--chunk", chunk, "-o", str(out)];
        output(&[&args[..], options].concat())
    };
    let hash = logits("1", &first, &[]);
    assert_eq!((hash.len(), hash.trim_end().chars().all(|c| c.is_ascii_hexdigit())), (17, true));
    let expected = fs::read(&first).unwrap();
    for chunk in ["7", "40", "1000"] {
        for options in [&[][..], &["--threads", "2"], &["--backend", "scalar", "--threads", "1"]] {
            assert_eq!(logits(chunk, &other, options), hash);
            assert!(fs::read(&other).unwrap() == expected);
        }
    }

    let written = SafeTensors::deserialize(&expected).unwrap();
    let written = written.tensor("logits").unwrap();
    let reference = golden.tensor("logits").unwrap();
    assert_eq!((written.dtype(), written.shape()), (reference.dtype(), reference.shape()));
    let floats = |data: &[u8]| -> Vec<f64> {
        data.chunks_exact(4).map(|x| f64::from(f32::from_le_bytes(x.try_into().unwrap()))).collect()
    };
    let (ours, theirs) = (floats(written.data()), floats(reference.data()));
    let mean = theirs.iter().sum::<f64>() / theirs.len() as f64;
    let deviation = (theirs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / theirs.len() as f64).sqrt();
    let difference = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(difference <= 2e-4 * deviation, "{difference} of {deviation}");
}

#[test]
fn answers_are_scored() {
    let folder = tempfile::tempdir().unwrap();
    let (rows, predictions) = (folder.path().join("rows.jsonl"), folder.path().join("predictions.jsonl"));
    let all = fs::read_to_string(data("data/indic-qa/eval.jsonl")).unwrap();
    let some: Vec<&str> = all.lines().step_by(20).collect();
    fs::write(&rows, some.join("\n")).unwrap();
    let eval = ["eval", "qa", str(&rows), "--json", "--predictions", str(&predictions)];
    let result = json(&eval);
    assert_eq!((result["rows"].as_u64(), result["languages"]["hi"]["rows"].as_u64()), (Some(70), Some(5)));
    assert!(result["exact_match"].as_f64().unwrap() > 80.0, "{result}");
    assert!(result["f1"].as_f64().unwrap() >= result["exact_match"].as_f64().unwrap());
    assert!(result["unanswerable"]["recall"].as_f64().unwrap() > 80.0, "{result}");
    assert_eq!(
        result["kinds"]["seen"]["rows"].as_u64().unwrap() + result["kinds"]["new"]["rows"].as_u64().unwrap(),
        70
    );
    let written = fs::read_to_string(&predictions).unwrap();
    assert_eq!(written.lines().count(), 70);
    assert_eq!(json(&[&eval[..], &["--threads", "1"][..]].concat()), result);
    assert_eq!(fs::read_to_string(&predictions).unwrap(), written);

    let table = output(&["eval", "qa", str(&data("data/indic-qa/natural-dev.jsonl"))]);
    assert!(table.contains("all") && table.contains("exact match"), "{table}");
}

/// Asked on, the model reads what `generate` reads of the whole conversation.
#[test]
fn questions_are_asked_of_the_state_that_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (rows, predictions) = (folder.path().join("rows.jsonl"), folder.path().join("predictions.jsonl"));
    let (context, questions) = (
        "राशन की दुकान सुबह 9 बजे खुलती है। फ़ोन: 1967।",
        ["दुकान कब खुलती है?", "फ़ोन नंबर क्या है?", "किराया कितना है?"],
    );
    let row = |question: &&str| {
        serde_json::json!({ "lang": "hi", "kind": "span", "context": context, "question": question, "answer": "1967" }).to_string()
    };
    fs::write(&rows, questions.iter().map(row).collect::<Vec<_>>().join("\n")).unwrap();
    let eval =
        ["eval", "qa", str(&rows), "--json", "--predictions", str(&predictions), "--keep-state", "--free"];
    assert_eq!(json(&eval)["later_questions"]["rows"], 2);
    let written = fs::read_to_string(&predictions).unwrap();
    let mut prompt = format!("<bos><ctx>{context}");
    for (line, question) in written.lines().zip(questions) {
        let prediction: serde_json::Value = serde_json::from_str(line).unwrap();
        let answer = prediction["prediction"].as_str().unwrap();
        prompt += &format!("<q>{question}<a>");
        let generated = json(&["generate", str(&bundled()), "--prompt", &prompt, "--json"]);
        assert_eq!(generated["text"], answer, "{prompt}");
        prompt += &format!("{answer}<eos>");
    }
}

#[test]
fn perplexity_does_not_depend_on_threads() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    let all = fs::read_to_string(data("data/indic-qa/lm-text.txt")).unwrap();
    let lines: Vec<&str> = all.lines().step_by(40).collect();
    fs::write(&text, lines.join("\n")).unwrap();
    let eval = ["eval", "ppl", str(&text), "--json", "--threads"];
    let result = json(&[&eval[..], &["1"][..]].concat());
    assert_eq!(json(&[&eval[..], &["2"][..]].concat()), result);
    let number = |name: &str| result[name].as_f64().unwrap();
    assert!((number("perplexity").ln() - number("nats_per_token")).abs() < 1e-9);
    let bits = number("nats_per_token") * number("tokens") / number("bytes") / std::f64::consts::LN_2;
    assert!((bits - number("bits_per_byte")).abs() < 1e-9);
    assert_eq!(number("bytes"), lines.iter().map(|line| line.len() as f64).sum::<f64>());
}

/// A line that is cut is one that ends there.
#[test]
fn bytes_that_are_not_read_do_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    let eval = |content: &str| {
        fs::write(&text, content).unwrap();
        json(&["eval", "ppl", str(&text), "--json"])
    };
    let line = "A shop in the old town sells tea, rice and 12 kinds of pulses. ".repeat(200);
    let long = eval(&line);
    assert_eq!(long["tokens"], 1023);
    let bytes = long["bytes"].as_u64().unwrap() as usize;
    assert!(bytes < line.len() / 2, "{long}");
    assert_eq!(eval(&line[..bytes]), long);
}

#[test]
fn speed_is_measured() {
    let result = json(&["bench", str(tiny()), "--prompt", "20", "--generate", "10", "--runs", "2", "--json"]);
    for key in [
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "load_ms",
        "first_token_ms",
        "state_bytes",
        "scratch_bytes",
        "model_bytes",
        "peak_rss_bytes",
        "threads",
        "read_bandwidth_bytes_per_s",
        "decode_bandwidth_fraction",
    ] {
        assert!(result[key].as_f64().unwrap() > 0.0, "{key}: {result}");
    }
    assert!(result["backend"].is_string());
}

#[test]
fn every_backend_of_this_machine_gives_the_same_bits() {
    let result = json(&["verify", str(tiny()), "--json"]);
    assert_eq!(result["same"], true, "{result}");
    let runs = result["runs"].as_array().unwrap();
    assert!(runs.len() >= 6 && runs.iter().all(|run| run["same"] == true));
    let table = output(&["verify", str(tiny())]);
    assert_eq!(table.lines().filter(|line| line.ends_with("same")).count(), runs.len());
}

#[test]
fn a_backend_that_the_machine_lacks_is_named() {
    let runs = json(&["verify", str(tiny()), "--json"])["runs"].clone();
    let here: Vec<&str> =
        runs.as_array().unwrap().iter().map(|run| run["backend"].as_str().unwrap()).collect();
    for backend in ["scalar", "avx2", "avx512", "neon", "dotprod", "i8mm"] {
        let bench = ["bench", str(tiny()), "--runs", "1", "--backend", backend];
        if here.contains(&backend) {
            assert_eq!(run(&bench).code, Some(0));
        } else {
            fails(&bench, &[backend, "choose --backend"]);
        }
    }
}
