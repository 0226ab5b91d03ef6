//! State-space blocks; equations at [`crate::plan::SsmRecord`].

use super::linear::linear_buffers;
use super::{Chunk, Engine, Stream};
use crate::kernels::{self, Conv, Kernels, Rows, RowsMut, Scan, SsmState, TimeStep};
use crate::math::sigmoid;
use crate::plan::{Decay, NormKind, Select, Ssm};
use crate::scratch::Scratch;
use crate::state::StateDType;

impl<K: Kernels> Engine<'_, K> {
    #[inline(never)]
    pub(super) fn ssm(&self, p: &Ssm<'_>, mut chunk: Chunk<'_, '_, '_>, s: &mut Scratch<'_>) {
        let (count, len) = (chunk.count, chunk.input_len);
        let (d_inner, bc, channels) = (p.d_inner(), p.bc_len(), p.conv_channels());
        let proj_len = p.in_proj.matrix.rows();

        // [z | v | dt]
        let u = Rows::new(s.hidden, count, len, len);
        self.linear(&p.in_proj, u, linear_buffers!(s), s.proj, proj_len);
        let conv = Conv {
            width: p.conv_width,
            channels,
            weight: p.conv_weight,
            bias: p.conv_bias,
            silu: p.conv_silu,
        };
        for Stream { rows, state: [window, ..], .. } in chunk.streams() {
            let x = &mut s.proj[rows.start * proj_len + d_inner..];
            let x = RowsMut::new(x, rows.len(), channels, proj_len);
            self.kernels.conv(&conv, bytemuck::cast_slice_mut(window), x);
        }

        // dt, B and C: projected from x, or straight from in_proj.
        let proj = Rows::new(s.proj, count, proj_len, proj_len);
        let x = proj.columns(d_inner, d_inner);
        let (b, c) = match &p.select {
            Some(select) => {
                let buffers = (&mut *s.select, &mut *s.normed, &mut *s.dt, &mut s.quantized);
                let selected = self.select(select, p, x, buffers);
                let rank = select.dt_proj.cols();
                (selected.columns(rank, bc), selected.columns(rank + bc, bc))
            }
            None => {
                let raw = proj.columns(d_inner + channels, p.heads);
                for (t, dt) in s.dt.chunks_exact_mut(p.heads).take(count).enumerate() {
                    dt.copy_from_slice(raw.row(t));
                }
                (proj.columns(2 * d_inner, bc), proj.columns(2 * d_inner + bc, bc))
            }
        };
        let decay = self.decay(p, count, chunk.interval, s.dt, s.decay);

        let dt = Rows::new(s.dt, count, p.heads, p.heads);
        for Stream { rows, position, state: [_, elements, scales] } in chunk.streams() {
            let scan = Scan {
                heads: p.heads,
                head_dim: p.head_dim,
                d_state: p.d_state,
                n_groups: p.n_groups,
                decay: match decay {
                    kernels::Decay::Head(decay) => kernels::Decay::Head(decay.rows(rows.clone())),
                    element => element,
                },
                dt: dt.rows(rows.clone()),
                x: x.rows(rows.clone()),
                b: b.rows(rows.clone()),
                c: c.rows(rows.clone()),
                d: p.d,
                position,
            };
            let state = match self.model.state_dtype() {
                StateDType::F32 => SsmState::F32(bytemuck::cast_slice_mut(elements)),
                StateDType::F16 => SsmState::F16(bytemuck::cast_slice_mut(elements)),
                StateDType::I8 => SsmState::I8 {
                    codes: bytemuck::cast_slice_mut(elements),
                    scales: bytemuck::cast_slice_mut(scales),
                },
            };
            let y = &mut s.inner[rows.start * d_inner..];
            self.kernels.scan(&scan, state, RowsMut::new(y, rows.len(), d_inner, d_inner));
        }
        let z = proj.columns(0, d_inner);
        let norm = (p.gate_norm.kind != NormKind::Identity).then_some(&p.gate_norm);
        let y = RowsMut::new(s.inner, count, d_inner, d_inner);
        match norm {
            Some(norm) if p.norm_before_gate => {
                self.kernels.group_norm(norm, p.n_groups, y);
                let y = RowsMut::new(s.inner, count, d_inner, d_inner);
                self.kernels.gate(z, None, p.n_groups, y);
            }
            norm => self.kernels.gate(z, norm, p.n_groups, y),
        }
        let y = Rows::new(s.inner, count, d_inner, d_inner);
        self.linear(&p.out_proj, y, linear_buffers!(s), s.output, self.model.d_model());
    }

    /// Mamba-1's `[dt_low | B | C]`, normed; leaves the raw dt behind.
    fn select<'a>(
        &self,
        select: &Select<'_>,
        p: &Ssm<'_>,
        x: Rows<'_>,
        (raw, normed, dt, quantized): (
            &'a mut [f32],
            &'a mut [f32],
            &mut [f32],
            &mut kernels::QuantizedMut<'_>,
        ),
    ) -> Rows<'a> {
        let (count, rows, rank, bc) = (x.count(), select.x_proj.rows(), select.dt_proj.cols(), p.bc_len());
        self.product(&select.x_proj, x, quantized, RowsMut::new(raw, count, rows, rows));
        let raw = Rows::new(raw, count, rows, rows);
        let norms = [(&select.dt_norm, 0, rank), (&select.b_norm, rank, bc), (&select.c_norm, rank + bc, bc)];
        let selected = if !select.has_norms() {
            raw
        } else {
            for (norm, start, len) in norms {
                let part = RowsMut::new(&mut normed[start..], count, len, rows);
                self.kernels.norm(norm, raw.columns(start, len), part);
            }
            Rows::new(normed, count, rows, rows)
        };
        let dt = RowsMut::new(dt, count, p.heads, p.heads);
        self.product(&select.dt_proj, selected.columns(0, rank), quantized, dt);
        selected
    }

    /// Turns raw time steps in `dt` `[count][heads]` into dt, and gives the decay.
    fn decay<'a>(
        &self,
        p: &Ssm<'a>,
        count: usize,
        interval: f32,
        dt: &mut [f32],
        decay: &'a mut [f32],
    ) -> kernels::Decay<'a> {
        let heads = p.heads;
        match p.decay {
            Decay::Exp { dt_bias, dt_min, dt_max, a_log2 } => {
                let time_step = TimeStep { bias: dt_bias, min: dt_min, max: dt_max };
                self.kernels.time_step(&time_step, RowsMut::new(dt, count, heads, heads));
                if interval != 1.0 {
                    dt.iter_mut().take(count * heads).for_each(|dt| *dt *= interval);
                }
                if !p.decays_by_head() {
                    return kernels::Decay::Element(a_log2);
                }
                let dt = Rows::new(dt, count, heads, heads);
                self.kernels.decay(a_log2, dt, RowsMut::new(decay, count, heads, heads));
            }
            Decay::Sigmoid => {
                for (decay, dt) in decay.iter_mut().zip(&mut *dt).take(count * heads) {
                    *decay = sigmoid(-*dt);
                    *dt = 1.0;
                }
            }
        }
        kernels::Decay::Head(Rows::new(decay, count, heads, heads))
    }
}
