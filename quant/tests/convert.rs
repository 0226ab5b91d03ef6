//! From checkpoints to logits, against the reference logits of `tests/golden`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use sarit_core::{ALIGN, DType, Engine, Model, Scalar, Scratch, State};
use sarit_quant::{ConvertError, ImportError, Options, Progress, Report, convert};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

/// Memory on a 64-byte boundary.
struct Aligned(Vec<u8>, usize, usize);

impl Aligned {
    fn new(len: usize) -> Self {
        let memory = vec![0; len + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        Self(memory, start, len)
    }

    fn from(bytes: &[u8]) -> Self {
        let mut aligned = Self::new(bytes.len());
        aligned.bytes().copy_from_slice(bytes);
        aligned
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.0[self.1..self.1 + self.2]
    }
}

fn converted(source: &Path, weights: DType) -> (Aligned, Report) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model.sarit");
    let options = Options { weights, ..Options::default() };
    let mut left = u64::MAX;
    let mut progress = |progress: Progress<'_>| {
        left = progress.total - progress.done;
        ControlFlow::Continue(())
    };
    let report = convert(source, &out, &options, &mut progress).unwrap();
    assert_eq!(left, 0, "{}: elements that progress has not counted", source.display());
    (Aligned::from(&std::fs::read(out).unwrap()), report)
}

fn logits(file: &mut Aligned, ids: &[u32], chunk: usize) -> (Vec<f32>, u64) {
    let model = Model::from_bytes(file.bytes()).unwrap();
    let need = model.memory(chunk).unwrap();
    let (mut state, mut scratch) = (Aligned::new(need.state_bytes), Aligned::new(need.scratch_bytes));
    let mut state = State::init(&model, state.bytes()).unwrap();
    let mut scratch = Scratch::new(&model, scratch.bytes(), chunk).unwrap();
    let mut all = Vec::new();
    let engine = Engine::new(model, Scalar);
    engine.feed_each(&mut state, &mut scratch, ids, |_, logits| all.extend_from_slice(logits)).unwrap();
    (all, state.hash())
}

const FAMILIES: [&str; 15] = [
    "mamba-tiny",
    "mamba2-tiny",
    "mamba2-groups",
    "mamba-tiny-original",
    "mamba2-groups-original",
    "falcon-mamba-tiny",
    "falcon-h1-tiny",
    "granite-h-tiny",
    "bamba-tiny",
    "jamba-tiny",
    "zamba2-tiny",
    "nemotron-h-tiny",
    "lfm2-tiny",
    "phi-mamba-tiny",
    "hybrid-phi-mamba-tiny",
];

#[test]
fn f32_logits_are_those_of_the_reference() {
    for name in FAMILIES {
        let reference = std::fs::read(golden(name).join("golden.safetensors")).unwrap();
        let reference = SafeTensors::deserialize(&reference).unwrap();
        let ids: Vec<u32> = reference
            .tensor("input_ids")
            .unwrap()
            .data()
            .as_chunks::<8>()
            .0
            .iter()
            .map(|id| i64::from_le_bytes(*id) as u32)
            .collect();
        let want: Vec<f32> = reference
            .tensor("logits")
            .unwrap()
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|x| f32::from_le_bytes(*x))
            .collect();
        let mean = want.iter().sum::<f32>() / want.len() as f32;
        let std = (want.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / want.len() as f32).sqrt();

        let (mut file, _) = converted(&golden(name), DType::F32);
        let (got, hash) = logits(&mut file, &ids, 1);
        let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{name}: largest difference {:.2e} of the standard deviation", worst / std);
        assert_eq!(got.len(), want.len());
        assert!(worst <= 2e-4 * std, "{name}: {worst} with std {std}");
        for chunk in [7, 40, 64] {
            let (again, again_hash) = logits(&mut file, &ids, chunk);
            assert!(got.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}, chunk {chunk}");
            assert_eq!(hash, again_hash);
        }
    }
}

/// Why a golden checkpoint is refused whose configuration has `to` in place of `from`.
fn refusal(name: &str, from: &str, to: &str) -> ImportError {
    let folder = tempfile::tempdir().unwrap();
    for file in ["model.safetensors", "pytorch_model.bin"] {
        let weights = golden(name).join(file);
        if weights.exists() {
            std::fs::copy(weights, folder.path().join(file)).unwrap();
        }
    }
    let config = std::fs::read_to_string(golden(name).join("config.json")).unwrap();
    assert!(config.contains(from), "{name}: {from}");
    std::fs::write(folder.path().join("config.json"), config.replace(from, to)).unwrap();
    let out = folder.path().join("model.sarit");
    match convert(folder.path(), &out, &Options::default(), &mut |_| ControlFlow::Continue(())) {
        Err(ConvertError::Import(error)) => error,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn a_head_that_is_not_the_embedding_must_be_there() {
    let tied = "\"tie_word_embeddings\": true";
    for (name, to) in [
        ("mamba-tiny", "\"tie_word_embeddings\": false"),
        ("mamba2-tiny", "\"tie_embeddings\": false"),
        ("lfm2-tiny", "\"tie_embedding\": false"),
    ] {
        let error = refusal(name, tied, to);
        assert!(matches!(&error, ImportError::MissingTensor(name) if name == "lm_head.weight"), "{error}");
    }
}

#[test]
fn options_that_are_not_implemented_are_refused() {
    let error = refusal("zamba2-tiny", "\"use_long_context\": false", "\"use_long_context\": true");
    assert!(matches!(&error, ImportError::Option { key, .. } if key == "use_long_context"), "{error}");
}

/// What only the configuration states is held to what the checkpoint has before memory is taken for it.
#[test]
fn numbers_that_no_checkpoint_has_are_refused() {
    const MOST: &str = "4294967295";
    for (name, key, from, to) in [
        ("jamba-tiny", "num_experts", "4", "0"),
        ("jamba-tiny", "num_hidden_layers", "4", MOST),
        ("hybrid-phi-mamba-tiny", "n_layers", "1", MOST),
        ("granite-h-tiny", "num_hidden_layers", "4", MOST),
        ("mamba-tiny-original", "n_layer", "3", MOST),
    ] {
        let error = refusal(name, &format!("\"{key}\": {from}"), &format!("\"{key}\": {to}"));
        assert!(matches!(&error, ImportError::Number { key: found, .. } if found == key), "{name}: {error}");
    }
    let long = refusal("lfm2-tiny", "\"model_type\"", "\"head_dim\": 4294967294, \"model_type\"");
    assert!(matches!(&long, ImportError::Number { key, .. } if key == "head_dim"), "{long}");
}
