//! `sarit inspect`: what a model is made of and what it needs.

use crate::args::Inspect;
use crate::output;
use crate::session::{CHUNK, GPU_CHUNK, GPU_FAST_CHUNK, ModelFile};
use anyhow::{Context, Result};
use indicatif::HumanBytes;
use sarit_core::plan::{Pool, Readout};
use sarit_core::{Block, DType, Model};
use sarit_cuda::{DeviceMemory, Prompts};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Blocks of threads that an H100 runs at the same time: attention needs some scratch for each.
const GPU_BLOCKS: usize = 132;

#[derive(Serialize)]
struct Inspection {
    model: String,
    /// The model's identity, 16 hex digits; its states carry it.
    fingerprint: String,
    model_bytes: usize,
    parameters: usize,
    /// What comes in and what goes out.
    #[serde(flatten)]
    interface: Interface,
    d_model: usize,
    memory: Needs,
    weights: Vec<TypeSum>,
    blocks: Vec<BlockSizes>,
    tensors: Vec<TensorSizes>,
    meta: Value,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Interface {
    Tokens { vocab: usize },
    Frames { frame_len: usize, task: &'static str, results: usize, pool: &'static str },
}

/// Memory beside the model file.
#[derive(Serialize)]
struct Needs {
    /// Element type of the SSM state.
    state: &'static str,
    /// Once per stream.
    state_bytes: usize,
    /// Once, for reading token by token.
    scratch_bytes: usize,
    /// Once, for reading in chunks of `chunk`.
    scratch_bytes_chunk: usize,
    chunk: usize,
    /// On a GPU: model, one state and scratch; missing where the kernels cannot run the model.
    gpu_bytes: Option<usize>,
    gpu_chunk: usize,
    /// The same with prompts in f16.
    gpu_fast_bytes: Option<usize>,
    gpu_fast_chunk: usize,
}

/// All tensors of one type.
#[derive(Serialize)]
struct TypeSum {
    dtype: &'static str,
    tensors: usize,
    elements: usize,
    bytes: usize,
}

#[derive(Serialize)]
struct BlockSizes {
    kind: &'static str,
    /// By the name of the size.
    #[serde(flatten)]
    sizes: BTreeMap<&'static str, usize>,
    state_bytes: usize,
}

#[derive(Serialize)]
struct TensorSizes {
    name: String,
    dtype: &'static str,
    shape: [usize; 2],
    bytes: usize,
}

pub(crate) fn run(args: &Inspect) -> Result<()> {
    let file = ModelFile::open(args.model.as_deref())?;
    let model = file.model_with(args.state.format)?;
    let inspection = inspect(file.name(), &model)?;
    if args.json { output::print_json(&inspection) } else { output::print(&as_text(&inspection)) }
}

fn inspect(name: &str, model: &Model<'_>) -> Result<Inspection> {
    let meta = serde_json::from_str(model.meta()).context("the model's meta section is not JSON")?;
    let need = |chunk| model.memory(chunk).with_context(|| format!("a chunk of {chunk} tokens is too large"));
    let (step, chunked) = (need(1)?, need(CHUNK)?);
    let on_gpu =
        |chunk, prompts| DeviceMemory::of(model, 1, chunk, GPU_BLOCKS, prompts).ok().map(|need| need.total());
    Ok(Inspection {
        model: name.to_owned(),
        fingerprint: format!("{:016x}", model.fingerprint()),
        model_bytes: model.file_bytes(),
        parameters: model.tensors().map(|(_, t)| t.rows * t.cols).sum(),
        interface: interface(model),
        d_model: model.d_model(),
        memory: Needs {
            state: model.state_dtype().name(),
            state_bytes: step.state_bytes,
            scratch_bytes: step.scratch_bytes,
            scratch_bytes_chunk: chunked.scratch_bytes,
            chunk: CHUNK,
            gpu_bytes: on_gpu(GPU_CHUNK, Prompts::Exact),
            gpu_chunk: GPU_CHUNK,
            gpu_fast_bytes: on_gpu(GPU_FAST_CHUNK, Prompts::NEAR),
            gpu_fast_chunk: GPU_FAST_CHUNK,
        },
        weights: DType::ALL.into_iter().filter_map(|dtype| type_sum(model, dtype)).collect(),
        blocks: blocks(model),
        tensors: model
            .tensors()
            .map(|(name, t)| TensorSizes {
                name: name.to_owned(),
                dtype: t.dtype.name(),
                shape: [t.rows, t.cols],
                bytes: t.data.len(),
            })
            .collect(),
        meta,
    })
}

fn interface(model: &Model<'_>) -> Interface {
    let (task, pool) = match model.output().readout {
        Readout::Logits => return Interface::Tokens { vocab: model.vocab_len() },
        Readout::Classes(pool) => ("classification", pool),
        Readout::Regression(pool) => ("regression", pool),
    };
    let pool = match pool {
        Pool::Last => "last",
        Pool::Mean => "mean",
        Pool::Max => "max",
    };
    Interface::Frames { frame_len: model.frame_len(), task, results: model.output_len(), pool }
}

fn type_sum(model: &Model<'_>, dtype: DType) -> Option<TypeSum> {
    let mut sum = TypeSum { dtype: dtype.name(), tensors: 0, elements: 0, bytes: 0 };
    for (_, tensor) in model.tensors().filter(|(_, tensor)| tensor.dtype == dtype) {
        sum.tensors += 1;
        sum.elements += tensor.rows * tensor.cols;
        sum.bytes += tensor.data.len();
    }
    (sum.tensors > 0).then_some(sum)
}

fn blocks(model: &Model<'_>) -> Vec<BlockSizes> {
    let mut blocks = Vec::new();
    model.each_block(|block, start, _| blocks.push((block_sizes(block), start)));
    let ends: Vec<usize> =
        blocks.iter().skip(1).map(|(_, start)| *start).chain([model.state_bytes()]).collect();
    let sizes = |(((kind, sizes), start), end): (_, usize)| {
        let sizes: Vec<_> = sizes;
        BlockSizes { kind, sizes: sizes.into_iter().collect(), state_bytes: end - start }
    };
    blocks.into_iter().zip(ends).map(sizes).collect()
}

/// A block's kind, and its sizes by name.
fn block_sizes(block: &Block<'_>) -> (&'static str, Vec<(&'static str, usize)>) {
    match block {
        Block::Ssm(b) => (
            if b.select.is_some() { "mamba" } else { "mamba2" },
            vec![
                ("heads", b.heads),
                ("head_dim", b.head_dim),
                ("d_state", b.d_state),
                ("n_groups", b.n_groups),
                ("conv_width", b.conv_width),
            ],
        ),
        Block::Attention(b) => (
            "attention",
            vec![
                ("heads", b.heads),
                ("kv_heads", b.kv_heads),
                ("head_dim", b.head_dim),
                ("window", b.window),
            ],
        ),
        Block::Mlp(b) => ("mlp", vec![("d_ff", b.up.matrix.rows())]),
        Block::Moe(b) => ("moe", vec![("experts", b.experts), ("chosen", b.chosen), ("d_ff", b.d_ff)]),
        Block::ShortConv(b) => ("short-conv", vec![("channels", b.channels), ("conv_width", b.conv_width)]),
        Block::Linear(b) => {
            ("linear", vec![("rows", b.linear.matrix.rows()), ("cols", b.linear.matrix.cols())])
        }
    }
}

fn as_text(i: &Inspection) -> String {
    let mut text = String::new();
    let size = |bytes: usize| HumanBytes(bytes as u64);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<13} {value}");
    };
    line("model", format!("{}, fingerprint {}", i.model, i.fingerprint));
    for field in ["name", "description", "languages", "licence", "source", "prompt", "columns", "labels"] {
        match i.meta.get(field) {
            None => (),
            Some(Value::String(value)) => line(field, value.clone()),
            Some(value) => line(field, value.to_string()),
        }
    }
    line("size", format!("{} ({} bytes), {} parameters", size(i.model_bytes), i.model_bytes, i.parameters));
    for sum in &i.weights {
        line(sum.dtype, format!("{} tensors, {} elements, {}", sum.tensors, sum.elements, size(sum.bytes)));
    }
    let width = i.d_model;
    match &i.interface {
        Interface::Tokens { vocab } => line("tokens", format!("vocabulary {vocab}, width {width}")),
        Interface::Frames { frame_len, task, results, pool } => {
            let every = match i.meta.get("frame_interval_s").and_then(Value::as_f64) {
                Some(seconds) => format!(" every {seconds} s"),
                None => String::new(),
            };
            line("frames", format!("{frame_len} numbers{every}, width {width}"));
            line("results", format!("{task}, {results} numbers, pool {pool}"));
        }
    }
    for (blocks, block) in runs(&i.blocks) {
        line(blocks.as_str(), block);
    }
    let Needs { state, state_bytes, scratch_bytes, scratch_bytes_chunk, chunk, .. } = &i.memory;
    line("state", format!("{} ({state_bytes} bytes, {state}) per stream", size(*state_bytes)));
    line(
        "scratch",
        format!(
            "{} ({scratch_bytes} bytes) in all; {} to read {chunk} tokens at once",
            size(*scratch_bytes),
            size(*scratch_bytes_chunk)
        ),
    );
    let gpus = [
        ("on a GPU", i.memory.gpu_bytes, i.memory.gpu_chunk),
        ("cuda-fast", i.memory.gpu_fast_bytes, i.memory.gpu_fast_chunk),
    ];
    for (name, bytes, chunk) in gpus {
        if let Some(bytes) = bytes {
            let all = format!("{} ({bytes} bytes) with the model and one state", size(bytes));
            line(name, format!("{all}, to read {chunk} tokens at once"));
        }
    }
    if let Some(worst) = worst_tensor(&i.meta) {
        line("quantization", worst);
    }
    text
}

/// Blocks described, equal neighbours in one line.
fn runs(blocks: &[BlockSizes]) -> Vec<(String, String)> {
    let mut runs: Vec<(usize, usize, String)> = Vec::new();
    for (i, BlockSizes { kind, sizes, state_bytes }) in blocks.iter().enumerate() {
        let sizes: String = sizes.iter().map(|(name, size)| format!("{name} {size}, ")).collect();
        let text = format!("{kind}: {sizes}{state_bytes} bytes of state");
        match runs.last_mut() {
            Some((_, last, same)) if *same == text => *last = i,
            _ => runs.push((i, i, text)),
        }
    }
    let name = |first, last| match last {
        _ if first == last => format!("block {first}"),
        _ => format!("blocks {first}-{last}"),
    };
    runs.into_iter().map(|(first, last, text)| (name(first, last), text)).collect()
}

/// The tensor that quantization has changed most, as the converter reported.
fn worst_tensor(meta: &Value) -> Option<String> {
    let report = meta.get("quantization")?;
    let tensors = report.get("tensors")?.as_object()?;
    let error = |tensor: &Value| tensor.get("relative_error").and_then(Value::as_f64);
    let errors = tensors.iter().filter_map(|(name, tensor)| Some((name, error(tensor)?)));
    let (name, worst) = errors.max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let weights = report.get("weights")?.as_str()?;
    Some(format!("{weights}, largest relative error {:.2} % ({name})", 100.0 * worst))
}
