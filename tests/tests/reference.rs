//! The engine against the f64 reference, which shares no code with it.

use sarit_core::{DType, Model, Scalar};
use sarit_quant::checkpoint::Checkpoint;
use sarit_reference::{Options, Tensor, Weights, logits};
use sarit_tests::{converted, converted_with_window, difference, families, golden, run, tokens};

/// A golden checkpoint for the reference.
fn weights(name: &str) -> Weights {
    let checkpoint = Checkpoint::open(&golden(name)).unwrap();
    let tensors = checkpoint.tensors().map(|(name, info)| {
        let mut data = vec![0.0; info.elements()];
        checkpoint.read(name, 0, &mut data).unwrap();
        let data = data.into_iter().map(f64::from).collect();
        (name.to_owned(), Tensor { shape: info.shape.clone(), data })
    });
    Weights { config: checkpoint.config().clone(), tensors: tensors.collect() }
}

fn reference(name: &str, ids: &[u32], window: Option<usize>) -> Vec<f32> {
    logits(&weights(name), ids, &Options { window }).into_iter().flatten().map(|x| x as f32).collect()
}

/// 200 tokens: a state that drifts would show.
#[test]
fn every_family_follows_its_equations() {
    for name in &families() {
        let file = converted(&golden(name), DType::F32);
        let model = Model::from_bytes(&file).unwrap();
        let ids = tokens(200, model.vocab_len());
        let worst = difference(&run(model, Scalar, &ids, 64).0, &reference(name, &ids, None));
        println!("{name}: largest difference {worst:.2e} of the standard deviation over 200 tokens");
        assert!(worst <= 1e-4, "{name}: {worst}");
    }
}

/// Beyond its window attention is sliding-window attention, positions staying absolute.
#[test]
fn a_window_is_a_sliding_mask() {
    for name in ["granite-h-tiny", "hybrid-phi-mamba-tiny", "zamba2-tiny", "jamba-tiny"] {
        let ids = tokens(60, 97);
        for window in [1, 16] {
            let file = converted_with_window(&golden(name), DType::F32, Some(window));
            let got = run(Model::from_bytes(&file).unwrap(), Scalar, &ids, 7).0;
            let worst = difference(&got, &reference(name, &ids, Some(window)));
            println!("{name}, window {window}: {worst:.2e} of the standard deviation");
            assert!(worst <= 1e-4, "{name}, window {window}: {worst}");
            let full = reference(name, &ids, None);
            assert!(difference(&got, &full) > 1e-3, "{name}: the window makes no difference");
        }
    }
}
