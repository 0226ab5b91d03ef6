//! Feed-forward networks; equations at [`crate::plan::MlpRecord`].

use super::linear::linear_buffers;
use super::{Chunk, Engine};
use crate::kernels::{Kernels, Rows, RowsMut};
use crate::plan::Mlp;
use crate::scratch::Scratch;

impl<K: Kernels> Engine<'_, K> {
    #[inline(never)]
    pub(super) fn mlp(&self, p: &Mlp<'_>, chunk: &Chunk<'_, '_, '_>, s: &mut Scratch<'_>) {
        let (count, len, d_ff) = (chunk.count, chunk.input_len, p.up.matrix.rows());
        let u = Rows::new(s.hidden, count, len, len);
        self.linear(&p.up, u, linear_buffers!(s), s.inner, d_ff);
        if let Some(gate) = &p.gate {
            self.linear(gate, u, linear_buffers!(s), s.proj, d_ff);
        }
        let gate = p.gate.map(|_| Rows::new(s.proj, count, d_ff, d_ff));
        self.kernels.activate(p.activation, gate, RowsMut::new(s.inner, count, d_ff, d_ff));
        let x = Rows::new(s.inner, count, d_ff, d_ff);
        self.linear(&p.down, x, linear_buffers!(s), s.output, self.model.d_model());
    }
}
