//! Sarit on NVIDIA devices: the same file, the same state, the same bits.
//!
//! * [`Streams`] is a model on a device with the states of any number of streams: it reads, steps and generates, and
//!   takes states from any other back end and gives them back.
//! * [`Cuda`] is a device; [`devices`] lists those there are. The driver and the compiler of the kernels are looked for
//!   at run time: where there is none, that is an error with a sentence.
//!
//! ```no_run
//! # fn run(file: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! use sarit_cuda::{Cuda, Streams};
//! let model = sarit_core::Model::from_bytes(file)?;
//! let mut streams = Streams::new(Cuda::open(0)?, model, 1, 256)?;
//! streams.feed(0, &[1, 2, 3])?;
//! let logits = streams.step(0, 4)?;
//! # Ok(()) }
//! ```
//!
//! # How it runs
//!
//! The plan of a model becomes a list of operations (`program`), and one kernel runs them all: its blocks stay on the
//! device for the whole launch, do an operation, wait for each other, and go on with the next, for one token or, where
//! tokens are chosen on the device, for many. So a token costs no launches, and between two barriers each block makes
//! for itself what it would else wait for. While a block waits, its next weights are on their way to its registers or, where
//! matrices are long, to its shared memory (`kernels/ring.cuh`). Within Mamba
//! blocks one token needs no barriers at all: each number is waited for by itself.
//!
//! The kernel is compiled for the model's shapes and the device's number of multiprocessors (`program::shapes`): all but
//! places are constants, so the compiler unrolls what is short, drops what does not happen, and keeps a layer's code small
//! enough for the instruction cache. Models of one architecture and one type of weights share their kernels.
//!
//! Bits are those of [`sarit_core::Scalar`]: products of codes are exact, sums run in the lanes of the contract, which
//! are warps (8 lanes over groups) and half-warps (16 over elements), and the kernels are compiled without contraction.
//! Only prompts can be read without them, several times as fast ([`Prompts`], `kernels/half.cuh` and `chunks.cuh`).
//! The tests run these kernels, thread by thread, on an emulator where there is no device.

mod compile;
mod cuda;
mod device;
mod error;
mod program;
mod streams;

pub use compile::{Special, cache_folder, compile, file_name, has_compiler, kernels};
pub use cuda::{Cuda, DeviceModel, Info, Registered, devices};
pub use device::{BlockSize, Device};
pub use error::CudaError;
pub use program::{Params, Prompts, SIZES, dispatch};
pub use streams::{DeviceMemory, Request, Streams};
