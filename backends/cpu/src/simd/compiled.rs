//! The operations, compiled for an instruction set.
//!
//! How it inlines: an operation is a generic `#[inline(always)]` function without target features; [`compiled`] makes a
//! `#[target_feature]` function around it, into which the whole of it is inlined and in which the intrinsics become
//! instructions. Closures that take or return vectors are avoided, for they might stay calls.

/// A method that runs `$body` in a function compiled with `$features`, which a `$proof` proves; in it the proof is
/// called `$simd`.
macro_rules! compiled {
    ($proof:ty, $features:literal, $name:ident($simd:ident $(, $arg:ident: $type:ty)*) $body:expr) => {
        fn $name(self $(, $arg: $type)*) {
            #[target_feature(enable = $features)]
            fn compiled($simd: $proof $(, $arg: $type)*) {
                $body
            }
            // SAFETY: `self` proves that the CPU has these features.
            unsafe { compiled(self $(, $arg)*) }
        }
    };
}

/// [`Operations`](crate::operations::Operations) for a proof, compiled with the features that it proves.
macro_rules! operations {
    ($proof:ty, $features:literal) => {
        const _: () = {
            use $crate::columns::Part;
            use $crate::operations::Operations;
            use $crate::simd::{compiled, dense, fetch_conv, scan, tiled};
            use core::ops::Range;
            use sarit_core::Matrix;
            use sarit_core::kernels::{
                Attend, Conv, Input, QuantizedMut, Rows, Scan, SsmState, TimeStep, scalar,
            };
            use sarit_core::plan::{Activation, Norm};

            impl Operations for $proof {
                compiled! { $proof, $features,
                    norm(_simd, norm: &Norm<'_>, x: Rows<'_>, tokens: Range<usize>, y: &mut Part<'_>)
                    scalar::norm(norm, x, tokens, y)
                }
                compiled! { $proof, $features,
                    quantize(_simd, x: Rows<'_>, q: QuantizedMut<'_>)
                    scalar::quantize(x, q)
                }
                compiled! { $proof, $features,
                    matmul(simd, w: &Matrix<'_>, x: Input<'_>, parts: Range<usize>, y: &mut Part<'_>)
                    match (w, x) {
                        (Matrix::F32(w), Input::Float(x)) => dense::matmul(simd, w, x, parts, y),
                        (Matrix::F16(w), Input::Float(x)) => dense::matmul(simd, w, x, parts, y),
                        (Matrix::Q8(w), Input::Quantized(x)) => tiled::matmul(simd, tiled::Q8, w, x, parts, y),
                        (Matrix::Q4(w), Input::Quantized(x)) => tiled::matmul(simd, tiled::Q4, w, x, parts, y),
                        _ => unreachable!("quantized matrices take quantized inputs, float ones floats"),
                    }
                }
                compiled! { $proof, $features,
                    conv(
                        _simd, c: &Conv<'_>, channels: Range<usize>, count: usize, window: &mut Part<'_>, x: &mut Part<'_>
                    )
                    {
                        fetch_conv(c, &channels, window);
                        scalar::conv(c, channels, count, window, x)
                    }
                }
                compiled! { $proof, $features,
                    time_step(_simd, p: &TimeStep<'_>, count: usize, x: &mut Part<'_>)
                    scalar::time_step(p, count, x)
                }
                compiled! { $proof, $features,
                    decay(_simd, a_log2: &[f32], dt: Rows<'_>, y: &mut Part<'_>)
                    scalar::decay(a_log2, dt, y)
                }
                compiled! { $proof, $features,
                    scan(simd, p: &Scan<'_>, heads: Range<usize>, state: SsmState<'_>, y: &mut Part<'_>)
                    scan::scan(simd, p, heads, state, y)
                }
                compiled! { $proof, $features,
                    gate(
                        _simd, z: Rows<'_>, norm: Option<&Norm<'_>>, groups: usize, tokens: Range<usize>, y: &mut Part<'_>
                    )
                    scalar::gate(z, norm, groups, tokens, y)
                }
                compiled! { $proof, $features,
                    group_norm(_simd, norm: &Norm<'_>, groups: usize, count: usize, y: &mut Part<'_>)
                    scalar::group_norm(norm, groups, count, y)
                }
                compiled! { $proof, $features,
                    attend(_simd, p: &Attend<'_>, heads: Range<usize>, scores: &mut [f32], y: &mut [f32])
                    scalar::attend(p, heads, scores, y)
                }
                compiled! { $proof, $features,
                    activate(
                        _simd, activation: Activation, gate: Option<Rows<'_>>, tokens: Range<usize>, y: &mut Part<'_>
                    )
                    scalar::activate(activation, gate, tokens, y)
                }
            }
        };
    };
}

pub(crate) use {compiled, operations};
