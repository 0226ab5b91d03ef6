//! Frame models: against golden results, against the f64 reference, and across back ends.

use std::collections::BTreeMap;
use std::path::Path;

use sarit_core::{DType, Engine, MAX_INTERVAL, Model, Scalar, Scratch, State, StepError, argmax};
use sarit_reference::Weights;
use sarit_tests::{
    Lent, assert_same_bits, backends, converted, difference, golden, golden_frames, golden_tensor, numbers,
    run_frames, write_checkpoint,
};
use serde_json::{Value, json};

const KWS: &str = "mambalite-kws";

/// Largest difference of a frame's logits, over the largest magnitude among them.
fn worst_share(got: &[f32], want: &[f32], classes: usize) -> f32 {
    let share = |(got, want): (&[f32], &[f32])| {
        let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
        got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / largest
    };
    got.chunks(classes).zip(want.chunks(classes)).map(share).fold(0f32, f32::max)
}

#[test]
fn the_keyword_spotter_gives_the_golden_logits_after_every_frame() {
    let (frames, want) = (golden_tensor(KWS, "input"), golden_tensor(KWS, "logits"));
    let run = |weights| {
        let file = converted(&golden_frames(KWS), weights);
        let model = Model::from_bytes(&file).unwrap();
        assert_eq!((model.frame_len(), model.output_len(), model.vocab_len()), (40, 10, 0));
        run_frames(model, Scalar, &frames, 1).0
    };
    let got = run(DType::F32);
    assert_eq!(got.len(), 100 * 10);
    let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    println!("f32: largest difference of a logit {worst:.1e}");
    assert!(worst <= 1e-4);
    for (weights, bound) in [(DType::F16, 0.003), (DType::Q8, 0.03)] {
        let got = run(weights);
        let worst = worst_share(&got, &want, 10);
        let end = worst_share(&got[990..], &want[990..], 10);
        println!(
            "{}: largest difference {worst:.4} of a frame's largest logit, {end:.4} in the last",
            weights.name()
        );
        assert!(worst <= bound);
        assert_eq!(argmax(&got[990..]), argmax(&want[990..]));
    }
}

/// A walk; what the shipped file makes of the whole test set is a test of `sarit eval frames`.
#[test]
fn the_motion_classifier_gives_the_golden_logits_after_every_frame() {
    let (frames, want) = (golden_tensor("motion", "input"), golden_tensor("motion", "logits"));
    let run = |weights| {
        let file = converted(&golden_frames("motion"), weights);
        run_frames(Model::from_bytes(&file).unwrap(), Scalar, &frames, 1).0
    };
    let exact = run(DType::F32);
    assert_eq!(exact.len(), 100 * 4);
    let worst = exact.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    let q8 = run(DType::Q8);
    println!(
        "f32: largest difference of a logit {worst:.1e}; q8: {:.4} of a frame's largest",
        worst_share(&q8, &want, 4)
    );
    assert!(worst <= 1e-4);
    let classes = |logits: &[f32]| logits.chunks(4).map(argmax).collect::<Vec<_>>();
    assert_eq!(classes(&q8)[20..], classes(&want)[20..]);
    assert_eq!(classes(&want)[99], 2);
}

/// Shape of a checkpoint as `training/sensors` writes it.
struct Shape {
    layers: usize,
    norm: bool,
    residual: bool,
    pool: &'static str,
    task: &'static str,
}

const SHAPES: [Shape; 4] = [
    Shape { layers: 1, norm: false, residual: false, pool: "max", task: "regression" },
    Shape { layers: 1, norm: true, residual: true, pool: "mean", task: "classification" },
    Shape { layers: 3, norm: true, residual: true, pool: "last", task: "classification" },
    Shape { layers: 2, norm: false, residual: true, pool: "mean", task: "regression" },
];

impl Shape {
    fn config(&self) -> Value {
        json!({
            "model_type": "mamba_frame_classifier", "input_size": 5, "hidden_size": 24, "state_size": 8,
            "conv_kernel": 4, "expand": 2, "time_step_rank": 2, "num_hidden_layers": self.layers,
            "norm": self.norm.then_some("rms"), "norm_eps": 1e-5, "residual": self.residual, "pool": self.pool,
            "num_labels": 3, "labels": ["a", "b", "c"], "task": self.task, "frame_interval_s": 0.01,
            "columns": ["v", "w", "x", "y", "z"],
        })
    }

    /// Writes the configuration and pseudo-random weights into `folder`.
    fn write(&self, folder: &Path) {
        let mut tensors: BTreeMap<String, (Vec<usize>, f32)> = BTreeMap::new();
        let mut add = |name: String, shape: &[usize], size: f32| {
            tensors.insert(name, (shape.to_vec(), size));
        };
        add("linear_in.weight".into(), &[24, 5], 1.0);
        add("linear_in.bias".into(), &[24], 0.5);
        add("classifier.weight".into(), &[3, 24], 0.5);
        add("classifier.bias".into(), &[3], 0.5);
        let plain = self.layers == 1 && !self.norm;
        for i in 0..self.layers {
            let prefix = if plain { "mamba".to_owned() } else { format!("layers.{i}.mamba") };
            let mut mixer = |name: &str, shape: &[usize], size| add(format!("{prefix}.{name}"), shape, size);
            mixer("in_proj.weight", &[96, 24], 0.4);
            mixer("conv1d.weight", &[48, 1, 4], 0.7);
            mixer("conv1d.bias", &[48], 0.2);
            mixer("x_proj.weight", &[18, 48], 0.5);
            mixer("dt_proj.weight", &[48, 2], 1.0);
            mixer("dt_proj.bias", &[48], 1.0);
            mixer("A_log", &[48, 8], 1.0);
            mixer("D", &[48], 1.0);
            mixer("out_proj.weight", &[24, 48], 0.5);
            if self.norm {
                add(format!("layers.{i}.norm.weight"), &[24], 1.0);
            }
        }
        if self.norm {
            add("norm.weight".into(), &[24], 1.0);
        }
        write_checkpoint(folder, &self.config().to_string(), &tensors, self.layers as u64);
    }
}

/// Frames of 5 numbers.
fn some_frames(count: usize) -> Vec<f32> {
    numbers(7).take(count * 5).collect()
}

#[test]
fn every_shape_follows_its_equations_at_any_interval() {
    for shape in &SHAPES {
        let folder = tempfile::tempdir().unwrap();
        shape.write(folder.path());
        let file = converted(folder.path(), DType::F32);
        let model = Model::from_bytes(&file).unwrap();
        let (frames, mut random) = (some_frames(120), numbers(9));
        // From 1/8 to 8 times as long as in training; now and then just as long.
        let intervals: Vec<f32> =
            (0..120).map(|i| if i % 5 == 0 { 1.0 } else { (3.0 * random.next().unwrap()).exp2() }).collect();
        let mut lent = Lent::new(&model, 1);
        let mut state = State::init(&model, &mut lent.state).unwrap();
        let mut scratch = Scratch::new(&model, &mut lent.scratch, 1).unwrap();
        let engine = Engine::new(model, Scalar);
        let timed: Vec<(Vec<f64>, f64)> = frames
            .chunks(5)
            .zip(&intervals)
            .map(|(frame, &interval)| (frame.iter().map(|&x| x.into()).collect(), interval.into()))
            .collect();
        let want = sarit_reference::results(&Weights::load(folder.path()), &timed);
        let want: Vec<f32> = want.into_iter().flatten().map(|x| x as f32).collect();
        let mut got = Vec::new();
        for (frame, &interval) in frames.chunks(5).zip(&intervals) {
            got.extend_from_slice(engine.step_frame(&mut state, &mut scratch, frame, interval).unwrap());
        }
        let worst = difference(&got, &want);
        println!("{}: largest difference {worst:.1e} of the standard deviation", shape.config());
        assert!(worst < 1e-4);
        let steady = run_frames(model, Scalar, &frames, 1).0;
        assert!(difference(&steady, &want) > 0.01, "the intervals make no difference");
    }
}

#[test]
fn every_back_end_and_chunk_size_gives_the_same_bits() {
    let backends = backends();
    let folders: Vec<tempfile::TempDir> = SHAPES.iter().map(|_| tempfile::tempdir().unwrap()).collect();
    SHAPES.iter().zip(&folders).for_each(|(shape, folder)| shape.write(folder.path()));
    let kws = golden_frames(KWS);
    for source in folders.iter().map(tempfile::TempDir::path).chain([kws.as_path()]) {
        for weights in DType::ALL {
            let file = converted(source, weights);
            let model = Model::from_bytes(&file).unwrap();
            let frames: Vec<f32> = numbers(3).take(60 * model.frame_len()).collect();
            let (results, state) = run_frames(model, Scalar, &frames, 1);
            assert!(results.iter().all(|x| x.is_finite()));
            let last = &results[results.len() - model.output_len()..];
            for cpu in &backends {
                for chunk in [1, 7, 60] {
                    let what = format!("{} {} {cpu:?} chunk {chunk}", source.display(), weights.name());
                    let (got, got_state) = run_frames(model, cpu, &frames, chunk);
                    assert_same_bits(&got[got.len() - last.len()..], last, &what);
                    assert_eq!(got_state, state, "{what}");
                }
            }
        }
    }
}

#[test]
fn wrong_calls_leave_the_state_as_it_was() {
    let file = converted(&golden_frames(KWS), DType::Q8);
    let model = Model::from_bytes(&file).unwrap();
    let mut lent = Lent::new(&model, 4);
    let mut state = State::init(&model, &mut lent.state).unwrap();
    let mut scratch = Scratch::new(&model, &mut lent.scratch, 4).unwrap();
    let engine = Engine::new(model, Scalar);
    let frames: Vec<f32> = numbers(5).take(4 * 40).collect();
    engine.feed_frames(&mut state, &mut scratch, &frames, 1.0).unwrap();
    let before = (state.position(), state.hash());
    assert_eq!(before.0, 4);

    let mut refused = |frames: &[f32], interval, error| {
        assert_eq!(engine.step_frame(&mut state, &mut scratch, frames, interval).err(), Some(error));
        assert_eq!((state.position(), state.hash()), before, "{error}");
    };
    let frame = &frames[..40];
    let with = |i: usize, x: f32| {
        let mut frame = frame.to_vec();
        frame[i] = x;
        frame
    };
    refused(&frame[..39], 1.0, StepError::FrameLen { need: 40, have: 39 });
    refused(&[], 1.0, StepError::FrameLen { need: 40, have: 0 });
    refused(&frames[..80], 1.0, StepError::FrameLen { need: 40, have: 80 });
    refused(&with(7, f32::NAN), 1.0, StepError::FrameNotFinite(7));
    refused(&with(39, f32::NEG_INFINITY), 1.0, StepError::FrameNotFinite(39));
    for interval in [0.0, -1.0, f32::NAN, f32::INFINITY, MAX_INTERVAL * 1.01] {
        refused(frame, interval, StepError::Interval);
    }
    let mut late = frames.clone();
    late[159] = f32::INFINITY;
    assert_eq!(engine.feed_frames(&mut state, &mut scratch, &late, 1.0), Err(StepError::FrameNotFinite(159)));
    assert_eq!(
        engine.feed_frames(&mut state, &mut scratch, &frames[..41], 1.0),
        Err(StepError::FrameLen { need: 40, have: 41 })
    );
    assert_eq!(engine.feed(&mut state, &mut scratch, &[0]), Err(StepError::TakesFrames));
    assert_eq!(engine.step(&mut state, &mut scratch, 0).err(), Some(StepError::TakesFrames));
    assert_eq!((state.position(), state.hash()), before);

    let tokens = converted(&golden("mamba-tiny"), DType::Q8);
    let tokens = Model::from_bytes(&tokens).unwrap();
    let mut other = Lent::new(&tokens, 1);
    let mut other_state = State::init(&tokens, &mut other.state).unwrap();
    let mut other_scratch = Scratch::new(&tokens, &mut other.scratch, 1).unwrap();
    let engine = Engine::new(tokens, Scalar);
    let error = engine.step_frame(&mut other_state, &mut other_scratch, frame, 1.0).err();
    assert_eq!(error, Some(StepError::TakesTokens));
    assert_eq!(
        engine.step_frame(&mut state, &mut other_scratch, frame, 1.0).err(),
        Some(StepError::OtherState)
    );
}

/// The pool goes on from a snapshot too.
#[test]
fn a_snapshot_goes_on_where_it_ended() {
    for shape in &SHAPES {
        let folder = tempfile::tempdir().unwrap();
        shape.write(folder.path());
        let file = converted(folder.path(), DType::Q8);
        let model = Model::from_bytes(&file).unwrap();
        let frames = some_frames(40);
        let (want, want_state) = run_frames(model, Scalar, &frames, 40);
        let (mut lent, mut again) = (Lent::new(&model, 20), Lent::new(&model, 20));
        let mut state = State::init(&model, &mut lent.state).unwrap();
        let mut scratch = Scratch::new(&model, &mut lent.scratch, 20).unwrap();
        let engine = Engine::new(model, Scalar);
        let (first, second) = frames.split_at(100);
        engine.feed_frames(&mut state, &mut scratch, first, 1.0).unwrap();
        let mut snapshot = vec![0; State::snapshot_bytes(&model)];
        state.save(&mut snapshot).unwrap();
        let mut state = State::load(&model, &snapshot, &mut again.state).unwrap();
        engine.feed_frames(&mut state, &mut scratch, &second[..95], 1.0).unwrap();
        let got = engine.step_frame(&mut state, &mut scratch, &second[95..], 1.0).unwrap();
        assert_same_bits(got, &want, "results");
        assert_eq!(state.hash(), want_state);
    }
}
