//! Prompts read in f16 on the emulated device: near what the scalar definition makes of them, and its states go on anywhere.

use sarit_core::{DType, Engine, Model, Sampling, Scalar, Scratch, State};
use sarit_cuda::{Prompts, Request, Streams};
use sarit_cuda_emulator::Emulator;
use sarit_tests::{Lent, converted_with_window, difference, families, golden, mamba2, tokens};

/// Of all prompts that are longer than a block of held tokens.
const HALVES: Prompts = Prompts::Halves { least: 17 };

/// What the scalar definition says of the last of `ids`, and the state after it.
fn scalar(model: &Model<'_>, ids: &[u32]) -> (Vec<f32>, Vec<f32>) {
    let mut lent = Lent::new(model, 16);
    let mut state = State::init(model, &mut lent.state).unwrap();
    let mut scratch = Scratch::new(model, &mut lent.scratch, 16).unwrap();
    let engine = Engine::new(*model, Scalar);
    let (last, before) = ids.split_last().unwrap();
    engine.feed(&mut state, &mut scratch, before).unwrap();
    let logits = engine.step(&mut state, &mut scratch, *last).unwrap().to_vec();
    (logits, floats(&state))
}

fn floats(state: &State<'_>) -> Vec<f32> {
    state.data().as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
}

/// The same of `ids` read in parts that end at `cuts`, each by the processor or by the device in turn, the last token exactly.
fn halves(device: Emulator, model: &Model<'_>, ids: &[u32], cuts: &[usize]) -> (Vec<f32>, Vec<f32>) {
    let mut lent = Lent::new(model, 16);
    let mut state = State::init(model, &mut lent.state).unwrap();
    let mut scratch = Scratch::new(model, &mut lent.scratch, 16).unwrap();
    let engine = Engine::new(*model, Scalar);
    let mut streams = Streams::with_prompts(device, *model, 2, ids.len(), HALVES).unwrap();
    let (last, mut start) = (ids.len() - 1, 0);
    for (i, end) in cuts.iter().copied().chain([last]).enumerate() {
        if i % 2 == 0 {
            streams.import(1, &state).unwrap();
            streams.feed(1, &ids[start..end]).unwrap();
            streams.export(1, &mut state).unwrap();
        } else {
            engine.feed(&mut state, &mut scratch, &ids[start..end]).unwrap();
        }
        start = end;
    }
    streams.import(1, &state).unwrap();
    let logits = streams.step(1, ids[last]).unwrap().to_vec();
    streams.export(1, &mut state).unwrap();
    (logits, floats(&state))
}

fn check(what: &str, device: Emulator, model: &Model<'_>, count: usize, cuts: &[usize], most: [f64; 2]) {
    let ids = tokens(count, model.vocab_len());
    let (got, want) = (halves(device, model, &ids, cuts), scalar(model, &ids));
    let [logits, state] = [difference(&got.0, &want.0), difference(&got.1, &want.1)];
    assert!(logits < most[0] && state < most[1], "{what}: logits differ by {logits}, states by {state}");
    // It is another way, not the same one by mistake.
    assert!(logits > 0.0, "{what}: the same bits");
}

/// How far logits and states may be off, in their standard deviations: with exact weights, and with codes, for which the scalar
/// definition has inputs of products in codes too, and f16 has them better.
const EXACT: [f64; 2] = [0.01, 0.05];
const CODES: [f64; 2] = [0.1, 0.3];

#[test]
fn every_family_is_near_scalar() {
    for name in families() {
        let file = converted_with_window(&golden(&name), DType::F32, Some(20));
        let model = Model::from_bytes(&file).unwrap();
        check(&name, Emulator::new(2, 5), &model, 30, &[], EXACT);
    }
}

/// Chunks that are full and not, tokens held before, states of several tiles, and inputs that end within a group.
#[test]
fn chunks_are_near_scalar() {
    for (d_state, d_inner, weights, most) in [
        (16, 192, DType::F32, EXACT),
        (48, 192, DType::F16, EXACT),
        (128, 768, DType::Q8, CODES),
        (64, 192, DType::Q4, CODES),
    ] {
        let file = mamba2(d_state, d_inner, weights);
        let model = Model::from_bytes(&file).unwrap();
        for (count, cuts) in [(215, &[][..]), (129, &[]), (193, &[50, 61])] {
            let what = format!("{d_state} x {d_inner}, {}, {count} tokens, cut at {cuts:?}", weights.name());
            // With blocks for one part of the chunks, and for two or three.
            for grid in [3, 9, 13] {
                check(&what, Emulator::new(grid, 7), &model, count, cuts, most);
            }
        }
    }
}

/// The kernels made for a model, whose lengths are constants.
#[test]
fn kernels_made_for_a_model_are_near_scalar() {
    let file = mamba2(32, 192, DType::Q8);
    let model = Model::from_bytes(&file).unwrap();
    check("special", Emulator::special(3, 7), &model, 90, &[21, 28], CODES);
}

/// Streams, single tokens and short prompts do not change, and kernels made for prompts in f16 let several streams choose.
#[test]
fn what_is_no_prompt_is_exact() {
    let file = mamba2(16, 192, DType::Q8);
    let model = Model::from_bytes(&file).unwrap();
    let ids = tokens(16, model.vocab_len());
    let logits = |device, prompts| {
        let mut streams = Streams::with_prompts(device, model, 2, 40, prompts).unwrap();
        streams.feed(0, &ids).unwrap();
        let logits =
            [streams.step(0, 3).unwrap().to_vec(), streams.step_all(&[(0, 1), (1, 2)]).unwrap().to_vec()];
        let request = |stream| Request { stream, token: 5, sampling: Sampling::default() };
        (logits, streams.generate(&mut [0, 1].map(request), 7, &[]).unwrap())
    };
    for seed in [3, 8] {
        let exact = logits(Emulator::new(2, seed), Prompts::Exact);
        assert_eq!(logits(Emulator::new(2, seed), HALVES), exact);
        assert_eq!(logits(Emulator::special(3, seed), HALVES), exact);
    }
}
