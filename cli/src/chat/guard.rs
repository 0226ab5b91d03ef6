//! Keeps what users and models say apart from the special tokens that a chat template writes.
//!
//! A template sees the messages as they are, so that trimming, splitting and comparing work. Only where a message
//! spells a special token, a mark goes between two letters of it; where it completes one across its edge, at its
//! edges. Text is turned into tokens between marks, where no special token is whole; then the marks are gone.

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

    /// `content` with marks in the names that it spells.
    pub(crate) fn text(&self, content: &str) -> String {
        let content = content.replace([BREAK, SPLIT], "\u{fffd}");
        let mut guarded = String::with_capacity(content.len());
        for (at, letter) in content.char_indices() {
            guarded.push(letter);
            if self.starts_name(letter, &content[at..]) {
                guarded.push(BREAK);
            }
        }
        guarded
    }

    /// Number of names in `text`.
    pub(crate) fn count(&self, text: &str) -> usize {
        text.char_indices().filter(|&(at, letter)| self.starts_name(letter, &text[at..])).count()
    }

    fn starts_name(&self, first: char, text: &str) -> bool {
        self.by_first.get(&first).is_some_and(|names| names.iter().any(|name| text.starts_with(name)))
    }
}

/// `content` with marks at its edges, too. Blanks stay outermost, for templates that trim.
pub(crate) fn edged(content: &str) -> String {
    let core = content.trim();
    if core.is_empty() {
        content.to_owned()
    } else {
        content.replacen(core, &format!("{BREAK}{core}{BREAK}"), 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded(content: &str) -> String {
        let guard = Guard::new(["<|end|>", "<s>", "[INST]"].map(str::to_owned).to_vec());
        guard.text(content).replace(BREAK, "·")
    }

    #[test]
    fn only_names_are_marked() {
        for plain in ["", "  ", "hello", " नमस्ते, is 2 < 3? ", "a|b [x]", " end\n", "nd|> x"] {
            assert_eq!(guarded(plain), plain);
        }
        assert_eq!(guarded("a<|end|>b<s>"), "a<·|end|>b<·s>");
        assert_eq!(guarded("<<s>><|end<|end|>|>"), "<<·s>><|end<·|end|>|>");
        assert_eq!(edged(" <a b \n").replace(BREAK, "·"), " ·<a b· \n");
        assert_eq!(edged(" \n"), " \n");
    }

    #[test]
    fn marks_of_the_text_itself_are_replaced() {
        assert_eq!(guarded("a\u{fdd0}b\u{fdd1}"), "a\u{fffd}b\u{fffd}");
    }
}
