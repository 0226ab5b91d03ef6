//! JSON as Python writes it.
//!
//! Python's `json` writes infinite and undefined numbers as the bare words `Infinity`, `-Infinity` and `NaN`, and
//! transformers 5 writes them as `{"__float__": "Infinity"}`. Both are read here; the bare words become strings.

use std::borrow::Cow;

use serde_json::Value;

/// The bare words, longest first where one begins another.
const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Parses JSON in which numbers may be the words `Infinity`, `-Infinity` and `NaN`.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(&quote_words(bytes))
}

/// The number in `value`: a JSON number, one of the strings `"Infinity"`, `"-Infinity"` and `"NaN"`, or an object
/// `{"__float__": string}` with one of these strings. `None` for anything else.
///
/// A caller for whom a number must be finite checks that itself.
pub fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(word) => word_number(word),
        Value::Object(object) if object.len() == 1 => word_number(object.get("__float__")?.as_str()?),
        _ => None,
    }
}

fn word_number(word: &str) -> Option<f64> {
    match word {
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        _ => None,
    }
}

/// Puts quotation marks around the bare words that stand outside strings.
fn quote_words(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut quoted = Vec::new();
    let mut copied = 0;
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'"' {
            at = string_end(bytes, at);
        } else if let Some(word) = word_at(bytes, at) {
            quoted.extend_from_slice(&bytes[copied..at]);
            quoted.extend([b"\"", word.as_bytes(), b"\""].concat());
            at += word.len();
            copied = at;
        } else {
            at += 1;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(bytes);
    }
    quoted.extend_from_slice(&bytes[copied..]);
    Cow::Owned(quoted)
}

/// The position after the string that begins at `start`, or the end of `bytes` if it never ends.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The word that stands at `at` by itself, so not as a part of a longer one.
fn word_at(bytes: &[u8], at: usize) -> Option<&'static str> {
    let joins = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+' | b'.' | b'"');
    if at.checked_sub(1).is_some_and(|before| joins(&bytes[before])) {
        return None;
    }
    let word = WORDS.into_iter().find(|word| bytes[at..].starts_with(word.as_bytes()))?;
    (!bytes.get(at + word.len()).is_some_and(joins)).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_words_become_strings_outside_strings_only() {
        let text = br#"{"a": [0.0, Infinity], "b":-Infinity, "c": "Infinity \" NaN, -Infinity", "d": NaN}"#;
        let value = parse(text).unwrap();
        assert_eq!(value["a"][1], "Infinity");
        assert_eq!(value["b"], "-Infinity");
        assert_eq!(value["c"], "Infinity \" NaN, -Infinity");
        assert_eq!(value["d"], "NaN");
        assert_eq!(parse(b"Infinity").unwrap(), "Infinity");
    }

    #[test]
    fn parts_of_words_stay_bad_input() {
        for text in [
            "Infinityx",
            "xNaN",
            "1Infinity",
            "--Infinity",
            "+Infinity",
            "NaN.0",
            "inf",
            "\"a\"NaN",
            "[NaN NaN]",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        for text in ["\"", "\"\\", "", "{\"a\": Infinity", "[\u{1}"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(&b"[".repeat(100_000)).is_err());
    }

    #[test]
    fn numbers_in_every_spelling() {
        let of = |text: &str| number(&parse(text.as_bytes()).unwrap());
        assert_eq!(of("2"), Some(2.0));
        assert_eq!(of("1e-5"), Some(1e-5));
        assert_eq!(of("Infinity"), Some(f64::INFINITY));
        assert_eq!(of("\"-Infinity\""), Some(f64::NEG_INFINITY));
        assert_eq!(of(r#"{"__float__": "Infinity"}"#), Some(f64::INFINITY));
        assert!(of(r#"{"__float__": "NaN"}"#).unwrap().is_nan());
        for text in
            [r#"{"__float__": 1}"#, r#"{"__float__": "NaN", "x": 1}"#, "{}", "true", "null", "\"1\"", "[1]"]
        {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
