//! What a model file says about itself beside the plan.

use serde_json::{Map, Value, json};

use crate::checkpoint::{Checkpoint, CheckpointError, json as lenient};

/// Name, family, end-of-sequence ids and prompt format, as far as the checkpoint tells.
pub(crate) fn meta(
    checkpoint: &Checkpoint,
    tokenizer: Option<&[u8]>,
) -> Result<Map<String, Value>, CheckpointError> {
    let config = checkpoint.config();
    let mut meta = Map::new();
    meta.insert("name".into(), checkpoint.name().into());
    meta.insert("family".into(), super::family(config).unwrap_or_default().into());

    let generation = checkpoint.file("generation_config.json")?;
    let generation = generation.and_then(|bytes| lenient::parse(&bytes).ok()).unwrap_or_default();
    let eos = [&generation["eos_token_id"], &config["eos_token_id"]];
    let eos = eos.into_iter().find(|v| !v.is_null()).map(|v| match v {
        Value::Array(ids) => ids.clone(),
        id => vec![id.clone()],
    });
    meta.insert("eos_token_ids".into(), eos.unwrap_or_default().into());
    if let Some(prompt) = tokenizer.and_then(question_prompt) {
        meta.insert("prompt".into(), prompt);
    }
    Ok(meta)
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
