//! `sarit verify`: the same bits with every instruction set, number of threads, chunk size and number of streams.

use crate::args::Verify;
use crate::output;
use crate::session::{Memory, ModelFile, random_frames, random_ids};
use anyhow::{Context, Result, ensure};
use sarit_core::{Engine, Hasher, Kernels, Model, Scalar, Scratch, Shape, State, StateDType};
use sarit_cpu::{AlignedBytes, Cpu, Isa};
use serde::Serialize;
use std::fmt::Write;

/// Tokens or frames that are read.
const TOKENS: usize = 200;
const THREADS: [usize; 2] = [1, 2];
const CHUNKS: [usize; 3] = [1, 7, 64];
/// Streams that step at once.
const STREAMS: usize = 3;

#[derive(Serialize)]
struct Verification {
    tokens: usize,
    same: bool,
    runs: Vec<Run>,
}

#[derive(Serialize)]
struct Run {
    /// Element type of the state.
    state: &'static str,
    backend: &'static str,
    threads: usize,
    chunk: usize,
    streams: usize,
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
    let formats = args.state.map_or(StateDType::ALL.to_vec(), |dtype| vec![dtype]);
    // Frames come in one stream.
    let shapes = CHUNKS.len() + usize::from(matches!(inputs, Inputs::Tokens(_)));
    let count = formats.len() * isas.len() * THREADS.len() * shapes;
    let bar = output::bar((count + formats.len()) as u64, "verifying");
    let mut runs = Vec::new();
    for format in formats {
        let model = model.with_state(format);
        let expected = hashes(&model, Scalar, 1, &inputs)?;
        let expected_of_streams = match &inputs {
            Inputs::Tokens(ids) => Some((ids, hashes_one_by_one(&model, Scalar, ids)?)),
            Inputs::Frames(_) => None,
        };
        bar.inc(1);
        for &isa in &isas {
            for threads in THREADS {
                let backend = isa.name();
                let cpu = Cpu::with_isa(isa, threads).with_context(|| format!("{backend} cannot be used"))?;
                let mut add = |chunk, streams, (logits, state), expected| {
                    runs.push(Run {
                        state: format.name(),
                        backend,
                        threads,
                        chunk,
                        streams,
                        logits_hash: format!("{logits:016x}"),
                        state_hash: format!("{state:016x}"),
                        same: (logits, state) == expected,
                    });
                    bar.inc(1);
                };
                for chunk in CHUNKS {
                    add(chunk, 1, hashes(&model, &cpu, chunk, &inputs)?, expected);
                }
                if let Some((ids, expected)) = expected_of_streams {
                    add(1, STREAMS, hashes_at_once(&model, &cpu, ids)?, expected);
                }
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

/// The text of stream `i`: each begins elsewhere.
fn text(ids: &[u32], i: usize) -> impl Iterator<Item = u32> {
    ids.iter().copied().cycle().skip(17 * i).take(ids.len())
}

/// Hashes of the logits and of the final states of all streams, each stepped by itself.
fn hashes_one_by_one<K: Kernels>(model: &Model<'_>, kernels: K, ids: &[u32]) -> Result<(u64, u64)> {
    let (mut logits, mut states) = (Hasher::new(), Hasher::new());
    for i in 0..STREAMS {
        let text = Inputs::Tokens(text(ids, i).collect());
        let (of_logits, of_state) = hashes(model, &kernels, 1, &text)?;
        logits.update(&of_logits.to_le_bytes());
        states.update(&of_state.to_le_bytes());
    }
    Ok((logits.finish(), states.finish()))
}

/// The same with all streams stepped at once.
fn hashes_at_once<K: Kernels>(model: &Model<'_>, kernels: K, ids: &[u32]) -> Result<(u64, u64)> {
    let shape = Shape { chunk: 1, streams: STREAMS };
    let need = model.memory(shape).context("the model needs more memory than there can be")?;
    let mut memory =
        (0..STREAMS).map(|_| AlignedBytes::zeroed(need.state_bytes)).collect::<Result<Vec<_>, _>>()?;
    let mut states = memory.iter_mut().map(|m| State::init(model, m)).collect::<Result<Vec<_>, _>>()?;
    let mut states: Vec<&mut State<'_>> = states.iter_mut().collect();
    let mut working = AlignedBytes::zeroed(need.scratch_bytes)?;
    let mut scratch = Scratch::new(model, &mut working, shape)?;
    let engine = Engine::new(*model, kernels);
    let mut hashers = vec![Hasher::new(); STREAMS];
    let mut texts: Vec<_> = (0..STREAMS).map(|i| text(ids, i)).collect();
    for _ in ids {
        let tokens: Vec<u32> = texts.iter_mut().filter_map(Iterator::next).collect();
        let logits = engine.step_many(&mut states, &mut scratch, &tokens)?;
        for (hasher, logits) in hashers.iter_mut().zip(logits.chunks_exact(model.vocab_len())) {
            hasher.update(bytemuck::cast_slice(logits));
        }
    }
    let (mut logits, mut final_states) = (Hasher::new(), Hasher::new());
    hashers.iter().for_each(|hasher| logits.update(&hasher.finish().to_le_bytes()));
    states.iter().for_each(|state| final_states.update(&state.hash().to_le_bytes()));
    Ok((logits.finish(), final_states.finish()))
}

fn table(result: &Verification) -> String {
    let mut text = format!(
        "{:<5} {:<8} {:>7} {:>5} {:>7}  {:<16}  {:<16}\n",
        "state", "backend", "threads", "chunk", "streams", "logits", "state"
    );
    for Run { state, backend, threads, chunk, streams, logits_hash, state_hash, same } in &result.runs {
        let verdict = if *same { "same" } else { "DIFFERENT" };
        let _ = writeln!(
            text,
            "{state:<5} {backend:<8} {threads:>7} {chunk:>5} {streams:>7}  {logits_hash:<16}  {state_hash:<16}  {verdict}"
        );
    }
    text
}
