//! Sarit on microcontrollers: kernels that are chosen when a firmware is built, with the bits of
//! [`sarit_core::Scalar`].
//!
//! * `Dsp`: Cortex-M4F, M7 and M33, with their DSP instructions and floating-point unit. On targets of the `eabihf` kind
//!   only; for `thumbv8m.main` build with `-Ctarget-cpu=cortex-m33`, which says that the core has the options.
//! * [`Soft`]: cores without a floating-point unit, on any target.
//!
//! A crate of its own beside `sarit-cpu`, which chooses kernels at run time and needs threads and an operating system.
#![no_std]

#[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
mod dsp;
mod soft;

#[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
pub use dsp::Dsp;
pub use soft::Soft;

/// The best kernels for the target that this is built for.
#[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
pub type Best = Dsp;
/// The best kernels for the target that this is built for.
#[cfg(all(
    any(target_arch = "arm", target_arch = "riscv32"),
    target_os = "none",
    not(target_abi = "eabihf")
))]
pub type Best = Soft;
/// The best kernels for the target that this is built for.
#[cfg(not(all(any(target_arch = "arm", target_arch = "riscv32"), target_os = "none")))]
pub type Best = sarit_core::Scalar;
