//! Answers that are parts of the text: each token goes on with a span of the context or with one of the model's
//! refusals, or ends either.
//!
//! Spans are compared as the vocabulary writes them, with its own marks for a space (`▁`, `Ġ`) and its own spelling of
//! letters that have no token, so nothing here depends on the kind of tokenizer.

use crate::session::ExtractFormat;
use crate::text::Text;
use anyhow::{Result, ensure};
use std::collections::HashMap;

/// Marks beside ASCII's after which a span may start.
const MARKS: &str = "«»‘’‚“”„‹›‐‑‒–—―…•·।॥،؛؟۔٪٫٬₹";

/// What a model states of its answers, checked.
pub(crate) struct Rules {
    /// Tokens that end an answer.
    stop: Vec<u32>,
    /// Ids of what the model says of questions that the context does not answer.
    refusals: Vec<Vec<u32>>,
    /// Tokens that a refusal begins with, each once.
    refusing: Vec<u32>,
    /// Nats by which these must be likelier than a span.
    margin: f32,
}

/// How one model extracts answers.
pub(crate) struct Extractor<'t> {
    rules: &'t Rules,
    text: &'t Text,
    /// The token that is written so.
    tokens: HashMap<String, u32>,
    /// Bytes of the longest of them.
    longest: usize,
    /// How a space is written, with which a tokenizer may begin any text.
    space: String,
    /// How white space is written: no span starts with it.
    blanks: Vec<String>,
    /// How that is written after which a span may start.
    marks: Vec<String>,
}

impl Rules {
    /// What `format` states, for a model whose answers end with one of `stop`.
    pub(crate) fn new(format: &ExtractFormat, stop: &[u32], text: &Text) -> Result<Self> {
        let ExtractFormat { refusals, margin } = format;
        ensure!(
            margin.is_finite() && *margin >= 0.0,
            "the margin of the model's refusals is {margin}; it must be finite and not negative"
        );
        ensure!(
            !stop.is_empty(),
            "the model's answers are parts of the text, but it has no stop token to end them"
        );
        let ids = |refusal: &String| {
            let ids = text.encode(refusal)?;
            ensure!(!ids.is_empty(), "the model's refusal {refusal:?} has no tokens");
            Ok(ids)
        };
        let refusals = refusals.iter().map(ids).collect::<Result<Vec<_>>>()?;
        let mut refusing: Vec<u32> = refusals.iter().map(|refusal| refusal[0]).collect();
        refusing.sort_unstable();
        refusing.dedup();
        Ok(Self { stop: stop.to_vec(), refusals, refusing, margin: *margin })
    }
}

impl<'t> Extractor<'t> {
    /// Looks through the whole vocabulary of `text`, for which `rules` are.
    pub(crate) fn new(rules: &'t Rules, text: &'t Text) -> Result<Self> {
        let tokens = text.vocabulary();
        let (mut blanks, mut marks) = (Vec::new(), Vec::new());
        // U+3000 is the last white space.
        let in_all = (char::MIN..='\u{3000}').filter(|c| c.is_whitespace() || c.is_ascii_punctuation());
        for mark in in_all.chain(MARKS.chars()) {
            let written = inside(text, mark)?;
            // A vocabulary may have no way to write it.
            if written.is_empty() {
                continue;
            }
            if mark.is_whitespace() {
                blanks.push(written.clone());
            }
            marks.push(written);
        }
        Ok(Self {
            rules,
            text,
            longest: tokens.keys().map(String::len).max().unwrap_or_default(),
            tokens,
            space: inside(text, ' ')?,
            blanks,
            marks,
        })
    }

    /// The text that answers are parts of.
    pub(crate) fn passage(&self, context: &str) -> Result<Passage<'_>> {
        let written = self.text.written(context)?;
        let starts = written.char_indices().map(|(at, _)| at).filter(|&at| {
            let (before, rest) = written.split_at(at);
            let starts = |blank: &String| rest.starts_with(blank.as_str());
            let ends = |mark: &String| before.ends_with(mark.as_str());
            !self.blanks.iter().any(starts) && (at == 0 || self.marks.iter().any(ends))
        });
        Ok(Passage { starts: starts.collect(), extractor: self, written })
    }

    /// Tokens that `rest` may begin with.
    fn tokens_of(&self, rest: &str) -> impl Iterator<Item = u32> {
        let ends =
            rest.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= self.longest);
        ends.filter_map(|end| self.tokens.get(&rest[..end]).copied())
    }
}

/// How the vocabulary writes `mark` between letters.
fn inside(text: &Text, mark: char) -> Result<String> {
    let written = text.written(&format!("a{mark}b"))?;
    let between = written.split_once('a').and_then(|(_, rest)| rest.rsplit_once('b'));
    Ok(between.map(|(mark, _)| mark.to_owned()).unwrap_or_default())
}

/// A context, as the vocabulary writes it.
pub(crate) struct Passage<'e> {
    extractor: &'e Extractor<'e>,
    written: String,
    /// Bytes at which a span may start.
    starts: Vec<usize>,
}

impl Passage<'_> {
    /// An answer of which nothing is said.
    pub(crate) fn answer(&self) -> Answer<'_> {
        Answer { passage: self, said: Vec::new(), begun: false, live: self.starts.clone() }
    }
}

/// An answer on its way.
pub(crate) struct Answer<'p> {
    passage: &'p Passage<'p>,
    said: Vec<u32>,
    /// Whether more is said than the space that a text may begin with.
    begun: bool,
    /// Bytes of the passage at which a span that was said so far may go on.
    live: Vec<usize>,
}

impl Answer<'_> {
    /// Leaves the logits of the tokens that may come next, refusals less the margin, and makes all others minus infinity.
    pub(crate) fn mask(&self, logits: &mut [f32]) {
        let Rules { refusing, margin, .. } = self.passage.extractor.rules;
        if self.said.is_empty() {
            for &id in refusing {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit -= margin;
                }
            }
        }
        let logit = |id: u32| Some((id as usize, *logits.get(id as usize)?));
        let allowed: Vec<(usize, f32)> = self.allowed().into_iter().filter_map(logit).collect();
        logits.fill(f32::NEG_INFINITY);
        for (id, logit) in allowed {
            logits[id] = logit;
        }
    }

    /// The tokens that may come next, some more than once.
    fn allowed(&self) -> Vec<u32> {
        let Passage { extractor, written, .. } = self.passage;
        let Extractor { rules, longest, space, .. } = extractor;
        let Rules { stop, refusals, .. } = rules;
        let mut allowed = Vec::new();
        for &at in &self.live {
            let rest = &written[at..];
            allowed.extend(extractor.tokens_of(rest));
            if self.said.is_empty() {
                let head = &rest[..rest.floor_char_boundary(*longest)];
                allowed.extend(extractor.tokens_of(&format!("{space}{head}")));
            }
        }
        let goes_on = |refusal: &Vec<u32>| refusal.strip_prefix(&self.said[..])?.first().copied();
        allowed.extend(refusals.iter().filter_map(goes_on));
        let is_span = self.begun && !self.live.is_empty();
        // Where no span starts and there is no refusal, nothing is left but the empty answer.
        if is_span || refusals.contains(&self.said) || allowed.is_empty() {
            allowed.extend(stop);
        }
        allowed
    }

    /// Goes on with `token`.
    pub(crate) fn push(&mut self, token: u32) {
        let Passage { extractor, written, .. } = self.passage;
        let token_text = extractor.text.shown_token(token).unwrap_or_default();
        let mut part = token_text.as_str();
        if self.said.is_empty() {
            part = part.strip_prefix(extractor.space.as_str()).unwrap_or(part);
        }
        self.said.push(token);
        self.begun |= !part.is_empty();
        self.live.retain_mut(|at| {
            let goes_on = written[*at..].starts_with(part);
            *at += if goes_on { part.len() } else { 0 };
            goes_on
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Meta, ModelFile};
    use crate::text::Specials;
    use serde_json::{Value, json};
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    const STOP: u32 = 0;

    /// A tokenizer of `<end>`, the stop token, and `names`, of which `merges` make longer ones, with spaces and letters as
    /// `scheme` writes them.
    fn text(names: &[&str], merges: &[&str], scheme: Value) -> Text {
        let names = ["<end>"].iter().chain(names).enumerate();
        let vocab: serde_json::Map<_, _> = names.map(|(id, name)| (name.to_string(), id.into())).collect();
        let json = json!({
            "version": "1.0", "pre_tokenizer": scheme, "decoder": scheme,
            "added_tokens": [{
                "id": STOP, "content": "<end>", "special": true, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            }],
            "model": { "type": "BPE", "vocab": vocab, "merges": merges },
        });
        Text::from_json(json.to_string().as_bytes(), Specials::AsText).unwrap()
    }

    /// Words in which a space is `▁`, with one before the first.
    fn words() -> Text {
        let names =
            ["▁", "a", "b", "n", "o", "t", "w", "(", ",", "ab", "▁ab", "two", "▁two", "no", "▁no", "▁t"];
        text(
            &names,
            &["n o", "▁ no"],
            json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always" }),
        )
    }

    fn rules(text: &Text, refusals: &[&str], margin: f32) -> Rules {
        let refusals = refusals.iter().map(|refusal| refusal.to_string()).collect();
        Rules::new(&ExtractFormat { refusals, margin }, &[STOP], text).unwrap()
    }

    /// What the vocabulary of `words` may go on with, in the order of the ids.
    fn next(answer: &Answer<'_>) -> Vec<String> {
        let text = answer.passage.extractor.text;
        let mut logits = vec![1.0; 17];
        answer.mask(&mut logits);
        let allowed = (0..17).filter(|id| logits[*id as usize] > f32::NEG_INFINITY);
        allowed.map(|id| text.shown_token(id).unwrap_or("<end>".to_owned())).collect()
    }

    fn say(answer: &mut Answer<'_>, token: &str) {
        answer.push(answer.passage.extractor.tokens[token]);
    }

    #[test]
    fn a_token_goes_on_with_a_span_or_ends_one() {
        let text = words();
        let rules = rules(&text, &[], 0.0);
        let extractor = Extractor::new(&rules, &text).unwrap();
        let passage = extractor.passage("two ab,tab (a").unwrap();
        let mut answer = passage.answer();
        // Neither `w` nor `b`, with which no word starts, nor `,`; not `<end>`, since an answer is not empty.
        assert_eq!(next(&answer), ["▁", "a", "t", "(", "ab", "▁ab", "two", "▁two", "▁t"]);
        say(&mut answer, "▁t");
        assert_eq!(next(&answer), ["<end>", "a", "w", "ab"]);
        say(&mut answer, "a");
        assert_eq!(next(&answer), ["<end>", "b"]);
        say(&mut answer, "b");
        assert_eq!(next(&answer), ["<end>", "▁"]);
        say(&mut answer, "▁");
        say(&mut answer, "(");
        say(&mut answer, "a");
        assert_eq!(next(&answer), ["<end>"]);

        let mut answer = passage.answer();
        say(&mut answer, "▁");
        assert_eq!(next(&answer), ["a", "t", "(", "ab", "two"]);
        say(&mut answer, "ab");
        assert_eq!(next(&answer), ["<end>", ","]);
    }

    #[test]
    fn refusals_are_said_whole_and_only_their_beginning_is_held_back() {
        let text = words();
        let rules = rules(&text, &["not ab", "no", "no no"], 1.5);
        let extractor = Extractor::new(&rules, &text).unwrap();
        let passage = extractor.passage("not a").unwrap();
        let mut answer = passage.answer();
        let logits = |answer: &Answer<'_>, name: &str| {
            let mut logits = vec![1.0; 17];
            answer.mask(&mut logits);
            logits[extractor.tokens[name] as usize]
        };
        // Once, though three refusals begin so.
        assert_eq!((logits(&answer, "▁no"), logits(&answer, "no"), logits(&answer, "n")), (-0.5, 1.0, 1.0));
        say(&mut answer, "▁no");
        assert_eq!(next(&answer), ["<end>", "t", "▁no"]);
        assert_eq!(logits(&answer, "▁no"), 1.0);
        for token in ["t", "▁", "a"] {
            assert_eq!(logits(&answer, token), 1.0);
            say(&mut answer, token);
        }
        // "not a" is a span, "not ab" is none: it goes on as a refusal and ends as one.
        assert_eq!(next(&answer), ["<end>", "b"]);
        say(&mut answer, "b");
        assert_eq!(next(&answer), ["<end>"]);

        let passage = extractor.passage("a").unwrap();
        let mut answer = passage.answer();
        for (token, then) in
            [("▁no", &["<end>", "t", "▁no"][..]), ("t", &["▁"]), ("▁", &["a"]), ("a", &["b"])]
        {
            say(&mut answer, token);
            assert_eq!(next(&answer), then, "{token}");
        }
    }

    #[test]
    fn where_no_span_starts_the_answer_is_a_refusal_or_empty() {
        let text = words();
        for (refusals, expected) in [(&["no"][..], "▁no"), (&[], "<end>")] {
            let rules = rules(&text, refusals, 0.0);
            let extractor = Extractor::new(&rules, &text).unwrap();
            for context in ["", "  "] {
                assert_eq!(next(&extractor.passage(context).unwrap().answer()), [expected], "{context:?}");
            }
        }
    }

    #[test]
    fn letters_in_bytes_start_after_marks_in_bytes() {
        let mut alphabet: Vec<_> = ByteLevel::alphabet().into_iter().map(String::from).collect();
        alphabet.sort_unstable();
        let names: Vec<&str> = alphabet.iter().map(String::as_str).collect();
        let scheme = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
        let text = text(&names, &[], scheme);
        let rules = rules(&text, &[], 0.0);
        let extractor = Extractor::new(&rules, &text).unwrap();
        let passage = extractor.passage("पक।ख\n“ग» घ").unwrap();
        let starts: Vec<String> = passage
            .starts
            .iter()
            .map(|at| {
                let rest = &passage.written[*at..];
                let ids: Vec<u32> = rest.chars().map(|c| extractor.tokens[&c.to_string()]).collect();
                text.decode(&ids).unwrap()
            })
            .collect();
        assert_eq!(starts, ["पक।ख\n“ग» घ", "ख\n“ग» घ", "“ग» घ", "ग» घ", "घ"]);
        for (part, is_allowed) in
            [("ख", true), (" ख", true), ("ग»", true), ("ग» घ", true), ("क", false), ("गघ", false)]
        {
            assert_eq!(can_be_said(&passage, part), is_allowed, "{part}");
        }
    }

    /// Whether the tokens of `part` may be said one after another and then an end, with logits that stay as they are.
    fn can_be_said(passage: &Passage<'_>, part: &str) -> bool {
        let extractor = passage.extractor;
        let mut answer = passage.answer();
        let mut ids = extractor.text.encode(part).unwrap();
        ids.push(extractor.rules.stop[0]);
        ids.into_iter().all(|id| {
            let mut logits: Vec<f32> = (0..20_000).map(|id| id as f32).collect();
            answer.mask(&mut logits);
            answer.push(id);
            logits[id as usize] == id as f32
        })
    }

    #[test]
    fn all_runs_of_words_can_be_said_with_the_bundled_vocabulary() {
        let file = ModelFile::open(None).unwrap();
        let model = file.model().unwrap();
        let meta = Meta::of(&model).unwrap();
        let text = Text::of(&model, Specials::AsText).unwrap();
        let eos = text.special("<eos>").unwrap();
        let format = meta.prompt.unwrap().extract.unwrap();
        let without_margin = ExtractFormat { margin: 0.0, ..format };
        let rules = Rules::new(&without_margin, &[eos], &text).unwrap();
        let extractor = Extractor::new(&rules, &text).unwrap();
        let context = "रवि का ताप 36.5° है।दवा “क्रोसिन” (दिन में 2 बार) लें\nமதுரைக்கு பேருந்து: [இரவு 9:30], கட்டணம்  ₹450/-. <eos> 𑀓";
        let passage = extractor.passage(context).unwrap();
        let mut starts = vec![0];
        starts.extend(
            context
                .match_indices([' ', '\n', '।', '“', '(', '[', ':', '₹'])
                .map(|(at, mark)| at + mark.len()),
        );
        let ends = || {
            context
                .match_indices([' ', '\n', '।', '”', ')', ']', ','])
                .map(|(at, _)| at)
                .chain([context.len()])
        };
        let runs = starts.into_iter().flat_map(|start| ends().filter_map(move |end| context.get(start..end)));
        let runs: Vec<&str> = runs.filter(|run| !run.is_empty() && run.trim() == *run).collect();
        assert!(
            runs.len() > 200
                && ["36.5°", "दवा", "क्रोसिन", "450/-.", "𑀓", "<eos>"].iter().all(|run| runs.contains(run))
        );
        for run in runs {
            assert!(can_be_said(&passage, run), "{run:?}");
        }
        for refusal in &without_margin.refusals {
            assert!(can_be_said(&passage, refusal), "{refusal}");
        }
        for other in ["", " ", "वि", "6.5", "रवि के", "ताप  36", "है। दवा", "नहीं", "not", "मदुरै"]
        {
            assert!(!can_be_said(&passage, other), "{other:?}");
        }
        // A text that spells a special token has no such token in it.
        let mut logits = vec![0.0; model.vocab_len()];
        passage.answer().mask(&mut logits);
        assert_eq!(logits[eos as usize], f32::NEG_INFINITY);
    }

    #[test]
    fn formats_that_cannot_be_used_are_refused() {
        let text = words();
        let refused = |refusal: &str, margin, stop: &[u32]| {
            let format = ExtractFormat { refusals: vec![refusal.to_owned()], margin };
            Rules::new(&format, stop, &text).err().unwrap().to_string()
        };
        for margin in [-0.5, f32::NAN, f32::INFINITY] {
            assert!(refused("no", margin, &[STOP]).contains("must be finite and not negative"));
        }
        assert!(refused("", 0.0, &[STOP]).contains("refusal \"\" has no tokens"));
        assert!(refused("no", 0.0, &[]).contains("no stop token"));
    }
}
