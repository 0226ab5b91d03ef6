//! Sarit on microcontrollers: kernels that are chosen when a firmware is built, with the bits of
//! [`sarit_core::Scalar`].
//!
//! * `Dsp`: Cortex-M4F, M7 and M33, with their DSP instructions and floating-point unit. On `thumbv7em-none-eabihf` and
//!   `thumbv8m.main-none-eabihf` only; for the latter build with `-Ctarget-cpu=cortex-m33`, which says that the core has
//!   the options.
//! * [`Soft`]: cores without a floating-point unit, on any target.
//!
//! A crate of its own beside `sarit-cpu`, which chooses kernels at run time and needs threads and an operating system.
#![no_std]

// Cores of the profiles A and R, of which there are such targets too, have atomics of 64 bits; those of profile M have not.
#[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf", not(target_has_atomic = "64")))]
mod dsp;
mod soft;

#[cfg(all(
    target_arch = "arm",
    target_os = "none",
    target_abi = "eabihf",
    not(target_has_atomic = "64")
))]
pub use dsp::Dsp;
pub use soft::Soft;

/// The best kernels for the target that this is built for.
pub type Best = cfg_select! {
    all(target_arch = "arm", target_os = "none", target_abi = "eabihf", not(target_has_atomic = "64")) => { Dsp }
    all(
        any(target_arch = "arm", target_arch = "riscv32"),
        target_os = "none",
        not(target_abi = "eabihf")
    ) => { Soft }
    _ => { sarit_core::Scalar }
};
