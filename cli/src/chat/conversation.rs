//! What has been said, and how much of it the model has read.

use super::{Chat, Message, Role, now};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A conversation and what a stream's state holds of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Conversation {
    messages: Vec<Message>,
    /// The last rendering: the state holds it, and the last answer but for its pending token.
    rendered: String,
    /// The last token of an answer that was cut: shown, not read yet.
    pending: Option<u32>,
    /// Seconds from 1970 to the start: templates may write the date, which must not change on the way.
    started: i64,
}

/// What the model is to read next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// These tokens after those that it has read.
    GoOn(Vec<u32>),
    /// The whole conversation again: the template wrote what was read differently this time.
    Again(Vec<u32>),
}

impl Conversation {
    pub(crate) fn new(system: Option<&str>) -> Self {
        let messages = system.map(|text| Message::new(Role::System, text)).into_iter().collect();
        Self { messages, rendered: String::new(), pending: None, started: now() }
    }

    /// Number of answers.
    pub(crate) fn turns(&self) -> u64 {
        self.messages.iter().filter(|message| message.role == Role::Assistant).count() as u64
    }

    /// Takes the user's next message and says what the model must read for its answer. Nothing changes on failure.
    pub(crate) fn ask(&mut self, chat: &Chat<'_>, message: &str) -> Result<Next> {
        self.messages.push(Message::new(Role::User, message));
        let next = chat.render(&self.messages, self.started).and_then(|rendered| {
            let next = match self.unread(chat, &rendered) {
                Some(unread) => {
                    let pending = self.pending.into_iter();
                    Next::GoOn(pending.chain(chat.encode(unread)?).collect())
                }
                None => Next::Again(chat.encode(&rendered)?),
            };
            Ok((next, rendered))
        });
        match next {
            Ok((next, rendered)) => {
                self.rendered = rendered;
                self.pending = None;
                Ok(next)
            }
            Err(error) => {
                self.messages.pop();
                Err(error)
            }
        }
    }

    /// Takes the model's answer; `pending` is its last token if the model has not read it.
    pub(crate) fn answered(&mut self, answer: String, pending: Option<u32>) {
        self.messages.push(Message::new(Role::Assistant, answer));
        self.pending = pending;
    }

    /// The end of `rendered` that the model has not read, if it has read the rest. The model has read its answer as it
    /// wrote it: blanks around it may differ from those that the template writes.
    fn unread<'r>(&self, chat: &Chat<'_>, rendered: &'r str) -> Option<&'r str> {
        let rest = rendered.strip_prefix(&self.rendered)?;
        if self.rendered.is_empty() {
            return Some(rest);
        }
        let last = self.messages.iter().rev().find(|message| message.role == Role::Assistant);
        let answer = last.map(|message| chat.guarded(&message.content)).unwrap_or_default();
        let rest = if answer.trim().is_empty() { rest } else { rest.trim_start() };
        let rest = rest.strip_prefix(answer.trim())?;
        let blanks = &answer[answer.trim_end().len()..];
        Some(rest.strip_prefix(blanks).unwrap_or(rest))
    }

    /// Checks what came from a file: answers follow on questions, and a pending token belongs to an answer.
    pub(crate) fn check(&self) -> Result<()> {
        let spoken = self.messages.iter().skip_while(|message| message.role == Role::System);
        let roles: Vec<Role> = spoken.map(|message| message.role).collect();
        let turns = roles.chunks(2).all(|turn| turn == [Role::User, Role::Assistant]);
        let silent = roles.is_empty() && (self.pending.is_some() || !self.rendered.is_empty());
        (turns && !silent).then_some(()).context("its messages are not questions and their answers in turn")
    }
}
