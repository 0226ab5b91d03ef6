//! Checkpoints in every format that can be read, against the golden ones in `tests/golden` and made ones.

use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sarit_quant::checkpoint::{Checkpoint, CheckpointError, PickleError, SourceDtype, json};
use tempfile::TempDir;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden");

fn golden(name: &str) -> PathBuf {
    Path::new(GOLDEN).join(name)
}

/// Every golden checkpoint's folder.
fn golden_folders() -> Vec<PathBuf> {
    let entries = fs::read_dir(GOLDEN).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    assert!(folders.len() >= 15, "{folders:?}");
    folders
}

fn open(path: impl AsRef<Path>) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::open(path.as_ref())
}

/// All elements of a tensor, as bits.
fn bits(checkpoint: &Checkpoint, name: &str) -> Result<Vec<u32>, CheckpointError> {
    let mut values = vec![0.0; checkpoint.tensor(name).unwrap().elements()];
    checkpoint.read(name, 0, &mut values)?;
    Ok(values.into_iter().map(f32::to_bits).collect())
}

/// Opens a checkpoint and reads all that it has.
fn read_all(path: &Path) -> Result<(), CheckpointError> {
    let checkpoint = Checkpoint::open(path)?;
    checkpoint.tensors().try_for_each(|(name, _)| bits(&checkpoint, name).map(drop))
}

/// A folder with an empty `config.json` and these files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

/// A safetensors file.
fn safetensors_file(tensors: &[(&str, Dtype, &[usize], &[u8])]) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (name, TensorView::new(*dtype, shape.to_vec(), data).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

/// A zip file as `torch.save` lays it out: all entries stored, in one folder.
fn torch_file(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file(format!("archive/{name}"), stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A torch.save file and config in a folder.
fn torch_folder(entries: &[(&str, &[u8])]) -> TempDir {
    folder(&[("pytorch_model.bin", &torch_file(entries))])
}

/// The instructions that push a text.
fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// The instructions that push a tuple of numbers.
fn sizes(sizes: &[u32]) -> Vec<u8> {
    let numbers = sizes.iter().flat_map(|size| [b"J", &size.to_le_bytes()[..]].concat());
    [b"(".to_vec(), numbers.collect(), b"t".to_vec()].concat()
}

/// The instructions that push a tensor.
fn tensor(storage_type: &str, key: &str, offset: u32, shape: &[u32], strides: &[u32]) -> Vec<u8> {
    let mut code = b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    code.extend(text("storage"));
    code.extend(format!("ctorch\n{storage_type}\n").bytes());
    code.extend([text(key), text("cpu"), b"K\x00tQJ".to_vec(), offset.to_le_bytes().to_vec()].concat());
    code.extend([sizes(shape), sizes(strides), b"\x89ccollections\nOrderedDict\n)RtR".to_vec()].concat());
    code
}

/// A pickle of a dict with these keys and the instructions for their values.
fn pickle(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    [b"\x80\x02".to_vec(), dict(entries), b".".to_vec()].concat()
}

fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pairs: Vec<u8> =
        entries.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"}(".to_vec(), pairs, b"u".to_vec()].concat()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// SplitMix64: numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}

// What the golden checkpoints hold.

#[test]
fn every_golden_checkpoint_reads_whole() {
    for path in golden_folders() {
        let checkpoint = open(&path).unwrap();
        assert_eq!(checkpoint.folder(), path);
        assert!(checkpoint.config().as_object().unwrap().len() >= 3);
        let names: Vec<_> = checkpoint.tensors().map(|(name, _)| name).collect();
        assert!(names.len() > 10 && names.is_sorted(), "{path:?}");
        for (name, info) in checkpoint.tensors() {
            assert_eq!(info.dtype, SourceDtype::F32);
            assert_eq!(checkpoint.tensor(name), Some(info));
            let values = bits(&checkpoint, name).unwrap();
            assert!(values.iter().all(|value| f32::from_bits(*value).is_finite()), "{path:?} {name}");
            assert!(values.iter().any(|value| *value != 0), "{path:?} {name}");
        }
    }
}

#[test]
fn safetensors_agree_with_the_safetensors_crate() {
    for path in
        golden_folders().iter().map(|path| path.join("model.safetensors")).filter(|path| path.exists())
    {
        let whole = fs::read(&path).unwrap();
        let truth = SafeTensors::deserialize(&whole).unwrap();
        let checkpoint = open(path.parent().unwrap()).unwrap();
        assert_eq!(checkpoint.tensors().count(), truth.len());
        for (name, view) in truth.tensors() {
            assert_eq!(checkpoint.tensor(&name).unwrap().shape, view.shape());
            let (elements, _) = view.data().as_chunks::<4>();
            let expected: Vec<_> = elements.iter().map(|element| u32::from_le_bytes(*element)).collect();
            assert_eq!(bits(&checkpoint, &name).unwrap(), expected, "{path:?} {name}");
        }
    }
}

#[test]
fn original_checkpoints_equal_their_namesakes() {
    for name in ["mamba-tiny", "mamba2-groups"] {
        let (hugging_face, original) =
            (open(golden(name)).unwrap(), open(golden(&format!("{name}-original"))).unwrap());
        let mut renamed = 0;
        for (name, info) in original.tensors() {
            let new_name = name.replace("backbone.embedding.", "backbone.embeddings.");
            renamed += usize::from(new_name != name);
            // The original format keeps the head that is tied to the embedding; the other one leaves it out.
            let tied = name == "lm_head.weight" && hugging_face.tensor(name).is_none();
            let new_name = if tied { "backbone.embeddings.weight" } else { &new_name };
            assert_eq!(hugging_face.tensor(new_name).unwrap().shape, info.shape, "{name}");
            assert_eq!(bits(&hugging_face, new_name).unwrap(), bits(&original, name).unwrap(), "{name}");
        }
        assert_eq!(renamed, 1);
        for (name, _) in hugging_face.tensors() {
            assert!(original.tensor(&name.replace("embeddings", "embedding")).is_some(), "{name}");
        }
    }
}

#[test]
fn golden_configs_have_their_infinities() {
    let checkpoint = open(golden("mamba2-tiny")).unwrap();
    let limit = &checkpoint.config()["time_step_limit"];
    assert_eq!(json::number(&limit[0]), Some(0.0));
    assert_eq!(json::number(&limit[1]), Some(f64::INFINITY));
}

#[test]
fn parts_of_a_tensor_are_its_elements() {
    for name in ["mamba-tiny", "mamba-tiny-original"] {
        let checkpoint = open(golden(name)).unwrap();
        let tensor = "backbone.layers.1.mixer.in_proj.weight";
        let whole = bits(&checkpoint, tensor).unwrap();
        for (start, len) in [(0, 0), (0, 1), (17, 32), (whole.len() - 5, 5), (whole.len(), 0)] {
            let mut part = vec![0.0; len];
            checkpoint.read(tensor, start, &mut part).unwrap();
            let part: Vec<_> = part.into_iter().map(f32::to_bits).collect();
            assert_eq!(part, whole[start..start + len]);
        }
        for (start, len) in [(whole.len(), 1), (whole.len() - 1, 2), (usize::MAX, 1)] {
            let error = checkpoint.read(tensor, start, &mut vec![0.0; len]).unwrap_err();
            assert!(matches!(error, CheckpointError::ReadRange { .. }), "{error}");
        }
        let error = checkpoint.read("no.such", 0, &mut []).unwrap_err();
        assert!(matches!(error, CheckpointError::UnknownTensor { .. }), "{error}");
    }
}

// Element types.

#[test]
fn every_16_bit_float_converts_exactly() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let file = safetensors_file(&[
        ("half", Dtype::F16, &[256, 256], &all),
        ("brain", Dtype::BF16, &[256, 256], &all),
    ]);
    let strides = &[256, 1];
    let state = pickle(&[
        ("half", tensor("HalfStorage", "0", 0, &[256, 256], strides)),
        ("brain", tensor("BFloat16Storage", "1", 0, &[256, 256], strides)),
    ]);
    let folders = [
        folder(&[("model.safetensors", &file)]),
        torch_folder(&[("data.pkl", &state), ("data/0", &all), ("data/1", &all)]),
    ];
    for folder in folders {
        let checkpoint = open(folder.path()).unwrap();
        assert_eq!(checkpoint.tensor("half").unwrap().dtype, SourceDtype::F16);
        assert_eq!(checkpoint.tensor("brain").unwrap().dtype, SourceDtype::BF16);
        let (half, brain) = (bits(&checkpoint, "half").unwrap(), bits(&checkpoint, "brain").unwrap());
        for pattern in 0..=u16::MAX {
            let wide = f32::from_bits(half[usize::from(pattern)]);
            assert!(half_is(pattern, wide), "{pattern:#06x} {wide}");
            // A NaN may be made quiet on the way.
            let (wide, exact) = (brain[usize::from(pattern)], u32::from(pattern) << 16);
            assert!(
                wide == exact || wide == exact | 0x40_0000 && f32::from_bits(exact).is_nan(),
                "{pattern:#06x}"
            );
        }
    }
}

/// Whether `wide` is the binary16 number `pattern`, from the definition of the format.
fn half_is(pattern: u16, wide: f32) -> bool {
    let (exponent, fraction) = (i32::from(pattern >> 10 & 31), f64::from(pattern & 1023));
    let size = match exponent {
        0 => fraction / 1024.0 * 2f64.powi(-14),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => return wide.is_nan(),
        _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
    };
    f64::from(wide).abs() == size && wide.is_sign_negative() == (pattern >> 15 == 1)
}

#[test]
fn doubles_are_rounded() {
    let doubles = [0.1f64, -1e300, 1.0 + 2f64.powi(-30)];
    let data: Vec<u8> = doubles.iter().flat_map(|value| value.to_le_bytes()).collect();
    let folder = folder(&[("model.safetensors", &safetensors_file(&[("w", Dtype::F64, &[3], &data)]))]);
    let mut out = [0.0; 3];
    open(folder.path()).unwrap().read("w", 0, &mut out).unwrap();
    assert_eq!(out, [0.1, f32::NEG_INFINITY, 1.0]);
}

#[test]
fn other_types_are_listed_and_not_read() {
    let checkpoint = open(golden("mamba-tiny").join("golden.safetensors")).unwrap();
    let info = checkpoint.tensor("input_ids").unwrap();
    assert_eq!((&info.dtype, &info.shape[..]), (&SourceDtype::Other("I64".into()), &[40][..]));
    let error = bits(&checkpoint, "input_ids").unwrap_err().to_string();
    assert!(
        error.contains("input_ids") && error.contains("I64") && error.contains("golden.safetensors"),
        "{error}"
    );

    let state = pickle(&[
        ("steps", tensor("LongStorage", "9", 0, &[], &[])),
        ("w", tensor("FloatStorage", "0", 0, &[1], &[1])),
    ]);
    let folder = torch_folder(&[("data.pkl", &state), ("data/0", &floats(&[2.5]))]);
    let checkpoint = open(folder.path()).unwrap();
    assert_eq!(bits(&checkpoint, "w").unwrap(), [2.5f32.to_bits()]);
    let error = bits(&checkpoint, "steps").unwrap_err().to_string();
    assert!(error.contains("LongStorage"), "{error}");
}

#[test]
fn a_type_that_nobody_knows_is_refused_by_name() {
    let header = br#"{"w":{"dtype":"X7","shape":[1],"data_offsets":[0,4]}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
    let error = open(folder(&[("model.safetensors", &file)]).path()).unwrap_err();
    assert!(
        matches!(error, CheckpointError::SafetensorsHeader { .. }) && error.to_string().contains("X7"),
        "{error}"
    );
}

// Shards.

/// The tensors of `mamba2-tiny` in shards of five tensors, and their index.
fn shards() -> TempDir {
    let folder = folder(&[]);
    let whole = fs::read(golden("mamba2-tiny").join("model.safetensors")).unwrap();
    let mut tensors = SafeTensors::deserialize(&whole).unwrap().tensors();
    tensors.sort_by(|left, right| left.0.cmp(&right.0));
    let mut weight_map = serde_json::Map::new();
    for (number, shard) in tensors.chunks(5).enumerate() {
        let name = format!("model-{number:05}.safetensors");
        let views = shard.iter().map(|(name, view)| (name.clone(), view.clone()));
        fs::write(folder.path().join(&name), safetensors::serialize(views, None).unwrap()).unwrap();
        weight_map.extend(shard.iter().map(|(tensor, _)| (tensor.clone(), name.clone().into())));
    }
    let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": weight_map});
    fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    folder
}

#[test]
fn shards_are_one_checkpoint() {
    let whole = open(golden("mamba2-tiny")).unwrap();
    let folder = shards();
    for path in [folder.path().to_owned(), folder.path().join("model.safetensors.index.json")] {
        let parts = open(&path).unwrap();
        assert!(whole.tensors().map(|(name, _)| name).eq(parts.tensors().map(|(name, _)| name)));
        for (name, _) in whole.tensors() {
            assert_eq!(bits(&whole, name).unwrap(), bits(&parts, name).unwrap(), "{name}");
        }
    }
    let part = open(folder.path().join("model-00001.safetensors")).unwrap();
    assert_eq!(part.tensors().count(), 5);
}

#[test]
fn shards_of_torch_files_are_one_checkpoint() {
    let file = |name: &str, value: f32| {
        let state = pickle(&[(name, tensor("FloatStorage", "0", 0, &[1], &[1]))]);
        torch_file(&[("data.pkl", &state), ("data/0", &floats(&[value]))])
    };
    let folder = folder(&[
        ("pytorch_model.bin.index.json", br#"{"weight_map": {"a": "1.bin", "b": "2.bin"}}"#),
        ("1.bin", &file("a", 1.0)),
        ("2.bin", &file("b", 2.0)),
    ]);
    let checkpoint = open(folder.path()).unwrap();
    assert_eq!(bits(&checkpoint, "a").unwrap(), [1f32.to_bits()]);
    assert_eq!(bits(&checkpoint, "b").unwrap(), [2f32.to_bits()]);
}

#[test]
fn incomplete_shards_are_refused() {
    let folder = shards();
    let shard = folder.path().join("model-00001.safetensors");
    fs::copy(folder.path().join("model-00002.safetensors"), &shard).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(matches!(error, CheckpointError::MissingTensor { .. }), "{error}");
    fs::remove_file(&shard).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(
        matches!(&error, CheckpointError::MissingShard { shard, .. } if shard == "model-00001.safetensors"),
        "{error}"
    );

    let with_index = |index: &str| {
        let folder = self::folder(&[("model.safetensors.index.json", index.as_bytes())]);
        open(folder.path()).unwrap_err()
    };
    for name in ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "x/"] {
        let error = with_index(&format!(r#"{{"weight_map": {{"w": "{name}"}}}}"#));
        assert!(matches!(error, CheckpointError::FileName { .. }), "{name}: {error}");
    }
    for index in ["{}", r#"{"weight_map": 1}"#, r#"{"weight_map": {"w": 1}}"#] {
        assert!(matches!(with_index(index), CheckpointError::BadIndex(_)), "{index}");
    }
}

// The folder and its other files.

#[test]
fn what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(matches!(open(path.join("nowhere")), Err(CheckpointError::NotFound(_))));
    assert!(matches!(open(path), Err(CheckpointError::NoConfig(_))));
    fs::write(path.join("config.json"), "{").unwrap();
    assert!(matches!(open(path), Err(CheckpointError::Json { .. })));
    fs::write(path.join("config.json"), "[]").unwrap();
    assert!(matches!(open(path), Err(CheckpointError::NotAnObject(_))));
    fs::write(path.join("config.json"), r#"{"time_step_limit": [0.0, Infinity]}"#).unwrap();
    assert!(matches!(open(path), Err(CheckpointError::NoWeights(_))));
    fs::write(path.join("model.safetensors"), "version https://git-lfs.github.com/spec/v1\noid sha256:0")
        .unwrap();
    assert!(matches!(open(path), Err(CheckpointError::GitLfsPointer(_))));
    fs::remove_file(path.join("model.safetensors")).unwrap();
    fs::create_dir(path.join("model.safetensors")).unwrap();
    assert!(matches!(open(path), Err(CheckpointError::NotAFile(_))));
}

#[test]
fn companion_files_are_read_from_the_folder_only() {
    let file = safetensors_file(&[("w", Dtype::F32, &[1], &[0; 4])]);
    let folder = folder(&[("model.safetensors", &file), ("tokenizer.json", b"{\"a\": 1}")]);
    let checkpoint = open(folder.path()).unwrap();
    assert_eq!(checkpoint.file("tokenizer.json").unwrap().unwrap(), b"{\"a\": 1}");
    assert_eq!(checkpoint.file("generation_config.json").unwrap(), None);
    assert!(matches!(checkpoint.file("../tokenizer.json"), Err(CheckpointError::FileName { .. })));
    File::create(folder.path().join("huge.json")).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(checkpoint.file("huge.json"), Err(CheckpointError::TooLarge { .. })));
}

#[test]
fn a_tensor_larger_than_memory_is_no_obstacle() {
    // 256 GiB that take no room on the disk but for the last elements.
    let elements = 1usize << 36;
    let header =
        format!(r#"{{"w":{{"dtype":"F32","shape":[{elements}],"data_offsets":[0,{}]}}}}"#, elements * 4);
    let folder = folder(&[]);
    let mut file = File::create(folder.path().join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + elements as u64 * 4 - 4).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
    file.write_all(&floats(&[7.0])).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    let mut last = vec![1.0; 1_000_003];
    checkpoint.read("w", elements - last.len(), &mut last).unwrap();
    assert_eq!(last.pop(), Some(7.0));
    assert!(last.iter().all(|value| *value == 0.0));
}

// PyTorch files.

#[test]
fn tied_tensors_and_views_share_a_storage() {
    let state = pickle(&[
        ("whole", tensor("FloatStorage", "0", 0, &[2, 3], &[3, 1])),
        ("tied", tensor("FloatStorage", "0", 0, &[2, 3], &[3, 1])),
        ("row", tensor("FloatStorage", "0", 3, &[1, 3], &[9, 1])),
        ("number", tensor("FloatStorage", "0", 5, &[], &[])),
        ("transposed", tensor("FloatStorage", "0", 0, &[3, 2], &[1, 3])),
        ("epoch", b"K\x05".to_vec()),
    ]);
    let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let folder =
        torch_folder(&[("data.pkl", &state), ("data/0", &floats(&values)), ("byteorder", b"little")]);
    let checkpoint = open(folder.path()).unwrap();
    let as_bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    for (name, expected) in
        [("whole", &values[..]), ("tied", &values), ("row", &values[3..]), ("number", &values[5..])]
    {
        assert_eq!(bits(&checkpoint, name).unwrap(), as_bits(expected), "{name}");
    }
    let error = bits(&checkpoint, "transposed").unwrap_err();
    assert!(
        matches!(&error, CheckpointError::NotContiguous { tensor, .. } if tensor == "transposed"),
        "{error}"
    );
    assert_eq!(checkpoint.tensors().count(), 5);
}

#[test]
fn a_nested_state_dict_is_found() {
    let parameter = [
        b"ctorch._utils\n_rebuild_parameter\n(".to_vec(),
        tensor("FloatStorage", "0", 0, &[1], &[1]),
        b"\x88ccollections\nOrderedDict\n)RtR".to_vec(),
    ];
    let state = || dict(&[("w", parameter.concat())]);
    let data = floats(&[3.0]);
    for pickle in [
        pickle(&[("model", state()), ("step", tensor("LongStorage", "1", 0, &[], &[]))]),
        pickle(&[("optimizer", dict(&[])), ("state_dict", dict(&[("model", state())]))]),
    ] {
        let checkpoint = torch_folder(&[("data.pkl", &pickle), ("data/0", &data)]);
        assert_eq!(bits(&open(checkpoint.path()).unwrap(), "w").unwrap(), [3f32.to_bits()]);
    }
    let nothing = torch_folder(&[("data.pkl", &pickle(&[("a", b"N".to_vec())]))]);
    let error = open(nothing.path()).unwrap_err();
    assert!(matches!(error, CheckpointError::Pickle { source: PickleError::NoStateDict, .. }), "{error}");
}

#[test]
fn a_pickle_that_names_os_system_is_refused() {
    let attack = [b"\x80\x02cos\nsystem\n(".as_slice(), &text("touch /tmp/owned"), b"tR."].concat();
    let error = open(torch_folder(&[("data.pkl", &attack)]).path()).unwrap_err();
    assert!(
        matches!(&error, CheckpointError::Pickle { source: PickleError::Global { name, .. }, .. } if name == "os.system")
    );
    assert!(error.to_string().contains("os.system"), "{error}");
}

#[test]
fn damaged_archives_are_refused() {
    let state = |offset, shape: &[u32]| {
        let strides = vec![1; shape.len()];
        pickle(&[("w", tensor("FloatStorage", "0", offset, shape, &strides))])
    };
    let (good, data) = (state(0, &[4]), floats(&[1.0; 4]));
    let error = |entries: &[(&str, &[u8])]| open(torch_folder(entries).path()).unwrap_err();
    assert!(matches!(error(&[("x", b"")]), CheckpointError::NoPickle(_)));
    assert!(matches!(error(&[("data.pkl", &good)]), CheckpointError::MissingStorage { .. }));
    let big = error(&[("data.pkl", &good), ("data/0", &data), ("byteorder", b"big")]);
    assert!(matches!(big, CheckpointError::BigEndian(_)));
    for bad in [state(0, &[5]), state(1, &[4]), state(i32::MAX as u32, &[4])] {
        let error = error(&[("data.pkl", &bad), ("data/0", &data)]);
        assert!(matches!(&error, CheckpointError::TensorBounds { tensor, .. } if tensor == "w"), "{error}");
    }
    for bad in [state(u32::MAX, &[4]), state(0, &[i32::MAX as u32; 4]), state(0, &[1; 9])] {
        let error = error(&[("data.pkl", &bad), ("data/0", &data)]);
        assert!(
            matches!(&error, CheckpointError::Pickle { source: PickleError::Value { .. }, .. }),
            "{error}"
        );
    }

    let file = |bytes: &[u8]| open(folder(&[("pytorch_model.bin", bytes)]).path()).unwrap_err();
    let legacy = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";
    assert!(matches!(file(legacy), CheckpointError::LegacyTorch(_)));
    assert!(matches!(file(b"hello"), CheckpointError::Zip { .. }));
    assert!(matches!(file(b""), CheckpointError::Zip { .. }));
}

#[test]
fn compressed_entries_are_refused() {
    for entry in ["data.pkl", "data/0"] {
        let state = pickle(&[("w", tensor("FloatStorage", "0", 0, &[1], &[1]))]);
        let mut file = torch_file(&[("data.pkl", &state), ("data/0", &floats(&[1.0]))]);
        // The method stands a fixed way before the name, in the entry's own header and in the directory's.
        let name = format!("archive/{entry}");
        let found = |magic: &[u8], to_name: usize, file: &[u8]| {
            (0..file.len()).find(|at| {
                file[*at..].starts_with(magic) && file[at + to_name..].starts_with(name.as_bytes())
            })
        };
        let local = found(b"PK\x03\x04", 30, &file).unwrap();
        let central = found(b"PK\x01\x02", 46, &file).unwrap();
        file[local + 8] = 8;
        file[central + 10] = 8;
        let error = open(folder(&[("pytorch_model.bin", &file)]).path()).unwrap_err();
        assert!(
            matches!(&error, CheckpointError::CompressedEntry { entry, .. } if *entry == name),
            "{error}"
        );
    }
}

// Damage of every kind.

#[test]
fn a_safetensors_header_cannot_lie() {
    let refused = |header: &str, data: usize| {
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat();
        open(folder(&[("model.safetensors", &file)]).path()).is_err()
    };
    assert!(!refused(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8));
    for (header, data) in [
        (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 7),
        (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 9),
        (r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8),
        (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#, 12),
        (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, 8),
        (
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
            12,
        ),
        (r#"{"a":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,8]}}"#, 8),
        (r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}"#, 8),
        (r#"{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,18446744073709551615]}}"#, 8),
        (r#"{"a":1}"#, 0),
        ("[]", 0),
        ("", 0),
    ] {
        assert!(refused(header, data), "{header}");
    }
    for length in [u64::MAX, u64::MAX - 8, 1 << 40, 3] {
        let file = [&length.to_le_bytes()[..], b"{}"].concat();
        let error = open(folder(&[("model.safetensors", &file)]).path()).unwrap_err();
        assert!(matches!(error, CheckpointError::FileLength { .. }), "{error}");
    }
    let folder = folder(&[("model.safetensors", &(1u64 << 30).to_le_bytes())]);
    let file = File::options().write(true).open(folder.path().join("model.safetensors")).unwrap();
    file.set_len(1 << 31).unwrap();
    assert!(matches!(open(folder.path()), Err(CheckpointError::TooLarge { .. })));
}

/// A golden checkpoint's folder with the weights to damage, and their bytes.
fn victim(name: &str, weights: &str) -> (TempDir, PathBuf, Vec<u8>) {
    let bytes = fs::read(golden(name).join(weights)).unwrap();
    let folder = folder(&[(weights, &bytes)]);
    let path = folder.path().join(weights);
    (folder, path, bytes)
}

#[test]
fn every_cut_is_refused() {
    for (name, weights, edges) in
        [("mamba-tiny", "model.safetensors", 3500), ("mamba-tiny-original", "pytorch_model.bin", 4500)]
    {
        let (folder, path, bytes) = victim(name, weights);
        let file = File::options().write(true).open(path).unwrap();
        // From the end, so that each cut only shortens the file: every length near both ends, some between.
        let near_an_end = |len: &usize| *len < edges || bytes.len() - len < edges || len.is_multiple_of(97);
        for len in (0..bytes.len()).rev().filter(near_an_end) {
            file.set_len(len as u64).unwrap();
            assert!(read_all(folder.path()).is_err(), "{name} cut at {len}");
        }
    }
}

#[test]
fn no_change_of_bytes_makes_it_panic() {
    for (name, weights, rounds) in
        [("mamba-tiny", "model.safetensors", 4000), ("mamba-tiny-original", "pytorch_model.bin", 8000)]
    {
        let (folder, path, bytes) = victim(name, weights);
        let mut random = Random(1);
        let mut refused = 0;
        for _ in 0..rounds {
            let mut changed = bytes.clone();
            for _ in 0..=random.below(4) {
                // Half of the changes in the 4 KiB at the beginning, where headers and the pickle stand, a quarter at
                // the end, where the archive's directory stands.
                let at = match random.below(4) {
                    0 | 1 => random.below(4096),
                    2 => bytes.len() - 1 - random.below(4096),
                    _ => random.below(bytes.len()),
                };
                changed[at] = if random.below(2) == 0 {
                    random.below(256) as u8
                } else {
                    changed[at] ^ 1 << random.below(8)
                };
            }
            fs::write(&path, changed).unwrap();
            refused += usize::from(read_all(folder.path()).is_err());
        }
        // Most changes hit a header, and some of these only a name.
        assert!(refused > rounds / 4 && refused < rounds, "{name}: {refused} of {rounds}");
    }
}
