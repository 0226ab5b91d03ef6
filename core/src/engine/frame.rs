//! Frames of floats in, class scores or regression values out; equations at [`crate::plan::FrameOutput`].

use super::Engine;
use super::linear::linear_buffers;
use crate::error::StepError;
use crate::kernels::{Kernels, Rows};
use crate::plan::{Input, Linear, Pool, Readout};
use crate::scratch::Scratch;
use crate::state::State;

/// The longest interval between frames, relative to the one that the model was trained with.
pub const MAX_INTERVAL: f32 = 1e6;

impl<'m, K: Kernels> Engine<'m, K> {
    /// Reads one frame and returns the result after it: scores of classes or regression values.
    ///
    /// `interval` is the time since the frame before, relative to the interval of training: it scales dt (see
    /// [`crate::plan::SsmRecord`]). 1 is as trained, and changes no bit.
    ///
    /// # Errors
    /// After an error the state is as it was. The frame must have [`frame_len`](crate::Model::frame_len) finite
    /// numbers, the interval must be above 0 and at most [`MAX_INTERVAL`].
    pub fn step_frame<'r>(
        &self,
        state: &mut State<'_>,
        scratch: &'r mut Scratch<'_>,
        frame: &[f32],
        interval: f32,
    ) -> Result<&'r mut [f32], StepError> {
        let read_in = self.check_frames(state, scratch, frame, interval)?;
        let (need, have) = (read_in.matrix.cols(), frame.len());
        if have != need {
            return Err(StepError::FrameLen { need: need as u32, have });
        }
        self.run_frames(read_in, state, scratch, frame, interval);
        self.head(scratch, 1);
        Ok(&mut scratch.logits[..self.model.output_len()])
    }

    /// Reads frames `[n][frame_len]`, all at the same interval, in chunks as large as the scratch allows, and computes
    /// no results.
    ///
    /// The state afterwards has the same bits as after stepping through the frames one by one.
    ///
    /// # Errors
    /// All frames are checked first; after an error the state is as it was.
    pub fn feed_frames(
        &self,
        state: &mut State<'_>,
        scratch: &mut Scratch<'_>,
        frames: &[f32],
        interval: f32,
    ) -> Result<(), StepError> {
        let read_in = self.check_frames(state, scratch, frames, interval)?;
        for chunk in frames.chunks(scratch.shape.chunk.saturating_mul(read_in.matrix.cols())) {
            self.run_frames(read_in, state, scratch, chunk, interval);
        }
        Ok(())
    }

    /// The read-in, if `frames` are whole frames for it.
    #[inline(never)]
    fn check_frames(
        &self,
        state: &mut State<'_>,
        scratch: &Scratch<'_>,
        frames: &[f32],
        interval: f32,
    ) -> Result<&Linear<'m>, StepError> {
        self.check_memory(&[state], scratch)?;
        let Input::Frames(read_in) = self.model.input() else { return Err(StepError::TakesTokens) };
        let (need, have) = (read_in.matrix.cols(), frames.len());
        if !have.is_multiple_of(need) {
            return Err(StepError::FrameLen { need: need as u32, have });
        }
        if let Some(i) = not_finite(frames) {
            return Err(StepError::FrameNotFinite(i));
        }
        if !(interval > 0.0 && interval <= MAX_INTERVAL) {
            return Err(StepError::Interval);
        }
        Ok(read_in)
    }

    /// Takes at most a chunk of valid frames through all blocks and into the pool; leaves the pooled vector in
    /// [`Scratch::hidden`].
    fn run_frames(
        &self,
        read_in: &Linear<'_>,
        state: &mut State<'_>,
        scratch: &mut Scratch<'_>,
        frames: &[f32],
        interval: f32,
    ) {
        let (d_model, len) = (read_in.matrix.rows(), read_in.matrix.cols());
        let count = frames.len() / len;
        let frames = Rows::new(frames, count, len, len);
        self.linear(read_in, frames, linear_buffers!(scratch), scratch.residual, d_model);
        let before = state.position();
        self.run_blocks(&mut [state], scratch, count, interval);
        for t in 0..count {
            self.output_norm(scratch, t, 1);
            self.pool(state, before.saturating_add(t as u64), &mut scratch.hidden[..d_model]);
        }
    }

    /// Takes the vector `u` of a frame into the pool, `before` frames having come before it, and turns it into the
    /// pooled one.
    #[inline(never)]
    fn pool(&self, state: &mut State<'_>, before: u64, u: &mut [f32]) {
        let (Readout::Classes(pool) | Readout::Regression(pool)) = self.model.output().readout else {
            return;
        };
        let kept: &mut [f32] = bytemuck::cast_slice_mut(&mut state.data_mut()[self.model.pool_start()..]);
        match pool {
            Pool::Last => {}
            Pool::Mean => {
                let share = 1.0 / before.saturating_add(1) as f32;
                let mean = &mut kept[..u.len()];
                self.kernels.add_scaled(-1.0, mean, u);
                self.kernels.add_scaled(share, u, mean);
                self.copy(mean, u);
            }
            Pool::Max => {
                for (m, u) in kept.iter_mut().zip(u) {
                    *m = if before == 0 || *u > *m { *u } else { *m };
                    *u = *m;
                }
            }
        }
    }
}

/// Index of the first number that is not finite.
#[inline(never)]
fn not_finite(x: &[f32]) -> Option<usize> {
    // By the bits of magnitudes, which are in order: that takes no branches.
    let largest = x.iter().fold(0, |largest, x| largest.max(x.to_bits() << 1));
    if largest < f32::INFINITY.to_bits() << 1 { None } else { x.iter().position(|x| !x.is_finite()) }
}
