//! Sarit for C. The documentation for its users is the header, `include/sarit.h`, which is made from this crate.
//!
//! Every function takes what C lends ([`handle`]), calls `sarit-core`, and returns a [`Status`](status::Status); none
//! allocates. The `hosted` build has vector kernels and mapped files; without that feature the crate is `no_std`.
#![cfg_attr(not(feature = "hosted"), no_std)]

mod guard;
mod handle;
#[cfg(feature = "hosted")]
mod map;
mod model;
mod sample;
mod scratch;
mod state;
mod status;
mod step;

use core::ffi::c_char;

pub use handle::{ModelHandle, SamplerHandle, ScratchHandle, StateHandle};
#[cfg(feature = "hosted")]
pub use {handle::MapHandle, map::*};
pub use {model::*, sample::*, scratch::*, state::*, status::*, step::*};

/// Version of the functions and structs: a program runs with any library of the same number.
pub const SARIT_ABI_VERSION: u32 = 1;

/// SARIT_ABI_VERSION of the library that runs; compare it with that of the header where the library is shared.
#[unsafe(no_mangle)]
pub extern "C" fn sarit_abi_version() -> u32 {
    SARIT_ABI_VERSION
}

/// Version of the library, such as "0.1.0", in static memory.
#[unsafe(no_mangle)]
pub extern "C" fn sarit_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
