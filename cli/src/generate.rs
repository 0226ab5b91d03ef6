//! `sarit generate`: the continuation of a text.

use crate::args::Generate;
use crate::chat::{self, Chat, Message, Role};
use crate::input;
use crate::output::{self, Live};
use crate::session::{End, Memory, Meta, ModelFile, cpu};
use crate::text::{Specials, Text};
use anyhow::{Context, Result, ensure};
use sarit_core::Engine;
use serde::Serialize;
use std::path::Path;

/// The longest prompt, in bytes.
const PROMPT_LIMIT: u64 = 1 << 20;

#[derive(Serialize)]
struct Generated {
    text: String,
    ids: Vec<u32>,
    prompt_tokens: usize,
    /// True if the model ended the text, false if it was cut at the most tokens allowed.
    complete: bool,
}

pub(crate) fn run(args: &Generate) -> Result<()> {
    let mut sampler = args.sampling.sampler(0)?;
    let start = match (&args.start.prompt, &args.start.prompt_file) {
        (Some(text), _) => text.clone(),
        (None, path) => input::text(path.as_deref().unwrap_or(Path::new("-")), PROMPT_LIMIT)?,
    };
    ensure!(!start.is_empty(), "the prompt is empty; give the text to continue");
    let file = ModelFile::open_to_run(args.model.as_deref(), &args.compute)?;
    let model = file.model_with(args.state.format)?;
    let text = Text::of(&model, Specials::AsTokens)?;
    let meta = Meta::of(&model)?;
    let (prompt, stop) = if args.chat {
        let chat = Chat::new(&meta, &text)?;
        let rendered = chat.render(&[Message::new(Role::User, start)], chat::now())?;
        (chat.encode(&rendered)?, chat.stop)
    } else {
        (text.encode(&start)?, stop_tokens(&meta, &text)?)
    };
    let engine = Engine::new(model, cpu(&args.compute)?);
    let mut memory = Memory::new(&model, args.compute.chunk(), &args.compute)?;
    let mut stream = memory.start(&engine)?;

    let mut ids = Vec::new();
    let mut live = Live::new(&text, args.json);
    let end = stream.continue_from(&prompt, &stop, args.max_tokens, &mut sampler, |token| {
        ids.push(token);
        live.push(token)
    })?;
    match live.finish()? {
        None => Ok(()),
        Some(text) => {
            let (prompt_tokens, complete) = (prompt.len(), end == End::Stop);
            output::print_json(&Generated { text, ids, prompt_tokens, complete })
        }
    }
}

/// Tokens that end a text: those of the checkpoint, and those that end an answer, if the model states any.
fn stop_tokens(meta: &Meta, text: &Text) -> Result<Vec<u32>> {
    let names = meta.prompt.iter().flat_map(|format| &format.stop);
    let id = |name: &String| text.special(name).with_context(|| format!("the model has no token {name:?}"));
    names.map(id).chain(meta.eos_ids().into_iter().map(Ok)).collect()
}
