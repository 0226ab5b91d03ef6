//! Scratch: working memory of steps.

use crate::guard::guard;
use crate::handle::{Lent, ModelHandle, ScratchHandle, Span, clear, fill, get, slice_mut};
use crate::status::Status;
use core::ffi::c_void;
use sarit_core::Scratch;

/// Makes scratch of memory (64-byte aligned, of scratch_bytes of sarit_memory() for the same chunk), for steps of model.
/// Any number of streams can share it, one after another.
///
/// # Safety
/// `scratch` may be written and `model` read; `bytes` bytes at `memory` are the scratch's alone for as long as it is used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_scratch_init(
    scratch: *mut ScratchHandle,
    model: *const ModelHandle,
    memory: *mut c_void,
    bytes: usize,
    chunk: usize,
) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            clear(scratch)?;
            let model = get(model)?.model();
            let memory = slice_mut(memory.cast::<u8>(), bytes)?;
            let span = Span::of(memory);
            fill(scratch, Lent { value: Scratch::new(model, memory, chunk)?, memory: span })
        }
    })
}
