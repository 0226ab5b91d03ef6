//! What holds for every text: splits, snapshots and other streams never change a bit.

use proptest::prelude::*;
use sarit_core::{DType, Engine, Model, Scalar, Scratch, State, StateError, StepError};
use sarit_cpu::AlignedBytes;
use sarit_tests::{Lent, aligned, converted, golden, run, tokens};

/// One small model per recurrence, quantized so that every kind of operand occurs.
fn models() -> Vec<AlignedBytes> {
    [("mamba-tiny", DType::Q4), ("mamba2-groups", DType::Q8), ("mamba2-tiny", DType::F16)]
        .map(|(name, weights)| converted(&golden(name), weights))
        .into()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn feeding_in_two_parts_is_feeding_at_once(ids in prop::collection::vec(0u32..97, 1..60), cut in 0usize..60, chunk in 1usize..20) {
        let cut = cut.min(ids.len());
        for file in models() {
            let model = Model::from_bytes(&file).unwrap();
            let whole = run(model, Scalar, &ids, 1).1;
            let mut lent = Lent::new(&model, chunk);
            let mut state = State::init(&model, &mut lent.state).unwrap();
            let mut scratch = Scratch::new(&model, &mut lent.scratch, chunk).unwrap();
            let engine = Engine::new(model, Scalar);
            engine.feed(&mut state, &mut scratch, &ids[..cut]).unwrap();
            engine.feed(&mut state, &mut scratch, &ids[cut..]).unwrap();
            prop_assert_eq!(state.position(), ids.len() as u64);
            prop_assert_eq!(state.hash(), whole);
        }
    }

    #[test]
    fn a_snapshot_goes_on_where_it_was_taken(ids in prop::collection::vec(0u32..97, 2..40), cut in 1usize..39) {
        let cut = cut.min(ids.len() - 1);
        for file in models() {
            let model = Model::from_bytes(&file).unwrap();
            let whole = run(model, Scalar, &ids, 4).1;
            let mut lent = Lent::new(&model, 4);
            let mut scratch = Scratch::new(&model, &mut lent.scratch, 4).unwrap();
            let engine = Engine::new(model, Scalar);
            let mut snapshot = vec![0; State::snapshot_bytes(&model)];
            let mut first = State::init(&model, &mut lent.state).unwrap();
            engine.feed(&mut first, &mut scratch, &ids[..cut]).unwrap();
            prop_assert_eq!(first.save(&mut snapshot).unwrap(), snapshot.len());

            let mut memory = AlignedBytes::zeroed(model.memory(1).unwrap().state_bytes).unwrap();
            let mut second = State::load(&model, &snapshot, &mut memory).unwrap();
            prop_assert_eq!(second.position(), cut as u64);
            prop_assert_eq!(second.hash(), first.hash());
            engine.feed(&mut second, &mut scratch, &ids[cut..]).unwrap();
            prop_assert_eq!(second.hash(), whole);
        }
    }
}

#[test]
fn streams_do_not_touch_each_other() {
    for file in models() {
        let model = Model::from_bytes(&file).unwrap();
        let texts = [3, 5, 7].map(|skip| tokens(90, 97).into_iter().step_by(skip).collect::<Vec<_>>());
        let mut memory = texts.each_ref().map(|_| Lent::new(&model, 1).state);
        let mut states = memory.each_mut().map(|memory| State::init(&model, memory).unwrap());
        let mut lent = Lent::new(&model, 1);
        let mut scratch = Scratch::new(&model, &mut lent.scratch, 1).unwrap();
        let engine = Engine::new(model, Scalar);
        for t in 0..30 {
            for (text, state) in texts.iter().zip(&mut states) {
                if let Some(&id) = text.get(t) {
                    engine.step(state, &mut scratch, id).unwrap();
                }
            }
        }
        for (text, state) in texts.iter().zip(&states) {
            assert_eq!(state.hash(), run(model, Scalar, text, 1).1);
        }
    }
}

#[test]
fn a_reset_state_is_a_fresh_one() {
    for file in models() {
        let model = Model::from_bytes(&file).unwrap();
        let mut lent = Lent::new(&model, 3);
        let mut state = State::init(&model, &mut lent.state).unwrap();
        let mut scratch = Scratch::new(&model, &mut lent.scratch, 3).unwrap();
        let engine = Engine::new(model, Scalar);
        engine.feed(&mut state, &mut scratch, &tokens(20, 97)).unwrap();
        state.reset();
        assert_eq!(state.position(), 0);
        assert!(state.data().iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_refused_step_leaves_the_state() {
    let files = models();
    let [a, b] = [&files[0], &files[1]].map(|file| Model::from_bytes(file).unwrap());
    let mut lent = Lent::new(&a, 4);
    let mut other = Lent::new(&b, 4);
    let mut state = State::init(&a, &mut lent.state).unwrap();
    let mut scratch = Scratch::new(&a, &mut lent.scratch, 4).unwrap();
    let mut other_scratch = Scratch::new(&b, &mut other.scratch, 4).unwrap();
    let engine = Engine::new(a, Scalar);
    engine.feed(&mut state, &mut scratch, &[1, 2, 3]).unwrap();
    let before = state.hash();
    let refused = engine.feed(&mut state, &mut scratch, &[4, 5, 97, 6]);
    assert_eq!(refused, Err(StepError::TokenOutOfRange { token: 97, vocab: 97 }));
    assert_eq!(engine.feed(&mut state, &mut other_scratch, &[4]), Err(StepError::OtherScratch));
    assert_eq!(Engine::new(b, Scalar).feed(&mut state, &mut other_scratch, &[4]), Err(StepError::OtherState));
    assert_eq!((state.hash(), state.position()), (before, 3));
}

#[test]
fn every_snapshot_error() {
    let files = models();
    let [model, other] = [&files[0], &files[1]].map(|file| Model::from_bytes(file).unwrap());
    let mut lent = Lent::new(&model, 1);
    let need = lent.state.len();
    let mut good = vec![0; State::snapshot_bytes(&model)];
    State::init(&model, &mut lent.state).unwrap().save(&mut good).unwrap();
    assert_eq!(good.len(), need + 64 + 8);

    let mut memory = aligned(&vec![0; need + 64]);
    let mut load = |snapshot: &[u8]| State::load(&model, snapshot, &mut memory[..need]).err();
    let patched = |at: usize, byte: u8, resign: bool| {
        let mut bad = good.clone();
        bad[at] = byte;
        if resign {
            let end = bad.len() - 8;
            let sum = sarit_core::hash(&bad[..end]);
            bad[end..].copy_from_slice(&sum.to_le_bytes());
        }
        bad
    };
    assert_eq!(load(&good), None);
    assert_eq!(load(&patched(0, b'x', true)), Some(StateError::Magic));
    assert_eq!(load(&patched(8, 9, true)), Some(StateError::Version(9)));
    assert_eq!(load(&patched(12, 3, true)), Some(StateError::DType(3)));
    assert!(matches!(load(&patched(16, good[16] ^ 1, true)), Some(StateError::OtherModel(_))));
    assert!(matches!(load(&patched(32, good[32] ^ 1, true)), Some(StateError::Length { .. })));
    assert_eq!(load(&patched(70, 1, false)), Some(StateError::Checksum));
    let mut infinite = patched(64 + 4 * 5 + 3, 0x7f, false);
    infinite[64 + 4 * 5 + 2] = 0x80;
    let end = infinite.len() - 8;
    let sum = sarit_core::hash(&infinite[..end]);
    infinite[end..].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(load(&infinite), Some(StateError::NotFinite(4 * 5)));
    for cut in 0..good.len() {
        let error = load(&good[..cut]);
        assert!(matches!(error, Some(StateError::Length { .. } | StateError::Magic)), "{cut}: {error:?}");
    }
    let mut longer = good.clone();
    longer.push(0);
    assert!(matches!(load(&longer), Some(StateError::Length { .. })));

    assert!(matches!(State::init(&model, &mut memory[..need - 1]).err(), Some(StateError::TooSmall { .. })));
    assert_eq!(State::init(&model, &mut memory[4..need + 4]).err(), Some(StateError::Misaligned));
    assert!(matches!(
        State::load(&other, &good, &mut memory).err(),
        Some(StateError::TooSmall { .. } | StateError::OtherModel(_))
    ));
    let state = State::load(&model, &good, &mut memory).unwrap();
    assert!(matches!(state.save(&mut [0; 70]), Err(StateError::TooSmall { .. })));
}
