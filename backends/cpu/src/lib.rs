//! Sarit on CPUs with an operating system: vector kernels chosen at run time, threads, and memory.
//!
//! * [`Cpu`] runs the operations of [`sarit_core::Kernels`] on the best instruction set that the machine has and
//!   on any number of threads. The bits are those of [`sarit_core::Scalar`], whatever it chooses.
//! * [`Mapped`] is a model file where it lies on disk; [`AlignedBytes`] is memory for states and scratch.
//!
//! ```no_run
//! # fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use sarit_core::{Engine, Model, Scratch, State};
//! use sarit_cpu::{AlignedBytes, Cpu, Mapped};
//! let file = Mapped::open("model.sarit".as_ref())?;
//! let model = Model::from_bytes(file.bytes())?;
//! let need = model.memory(64).ok_or("so large a chunk cannot be addressed")?;
//! let (mut state, mut scratch) = (AlignedBytes::zeroed(need.state_bytes)?, AlignedBytes::zeroed(need.scratch_bytes)?);
//! let mut state = State::init(&model, &mut state)?;
//! let mut scratch = Scratch::new(&model, &mut scratch, 64)?;
//! let engine = Engine::new(model, Cpu::new(2));
//! let logits = engine.step(&mut state, &mut scratch, 1)?;
//! # Ok(()) }
//! ```
//!
//! # Instruction sets
//!
//! [`Isa`] lists them. The choice is made when a [`Cpu`] is made; `--cfg sarit_backend="scalar"` (or `"avx2"`,
//! `"avx512"`) in `RUSTFLAGS` leaves only that one, for tests and for measurements.

mod columns;
mod cpu;
mod isa;
mod map;
mod memory;
mod operations;
mod pool;
#[cfg(target_arch = "x86_64")]
mod simd;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use cpu::Cpu;
pub use isa::{Isa, UnknownIsa};
pub use map::{MapError, Mapped};
pub use memory::{AlignedBytes, AllocError};
