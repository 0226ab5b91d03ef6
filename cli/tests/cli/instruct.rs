//! A small instruct model: golden weights, a tokenizer of single letters, and a chat template.

use crate::{command, data, output, str};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::LazyLock;

/// Trims, as many templates do.
const TEMPLATE: &str = "{% for message in messages %}<|start|>{{ message.role }}\n\
                        {{ message.content | trim }}<|end|>\n{% endfor %}\
                        {% if add_generation_prompt %}<|start|>assistant\n{% endif %}";

/// Writes a checkpoint of 97 tokens: three special ones, printable ASCII but for two, blank and newline.
pub(crate) fn checkpoint(folder: &Path, template: Option<&str>) {
    let golden = data("golden/mamba2-tiny");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden.join(file), folder.join(file)).unwrap();
    }
    let specials = ["<|start|>", "<|pad|>", "<|end|>"];
    let letters = ('!'..='}').filter(|c| *c != '`').chain(['Ġ', 'Ċ']).map(String::from);
    let names = specials.map(str::to_owned).into_iter().chain(letters);
    let vocab: serde_json::Map<_, _> = names.enumerate().map(|(id, name)| (name, Value::from(id))).collect();
    assert_eq!(vocab.len(), 97);
    let added = specials.iter().enumerate().map(|(id, content)| {
        json!({
            "id": id, "content": content, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        })
    });
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let tokenizer = json!({
        "version": "1.0", "added_tokens": added.collect::<Vec<_>>(), "pre_tokenizer": byte_level,
        "decoder": byte_level, "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config =
        json!({ "bos_token": null, "eos_token": { "content": "<|end|>" }, "chat_template": template });
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    fs::write(folder.join("generation_config.json"), r#"{"eos_token_id": [2, 1]}"#).unwrap();
}

/// Converts a checkpoint with `template`.
pub(crate) fn convert(folder: &Path, template: Option<&str>) -> PathBuf {
    checkpoint(folder, template);
    let model = folder.join("instruct.sarit");
    output(&["convert", str(folder), "-o", str(&model), "--weights", "f32"]);
    model
}

/// The model with the template above.
pub(crate) fn model() -> &'static Path {
    static MODEL: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        let model = convert(folder.path(), Some(TEMPLATE));
        (folder, model)
    });
    &MODEL.1
}

/// Arguments of a chat with `model`, whose answers vary and end.
pub(crate) fn arguments(model: &Path) -> Vec<&str> {
    vec!["chat", str(model), "--max-tokens", "14", "--temperature", "0.9", "--seed", "5"]
}

/// A chat through a pipe.
pub(crate) fn chat(args: &[&str], input: &str) -> Output {
    let mut child =
        command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The answers of a chat through a pipe that must succeed, and what it says beside them.
pub(crate) fn answers(args: &[&str], input: &str) -> (Vec<Value>, String) {
    let output = chat(&[args, &["--json"]].concat(), input);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    (stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), stderr)
}
