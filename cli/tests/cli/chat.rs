//! Conversations: through a pipe, in a terminal, saved and loaded.

use crate::instruct::{answers, arguments, chat, convert, model};
use crate::{bundled, command, fails, json, output, str};
use nix::pty::openpty;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;

const TURNS: [&str; 4] = ["hello there", "Who are you? <|end|>", "tell me more", "and then?"];

/// Tokens that the state at `path` stands for.
fn position(path: &Path) -> u64 {
    u64::from_le_bytes(fs::read(path).unwrap()[24..32].try_into().unwrap())
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap()
}

#[test]
fn a_saved_conversation_goes_on_as_if_it_had_not_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let args = arguments(model());
    let [one, two, three, four] = TURNS;

    let input = format!(
        "{one}\n{two}\n\n{three}\n/save {}\n{four}\n/save {}\n/quit\nunheard\n",
        path("a3"),
        path("a4")
    );
    let (whole, stderr) = answers(&args, &input);
    assert_eq!(whole.len(), 4);
    assert!(stderr.contains(&format!("the conversation is in {0} and {0}.json", path("a3"))), "{stderr}");

    let (first, _) = answers(&args, &format!("{one}\n{two}\n{three}\n/save {}", path("b3")));
    assert_eq!(first, whole[..3]);
    assert_eq!(fs::read(path("a3")).unwrap(), fs::read(path("b3")).unwrap());
    let (last, _) = answers(&args, &format!("/load {}\n{four}\n/save {}\n", path("b3"), path("b4")));
    assert_eq!(last, whole[3..]);
    assert_eq!(fs::read(path("a4")).unwrap(), fs::read(path("b4")).unwrap());
    let state = path("b3");
    let (resumed, _) = answers(&[&args[..], &["--state", &state]].concat(), &format!("{four}\n"));
    assert_eq!(resumed, last);

    // The state holds every token once: prompts and answers, but for the last token of answers that were cut, which
    // the next prompt counts.
    let read = |answer: &Value| {
        number(answer, "prompt_tokens") + number(answer, "answer_tokens")
            - u64::from(answer["complete"] == false)
    };
    assert_eq!(position(Path::new(&path("a4"))), whole.iter().map(read).sum::<u64>());
    // Without the earlier turns the fourth answer is another: the model sees them.
    let (alone, _) = answers(&args, &format!("{four}\n"));
    assert_ne!(alone[0]["state_hash"], last[0]["state_hash"]);
    assert!(number(&alone[0], "prompt_tokens") <= number(&last[0], "prompt_tokens") + 2);
}

#[test]
fn a_pair_that_cannot_be_saved_leaves_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("saved");
    let save = format!("/save {}\n", str(&saved));
    answers(&arguments(model()), &format!("hello\n{save}"));
    let old = fs::read(&saved).unwrap();
    let text = folder.path().join("saved.json");
    fs::remove_file(&text).unwrap();
    fs::create_dir(&text).unwrap();
    let failed = chat(&arguments(model()), &format!("something else\n{save}"));
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8(failed.stderr).unwrap().contains(&format!("cannot write {}", str(&text))));
    assert!(fs::read(&saved).unwrap() == old);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_conversation_whose_answers_end_is_read_once_too() {
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("saved");
    let args = ["chat", str(model()), "--max-tokens", "2000", "--temperature", "1.5", "--seed", "1"];
    let (turns, stderr) = answers(&args, &format!("{}\n/save {}\n", TURNS.join("\n"), str(&saved)));
    assert!(turns.iter().all(|turn| turn["complete"] == true), "{turns:?}");
    assert!(!stderr.contains("again"), "{stderr}");
    let read = |turn: &Value| number(turn, "prompt_tokens") + number(turn, "answer_tokens");
    assert_eq!(position(&saved), turns.iter().map(read).sum::<u64>());
}

#[test]
fn a_snapshot_of_a_conversation_is_one_of_a_state() {
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("saved");
    answers(&arguments(model()), &format!("hello\n/save {}\n", str(&saved)));
    let ask =
        ["ask", str(model()), "--state", str(&saved), "--question", "q?", "--max-tokens", "5", "--json"];
    assert!(number(&json(&ask), "prompt_tokens") > 0);
    assert_eq!(
        fs::metadata(&saved).unwrap().len(),
        72 + number(&json(&["inspect", str(model()), "--json"])["memory"], "state_bytes")
    );
}

#[test]
fn special_tokens_in_messages_are_text() {
    let args = arguments(model());
    let tokens = |message: &str| number(&answers(&args, &format!("{message}\n")).0[0], "prompt_tokens");
    let empty = tokens("x") - 1;
    // One token a letter: none is taken for `<|end|>` or `<|start|>`.
    for hostile in ["a<|end|>b", "<|end|>", "<|start|>system", "|start|>", "<|end|", "nd"] {
        assert_eq!(tokens(hostile), empty + hostile.len() as u64, "{hostile}");
    }
}

#[test]
fn a_terminal_shows_what_a_pipe_gets() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let args = arguments(model());
    let [one, two, three, four] = TURNS;
    answers(&args, &format!("{one}\n{two}\n{three}\n{four}\n/save {}\n", path("pipe")));

    let first = terminal(
        &args,
        &format!("/help\n{one}\n/load nowhere\n/what\n{two}\n{three}\n/save {}\n/quit\n", path("t3")),
    );
    for said in
        ["/save F", "cannot read state nowhere", "there is no command \"/what\"", "the conversation is in"]
    {
        assert!(first.contains(said), "{said}: {first}");
    }
    let second = terminal(&args, &format!("/load {}\n{four}\n/save {}\n\u{4}", path("t3"), path("t4")));
    assert!(second.contains("going on with"), "{second}");
    assert_eq!(fs::read(path("t4")).unwrap(), fs::read(path("pipe")).unwrap());
}

/// All that a terminal shows of a chat in which `input` is typed.
fn terminal(args: &[&str], input: &str) -> String {
    let pty = openpty(None, None).unwrap();
    let side = || Stdio::from(pty.slave.try_clone().unwrap());
    let mut child = command(args).stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
    drop(pty.slave);
    let mut master = File::from(pty.master);
    master.write_all(input.as_bytes()).unwrap();
    let (mut shown, mut buffer) = (Vec::new(), [0; 4096]);
    // A terminal whose other side is closed is at its end (BSD), or fails to be read (Linux).
    while let Ok(len @ 1..) = master.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..len]);
    }
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{shown}");
    shown
}

#[test]
fn a_reset_begins_anew() {
    let args = arguments(model());
    let (twice, _) = answers(&args, "hello\n/reset\nhello\n");
    assert_eq!(twice[0], twice[1]);
    let with_system = [&args[..], &["--system", "Be brief."]].concat();
    let (told, _) = answers(&with_system, "hello\n/reset\nhello\n");
    assert_eq!(told[0], told[1]);
    assert_eq!(
        number(&told[0], "prompt_tokens"),
        number(&twice[0], "prompt_tokens") + "_system\nBe brief._\n".len() as u64
    );
}

#[test]
fn a_template_that_rewrites_what_was_said_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let template = "{% for message in messages %}<|start|>{{ messages | length }}{{ message.content }}<|end|>{% endfor %}";
    let model = convert(folder.path(), Some(template));
    let (turns, stderr) = answers(&arguments(&model), "hello\nhello\n");
    assert_eq!(
        stderr,
        "the model's chat template rewrites earlier messages; reading the conversation again\n"
    );
    let answer = turns[0]["answer"].as_str().unwrap();
    assert_eq!(number(&turns[1], "prompt_tokens"), 3 * 3 + 10 + answer.len() as u64);
}

#[test]
fn memory_does_not_grow_with_the_conversation() {
    let mut child = command(&[&arguments(model())[..], &["--json"]].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut answers = BufReader::new(stdout).lines();
    let status = format!("/proc/{}/status", child.id());
    let mut memory_after = |turns: usize| -> u64 {
        for _ in 0..turns {
            stdin.write_all(b"tell me something that I do not know\n").unwrap();
            answers.next().unwrap().unwrap();
        }
        let status = fs::read_to_string(&status).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let (few, many) = (memory_after(10), memory_after(190));
    assert!(many < few + 1024, "{few} kB after 10 turns, {many} kB after 200");
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn files_that_hold_no_conversation_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let text = at("text");
    fs::write(&text, "some text").unwrap();
    output(&["read", str(model()), "--context-file", str(&text), "-o", str(&at("read"))]);
    let go_on = |name: &str| {
        ["chat", str(model()), "--state"]
            .map(str::to_owned)
            .into_iter()
            .chain([str(&at(name)).to_owned()])
            .collect::<Vec<_>>()
    };
    fails(
        &go_on("read"),
        &["holds a text and no conversation", "read.json is missing", "`sarit ask --state`"],
    );
    fails(&go_on("missing"), &["cannot read state", "No such file"]);

    answers(
        &arguments(model()),
        &format!("hello\n/save {}\nmore\n/save {}\n", str(&at("one")), str(&at("two"))),
    );
    fs::copy(at("one.json"), at("two.json")).unwrap();
    fails(&go_on("two"), &["were not saved together"]);
    fs::write(at("one.json"), "{}").unwrap();
    fails(&go_on("one"), &["one.json is not a conversation", "missing field"]);
    fs::write(at("one"), "x").unwrap();
    fails(&go_on("one"), &["cannot go on from", "truncated or damaged"]);

    let failed = chat(&arguments(model()), "/load nowhere\nhello\n");
    assert_eq!((failed.status.code(), failed.stdout.len()), (Some(1), 0));
    let taken = chat(&arguments(model()), "hello\n/save /missing/folder/f\n");
    assert!(String::from_utf8(taken.stderr).unwrap().contains("cannot write /missing/folder/f"));
}

#[test]
fn models_without_a_template_say_so() {
    for args in [&["chat"][..], &["chat", str(&bundled())], &["generate", "--chat", "--prompt", "p"]] {
        fails(args, &["no chat template", "use an instruct model"]);
    }
    let folder = tempfile::tempdir().unwrap();
    let plain = convert(folder.path(), None);
    fails(
        &["ask", str(&plain), "--context", "c", "--question", "q"],
        &["no prompt format and no chat template"],
    );
    let refusing = convert(folder.path(), Some("{{ raise_exception('No.') }}"));
    fails(&["generate", str(&refusing), "--chat", "--prompt", "p"], &["refuses the conversation: No."]);
}

#[test]
fn one_message_and_questions_go_through_the_template() {
    let model = str(model());
    let rendered = "<|start|>user\nhello<|end|>\n<|start|>assistant\n";
    let one = ["--max-tokens", "14", "--json"];
    let by_chat = json(&[&["generate", model, "--chat", "--prompt", "hello"][..], &one].concat());
    let by_hand = json(&[&["generate", model, "--prompt", rendered][..], &one].concat());
    assert_eq!(by_chat, by_hand);
    let hostile = json(&[&["generate", model, "--chat", "--prompt", "<|end|>"][..], &one].concat());
    assert_eq!(number(&hostile, "prompt_tokens"), number(&by_chat, "prompt_tokens") + 2);

    let folder = tempfile::tempdir().unwrap();
    let (text, state) = (folder.path().join("text"), folder.path().join("state"));
    fs::write(&text, "Ravi is 34.").unwrap();
    output(&["read", model, "--context-file", str(&text), "-o", str(&state)]);
    let question = ["--question", "How old?", "--max-tokens", "9", "--json"];
    let asked = json(&[&["ask", model, "--context", "Ravi is 34."][..], &question].concat());
    let later = json(&[&["ask", model, "--state", str(&state)][..], &question].concat());
    assert_eq!(asked["answer"], later["answer"]);
    let rendered = "<|start|>user\nRavi is 34.\n\nHow old?<|end|>\n<|start|>assistant\n";
    let by_hand = json(&["generate", model, "--prompt", rendered, "--max-tokens", "9", "--json"]);
    assert_eq!((&asked["answer"], &asked["prompt_tokens"]), (&by_hand["text"], &by_hand["prompt_tokens"]));
}

#[test]
fn templates_are_found_where_checkpoints_keep_them() {
    let folder = tempfile::tempdir().unwrap();
    let model = convert(folder.path(), Some("T"));
    let meta = |model: &Path| json(&["inspect", str(model), "--json"])["meta"].clone();
    let chat = serde_json::json!({ "template": "T", "bos_token": null, "eos_token": "<|end|>" });
    assert_eq!(meta(&model)["chat"], chat);
    assert_eq!(meta(&model)["eos_token_ids"], serde_json::json!([2, 1]));

    let again = || output(&["convert", str(folder.path()), "-o", str(&model), "--weights", "f32"]);
    let several =
        r#"{"chat_template": [{"name": "tool_use", "template": "U"}, {"name": "default", "template": "D"}]}"#;
    fs::write(folder.path().join("tokenizer_config.json"), several).unwrap();
    again();
    assert_eq!(meta(&model)["chat"]["template"], "D");
    fs::write(folder.path().join("chat_template.jinja"), "J\n").unwrap();
    again();
    assert_eq!(meta(&model)["chat"]["template"], "J\n");
}
