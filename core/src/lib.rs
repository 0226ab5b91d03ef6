//! Streaming inference for Mamba-family models, one token or sensor frame at a time, in memory that is known beforehand.
//!
//! * **No allocation.** The crate has no `alloc`. The caller lends the memory for the state and for the
//!   scratch, and [`Model::memory`] says how much of each before anything runs.
//! * **Checked once.** If [`Model::from_bytes`] returns `Ok`, a step cannot panic, read outside the file or
//!   loop without bound; its work and memory depend on the plan alone.
//! * **One arithmetic.** Every back end gives the same bits; [`kernels`] states the contract.
//!
//! ```no_run
//! # fn run(file: &[u8], state_memory: &mut [u8], scratch_memory: &mut [u8]) -> Result<(), Box<dyn core::error::Error>> {
//! use sarit_core::{Engine, Model, Scalar, Scratch, State};
//! let model = Model::from_bytes(file)?;                      // borrows: flash, a mapped file, `include_bytes!`
//! let mut state = State::init(&model, state_memory)?;        // one per stream
//! let mut scratch = Scratch::new(&model, scratch_memory, 64)?; // shared by any number of streams
//! let engine = Engine::new(model, Scalar);
//! engine.feed(&mut state, &mut scratch, &[1, 2, 3])?;        // read a prompt, no logits
//! let logits = engine.step(&mut state, &mut scratch, 4)?;    // one token in, logits of the next out
//! # Ok(()) }
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!(
    "a .sarit file is little-endian and is used where it lies: big-endian targets are not supported"
);
#[cfg(target_pointer_width = "16")]
compile_error!("Sarit needs pointers of at least 32 bits");

mod engine;
mod error;
pub mod format;
mod hash;
pub mod kernels;
pub mod math;
mod model;
pub mod plan;
mod sample;
mod scratch;
mod state;
mod tensor;

pub use engine::{Engine, MAX_INTERVAL};
pub use error::{ModelError, SampleError, ScratchError, StateError, StepError};
pub use hash::{Hasher, hash};
pub use kernels::{Kernels, Scalar};
pub use model::{Memory, Model};
pub use plan::Block;
pub use sample::{Sampler, Sampling, argmax};
pub use scratch::{Scratch, Shape};
pub use state::{
    MAX_POSITION, SNAPSHOT_CHECKSUM_BYTES, SNAPSHOT_HEADER_BYTES, STATE_GROUP, State, StateDType, StatePart,
};
pub use tensor::{DType, Dense, GROUP, Matrix, TILE_ROWS, Tensor, Tiled};

/// Alignment in bytes of model files, state memory and scratch memory: a cache line, and the widest vector.
pub const ALIGN: usize = 64;

/// `n` rounded up to the next multiple of `to` (a power of two or not).
pub(crate) const fn round_up(n: usize, to: usize) -> usize {
    n.div_ceil(to) * to
}
