//! Cores with DSP instructions and a single-precision floating-point unit.

/// The core that functions in assembly are for. They need it, because the compiler passes no features on to them, and
/// the FPU's registers are the same on all three cores.
macro_rules! CORE {
    () => {
        ".cpu cortex-m4\n.fpu fpv4-sp-d16"
    };
}

mod conv;
mod dense;
mod exp;
mod exp2;
mod functions;
mod quantize;
mod scan;
mod tiled;
mod vectors;

use half::f16;
use sarit_core::kernels::{
    Conv, Decay, Input, Kernels, QuantizedMut, Rests, RowSink, Rows, RowsMut, Scan, SsmState, TimeStep,
    scalar,
};
use sarit_core::plan::{Activation, Norm, NormKind};
use sarit_core::{Matrix, Scalar};

/// Whether `x` begins with a whole word: what loads or stores several words at once faults anywhere else.
fn is_in_words<T>(x: &[T]) -> bool {
    x.as_ptr().cast::<u32>().is_aligned()
}

/// The definitions, for what has no instructions of its own here. Not inlined: their part of the stack is only there
/// while they run.
mod others {
    use super::*;

    #[inline(never)]
    pub(super) fn matmul(w: &Matrix<'_>, x: Input<'_>, y: RowsMut<'_>) {
        Scalar.matmul(w, x, y);
    }

    #[inline(never)]
    pub(super) fn norm(norm: &Norm<'_>, x: Rows<'_>, y: RowsMut<'_>) {
        Scalar.norm(norm, x, y);
    }

    #[inline(never)]
    pub(super) fn conv(conv: &Conv<'_>, window: &mut [f32], x: RowsMut<'_>) {
        Scalar.conv(conv, window, x);
    }

    /// A function for each format, so that a firmware holds only those that its models can have.
    #[inline(never)]
    pub(super) fn scan(p: &Scan<'_>, h: &mut [f32], mut y: RowsMut<'_>) {
        scalar::scan(p, 0..p.heads, SsmState::F32(h), &mut y);
    }

    #[inline(never)]
    pub(super) fn scan_halves(p: &Scan<'_>, h: &mut [f16], mut y: RowsMut<'_>) {
        scalar::scan(p, 0..p.heads, SsmState::F16(h), &mut y);
    }

    #[inline(never)]
    pub(super) fn scan_codes(
        p: &Scan<'_>,
        codes: &mut [i8],
        scales: &mut [f32],
        rests: &mut [Rests],
        mut y: RowsMut<'_>,
    ) {
        scalar::scan(p, 0..p.heads, SsmState::I8 { codes, scales, rests }, &mut y);
    }

    #[inline(never)]
    pub(super) fn activate(activation: Activation, gate: Option<Rows<'_>>, y: RowsMut<'_>) {
        Scalar.activate(activation, gate, y);
    }
}

/// Kernels for Cortex-M4F, M7 and M33 with its options: the DSP extension and the floating-point unit.
///
/// # Panics
/// Its products and codes, where codes, or the scales of a matrix in q8, do not begin at a multiple of four bytes. In a
/// [`Model`](sarit_core::Model) and a [`Scratch`](sarit_core::Scratch) they do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Dsp;

impl Kernels for Dsp {
    fn name(&self) -> &'static str {
        "dsp"
    }

    fn norm(&self, norm: &Norm<'_>, x: Rows<'_>, mut y: RowsMut<'_>) {
        match norm {
            Norm { kind: NormKind::Identity, weight: None, bias: None, .. } => {
                (0..x.count()).for_each(|t| vectors::copy(x.row(t), y.row(t)));
            }
            norm => others::norm(norm, x, y),
        }
    }

    fn add_scaled(&self, scale: f32, x: &[f32], y: &mut [f32]) {
        vectors::add_scaled(scale, x, y);
    }

    fn quantize(&self, x: Rows<'_>, q: QuantizedMut<'_>) {
        quantize::quantize(x, q);
    }

    fn matmul(&self, w: &Matrix<'_>, x: Input<'_>, mut y: RowsMut<'_>) {
        match (w, x) {
            (Matrix::Q8(w), Input::Quantized(x)) => tiled::matmul(w, x, &mut y),
            (Matrix::F32(w), Input::Float(x)) => dense::matmul(w, x, &mut y),
            (w, x) => others::matmul(w, x, y),
        }
    }

    fn conv(&self, conv: &Conv<'_>, window: &mut [f32], x: RowsMut<'_>) {
        if conv.width == 4 { conv::conv4(conv, window, x) } else { others::conv(conv, window, x) }
    }

    fn time_step(&self, p: &TimeStep<'_>, x: RowsMut<'_>) {
        functions::time_step(p, x);
    }

    fn scan(&self, p: &Scan<'_>, state: SsmState<'_>, mut y: RowsMut<'_>) {
        match (p.decay, state) {
            (Decay::Element(a_log2), SsmState::F32(h)) if scan::takes(p) => scan::scan(p, a_log2, h, &mut y),
            (_, SsmState::F32(h)) => others::scan(p, h, y),
            (_, SsmState::F16(h)) => others::scan_halves(p, h, y),
            (_, SsmState::I8 { codes, scales, rests }) => others::scan_codes(p, codes, scales, rests, y),
        }
    }

    fn activate(&self, activation: Activation, gate: Option<Rows<'_>>, mut y: RowsMut<'_>) {
        match (activation, gate) {
            (Activation::Silu, Some(gate)) => functions::gate(gate, &mut y),
            (Activation::Silu, None) => (0..y.count()).for_each(|t| functions::silu(y.row(t))),
            _ => others::activate(activation, gate, y),
        }
    }

    fn gate(&self, z: Rows<'_>, norm: Option<&Norm<'_>>, groups: usize, mut y: RowsMut<'_>) {
        functions::gate(z, &mut y);
        if let Some(norm) = norm {
            self.group_norm(norm, groups, y);
        }
    }
}
