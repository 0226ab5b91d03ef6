//! What the firmware examples share: a case (a model, frames, and what the host made of them), the interrupt that
//! brings the frames, the loop that steps the model, and the measurements.
#![no_std]

mod digest;
pub use digest::Digest;

/// What only a device has.
#[cfg(target_os = "none")]
mod device {
    mod case;
    #[cfg(target_arch = "arm")]
    pub mod cortex_m;
    pub mod kernels;
    mod memory;
    mod report;
    mod run;
    mod source;

    pub use case::{Aligned, Case, Lent};
    pub use memory::Stack;
    pub use report::{Console, report};
    pub use run::{Board, Verdict, run};
    pub use source::{Frames, Source};
}
#[cfg(target_os = "none")]
pub use device::*;

// For `case!`.
#[cfg(target_os = "none")]
pub use {bytemuck, static_cell};
