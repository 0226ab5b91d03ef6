//! Models, and what they need.

use crate::guard::guard;
use crate::handle::{Kernels, ModelHandle, clear, fill, get, slice, write};
use crate::status::{SaritLength, Status};
use core::ffi::{c_char, c_void};
use core::mem::ManuallyDrop;
use sarit_core::{ALIGN, Engine, Model, State};

#[cfg(feature = "hosted")]
fn kernels() -> Kernels {
    Kernels::new(1)
}

#[cfg(not(feature = "hosted"))]
fn kernels() -> Kernels {
    Kernels::default()
}

/// Memory that a model needs beside its file, in bytes.
#[repr(C)]
pub struct Needs {
    /// For the state of a stream.
    pub state_bytes: usize,
    /// For the scratch, which streams can share.
    pub scratch_bytes: usize,
    /// Alignment of both: 64.
    pub align: usize,
    /// For a snapshot of a state; any alignment.
    pub snapshot_bytes: usize,
}

/// Checks the bytes of a whole .sarit file, and makes a model of them.
///
/// bytes: 64-byte aligned; must stay there, unchanged, while the model is used.
///
/// # Safety
/// `model` may be written; `len` bytes at `bytes` may be read for as long as the model is used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_model_init(
    model: *mut ModelHandle,
    bytes: *const c_void,
    len: usize,
) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            clear(model)?;
            let bytes = slice(bytes.cast::<u8>(), len)?;
            // By reference: to move it would need a second place on the stack.
            match &Model::from_bytes(bytes) {
                Ok(opened) => fill(model, ManuallyDrop::new(Engine::new(*opened, kernels()))),
                Err(error) => Err((*error).into()),
            }
        }
    })
}

/// Says how much memory a state, a scratch for up to chunk tokens or frames at once, and a snapshot need.
///
/// # Safety
/// `model` may be read, `needs` written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_memory(model: *const ModelHandle, chunk: usize, needs: *mut Needs) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        let model = unsafe { get(model) }?.model();
        let memory = model.memory(chunk).filter(|_| chunk > 0).ok_or(SaritLength)?;
        let snapshot_bytes = State::snapshot_bytes(model);
        let need = Needs {
            state_bytes: memory.state_bytes,
            scratch_bytes: memory.scratch_bytes,
            align: ALIGN,
            snapshot_bytes,
        };
        // SAFETY: as the caller promises.
        unsafe { write(needs, need) }
    })
}

/// Number of token ids; 0 for a frame model, and for a struct that holds no model.
///
/// # Safety
/// `model` may be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_vocab_len(model: *const ModelHandle) -> usize {
    // SAFETY: as the caller promises.
    unsafe { get(model) }.map_or(0, |engine| engine.model().vocab_len())
}

/// Number of floats in a frame; 0 for a token model, and for a struct that holds no model.
///
/// # Safety
/// `model` may be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_frame_len(model: *const ModelHandle) -> usize {
    // SAFETY: as the caller promises.
    unsafe { get(model) }.map_or(0, |engine| engine.model().frame_len())
}

/// Number of floats in a result: logits, scores of classes or regression values; 0 for a struct that holds no model.
///
/// # Safety
/// `model` may be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_output_len(model: *const ModelHandle) -> usize {
    // SAFETY: as the caller promises.
    unsafe { get(model) }.map_or(0, |engine| engine.model().output_len())
}

/// JSON about the model (its name, licence, labels of classes): len bytes of UTF-8 at text, which do not end with a zero.
///
/// # Safety
/// `model` may be read, `text` and `len` written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_meta(
    model: *const ModelHandle,
    text: *mut *const c_char,
    len: *mut usize,
) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            let meta = get(model)?.model().meta();
            write(text, meta.as_ptr().cast())?;
            write(len, meta.len())
        }
    })
}
