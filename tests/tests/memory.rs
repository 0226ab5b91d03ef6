//! Memory is known beforehand and never grows.

use sarit_core::{DType, Engine, Model, Scratch, State, StateDType};
use sarit_cpu::Cpu;
use sarit_tests::{Lent, converted, golden, golden_frames, tokens};

/// Pages resident now.
#[cfg(target_os = "linux")]
fn resident_pages() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn a_hundred_thousand_steps_need_no_more_than_a_hundred() {
    // Attention over a window, and state-space blocks.
    let file = converted(&golden("granite-h-tiny"), DType::Q8);
    let model = Model::from_bytes(&file).unwrap();
    let mut lent = Lent::new(&model, 1);
    let mut state = State::init(&model, &mut lent.state).unwrap();
    let mut scratch = Scratch::new(&model, &mut lent.scratch, 1).unwrap();
    let engine = Engine::new(model, Cpu::new(1));
    let ids = tokens(100, model.vocab_len());
    let mut step_through = |times: usize| {
        for _ in 0..times {
            for &id in &ids {
                engine.step(&mut state, &mut scratch, id).unwrap();
            }
        }
        resident_pages()
    };
    // The ring of 4096 positions is touched once; what comes after it needs nothing new.
    step_through(42);
    let early = step_through(1);
    let late = step_through(1000);
    assert!(late <= early, "{early} pages after 4,300 steps, {late} after 104,300");
    assert_eq!(state.position(), 104_300);
}

/// Sizes follow from the shapes: Mamba-1 `[3][64] + [64][8]` a layer; Mamba-2 in groups `[3][192] + [8][16][16]` and 16
/// held tokens of `8 · 16 + 2 · 16 + 8`.
#[test]
fn sizes_are_what_the_shapes_say() {
    let state_bytes_of = |folder: &std::path::Path| {
        let file = converted(folder, DType::F32);
        Model::from_bytes(&file).unwrap().memory(1).unwrap().state_bytes
    };
    let state_bytes = |name: &str| state_bytes_of(&golden(name));
    // With a running mean.
    assert_eq!(state_bytes_of(&golden_frames("mambalite-kws")), 4 * (3 * 128 + 128 * 16 + 64));
    assert_eq!(state_bytes("mamba-tiny"), 3 * 4 * (3 * 64 + 64 * 8));
    let held = 16 * (8 * 16 + 2 * 16 + 8) * 4;
    assert_eq!(state_bytes("mamba2-groups"), 2 * (4 * (3 * 192 + 8 * 16 * 16) + held));
    let file = converted(&golden("mamba2-groups"), DType::F32);
    let with = |dtype| Model::from_bytes(&file).unwrap().with_state(dtype).memory(1).unwrap().state_bytes;
    assert_eq!(with(StateDType::F16), 2 * (4 * 3 * 192 + 2 * 8 * 16 * 16 + held));
    let rests = 8 * 16 * 16;
    assert_eq!(with(StateDType::I8), 2 * (4 * 3 * 192 + 8 * 16 * 16 + rests + 4 * 8 * 16 + held));
    assert_eq!(
        state_bytes("nemotron-h-tiny"),
        4 * (2 * (3 * 96 + 4 * 16 * 16 + 16 * (64 + 16 + 4)) + 2 * 4096 * 2 * 8)
    );
}
