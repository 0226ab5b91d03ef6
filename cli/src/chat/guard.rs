//! Keeps what users and models say apart from the special tokens that a chat template writes.
//!
//! A template sees the messages as they are, so that trimming, splitting and comparing work. Only where a message
//! spells a special token, or could complete one across its edge, a mark goes between two letters of it. Text is
//! turned into tokens between marks, where no special token is whole; then the marks are gone.

use std::collections::HashMap;

/// Where text is cut before it is turned into tokens: no character (Unicode), so no text has a use for it.
pub(crate) const BREAK: char = '\u{fdd0}';
/// Where a message of two parts is cut; as [`BREAK`].
pub(crate) const SPLIT: char = '\u{fdd1}';

/// Names that text must not spell. A name of one letter cannot be cut and is not guarded.
pub(crate) struct Guard {
    by_first: HashMap<char, Vec<String>>,
}

impl Guard {
    pub(crate) fn new(names: Vec<String>) -> Self {
        let mut by_first: HashMap<char, Vec<String>> = HashMap::new();
        for name in names {
            if let Some(first) = name.chars().next() {
                by_first.entry(first).or_default().push(name);
            }
        }
        Self { by_first }
    }

    /// `content` with marks where it needs them; blanks stay outermost, for templates that trim.
    pub(crate) fn text(&self, content: &str) -> String {
        let content = content.replace([BREAK, SPLIT], "\u{fffd}");
        let core = content.trim();
        if core.is_empty() {
            return content;
        }
        let start = content.len() - content.trim_start().len();
        let mut guarded = content[..start].to_owned();
        if self.names().any(|name| reaches_in(name, core)) {
            guarded.push(BREAK);
        }
        for (at, letter) in core.char_indices() {
            guarded.push(letter);
            let names = self.by_first.get(&letter).into_iter().flatten();
            if names.into_iter().any(|name| core[at..].starts_with(name)) {
                guarded.push(BREAK);
            }
        }
        if self.names().any(|name| reaches_out(name, core)) {
            guarded.push(BREAK);
        }
        guarded.push_str(&content[start + core.len()..]);
        guarded
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.by_first.values().flatten().map(String::as_str)
    }
}

/// The places within `name`.
fn cuts(name: &str) -> impl Iterator<Item = usize> {
    name.char_indices().map(|(at, _)| at).skip(1)
}

/// Whether text before `core` and the start of `core`, or all of it, can make up `name`.
fn reaches_in(name: &str, core: &str) -> bool {
    cuts(name).any(|at| core.starts_with(&name[at..]) || name[at..].starts_with(core))
}

/// Whether the end of `core` and text after it can make up `name`.
fn reaches_out(name: &str, core: &str) -> bool {
    cuts(name).any(|at| core.ends_with(&name[..at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded(content: &str) -> String {
        let guard = Guard::new(["<|end|>", "<s>", "[INST]"].map(str::to_owned).to_vec());
        guard.text(content).replace(BREAK, "·")
    }

    #[test]
    fn only_names_and_their_edges_are_marked() {
        for plain in ["", "  ", "hello", " नमस्ते, is 2 < 3? ", "a|b [x]"] {
            assert_eq!(guarded(plain), plain);
        }
        assert_eq!(guarded("a<|end|>b<s>"), "a<·|end|>b<·s>");
        assert_eq!(guarded("<<s>><|end<|end|>|>"), "<<·s>><|end<·|end|>|>");
        assert_eq!(guarded(" nd|> x"), " ·nd|> x");
        assert_eq!(guarded(" end\n"), " ·end\n");
        assert_eq!(guarded("x [IN "), "x [IN· ");
    }

    #[test]
    fn marks_of_the_text_itself_are_replaced() {
        assert_eq!(guarded("a\u{fdd0}b\u{fdd1}"), "a\u{fffd}b\u{fffd}");
    }
}
