//! States: what streams remember.

use crate::guard::guard;
use crate::handle::{
    Lent, ModelHandle, Span, StateHandle, clear, fill, get, get_mut, slice, slice_mut, write,
};
use crate::status::Status;
use core::ffi::c_void;
use sarit_core::State;

/// Starts a stream in memory (64-byte aligned, of state_bytes of sarit_memory()).
///
/// # Safety
/// `state` may be written and `model` read; `bytes` bytes at `memory` are the state's alone for as long as it is used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_state_init(
    state: *mut StateHandle,
    model: *const ModelHandle,
    memory: *mut c_void,
    bytes: usize,
) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            clear(state)?;
            let model = get(model)?.model();
            let memory = slice_mut(memory.cast::<u8>(), bytes)?;
            let span = Span::of(memory);
            fill(state, Lent { value: State::init(model, memory)?, memory: span })
        }
    })
}

/// Forgets all that the stream has read.
///
/// # Safety
/// `state` may be written and is used by nothing else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_state_reset(state: *mut StateHandle) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe { get_mut(state) }?.value.reset();
        Ok(())
    })
}

/// Number of tokens or frames that the stream has read; 0 for a struct that holds no state.
///
/// # Safety
/// `state` may be read and is not written meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_state_position(state: *const StateHandle) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { get(state) }.map_or(0, |state| state.value.position())
}

/// Hash of the state: equal states have equal hashes on every machine. 0 for a struct that holds no state.
///
/// # Safety
/// `state` may be read and is not written meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_state_hash(state: *const StateHandle) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { get(state) }.map_or(0, |state| state.value.hash())
}

/// Writes a snapshot of the stream to out, of snapshot_bytes of sarit_memory() at least.
/// written: its length in bytes.
///
/// # Safety
/// `state` may be read and is not written meanwhile; `bytes` bytes at `out`, and `written`, may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_state_save(
    state: *const StateHandle,
    out: *mut c_void,
    bytes: usize,
    written: *mut usize,
) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            let state = get(state)?;
            let out = slice_mut(out.cast::<u8>(), bytes)?;
            Span::apart(&[state.memory, Span::of(out)])?;
            write(written, 0)?;
            write(written, state.value.save(out)?)
        }
    })
}

/// Goes on from a snapshot that any machine has saved, in memory as for sarit_state_init(). The snapshot need not be
/// aligned, and is not needed any more afterwards.
///
/// # Safety
/// As for [`sarit_state_init`]; `len` bytes at `snapshot` may be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_state_load(
    state: *mut StateHandle,
    model: *const ModelHandle,
    snapshot: *const c_void,
    len: usize,
    memory: *mut c_void,
    bytes: usize,
) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            clear(state)?;
            let model = get(model)?.model();
            let snapshot = slice(snapshot.cast::<u8>(), len)?;
            let memory = slice_mut(memory.cast::<u8>(), bytes)?;
            let span = Span::of(memory);
            Span::apart(&[span, Span::of(snapshot)])?;
            fill(state, Lent { value: State::load(model, snapshot, memory)?, memory: span })
        }
    })
}
