//! Kernels for AArch64: the operations of [`Simd`](crate::simd::Simd), by which all else is compiled. Floats are
//! treated alike on all of these CPUs ([`floats`]); they differ in how they multiply codes ([`neon`], [`dotprod`],
//! [`i8mm`]).

use crate::simd::operations;
use std::arch::is_aarch64_feature_detected;

mod codes;
mod dotprod;
mod floats;
mod i8mm;
mod instructions;
mod neon;

/// Proof that the CPU has NEON, as all with an operating system do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    /// `None` where the CPU lacks it.
    pub(crate) fn new() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Self(()))
    }
}

/// Proof that the CPU has NEON and `sdot` (Armv8.2 and later, such as the Cortex-A76).
#[derive(Debug, Clone, Copy)]
pub(crate) struct DotProd(Neon);

impl DotProd {
    /// `None` where the CPU lacks them.
    pub(crate) fn new() -> Option<Self> {
        Neon::new().filter(|_| is_aarch64_feature_detected!("dotprod")).map(Self)
    }
}

/// Proof that the CPU has NEON, `sdot` and `smmla` (Armv8.6 and later, such as the Neoverse V1).
#[derive(Debug, Clone, Copy)]
pub(crate) struct I8mm(DotProd);

impl I8mm {
    /// `None` where the CPU lacks them.
    pub(crate) fn new() -> Option<Self> {
        DotProd::new().filter(|_| is_aarch64_feature_detected!("i8mm")).map(Self)
    }
}

operations!(Neon, "neon");
operations!(DotProd, "neon,dotprod");
operations!(I8mm, "neon,dotprod,i8mm");
