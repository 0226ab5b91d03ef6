//! The loop of every firmware, and its verdict.

use super::report::line;
use super::{memory, report};
use crate::{Case, Digest, Lent, Source, Stack};
use heapless::spsc::Consumer;
use sarit_core::{Engine, Kernels, Model, ModelError, Scratch, State, argmax};

/// What differs from board to board.
pub trait Board {
    /// Instructions executed so far; differences wrap.
    fn instructions(&self) -> u32;
    /// Sleeps until an interrupt.
    fn wait(&self);
    /// Where flash begins.
    const FLASH: usize;
}

/// How a run ended; also the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All results and states have the bits that the host computed.
    Same = 0,
    /// They have not.
    Different = 1,
    /// The model in flash was not run.
    Refused = 2,
    /// A frame came while the queue was full.
    FrameLost = 3,
}

/// Steps the model through all frames as they come, reports, and compares with the host.
pub fn run<const WIDTH: usize, K: Kernels>(
    case: &Case<WIDTH>,
    kernels: K,
    lent: Lent<'_>,
    source: &Source<WIDTH>,
    frames: &mut Consumer<'_, [f32; WIDTH]>,
    board: &impl Board,
    stack: &Stack,
) -> Verdict {
    // By reference: to move it would need a second place on the stack.
    match &open(case.model, kernels) {
        Ok(engine) => run_engine(engine, case, lent, source, frames, board, stack),
        Err(error) => refuse(*error),
    }
}

/// Not inlined, and so is `open`: neither needs the other's part of the stack.
#[inline(never)]
fn run_engine<const WIDTH: usize, K: Kernels, B: Board>(
    engine: &Engine<'_, K>,
    case: &Case<WIDTH>,
    lent: Lent<'_>,
    source: &Source<WIDTH>,
    frames: &mut Consumer<'_, [f32; WIDTH]>,
    board: &B,
    stack: &Stack,
) -> Verdict {
    let model = engine.model();
    let Ok(state) = &mut State::init(model, lent.state) else { return refuse(ModelError::TooLarge) };
    let Ok(scratch) = &mut Scratch::new(model, lent.scratch, 1) else { return refuse(ModelError::TooLarge) };
    let (mut results, mut states) = (Digest::default(), Digest::default());
    let (mut total, mut most) = (0u64, 0);
    for series in case.frames.chunks(case.series_len) {
        state.reset();
        let mut class = 0;
        for _ in series {
            // It stays in the queue while it is read.
            let frame = loop {
                match frames.peek() {
                    Some(frame) => break frame,
                    None if source.lost() > 0 => return lost(source.lost()),
                    None => board.wait(),
                }
            };
            let start = board.instructions();
            let result = engine.step_frame(state, scratch, frame, 1.0);
            let took = board.instructions().wrapping_sub(start);
            frames.dequeue();
            let Ok(result) = result else { return refuse(ModelError::TooLarge) };
            (total, most) = (total + u64::from(took), most.max(took));
            results.update(bytemuck::cast_slice(result));
            class = argmax(result);
        }
        states.update(state.data());
        report("class", class as u32);
    }
    report("frames", case.frames.len() as u32);
    report("instructions_per_frame", (total / case.frames.len() as u64) as u32);
    report("instructions_most", most);
    report("state_bytes", state.data().len() as u32);
    report("static_bytes", memory::static_bytes() as u32);
    report("stack_bytes", stack.used() as u32);
    report("model_bytes", case.model.len() as u32);
    report("flash_bytes", memory::flash_bytes(B::FLASH) as u32);
    if source.lost() > 0 {
        return lost(source.lost());
    }
    let same = (results.value(), states.value()) == (case.results, case.states);
    line(&[if same { b"the same bits as on the host" } else { b"OTHER BITS than on the host" }]);
    if same { Verdict::Same } else { Verdict::Different }
}

#[inline(never)]
fn open<K: Kernels>(model: &[u8], kernels: K) -> Result<Engine<'_, K>, ModelError> {
    // By reference: each move would need another place on the stack.
    match &Model::from_bytes(model) {
        Ok(model) => Ok(Engine::new(*model, kernels)),
        Err(error) => Err(*error),
    }
}

fn lost(count: u32) -> Verdict {
    report("frames_lost", count);
    Verdict::FrameLost
}

/// Says why the model is not run. Text from `core::fmt` would cost more flash than the reasons.
fn refuse(error: ModelError) -> Verdict {
    let why: &[u8] = match error {
        ModelError::Fingerprint => b"its bytes do not match its fingerprint",
        ModelError::Magic | ModelError::TooShort => b"it is no model",
        ModelError::Length { .. } => b"it is truncated",
        ModelError::Version(_) | ModelError::Record { .. } => {
            b"it needs a newer Sarit, or kinds of blocks that this firmware leaves out"
        }
        _ => b"it is not valid, or does not fit this firmware",
    };
    line(&[b"the model in flash is refused: ", why]);
    Verdict::Refused
}
