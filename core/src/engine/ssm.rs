//! State-space blocks; equations at [`crate::plan::SsmRecord`].

use super::linear::linear_buffers;
use super::{Chunk, Engine, Stream};
use crate::kernels::{self, Conv, HELD, Held, Kernels, Rows, RowsMut, Scan, SsmState, TimeStep};
use crate::math::sigmoid;
use crate::plan::{Decay, NormKind, Select, Ssm};
use crate::scratch::Scratch;
use crate::state::StateDType;

/// Each part is a function that is not inlined: the stack holds one part's operands at a time.
impl<K: Kernels> Engine<'_, K> {
    #[inline(never)]
    pub(super) fn ssm(&self, p: &Ssm<'_>, chunk: &mut Chunk<'_, '_, '_>, s: &mut Scratch<'_>) {
        self.project_in(p, chunk, s);
        self.convolve(p, chunk, s);
        match &p.select {
            Some(select) => self.select(select, p, chunk.count, s),
            None => take_time_steps(p, chunk.count, s),
        }
        self.scan(p, chunk, s);
        self.gate(p, chunk.count, s);
        self.project_out(p, chunk.count, s);
    }

    /// `[z | v | dt]`.
    #[inline(never)]
    fn project_in(&self, p: &Ssm<'_>, chunk: &Chunk<'_, '_, '_>, s: &mut Scratch<'_>) {
        let u = Rows::new(s.hidden, chunk.count, chunk.input_len, chunk.input_len);
        self.linear(&p.in_proj, u, linear_buffers!(s), s.proj, p.in_proj.matrix.rows());
    }

    #[inline(never)]
    fn project_out(&self, p: &Ssm<'_>, count: usize, s: &mut Scratch<'_>) {
        let y = Rows::new(s.inner, count, p.d_inner(), p.d_inner());
        self.linear(&p.out_proj, y, linear_buffers!(s), s.output, self.model.d_model());
    }

    #[inline(never)]
    fn convolve(&self, p: &Ssm<'_>, chunk: &mut Chunk<'_, '_, '_>, s: &mut Scratch<'_>) {
        let (channels, proj_len) = (p.conv_channels(), p.in_proj.matrix.rows());
        let conv = Conv {
            width: p.conv_width,
            channels,
            weight: p.conv_weight,
            bias: p.conv_bias,
            silu: p.conv_silu,
        };
        for Stream { rows, state: [window, ..], .. } in chunk.streams() {
            let x = &mut s.proj[rows.start * proj_len + p.d_inner()..];
            let x = RowsMut::new(x, rows.len(), channels, proj_len);
            self.kernels.conv(&conv, bytemuck::cast_slice_mut(window), x);
        }
    }

    /// Mamba-1's `[dt_low | B | C]`, normed, and the raw time steps.
    #[inline(never)]
    fn select(&self, select: &Select<'_>, p: &Ssm<'_>, count: usize, s: &mut Scratch<'_>) {
        let (rows, rank, bc) = (select.x_proj.rows(), select.dt_proj.cols(), p.bc_len());
        let x = projected(p, count, s.proj).columns(p.d_inner(), p.d_inner());
        self.product(&select.x_proj, x, &mut s.quantized, RowsMut::new(s.select, count, rows, rows));
        if select.has_norms() {
            self.select_norms(select, bc, count, s);
        }
        let low = selected(select, count, s.select, s.normed).columns(0, rank);
        let dt = RowsMut::new(s.output, count, p.heads, p.heads);
        self.product(&select.dt_proj, low, &mut s.quantized, dt);
    }

    #[inline(never)]
    fn select_norms(&self, select: &Select<'_>, bc: usize, count: usize, s: &mut Scratch<'_>) {
        let (rows, rank) = (select.x_proj.rows(), select.dt_proj.cols());
        let raw = Rows::new(s.select, count, rows, rows);
        let parts = [(&select.dt_norm, 0, rank), (&select.b_norm, rank, bc), (&select.c_norm, rank + bc, bc)];
        for (norm, start, len) in parts {
            let part = RowsMut::new(&mut s.normed[start..], count, len, rows);
            self.kernels.norm(norm, raw.columns(start, len), part);
        }
    }

    /// Time steps, decays, and the states through all tokens.
    #[inline(never)]
    fn scan(&self, p: &Ssm<'_>, chunk: &mut Chunk<'_, '_, '_>, s: &mut Scratch<'_>) {
        let count = chunk.count;
        self.decay(p, count, chunk.interval, s.output, s.decay);
        for stream in chunk.streams() {
            self.scan_stream(p, count, stream, s);
        }
    }

    /// One stream's state through its rows of `count`.
    fn scan_stream(&self, p: &Ssm<'_>, count: usize, stream: Stream<'_>, s: &mut Scratch<'_>) {
        let Stream { rows, position, state: [_, elements, scales, held] } = stream;
        let (d_inner, bc) = (p.d_inner(), p.bc_len());
        let heads = |data| Rows::new(data, count, p.heads, p.heads).rows(rows.clone());
        let held: &mut [f32] = bytemuck::cast_slice_mut(held);
        let proj = projected(p, count, s.proj).rows(rows.clone());
        let (source, first) = match &p.select {
            Some(select) => {
                let source = selected(select, count, s.select, s.normed);
                (source.rows(rows.clone()), select.dt_proj.cols())
            }
            None => (proj, 2 * d_inner),
        };
        let (dt, x, b) = (heads(s.output), proj.columns(d_inner, d_inner), source.columns(first, bc));
        let scan = Scan {
            heads: p.heads,
            head_dim: p.head_dim,
            d_state: p.d_state,
            n_groups: p.n_groups,
            decay: match p.decay {
                Decay::Exp { a_log2, .. } if !p.decays_by_head() => kernels::Decay::Element(a_log2),
                _ if cfg!(feature = "head-decay") => kernels::Decay::Head {
                    decay: heads(s.decay),
                    held: Held::new(held, d_inner, bc, p.heads),
                },
                _ => unreachable!("a model with a decay per head is refused where this build leaves it out"),
            },
            dt,
            x,
            b,
            c: source.columns(first + bc, bc),
            d: p.d,
            position,
        };
        let state = match self.model.state_dtype() {
            StateDType::F16 if cfg!(feature = "small-states") => {
                SsmState::F16(bytemuck::cast_slice_mut(elements))
            }
            StateDType::I8 if cfg!(feature = "small-states") => {
                let (codes, rests) = elements.split_at_mut(p.ssm_len());
                SsmState::I8 {
                    codes: bytemuck::cast_slice_mut(codes),
                    scales: bytemuck::cast_slice_mut(scales),
                    rests: bytemuck::cast_slice_mut(rests),
                }
            }
            _ => SsmState::F32(bytemuck::cast_slice_mut(elements)),
        };
        let y = &mut s.inner[rows.start * d_inner..];
        self.kernels.scan(&scan, state, RowsMut::new(y, rows.len(), d_inner, d_inner));
        if p.decays_by_head() {
            hold(held, position, dt, x, b, heads(s.decay));
        }
    }

    #[inline(never)]
    fn gate(&self, p: &Ssm<'_>, count: usize, s: &mut Scratch<'_>) {
        let d_inner = p.d_inner();
        let z = projected(p, count, s.proj).columns(0, d_inner);
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
    }

    /// Turns raw time steps in `dt` `[count][heads]` into dt, and leaves decays by head in `decay`.
    #[inline(never)]
    fn decay(&self, p: &Ssm<'_>, count: usize, interval: f32, dt: &mut [f32], decay: &mut [f32]) {
        let heads = p.heads;
        match p.decay {
            Decay::Exp { dt_bias, dt_min, dt_max, a_log2 } => {
                let time_step = TimeStep { bias: dt_bias, min: dt_min, max: dt_max };
                self.kernels.time_step(&time_step, RowsMut::new(dt, count, heads, heads));
                if interval != 1.0 {
                    dt.iter_mut().take(count * heads).for_each(|dt| *dt *= interval);
                }
                if p.decays_by_head() {
                    let dt = Rows::new(dt, count, heads, heads);
                    self.kernels.decay(a_log2, dt, RowsMut::new(decay, count, heads, heads));
                }
            }
            Decay::Sigmoid => {
                for (decay, dt) in decay.iter_mut().zip(&mut *dt).take(count * heads) {
                    *decay = sigmoid(-*dt);
                    *dt = 1.0;
                }
            }
        }
    }
}

/// Puts the tokens of a chunk among the held ones, each in its place; of more than [`HELD`] the last ones.
#[inline(never)]
fn hold(held: &mut [f32], position: u64, dt: Rows<'_>, x: Rows<'_>, b: Rows<'_>, decay: Rows<'_>) {
    let (count, heads) = (x.count(), dt.cols());
    let dim = x.cols() / heads;
    for t in count.saturating_sub(HELD)..count {
        let place = ((position + t as u64) % HELD as u64) as usize;
        let row = &mut held[place * (x.cols() + b.cols() + heads)..];
        let (u, rest) = row.split_at_mut(x.cols());
        for ((u, x), dt) in u.chunks_exact_mut(dim).zip(x.row(t).chunks_exact(dim)).zip(dt.row(t)) {
            u.iter_mut().zip(x).for_each(|(u, x)| *u = dt * x);
        }
        rest[..b.cols()].copy_from_slice(b.row(t));
        rest[b.cols()..][..heads].copy_from_slice(decay.row(t));
    }
}

/// Raw time steps that come with the input, to [`Scratch::output`].
#[inline(never)]
fn take_time_steps(p: &Ssm<'_>, count: usize, s: &mut Scratch<'_>) {
    let raw = projected(p, count, s.proj).columns(p.d_inner() + p.conv_channels(), p.heads);
    for (t, dt) in s.output.chunks_exact_mut(p.heads).take(count).enumerate() {
        dt.copy_from_slice(raw.row(t));
    }
}

/// The rows of [`Scratch::proj`].
fn projected<'a>(p: &Ssm<'_>, count: usize, proj: &'a [f32]) -> Rows<'a> {
    let len = p.in_proj.matrix.rows();
    Rows::new(proj, count, len, len)
}

/// `[dt_low | B | C]`: the rows of [`Scratch::normed`], or of [`Scratch::select`] where there are no norms.
fn selected<'a>(select: &Select<'_>, count: usize, raw: &'a [f32], normed: &'a [f32]) -> Rows<'a> {
    let len = select.x_proj.rows();
    Rows::new(if select.has_norms() { normed } else { raw }, count, len, len)
}
