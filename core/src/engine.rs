//! The step: tokens through all blocks. The page to read first.

use crate::error::StepError;
use crate::kernels::{Conv, Decay, Input, Kernels, Quantized, QuantizedMut, Rows, RowsMut, Scan, TimeStep};
use crate::model::Model;
use crate::plan::{Block, Norm, Ssm};
use crate::scratch::Scratch;
use crate::state::State;
use crate::tensor::{GROUP, Matrix};
use crate::{ALIGN, round_up};

/// A model and the kernels that run it. Holds no state of its own: one engine serves any number of streams.
#[derive(Debug, Clone, Copy)]
pub struct Engine<'m, K> {
    model: Model<'m>,
    kernels: K,
}

impl<'m, K: Kernels> Engine<'m, K> {
    /// An engine for `model` on `kernels`.
    pub fn new(model: Model<'m>, kernels: K) -> Self {
        Self { model, kernels }
    }

    /// The model.
    pub fn model(&self) -> &Model<'m> {
        &self.model
    }

    /// The kernels.
    pub fn kernels(&self) -> &K {
        &self.kernels
    }

    /// Reads tokens, in chunks as large as the scratch allows, and computes no logits.
    ///
    /// The state afterwards has the same bits as after stepping through the tokens one by one.
    ///
    /// # Errors
    /// All tokens are checked first; after an error the state is as it was.
    pub fn feed(
        &self,
        state: &mut State<'_>,
        scratch: &mut Scratch<'_>,
        tokens: &[u32],
    ) -> Result<(), StepError> {
        self.check(state, scratch, tokens)?;
        for chunk in tokens.chunks(scratch.chunk) {
            self.run(state, scratch, chunk);
        }
        Ok(())
    }

    /// Reads tokens as [`feed`](Self::feed) does and calls `each(i, logits)` after every one; logits are `[vocab]`.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn feed_each(
        &self,
        state: &mut State<'_>,
        scratch: &mut Scratch<'_>,
        tokens: &[u32],
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<(), StepError> {
        self.check(state, scratch, tokens)?;
        for (c, chunk) in tokens.chunks(scratch.chunk).enumerate() {
            self.run(state, scratch, chunk);
            for t in 0..chunk.len() {
                self.head(scratch, t);
                each(c * scratch.chunk + t, scratch.logits);
            }
        }
        Ok(())
    }

    /// Reads one token and returns the logits `[vocab]` of the next.
    ///
    /// # Errors
    /// After an error the state is as it was.
    pub fn step<'l>(
        &self,
        state: &mut State<'_>,
        scratch: &'l mut Scratch<'_>,
        token: u32,
    ) -> Result<&'l mut [f32], StepError> {
        self.check(state, scratch, &[token])?;
        self.run(state, scratch, &[token]);
        self.head(scratch, 0);
        Ok(scratch.logits)
    }

    fn check(&self, state: &State<'_>, scratch: &Scratch<'_>, tokens: &[u32]) -> Result<(), StepError> {
        if state.fingerprint() != self.model.fingerprint() {
            return Err(StepError::OtherState);
        }
        if scratch.fingerprint != self.model.fingerprint() {
            return Err(StepError::OtherScratch);
        }
        let vocab = self.model.vocab_len();
        match tokens.iter().find(|&&token| token as usize >= vocab) {
            Some(&token) => Err(StepError::TokenOutOfRange { token, vocab: vocab as u32 }),
            None => Ok(()),
        }
    }

    /// Takes at most a chunk of valid tokens through all blocks; leaves the residual stream in the scratch.
    fn run(&self, state: &mut State<'_>, scratch: &mut Scratch<'_>, tokens: &[u32]) {
        let d_model = self.model.d_model();
        let embedding = self.model.embedding();
        for (&token, r) in tokens.iter().zip(scratch.residual.chunks_exact_mut(d_model)) {
            embedding.read_row(token as usize, r);
        }
        for (block, start) in self.model.blocks() {
            match block {
                Block::Ssm(ssm) => self.ssm(&ssm, &mut state.data_mut()[start..], scratch, tokens.len()),
            }
        }
        state.advance(tokens.len());
    }

    /// Logits of token `t` of the chunk.
    fn head(&self, scratch: &mut Scratch<'_>, t: usize) {
        let d_model = self.model.d_model();
        let r = Rows::new(&scratch.residual[t * d_model..], 1, d_model, d_model);
        self.norm(&self.model.final_norm(), r, scratch.hidden);
        let u = Rows::new(scratch.hidden, 1, d_model, d_model);
        let vocab = self.model.vocab_len();
        let logits = RowsMut::new(scratch.logits, 1, vocab, vocab);
        self.linear(&self.model.head(), u, &mut scratch.quantized, logits);
    }

    /// One state-space block for `count` tokens; equations at [`crate::plan::SsmRecord`].
    fn ssm(&self, p: &Ssm<'_>, state: &mut [f32], s: &mut Scratch<'_>, count: usize) {
        let (d_model, d_inner, bc) = (self.model.d_model(), p.d_inner(), p.bc_len());
        let (channels, proj_len) = (p.conv_channels(), p.in_proj.rows());
        let (window, ssm_state) = state.split_at_mut(round_up(p.window_len(), ALIGN / 4));
        let (window, ssm_state) = (&mut window[..p.window_len()], &mut ssm_state[..p.ssm_len()]);

        // [z | v | dt] = in_proj · norm(r)
        self.norm(&p.norm, Rows::new(s.residual, count, d_model, d_model), s.hidden);
        let u = Rows::new(s.hidden, count, d_model, d_model);
        self.linear(&p.in_proj, u, &mut s.quantized, RowsMut::new(s.proj, count, proj_len, proj_len));
        add_bias(p.in_bias, s.proj, count);

        let conv = Conv {
            width: p.conv_width,
            channels,
            weight: p.conv_weight,
            bias: p.conv_bias,
            silu: p.conv_silu,
        };
        self.kernels.conv(&conv, window, RowsMut::new(&mut s.proj[d_inner..], count, channels, proj_len));
        let proj = Rows::new(s.proj, count, proj_len, proj_len);
        let x = proj.columns(d_inner, d_inner);

        // B, C and the raw dt: straight from in_proj, or projected from x.
        let (b, c);
        if let Some(select) = &p.select {
            let (rows, rank) = (select.x_proj.rows(), select.dt_proj.cols());
            self.linear(&select.x_proj, x, &mut s.quantized, RowsMut::new(s.select, count, rows, rows));
            let selected = Rows::new(s.select, count, rows, rows);
            let dt = RowsMut::new(s.dt, count, p.heads, p.heads);
            self.linear(&select.dt_proj, selected.columns(0, rank), &mut s.quantized, dt);
            (b, c) = (selected.columns(rank, bc), selected.columns(rank + bc, bc));
        } else {
            let raw = proj.columns(d_inner + channels, p.heads);
            for (t, dt) in s.dt.chunks_exact_mut(p.heads).take(count).enumerate() {
                dt.copy_from_slice(raw.row(t));
            }
            (b, c) = (proj.columns(2 * d_inner, bc), proj.columns(2 * d_inner + bc, bc));
        }
        let time_step = TimeStep { bias: p.dt_bias, min: p.dt_min, max: p.dt_max };
        self.kernels.time_step(&time_step, RowsMut::new(s.dt, count, p.heads, p.heads));
        let dt = Rows::new(s.dt, count, p.heads, p.heads);
        let decay = if p.a_log2.len() == p.heads {
            self.kernels.decay(p.a_log2, dt, RowsMut::new(s.decay, count, p.heads, p.heads));
            Decay::Head(Rows::new(s.decay, count, p.heads, p.heads))
        } else {
            Decay::Element(p.a_log2)
        };

        let scan = Scan {
            heads: p.heads,
            head_dim: p.head_dim,
            d_state: p.d_state,
            n_groups: p.n_groups,
            decay,
            dt,
            x,
            b,
            c,
            d: p.d,
        };
        self.kernels.scan(&scan, ssm_state, RowsMut::new(s.inner, count, d_inner, d_inner));
        let z = proj.columns(0, d_inner);
        let y = RowsMut::new(s.inner, count, d_inner, d_inner);
        self.kernels.gate(z, p.gate_norm.as_ref(), p.n_groups, y);

        let y = Rows::new(s.inner, count, d_inner, d_inner);
        self.linear(&p.out_proj, y, &mut s.quantized, RowsMut::new(s.hidden, count, d_model, d_model));
        add_bias(p.out_bias, s.hidden, count);
        for (r, o) in s.residual[..count * d_model].iter_mut().zip(&*s.hidden) {
            *r += p.scale * o;
        }
    }

    fn norm(&self, norm: &Norm<'_>, x: Rows<'_>, y: &mut [f32]) {
        self.kernels.norm(norm, x, RowsMut::new(y, x.count(), x.cols(), x.cols()));
    }

    /// `y[t] = w · x[t]`, through codes if `w` is quantized.
    fn linear(&self, w: &Matrix<'_>, x: Rows<'_>, buffer: &mut QuantizedMut<'_>, y: RowsMut<'_>) {
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
}

/// Adds `bias` `[n]` to each of the first `count` rows of `[n]`.
fn add_bias(bias: Option<&[f32]>, rows: &mut [f32], count: usize) {
    let Some(bias) = bias else { return };
    for row in rows.chunks_exact_mut(bias.len()).take(count) {
        row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
    }
}
