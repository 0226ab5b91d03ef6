//! Damaged and hostile model files: each a typed error or a run that ends, never a panic, never a read outside.

use std::mem::offset_of;

use sarit_core::format::{
    FINGERPRINT_START, Header, RecordHeader, Section, TensorEntry, TensorTable, section,
};
use sarit_core::plan::{
    AttentionRecord, FrameInput, FrameOutput, JoinRecord, LogitsOutput, MoeRecord, NormRecord, SsmRecord,
    TokenInput, input, norm_kind, output, tag,
};
use sarit_core::{
    DType, Engine, MAX_POSITION, Model, ModelError, Scalar, Scratch, State, StateDType, StateError,
};
use sarit_cpu::AlignedBytes;
use sarit_tests::{Lent, aligned, backends, converted, golden, golden_frames, run};

/// Gives the file a valid fingerprint, so that what follows is reached.
fn sign(file: &mut [u8]) {
    let print = sarit_core::hash(&file[FINGERPRINT_START..]);
    file[8..16].copy_from_slice(&print.to_le_bytes());
}

/// Opens a model and, if that works and its memory is small, runs it.
fn try_run(bytes: &[u8]) -> Result<(), ModelError> {
    let model = Model::from_bytes(bytes)?;
    let Some(need) = model.memory(3).filter(|need| need.state_bytes + need.scratch_bytes < 1 << 24) else {
        return Ok(());
    };
    let mut memory = AlignedBytes::zeroed(need.state_bytes).unwrap();
    let mut working = AlignedBytes::zeroed(need.scratch_bytes).unwrap();
    let mut state = State::init(&model, &mut memory).unwrap();
    let mut scratch = Scratch::new(&model, &mut working, 3).unwrap();
    let engine = Engine::new(model, Scalar);
    match model.frame_len() {
        0 => {
            let tokens = [0, 1, 2, 3].map(|t| t % model.vocab_len() as u32);
            engine.feed(&mut state, &mut scratch, &tokens).unwrap();
            engine.step(&mut state, &mut scratch, 0).unwrap();
        }
        len => {
            engine.feed_frames(&mut state, &mut scratch, &vec![0.5; 4 * len], 0.1).unwrap();
            engine.step_frame(&mut state, &mut scratch, &vec![-0.5; len], 2.0).unwrap();
        }
    }
    for (name, _) in model.tensors() {
        assert!(name.len() < bytes.len());
    }
    Ok(())
}

fn small_model() -> AlignedBytes {
    converted(&golden("mamba-tiny"), DType::Q8)
}

fn frame_model() -> AlignedBytes {
    converted(&golden_frames("mambalite-kws"), DType::Q8)
}

/// Where a section's entry in the section table starts, and the entry.
fn find(file: &[u8], kind: u32) -> (usize, Section) {
    (0..4)
        .map(|i| size_of::<Header>() + i * size_of::<Section>())
        .map(|at| (at, bytemuck::pod_read_unaligned::<Section>(&file[at..at + size_of::<Section>()])))
        .find(|(_, s)| s.kind == kind)
        .expect("every converted model has the section")
}

/// Index of the first record of a kind, and where its payload starts.
fn record(file: &[u8], tag: u16) -> (u32, usize) {
    let mut at = find(file, section::PLAN).1.offset as usize;
    for index in 0.. {
        let payload = at + size_of::<RecordHeader>();
        let header: RecordHeader = bytemuck::pod_read_unaligned(&file[at..payload]);
        if header.tag == tag {
            return (index, payload);
        }
        at = payload + header.bytes as usize;
    }
    unreachable!("every plan ends")
}

/// What a model becomes that has other bytes at one place.
fn changed(good: &[u8], at: usize, bytes: &[u8]) -> Option<ModelError> {
    let mut file = aligned(good);
    file[at..at + bytes.len()].copy_from_slice(bytes);
    sign(&mut file);
    try_run(&file).err()
}

#[test]
fn one_case_per_error() {
    let good = small_model();
    assert_eq!(try_run(&good), Ok(()));
    let bad = |at: usize, bytes: &[u8]| changed(&good, at, bytes);
    assert_eq!(try_run(&[]), Err(ModelError::TooShort));
    assert_eq!(try_run(&good[..63]), Err(ModelError::TooShort));
    assert_eq!(bad(0, b"GGUF"), Some(ModelError::Magic));
    assert_eq!(bad(16, &2u32.to_le_bytes()), Some(ModelError::Version(2)));
    let stated = good.len() as u64 + 1;
    assert_eq!(bad(24, &stated.to_le_bytes()), Some(ModelError::Length { stated, given: good.len() as u64 }));
    let mut shifted = AlignedBytes::zeroed(good.len() + 8).unwrap();
    shifted[8..].copy_from_slice(&good);
    assert_eq!(try_run(&shifted[8..]), Err(ModelError::Misaligned));
    let mut flipped = aligned(&good);
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(try_run(&flipped), Err(ModelError::Fingerprint));
    assert_eq!(bad(20, &u32::MAX.to_le_bytes()), Some(ModelError::TooShort));

    let (plan_at, plan) = find(&good, section::PLAN);
    let (tensors_at, tensors) = find(&good, section::TENSORS);
    let (_, meta) = find(&good, section::META);
    assert_eq!(bad(plan_at, &99u32.to_le_bytes()), Some(ModelError::Section(section::PLAN)));
    assert_eq!(bad(plan_at + 8, &(plan.offset + 4).to_le_bytes()), Some(ModelError::Section(section::PLAN)));
    assert_eq!(bad(tensors_at + 16, &u64::MAX.to_le_bytes()), Some(ModelError::Section(section::TENSORS)));
    assert_eq!(bad(meta.offset as usize, &[0xff]), Some(ModelError::Text));
    assert_eq!(
        bad(tensors.offset as usize, &u32::MAX.to_le_bytes()),
        Some(ModelError::Section(section::TENSORS))
    );

    let entry = tensors.offset as usize + size_of::<TensorTable>() + size_of::<TensorEntry>();
    for (field, value) in [(0, 32u64), (8, 1)] {
        assert_eq!(bad(entry + field, &value.to_le_bytes()), Some(ModelError::Tensor(1)));
    }
    for (field, value) in [(16, u32::MAX), (20, u32::MAX), (24, 77), (28, 0), (32, u32::MAX)] {
        assert_eq!(bad(entry + field, &value.to_le_bytes()), Some(ModelError::Tensor(1)), "field at {field}");
    }

    // Records: the input, the output, then the blocks.
    let record = plan.offset as usize;
    let payload = |at: usize| at + size_of::<RecordHeader>();
    let output = payload(record) + size_of::<TokenInput>();
    let block = payload(output) + size_of::<LogitsOutput>();
    let kind = |index, tag, version| Some(ModelError::Record { index, tag, version });
    assert_eq!(bad(record, &900u16.to_le_bytes()), kind(0, 900, 1));
    assert_eq!(bad(record + 2, &9u16.to_le_bytes()), kind(0, 1, 9));
    assert_eq!(bad(record, &16u16.to_le_bytes()), kind(0, 16, 1));
    assert_eq!(bad(block, &1u16.to_le_bytes()), kind(2, 1, 1));
    assert_eq!(bad(block, &900u16.to_le_bytes()), kind(2, 900, 1));
    assert_eq!(bad(block + 2, &9u16.to_le_bytes()), kind(2, 16, 9));
    assert_eq!(bad(block + 4, &u32::MAX.to_le_bytes()), Some(ModelError::PlanEnd(2)));
    assert_eq!(bad(block + 4, &4u32.to_le_bytes()), Some(ModelError::Field(2)));
    let operand = |index, tensor| Some(ModelError::Operand { index, tensor });
    assert_eq!(bad(payload(record), &400u32.to_le_bytes()), operand(0, 400));
    assert_eq!(bad(payload(output), &7u32.to_le_bytes()), Some(ModelError::Field(1)));
    assert_eq!(bad(payload(output) + offset_of!(LogitsOutput, head), &1u32.to_le_bytes()), operand(1, 1));
    let heads = payload(block) + offset_of!(SsmRecord, heads);
    assert_eq!(bad(heads, &0u32.to_le_bytes()), Some(ModelError::Field(2)));
    assert_eq!(bad(heads, &(1u32 << 24).to_le_bytes()), Some(ModelError::Field(2)));
    assert!(matches!(bad(heads, &63u32.to_le_bytes()), Some(ModelError::Operand { index: 2, .. })));
    let blocks = (block - record) as u64;
    assert_eq!(
        bad(plan_at + offset_of!(Section, bytes), &blocks.to_le_bytes()),
        Some(ModelError::PlanEnd(2))
    );
    let state = bad(payload(block) + offset_of!(SsmRecord, d_state), &((1u32 << 24) - 1).to_le_bytes());
    assert!(matches!(state, Some(ModelError::Operand { index: 2, .. })));
}

#[test]
fn one_case_per_error_of_a_frame_model() {
    let good = frame_model();
    assert_eq!(try_run(&good), Ok(()));
    let bad = |at: usize, number: u32| changed(&good, at, &number.to_le_bytes());
    let record = find(&good, section::PLAN).1.offset as usize;
    let payload = |at: usize| at + size_of::<RecordHeader>();
    let output = payload(record) + size_of::<FrameInput>();
    let block = payload(output) + size_of::<FrameOutput>();
    let field = |index| Some(ModelError::Field(index));
    let operand = |index, tensor| Some(ModelError::Operand { index, tensor });
    let kind = |index, tag| Some(ModelError::Record { index, tag, version: 1 });
    // Frames take no logits, tokens no results; and neither is a block.
    assert_eq!(bad(record, 1 | 1 << 16), Some(ModelError::Field(0)));
    assert_eq!(bad(output, 2 | 1 << 16), kind(1, 2));
    assert_eq!(bad(block, 4 | 1 << 16), kind(2, 4));
    // The matrix, and then the bias, of the read-in: another tensor has other shapes.
    assert_eq!(bad(payload(record), 1), operand(0, 1));
    assert_eq!(bad(payload(record) + 4, 0), operand(0, 0));
    for (at, value, error) in [
        (offset_of!(FrameOutput, pool), 3, field(1)),
        (offset_of!(FrameOutput, task), 2, field(1)),
        (offset_of!(FrameOutput, norm), 3, field(1)),
        (offset_of!(FrameOutput, head), 99, operand(1, 99)),
        (offset_of!(FrameOutput, head), 0, operand(1, 0)),
    ] {
        assert_eq!(bad(payload(output) + at, value), error, "{at}");
    }
    assert_eq!(bad(payload(block) + offset_of!(JoinRecord, output), 3), field(2));
    let ssm_only = offset_of!(SsmRecord, d_state);
    assert!(matches!(bad(payload(block) + ssm_only, 1 << 23), Some(ModelError::Operand { index: 2, .. })));
}

/// Before a block has written the branch, its memory holds what the last user of the scratch left there.
#[test]
fn the_branch_is_not_read_before_it_is_written() {
    let good = small_model();
    let plan = find(&good, section::PLAN).1.offset as usize;
    let payload = |at: usize| at + size_of::<RecordHeader>();
    let first = payload(payload(payload(plan) + size_of::<TokenInput>()) + size_of::<LogitsOutput>());
    let second = payload(first + size_of::<SsmRecord>());
    let mut file = aligned(&good);
    let mut set = |at: usize, value: u32| {
        file[at..at + 4].copy_from_slice(&value.to_le_bytes());
        sign(&mut file);
        try_run(&file)
    };
    for reads in [input::BRANCH, input::RESIDUAL_PLUS_BRANCH] {
        assert_eq!(set(first, reads), Err(ModelError::Field(2)));
        assert_eq!(set(first, input::RESIDUAL), Ok(()));
        assert_eq!(set(second, reads), Err(ModelError::Field(3)));
        assert_eq!(set(first + offset_of!(JoinRecord, output), output::BRANCH), Ok(()));
        assert_eq!(set(first + offset_of!(JoinRecord, output), output::RESIDUAL), Err(ModelError::Field(3)));
        assert_eq!(set(second, input::RESIDUAL), Ok(()));
    }
}

/// A bias without a layer norm and a weight without any would be left out by some operations and not by others.
#[test]
fn norms_that_a_step_would_not_compute_are_refused() {
    let good = converted(&golden("lfm2-tiny"), DType::Q8);
    let (index, attention) = record(&good, tag::ATTENTION);
    let attend: AttentionRecord =
        bytemuck::pod_read_unaligned(&good[attention..attention + size_of::<AttentionRecord>()]);
    let field = Some(ModelError::Field(index));
    let bad = |at: usize, value: u32| changed(&good, attention + at, &value.to_le_bytes());
    let norm = offset_of!(JoinRecord, norm);
    let (kind, bias) = (offset_of!(NormRecord, kind), offset_of!(NormRecord, bias));
    assert_eq!(attend.join.norm.kind, norm_kind::RMS);
    assert_eq!(bad(norm + bias, attend.join.norm.weight), field);
    assert_eq!(bad(norm + kind, norm_kind::IDENTITY), field);
    assert_eq!(bad(norm + kind, norm_kind::LAYER), None);
    for part in [offset_of!(AttentionRecord, q_norm), offset_of!(AttentionRecord, k_norm)] {
        assert_eq!(bad(part + kind, norm_kind::LAYER), field);
        assert_eq!(bad(part + bias, attend.q_norm.weight), field);
    }
}

#[test]
fn every_truncation_is_an_error() {
    let good = small_model();
    for cut in 0..good.len() {
        assert!(try_run(&good[..cut]).is_err(), "{cut}");
    }
    // The same with a header and fingerprint that fit the shorter file, at every byte of the tables and some after.
    for cut in (64..4096).chain((4096..good.len()).step_by(101)).filter(|&cut| cut < good.len()) {
        let mut file = aligned(&good[..cut]);
        file[24..32].copy_from_slice(&(cut as u64).to_le_bytes());
        sign(&mut file);
        assert!(try_run(&file).is_err(), "{cut}");
    }
}

/// SplitMix64: the same numbers every time.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn fifty_thousand_mutations_of_a_model() {
    mutate(&small_model());
}

#[test]
fn fifty_thousand_mutations_of_a_frame_model() {
    mutate(&frame_model());
}

fn mutate(good: &[u8]) {
    let (_, plan) = find(good, section::PLAN);
    let (_, tensors) = find(good, section::TENSORS);
    let mut file = aligned(good);
    let (mut seed, mut refused, mut ran) = (1, 0, 0);
    for round in 0..50_000 {
        let edits = 1 + random(&mut seed) % 4;
        for _ in 0..edits {
            // Most edits hit the header and the tables, where they decide most.
            let (start, len) = match random(&mut seed) % 8 {
                0..=1 => (0, 160),
                2..=4 => (plan.offset as usize, plan.bytes as usize),
                5..=6 => (tensors.offset as usize, 2048),
                _ => (0, good.len()),
            };
            let at = start + random(&mut seed) as usize % len;
            let value = random(&mut seed);
            match value % 4 {
                0 => file[at] ^= 1 << (value >> 8 & 7),
                1 => file[at] = (value >> 8) as u8,
                2 => file[at] = 0xff,
                _ => file[at] = 0,
            }
        }
        // Unsigned files stop at the fingerprint; a few go there too.
        if round % 16 != 0 {
            sign(&mut file);
        }
        match try_run(&file) {
            Ok(()) => ran += 1,
            Err(_) => refused += 1,
        }
        file.copy_from_slice(good);
    }
    println!("{refused} mutations refused, {ran} ran");
    assert!(refused > 1000 && ran > 1000);
}

#[test]
fn fifty_thousand_mutations_of_a_state() {
    let file = small_model();
    for dtype in StateDType::ALL {
        mutate_states(&Model::from_bytes(&file).unwrap().with_state(dtype), 50_000 / 3);
    }
}

fn mutate_states(model: &Model<'_>, rounds: usize) {
    let mut memory = AlignedBytes::zeroed(model.memory(1).unwrap().state_bytes).unwrap();
    let mut good = vec![0; State::snapshot_bytes(model)];
    State::init(model, &mut memory).unwrap().save(&mut good).unwrap();
    let mut bad = good.clone();
    let (mut seed, mut refused) = (2, 0);
    for round in 0..rounds {
        for _ in 0..1 + random(&mut seed) % 3 {
            let len = if random(&mut seed).is_multiple_of(2) { 64 } else { good.len() };
            let at = random(&mut seed) as usize % len;
            bad[at] = random(&mut seed) as u8;
        }
        let changed = bad != good;
        let end = bad.len() - 8;
        if round % 2 == 0 {
            let sum = sarit_core::hash(&bad[..end]);
            bad[end..].copy_from_slice(&sum.to_le_bytes());
        }
        match State::load(model, &bad, &mut memory) {
            Ok(mut state) => {
                let mut working = AlignedBytes::zeroed(model.memory(1).unwrap().scratch_bytes).unwrap();
                let mut scratch = Scratch::new(model, &mut working, 1).unwrap();
                Engine::new(*model, Scalar).step(&mut state, &mut scratch, 1).unwrap();
            }
            Err(_) => refused += 1,
        }
        assert!(round % 2 == 0 || !changed || State::load(model, &bad, &mut memory).is_err());
        bad.copy_from_slice(&good);
    }
    println!("{}: {refused} mutations refused", model.state_dtype().name());
    assert!(refused > rounds / 5);
}

/// Attention counts one position more than a state has read, and rings and held tokens divide by it.
#[test]
fn positions_that_no_stream_reaches_are_refused() {
    const POSITION: usize = 24;
    for name in ["jamba-tiny", "bamba-tiny"] {
        let file = converted(&golden(name), DType::Q8);
        let model = Model::from_bytes(&file).unwrap();
        let mut lent = Lent::new(&model, 3);
        let mut snapshot = vec![0; State::snapshot_bytes(&model)];
        State::init(&model, &mut lent.state).unwrap().save(&mut snapshot).unwrap();
        let mut place = |position: u64| {
            snapshot[POSITION..POSITION + 8].copy_from_slice(&position.to_le_bytes());
            let end = snapshot.len() - 8;
            let sum = sarit_core::hash(&snapshot[..end]);
            snapshot[end..].copy_from_slice(&sum.to_le_bytes());
            snapshot.clone()
        };
        for position in [MAX_POSITION + 1, u64::MAX] {
            let refused = State::load(&model, &place(position), &mut lent.state).err();
            assert_eq!(refused, Some(StateError::Position(position)), "{name}");
        }
        let mut state = State::load(&model, &place(MAX_POSITION), &mut lent.state).unwrap();
        let refused = state.replace::<StateError>(u64::MAX, |_| Ok(()));
        assert_eq!(refused, Err(StateError::Position(u64::MAX)), "{name}");
        let mut scratch = Scratch::new(&model, &mut lent.scratch, 3).unwrap();
        let engine = Engine::new(model, Scalar);
        engine.feed(&mut state, &mut scratch, &[1, 2, 3, 4]).unwrap();
        engine.step(&mut state, &mut scratch, 1).unwrap();
        assert_eq!(state.position(), MAX_POSITION + 5, "{name}");
    }
}

/// Experts without a rank are not chosen before others, and weights that are no numbers are seen in the logits.
#[test]
fn a_router_that_gives_no_numbers_is_no_silent_zero() {
    let mut file = converted(&golden("jamba-tiny"), DType::F32);
    let (_, moe) = record(&file, tag::MOE);
    let word = |file: &[u8], at: usize| u32::from_le_bytes(*file[at..].first_chunk().unwrap());
    let router = word(&file, moe + offset_of!(MoeRecord, router)) as usize;
    let table = find(&file, section::TENSORS).1.offset as usize + size_of::<TensorTable>();
    let data = word(&file, table + router * size_of::<TensorEntry>()) as usize;
    file[data..data + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    sign(&mut file);
    let model = Model::from_bytes(&file).unwrap();
    assert!(run(model, Scalar, &[1, 2], 1).0.iter().all(|logit| logit.is_nan()));
    for cpu in backends() {
        assert!(run(model, &cpu, &[1, 2], 2).0.iter().all(|logit| logit.is_nan()), "{cpu:?}");
    }
}
