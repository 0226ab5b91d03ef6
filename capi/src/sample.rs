//! Choosing tokens and classes.

use crate::guard::guard;
use crate::handle::{SamplerHandle, clear, fill, get_mut, slice, slice_mut, write};
use crate::status::{SaritLength, Status};
use sarit_core::{Sampler, argmax};

/// How to choose the next token.
#[repr(C)]
pub struct Sampling {
    /// 0: always the likeliest token; otherwise logits are divided by it.
    pub temperature: f32,
    /// Only the likeliest tokens that together reach this probability are considered; 1 for all.
    pub top_p: f32,
    /// Only this many of the likeliest tokens are considered; 0 for all.
    pub top_k: usize,
    /// The same seed and logits give the same tokens.
    pub seed: u64,
}

/// The index of the largest of len numbers; of equal ones the first, and 0 if none is a number.
///
/// # Safety
/// `len` floats at `logits` may be read, and `index` written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_argmax(logits: *const f32, len: usize, index: *mut u32) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            let logits = slice(logits, len)?;
            if logits.is_empty() {
                return Err(SaritLength);
            }
            write(index, argmax(logits))
        }
    })
}

/// Starts a random sequence.
///
/// # Safety
/// `sampler` may be written, `sampling` read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_sampler_init(
    sampler: *mut SamplerHandle,
    sampling: *const Sampling,
) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            clear(sampler)?;
            let [Sampling { temperature, top_p, top_k, seed }] = slice(sampling, 1)? else {
                return Err(SaritLength);
            };
            let (temperature, top_k, top_p, seed) = (*temperature, *top_k, *top_p, *seed);
            fill(sampler, Sampler::new(sarit_core::Sampling { temperature, top_k, top_p, seed })?)
        }
    })
}

/// Chooses the next token. Overwrites the logits, unless the temperature is 0.
///
/// # Safety
/// `sampler`, `len` floats at `logits`, and `token` may be written and are used by nothing else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sarit_sample(
    sampler: *mut SamplerHandle,
    logits: *mut f32,
    len: usize,
    token: *mut u32,
) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            let sampler = get_mut(sampler)?;
            let logits = slice_mut(logits, len)?;
            if logits.is_empty() {
                return Err(SaritLength);
            }
            write(token, sampler.sample(logits))
        }
    })
}
