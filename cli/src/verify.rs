//! `sarit verify`: the same bits with every instruction set, number of threads and chunk size, and on a GPU.

use crate::args::{Backend, Compute, Verify};
use crate::output;
use crate::session::{Memory, ModelFile, random_ids};
use anyhow::{Context, Result, ensure};
use sarit_core::{Engine, Hasher, Kernels, Scalar, State};
use sarit_cpu::{Cpu, Isa};
use serde::Serialize;
use std::fmt::Write;

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
    let ids = random_ids(model.vocab_len(), TOKENS);
    let has_gpu = args.backend == Some(Backend::Cuda);
    let asked = |isa: &Isa| args.backend.is_none_or(|backend| backend == Backend::Cpu(*isa));
    let isas: Vec<Isa> = Isa::available().filter(asked).collect();
    ensure!(
        has_gpu || !isas.is_empty(),
        "this machine lacks that instruction set; `sarit devices` lists those it has"
    );
    let count = isas.len() * THREADS.len() * CHUNKS.len() + if has_gpu { CHUNKS.len() + 1 } else { 0 };
    let bar = output::bar(count as u64 + 1, "verifying");
    let scalar = Engine::new(model, Scalar);
    let expected = hashes(&scalar, &mut [Memory::on_cpu(&model, 1)?], &ids)?;
    bar.inc(1);
    let mut runs = Vec::new();
    let mut add = |backend, threads, chunk, (logits, state): (u64, u64)| {
        let same = (logits, state) == expected;
        let (logits_hash, state_hash) = (format!("{logits:016x}"), format!("{state:016x}"));
        runs.push(Run { backend, threads, chunk, logits_hash, state_hash, same });
        bar.inc(1);
    };
    for isa in isas {
        for threads in THREADS {
            for chunk in CHUNKS {
                let backend = isa.name();
                let cpu = Cpu::with_isa(isa, threads).with_context(|| format!("{backend} cannot be used"))?;
                let memory = Memory::on_cpu(&model, chunk)?;
                add(backend, threads, chunk, hashes(&Engine::new(model, cpu), &mut [memory], &ids)?);
            }
        }
    }
    if has_gpu {
        let compute = Compute { threads: None, backend: args.backend, device: args.device };
        for chunk in CHUNKS {
            add("cuda", 1, chunk, hashes(&scalar, &mut [Memory::new(&model, chunk, &compute)?], &ids)?);
        }
        let mut three = [
            Memory::on_cpu(&model, CHUNKS[1])?,
            Memory::new(&model, CHUNKS[1], &compute)?,
            Memory::on_cpu(&model, CHUNKS[1])?,
        ];
        add("cpu-cuda-cpu", 1, CHUNKS[1], hashes(&scalar, &mut three, &ids)?);
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

/// Hashes of all logits and of the final state. The text is shared out among the memories, each of which goes on from
/// the snapshot of the one before.
fn hashes<'m, K: Kernels>(
    engine: &Engine<'m, K>,
    memories: &mut [Memory<'m>],
    ids: &[u32],
) -> Result<(u64, u64)> {
    let mut hasher = Hasher::new();
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

fn table(result: &Verification) -> String {
    let mut text =
        format!("{:<12} {:>7} {:>5}  {:<16}  {:<16}\n", "backend", "threads", "chunk", "logits", "state");
    for Run { backend, threads, chunk, logits_hash, state_hash, same } in &result.runs {
        let verdict = if *same { "same" } else { "DIFFERENT" };
        let _ = writeln!(
            text,
            "{backend:<12} {threads:>7} {chunk:>5}  {logits_hash:<16}  {state_hash:<16}  {verdict}"
        );
    }
    text
}
