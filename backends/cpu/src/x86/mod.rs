//! Kernels for x86-64: the operations of [`Simd`](crate::simd::Simd), by which all else is compiled, in [`avx2`] and
//! [`avx512`].

use crate::simd::operations;
use sarit_core::GROUP;

mod avx2;
mod avx512;

/// Proof that the CPU has AVX2 and F16C. (No FMA: it rounds once where the contract rounds twice.)
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// `None` where the CPU lacks them.
    pub(crate) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")).then_some(Self(()))
    }
}

/// Proof that the CPU has AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// `None` where the CPU lacks them.
    pub(crate) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("f16c"))
        .then_some(Self(()))
    }
}

/// The four codes `4k..4k + 4` as one number.
#[inline(always)]
fn four(x: &[i8; GROUP], k: usize) -> i32 {
    i32::from_le_bytes([x[4 * k] as u8, x[4 * k + 1] as u8, x[4 * k + 2] as u8, x[4 * k + 3] as u8])
}

operations!(Avx2, "avx2,f16c");
operations!(Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c");
