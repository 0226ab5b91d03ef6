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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{ChatFormat, Meta, ModelFile};
    use crate::text::{Specials, Text};

    const CHATML: &str = include_str!("../../tests/templates/chatml.jinja");
    const LLAMA3: &str = include_str!("../../tests/templates/llama3.jinja");
    const MISTRAL: &str = include_str!("../../tests/templates/mistral.jinja");

    /// The bundled model's tokenizer, and `template` with its first and last token.
    fn with_chat(template: &str, test: impl FnOnce(&Chat<'_>)) {
        let file = ModelFile::open(None).unwrap();
        let model = file.model().unwrap();
        let text = Text::of(&model, Specials::AsTokens).unwrap();
        let token = |name: &str| Some(name.to_owned());
        let chat = ChatFormat {
            template: template.to_owned(),
            bos_token: token("<bos>"),
            eos_token: token("<eos>"),
        };
        let meta = Meta { chat: Some(chat), ..Meta::default() };
        test(&Chat::new(&meta, &text).unwrap());
    }

    fn go_on(chat: &Chat<'_>, text: &str) -> Next {
        Next::GoOn(chat.encode(text).unwrap())
    }

    #[test]
    fn only_what_is_new_is_read_whatever_blanks_surround_the_answer() {
        let end = "<|im_end|>\n<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n";
        for (answer, blanks) in [("yes", ""), (" yes\n", ""), ("\n yes", ""), ("", ""), ("  ", "  ")] {
            with_chat(CHATML, |chat| {
                let mut conversation = Conversation::new(None);
                let first = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n";
                assert_eq!(conversation.ask(chat, "a").unwrap(), go_on(chat, first));
                conversation.answered(answer.to_owned(), None);
                let next = conversation.ask(chat, "b").unwrap();
                assert!(
                    next == go_on(chat, end) || next == go_on(chat, &format!("{blanks}{end}")),
                    "{answer:?}"
                );
                assert_eq!((conversation.turns(), conversation.check().is_ok()), (1, false));
            });
        }
        let end = "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nb<|eot_id|>\
                   <|start_header_id|>assistant<|end_header_id|>\n\n";
        with_chat(LLAMA3, |chat| {
            let mut conversation = Conversation::new(Some("Be brief."));
            conversation.ask(chat, " a ").unwrap();
            conversation.answered(" yes \n".to_owned(), None);
            assert!(conversation.check().is_ok());
            assert_eq!(conversation.ask(chat, "b").unwrap(), go_on(chat, end));
        });
    }

    #[test]
    fn the_pending_token_of_a_cut_answer_is_read_first() {
        with_chat(MISTRAL, |chat| {
            let mut conversation = Conversation::new(None);
            conversation.ask(chat, "a").unwrap();
            conversation.answered("yes".to_owned(), Some(77));
            let expected = [vec![77], chat.encode("<eos>[INST] b [/INST]").unwrap()].concat();
            assert_eq!(conversation.ask(chat, "b").unwrap(), Next::GoOn(expected));
            assert_eq!(chat.stop, [2, 2]);
        });
    }

    #[test]
    fn answers_that_spell_special_tokens_are_found_again() {
        with_chat(MISTRAL, |chat| {
            let mut conversation = Conversation::new(None);
            conversation.ask(chat, "say <eos>").unwrap();
            conversation.answered("<eos> it is <".to_owned(), None);
            let next = conversation.ask(chat, "b").unwrap();
            assert_eq!(next, go_on(chat, "<eos>[INST] b [/INST]"));
        });
    }

    #[test]
    fn a_message_completes_no_special_token_of_the_template() {
        with_chat("{% for m in messages %}<{{ m.content | trim }}>{% endfor %}", |chat| {
            let Next::GoOn(ids) = Conversation::new(None).ask(chat, " eos ").unwrap() else { panic!() };
            assert!(!ids.contains(&2), "{ids:?}");
        });
    }

    #[test]
    fn a_refused_message_changes_nothing() {
        let template = "{% if messages | length > 2 %}{{ raise_exception('Enough.') }}{% endif %}x";
        with_chat(template, |chat| {
            let mut conversation = Conversation::new(None);
            conversation.ask(chat, "a").unwrap();
            conversation.answered("yes".to_owned(), Some(7));
            let before = conversation.clone();
            assert!(conversation.ask(chat, "b").unwrap_err().to_string().ends_with("Enough."));
            assert_eq!(conversation, before);
        });
    }
}
