//! `sarit verify`: the same bits with every instruction set, number of threads, chunk size and number of streams, and on a
//! GPU.

use crate::args::{Backend, Compute, Verify};
use crate::output;
use crate::session::{Memory, ModelFile, random_frames, random_ids};
use anyhow::{Context, Result, ensure};
use sarit_core::{Engine, Hasher, Kernels, Model, Scalar, Scratch, Shape, State, StateDType};
use sarit_cpu::{AlignedBytes, Cpu, Isa};
use sarit_cuda::{Cuda, Prompts, Streams};
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
    let (isas, formats) = (isas(args)?, formats(args)?);
    let prompts = args.backend.and_then(Backend::prompts);
    ensure!(
        !matches!(prompts, Some(Prompts::Halves { .. })),
        "--backend cuda-fast does not have the bits of the scalar definition: there is nothing to verify; verify --backend cuda"
    );
    let has_gpu = prompts.is_some();
    ensure!(
        !has_gpu || inputs.tokens().is_some(),
        "{} takes frames, and models of frames do not run on a GPU; leave --backend cuda out",
        file.name()
    );
    // Frames come in one stream.
    let shapes = CHUNKS.len() + usize::from(matches!(inputs, Inputs::Tokens(_)));
    let count =
        formats.len() * isas.len() * THREADS.len() * shapes + if has_gpu { CHUNKS.len() + 2 } else { 0 };
    let bar = output::bar((count + formats.len()) as u64, "verifying");
    let mut runs = Vec::new();
    for format in formats {
        let model = model.with_state(format);
        let scalar = Engine::new(model, Scalar);
        let expected = hashes(&scalar, &mut [Memory::on_cpu(&model, 1)?], &inputs)?;
        let expected_of_streams = inputs.tokens().map(|ids| hashes_one_by_one(&scalar, ids)).transpose()?;
        bar.inc(1);
        let mut add = |backend, threads, chunk, streams, (logits, state): (u64, u64)| {
            let expected = if streams == 1 { Some(expected) } else { expected_of_streams };
            runs.push(Run {
                state: format.name(),
                backend,
                threads,
                chunk,
                streams,
                logits_hash: format!("{logits:016x}"),
                state_hash: format!("{state:016x}"),
                same: Some((logits, state)) == expected,
            });
            bar.inc(1);
        };
        for &isa in &isas {
            for threads in THREADS {
                let backend = isa.name();
                let cpu = Cpu::with_isa(isa, threads).with_context(|| format!("{backend} cannot be used"))?;
                let engine = Engine::new(model, cpu);
                for chunk in CHUNKS {
                    let memory = Memory::on_cpu(&model, chunk)?;
                    add(backend, threads, chunk, 1, hashes(&engine, &mut [memory], &inputs)?);
                }
                if let Some(ids) = inputs.tokens() {
                    add(backend, threads, 1, STREAMS, hashes_at_once(&engine, ids)?);
                }
            }
        }
        if let (true, Some(ids)) = (has_gpu, inputs.tokens()) {
            let compute = Compute { threads: None, backend: args.backend, device: args.device, lock: false };
            for chunk in CHUNKS {
                let memory = Memory::new(&model, chunk, &compute)?;
                add("cuda", 1, chunk, 1, hashes(&scalar, &mut [memory], &inputs)?);
            }
            add("cuda", 1, 1, STREAMS, hashes_at_once_on_gpu(&model, args.device, ids)?);
            let on_cpu = || Memory::on_cpu(&model, CHUNKS[1]);
            let mut three = [on_cpu()?, Memory::new(&model, CHUNKS[1], &compute)?, on_cpu()?];
            add("cpu-cuda-cpu", 1, CHUNKS[1], 1, hashes(&scalar, &mut three, &inputs)?);
        }
    }
    bar.finish_and_clear();
    let different = runs.iter().filter(|run| !run.same).count();
    let result = Verification { tokens: TOKENS, same: different == 0, runs };
    // A reader that has left must not turn a difference into success.
    let printed = if args.json { output::print_json(&result) } else { output::print(&table(&result)) };
    ensure!(
        different == 0,
        "{different} of {count} runs of {} differ from the scalar definition; please report this with the table above",
        file.name()
    );
    printed
}

/// The instruction sets asked for: all of this machine, unless one is named.
fn isas(args: &Verify) -> Result<Vec<Isa>> {
    let asked = |isa: &Isa| args.backend.is_none_or(|backend| backend == Backend::Cpu(*isa));
    let isas: Vec<Isa> = Isa::available().filter(asked).collect();
    ensure!(
        args.backend.and_then(Backend::prompts).is_some() || !isas.is_empty(),
        "this machine lacks that instruction set; `sarit devices` lists those it has"
    );
    Ok(isas)
}

/// The element types of the state asked for; a GPU has one.
fn formats(args: &Verify) -> Result<Vec<StateDType>> {
    match (args.state, args.backend) {
        (None, Some(Backend::Cuda(_))) => Ok(vec![StateDType::F32]),
        (None, _) => Ok(StateDType::ALL.to_vec()),
        (Some(dtype), _) => Ok(vec![dtype]),
    }
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

    fn tokens(&self) -> Option<&[u32]> {
        match self {
            Self::Tokens(ids) => Some(ids),
            Self::Frames(_) => None,
        }
    }
}

/// Hashes of all logits, or of the result after the last frame, and of the final state. A text is shared out among the
/// memories, each of which goes on from the snapshot of the one before; frames go to the first.
fn hashes<'m, K: Kernels>(
    engine: &Engine<'m, K>,
    memories: &mut [Memory<'m>],
    inputs: &Inputs,
) -> Result<(u64, u64)> {
    let mut hasher = Hasher::new();
    let ids = match inputs {
        Inputs::Tokens(ids) => ids,
        Inputs::Frames(frames) => {
            let mut stream = memories[0].start(engine)?;
            let (before, last) = frames.split_at(frames.len() - engine.model().frame_len());
            stream.feed_frames(before, 1.0)?;
            hasher.update(bytemuck::cast_slice(stream.step_frame(last, 1.0)?));
            return Ok((hasher.finish(), stream.state()?.hash()));
        }
    };
    let mut snapshot = vec![0; State::snapshot_bytes(engine.model())];
    let part = ids.len().div_ceil(memories.len());
    let mut state_hash = 0;
    for (i, (memory, ids)) in memories.iter_mut().zip(ids.chunks(part)).enumerate() {
        let mut stream = if i == 0 { memory.start(engine)? } else { memory.resume(engine, &snapshot)? };
        stream.feed_each(ids, |_, logits| hasher.update(bytemuck::cast_slice(logits)))?;
        let state = stream.state()?;
        state.save(&mut snapshot)?;
        state_hash = state.hash();
    }
    Ok((hasher.finish(), state_hash))
}

/// The text of stream `i`: each begins elsewhere.
fn text(ids: &[u32], i: usize) -> impl Iterator<Item = u32> {
    ids.iter().copied().cycle().skip(17 * i).take(ids.len())
}

/// Hashes of the logits and of the final states of all streams, each stepped by itself.
fn hashes_one_by_one<K: Kernels>(engine: &Engine<'_, K>, ids: &[u32]) -> Result<(u64, u64)> {
    let (mut logits, mut states) = (Hasher::new(), Hasher::new());
    for i in 0..STREAMS {
        let text = Inputs::Tokens(text(ids, i).collect());
        let (of_logits, of_state) = hashes(engine, &mut [Memory::on_cpu(engine.model(), 1)?], &text)?;
        logits.update(&of_logits.to_le_bytes());
        states.update(&of_state.to_le_bytes());
    }
    Ok((logits.finish(), states.finish()))
}

/// The same with all streams stepped at once.
fn hashes_at_once<K: Kernels>(engine: &Engine<'_, K>, ids: &[u32]) -> Result<(u64, u64)> {
    let model = engine.model();
    let shape = Shape { chunk: 1, streams: STREAMS };
    let need = model.memory(shape).context("the model needs more memory than there can be")?;
    let mut memory =
        (0..STREAMS).map(|_| AlignedBytes::zeroed(need.state_bytes)).collect::<Result<Vec<_>, _>>()?;
    let mut states = memory.iter_mut().map(|m| State::init(model, m)).collect::<Result<Vec<_>, _>>()?;
    let mut states: Vec<&mut State<'_>> = states.iter_mut().collect();
    let mut working = AlignedBytes::zeroed(need.scratch_bytes)?;
    let mut scratch = Scratch::new(model, &mut working, shape)?;
    let logits = logits_at_once(ids, model.vocab_len(), |tokens, each| {
        each(engine.step_many(&mut states, &mut scratch, tokens)?);
        Ok(())
    })?;
    Ok((logits, hash_of(states.iter().map(|state| state.hash()))))
}

/// The same on a GPU.
fn hashes_at_once_on_gpu(model: &Model<'_>, device: usize, ids: &[u32]) -> Result<(u64, u64)> {
    let mut gpu = Streams::new(Cuda::open(device)?, *model, STREAMS, 1)?;
    let logits = logits_at_once(ids, model.vocab_len(), |tokens, each| {
        let tokens: Vec<(usize, u32)> = tokens.iter().copied().enumerate().collect();
        each(gpu.step_all(&tokens)?);
        Ok(())
    })?;
    let mut memory = AlignedBytes::zeroed(model.state_bytes())?;
    let mut state = State::init(model, &mut memory)?;
    let mut hashes = [0; STREAMS];
    for (i, hash) in hashes.iter_mut().enumerate() {
        gpu.export(i, &mut state)?;
        *hash = state.hash();
    }
    Ok((logits, hash_of(hashes)))
}

/// A hash of the logits `[streams][vocab]` that `step` hands on for each token of the streams' texts.
fn logits_at_once(
    ids: &[u32],
    vocab: usize,
    mut step: impl FnMut(&[u32], &mut dyn FnMut(&[f32])) -> Result<()>,
) -> Result<u64> {
    let mut hashers = vec![Hasher::new(); STREAMS];
    let mut texts: Vec<_> = (0..STREAMS).map(|i| text(ids, i)).collect();
    for _ in ids {
        let tokens: Vec<u32> = texts.iter_mut().filter_map(Iterator::next).collect();
        step(&tokens, &mut |logits| {
            for (hasher, logits) in hashers.iter_mut().zip(logits.chunks_exact(vocab)) {
                hasher.update(bytemuck::cast_slice(logits));
            }
        })?;
    }
    Ok(hash_of(hashers.iter().map(Hasher::finish)))
}

/// One hash of several.
fn hash_of(hashes: impl IntoIterator<Item = u64>) -> u64 {
    let mut all = Hasher::new();
    hashes.into_iter().for_each(|hash| all.update(&hash.to_le_bytes()));
    all.finish()
}

fn table(result: &Verification) -> String {
    let mut text = format!(
        "{:<5} {:<12} {:>7} {:>5} {:>7}  {:<16}  {:<16}\n",
        "state", "backend", "threads", "chunk", "streams", "logits", "state"
    );
    for Run { state, backend, threads, chunk, streams, logits_hash, state_hash, same } in &result.runs {
        let verdict = if *same { "same" } else { "DIFFERENT" };
        let _ = writeln!(
            text,
            "{state:<5} {backend:<12} {threads:>7} {chunk:>5} {streams:>7}  {logits_hash:<16}  {state_hash:<16}  {verdict}"
        );
    }
    text
}
