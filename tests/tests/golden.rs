//! Logits of converted golden checkpoints, against the reference and across back ends.

use sarit_core::{DType, Model, Scalar, StateDType};
use sarit_tests::{
    Reference, assert_same_bits, backends, converted, difference, families, golden, run, run_many, tokens,
};

/// Both are f32 computations in different orders; Zamba2's is the roughest at 3e-5.
#[test]
fn f32_logits_are_those_of_the_reference() {
    for name in &families() {
        let reference = Reference::load(name);
        let file = converted(&golden(name), DType::F32);
        let model = Model::from_bytes(&file).unwrap();
        let (logits, _) = run(model, Scalar, &reference.ids, 1);
        let worst = difference(&logits, &reference.logits);
        println!("{name}: largest difference {worst:.2e} of the standard deviation");
        assert!(worst <= 1e-4, "{name}");
    }
}

#[test]
fn every_back_end_and_chunk_size_gives_the_same_bits() {
    let backends = backends();
    let cases = DType::ALL.map(|weights| (weights, StateDType::F32));
    let cases = cases.into_iter().chain([StateDType::F16, StateDType::I8].map(|state| (DType::Q8, state)));
    let families = families();
    let same_bits = |name: &str| {
        for (weights, dtype) in cases.clone() {
            let file = converted(&golden(name), weights);
            let model = Model::from_bytes(&file).unwrap().with_state(dtype);
            let ids = tokens(200, model.vocab_len());
            let (logits, state) = run(model, Scalar, &ids, 1);
            assert!(logits.iter().all(|x| x.is_finite()));
            for cpu in &backends {
                for chunk in [1, 7, 40, 200] {
                    let what =
                        format!("{name} {} {cpu:?} chunk {chunk} state {}", weights.name(), dtype.name());
                    let (got_logits, got_state) = run(model, cpu, &ids, chunk);
                    assert_same_bits(&got_logits, &logits, &what);
                    assert_eq!(got_state, state, "{what}");
                }
            }
        }
    };
    // Beside each other: on an emulated CPU each family takes a minute.
    std::thread::scope(|scope| {
        for name in &families {
            scope.spawn(|| same_bits(name));
        }
    });
}

/// The same streams one by one and at once, on every back end.
#[test]
fn several_streams_at_once_give_the_same_bits() {
    let backends = backends();
    for name in &families() {
        let file = converted(&golden(name), DType::Q8);
        for dtype in StateDType::ALL {
            let model = Model::from_bytes(&file).unwrap().with_state(dtype);
            let vocab = model.vocab_len();
            let texts = [1, 2, 3].map(|step| tokens(90, vocab).into_iter().step_by(step).take(30).collect());
            let alone = texts.each_ref().map(|text: &Vec<u32>| run(model, Scalar, text, 1));
            for cpu in &backends {
                let what = format!("{name} {cpu:?} state {}", dtype.name());
                for ((logits, state), (want_logits, want_state)) in
                    run_many(model, cpu, &texts).iter().zip(&alone)
                {
                    assert_same_bits(logits, want_logits, &what);
                    assert_eq!(state, want_state, "{what}");
                }
            }
        }
    }
}

/// Smaller states are near f32, f16 nearer than i8; jamba-tiny's experts are the roughest, some change at 0.9.
#[test]
fn quantized_states_are_near_f32() {
    for name in &families() {
        let ids = Reference::load(name).ids;
        let file = converted(&golden(name), DType::F32);
        let model = Model::from_bytes(&file).unwrap();
        let [exact, half, codes] =
            StateDType::ALL.map(|dtype| run(model.with_state(dtype), Scalar, &ids, 8).0);
        let (half, codes) = (difference(&half, &exact), difference(&codes, &exact));
        println!("{name}: states in f16 {half:.1e}, in i8 {codes:.1e} of the standard deviation");
        assert!(half <= 0.01 && half <= codes && codes <= 1.0, "{name}: {half} {codes}");
    }
}

/// How far each format is from f32, and that more bits are better: a check on the quantizers.
#[test]
fn quantized_logits_are_near_f32() {
    for name in &families() {
        let ids = Reference::load(name).ids;
        let logits = |weights| {
            let file = converted(&golden(name), weights);
            let model = Model::from_bytes(&file).unwrap();
            (run(model, Scalar, &ids, 8).0, model.vocab_len())
        };
        let (exact, vocab) = logits(DType::F32);
        let top = |logits: &[f32]| logits.chunks(vocab).map(sarit_core::argmax).collect::<Vec<_>>();
        let compare = |weights| {
            let got = logits(weights).0;
            let agree = top(&got).iter().zip(top(&exact)).filter(|(a, b)| **a == *b).count();
            (difference(&got, &exact), agree)
        };
        let [half, q8, q4] = [DType::F16, DType::Q8, DType::Q4].map(compare);
        println!(
            "{name}: f16 {:.1e}, q8 {:.1e}, q4 {:.1e} of the standard deviation; same best token in {}, {} and {} of {}",
            half.0,
            q8.0,
            q4.0,
            half.1,
            q8.1,
            q4.1,
            ids.len()
        );
        assert!(half.0 < 0.05 && half.0 < q8.0 && q8.0 < q4.0, "{name}: {half:?} {q8:?} {q4:?}");
        assert!(half.1 >= ids.len() - 2 && q8.1 * 10 >= ids.len() * 7, "{name}: {half:?} {q8:?}");
    }
}
