//! Attention over a ring of positions; equations at [`crate::plan::AttentionRecord`].

use super::linear::linear_buffers;
use super::{Chunk, Engine, Stream};
use crate::kernels::{Attend, Conv, Kernels, Rows, RowsMut};
use crate::math::sin_cos;
use crate::plan::{Attention, NormKind, Rope};
use crate::scratch::Scratch;

impl<K: Kernels> Engine<'_, K> {
    #[inline(never)]
    pub(super) fn attention(&self, p: &Attention<'_>, chunk: &mut Chunk<'_, '_, '_>, s: &mut Scratch<'_>) {
        let (count, len) = (chunk.count, chunk.input_len);
        let (q_len, kv_len, qkv_len) = (p.q_len(), p.kv_len(), p.qkv_len());
        let u = Rows::new(s.hidden, count, len, len);
        self.linear(&p.q, u, linear_buffers!(s), s.proj, qkv_len);
        self.linear(&p.k, u, linear_buffers!(s), &mut s.proj[q_len..], qkv_len);
        self.linear(&p.v, u, linear_buffers!(s), &mut s.proj[q_len + kv_len..], qkv_len);
        for Stream { rows, position, state } in chunk.streams() {
            let [conv_window, keys, values, _] = state.map(bytemuck::cast_slice_mut);
            if p.conv_width > 1 {
                let conv = Conv {
                    width: p.conv_width,
                    channels: qkv_len,
                    weight: p.conv_weight,
                    bias: p.conv_bias,
                    silu: false,
                };
                let x = RowsMut::new(&mut s.proj[rows.start * qkv_len..], rows.len(), qkv_len, qkv_len);
                self.kernels.conv(&conv, conv_window, x);
            }
            // Position after position: each is in the ring before it attends, as in stepping.
            for (t, position) in rows.zip(position..) {
                self.attend_at(p, position, t, keys, values, s);
            }
        }
        let y = Rows::new(s.inner, count, q_len, q_len);
        self.linear(&p.o, y, linear_buffers!(s), s.output, self.model.d_model());
    }

    /// Attends from row `t`, at `position` of its stream, whose ring is `keys` and `values`.
    fn attend_at(
        &self,
        p: &Attention<'_>,
        position: u64,
        t: usize,
        keys: &mut [f32],
        values: &mut [f32],
        s: &mut Scratch<'_>,
    ) {
        let (q_len, kv_len, qkv_len) = (p.q_len(), p.kv_len(), p.qkv_len());
        let (qk, v) = s.proj[t * qkv_len..(t + 1) * qkv_len].split_at_mut(q_len + kv_len);
        let (q, k) = qk.split_at_mut(q_len);
        if p.q_norm.kind != NormKind::Identity {
            self.kernels.group_norm(&p.q_norm, 1, RowsMut::new(q, p.heads, p.head_dim, p.head_dim));
        }
        if p.k_norm.kind != NormKind::Identity {
            self.kernels.group_norm(&p.k_norm, 1, RowsMut::new(k, p.kv_heads, p.head_dim, p.head_dim));
        }
        if let Some(rope) = &p.rope {
            rotate(rope, position, qk, p.head_dim);
        }
        let (q, k) = qk.split_at(q_len);
        let row = (position % p.window as u64) as usize * kv_len;
        keys[row..row + kv_len].copy_from_slice(k);
        values[row..row + kv_len].copy_from_slice(v);
        let filled = (position + 1).min(p.window as u64) as usize;
        let attend = Attend {
            heads: p.heads,
            kv_heads: p.kv_heads,
            head_dim: p.head_dim,
            scale: p.scale,
            q,
            keys: &keys[..filled * kv_len],
            values: &values[..filled * kv_len],
        };
        let y = &mut s.inner[t * q_len..(t + 1) * q_len];
        self.kernels.attend(&attend, &mut s.scores[..p.heads * filled], y);
    }
}

/// Rotates each head of `heads` `[n][head_dim]` by its position.
fn rotate(rope: &Rope<'_>, position: u64, heads: &mut [f32], head_dim: usize) {
    let half = rope.dims / 2;
    for i in 0..half {
        let (sin, cos) = sin_cos(position.wrapping_mul(rope.step(i)));
        for head in heads.chunks_exact_mut(head_dim) {
            let (a, b) = (head[i], head[i + half]);
            head[i] = a * cos - b * sin;
            head[i + half] = b * cos + a * sin;
        }
    }
}
