//! Conversations with instruct models, through the chat template that the model file holds.

mod conversation;
mod guard;
mod saved;
mod session;
mod template;

use crate::session::Meta;
use crate::text::Text;
use anyhow::{Context, Result, ensure};
use guard::{BREAK, Guard, SPLIT};
use std::time::SystemTime;
use template::Template;

pub(crate) use session::run;
pub(crate) use template::{Message, Role};

/// Turns conversations into token ids.
pub(crate) struct Chat<'t> {
    text: &'t Text,
    template: Template,
    guard: Guard,
    /// Tokens that end an answer.
    pub(crate) stop: Vec<u32>,
}

impl<'t> Chat<'t> {
    /// The chat format that `meta` states; `text` takes special tokens' names for the tokens.
    pub(crate) fn new(meta: &Meta, text: &'t Text) -> Result<Self> {
        let format = meta.chat.as_ref().context(
            "the model has no chat template, so it cannot be talked to; use an instruct model, or convert it with \
             --meta",
        )?;
        let template = Template::new(format)?;
        let guard = Guard::new(text.names_to_guard(&format.template));
        let mut stop = meta.eos_ids();
        stop.extend(format.eos_token.as_deref().and_then(|name| text.special(name)));
        stop.extend(after_answer(&template, text));
        Ok(Self { text, template, guard, stop })
    }

    /// `content` as it may stand in a message for [`render`](Self::render).
    pub(crate) fn guarded(&self, content: &str) -> String {
        self.guard.text(content)
    }

    /// The conversation as the model reads it, marks of the guard included.
    pub(crate) fn render(&self, messages: &[Message], now: i64) -> Result<String> {
        let guarded = |message: &Message| Message::new(message.role, self.guarded(&message.content));
        self.render_guarded(&messages.iter().map(guarded).collect::<Vec<_>>(), now)
    }

    /// The same for messages that the guard has marked.
    fn render_guarded(&self, messages: &[Message], now: i64) -> Result<String> {
        let rendered = self.template.render(messages, true, now)?;
        let edged = |message: &Message| Message::new(message.role, guard::edged(&message.content));
        let apart = self.template.render(&messages.iter().map(edged).collect::<Vec<_>>(), true, now)?;
        // A special token that is gone when messages are kept apart was spelled by a message and the template together.
        Ok(if self.guard.count(&rendered) == self.guard.count(&apart) { rendered } else { apart })
    }

    /// Ids of a rendered text or a part of it.
    pub(crate) fn encode(&self, rendered: &str) -> Result<Vec<u32>> {
        let parts = rendered.split(BREAK).filter(|part| !part.is_empty());
        Ok(parts.map(|part| self.text.encode(part)).collect::<Result<Vec<_>>>()?.concat())
    }

    /// A message that stands for a context, and then a question about it, as the model reads it: in two parts, the
    /// first up to and with the context. Each part depends on nothing in the other.
    pub(crate) fn question(&self, context: &str, question: &str) -> Result<(String, String)> {
        let content = format!("{}{SPLIT}\n\n{}", self.guarded(context), self.guarded(question));
        let rendered = self.render_guarded(&[Message::new(Role::User, content)], now())?;
        let (before, after) = rendered.split_once(SPLIT).unwrap_or_default();
        ensure!(
            !before.is_empty() && !after.contains(SPLIT),
            "the model's chat template does not keep a message as it is, so the model cannot be asked; use `sarit chat`"
        );
        Ok((before.to_owned(), after.to_owned()))
    }
}

/// Seconds since 1970 began.
pub(crate) fn now() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs() as i64)
}

/// The special token that the template writes after an answer: a model may end its answers with it whether or not it
/// is listed as one that does.
fn after_answer(template: &Template, text: &Text) -> Option<u32> {
    let answer = SPLIT.to_string();
    let messages = [Message::new(Role::User, "question"), Message::new(Role::Assistant, &answer)];
    let rendered = template.render(&messages, false, 0).ok()?;
    let (_, after) = rendered.split_once(&answer)?;
    text.special_at_start(after.trim_start()).map(|(_, id)| id)
}
