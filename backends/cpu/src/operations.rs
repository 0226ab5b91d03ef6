//! The operations on a part of their output, as an instruction set provides them.

use crate::columns::Part;
use core::ops::Range;
use sarit_core::kernels::{Attend, Conv, Input, QuantizedMut, Rows, Scan, SsmState, TimeStep, scalar};
use sarit_core::plan::{Activation, Norm};
use sarit_core::{Matrix, Scalar};

/// One method per operation, on the ranges of [`sarit_core::kernels::scalar`], with that definition as its default.
/// The value is the proof that the CPU has the instructions.
pub(crate) trait Operations: Copy {
    fn norm(self, norm: &Norm<'_>, x: Rows<'_>, tokens: Range<usize>, y: &mut Part<'_>) {
        scalar::norm(norm, x, tokens, y);
    }

    fn quantize(self, x: Rows<'_>, q: QuantizedMut<'_>) {
        scalar::quantize(x, q);
    }

    fn matmul(self, w: &Matrix<'_>, x: Input<'_>, parts: Range<usize>, y: &mut Part<'_>) {
        scalar::matmul(w, x, parts, y);
    }

    fn conv(
        self,
        conv: &Conv<'_>,
        channels: Range<usize>,
        count: usize,
        window: &mut Part<'_>,
        x: &mut Part<'_>,
    ) {
        scalar::conv(conv, channels, count, window, x);
    }

    fn time_step(self, p: &TimeStep<'_>, count: usize, x: &mut Part<'_>) {
        scalar::time_step(p, count, x);
    }

    fn decay(self, a_log2: &[f32], dt: Rows<'_>, y: &mut Part<'_>) {
        scalar::decay(a_log2, dt, y);
    }

    fn scan(self, p: &Scan<'_>, heads: Range<usize>, state: SsmState<'_>, y: &mut Part<'_>) {
        scalar::scan(p, heads, state, y);
    }

    fn gate(
        self,
        z: Rows<'_>,
        norm: Option<&Norm<'_>>,
        groups: usize,
        tokens: Range<usize>,
        y: &mut Part<'_>,
    ) {
        scalar::gate(z, norm, groups, tokens, y);
    }

    fn group_norm(self, norm: &Norm<'_>, groups: usize, count: usize, y: &mut Part<'_>) {
        scalar::group_norm(norm, groups, count, y);
    }

    fn attend(self, p: &Attend<'_>, heads: Range<usize>, scores: &mut [f32], y: &mut [f32]) {
        scalar::attend(p, heads, scores, y);
    }

    fn activate(
        self,
        activation: Activation,
        gate: Option<Rows<'_>>,
        tokens: Range<usize>,
        y: &mut Part<'_>,
    ) {
        scalar::activate(activation, gate, tokens, y);
    }
}

impl Operations for Scalar {}
