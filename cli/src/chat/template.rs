//! Chat templates as Hugging Face writes them: Jinja, with the functions and settings that its library offers.

use crate::session::ChatFormat;
use anyhow::{Result, anyhow};
use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::{Deserialize, Serialize};

/// The only template of the environment.
const NAME: &str = "chat";
/// Steps and, times 64, bytes that one rendering may take: templates come with models and may not end.
const FUEL: u64 = 20_000_000;

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) role: Role,
    pub(crate) content: String,
}

impl Message {
    pub(crate) fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// A model's chat template.
pub(crate) struct Template {
    environment: Environment<'static>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

impl Template {
    pub(crate) fn new(format: &ChatFormat) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(unusable)?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.add_function("raise_exception", refuse);
        environment.add_filter("tojson", to_json);
        let source = without_generation_tags(&format.template);
        environment.add_template_owned(NAME, source).map_err(unusable)?;
        Ok(Self { environment, bos_token: format.bos_token.clone(), eos_token: format.eos_token.clone() })
    }

    /// The conversation as the model reads it, `now` seconds after 1970 began; with `answer`, up to where its answer
    /// starts.
    pub(crate) fn render(&self, messages: &[Message], answer: bool, now: i64) -> Result<String> {
        let message = |Message { role, content }: &Message| context! { role => role.name(), content };
        let messages: Vec<Value> = messages.iter().map(message).collect();
        let rendered = self.environment.get_template(NAME).and_then(|template| {
            template.render(context! {
                messages,
                add_generation_prompt => answer,
                bos_token => token(self.bos_token.as_deref()),
                eos_token => token(self.eos_token.as_deref()),
                tools => (),
                documents => (),
                strftime_now => Value::from_function(move |format: String| date(&format, now)),
            })
        });
        rendered.map_err(|error| match (error.kind(), error.detail()) {
            (REFUSED, Some(reason)) => {
                anyhow!("the model's chat template refuses the conversation: {reason}")
            }
            _ => unusable(error),
        })
    }
}

/// A token that a model lacks is undefined, and so written as nothing.
fn token(name: Option<&str>) -> Value {
    name.map_or(Value::UNDEFINED, Value::from)
}

fn unusable(error: Error) -> anyhow::Error {
    anyhow!(
        "the model's chat template cannot be used: {error}; convert the model with --meta to give another"
    )
}

/// The kind of error that no template makes but by `raise_exception`.
const REFUSED: ErrorKind = ErrorKind::BadSerialization;

fn refuse(reason: String) -> Result<Value, Error> {
    Err(Error::new(REFUSED, reason))
}

/// The date and time `now`, in UTC.
fn date(format: &str, now: i64) -> Result<String, Error> {
    let time = Timestamp::from_second(now).map(|now| now.to_zoned(TimeZone::UTC));
    let text = time.and_then(|time| strtime::format(format, &time));
    text.map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}")))
}

/// JSON without escapes for HTML; indented if asked.
fn to_json(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent = options.get::<Option<usize>>("indent")?;
    let _ = options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let text = match indent {
        Some(_) => serde_json::to_string_pretty(&value),
        None => serde_json::to_string(&value),
    };
    text.map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("tojson: {error}")))
}

/// `{% generation %}` and its end mark answers for training and mean nothing here.
fn without_generation_tags(template: &str) -> String {
    let mut source = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        source.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let name = tag.trim_matches(['{', '%', '}', '-', '+', ' ']);
        match name {
            "generation" => source.push_str(&tag.replace(name, "if true")),
            "endgeneration" => source.push_str(&tag.replace(name, "endif")),
            _ => source.push_str(tag),
        }
        rest = after;
    }
    source + rest
}

#[cfg(test)]
mod tests;
