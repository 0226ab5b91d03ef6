//! `tokenizer.json` and `tokenizer_config.json` from the metadata.
//!
//! Two kinds: `gpt2`, byte-level BPE with merges, whose way of cutting text into words is known by a name; and
//! `llama`, SentencePiece BPE with byte fallback, whose merges follow from the tokens' scores. A token is listed with
//! a type: normal, unknown, control, defined by the user, unused (it pads the vocabulary) or a byte.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value as Json, json};

use super::GgufError;
use super::metadata::{Metadata, Value};
use super::words;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";

/// Types of tokens.
const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const DEFINED: i64 = 4;
const BYTE: i64 = 6;

/// The kind of a file's tokenizer, if it has one.
fn kind(metadata: &Metadata) -> Result<Option<&str>, GgufError> {
    match text(metadata, "tokenizer.ggml.model")? {
        None | Some("none" | "no_vocab") => Ok(None),
        kind => Ok(kind),
    }
}

/// Number of tokens listed.
pub(super) fn len(metadata: &Metadata) -> usize {
    match metadata.get(TOKENS) {
        Some(Value::Texts(tokens)) => tokens.len(),
        _ => 0,
    }
}

/// The id under `tokenizer.ggml.{role}_token_id`.
pub(super) fn token_id(metadata: &Metadata, role: &str) -> Result<Option<usize>, GgufError> {
    let key = format!("tokenizer.ggml.{role}_token_id");
    let id = match metadata.get(&key) {
        None => return Ok(None),
        Some(Value::Int(id)) => usize::try_from(*id).ok(),
        Some(_) => None,
    };
    match id.filter(|id| *id < len(metadata)) {
        Some(id) => Ok(Some(id)),
        None => {
            Err(GgufError::Key { value: metadata[&key].to_string(), key, expected: "the number of a token" })
        }
    }
}

/// The ids that end a text: of its end, of a turn and of a message.
pub(super) fn stop_ids(metadata: &Metadata) -> Result<Vec<usize>, GgufError> {
    let mut ids = Vec::new();
    for role in ["eos", "eot", "eom"] {
        ids.extend(token_id(metadata, role)?.filter(|id| !ids.contains(id)));
    }
    Ok(ids)
}

/// `tokenizer_config.json`: the special tokens' texts and the chat template.
pub(super) fn config(metadata: &Metadata) -> Result<Option<Json>, GgufError> {
    let mut config = Map::new();
    if let Some(template) = text(metadata, "tokenizer.chat_template")? {
        config.insert("chat_template".into(), template.into());
    }
    if kind(metadata)?.is_some() {
        let tokens = Tokens::read(metadata)?;
        for (role, key) in [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token")] {
            if let Some(id) = token_id(metadata, role)? {
                config.insert(key.into(), tokens.texts[id].into());
            }
        }
        for key in ["add_bos_token", "add_eos_token"] {
            config.insert(key.into(), flag(metadata, key)?.into());
        }
    }
    Ok(if config.is_empty() { None } else { Some(config.into()) })
}

/// `tokenizer.json`.
pub(super) fn tokenizer(metadata: &Metadata) -> Result<Option<Json>, GgufError> {
    let Some(kind) = kind(metadata)? else { return Ok(None) };
    let tokens = Tokens::read(metadata)?;
    let mut json = match kind {
        "gpt2" => byte_level(metadata, &tokens)?,
        "llama" => sentence_piece(metadata, &tokens)?,
        other => return Err(GgufError::Tokenizer(other.to_owned())),
    };
    json["version"] = "1.0".into();
    json["truncation"] = Json::Null;
    json["padding"] = Json::Null;
    json["added_tokens"] = tokens.added();
    Ok(Some(json))
}

/// The tokens with their types, by id.
struct Tokens<'m> {
    texts: Vec<&'m str>,
    types: Vec<i64>,
    /// Ids of the tokens that are used.
    ids: HashMap<&'m str, usize>,
}

impl<'m> Tokens<'m> {
    fn read(metadata: &'m Metadata) -> Result<Self, GgufError> {
        let texts = texts(metadata, TOKENS)?;
        let types = match metadata.get(TYPES) {
            None => vec![NORMAL; texts.len()],
            Some(Value::Ints(types)) if types.len() == texts.len() => types.clone(),
            Some(_) => {
                return Err(bad(format!("{TYPES} is not a list of as many numbers as there are tokens")));
            }
        };
        let used = |kind: i64| matches!(kind, NORMAL | UNKNOWN | CONTROL | DEFINED | BYTE);
        let mut ids = HashMap::new();
        for (id, (text, kind)) in texts.iter().zip(&types).enumerate() {
            if used(*kind) && !text.is_empty() && ids.insert(*text, id).is_some() {
                return Err(bad(format!("token {text:?} is there twice")));
            }
        }
        Ok(Self { texts, types, ids })
    }

    /// `vocab` of a model.
    fn vocab(&self) -> Json {
        let mut used: Vec<(usize, &str)> = self.ids.iter().map(|(text, id)| (*id, *text)).collect();
        used.sort_unstable();
        used.into_iter().map(|(id, text)| (text.to_owned(), id.into())).collect::<Map<_, _>>().into()
    }

    /// Tokens that are looked for before the text is cut into words.
    fn added(&self) -> Json {
        let added = self.types.iter().enumerate().filter(|(id, kind)| {
            matches!(**kind, UNKNOWN | CONTROL | DEFINED) && !self.texts[*id].is_empty()
        });
        let entry = |(id, kind): (usize, &i64)| {
            json!({
                "id": id,
                "content": self.texts[id],
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": *kind == DEFINED,
                "special": *kind != DEFINED,
            })
        };
        added.map(entry).collect()
    }

    /// `post_processor`: the tokens that stand before and after every text.
    fn around(&self, metadata: &Metadata, bos_by_default: bool) -> Result<Json, GgufError> {
        let wanted = |role: &str, default: bool| -> Result<_, GgufError> {
            let add = flag(metadata, &format!("add_{role}_token"))?.unwrap_or(default);
            Ok(token_id(metadata, role)?.filter(|_| add))
        };
        let (bos, eos) = (wanted("bos", bos_by_default)?, wanted("eos", false)?);
        if bos.is_none() && eos.is_none() {
            return Ok(Json::Null);
        }
        let special = |id: Option<usize>, kind: u32| {
            id.map(|id| json!({ "SpecialToken": { "id": self.texts[id], "type_id": kind } }))
        };
        let part = |name: &str, kind: u32| {
            let sequence = json!({ "Sequence": { "id": name, "type_id": kind } });
            [special(bos, kind), Some(sequence), special(eos, kind)].into_iter().flatten()
        };
        let tokens: Map<_, _> = [bos, eos]
            .into_iter()
            .flatten()
            .map(|id| {
                let text = self.texts[id];
                (text.to_owned(), json!({ "id": text, "ids": [id], "tokens": [text] }))
            })
            .collect();
        Ok(json!({
            "type": "TemplateProcessing",
            "single": part("A", 0).collect::<Json>(),
            "pair": part("A", 0).chain(part("B", 1)).collect::<Json>(),
            "special_tokens": tokens,
        }))
    }
}

/// Byte-level BPE: every byte has a letter, and merges join letters.
fn byte_level(metadata: &Metadata, tokens: &Tokens<'_>) -> Result<Json, GgufError> {
    let name = text(metadata, "tokenizer.ggml.pre")?;
    let words = words::by_name(name).ok_or_else(|| GgufError::Tokenizer(name.unwrap_or_default().into()))?;
    let mut merges = Vec::new();
    for merge in texts(metadata, MERGES)? {
        // The first part may be a space itself.
        let after_first = merge.chars().next().map_or(0, char::len_utf8);
        let space = merge[after_first..].find(' ').map(|at| after_first + at);
        let (a, b) = space
            .map(|at| (&merge[..at], &merge[at + 1..]))
            .ok_or_else(|| bad(format!("the merge {merge:?} is not of two parts")))?;
        // A merge that leads to no token is of no use, and the tokenizers library would not have it.
        if [a, b, &format!("{a}{b}")].iter().all(|part| tokens.ids.contains_key(part)) {
            merges.push(json!([a, b]));
        }
    }
    Ok(json!({
        "normalizer": words.normalizer,
        "pre_tokenizer": words.cut,
        "post_processor": tokens.around(metadata, words.bos)?,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": words.ignore_merges,
            "vocab": tokens.vocab(),
            "merges": merges,
        },
    }))
}

/// SentencePiece BPE: spaces are `▁`, and two tokens join if their text is a token, those of the best score first.
fn sentence_piece(metadata: &Metadata, tokens: &Tokens<'_>) -> Result<Json, GgufError> {
    let scores = match metadata.get(SCORES) {
        Some(Value::Floats(scores)) if scores.len() == tokens.texts.len() => scores,
        _ => return Err(bad(format!("{SCORES} is not a list of as many numbers as there are tokens"))),
    };
    let space_first = flag(metadata, "add_space_prefix")?.unwrap_or(true);
    let prepend = space_first.then(|| json!({ "type": "Prepend", "prepend": "▁" }));
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    let strip = space_first.then(|| json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    let decoders = [
        json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    let unknown = tokens.types.iter().position(|kind| *kind == UNKNOWN).map(|id| tokens.texts[id]);
    let normalizers: Json = prepend.into_iter().chain([replace]).collect();
    let decoders: Json = decoders.into_iter().chain(strip).collect();
    Ok(json!({
        "normalizer": { "type": "Sequence", "normalizers": normalizers },
        "pre_tokenizer": null,
        "post_processor": tokens.around(metadata, true)?,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": tokens.vocab(),
            "merges": merges_by_score(tokens, scores),
        },
    }))
}

/// Every way to make a token of two, the better score first. Where the converter did not know the scores and wrote
/// the same for all, ids take their place: they are given in the order of the merges.
fn merges_by_score(tokens: &Tokens<'_>, scores: &[f32]) -> Vec<Json> {
    let normal = |text: &str| tokens.ids.get(text).copied().filter(|id| tokens.types[*id] == NORMAL);
    let distinct: HashSet<u32> =
        (0..scores.len()).filter(|id| tokens.types[*id] == NORMAL).map(|id| scores[id].to_bits()).collect();
    let rank = |id: usize| if distinct.len() > 1 { -scores[id] } else { id as f32 };
    let mut merges = Vec::new();
    for (id, text) in tokens.texts.iter().enumerate() {
        if tokens.types[id] != NORMAL {
            continue;
        }
        for (at, _) in text.char_indices().skip(1) {
            let (a, b) = text.split_at(at);
            if normal(a).is_some() && normal(b).is_some() {
                merges.push((rank(id), a.chars().count(), b.chars().count(), id, a, b));
            }
        }
    }
    merges.sort_by(|x, y| x.0.total_cmp(&y.0).then((x.1, x.2, x.3).cmp(&(y.1, y.2, y.3))));
    merges.into_iter().map(|(.., a, b)| json!([a, b])).collect()
}

/// A text, if the key is there.
fn text<'m>(metadata: &'m Metadata, key: &str) -> Result<Option<&'m str>, GgufError> {
    match metadata.get(key) {
        None => Ok(None),
        Some(Value::Text(text)) => match str::from_utf8(text) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(bad(format!("{key} is not UTF-8"))),
        },
        Some(_) => Err(bad(format!("{key} is not a text"))),
    }
}

/// A list of texts.
fn texts<'m>(metadata: &'m Metadata, key: &str) -> Result<Vec<&'m str>, GgufError> {
    let Some(Value::Texts(texts)) = metadata.get(key) else {
        return Err(bad(format!("{key} is not a list of texts")));
    };
    let texts: Result<_, _> = texts.iter().map(|text| str::from_utf8(text)).collect();
    texts.map_err(|_| bad(format!("{key} has a text that is not UTF-8")))
}

/// `tokenizer.ggml.{key}`.
fn flag(metadata: &Metadata, key: &str) -> Result<Option<bool>, GgufError> {
    match metadata.get(&format!("tokenizer.ggml.{key}")) {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(bad(format!("tokenizer.ggml.{key} is not true or false"))),
    }
}

fn bad(what: String) -> GgufError {
    GgufError::BadTokenizer(what)
}
