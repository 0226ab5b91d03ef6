//! `sarit read`: a text is read once, and the state kept in a file.

use crate::args::Read;
use crate::prompt::Prompt;
use crate::session::{CHUNK, Memory, Meta, ModelFile, cpu};
use crate::text::Text;
use crate::{input, output};
use anyhow::{Context, Result, ensure};
use indicatif::HumanBytes;
use sarit_core::{Engine, State};
use serde::Serialize;
use std::io::Write;

/// Tokens between two moves of the progress bar.
const PROGRESS_STEP: usize = 64 * CHUNK;

#[derive(Serialize)]
struct Written {
    tokens: usize,
    file_bytes: usize,
    /// Hash of the state, 16 hex digits.
    state_hash: String,
}

pub(crate) fn run(args: &Read) -> Result<()> {
    let file = ModelFile::open_to_run(args.model.as_deref(), &args.compute)?;
    let model = file.model_with(args.state.format)?;
    let meta = Meta::of(&model)?;
    let text = Text::of(&model, Prompt::specials(&meta))?;
    let prompt = Prompt::new(&meta, &text)?;
    let engine = Engine::new(model, cpu(&args.compute)?);
    let mut memory = Memory::new(&model, args.compute.chunk(), &args.compute)?;

    let context = input::context(&args.context_file)?;
    ensure!(!context.trim().is_empty(), "{} holds no text", args.context_file.display());
    let ids = prompt.context_ids(&context)?;
    let mut stream = memory.start(&engine)?;
    let bar = output::bar(ids.len() as u64, "reading");
    for part in ids.chunks(PROGRESS_STEP) {
        stream.feed(part)?;
        bar.inc(part.len() as u64);
    }
    bar.finish_and_clear();

    let state = stream.state()?;
    let mut snapshot = vec![0; State::snapshot_bytes(&model)];
    state.save(&mut snapshot)?;
    sarit_quant::atomic::write(&args.output, |file| file.write_all(&snapshot))
        .with_context(|| format!("cannot write {}", args.output.display()))?;

    let written = Written {
        tokens: ids.len(),
        file_bytes: snapshot.len(),
        state_hash: format!("{:016x}", state.hash()),
    };
    if args.json {
        return output::print_json(&written);
    }
    let Written { tokens, file_bytes, .. } = written;
    let size = HumanBytes(file_bytes as u64);
    output::print(&format!("read {tokens} tokens; their state ({size}) is in {}\n", args.output.display()))
}
