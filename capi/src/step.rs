//! Steps.

use crate::guard::guard;
use crate::handle::{
    Kernels, Lent, ModelHandle, ScratchHandle, Span, StateHandle, get, get_mut, slice, write,
};
use crate::status::Status;
use sarit_core::{Engine, Scratch, State};

/// Model, state and scratch of a call that also reads `input`.
///
/// # Safety
/// `model` may be read; `state` and `scratch` may be written and are used by nothing else.
unsafe fn parts<'a, T>(
    model: *const ModelHandle,
    state: *mut StateHandle,
    scratch: *mut ScratchHandle,
    input: &[T],
) -> Result<(&'a Engine<'static, Kernels>, &'a mut State<'static>, &'a mut Scratch<'static>), Status> {
    // SAFETY: as the caller promises.
    let (model, state, scratch) = unsafe { (get(model)?, get_mut(state)?, get_mut(scratch)?) };
    let (Lent { value: state, memory: a }, Lent { value: scratch, memory: b }) = (state, scratch);
    Span::apart(&[*a, *b, Span::of(input)])?;
    Ok((&**model, state, scratch))
}

/// Reads one token. logits: the sarit_vocab_len() logits of the next, in the scratch, until that is used again.
///
/// # Safety
/// `model` may be read; `state` and `scratch` may be written and are used by nothing else; `logits` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_step(
    model: *const ModelHandle,
    state: *mut StateHandle,
    scratch: *mut ScratchHandle,
    token: u32,
    logits: *mut *mut f32,
) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            write(logits, core::ptr::null_mut())?;
            let (engine, state, scratch) = parts::<u32>(model, state, scratch, &[])?;
            write(logits, engine.step(state, scratch, token)?.as_mut_ptr())
        }
    })
}

/// Reads count tokens, in chunks as large as the scratch allows, and computes no logits. All tokens are checked first.
///
/// # Safety
/// As for [`sarit_step`]; `count` numbers at `tokens` may be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_feed(
    model: *const ModelHandle,
    state: *mut StateHandle,
    scratch: *mut ScratchHandle,
    tokens: *const u32,
    count: usize,
) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            let tokens = slice(tokens, count)?;
            let (engine, state, scratch) = parts(model, state, scratch, tokens)?;
            Ok(engine.feed(state, scratch, tokens)?)
        }
    })
}

/// Reads one frame of len floats. result: the sarit_output_len() scores of classes or regression values after it, in the
/// scratch, until that is used again.
///
/// interval: time since the frame before, relative to the interval of training; 1 for frames that come as in training.
///
/// # Safety
/// As for [`sarit_step`]; `len` floats at `frame` may be read, and `result` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_step_frame(
    model: *const ModelHandle,
    state: *mut StateHandle,
    scratch: *mut ScratchHandle,
    frame: *const f32,
    len: usize,
    interval: f32,
    result: *mut *mut f32,
) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            write(result, core::ptr::null_mut())?;
            let frame = slice(frame, len)?;
            let (engine, state, scratch) = parts(model, state, scratch, frame)?;
            write(result, engine.step_frame(state, scratch, frame, interval)?.as_mut_ptr())
        }
    })
}

/// Reads frames, len floats in all, each at the same interval, in chunks as large as the scratch allows, and computes no
/// results. All frames are checked first.
///
/// # Safety
/// As for [`sarit_step`]; `len` floats at `frames` may be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_feed_frames(
    model: *const ModelHandle,
    state: *mut StateHandle,
    scratch: *mut ScratchHandle,
    frames: *const f32,
    len: usize,
    interval: f32,
) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            let frames = slice(frames, len)?;
            let (engine, state, scratch) = parts(model, state, scratch, frames)?;
            Ok(engine.feed_frames(state, scratch, frames, interval)?)
        }
    })
}
