//! `sarit bench`: tokens per second, and how much of the memory bandwidth they use.

use crate::args::{Backend, Bench};
use crate::bench_streams::Many;
use crate::output;
use crate::session::{CHUNK, Memory, ModelFile, Stream, cpu, random_ids};
use anyhow::{Context, Result, ensure};
use indicatif::HumanBytes;
use sarit_core::kernels::HELD;
use sarit_core::plan::{Block, Input};
use sarit_core::{Engine, Kernels, Matrix, Model, Sampler, Sampling, StatePart, StepError, Tensor};
use serde::Serialize;
use std::hint::black_box;
use std::time::Instant;

/// Passes over the buffer when the read bandwidth is measured; the fastest counts.
const BANDWIDTH_PASSES: usize = 5;
/// Smallest and largest buffer for that, in bytes.
const BANDWIDTH_BUFFER: (usize, usize) = (256 << 20, 1 << 30);

#[derive(Serialize)]
struct Measured {
    /// Median of the runs.
    prefill_tokens_per_s: f64,
    /// Slowest and fastest run.
    prefill_range: [f64; 2],
    decode_tokens_per_s: f64,
    decode_range: [f64; 2],
    /// With `--streams`.
    #[serde(skip_serializing_if = "Option::is_none")]
    many_streams: Option<StreamsMeasured>,
    /// Element type of the state.
    state: &'static str,
    prompt: usize,
    generate: usize,
    runs: usize,
    /// From opening the file until it is checked.
    load_ms: f64,
    /// From opening the file until the first token is chosen: threads made, memory allocated, every weight read.
    first_token_ms: f64,
    state_bytes: usize,
    scratch_bytes: usize,
    /// On the GPU, if it runs there.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu: Option<GpuMeasured>,
    chunk: usize,
    model_bytes: usize,
    /// Of the process, before the bandwidth is measured.
    peak_rss_bytes: u64,
    threads: usize,
    backend: &'static str,
    /// Weights read, state read, and what of it is written.
    bytes_per_token: usize,
    /// Measured in this run: over a buffer larger than the cache, with the same threads; on a GPU by a copy within its
    /// memory, reads and writes counted.
    read_bandwidth_bytes_per_s: f64,
    /// Bytes per token times tokens per second over the read bandwidth.
    decode_bandwidth_fraction: f64,
}

/// The GPU, and its memory in bytes.
#[derive(Serialize)]
struct GpuMeasured {
    device: String,
    /// Model, state and scratch of one stream.
    used_bytes: usize,
    /// Free before the first run and after the last.
    free_bytes: [usize; 2],
}

/// Several streams that decode at once.
#[derive(Serialize)]
struct StreamsMeasured {
    streams: usize,
    /// Of all streams together; median of the runs.
    tokens_per_s: f64,
    range: [f64; 2],
}

pub(crate) fn run(args: &Bench) -> Result<()> {
    let opened = Instant::now();
    let file = ModelFile::open_to_run(args.model.as_deref(), &args.compute)?;
    let model = file.model_with(args.state.format)?;
    let load_ms = 1e3 * opened.elapsed().as_secs_f64();
    ensure!(model.frame_len() == 0, StepError::TakesFrames);
    let cpu = cpu(&args.compute)?;
    let (mut threads, mut backend) = (cpu.threads(), cpu.isa().name());
    let engine = Engine::new(model, cpu);
    let streams = usize::from(args.streams);
    let chunk = args.compute.chunk();
    let mut memory = Memory::new(&model, chunk, &args.compute)?;
    memory.start(&engine)?.continue_from(&[0], &[], 1, &mut Sampler::new(Sampling::default())?, |token| {
        black_box(token);
        Ok(())
    })?;
    let first_token_ms = 1e3 * opened.elapsed().as_secs_f64();
    let mut many = (streams > 1).then(|| Many::new(&model, streams, &args.compute)).transpose()?;
    let need = model.memory(chunk).context("the model needs more memory than there can be")?;
    let (state_bytes, mut scratch_bytes) = (need.state_bytes, need.scratch_bytes);
    if let Some(gpu) = memory.gpu() {
        (threads, backend, scratch_bytes) =
            (1, args.compute.backend.map_or(backend, Backend::name), gpu.memory().scratch_bytes);
    }
    let (prompt, generate, runs) = (args.prompt as usize, args.generate as usize, args.runs as usize);
    let ids = random_ids(model.vocab_len(), prompt + generate);
    let (prompt_ids, generate_ids) = ids.split_at(prompt);

    let bar = output::bar(runs as u64 + 2, "measuring");
    warm_up(&mut memory.start(&engine)?, &ids[..chunk.min(ids.len())])?;
    if let Some(many) = &mut many {
        many.run(&engine, &ids[..CHUNK.min(ids.len())])?;
    }
    let free_before = memory.gpu().map(|gpu| gpu.device().free_bytes()).transpose()?;
    bar.inc(1);
    let (mut prefill, mut decode, mut many_decode) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let mut stream = memory.start(&engine)?;
        let start = Instant::now();
        stream.feed(prompt_ids)?;
        stream.wait()?;
        prefill.push(prompt as f64 / start.elapsed().as_secs_f64());
        let start = Instant::now();
        stream.decode(generate_ids)?;
        decode.push(generate as f64 / start.elapsed().as_secs_f64());
        if let Some(many) = &mut many {
            many_decode.push((streams * generate) as f64 / many.run(&engine, generate_ids)?.as_secs_f64());
        }
        bar.inc(1);
    }
    let peak_rss_bytes = peak_rss_bytes()?;
    let gpu = memory.gpu().zip(free_before).map(|(gpu, before)| -> Result<_> {
        Ok(GpuMeasured {
            device: gpu.device().info().name.clone(),
            used_bytes: gpu.memory().total(),
            free_bytes: [before, gpu.device().free_bytes()?],
        })
    });
    let read_bandwidth = match memory.gpu() {
        Some(gpu) => gpu.device().copy_bandwidth(BANDWIDTH_BUFFER.0)?,
        None => read_bandwidth(threads),
    };
    bar.finish_and_clear();

    let (prefill_tokens_per_s, prefill_range) = median_and_range(&mut prefill);
    let (decode_tokens_per_s, decode_range) = median_and_range(&mut decode);
    let many_streams = many.map(|_| {
        let (tokens_per_s, range) = median_and_range(&mut many_decode);
        StreamsMeasured { streams, tokens_per_s, range }
    });
    let bytes_per_token = bytes_per_token(&model);
    let measured = Measured {
        prefill_tokens_per_s,
        prefill_range,
        decode_tokens_per_s,
        decode_range,
        many_streams,
        state: model.state_dtype().name(),
        prompt,
        generate,
        runs,
        load_ms,
        first_token_ms,
        state_bytes,
        scratch_bytes,
        gpu: gpu.transpose()?,
        chunk,
        model_bytes: model.file_bytes(),
        peak_rss_bytes,
        threads,
        backend,
        bytes_per_token,
        read_bandwidth_bytes_per_s: read_bandwidth,
        decode_bandwidth_fraction: bytes_per_token as f64 * decode_tokens_per_s / read_bandwidth,
    };
    if args.json { output::print_json(&measured) } else { output::print(&as_text(&measured)) }
}

/// Brings the model into memory and the processor up to speed.
fn warm_up<K: Kernels>(stream: &mut Stream<'_, '_, K>, ids: &[u32]) -> Result<()> {
    stream.feed(ids)?;
    stream.decode(ids)
}

/// Bytes that one decoded token needs, on average: all weights but an embedding that is not the head too, and the state
/// read and written.
fn bytes_per_token(model: &Model<'_>) -> usize {
    let head = start(&model.output().head.matrix);
    let embedding = match model.input() {
        Input::Tokens { embedding, .. } => Some(start(embedding)),
        Input::Frames(_) => None,
    };
    let is_read = |tensor: &Tensor<'_>| {
        let place = tensor.data.as_ptr_range();
        place.contains(&head) || !embedding.is_some_and(|embedding| place.contains(&embedding))
    };
    let weights: usize =
        model.tensors().map(|(_, tensor)| tensor).filter(is_read).map(|tensor| tensor.data.len()).sum();
    weights + state_traffic(model)
}

/// Bytes of the state that one token reads and writes, on average: all of it, but a state with a decay per head is written
/// with one token of [`HELD`], and what rounding has left over of it read only then; of the tokens held until then half are
/// read and one is written.
fn state_traffic(model: &Model<'_>) -> usize {
    let mut saved = 0;
    model.each_block(|block, _, _| {
        let Block::Ssm(ssm) = block else { return };
        let [_, elements, scales, held] = block.state_parts(model.state_dtype()).map(StatePart::bytes);
        if held > 0 {
            let rests = elements - ssm.ssm_len() * model.state_dtype().element_bytes();
            saved += (elements + rests + scales) * (HELD - 1) / HELD + held * (3 * HELD - 1) / (2 * HELD);
        }
    });
    2 * model.state_bytes() - saved
}

/// A place in a matrix's data.
fn start(matrix: &Matrix<'_>) -> *const u8 {
    match matrix {
        Matrix::F32(dense) => dense.data.as_ptr().cast(),
        Matrix::F16(dense) => dense.data.as_ptr().cast(),
        Matrix::Q8(tiled) | Matrix::Q4(tiled) => tiled.codes.as_ptr(),
    }
}

/// The most memory that the process has held so far.
fn peak_rss_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line
        .and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok())
        .context("/proc/self/status does not state VmHWM")?;
    Ok(1024 * kib)
}

/// Bytes per second that `threads` threads read from a buffer twice as large as the largest cache.
fn read_bandwidth(threads: usize) -> f64 {
    let words = (2 * largest_cache_bytes()).clamp(BANDWIDTH_BUFFER.0, BANDWIDTH_BUFFER.1) / 8;
    let buffer = vec![1u64; words];
    let part = words.div_ceil(threads);
    let mut fastest = f64::INFINITY;
    for _ in 0..BANDWIDTH_PASSES {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in buffer.chunks(part) {
                scope.spawn(|| black_box(sum(black_box(part))));
            }
        });
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    (8 * words) as f64 / fastest
}

/// Reads every word once, into sums that do not wait for each other.
fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0u64; 16];
    let (chunks, rest) = words.as_chunks::<16>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, word)| *lane = lane.wrapping_add(*word));
    }
    lanes.iter().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}

/// Size of the largest cache that the system knows of, or 0.
fn largest_cache_bytes() -> usize {
    let size = |index: usize| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        let kib = std::fs::read_to_string(path).ok()?.trim().strip_suffix('K')?.parse::<usize>().ok()?;
        Some(1024 * kib)
    };
    (0..8).filter_map(size).max().unwrap_or(0)
}

/// Median, and least and greatest value.
fn median_and_range(values: &mut [f64]) -> (f64, [f64; 2]) {
    values.sort_unstable_by(f64::total_cmp);
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    ((low + high) / 2.0, [values[0], values[values.len() - 1]])
}

fn as_text(m: &Measured) -> String {
    let size = |bytes: usize| HumanBytes(bytes as u64).to_string();
    let speed = |median: f64, [low, high]: [f64; 2]| format!("{median:.1} tokens/s ({low:.1} to {high:.1})");
    let mut lines = vec![
        ("backend", format!("{}, {} threads, {} runs", m.backend, m.threads, m.runs)),
        (
            "load",
            format!("{:.1} ms; first token {:.1} ms after the file is opened", m.load_ms, m.first_token_ms),
        ),
        ("prefill", format!("{} for {} tokens", speed(m.prefill_tokens_per_s, m.prefill_range), m.prompt)),
        ("decode", format!("{} for {} tokens", speed(m.decode_tokens_per_s, m.decode_range), m.generate)),
        (
            "bandwidth",
            format!(
                "{:.1} GB/s; decode needs {} a token and reaches {:.0} %",
                m.read_bandwidth_bytes_per_s / 1e9,
                size(m.bytes_per_token),
                100.0 * m.decode_bandwidth_fraction
            ),
        ),
        (
            "memory",
            format!(
                "model {}, state {} ({}), scratch {}, peak of the process {}",
                size(m.model_bytes),
                size(m.state_bytes),
                m.state,
                size(m.scratch_bytes),
                HumanBytes(m.peak_rss_bytes)
            ),
        ),
    ];
    if let Some(GpuMeasured { device, used_bytes, free_bytes: [before, after] }) = &m.gpu {
        let text =
            format!("{device}, {} used; free before {before} and after {after} bytes", size(*used_bytes));
        lines.push(("gpu", text));
    }
    if let Some(StreamsMeasured { streams, tokens_per_s, range }) = m.many_streams {
        lines.insert(4, ("streams", format!("{} for {streams} at once", speed(tokens_per_s, range))));
    }
    lines.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
}
