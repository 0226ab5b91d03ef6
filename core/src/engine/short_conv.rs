//! Gated short convolutions; equations at [`crate::plan::ShortConvRecord`].

use super::linear::linear_buffers;
use super::{Chunk, Engine, Stream};
use crate::kernels::{Conv, Kernels, Rows, RowsMut};
use crate::plan::ShortConv;
use crate::scratch::Scratch;

impl<K: Kernels> Engine<'_, K> {
    #[inline(never)]
    pub(super) fn short_conv(&self, p: &ShortConv<'_>, chunk: &mut Chunk<'_, '_, '_>, s: &mut Scratch<'_>) {
        let (count, len, channels) = (chunk.count, chunk.input_len, p.channels);
        let u = Rows::new(s.hidden, count, len, len);
        self.linear(&p.in_proj, u, linear_buffers!(s), s.proj, 3 * channels);
        let proj = Rows::new(s.proj, count, 3 * channels, 3 * channels);
        let (b, c, x) = (
            proj.columns(0, channels),
            proj.columns(channels, channels),
            proj.columns(2 * channels, channels),
        );
        for (t, y) in s.inner.chunks_exact_mut(channels).take(count).enumerate() {
            y.iter_mut().zip(b.row(t).iter().zip(x.row(t))).for_each(|(y, (b, x))| *y = b * x);
        }
        let conv =
            Conv { width: p.conv_width, channels, weight: p.conv_weight, bias: p.conv_bias, silu: false };
        for Stream { rows, state: [window, ..], .. } in chunk.streams() {
            let x = RowsMut::new(&mut s.inner[rows.start * channels..], rows.len(), channels, channels);
            self.kernels.conv(&conv, bytemuck::cast_slice_mut(window), x);
        }
        for (t, y) in s.inner.chunks_exact_mut(channels).take(count).enumerate() {
            y.iter_mut().zip(c.row(t)).for_each(|(y, c)| *y *= c);
        }
        let y = Rows::new(s.inner, count, channels, channels);
        self.linear(&p.out_proj, y, linear_buffers!(s), s.output, self.model.d_model());
    }
}
