//! What a model file says about itself beside the plan.

use serde_json::{Map, Value, json};

use crate::checkpoint::{Checkpoint, CheckpointError, json as lenient};

/// Name, family, end-of-sequence ids, chat template and prompt format, or what is known of frames and results, as far
/// as the checkpoint tells.
pub(crate) fn meta(
    checkpoint: &Checkpoint,
    tokenizer: Option<&[u8]>,
) -> Result<Map<String, Value>, CheckpointError> {
    let config = checkpoint.config();
    let mut meta = Map::new();
    meta.insert("name".into(), checkpoint.name().into());
    let family = super::family(config).unwrap_or_default();
    meta.insert("family".into(), family.into());
    if family == super::FRAMES {
        meta.extend(super::frames::meta(config));
        return Ok(meta);
    }

    let generation = checkpoint.file("generation_config.json")?;
    let generation = generation.and_then(|bytes| lenient::parse(&bytes).ok()).unwrap_or_default();
    let eos = [&generation["eos_token_id"], &config["eos_token_id"]];
    let eos = eos.into_iter().find(|v| !v.is_null()).map(|v| match v {
        Value::Array(ids) => ids.clone(),
        id => vec![id.clone()],
    });
    meta.insert("eos_token_ids".into(), eos.unwrap_or_default().into());
    if let Some(chat) = chat(checkpoint)? {
        meta.insert("chat".into(), chat);
    }
    if let Some(prompt) = tokenizer.and_then(question_prompt) {
        meta.insert("prompt".into(), prompt);
    }
    Ok(meta)
}

/// The chat template, and the first and last token that it may write, if the checkpoint is of an instruct model.
fn chat(checkpoint: &Checkpoint) -> Result<Option<Value>, CheckpointError> {
    let config = checkpoint.file("tokenizer_config.json")?;
    let config = config.and_then(|bytes| lenient::parse(&bytes).ok()).unwrap_or_default();
    let file = checkpoint.file("chat_template.jinja")?.and_then(|bytes| String::from_utf8(bytes).ok());
    Ok(file.or_else(|| default_template(&config["chat_template"])).map(|template| {
        json!({
            "template": template,
            "bos_token": token(&config["bos_token"]),
            "eos_token": token(&config["eos_token"]),
        })
    }))
}

/// The one template, or of several, named ones that which is called `default`.
fn default_template(stated: &Value) -> Option<String> {
    let default = || stated.as_array()?.iter().find(|t| t["name"] == "default")?["template"].as_str();
    stated.as_str().or_else(default).map(str::to_owned)
}

/// A token's text, stated by itself or with options.
fn token(stated: &Value) -> Option<&str> {
    stated.as_str().or_else(|| stated["content"].as_str())
}

/// The prompt format of question-answering models whose tokenizer has the special tokens `<ctx>`, `<q>` and `<a>`.
fn question_prompt(tokenizer: &[u8]) -> Option<Value> {
    let tokenizer: Value = serde_json::from_slice(tokenizer).ok()?;
    let added = tokenizer["added_tokens"].as_array()?;
    let special = |content: &str| added.iter().any(|t| t["content"] == content && t["special"] == true);
    ["<bos>", "<ctx>", "<q>", "<a>", "<eos>"].iter().all(|t| special(t)).then(|| {
        json!({
            "template": "<bos><ctx>{context}<q>{question}<a>",
            "stop": ["<eos>"],
            "max_tokens": 40,
        })
    })
}
