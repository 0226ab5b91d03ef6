//! What the suites share: golden checkpoints, models converted from them, and runs of a stream.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use sarit_core::{DType, Engine, Kernels, Model, Scratch, Shape, State};
use sarit_cpu::{AlignedBytes, Cpu, Isa};
use sarit_quant::{Options, convert};

/// Names of the golden checkpoints, sorted. `SARIT_GOLDEN` names another folder of such checkpoints to try.
pub fn families() -> Vec<String> {
    let entries = std::fs::read_dir(golden("")).expect("the folder of golden checkpoints");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> =
        names.filter(|name| golden(name).join("golden.safetensors").exists()).collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

/// Folder of a golden checkpoint.
pub fn golden(name: &str) -> PathBuf {
    let folder = std::env::var_os("SARIT_GOLDEN").map(PathBuf::from);
    folder.unwrap_or(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")).join(name)
}

/// Every back end of this machine: each instruction set, on one thread and on two.
pub fn backends() -> Vec<Cpu> {
    let all: Vec<Cpu> = Isa::available()
        .flat_map(|isa| [1, 2].map(|threads| Cpu::with_isa(isa, threads).expect("the set is available")))
        .collect();
    println!("back ends: {:?}", all.iter().map(|cpu| (cpu.name(), cpu.threads())).collect::<Vec<_>>());
    all
}

/// Bytes on the boundary that models, states and scratch need.
pub fn aligned(bytes: &[u8]) -> AlignedBytes {
    let mut copy = AlignedBytes::zeroed(bytes.len()).expect("test memory");
    copy.copy_from_slice(bytes);
    copy
}

/// A checkpoint folder as a `.sarit` file.
pub fn converted(source: &Path, weights: DType) -> AlignedBytes {
    converted_with_window(source, weights, None)
}

/// The same with a number of positions that attention keeps.
pub fn converted_with_window(source: &Path, weights: DType, window: Option<usize>) -> AlignedBytes {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("model.sarit");
    let options = Options { weights, window, ..Options::default() };
    convert(source, &out, &options, &mut |_| ControlFlow::Continue(()))
        .expect("a golden checkpoint converts");
    aligned(&std::fs::read(out).expect("the file just written"))
}

/// Writes a checkpoint of pseudo-random numbers: its configuration, and for each name a shape and the largest number.
pub fn write_checkpoint(
    folder: &Path,
    config: &str,
    tensors: &BTreeMap<String, (Vec<usize>, f32)>,
    seed: u64,
) {
    let mut random = numbers(seed);
    let mut data = |shape: &[usize], size: f32| -> Vec<u8> {
        let len = shape.iter().product();
        random.by_ref().take(len).flat_map(|x| (x * size).to_le_bytes()).collect()
    };
    let data: Vec<_> =
        tensors.iter().map(|(name, (shape, size))| (name, shape, data(shape, *size))).collect();
    let views = data.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(Dtype::F32, (*shape).clone(), bytes).expect("as long as its shape says"))
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).expect("a checkpoint");
    std::fs::write(folder.join("config.json"), config).expect("a configuration");
}

/// Mamba-2 with states of `d_state` elements, two groups, four heads and, with 48 channels, units that are not full.
pub fn mamba2(d_state: usize, d_inner: usize, weights: DType) -> AlignedBytes {
    mamba2_of(4, 24, 31, d_state, d_inner, weights)
}

/// The same with so many heads and tokens, and rows of `d_model` elements.
pub fn mamba2_of(
    heads: usize,
    d_model: usize,
    vocab: usize,
    d_state: usize,
    d_inner: usize,
    weights: DType,
) -> AlignedBytes {
    let bc = 2 * 2 * d_state;
    let (head_dim, expand) = (d_inner / heads, d_inner as f64 / d_model as f64);
    let config = format!(
        r#"{{"model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"], "hidden_size": {d_model},
        "num_hidden_layers": 1, "vocab_size": {vocab}, "state_size": {d_state}, "expand": {expand}, "conv_kernel": 4,
        "n_groups": 2, "head_dim": {head_dim}, "num_heads": {heads}, "rms_norm": true, "use_bias": false,
        "use_conv_bias": true, "hidden_act": "silu", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true,
        "time_step_limit": [0.0, {{"__float__": "Infinity"}}]}}"#
    );
    let layer = "backbone.layers.0";
    let tensors = [
        ("backbone.embeddings.weight".into(), (vec![vocab, d_model], 1.0)),
        ("backbone.norm_f.weight".into(), (vec![d_model], 1.0)),
        (format!("{layer}.norm.weight"), (vec![d_model], 1.0)),
        (format!("{layer}.mixer.in_proj.weight"), (vec![2 * d_inner + bc + heads, d_model], 0.5)),
        (format!("{layer}.mixer.conv1d.weight"), (vec![d_inner + bc, 1, 4], 0.7)),
        (format!("{layer}.mixer.conv1d.bias"), (vec![d_inner + bc], 0.2)),
        (format!("{layer}.mixer.dt_bias"), (vec![heads], 1.0)),
        (format!("{layer}.mixer.A_log"), (vec![heads], 1.0)),
        (format!("{layer}.mixer.D"), (vec![heads], 1.0)),
        (format!("{layer}.mixer.norm.weight"), (vec![d_inner], 1.0)),
        (format!("{layer}.mixer.out_proj.weight"), (vec![d_model, d_inner], 0.5)),
    ];
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_checkpoint(folder.path(), &config, &BTreeMap::from(tensors), d_state as u64);
    converted(folder.path(), weights)
}

/// What the reference implementation computed.
pub struct Reference {
    /// Tokens `[T]`.
    pub ids: Vec<u32>,
    /// Logits `[T][vocab]` of the whole-sequence forward pass.
    pub logits: Vec<f32>,
}

impl Reference {
    /// Reads `golden.safetensors` of a golden checkpoint.
    pub fn load(name: &str) -> Self {
        let file = std::fs::read(golden(name).join("golden.safetensors")).expect("a golden file");
        let tensors = SafeTensors::deserialize(&file).expect("a golden file");
        let data = |name: &str| tensors.tensor(name).expect("a golden tensor").data();
        Self {
            ids: data("input_ids")
                .as_chunks::<8>()
                .0
                .iter()
                .map(|id| i64::from_le_bytes(*id) as u32)
                .collect(),
            logits: data("logits").as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect(),
        }
    }
}

/// Folder of a frame model's checkpoint.
pub fn golden_frames(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden-frames").join(name)
}

/// A tensor of `golden.safetensors` of a frame model, f32.
pub fn golden_tensor(name: &str, tensor: &str) -> Vec<f32> {
    let file = std::fs::read(golden_frames(name).join("golden.safetensors")).expect("a golden file");
    let tensors = SafeTensors::deserialize(&file).expect("a golden file");
    let data = tensors.tensor(tensor).expect("a golden tensor").data();
    data.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
}

/// Largest absolute difference, in standard deviations of `want`.
pub fn difference(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let mean = want.iter().map(|&x| f64::from(x)).sum::<f64>() / want.len() as f64;
    let variance = want.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / want.len() as f64;
    let worst = got.iter().zip(want).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).fold(0.0, f64::max);
    worst / variance.sqrt()
}

/// A pseudo-random sequence of `count` token ids below `vocab`, the same every time.
pub fn tokens(count: usize, vocab: usize) -> Vec<u32> {
    random(1).take(count).map(|x| x % vocab as u32).collect()
}

/// Pseudo-random numbers from -1 to 1, the same for the same seed.
pub fn numbers(seed: u64) -> impl Iterator<Item = f32> {
    random(seed).map(|x| x as f32 / (1 << 30) as f32 - 1.0)
}

/// Numbers of 31 bits (an LCG, Knuth's MMIX).
fn random(seed: u64) -> impl Iterator<Item = u32> {
    let next =
        |x: &u64| Some(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    std::iter::successors(Some(seed), next).skip(1).map(|x| (x >> 33) as u32)
}

/// Memory for one state and one scratch of a model.
pub struct Lent {
    /// For the state.
    pub state: AlignedBytes,
    /// For the scratch.
    pub scratch: AlignedBytes,
}

impl Lent {
    /// As much as [`Model::memory`] says.
    pub fn new(model: &Model<'_>, chunk: usize) -> Self {
        let need = model.memory(chunk).expect("a small model");
        let zeroed = |bytes| AlignedBytes::zeroed(bytes).expect("test memory");
        Self { state: zeroed(need.state_bytes), scratch: zeroed(need.scratch_bytes) }
    }
}

/// Logits `[T][vocab]` of all tokens read in chunks from a fresh state, and the final state's hash.
pub fn run(model: Model<'_>, kernels: impl Kernels, ids: &[u32], chunk: usize) -> (Vec<f32>, u64) {
    let mut lent = Lent::new(&model, chunk);
    let mut state = State::init(&model, &mut lent.state).expect("memory as asked for");
    let mut scratch = Scratch::new(&model, &mut lent.scratch, chunk).expect("memory as asked for");
    let mut all = Vec::new();
    Engine::new(model, kernels)
        .feed_each(&mut state, &mut scratch, ids, |_, logits| all.extend_from_slice(logits))
        .expect("valid tokens");
    (all, state.hash())
}

/// What [`run`] gives for each of some texts of one length, all stepped at once.
pub fn run_many(model: Model<'_>, kernels: impl Kernels, texts: &[Vec<u32>]) -> Vec<(Vec<f32>, u64)> {
    let shape = Shape { chunk: 1, streams: texts.len() };
    let mut lent: Vec<Lent> = texts.iter().map(|_| Lent::new(&model, 1)).collect();
    let need = model.memory(shape).expect("a small model");
    let mut memory = AlignedBytes::zeroed(need.scratch_bytes).expect("test memory");
    let mut scratch = Scratch::new(&model, &mut memory, shape).expect("memory as asked for");
    let mut states: Vec<State<'_>> = lent
        .iter_mut()
        .map(|lent| State::init(&model, &mut lent.state).expect("memory as asked for"))
        .collect();
    let mut states: Vec<&mut State<'_>> = states.iter_mut().collect();
    let engine = Engine::new(model, kernels);
    let mut all = vec![Vec::new(); texts.len()];
    for t in 0..texts[0].len() {
        let ids: Vec<u32> = texts.iter().map(|text| text[t]).collect();
        let logits = engine.step_many(&mut states, &mut scratch, &ids).expect("valid tokens");
        for (all, logits) in all.iter_mut().zip(logits.chunks_exact(model.vocab_len())) {
            all.extend_from_slice(logits);
        }
    }
    all.into_iter().zip(&states).map(|(logits, state)| (logits, state.hash())).collect()
}

/// Frames `[T][frame_len]` read in chunks from a fresh state, the last frame of each chunk being stepped: the results after
/// those, and the hash of the final state.
pub fn run_frames(model: Model<'_>, kernels: impl Kernels, frames: &[f32], chunk: usize) -> (Vec<f32>, u64) {
    let mut lent = Lent::new(&model, chunk);
    let mut state = State::init(&model, &mut lent.state).expect("memory as asked for");
    let mut scratch = Scratch::new(&model, &mut lent.scratch, chunk).expect("memory as asked for");
    let engine = Engine::new(model, kernels);
    let mut all = Vec::new();
    for part in frames.chunks(chunk * model.frame_len()) {
        let (before, last) = part.split_at(part.len() - model.frame_len());
        engine.feed_frames(&mut state, &mut scratch, before, 1.0).expect("valid frames");
        let result = engine.step_frame(&mut state, &mut scratch, last, 1.0).expect("a valid frame");
        all.extend_from_slice(result);
    }
    (all, state.hash())
}

/// Panics unless both slices have the same bits.
pub fn assert_same_bits(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    if let Some(i) = (0..a.len()).find(|&i| a[i].to_bits() != b[i].to_bits()) {
        panic!("{what}: element {i} is {} and {}", a[i], b[i]);
    }
}
