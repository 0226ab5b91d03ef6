//! Records and elementary functions of the kernels against those of the host.

use sarit_core::math;
use sarit_cuda_emulator::{Function, function, half, sin_cos, sizes};

#[test]
fn records_have_one_size() {
    assert_eq!(sizes().map(|size| size as usize), sarit_cuda::SIZES);
}

#[test]
fn elementary_functions_have_the_bits_of_core() {
    // Odd, so that all low bit patterns occur.
    let x: Vec<f32> = (0..=u32::MAX).step_by(4001).map(f32::from_bits).collect();
    type Definition = fn(f32) -> f32;
    let pairs: [(Function, Definition); 8] = [
        (Function::Exp2, math::exp2),
        (Function::Exp, math::exp),
        (Function::Softplus, math::softplus),
        (Function::Silu, math::silu),
        (Function::Sigmoid, math::sigmoid),
        (Function::Rsqrt, math::rsqrt),
        (Function::Gelu, math::gelu),
        (Function::GeluTanh, math::gelu_tanh),
    ];
    for (name, core) in pairs {
        for (&x, y) in x.iter().zip(function(name, &x)) {
            let want = core(x);
            let same = y.to_bits() == want.to_bits() || (y.is_nan() && want.is_nan());
            assert!(same, "{name:?}({x:e}) is {y:e}, not {want:e}");
        }
    }
}

#[test]
fn angles_have_the_bits_of_core() {
    for i in 0..100_003u64 {
        let turns = i.wrapping_mul(u64::MAX / 100_003);
        let (got, want) = (sin_cos(turns), math::sin_cos(turns));
        assert_eq!((got.0.to_bits(), got.1.to_bits()), (want.0.to_bits(), want.1.to_bits()), "{turns}");
    }
}

#[test]
fn halves_are_exact() {
    for bits in 0..=u16::MAX {
        let (got, want) = (half(bits), half::f16::from_bits(bits).to_f32());
        assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{bits:04x}");
    }
}
