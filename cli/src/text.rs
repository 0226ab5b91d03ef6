//! From text to token ids and back.

use anyhow::{Context, Result, anyhow};
use sarit_core::Model;
use std::collections::HashMap;
use tokenizers::Tokenizer;

/// What a special token's name in a text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Specials {
    /// Nothing: text is text, whoever wrote it.
    AsText,
    /// The token.
    AsTokens,
}

/// A model's tokenizer.
pub(crate) struct Text {
    tokenizer: Tokenizer,
    /// Names and ids of the special tokens.
    specials: Vec<(String, u32)>,
    /// Names of the other added tokens: those that are found in any text.
    others: Vec<String>,
}

impl Text {
    /// The tokenizer of `model`.
    pub(crate) fn of(model: &Model<'_>, specials: Specials) -> Result<Self> {
        let json = model.tokenizer().context(
            "the model has no tokenizer; convert it again from a folder that holds tokenizer.json",
        )?;
        Self::from_json(json, specials)
    }

    pub(crate) fn from_json(json: &[u8], specials: Specials) -> Result<Self> {
        let mut tokenizer = Tokenizer::from_bytes(json)
            .map_err(|error| anyhow!("the model's tokenizer cannot be used: {error}"))?;
        tokenizer
            .with_padding(None)
            .with_truncation(None)
            .map_err(|error| anyhow!("the model's tokenizer cannot be used: {error}"))?;
        tokenizer.set_encode_special_tokens(specials == Specials::AsText);
        let added = tokenizer.get_added_tokens_decoder();
        let specials = added.iter().filter(|(_, token)| token.special && !token.content.is_empty());
        let specials = specials.map(|(&id, token)| (token.content.clone(), id)).collect();
        let others =
            added.values().filter(|token| !token.special).map(|token| token.content.clone()).collect();
        Ok(Self { tokenizer, specials, others })
    }

    /// Ids of `text`, with nothing added at its ends.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self.tokenizer.encode_fast(text, false) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => Err(anyhow!("the text cannot be turned into tokens: {error}")),
        }
    }

    /// The special token that `text` starts with, the longest of several: its length in bytes and its id.
    pub(crate) fn special_at_start(&self, text: &str) -> Option<(usize, u32)> {
        let matching = self.specials.iter().filter(|(name, _)| text.starts_with(name));
        matching.map(|(name, id)| (name.len(), *id)).max()
    }

    /// Names that a message must not spell in a chat with `template`: those of the special tokens, and of the other
    /// added tokens that the template writes.
    pub(crate) fn names_to_guard(&self, template: &str) -> Vec<String> {
        let specials = self.specials.iter().map(|(name, _)| name);
        let others = self.others.iter().filter(|name| !name.trim().is_empty() && template.contains(*name));
        specials.chain(others).cloned().collect()
    }

    /// Id of the special token `name`.
    pub(crate) fn special(&self, name: &str) -> Option<u32> {
        self.specials.iter().find(|(special, _)| special == name).map(|(_, id)| *id)
    }

    /// The text of `ids`, special tokens left out.
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer
            .decode(ids, true)
            .map_err(|error| anyhow!("the tokens cannot be turned into text: {error}"))
    }

    /// `text` as the vocabulary writes it.
    pub(crate) fn written(&self, text: &str) -> Result<String> {
        Ok(self.encode(text)?.into_iter().filter_map(|id| self.shown_token(id)).collect())
    }

    /// The tokens that texts show, by how the vocabulary writes them.
    pub(crate) fn vocabulary(&self) -> HashMap<String, u32> {
        let mut vocabulary = self.tokenizer.get_vocab(true);
        for (name, _) in &self.specials {
            vocabulary.remove(name);
        }
        vocabulary
    }

    /// The text of ids that come one after another.
    pub(crate) fn decoder(&self) -> Decoder<'_> {
        Decoder { text: self, window: Vec::new(), shown: 0 }
    }

    /// The token as the vocabulary writes it, unless it is one that no text shows.
    pub(crate) fn shown_token(&self, id: u32) -> Option<String> {
        let special = self.specials.iter().any(|(_, special)| *special == id);
        if special { None } else { self.tokenizer.id_to_token(id) }
    }
}

/// Turns ids into text as they come. The parts together are the text of all ids.
///
/// Only the newest ids are decoded again: a window that starts with a token whose text is out already, so that
/// the tokenizer sees no beginning of a text where there is none. Bytes of a letter are held back until the letter
/// is whole; a run of byte tokens until it ends, since one wrong byte makes replacement characters of them all.
pub(crate) struct Decoder<'t> {
    text: &'t Text,
    window: Vec<u32>,
    /// Bytes of the window's text that are out.
    shown: usize,
}

impl Decoder<'_> {
    /// Takes the next id and returns the text that is now certain.
    pub(crate) fn push(&mut self, id: u32) -> Result<String> {
        let Some(token) = self.text.shown_token(id) else { return Ok(String::new()) };
        self.window.push(id);
        let is_byte = token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        if is_byte {
            return Ok(String::new());
        }
        let text = self.text.decode(&self.window)?;
        if text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        let new = text.get(self.shown..).unwrap_or_default().to_owned();
        self.shown = text.len();
        let alone = self.text.decode(&[id])?;
        if !alone.is_empty() {
            self.window = vec![id];
            self.shown = alone.len();
        }
        Ok(new)
    }

    /// The text held back, when no more ids come.
    pub(crate) fn finish(&mut self) -> Result<String> {
        let text = self.text.decode(&self.window)?;
        let new = text.get(self.shown..).unwrap_or_default().to_owned();
        self.window.clear();
        self.shown = 0;
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{ModelFile, random_ids};
    use serde_json::Value;

    const EVAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/indic-qa/eval.jsonl");

    fn with_bundled(test: impl FnOnce(&Text)) {
        let file = ModelFile::open(None).unwrap();
        test(&Text::of(&file.model().unwrap(), Specials::AsText).unwrap());
    }

    /// The parts that come out as `ids` go in, the rest last.
    fn parts(text: &Text, ids: &[u32]) -> Vec<String> {
        let mut decoder = text.decoder();
        let mut parts: Vec<_> = ids.iter().map(|id| decoder.push(*id).unwrap()).collect();
        parts.push(decoder.finish().unwrap());
        parts
    }

    #[test]
    fn answers_come_out_whole_and_as_early_as_they_can() {
        with_bundled(|text| {
            let rows = std::fs::read_to_string(EVAL).unwrap();
            let (mut parts_in_all, mut held_to_the_end) = (0, 0);
            for row in rows.lines() {
                let row: Value = serde_json::from_str(row).unwrap();
                let answer = row["answer"].as_str().unwrap();
                let ids = text.encode(answer).unwrap();
                let parts = parts(text, &ids);
                assert_eq!(parts.concat(), text.decode(&ids).unwrap());
                assert_eq!(parts.concat(), answer);
                parts_in_all += parts.len();
                held_to_the_end += usize::from(!parts[parts.len() - 1].is_empty());
            }
            assert!(held_to_the_end * 100 < parts_in_all, "{held_to_the_end} of {parts_in_all}");
        });
    }

    #[test]
    fn any_ids_give_the_text_of_all_at_once() {
        with_bundled(|text| {
            // Ids 0 to 5 are special, 6 to 261 single bytes; small vocabularies meet every neighbourhood of them.
            for vocab in [8, 262, 300, 2000, 12288, 13000] {
                for ids in random_ids(vocab, 8000).chunks(23) {
                    assert_eq!(parts(text, ids).concat(), text.decode(ids).unwrap(), "{ids:?}");
                }
            }
        });
    }

    #[test]
    fn byte_level_tokenizers_are_decoded_too() {
        let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let mut alphabet: Vec<_> = alphabet.into_iter().collect();
        alphabet.sort_unstable();
        let vocab: serde_json::Map<_, _> =
            alphabet.iter().enumerate().map(|(i, c)| (c.to_string(), Value::from(i))).collect();
        let byte_level = serde_json::json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
        });
        let json = serde_json::json!({
            "version": "1.0", "added_tokens": [], "pre_tokenizer": byte_level, "decoder": byte_level,
            "model": { "type": "BPE", "vocab": vocab, "merges": [] }
        });
        let text = Text::from_json(json.to_string().as_bytes(), Specials::AsText).unwrap();
        for ids in random_ids(256, 8000).chunks(23) {
            assert_eq!(parts(&text, ids).concat(), text.decode(ids).unwrap(), "{ids:?}");
        }
        let ids = text.encode("aक b").unwrap();
        assert_eq!(parts(&text, &ids), ["a", "", "", "क", " ", "b", ""]);
    }

    #[test]
    fn bytes_of_a_letter_are_held_back() {
        with_bundled(|text| {
            let id = |name: &str| text.tokenizer.token_to_id(name).unwrap();
            let ids = [id("▁"), id("<0xE0>"), id("<0xA4>"), id("<0x95>"), text.encode("a").unwrap()[0]];
            assert_eq!(parts(text, &ids), ["", "", "", "", "क a", ""]);
            assert_eq!(parts(text, &ids[..4]), ["", "", "", "", "क"]);
            assert_eq!(parts(text, &ids[..3]), ["", "", "", "\u{fffd}\u{fffd}"]);
        });
    }
}
