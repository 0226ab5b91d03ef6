//! `sarit logits`: the logits after each of the given tokens, for comparison with other implementations.

use crate::args::Logits;
use crate::interrupt::Interrupt;
use crate::output;
use crate::session::{Memory, ModelFile, cpu};
use anyhow::{Result, ensure};
use sarit_core::Engine;
use serde::Serialize;
use serde_json::json;
use std::io::{self, BufWriter, Write};

#[derive(Serialize)]
struct Written {
    tokens: usize,
    vocab: usize,
    /// Hash of the state after the last token, 16 hex digits.
    state_hash: String,
}

pub(crate) fn run(args: &Logits) -> Result<()> {
    let file = ModelFile::open_to_run(args.model.as_deref(), &args.compute)?;
    let model = file.model_with(args.state.format)?;
    let engine = Engine::new(model, cpu(&args.compute)?);
    let chunk = args.chunk.min(args.ids.len());
    let mut memory = Memory::new(&model, chunk, &args.compute)?;
    let mut stream = memory.start(&engine)?;
    let (tokens, vocab) = (args.ids.len(), model.vocab_len());

    let interrupt = Interrupt::listen()?;
    sarit_quant::atomic::write(&args.output, |file| -> Result<()> {
        let mut out = BufWriter::new(file);
        out.write_all(&header(tokens, vocab))?;
        for part in args.ids.chunks(chunk) {
            ensure!(!interrupt.pressed(), "interrupted; nothing was written");
            let mut written = Ok(());
            stream.feed_each(part, |_, logits| {
                if written.is_ok() {
                    written = out.write_all(bytemuck::cast_slice(logits));
                }
            })?;
            written?;
        }
        Ok(out.flush()?)
    })
    .map_err(|error| match error.is::<io::Error>() {
        true => error.context(format!("cannot write {}", args.output.display())),
        false => error,
    })?;

    let state_hash = format!("{:016x}", stream.state()?.hash());
    if args.json {
        return output::print_json(&Written { tokens, vocab, state_hash });
    }
    output::print(&format!("{state_hash}\n"))
}

/// Start of a safetensors file with the one tensor `logits`: the rows are then written as they are made.
fn header(tokens: usize, vocab: usize) -> Vec<u8> {
    let bytes = 4 * tokens * vocab;
    let tensor = json!({ "dtype": "F32", "shape": [tokens, vocab], "data_offsets": [0, bytes] });
    let mut json = json!({ "logits": tensor }).to_string();
    // Blanks at the end align the data.
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));
    [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat()
}
