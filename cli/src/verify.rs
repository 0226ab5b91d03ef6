//! `sarit verify`: the same bits with every instruction set, number of threads and chunk size.

use crate::args::Verify;
use crate::output;
use crate::session::{Memory, ModelFile, random_frames, random_ids};
use anyhow::{Context, Result, ensure};
use sarit_core::{Engine, Hasher, Kernels, Model, Scalar};
use sarit_cpu::{Cpu, Isa};
use serde::Serialize;
use std::fmt::Write;

/// Tokens or frames that are read.
const TOKENS: usize = 200;
const THREADS: [usize; 2] = [1, 2];
const CHUNKS: [usize; 3] = [1, 7, 64];

#[derive(Serialize)]
struct Verification {
    tokens: usize,
    same: bool,
    runs: Vec<Run>,
}

#[derive(Serialize)]
struct Run {
    backend: &'static str,
    threads: usize,
    chunk: usize,
    logits_hash: String,
    state_hash: String,
    /// As the scalar definition gives them, token by token.
    same: bool,
}

pub(crate) fn run(args: &Verify) -> Result<()> {
    let file = ModelFile::open(args.model.as_deref())?;
    let model = file.model()?;
    let inputs = Inputs::random(&model);
    let isas: Vec<Isa> = Isa::available().collect();
    let count = isas.len() * THREADS.len() * CHUNKS.len();
    let bar = output::bar(count as u64 + 1, "verifying");
    let expected = hashes(&model, Scalar, 1, &inputs)?;
    bar.inc(1);
    let mut runs = Vec::new();
    for isa in isas {
        for threads in THREADS {
            for chunk in CHUNKS {
                let backend = isa.name();
                let cpu = Cpu::with_isa(isa, threads).with_context(|| format!("{backend} cannot be used"))?;
                let (logits, state) = hashes(&model, cpu, chunk, &inputs)?;
                let same = (logits, state) == expected;
                let (logits_hash, state_hash) = (format!("{logits:016x}"), format!("{state:016x}"));
                runs.push(Run { backend, threads, chunk, logits_hash, state_hash, same });
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    let different = runs.iter().filter(|run| !run.same).count();
    let result = Verification { tokens: TOKENS, same: different == 0, runs };
    if args.json {
        output::print_json(&result)?
    } else {
        output::print(&table(&result))?
    }
    ensure!(
        different == 0,
        "{different} of {count} runs of {} differ from the scalar definition; please report this with the table above",
        file.name()
    );
    Ok(())
}

/// What is read.
enum Inputs {
    Tokens(Vec<u32>),
    Frames(Vec<f32>),
}

impl Inputs {
    fn random(model: &Model<'_>) -> Self {
        match model.frame_len() {
            0 => Self::Tokens(random_ids(model.vocab_len(), TOKENS)),
            _ => Self::Frames(random_frames(model, TOKENS)),
        }
    }
}

/// Hashes of all logits, or of the result after the last frame, and of the final state.
fn hashes<K: Kernels>(model: &Model<'_>, kernels: K, chunk: usize, inputs: &Inputs) -> Result<(u64, u64)> {
    let engine = Engine::new(*model, kernels);
    let mut memory = Memory::new(model, chunk)?;
    let mut stream = memory.start(&engine)?;
    let mut hasher = Hasher::new();
    match inputs {
        Inputs::Tokens(ids) => {
            stream.feed_each(ids, |_, logits| hasher.update(bytemuck::cast_slice(logits)))?;
        }
        Inputs::Frames(frames) => {
            let (before, last) = frames.split_at(frames.len() - model.frame_len());
            stream.feed_frames(before, 1.0)?;
            hasher.update(bytemuck::cast_slice(stream.step_frame(last, 1.0)?));
        }
    }
    Ok((hasher.finish(), stream.state().hash()))
}

fn table(result: &Verification) -> String {
    let mut text =
        format!("{:<8} {:>7} {:>5}  {:<16}  {:<16}\n", "backend", "threads", "chunk", "logits", "state");
    for Run { backend, threads, chunk, logits_hash, state_hash, same } in &result.runs {
        let verdict = if *same { "same" } else { "DIFFERENT" };
        let _ = writeln!(
            text,
            "{backend:<8} {threads:>7} {chunk:>5}  {logits_hash:<16}  {state_hash:<16}  {verdict}"
        );
    }
    text
}
