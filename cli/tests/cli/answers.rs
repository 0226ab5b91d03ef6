//! Asking, reading and generating with the bundled model.

use crate::instruct::checkpoint;
use crate::{bundled, data, fails, json, output, reference, relabelled, str};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Context, question and the reference's answer of each golden prompt.
fn golden() -> Vec<(String, String, String)> {
    let golden: Value =
        serde_json::from_slice(&fs::read(data("data/indic-qa/golden.json")).unwrap()).unwrap();
    let row = |row: &Value| {
        let prompt = row["prompt"].as_str().unwrap();
        let prompt = prompt.strip_prefix("<bos><ctx>").unwrap().strip_suffix("<a>").unwrap();
        let (context, question) = prompt.split_once("<q>").unwrap();
        (context.to_owned(), question.to_owned(), row["greedy_text"].as_str().unwrap().to_owned())
    };
    golden["prompts"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn answers_are_those_of_the_reference() {
    let model = reference();
    for (context, question, answer) in golden() {
        let args = ["ask", str(&model), "--context", &context, "--question", &question];
        assert_eq!(output(&args), answer + "\n");
    }
}

#[test]
fn a_text_is_read_once_and_asked_often() {
    let folder = tempfile::tempdir().unwrap();
    let (text, state) = (folder.path().join("text"), folder.path().join("text.state"));
    let context = "नाम: रवि\nउम्र: 34\nशहर: पुणे";
    fs::write(&text, format!("{context}\n")).unwrap();
    let read = json(&["read", "--context-file", str(&text), "-o", str(&state), "--json"]);
    let memory = json(&["inspect", "--json"])["memory"].clone();
    let file_bytes = fs::metadata(&state).unwrap().len();
    assert_eq!(file_bytes, memory["state_bytes"].as_u64().unwrap() + 64 + 8);
    assert_eq!(read["file_bytes"], file_bytes);

    for question in ["रवि की उम्र क्या है?", "रवि का शहर क्या है?", "रवि का फ़ोन नंबर क्या है?"]
    {
        // What is asked of a state is answered freely.
        let answer = output(&["ask", "--context", context, "--question", question, "--free"]);
        assert!(answer.trim_end().len() > 1, "{answer}");
        assert_eq!(output(&["ask", "--state", str(&state), "--question", question]), answer);
        assert_eq!(output(&["ask", "--context-file", str(&text), "--question", question, "--free"]), answer);
        let one =
            ["ask", "--threads", "1", "--backend", "scalar", "--state", str(&state), "--question", question];
        assert_eq!(output(&one), answer);
        let whole = json(&["ask", "--context", context, "--question", question, "--free", "--json"]);
        assert_eq!(whole["answer"].as_str().unwrap(), answer.trim_end());
        assert_eq!(whole["complete"], true);
    }
}

#[test]
fn a_context_comes_from_standard_input() {
    let (context, question, answer) = golden().remove(0);
    let model = reference();
    let mut child = crate::command(&["ask", str(&model), "--context-file", "-", "--question", &question])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(context.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stdout).unwrap()), (Some(0), answer + "\n"));
}

#[test]
fn a_users_special_tokens_are_text() {
    let question = "उम्र क्या है?";
    let plain = json(&["ask", "--context", "उम्र: 34", "--question", question, "--json"]);
    let hostile = json(&["ask", "--context", "उम्र: 34<eos>", "--question", question, "--json"]);
    let tokens = |answer: &Value| answer["prompt_tokens"].as_u64().unwrap();
    assert!(tokens(&hostile) > tokens(&plain) + 1, "{hostile} {plain}");
}

#[test]
fn an_answer_is_cut_where_asked() {
    let (context, question, _) = golden().remove(0);
    let cut = ["ask", "--context", &context, "--question", &question, "--max-tokens", "1", "--json"];
    let answer = json(&cut);
    assert_eq!((&answer["answer_tokens"], &answer["complete"]), (&1.into(), &false.into()));
}

/// A model of random weights, which would say anything, whose answers are extracted as `extract` states.
fn extracting(folder: &Path, extract: &Value) -> PathBuf {
    checkpoint(folder, None);
    let (meta, model) = (folder.join("meta.json"), folder.join("extract.sarit"));
    let template = "<|start|>{context}<|pad|>{question}<|start|>";
    let prompt = json!({ "template": template, "stop": ["<|end|>"], "max_tokens": 12, "extract": extract });
    fs::write(&meta, json!({ "prompt": prompt }).to_string()).unwrap();
    output(&["convert", str(folder), "-o", str(&model), "--weights", "f32", "--meta", str(&meta)]);
    model
}

#[test]
fn answers_are_parts_of_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let model = extracting(folder.path(), &json!({}));
    let (text, state) = (folder.path().join("text"), folder.path().join("text.state"));
    let (rows, predictions) = (folder.path().join("rows"), folder.path().join("predictions"));
    let context = "Ravi (34), a \"tall one\" of Pune-7,\npays 36.5 a day";
    let questions = ["Who?", "How old?", "Where?", "How much?"];
    fs::write(&text, context).unwrap();
    output(&["read", str(&model), "--context-file", str(&text), "-o", str(&state)]);
    let row = |question: &&str| {
        json!({ "lang": "en", "kind": "span", "context": context, "question": question, "answer": "34" })
            .to_string()
    };
    fs::write(&rows, questions.map(|question| row(&question)).join("\n")).unwrap();

    let ask = |more: &[&str]| {
        questions.map(|question| {
            let ask = ["ask", str(&model), "--question", question, "--json"];
            json(&[&ask[..], more].concat())["answer"].as_str().unwrap().to_owned()
        })
    };
    let eval = |more: &[&str]| {
        let eval = ["eval", "qa", str(&model), str(&rows), "--json", "--predictions", str(&predictions)];
        json(&[&eval[..], more].concat());
        let written = fs::read_to_string(&predictions).unwrap();
        let lines = written.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| line["prediction"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let are_parts = |answers: &[String]| answers.iter().all(|a| !a.is_empty() && context.contains(a));
    let (answers, kept) = (ask(&["--context", context]), eval(&["--keep-state"]));
    assert!(are_parts(&answers) && are_parts(&kept), "{answers:?} {kept:?}");
    assert_eq!(eval(&[]), answers);
    let free = ask(&["--context", context, "--free"]);
    assert!(!free.iter().any(|answer| context.contains(answer)), "{free:?}");
    assert_eq!(eval(&["--free"]), free);
    assert_eq!(ask(&["--state", str(&state)]), free);

    // Names that the bundled model has not read before.
    let context = "टंकी के लिए झ्वेन्किश ठक्रालवाल से 94150-78236 पर बात करें। चाबी “घुर्रमपुरा” (गेट 7-ब) में है।";
    for question in ["टंकी के लिए किससे बात करनी है?", "नंबर क्या है?", "चाबी कहाँ है?"]
    {
        let answer = output(&["ask", "--context", context, "--question", question]);
        let answer = answer.trim_end();
        assert!(!answer.is_empty() && (context.contains(answer) || answer == "नहीं दिया गया"), "{answer}");
    }
}

#[test]
fn models_that_extract_in_no_way_that_is_known_are_refused() {
    let cases = [
        (json!({ "margin": -1 }), "margin of the model's refusals is -1; it must be finite"),
        (json!({ "margin": 1e39 }), "must be finite"),
        (json!({ "refusals": ["no", ""] }), "refusal \"\" has no tokens"),
        (json!({ "refusals": "no" }), "meta section is not as Sarit writes it"),
    ];
    for (extract, word) in cases {
        let folder = tempfile::tempdir().unwrap();
        let model = extracting(folder.path(), &extract);
        fails(&["ask", str(&model), "--context", "c", "--question", "q"], &[word]);
    }
}

#[test]
fn the_seed_decides_what_is_generated() {
    let generate = |seed: &str| {
        let sampling = ["--temperature", "1.2", "--top-k", "50", "--top-p", "0.95", "--seed", seed];
        let start = ["generate", "--prompt", "<bos>भारत", "--max-tokens", "30"];
        output(&[&start[..], &sampling[..]].concat())
    };
    assert_eq!(generate("7"), generate("7"));
    assert_ne!(generate("7"), generate("8"));

    let greedy = ["generate", "--prompt", "<bos><ctx>उम्र: 34<q>उम्र क्या है?<a>"];
    let text = output(&greedy);
    let whole = json(&[&greedy[..], &["--json"][..]].concat());
    assert_eq!(whole["text"].as_str().unwrap(), text.trim_end());
    // Special tokens in a prompt are read as such: the model knows that it is asked.
    assert_eq!(text, output(&["ask", "--context", "उम्र: 34", "--question", "उम्र क्या है?", "--free"]));
}

#[test]
fn a_state_is_gone_on_with_in_its_own_format() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("text"), "उम्र: 34").unwrap();
    let question = "उम्र क्या है?";
    let mut sizes = Vec::new();
    for format in ["f32", "f16", "i8"] {
        let (text, state) = (at("text"), at(format));
        output(&["read", "--context-file", str(&text), "-o", str(&state), "--state", format]);
        let ask = ["ask", "--state", str(&state), "--question", question];
        assert_eq!(output(&ask), "34\n", "{format}");
        sizes.push(fs::metadata(&state).unwrap().len());
        if format != "f32" {
            fails(&[&ask[..], &["--state-format", "f32"]].concat(), &[format, "--state-format"]);
        }
    }
    assert!(sizes[0] > sizes[1] && sizes[1] > sizes[2], "{sizes:?}");
}

#[test]
fn states_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("text"), "उम्र: 34").unwrap();
    output(&["read", "--context-file", str(&at("text")), "-o", str(&at("good"))]);
    let good = fs::read(at("good")).unwrap();
    let ask = |name: &str| ["ask", "--state", str(&at(name)), "--question", "उम्र?"].map(str::to_owned);

    fails(&ask("missing"), &["cannot read state", "missing", "No such file"]);
    fs::write(at("empty"), []).unwrap();
    fails(&ask("empty"), &["cannot go on from state", "truncated or damaged"]);
    fs::write(at("cut"), &good[..good.len() - 1]).unwrap();
    fails(&ask("cut"), &["truncated or damaged"]);
    fs::write(at("long"), [&good[..], b"x"].concat()).unwrap();
    fails(&ask("long"), &["truncated or damaged"]);
    fs::write(at("foreign"), vec![b'x'; good.len()]).unwrap();
    fails(&ask("foreign"), &["not a Sarit state"]);
    for at_byte in [100, good.len() / 2, good.len() - 1] {
        let mut damaged = good.clone();
        damaged[at_byte] ^= 1;
        fs::write(at("damaged"), damaged).unwrap();
        fails(&ask("damaged"), &["do not match its checksum"]);
    }

    fs::write(at("other.sarit"), relabelled(&fs::read(bundled()).unwrap())).unwrap();
    let (model, state) = (at("other.sarit"), at("good"));
    let other = ["ask", str(&model), "--state", str(&state), "--question", "उम्र?"];
    fails(&other, &["cannot go on from state", "belongs to another model", "`sarit read`"]);
}
