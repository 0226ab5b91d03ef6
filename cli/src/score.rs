//! Exact match and F1 of answers.

use serde::Serialize;
use std::collections::HashMap;
use unicode_normalization::UnicodeNormalization;

/// A text as it is compared: in NFC, without blanks around and without one final full stop (Urdu's too) or danda.
pub(crate) fn normalize(text: &str) -> String {
    let text: String = text.nfc().collect();
    let text = text.trim();
    text.strip_suffix(['.', '।', '۔']).unwrap_or(text).trim_end().to_owned()
}

/// How one answer fares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Score {
    /// Whether the answer is one of those accepted.
    pub(crate) exact: bool,
    /// The best F1 over those accepted, 0 to 1.
    pub(crate) f1: f64,
}

/// Compares an answer with those accepted, all normalized.
pub(crate) fn score(answer: &str, accepted: &[String]) -> Score {
    Score {
        exact: accepted.iter().any(|right| right == answer),
        f1: accepted.iter().map(|right| f1(answer, right)).fold(0.0, f64::max),
    }
}

/// Harmonic mean of precision and recall over the words, each as often as it stands there.
fn f1(answer: &str, right: &str) -> f64 {
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in right.split_whitespace() {
        *left.entry(word).or_default() += 1;
    }
    let mut common = 0;
    for word in answer.split_whitespace() {
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    let words = answer.split_whitespace().count() + right.split_whitespace().count();
    if words == 0 { 1.0 } else { 2.0 * f64::from(common) / words as f64 }
}

/// Scores summed up.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    rows: usize,
    exact: usize,
    f1: f64,
}

/// Means of scores, in percent.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Means {
    pub(crate) exact_match: f64,
    pub(crate) f1: f64,
    pub(crate) rows: usize,
}

impl Tally {
    /// Adds one score.
    pub(crate) fn add(&mut self, score: Score) {
        self.rows += 1;
        self.exact += usize::from(score.exact);
        self.f1 += score.f1;
    }

    /// The means of all scores added.
    pub(crate) fn means(&self) -> Means {
        let rows = self.rows.max(1) as f64;
        Means { exact_match: 100.0 * self.exact as f64 / rows, f1: 100.0 * self.f1 / rows, rows: self.rows }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparison_looks_past_form() {
        assert_eq!(normalize("  45 रुपये। "), "45 रुपये");
        assert_eq!(normalize("45 रुपये ।"), "45 रुपये");
        assert_eq!(normalize("دو دن۔"), "دو دن");
        assert_eq!(normalize("a.."), "a.");
        // DDA + nukta is what NFC makes of the single letter.
        assert_eq!(normalize("\u{95c}"), "\u{921}\u{93c}");
        assert_eq!(normalize("."), "");
    }

    #[test]
    fn f1_counts_words_as_often_as_they_stand_there() {
        let score = |answer: &str, right: &[&str]| {
            score(answer, &right.iter().map(|r| r.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(score("a b", &["a b"]), Score { exact: true, f1: 1.0 });
        assert_eq!(score("a a", &["a b"]), Score { exact: false, f1: 0.5 });
        assert_eq!(score("a", &["x", "a b c"]), Score { exact: false, f1: 0.5 });
        assert_eq!(score("", &["a"]), Score { exact: false, f1: 0.0 });
        assert_eq!(score("", &[""]), Score { exact: true, f1: 1.0 });
    }
}
