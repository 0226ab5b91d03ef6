//! `sarit chat`: a conversation in a terminal, or one whose lines come through a pipe.

use super::Chat;
use super::conversation::{Conversation, Next};
use super::saved::Saved;
use crate::args;
use crate::input;
use crate::output::{self, Live};
use crate::session::{End, Memory, Meta, ModelFile, Stream, cpu};
use crate::text::{Specials, Text};
use anyhow::{Context, Result, bail, ensure};
use sarit_core::{Engine, Kernels};
use serde::Serialize;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::Path;

const HELP: &str = "Every line is a message; one that begins with // is a message that begins with /.
/save F   keep the conversation in F (the state) and F.json (the text)
/load F   go on with a conversation that was saved
/reset    begin a new conversation
/quit     end; so does the end of the input
";

#[derive(Serialize)]
struct Answer<'a> {
    answer: &'a str,
    /// Tokens read for this answer: none of those that were read before.
    prompt_tokens: usize,
    answer_tokens: usize,
    /// False if the answer was cut at the most tokens allowed.
    complete: bool,
    /// Hash of the state after the answer, 16 hex digits.
    state_hash: String,
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Line<'l> {
    Nothing,
    Message(&'l str),
    Save(&'l str),
    Load(&'l str),
    Reset,
    Help,
    Quit,
}

impl<'l> Line<'l> {
    fn of(line: &'l str) -> Result<Self> {
        let line = line.trim();
        if line.starts_with("//") {
            return Ok(Self::Message(&line[1..]));
        }
        if !line.starts_with('/') {
            return Ok(if line.is_empty() { Self::Nothing } else { Self::Message(line) });
        }
        let (command, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let argument = argument.trim();
        match (command, argument) {
            ("/save" | "/load", "") => bail!("{command} needs a file: {command} F"),
            ("/save", file) => Ok(Self::Save(file)),
            ("/load", file) => Ok(Self::Load(file)),
            ("/reset", "") => Ok(Self::Reset),
            ("/help", "") => Ok(Self::Help),
            ("/quit", "") => Ok(Self::Quit),
            _ => bail!("there is no command {line:?}; /help lists them, and // begins a message with /"),
        }
    }
}

/// Why a stream ended.
enum Turn {
    Quit,
    Load(Saved),
}

pub(crate) fn run(args: &args::Chat) -> Result<()> {
    let file = ModelFile::open_to_run(args.model.as_deref(), &args.compute)?;
    let (model, snapshot) = file.model_and_snapshot(args.state_format, args.state.as_deref())?;
    let meta = Meta::of(&model)?;
    ensure!(
        meta.chat.is_some(),
        "model {} has no chat template, so it cannot be talked to; use an instruct model, or `sarit ask` or \
         `sarit generate`",
        file.name()
    );
    let text = Text::of(&model, Specials::AsTokens)?;
    let chat = Chat::new(&meta, &text)?;
    let engine = Engine::new(model, cpu(&args.compute)?);
    let mut memory = Memory::new(&model, args.compute.chunk(), &args.compute)?;

    let mut saved = args
        .state
        .as_deref()
        .zip(snapshot)
        .map(|(path, bytes)| Saved::of(&engine, path, bytes))
        .transpose()?;
    let mut talk = Talk { args, chat, text: &text, conversation: Conversation::new(args.system.as_deref()) };
    loop {
        let mut stream = match saved.take() {
            Some(saved) => {
                talk.conversation = saved.conversation;
                memory.resume(&engine, &saved.snapshot)?
            }
            None => memory.start(&engine)?,
        };
        match talk.go_on(&engine, &mut stream)? {
            Turn::Quit => return Ok(()),
            Turn::Load(other) => saved = Some(other),
        }
    }
}

/// A conversation and how it is held.
struct Talk<'a> {
    args: &'a args::Chat,
    chat: Chat<'a>,
    text: &'a Text,
    conversation: Conversation,
}

impl Talk<'_> {
    /// Answers line by line. What fails in a terminal is said there, and the conversation goes on.
    fn go_on<K: Kernels>(&mut self, engine: &Engine<'_, K>, stream: &mut Stream<'_, '_, K>) -> Result<Turn> {
        let terminal = std::io::stdin().is_terminal();
        loop {
            if terminal {
                note("> ");
            }
            let Some(line) = read_line()? else {
                if terminal {
                    note("\n");
                }
                return Ok(Turn::Quit);
            };
            match self.obey(&line, engine, stream) {
                Ok(Some(turn)) => return Ok(turn),
                Ok(None) => {}
                Err(error) if terminal && !error.is::<output::Closed>() => {
                    note(&format!("sarit: {}\n", crate::sentence(&error)));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn obey<K: Kernels>(
        &mut self,
        line: &str,
        engine: &Engine<'_, K>,
        stream: &mut Stream<'_, '_, K>,
    ) -> Result<Option<Turn>> {
        match Line::of(line)? {
            Line::Nothing => {}
            Line::Message(message) => self.answer(message, stream)?,
            Line::Save(file) => {
                Saved::write(engine.model(), stream.state()?, &self.conversation, Path::new(file))?;
                note(&format!("the conversation is in {file} and {file}.json\n"));
            }
            Line::Load(file) => {
                let saved = Saved::read(engine, Path::new(file))?;
                note(&format!("going on with {file}\n"));
                return Ok(Some(Turn::Load(saved)));
            }
            Line::Reset => {
                self.begin_anew(stream)?;
                note("a new conversation begins\n");
            }
            Line::Help => note(HELP),
            Line::Quit => return Ok(Some(Turn::Quit)),
        }
        Ok(None)
    }

    fn begin_anew<K: Kernels>(&mut self, stream: &mut Stream<'_, '_, K>) -> Result<()> {
        stream.reset()?;
        self.conversation = Conversation::new(self.args.system.as_deref());
        Ok(())
    }

    fn answer<K: Kernels>(&mut self, message: &str, stream: &mut Stream<'_, '_, K>) -> Result<()> {
        // Every answer has a seed of its own, so that a conversation goes on the same after it was saved.
        let mut sampler = self.args.sampling.sampler(self.conversation.turns())?;
        let prompt = match self.conversation.ask(&self.chat, message)? {
            Next::GoOn(ids) => ids,
            Next::Again(ids) => {
                note("the model's chat template rewrites earlier messages; reading the conversation again\n");
                stream.reset()?;
                ids
            }
        };
        let mut ids = Vec::new();
        let mut live = Live::new(self.text, self.args.json);
        let answered =
            stream.continue_from(&prompt, &self.chat.stop, self.args.max_tokens, &mut sampler, |token| {
                ids.push(token);
                live.push(token)
            });
        let end = match answered {
            Ok(end) => end,
            Err(error) => {
                self.begin_anew(stream)?;
                return Err(error);
            }
        };
        live.finish()?;
        let answer = self.text.decode(&ids)?;
        let complete = end == End::Stop;
        if self.args.json {
            output::print_json(&Answer {
                answer: &answer,
                prompt_tokens: prompt.len(),
                answer_tokens: ids.len(),
                complete,
                state_hash: format!("{:016x}", stream.state()?.hash()),
            })?;
        }
        self.conversation.answered(answer, ids.last().copied().filter(|_| !complete));
        Ok(())
    }
}

/// The next line of standard input, `None` at its end.
fn read_line() -> Result<Option<String>> {
    let mut line = Vec::new();
    let mut stdin = std::io::stdin().lock().take(input::CONTEXT_LIMIT + 1);
    stdin.read_until(b'\n', &mut line).context("cannot read standard input")?;
    if line.is_empty() {
        return Ok(None);
    }
    input::within(line.len() as u64, input::CONTEXT_LIMIT)?;
    String::from_utf8(line).map(Some).context("standard input is not UTF-8 text")
}

/// Says on standard error what is no part of the results. Where it is closed, nobody listens.
fn note(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        assert_eq!(Line::of(" \n").unwrap(), Line::Nothing);
        assert_eq!(Line::of("hello /save x\n").unwrap(), Line::Message("hello /save x"));
        assert_eq!(Line::of("//etc is a folder").unwrap(), Line::Message("/etc is a folder"));
        assert_eq!(Line::of("/save  a file\r\n").unwrap(), Line::Save("a file"));
        assert_eq!(Line::of("/load f").unwrap(), Line::Load("f"));
        assert_eq!(Line::of("/reset").unwrap(), Line::Reset);
        assert_eq!(Line::of("/quit\n").unwrap(), Line::Quit);
        assert_eq!(Line::of("/help").unwrap(), Line::Help);
        assert!(Line::of("/save").unwrap_err().to_string().contains("needs a file"));
        assert!(Line::of("/quit now").unwrap_err().to_string().contains("no command"));
    }
}
