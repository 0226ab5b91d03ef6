//! What a firmware runs, and the memory that it lends.

/// Bytes on a boundary of 64, as models, states and scratch need it.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
pub struct Aligned<const N: usize>(pub [u8; N]);

/// A model with series of frames and the digests that the host computed.
#[derive(Debug, Clone, Copy)]
pub struct Case<const WIDTH: usize> {
    /// A `.sarit` file, in flash.
    pub model: &'static [u8],
    /// All series, one after another.
    pub frames: &'static [[f32; WIDTH]],
    /// Frames of a series.
    pub series_len: usize,
    /// Digest of the results after each frame.
    pub results: u64,
    /// Digest of the states after each series.
    pub states: u64,
}

/// Memory of a stream.
pub struct Lent<'a> {
    /// As many bytes as the model's state needs.
    pub state: &'a mut [u8],
    /// The same for a scratch of one frame.
    pub scratch: &'a mut [u8],
}

/// Defines `case()` and `lend()` from the folder that the variable `SARIT_CASE` names when the firmware is built.
#[macro_export]
macro_rules! case {
    () => {
        mod case {
            include!(concat!(env!("SARIT_CASE"), "/case.rs"));
        }
        static MODEL: $crate::Aligned<{ case::MODEL_BYTES }> =
            $crate::Aligned(*include_bytes!(concat!(env!("SARIT_CASE"), "/model.sarit")));
        static FRAMES: $crate::Aligned<{ case::FRAME_BYTES }> =
            $crate::Aligned(*include_bytes!(concat!(env!("SARIT_CASE"), "/frames.bin")));

        fn case() -> $crate::Case<{ case::WIDTH }> {
            $crate::Case {
                model: &MODEL.0,
                frames: $crate::bytemuck::cast_slice(&FRAMES.0),
                series_len: case::SERIES_LEN,
                results: case::RESULTS,
                states: case::STATES,
            }
        }

        /// Lends the memory, once.
        fn lend() -> $crate::Lent<'static> {
            use $crate::{Aligned, static_cell::ConstStaticCell};
            // In one cell: its mark that it is taken fills 64 bytes.
            static MEMORY: ConstStaticCell<(
                Aligned<{ case::STATE_BYTES }>,
                Aligned<{ case::SCRATCH_BYTES }>,
            )> = ConstStaticCell::new((Aligned([0; _]), Aligned([0; _])));
            let (state, scratch) = MEMORY.take();
            $crate::Lent { state: &mut state.0, scratch: &mut scratch.0 }
        }
    };
}
