//! The reference against golden logits, which the models' own libraries computed in f32: the difference is theirs.
//! Against logits computed in f64 it is below 1e-13. `SARIT_GOLDEN` names another folder of golden folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use sarit_quant::checkpoint::Checkpoint;
use sarit_reference::{Options, Tensor, Weights, logits};

/// The largest difference allowed, in standard deviations of the logits.
const TOLERANCE: f64 = 2e-5;

/// One golden folder.
struct Golden {
    name: String,
    weights: Weights,
    ids: Vec<u32>,
    /// `[T][V]`
    logits: Vec<Vec<f64>>,
}

impl Golden {
    fn read(folder: &Path) -> Self {
        let name = folder.file_name().expect("a golden folder has a name").to_string_lossy().into_owned();
        let bytes =
            std::fs::read(folder.join("golden.safetensors")).unwrap_or_else(|e| panic!("{name}: {e}"));
        let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let ids = file.tensor("input_ids").expect("golden.safetensors holds input_ids");
        let golden = file.tensor("logits").expect("golden.safetensors holds logits");
        let values: Vec<f64> = match golden.dtype() {
            Dtype::F32 => elements(golden.data()).map(|b| f32::from_le_bytes(b).into()).collect(),
            Dtype::F64 => elements(golden.data()).map(f64::from_le_bytes).collect(),
            other => panic!("{name}: logits of type {other:?}"),
        };
        Self {
            name,
            weights: load(folder),
            ids: elements(ids.data()).map(|b| i64::from_le_bytes(b) as u32).collect(),
            logits: values.chunks_exact(golden.shape()[1]).map(<[f64]>::to_vec).collect(),
        }
    }

    fn run(&self, window: Option<usize>) -> Vec<Vec<f64>> {
        logits(&self.weights, &self.ids, &Options { window })
    }

    /// The largest difference of `logits` from the golden ones, in standard deviations of the latter.
    fn difference(&self, logits: &[Vec<f64>]) -> f64 {
        let (golden, logits) = (self.logits.concat(), logits.concat());
        assert_eq!(logits.len(), golden.len(), "{}: the logits have another shape", self.name);
        let mean = golden.iter().sum::<f64>() / golden.len() as f64;
        let variance = golden.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / golden.len() as f64;
        let largest = logits.iter().zip(&golden).map(|(a, b)| (a - b).abs()).max_by(f64::total_cmp);
        largest.expect("there are logits") / variance.sqrt()
    }
}

fn elements<const SIZE: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; SIZE]> {
    bytes.as_chunks().0.iter().copied()
}

/// Safetensors by the reference's own reader, PyTorch files by the importer's.
fn load(folder: &Path) -> Weights {
    if folder.join("model.safetensors").exists() {
        return Weights::load(folder);
    }
    let checkpoint = Checkpoint::open(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut tensors = BTreeMap::new();
    for (name, info) in checkpoint.tensors() {
        let mut values = vec![0.0; info.elements()];
        checkpoint.read(name, 0, &mut values).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let data = values.into_iter().map(f64::from).collect();
        tensors.insert(name.to_owned(), Tensor { shape: info.shape.clone(), data });
    }
    Weights { config: checkpoint.config().clone(), tensors }
}

fn goldens() -> Vec<Golden> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden");
    let root = std::env::var_os("SARIT_GOLDEN").map_or(here, PathBuf::from);
    let entries = std::fs::read_dir(&root).unwrap_or_else(|e| panic!("{}: {e}", root.display()));
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    folders.retain(|folder| folder.join("golden.safetensors").exists());
    folders.sort();
    assert!(!folders.is_empty(), "{} holds no golden folders", root.display());
    folders.iter().map(|folder| Golden::read(folder)).collect()
}

#[test]
fn every_golden_agrees() {
    let mut wrong = Vec::new();
    for golden in goldens() {
        let difference = golden.difference(&golden.run(None));
        println!("{:24} {difference:.2e}", golden.name);
        if difference.is_nan() || difference >= TOLERANCE {
            wrong.push((golden.name, difference));
        }
    }
    assert!(wrong.is_empty(), "differences in standard deviations of the logits: {wrong:?}");
}

#[test]
fn a_window_that_holds_everything_changes_nothing() {
    for golden in goldens() {
        assert_eq!(golden.run(Some(golden.ids.len())), golden.run(None), "{}", golden.name);
    }
}

#[test]
fn a_short_window_changes_only_what_looks_beyond_it() {
    const WINDOW: usize = 8;
    for golden in goldens() {
        let (short, full) = (golden.run(Some(WINDOW)), golden.run(None));
        assert_eq!(short[..WINDOW], full[..WINDOW], "{}", golden.name);
        let attends = golden.weights.tensors.keys().any(|name| name.contains("k_proj"));
        for (short, full) in short[WINDOW..].iter().zip(&full[WINDOW..]) {
            assert_eq!(short != full, attends, "{}", golden.name);
        }
    }
}
