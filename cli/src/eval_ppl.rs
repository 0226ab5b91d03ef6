//! `sarit eval ppl`: how well a model expects a text.

use crate::args::EvalPpl;
use crate::prompt::leading_special;
use crate::session::{CHUNK, Memory, Meta, ModelFile, cpu, worker};
use crate::text::{Specials, Text};
use crate::{output, parallel};
use anyhow::{Context, Result, ensure};
use sarit_core::{Engine, Model};
use serde::Serialize;
use std::f64::consts::LN_2;

/// The most tokens of a line that are read, the leading special token among them.
const MAX_TOKENS: usize = 1024;

/// Tokens of a stream between two moves of the progress bar.
const PROGRESS_STEP: usize = 64 * CHUNK;

#[derive(Serialize)]
struct Perplexity {
    perplexity: f64,
    nats_per_token: f64,
    bits_per_byte: f64,
    tokens: usize,
    bytes: usize,
}

/// Of the end of one stream.
#[derive(Serialize)]
struct StreamPerplexity {
    perplexity: f64,
    nats_per_token: f64,
    /// Those that count.
    tokens: usize,
    /// Those read.
    stream: usize,
    /// Element type of the state.
    state: &'static str,
}

pub(crate) fn run(args: &EvalPpl) -> Result<()> {
    let shown = args.text.display();
    let content = std::fs::read_to_string(&args.text).with_context(|| format!("cannot read {shown}"))?;
    let lines: Vec<&str> = content.lines().filter(|line| !line.is_empty()).collect();
    let file = ModelFile::open_to_run(args.model.as_deref(), &args.compute)?;
    let model = file.model_with(args.state.format)?;
    let text = Text::of(&model, Specials::AsText)?;
    let leading = leading_special(&Meta::of(&model)?, &text);
    if let Some(tokens) = args.stream {
        return run_stream(args, &model, &stream_ids(&text, leading, &lines, tokens as usize + 1)?);
    }

    let bar = output::bar(lines.len() as u64, "reading");
    let start = || worker(&model, &args.compute);
    let sums = parallel::map(lines.len(), args.compute.workers(), &bar, start, |(engine, memory), i| {
        let mut ids: Vec<u32> = leading.into_iter().chain(text.encode(lines[i])?).collect();
        let bytes = cut(&text, &mut ids, lines[i])?;
        let Some((_, expected)) = ids.split_first().filter(|(_, rest)| !rest.is_empty()) else {
            return Ok((0.0, 0, 0));
        };
        let mut nats = 0.0;
        memory.start(engine)?.feed_each(&ids[..expected.len()], |t, logits| {
            nats += surprise(logits, expected[t]);
        })?;
        Ok((nats, expected.len(), bytes))
    });
    bar.finish_and_clear();

    let (mut nats, mut tokens, mut bytes) = (0.0, 0, 0);
    for (line_nats, line_tokens, line_bytes) in sums? {
        nats += line_nats;
        tokens += line_tokens;
        bytes += line_bytes;
    }
    ensure!(tokens > 0, "{shown} holds no text to measure");
    let nats_per_token = nats / tokens as f64;
    let bits_per_byte = nats / LN_2 / bytes as f64;
    let result =
        Perplexity { perplexity: nats_per_token.exp(), nats_per_token, bits_per_byte, tokens, bytes };
    if args.json {
        return output::print_json(&result);
    }
    output::print(&format!(
        "perplexity {:.1} per token ({nats_per_token:.4} nats), {bits_per_byte:.4} bits per byte; {tokens} tokens, {bytes} bytes\n",
        result.perplexity
    ))
}

/// Cuts the ids of `line` at the most that are read; the bytes of the text that they then stand for.
fn cut(text: &Text, ids: &mut Vec<u32>, line: &str) -> Result<usize> {
    if ids.len() <= MAX_TOKENS {
        return Ok(line.len());
    }
    ids.truncate(MAX_TOKENS);
    Ok(text.decode(ids)?.len())
}

/// The lines as one text of `count` tokens, begun again where it ends.
fn stream_ids(text: &Text, leading: Option<u32>, lines: &[&str], count: usize) -> Result<Vec<u32>> {
    let once: Vec<u32> = lines.iter().map(|line| text.encode(line)).collect::<Result<Vec<_>>>()?.concat();
    ensure!(!once.is_empty(), "the text holds nothing to measure");
    Ok(leading.into_iter().chain(once.into_iter().cycle()).take(count).collect())
}

fn run_stream(args: &EvalPpl, model: &Model<'_>, ids: &[u32]) -> Result<()> {
    let (read, expected) = (&ids[..ids.len() - 1], &ids[1..]);
    let stream = read.len();
    let tokens = args.last.map_or(stream, |last| stream.min(last as usize));
    let engine = Engine::new(*model, cpu(&args.compute)?);
    let mut memory = Memory::new(model, args.compute.chunk(), &args.compute)?;
    let mut running = memory.start(&engine)?;
    let bar = output::bar(stream as u64, "reading");
    for part in read[..stream - tokens].chunks(PROGRESS_STEP) {
        running.feed(part)?;
        bar.inc(part.len() as u64);
    }
    let mut nats = 0.0;
    running.feed_each(&read[stream - tokens..], |t, logits| {
        nats += surprise(logits, expected[stream - tokens + t]);
        bar.inc(1);
    })?;
    bar.finish_and_clear();

    let nats_per_token = nats / tokens as f64;
    let (perplexity, state) = (nats_per_token.exp(), model.state_dtype().name());
    if args.json {
        let result = StreamPerplexity { perplexity, nats_per_token, tokens, stream, state };
        return output::print_json(&result);
    }
    output::print(&format!(
        "perplexity {perplexity:.2} per token ({nats_per_token:.4} nats) of the last {tokens} of {stream} tokens; state {state}\n"
    ))
}

/// Minus the logarithm of the probability that the logits give to `token`.
fn surprise(logits: &[f32], token: u32) -> f64 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - highest).exp()).sum();
    // A token that the model does not know is refused before its logits are read.
    let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    sum.ln() - f64::from(logit - highest)
}
