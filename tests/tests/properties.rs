//! What holds for every text: splits, snapshots and other streams never change a bit.

use proptest::prelude::*;
use sarit_core::{DType, Engine, Model, Scalar, Scratch, Shape, State, StateDType, StateError, StepError};
use sarit_cpu::AlignedBytes;
use sarit_tests::{Lent, aligned, converted, golden, run, tokens};

/// One small model per recurrence, quantized so that every kind of operand occurs, and the format of its states.
fn models() -> Vec<(AlignedBytes, StateDType)> {
    [
        ("mamba-tiny", DType::Q4, StateDType::F32),
        ("mamba-tiny", DType::Q8, StateDType::I8),
        ("mamba2-groups", DType::Q8, StateDType::I8),
        ("mamba2-tiny", DType::F16, StateDType::F16),
    ]
    .map(|(name, weights, state)| (converted(&golden(name), weights), state))
    .into()
}

fn open<'m>((file, state): &'m (AlignedBytes, StateDType)) -> Model<'m> {
    Model::from_bytes(file).unwrap().with_state(*state)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn feeding_in_two_parts_is_feeding_at_once(ids in prop::collection::vec(0u32..97, 1..60), cut in 0usize..60, chunk in 1usize..20) {
        let cut = cut.min(ids.len());
        for file in models() {
            let model = open(&file);
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
            let model = open(&file);
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
        let model = open(&file);
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
        let model = open(&file);
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
    let [a, b] = [&files[0], &files[2]].map(open);
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
    let half = a.with_state(StateDType::F16);
    let refused = Engine::new(half, Scalar).feed(&mut state, &mut scratch, &[4]);
    let (need, have) = (StateDType::F16, StateDType::F32);
    assert_eq!(refused, Err(StepError::OtherStateDType { need, have }));
    assert_eq!((state.hash(), state.position()), (before, 3));

    // Several at once: nobody has stepped if one of them may not.
    let mut second_memory = Lent::new(&a, 1);
    let mut second = State::init(&a, &mut second_memory.state).unwrap();
    let shape = Shape { chunk: 1, streams: 2 };
    let mut memory = AlignedBytes::zeroed(a.memory(shape).unwrap().scratch_bytes).unwrap();
    let mut two = Scratch::new(&a, &mut memory, shape).unwrap();
    let mut step = |scratch: &mut Scratch<'_>, tokens: &[u32]| {
        engine.step_many(&mut [&mut state, &mut second], scratch, tokens).map(|logits| logits.len())
    };
    assert_eq!(step(&mut two, &[1, 97]), Err(StepError::TokenOutOfRange { token: 97, vocab: 97 }));
    assert_eq!(step(&mut two, &[1]), Err(StepError::TokenCount { streams: 2, tokens: 1 }));
    assert_eq!(step(&mut scratch, &[1, 2]), Err(StepError::TooManyStreams { streams: 2, most: 1 }));
    assert_eq!((state.hash(), state.position(), second.position()), (before, 3, 0));
    let logits = engine.step_many(&mut [&mut state, &mut second], &mut two, &[1, 2]).unwrap().len();
    assert_eq!((logits, state.position(), second.position()), (2 * 97, 4, 1));
    assert_eq!(engine.step_many(&mut [], &mut two, &[]).unwrap().len(), 0);
}

#[test]
fn every_snapshot_error() {
    let files = models();
    let [model, other] = [&files[0], &files[2]].map(open);
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
    assert_eq!(load(&patched(32, good[32] ^ 1, true)), Some(StateError::Length { need, have: need ^ 1 }));
    assert_eq!(load(&patched(32, good[32] ^ 1, false)), Some(StateError::Checksum));
    assert_eq!(load(&patched(70, 1, false)), Some(StateError::Checksum));
    let other_dtype = StateError::OtherDType { need: StateDType::F32, have: StateDType::I8 };
    assert_eq!(load(&patched(12, 2, true)), Some(other_dtype));
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
    assert_eq!(State::snapshot_dtype(&good), Ok(StateDType::F32));
    assert_eq!(State::snapshot_dtype(&good[..63]), Err(StateError::Length { need: 64, have: 63 }));
    let state = State::load(&model, &good, &mut memory).unwrap();
    assert!(matches!(state.save(&mut [0; 70]), Err(StateError::TooSmall { .. })));
}

/// A number that is not finite is found in every part of a state, and only there.
#[test]
fn snapshots_of_every_format_are_held_to_finite_numbers() {
    let file = converted(&golden("mamba-tiny"), DType::Q8);
    for (dtype, infinite) in [(StateDType::F16, &[0x00, 0x7c][..]), (StateDType::I8, &[0, 0, 0x80, 0x7f])] {
        let model = Model::from_bytes(&file).unwrap().with_state(dtype);
        let mut parts = Vec::new();
        model.each_block(|block, _, _| parts.push(block.state_parts(dtype)));
        let [window, elements, ..] = parts[0];
        let mut lent = Lent::new(&model, 1);
        let mut good = vec![0; State::snapshot_bytes(&model)];
        State::init(&model, &mut lent.state).unwrap().save(&mut good).unwrap();
        let mut load_with = |at: usize| {
            let mut bad = good.clone();
            bad[64 + at..64 + at + infinite.len()].copy_from_slice(infinite);
            let end = bad.len() - 8;
            let sum = sarit_core::hash(&bad[..end]);
            bad[end..].copy_from_slice(&sum.to_le_bytes());
            State::load(&model, &bad, &mut lent.state).err()
        };
        let first = window.bytes().next_multiple_of(64);
        let scales = first + elements.bytes().next_multiple_of(64);
        let at = if dtype == StateDType::F16 { first + 2 * 7 } else { scales + 4 * 7 };
        assert_eq!(load_with(at), Some(StateError::NotFinite(at)));
        // Codes may be anything.
        if dtype == StateDType::I8 {
            assert_eq!(load_with(first), None);
        }
    }
}
