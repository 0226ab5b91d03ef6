//! The step: tokens or frames through all blocks. The page to read first; each kind of block has a page of its own, and is
//! not inlined here: its part of the stack is only there while it runs.

mod attention;
mod frame;
mod linear;
mod mlp;
mod moe;
mod short_conv;
mod ssm;

use crate::error::StepError;
use crate::kernels::{Kernels, Rows, RowsMut};
use crate::model::Model;
use crate::plan::{BLOCK_PARTS, Block, BlockInput, BlockOutput, Input, Join, Norm};
use crate::scratch::Scratch;
use crate::state::{State, StatePart, split_parts};
use core::ops::Range;
use linear::linear_buffers;

pub use frame::MAX_INTERVAL;

/// A model and the kernels that run it. Holds no state of its own: one engine serves any number of streams.
#[derive(Debug, Clone, Copy)]
pub struct Engine<'m, K> {
    model: Model<'m>,
    kernels: K,
}

/// What a block is given beside its weights and the scratch: as many tokens or frames of each of some streams, whose rows
/// in the scratch are stream after stream.
struct Chunk<'a, 'r, 's> {
    /// Rows: tokens or frames of all streams.
    count: usize,
    /// Factor on dt; see [`crate::plan::SsmRecord`].
    interval: f32,
    /// Length of the normed input in [`Scratch::hidden`].
    input_len: usize,
    states: &'a mut [&'r mut State<'s>],
    /// Where the block's state begins, in bytes, and the parts of it.
    start: usize,
    parts: [StatePart; BLOCK_PARTS],
}

/// One stream of a chunk.
struct Stream<'a> {
    /// Its rows.
    rows: Range<usize>,
    /// Tokens read before.
    position: u64,
    /// The parts of the block's state, as [`Block::state_parts`] says.
    state: [&'a mut [u8]; BLOCK_PARTS],
}

impl Chunk<'_, '_, '_> {
    fn streams(&mut self) -> impl Iterator<Item = Stream<'_>> {
        let (tokens, start, parts) = (self.count / self.states.len(), self.start, self.parts);
        self.states.iter_mut().enumerate().map(move |(i, state)| Stream {
            rows: i * tokens..(i + 1) * tokens,
            position: state.position(),
            state: split_parts(&mut state.data_mut()[start..], parts),
        })
    }
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
        self.check(&[state], scratch, tokens)?;
        for chunk in tokens.chunks(scratch.shape.chunk) {
            self.run_tokens(&mut [state], scratch, chunk);
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
        self.check(&[state], scratch, tokens)?;
        let (chunk_len, vocab) = (scratch.shape.chunk, self.model.vocab_len());
        for (c, chunk) in tokens.chunks(chunk_len).enumerate() {
            self.run_tokens(&mut [state], scratch, chunk);
            for t in 0..chunk.len() {
                self.output_norm(scratch, t, 1);
                self.head(scratch, 1);
                each(c * chunk_len + t, &scratch.logits[..vocab]);
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
        self.step_many(&mut [state], scratch, &[token])
    }

    /// Reads one token of each stream, with one read of the weights, and returns the logits `[streams][vocab]` of the
    /// next ones.
    ///
    /// Logits and states have the same bits as after a [`step`](Self::step) of each stream.
    ///
    /// # Errors
    /// `scratch` must have been made for so many streams. After an error all states are as they were.
    pub fn step_many<'l>(
        &self,
        states: &mut [&mut State<'_>],
        scratch: &'l mut Scratch<'_>,
        tokens: &[u32],
    ) -> Result<&'l mut [f32], StepError> {
        let (streams, most) = (states.len(), scratch.shape.streams);
        if tokens.len() != streams {
            return Err(StepError::TokenCount { streams, tokens: tokens.len() });
        }
        if streams > most {
            return Err(StepError::TooManyStreams { streams, most });
        }
        self.check(states, scratch, tokens)?;
        if streams > 0 {
            self.run_tokens(states, scratch, tokens);
            self.output_norm(scratch, 0, streams);
            self.head(scratch, streams);
        }
        Ok(&mut scratch.logits[..streams * self.model.vocab_len()])
    }

    fn check(
        &self,
        states: &[&mut State<'_>],
        scratch: &Scratch<'_>,
        tokens: &[u32],
    ) -> Result<(), StepError> {
        self.check_memory(states, scratch)?;
        let vocab = match self.model.input() {
            Input::Tokens { embedding, .. } => embedding.rows(),
            Input::Frames(_) => return Err(StepError::TakesFrames),
        };
        match tokens.iter().find(|&&token| token as usize >= vocab) {
            Some(&token) => Err(StepError::TokenOutOfRange { token, vocab: vocab as u32 }),
            None => Ok(()),
        }
    }

    fn check_memory(&self, states: &[&mut State<'_>], scratch: &Scratch<'_>) -> Result<(), StepError> {
        for state in states {
            if state.fingerprint() != self.model.fingerprint() {
                return Err(StepError::OtherState);
            }
            let (need, have) = (self.model.state_dtype(), state.dtype());
            if need != have {
                return Err(StepError::OtherStateDType { need, have });
            }
        }
        if scratch.fingerprint != self.model.fingerprint() {
            return Err(StepError::OtherScratch);
        }
        Ok(())
    }

    /// Takes at most a chunk of valid tokens of one stream, or one token of each stream, through all blocks; leaves the
    /// residual stream in the scratch.
    fn run_tokens(&self, states: &mut [&mut State<'_>], scratch: &mut Scratch<'_>, tokens: &[u32]) {
        let Input::Tokens { embedding, scale } = self.model.input() else { return };
        let d_model = self.model.d_model();
        for (&token, r) in tokens.iter().zip(scratch.residual.chunks_exact_mut(d_model)) {
            embedding.read_row(token as usize, r);
            r.iter_mut().for_each(|r| *r *= *scale);
        }
        self.run_blocks(states, scratch, tokens.len(), 1.0);
    }

    /// Takes `count` vectors of the residual stream, as many of each stream, through all blocks.
    #[inline(never)]
    fn run_blocks(
        &self,
        states: &mut [&mut State<'_>],
        scratch: &mut Scratch<'_>,
        count: usize,
        interval: f32,
    ) {
        let d_model = self.model.d_model();
        let keep = scratch.embedded.len().min(count * d_model);
        scratch.embedded[..keep].copy_from_slice(&scratch.residual[..keep]);

        self.model.each_block(|block, start, input_len| {
            let parts = block.state_parts(self.model.state_dtype());
            let chunk = &mut Chunk { count, interval, input_len, states: &mut *states, start, parts };
            self.read_input(block.join(), chunk, scratch);
            match block {
                Block::Ssm(b) => self.ssm(b, chunk, scratch),
                Block::Linear(b) => self.linear_block(b, chunk, scratch),
                Block::Attention(b) if cfg!(feature = "attention") => self.attention(b, chunk, scratch),
                Block::Mlp(b) if cfg!(feature = "mlp") => self.mlp(b, chunk, scratch),
                Block::Moe(b) if cfg!(feature = "moe") => self.moe(b, chunk, scratch),
                Block::ShortConv(b) if cfg!(feature = "short-conv") => self.short_conv(b, chunk, scratch),
                _ => unreachable!("a model with blocks that this build leaves out is refused"),
            }
            self.write_output(block.join(), count * d_model, scratch);
        });
        let each = count / states.len();
        states.iter_mut().for_each(|state| state.advance(each));
    }

    /// Leaves a block's normed input in [`Scratch::hidden`].
    #[inline(never)]
    fn read_input(&self, join: &Join<'_>, chunk: &Chunk<'_, '_, '_>, s: &mut Scratch<'_>) {
        let (d_model, len) = (self.model.d_model(), chunk.input_len);
        let source = match join.input {
            BlockInput::Same => return,
            BlockInput::Residual => &*s.residual,
            BlockInput::Branch => &*s.branch,
            BlockInput::ResidualPlusBranch => {
                let sums = &mut s.joined[..chunk.count * len];
                for (sum, (r, b)) in sums.iter_mut().zip(s.residual.iter().zip(&*s.branch)) {
                    *sum = r + b;
                }
                &*s.joined
            }
            BlockInput::ResidualAndEmbedding => {
                let sources = s.residual.chunks_exact(d_model).zip(s.embedded.chunks_exact(d_model));
                for (both, (r, e)) in s.joined.chunks_exact_mut(len).zip(sources).take(chunk.count) {
                    both[..d_model].copy_from_slice(r);
                    both[d_model..].copy_from_slice(e);
                }
                &*s.joined
            }
        };
        let x = Rows::new(source, chunk.count, len, len);
        self.kernels.norm(&join.norm, x, RowsMut::new(s.hidden, chunk.count, len, len));
    }

    /// Leaves `count` normed residual vectors, from row `row` on, in [`Scratch::hidden`].
    #[inline(never)]
    fn output_norm(&self, s: &mut Scratch<'_>, row: usize, count: usize) {
        let d_model = self.model.d_model();
        let r = Rows::new(&s.residual[row * d_model..], count, d_model, d_model);
        self.kernels.norm(&self.model.output().norm, r, RowsMut::new(s.hidden, count, d_model, d_model));
    }

    /// Logits, or the results of frames, from the first `count` vectors in [`Scratch::hidden`].
    #[inline(never)]
    fn head(&self, s: &mut Scratch<'_>, count: usize) {
        let output = self.model.output();
        let (rows, d_model) = (output.head.matrix.rows(), self.model.d_model());
        let u = Rows::new(s.hidden, count, d_model, d_model);
        self.linear(&output.head, u, linear_buffers!(s), s.logits, rows);
        if output.scale != 1.0 {
            s.logits[..count * rows].iter_mut().for_each(|y| *y *= output.scale);
        }
    }

    /// Takes a block's output, the first `len` elements of [`Scratch::output`], to where it goes.
    #[inline(never)]
    fn write_output(&self, join: &Join<'_>, len: usize, s: &mut Scratch<'_>) {
        let output = &s.output[..len];
        let to = match join.output {
            BlockOutput::Residual => {
                return self.kernels.add_scaled(join.scale, output, s.residual);
            }
            BlockOutput::Replace => &mut *s.residual,
            BlockOutput::Branch => &mut *s.branch,
        };
        match join.scale {
            1.0 => self.copy(output, to),
            scale => to.iter_mut().zip(output).for_each(|(to, o)| *to = scale * o),
        }
    }

    /// `to[..from.len()] = from`, by kernels: they copy faster than `core` on small cores.
    fn copy(&self, from: &[f32], to: &mut [f32]) {
        let len = from.len();
        self.kernels.norm(&Norm::COPY, Rows::new(from, 1, len, len), RowsMut::new(to, 1, len, len));
    }
}
