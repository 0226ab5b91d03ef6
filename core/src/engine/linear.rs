//! Linear maps.

use super::{Chunk, Engine};
use crate::kernels::{Input, Kernels, Quantized, QuantizedMut, RowSink, Rows, RowsMut};
use crate::plan::{Adapter, Linear, LinearBlock};
use crate::scratch::Scratch;
use crate::tensor::{GROUP, Matrix};

/// The buffers that a linear map needs.
pub(super) struct LinearBuffers<'a, 's> {
    pub(super) quantized: &'a mut QuantizedMut<'s>,
    pub(super) adapter: &'a mut [f32],
    pub(super) adapted: &'a mut [f32],
}

/// [`LinearBuffers`] out of a scratch whose other fields stay free to use.
macro_rules! linear_buffers {
    ($scratch:expr) => {
        $crate::engine::linear::LinearBuffers {
            quantized: &mut $scratch.quantized,
            adapter: &mut *$scratch.adapter,
            adapted: &mut *$scratch.adapted,
        }
    };
}
pub(super) use linear_buffers;

impl<K: Kernels> Engine<'_, K> {
    /// `y[t] = w · x[t]`, through codes if `w` is quantized.
    pub(super) fn product(&self, w: &Matrix<'_>, x: Rows<'_>, buffer: &mut QuantizedMut<'_>, y: RowsMut<'_>) {
        if !w.is_quantized() {
            return self.kernels.matmul(w, Input::Float(x), y);
        }
        let groups = w.cols().div_ceil(GROUP);
        let all = x.count() * groups;
        let (codes, scales, sums) =
            (&mut buffer.codes[..all], &mut buffer.scales[..all], &mut buffer.sums[..all]);
        self.kernels.quantize(x, QuantizedMut { groups, codes, scales, sums });
        self.kernels.matmul(
            w,
            Input::Quantized(Quantized { count: x.count(), groups, codes, scales, sums }),
            y,
        );
    }

    /// `y[t] = matrix · x[t] (+ up · down · x[t]) (+ bias)`; `y` `[count][stride]` of which the first columns are
    /// written.
    pub(super) fn linear(
        &self,
        linear: &Linear<'_>,
        x: Rows<'_>,
        buffers: LinearBuffers<'_, '_>,
        y: &mut [f32],
        stride: usize,
    ) {
        let (rows, count) = (linear.matrix.rows(), x.count());
        self.product(&linear.matrix, x, buffers.quantized, RowsMut::new(y, count, rows, stride));
        if let Some(adapter) = linear.adapter {
            self.adapt(adapter, x, buffers, RowsMut::new(y, count, rows, stride));
        }
        if let Some(bias) = linear.bias {
            let mut y = RowsMut::new(y, count, rows, stride);
            (0..count).for_each(|t| self.kernels.add_scaled(1.0, bias, y.row(t)));
        }
    }

    /// `y[t] += up · down · x[t]`. Not inlined: most maps have no adapter.
    #[inline(never)]
    fn adapt(&self, adapter: Adapter<'_>, x: Rows<'_>, buffers: LinearBuffers<'_, '_>, mut y: RowsMut<'_>) {
        let (down, up) = adapter.matrices();
        let (count, rank, rows) = (x.count(), down.rows(), up.rows());
        self.product(&down, x, buffers.quantized, RowsMut::new(buffers.adapter, count, rank, rank));
        let low = Rows::new(buffers.adapter, count, rank, rank);
        self.product(&up, low, buffers.quantized, RowsMut::new(buffers.adapted, count, rows, rows));
        for (t, adapted) in buffers.adapted.chunks_exact(rows).take(count).enumerate() {
            self.kernels.add_scaled(1.0, adapted, y.row(t));
        }
    }

    #[inline(never)]
    pub(super) fn linear_block(&self, p: &LinearBlock<'_>, chunk: &Chunk<'_, '_, '_>, s: &mut Scratch<'_>) {
        let len = self.model.d_model();
        let u = Rows::new(s.hidden, chunk.count, chunk.input_len, chunk.input_len);
        self.linear(&p.linear, u, linear_buffers!(s), s.output, len);
    }
}
