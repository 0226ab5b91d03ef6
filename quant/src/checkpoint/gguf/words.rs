//! How byte-level tokenizers cut text into words, by the names that llama.cpp gives the ways.

use serde_json::{Value as Json, json};

/// What GPT-4, Llama 3 and their followers cut at; the digits of a number stay together up to this many.
const CL100K: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// The same with single digits.
const QWEN: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// Mistral's Tekken: words also end where capitals begin.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// GPT-4o: Tekken with English contractions and up to three digits.
const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// A way of cutting, as `tokenizer.json` says it.
pub(super) struct Words {
    pub(super) normalizer: Json,
    /// The `pre_tokenizer`.
    pub(super) cut: Json,
    /// Whether a word that is a token is taken whole, without merges.
    pub(super) ignore_merges: bool,
    /// Whether texts begin with the token for it unless the file says otherwise.
    pub(super) bos: bool,
}

/// The way with this name. Files without one are old, and GPT-2's way is what their tokenizers' kind says.
pub(super) fn by_name(name: Option<&str>) -> Option<Words> {
    let plain = |cut: Json| Words { normalizer: Json::Null, cut, ignore_merges: false, bos: false };
    Some(match name {
        None | Some("" | "default" | "gpt-2" | "phi-2" | "granite-docling") => plain(letters(true)),
        // GPT-NeoX, of which these are the names.
        Some("mpt" | "olmo") => Words { normalizer: json!({ "type": "NFC" }), ..plain(letters(true)) },
        Some("llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "lfm2") => {
            Words { ignore_merges: true, bos: true, ..plain(split(CL100K)) }
        }
        Some("dbrx" | "smaug-bpe") => plain(split(CL100K)),
        Some("qwen2" | "stablelm2") => plain(split(QWEN)),
        Some("tekken") => Words { ignore_merges: true, bos: true, ..plain(split(TEKKEN)) },
        Some("gpt-4o" | "llama4") => plain(split(O200K)),
        Some("starcoder" | "refact" | "command-r" | "smollm" | "codeshell") => {
            plain(sequence([json!({ "type": "Digits", "individual_digits": true }), letters(true)]))
        }
        Some("falcon") => plain(sequence([
            json!({ "type": "Punctuation", "behavior": "Contiguous" }),
            letters(true),
            json!({ "type": "Digits", "individual_digits": false }),
            isolated("[0-9][0-9][0-9]"),
        ])),
        Some(_) => return None,
    })
}

/// Bytes become letters; GPT-2's words come first where `words` says so.
fn letters(words: bool) -> Json {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": words })
}

fn isolated(regex: &str) -> Json {
    json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false })
}

fn split(regex: &str) -> Json {
    sequence([isolated(regex), letters(false)])
}

fn sequence<const N: usize>(parts: [Json; N]) -> Json {
    json!({ "type": "Sequence", "pretokenizers": parts.as_slice() })
}
