//! GGUF files that llama.cpp's converter wrote, against what llama.cpp computes with them; and damaged ones.
//! `tests/golden-gguf` says how the files were made.

use std::error::Error;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use sarit_core::{ALIGN, DType, Engine, Model, Scalar, Scratch, State, argmax};
use sarit_quant::checkpoint::{Checkpoint, CheckpointError, GgufError};
use sarit_quant::{Options, Report, convert};
use serde_json::Value;
use tokenizers::Tokenizer;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden-gguf").join(name)
}

fn golden_json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(golden(name)).unwrap()).unwrap()
}

/// Memory on a 64-byte boundary.
struct Aligned(Vec<u8>, usize, usize);

impl Aligned {
    fn new(len: usize) -> Self {
        let memory = vec![0; len + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        Self(memory, start, len)
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.0[self.1..self.1 + self.2]
    }
}

/// The model file, converted without loss.
fn converted(source: &Path) -> (Aligned, Report) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model.sarit");
    let options = Options { weights: DType::F32, ..Options::default() };
    let report = convert(source, &out, &options, &mut |_| ControlFlow::Continue(())).unwrap();
    let bytes = fs::read(out).unwrap();
    let mut file = Aligned::new(bytes.len());
    file.bytes().copy_from_slice(&bytes);
    (file, report)
}

/// The most likely token after `prompt`, and so on for `steps`.
fn greedy(file: &mut Aligned, prompt: &[u32], steps: usize) -> Vec<u32> {
    let model = Model::from_bytes(file.bytes()).unwrap();
    let need = model.memory(8).unwrap();
    let (mut state, mut scratch) = (Aligned::new(need.state_bytes), Aligned::new(need.scratch_bytes));
    let mut state = State::init(&model, state.bytes()).unwrap();
    let mut scratch = Scratch::new(&model, scratch.bytes(), 8).unwrap();
    let engine = Engine::new(model, Scalar);
    let (last, before) = prompt.split_last().unwrap();
    engine.feed(&mut state, &mut scratch, before).unwrap();
    let mut logits = engine.step(&mut state, &mut scratch, *last).unwrap().to_vec();
    let mut tokens = Vec::new();
    for _ in 0..steps {
        tokens.push(argmax(&logits));
        logits = engine.step(&mut state, &mut scratch, *tokens.last().unwrap()).unwrap().to_vec();
    }
    tokens
}

fn numbers(list: &Value) -> Vec<u32> {
    list.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect()
}

// What whole files give.

#[test]
fn greedy_tokens_are_those_of_llama_cpp() {
    let reference = golden_json("tokens.json");
    let prompt = numbers(&reference["prompt"]);
    let models = reference["models"].as_object().unwrap();
    assert_eq!(models.len(), 9);
    for (name, model) in models {
        let want = numbers(&model["tokens"]);
        assert_eq!(want.len(), 64);
        let (mut file, report) = converted(&golden(&format!("{name}.gguf")));
        assert_eq!(greedy(&mut file, &prompt, want.len()), want, "{name}");
        assert_eq!(report.meta["name"], name.as_str());
        assert_eq!(report.meta["eos_token_ids"], serde_json::json!([0]));
    }
}

#[test]
fn blocks_are_read_to_the_bit() {
    let truth = fs::read(golden("blocks.f32")).unwrap();
    let truth: Vec<u32> = truth.as_chunks().0.iter().map(|x| u32::from_le_bytes(*x)).collect();
    let mut truth = truth.as_slice();
    let checkpoint = Checkpoint::open(&golden("blocks.gguf")).unwrap();
    for name in ["F32", "F16", "BF16", "F64", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
    {
        let tensor = format!("{name}.weight");
        let info = checkpoint.tensor(&tensor).unwrap();
        assert_eq!((info.dtype.to_string().as_str(), info.shape.as_slice()), (name, [2, 512].as_slice()));
        let (want, rest) = truth.split_at(info.elements());
        truth = rest;
        let read = |start: usize, len: usize| {
            let mut out = vec![0.0; len];
            checkpoint.read(&tensor, start, &mut out).unwrap();
            out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(read(0, want.len()), want, "{name}");
        for (start, len) in
            [(0, 1), (1, 31), (31, 2), (33, 700), (255, 258), (512, 512), (1023, 1), (1024, 0)]
        {
            assert_eq!(read(start, len), want[start..start + len], "{name} from {start}");
        }
        let past = checkpoint.read(&tensor, 1000, &mut [0.0; 25]);
        assert!(matches!(past, Err(CheckpointError::ReadRange { .. })));
    }
    assert!(truth.is_empty());
}

#[test]
fn parts_of_renamed_tensors_are_their_elements() {
    for name in ["granite-experts", "jamba", "nemotron-h"] {
        let checkpoint = Checkpoint::open(&golden(&format!("{name}.gguf"))).unwrap();
        for (tensor, info) in checkpoint.tensors() {
            let mut whole = vec![0.0; info.elements()];
            checkpoint.read(tensor, 0, &mut whole).unwrap();
            for start in [1, info.elements() / 3, info.elements() / 2 + 1] {
                let mut part = vec![0.0; (info.elements() - start).min(500)];
                checkpoint.read(tensor, start, &mut part).unwrap();
                assert_eq!(part, whole[start..start + part.len()], "{name} {tensor} from {start}");
            }
        }
    }
}

#[test]
fn byte_level_tokenizer_encodes_as_the_one_it_was_made_from() {
    let original = Tokenizer::from_file(golden("tokenizer.json")).unwrap();
    let lines = fs::read_to_string(golden("lines.txt")).unwrap();
    for name in ["mamba", "lfm2"] {
        let checkpoint = Checkpoint::open(&golden(&format!("{name}.gguf"))).unwrap();
        let made = checkpoint.file("tokenizer.json").unwrap().unwrap();
        let made = Tokenizer::from_bytes(&made).unwrap();
        for line in lines.lines() {
            let (want, got) = (original.encode(line, true).unwrap(), made.encode(line, true).unwrap());
            assert_eq!(got.get_ids(), want.get_ids(), "{line}");
            assert_eq!(
                made.decode(got.get_ids(), false).unwrap(),
                original.decode(want.get_ids(), false).unwrap()
            );
        }
        let config = checkpoint.file("tokenizer_config.json").unwrap().unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert!(config["chat_template"].as_str().unwrap().contains("message"));
        assert_eq!((&config["bos_token"], &config["add_bos_token"]), (&"<|end|>".into(), &false.into()));
        assert_eq!(checkpoint.file("generation_config.json").unwrap(), None);
    }
    assert_eq!(lines.lines().count(), 200);
}

#[test]
fn sentence_piece_tokenizer_encodes_as_sentencepiece() {
    let checkpoint = Checkpoint::open(&golden("spm.gguf")).unwrap();
    let made = checkpoint.file("tokenizer.json").unwrap().unwrap();
    let made = Tokenizer::from_bytes(&made).unwrap();
    let lines = fs::read_to_string(golden("lines.txt")).unwrap();
    let truth = golden_json("spm.json");
    for (line, ids) in lines.lines().zip(truth.as_array().unwrap()) {
        assert_eq!(made.encode(line, true).unwrap().get_ids(), numbers(ids), "{line:?}");
    }
}

#[test]
fn version_2_is_read_too() {
    let mut bytes = fs::read(golden("mamba.gguf")).unwrap();
    bytes[4] = 2;
    let old = opened(&bytes).unwrap();
    let new = Checkpoint::open(&golden("mamba.gguf")).unwrap();
    assert_eq!(old.config(), new.config());
    assert!(old.tensors().eq(new.tensors()));
}

// Files that are refused.

/// A file being made: version 3, alignment 32.
#[derive(Clone, Default)]
struct File {
    keys: Vec<u8>,
    key_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl File {
    fn key(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.keys.extend([text(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat());
        self.key_count += 1;
        self
    }

    fn number(self, key: &str, value: u32) -> Self {
        self.key(key, 4, &value.to_le_bytes())
    }

    fn words(self, key: &str, value: &str) -> Self {
        self.key(key, 8, &text(value))
    }

    /// A tensor listed with dimensions in the file's order, the fastest first.
    fn listed(mut self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        self.tensors.extend(text(name));
        self.tensors.extend((dimensions.len() as u32).to_le_bytes());
        self.tensors.extend(dimensions.iter().flat_map(|d| d.to_le_bytes()));
        self.tensors.extend([&kind.to_le_bytes()[..], &offset.to_le_bytes()].concat());
        self.tensor_count += 1;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let counts = [self.tensor_count.to_le_bytes(), self.key_count.to_le_bytes()].concat();
        let mut bytes =
            [b"GGUF\x03\0\0\0".to_vec(), counts, self.keys.clone(), self.tensors.clone()].concat();
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }
}

/// The head of a model with one layer of one tensor, of which the name is no matter.
fn small(architecture: &str) -> File {
    let name = |key: &str| format!("{architecture}.{key}");
    File { data: vec![0; 64], ..File::default() }
        .words("general.architecture", architecture)
        .number(&name("block_count"), 1)
        .number(&name("embedding_length"), 4)
        .number(&name("attention.head_count"), 0)
        .key(&name("attention.layer_norm_rms_epsilon"), 6, &1e-5f32.to_le_bytes())
}

fn whole(architecture: &str) -> File {
    small(architecture).listed("a.weight", &[4, 4], 0, 0)
}

/// Opens bytes as a file.
fn opened(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    fs::write(&path, bytes).unwrap();
    Checkpoint::open(&path)
}

/// What is wrong with bytes.
fn refusal(bytes: &[u8]) -> String {
    let error = opened(bytes).unwrap_err();
    error.source().map_or_else(|| error.to_string(), |source| source.to_string())
}

#[test]
fn a_whole_file_opens() {
    let checkpoint = opened(&whole("mamba").bytes()).unwrap();
    assert_eq!(checkpoint.config()["model_type"], "mamba");
    assert_eq!(checkpoint.tensor("a.weight").unwrap().shape, [4, 4]);
    assert_eq!(checkpoint.file("tokenizer.json").unwrap(), None);
    assert_eq!(checkpoint.name(), "x");
}

#[test]
fn every_flaw_is_named() {
    let huge = 1u64 << 60;
    let with = |change: fn(File) -> File| change(whole("mamba")).bytes();
    let tensor =
        |dimensions: &[u64], kind, offset| small("mamba").listed("a", dimensions, kind, offset).bytes();
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = whole("mamba").bytes();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    for (bytes, expected) in [
        (b"GGU".to_vec(), "does not begin with the letters GGUF"),
        (patched(0, b"GGML"), "does not begin with the letters GGUF"),
        (patched(4, &1u32.to_le_bytes()), "of version 1,"),
        (patched(4, &9u32.to_le_bytes()), "of version 9,"),
        (patched(8, &huge.to_le_bytes()), "announces 1152921504606846976 tensors"),
        (patched(16, &huge.to_le_bytes()), "announces 1152921504606846976 keys"),
        (patched(16, &u64::MAX.to_le_bytes()), "announces 18446744073709551615 keys"),
        (patched(24, &huge.to_le_bytes()), "a text of 1152921504606846976 bytes at byte 32"),
        (patched(32, &[0xff]), "the name at byte 24 is not UTF-8"),
        (with(|f| f.key("k", 8, &(1u64 << 60).to_le_bytes())), "announces a text of"),
        (with(|f| f.key("k", 13, &[])), "key \"k\" has a value of type 13"),
        (with(|f| f.key("k", 9, &[9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])), "key \"k\" has a value of type 9"),
        (
            with(|f| f.key("k", 9, &[&[4, 0, 0, 0][..], &(1u64 << 62).to_le_bytes()].concat())),
            "announces 4611686018427387904 elements of a list",
        ),
        (with(|f| f.number("mamba.block_count", 1)), "has \"mamba.block_count\" twice"),
        (with(|f| f.listed("a.weight", &[4], 0, 0)), "has \"a.weight\" twice"),
        (with(|f| f.listed("b", &[4], 0, 32)), "tensors \"a.weight\" and \"b\" overlap"),
        (with(|f| f.listed("b", &[8], 0, 64)), "tensor \"b\" reaches beyond its end"),
        (with(|f| f.listed("b", &[8], 0, u64::MAX - 31)), "tensor \"b\" reaches beyond its end"),
        (tensor(&[4, 4], 0, 4), "tensor \"a\" does not begin on the boundary"),
        (tensor(&[], 0, 0), "tensor \"a\" has dimensions that cannot be"),
        (tensor(&[1, 1, 1, 1, 1], 0, 0), "tensor \"a\" has dimensions that cannot be"),
        (tensor(&[4, 0], 0, 0), "tensor \"a\" has dimensions that cannot be"),
        (tensor(&[huge, huge], 0, 0), "tensor \"a\" has dimensions that cannot be"),
        (tensor(&[1 << 40], 0, 0), "tensor \"a\" reaches beyond its end"),
        (tensor(&[48], 8, 0), "tensor \"a\" has rows that are not whole blocks"),
        (tensor(&[4], 26, 0), "tensor \"a\" is of type I32"),
        (tensor(&[256], 10, 0), "tensor \"a\" is of type Q2_K"),
        (tensor(&[256], 23, 0), "tensor \"a\" is of type IQ4_XS"),
        (tensor(&[4], 77, 0), "tensor \"a\" is of type number 77"),
        (with(|f| f.number("general.alignment", 0)), "\"general.alignment\" is 0, but a power of two"),
        (with(|f| f.number("general.alignment", 24)), "\"general.alignment\" is 24, but a power of two"),
        (with(|f| f.number("split.count", 3)), "\"split.count\" is set to 3"),
        (with(|f| f.key("mamba.attention.causal", 7, &[0])), "\"mamba.attention.causal\" is set to false"),
        (with(|f| f.words("tokenizer.ggml.eos_token_id", "x")), "the number of a token is needed"),
        (with(|f| f.number("tokenizer.ggml.eos_token_id", 3)), "the number of a token is needed"),
        (whole("llama").bytes(), "architecture \"llama\" are not supported"),
        (whole("nemotron_h_moe").bytes(), "architecture \"nemotron_h_moe\" are not supported"),
        (
            small("mamba").listed("token_embd.weight", &[8, 2], 0, 0).bytes(),
            "\"token_embd.weight\" does not have the shape that key \"mamba.embedding_length\"",
        ),
        (
            small("mamba2")
                .number("mamba2.ssm.group_count", 2)
                .listed("blk.0.ssm_norm.weight", &[4, 4], 0, 0)
                .bytes(),
            "\"blk.0.ssm_norm.weight\" does not have the shape that key \"mamba2.ssm.group_count\"",
        ),
        (
            small("mamba2")
                .number("mamba2.ssm.inner_size", 4)
                .number("mamba2.ssm.state_size", u32::MAX)
                .number("mamba2.ssm.group_count", u32::MAX)
                .listed("blk.0.ssm_conv1d.weight", &[4, 4], 0, 0)
                .bytes(),
            "\"blk.0.ssm_conv1d.weight\" does not have the shape that key \"mamba2.ssm.state_size\"",
        ),
        (whole("mamba2").bytes(), "no key \"mamba2.ssm.group_count\""),
        (File::default().bytes(), "no key \"general.architecture\""),
        (small("mamba").bytes(), "announces 1 layers"),
    ] {
        let refusal = refusal(&bytes);
        assert!(refusal.contains(expected), "{refusal}, not {expected}");
        assert!(!refusal.contains('\n'));
    }
    assert!(matches!(opened(&patched(4, &[0, 0, 0, 3])), Err(CheckpointError::BigEndian(_))));
    let missing = Checkpoint::open("no-such.gguf".as_ref());
    assert!(matches!(missing, Err(CheckpointError::NotFound(_))));
}

#[test]
fn options_that_are_not_implemented_are_refused() {
    let base = || whole("lfm2").number("lfm2.attention.head_count_kv", 0);
    assert!(opened(&base().bytes()).is_ok());
    for (file, expected) in [
        (base().words("lfm2.rope.scaling.type", "yarn"), "rope.scaling.type"),
        (base().number("lfm2.attention.sliding_window", 128), "attention.sliding_window"),
        (
            base().number("lfm2.attention.key_length", 8).number("lfm2.attention.value_length", 4),
            "value_length",
        ),
        (base().number("lfm2.rope.dimension_count", 9), "rope.dimension_count"),
        (base().number("lfm2.expert_count", 9), "expert_count"),
    ] {
        let error = opened(&file.bytes()).unwrap_err();
        let CheckpointError::Gguf { source: GgufError::Option { key, .. }, .. } = &error else {
            panic!("{error}");
        };
        assert!(key.ends_with(expected), "{key}");
    }
}

/// A file with a byte-level tokenizer of these tokens and merges.
fn tokenizer_file(tokens: &[&str], merges: &[&str], pre: &str) -> File {
    let list = |texts: &[&str]| {
        let head = [&8u32.to_le_bytes()[..], &(texts.len() as u64).to_le_bytes()].concat();
        [head, texts.iter().flat_map(|t| text(t)).collect()].concat()
    };
    whole("mamba")
        .words("tokenizer.ggml.model", "gpt2")
        .words("tokenizer.ggml.pre", pre)
        .key("tokenizer.ggml.tokens", 9, &list(tokens))
        .key("tokenizer.ggml.merges", 9, &list(merges))
}

#[test]
fn tokenizers_that_cannot_be_are_refused() {
    let tokenizer =
        |file: File| opened(&file.bytes()).and_then(|checkpoint| checkpoint.file("tokenizer.json"));
    let json = tokenizer(tokenizer_file(&["a", "b", "ab"], &["a b", "b a"], "gpt-2")).unwrap().unwrap();
    let tokenizer_made = Tokenizer::from_bytes(json).unwrap();
    assert_eq!(tokenizer_made.encode("aab", false).unwrap().get_ids(), [0, 2]);
    for (file, expected) in [
        (tokenizer_file(&["a", "a"], &[], "gpt-2"), "\"a\" is there twice"),
        (tokenizer_file(&["a", "b"], &["ab"], "gpt-2"), "the merge \"ab\""),
        (tokenizer_file(&["a"], &[""], "gpt-2"), "the merge \"\""),
        (tokenizer_file(&["a"], &[], "klingon"), "kind \"klingon\" is not supported"),
        (whole("mamba").words("tokenizer.ggml.model", "bert"), "tokenizer.ggml.tokens is not a list"),
    ] {
        let error = tokenizer(file).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Opens and reads all that a file has.
fn read_all(bytes: &[u8]) -> Result<(), CheckpointError> {
    let checkpoint = opened(bytes)?;
    for (name, info) in checkpoint.tensors() {
        checkpoint.read(name, 0, &mut vec![0.0; info.elements()])?;
    }
    checkpoint.file("tokenizer.json")?;
    checkpoint.file("tokenizer_config.json").map(drop)
}

#[test]
fn every_truncation_is_refused() {
    let bytes = tokenizer_file(&["a", "b", "ab"], &["a b"], "gpt-2").bytes();
    read_all(&bytes).unwrap();
    for len in 0..bytes.len() {
        assert!(read_all(&bytes[..len]).is_err(), "{len} of {}", bytes.len());
    }
}

#[test]
fn damaged_files_do_no_harm() {
    // SplitMix64: numbers that are the same in every run.
    let mut seed = 5u64;
    let mut below = |limit: usize| {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    };
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("x.gguf"), folder.path().join("x.sarit"));
    let options = Options::default();
    let mut refused = 0;
    let heads = [("mamba", 9_000), ("granite-experts", 11_000), ("jamba", 12_000)];
    for (name, head) in heads {
        let whole = fs::read(golden(&format!("{name}.gguf"))).unwrap();
        for _ in 0..1000 {
            let mut bytes = whole.clone();
            for _ in 0..1 + below(3) {
                // Mostly the keys and the list of tensors; the tokens between them are long.
                let at =
                    if below(4) == 0 { below(head) } else { [below(1600), head - below(3000)][below(2)] };
                let value = [0, 1, 2, 8, 0x7f, 0xff, below(256) as u8][below(7)];
                bytes[at] = value;
            }
            fs::write(&source, &bytes).unwrap();
            let result = convert(&source, &out, &options, &mut |_| ControlFlow::Continue(()));
            refused += usize::from(result.is_err());
            // What was refused has left nothing behind.
            assert_eq!(out.exists(), result.is_ok());
            if result.is_ok() {
                fs::remove_file(&out).unwrap();
            }
        }
    }
    assert!((300..2900).contains(&refused), "{refused} refused");
}
