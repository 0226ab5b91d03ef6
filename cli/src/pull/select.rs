//! Which files of a repository make up a checkpoint.

use super::plain_file;
use anyhow::{Result, bail, ensure};

/// Files beside the weights; so is all that begins with `tokenizer`.
const COMPANIONS: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

/// The files to take of `all`: companions, and weights in the first form there is; or `gguf` alone.
pub(super) fn files(all: &[String], gguf: Option<&str>) -> Result<Vec<String>> {
    let all: Vec<&str> = all.iter().map(String::as_str).filter(|name| plain_file(name)).collect();
    let ggufs: Vec<&str> = all.iter().copied().filter(|name| name.ends_with(".gguf")).collect();
    if let Some(gguf) = gguf {
        ensure!(ggufs.contains(&gguf), "it has no file {gguf:?}{}", listed(&ggufs));
        return Ok(vec![gguf.to_owned()]);
    }
    let mut weights = weights(&all, "model", "safetensors");
    if weights.is_empty() {
        weights = self::weights(&all, "pytorch_model", "bin");
    }
    if weights.is_empty() {
        match ggufs[..] {
            [] => bail!("it has no weights: neither safetensors, nor pytorch_model.bin, nor a GGUF file"),
            [one] => return Ok(vec![one.to_owned()]),
            _ => bail!("it has several GGUF files; choose one with --gguf{}", listed(&ggufs)),
        }
    }
    let companions = all.iter().filter(|name| COMPANIONS.contains(name) || name.starts_with("tokenizer"));
    Ok(companions.copied().chain(weights).map(str::to_owned).collect())
}

/// `stem.ending`, or an index and the files that it names by number.
fn weights<'n>(all: &[&'n str], stem: &str, ending: &str) -> Vec<&'n str> {
    let one = format!("{stem}.{ending}");
    if let Some(name) = all.iter().find(|name| **name == one) {
        return vec![name];
    }
    let index = format!("{one}.index.json");
    let shard = |name: &str| {
        let rest = name.strip_prefix(stem).and_then(|rest| rest.strip_suffix(ending));
        rest.is_some_and(|rest| rest.starts_with('-') && rest.contains("-of-") && rest.ends_with('.'))
    };
    all.iter().copied().filter(|name| *name == index || shard(name)).collect()
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(all: &[&str], gguf: Option<&str>) -> String {
        let all: Vec<String> = all.iter().map(|name| name.to_string()).collect();
        files(&all, gguf).map_or_else(|error| format!("error: {error}"), |files| files.join(" "))
    }

    #[test]
    fn weights_are_taken_once() {
        let all = [
            "README.md",
            "config.json",
            "tokenizer.json",
            "model.safetensors",
            "pytorch_model.bin",
            "a.gguf",
        ];
        assert_eq!(taken(&all, None), "config.json tokenizer.json model.safetensors");
        let shards = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "consolidated.safetensors",
        ];
        assert_eq!(
            taken(&shards, None),
            "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json"
        );
        assert_eq!(taken(&["config.json", "pytorch_model.bin"], None), "config.json pytorch_model.bin");
    }

    #[test]
    fn one_gguf_file_is_taken_and_of_several_the_chosen() {
        assert_eq!(taken(&["config.json", "a.gguf"], None), "a.gguf");
        assert_eq!(taken(&["model.safetensors", "a.gguf", "b.gguf"], Some("b.gguf")), "b.gguf");
        assert!(taken(&["a.gguf", "b.gguf"], None).ends_with("choose one with --gguf: a.gguf, b.gguf"));
        assert!(taken(&["a.gguf"], Some("c.gguf")).contains("no file \"c.gguf\": a.gguf"));
    }

    #[test]
    fn names_that_are_no_plain_files_are_left() {
        let all = ["../config.json", "/config.json", "onnx/model.safetensors", "..", "config.json"];
        assert!(taken(&all, None).contains("no weights"));
    }
}
