//! What functions return, and what it means.

use core::ffi::{CStr, c_char};
use sarit_core::{ModelError, SampleError, ScratchError, StateError, StepError};

/// Result of a function. Values stay the same in all versions; new ones may be added.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Success.
    SaritOk = 0,
    /// A pointer is null.
    SaritNull = 1,
    /// A struct was not filled by its init function.
    SaritNotReady = 2,
    /// Memory is too small.
    SaritTooSmall = 3,
    /// A pointer is not aligned: models, states and scratch to 64 bytes, others as their type asks.
    SaritMisaligned = 4,
    /// State, scratch and input overlap.
    SaritOverlap = 5,
    /// A length or a chunk is 0 or larger than the machine can address.
    SaritLength = 6,
    /// The state, snapshot or scratch belongs to another model, or has elements of another type.
    SaritOtherModel = 7,
    /// A token id is outside the vocabulary.
    SaritToken = 8,
    /// The model takes frames, not tokens.
    SaritTakesFrames = 9,
    /// The model takes tokens, not frames.
    SaritTakesTokens = 10,
    /// A frame has another number of floats than the model takes.
    SaritFrameLen = 11,
    /// A frame holds an infinite number or NaN.
    SaritFrameNotFinite = 12,
    /// An interval is not above 0 and at most 1e6.
    SaritInterval = 13,
    /// A temperature or top-p is out of range.
    SaritSampling = 14,
    /// The bytes are not a .sarit model.
    SaritNotAModel = 20,
    /// The model needs a newer Sarit.
    SaritModelVersion = 21,
    /// The model is damaged or truncated.
    SaritModelDamaged = 22,
    /// The model is too large for this machine.
    SaritModelTooLarge = 23,
    /// The bytes are not a snapshot of a state.
    SaritNotAState = 30,
    /// The snapshot was written by another version of Sarit.
    SaritStateVersion = 31,
    /// The snapshot is damaged, truncated or not finite.
    SaritStateDamaged = 32,
    /// A file cannot be opened or mapped.
    SaritFile = 40,
    /// A fault of the library itself. The objects of the call must be initialized again.
    SaritInternal = 50,
}

pub(crate) use Status::*;

/// What a status means: one sentence, in static memory. Never null, whatever the number is.
#[unsafe(no_mangle)]
pub extern "C" fn sarit_error_message(status: i32) -> *const c_char {
    message(status).as_ptr()
}

fn message(status: i32) -> &'static CStr {
    const MESSAGES: [(Status, &CStr); 23] = [
        (SaritOk, c"success"),
        (SaritNull, c"a pointer is null"),
        (SaritNotReady, c"a struct was not filled by its init function"),
        (SaritTooSmall, c"the memory is too small"),
        (SaritMisaligned, c"the memory is not aligned (models, states and scratch: 64 bytes)"),
        (SaritOverlap, c"state, scratch and input overlap"),
        (SaritLength, c"a length or chunk is 0 or too large"),
        (
            SaritOtherModel,
            c"the state, snapshot or scratch belongs to another model, or has elements of another type",
        ),
        (SaritToken, c"a token id is outside the vocabulary"),
        (SaritTakesFrames, c"the model takes frames of numbers, not tokens"),
        (SaritTakesTokens, c"the model takes tokens, not frames of numbers"),
        (SaritFrameLen, c"the frame has another number of floats than the model takes"),
        (SaritFrameNotFinite, c"the frame holds an infinite number or NaN"),
        (SaritInterval, c"the interval is not above 0 and at most 1e6"),
        (SaritSampling, c"the temperature is negative, or top-p not above 0 and at most 1"),
        (SaritNotAModel, c"the bytes are not a .sarit model"),
        (SaritModelVersion, c"the model needs a newer Sarit"),
        (SaritModelDamaged, c"the model is damaged or truncated"),
        (SaritModelTooLarge, c"the model is too large for this machine"),
        (SaritNotAState, c"the bytes are not a snapshot of a state"),
        (SaritStateVersion, c"the snapshot was written by another version of Sarit"),
        (SaritStateDamaged, c"the snapshot is damaged, truncated or not finite"),
        (SaritFile, c"the file cannot be opened or mapped"),
    ];
    if status == SaritInternal as i32 {
        return c"a fault of the library itself; initialize the objects again";
    }
    let found = MESSAGES.iter().find(|(known, _)| *known as i32 == status);
    found.map_or(c"an unknown status", |(_, message)| message)
}

impl From<ModelError> for Status {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::TooShort | ModelError::Magic => SaritNotAModel,
            ModelError::Misaligned => SaritMisaligned,
            ModelError::Version(_) | ModelError::Record { .. } => SaritModelVersion,
            ModelError::TooLarge => SaritModelTooLarge,
            _ => SaritModelDamaged,
        }
    }
}

impl From<StateError> for Status {
    fn from(error: StateError) -> Self {
        match error {
            StateError::TooSmall { .. } => SaritTooSmall,
            StateError::Misaligned => SaritMisaligned,
            StateError::Magic => SaritNotAState,
            StateError::Version(_) | StateError::DType(_) => SaritStateVersion,
            StateError::OtherModel(_) | StateError::OtherDType { .. } => SaritOtherModel,
            _ => SaritStateDamaged,
        }
    }
}

impl From<ScratchError> for Status {
    fn from(error: ScratchError) -> Self {
        match error {
            ScratchError::TooSmall { .. } => SaritTooSmall,
            ScratchError::Misaligned => SaritMisaligned,
            ScratchError::EmptyShape => SaritLength,
            _ => SaritInternal,
        }
    }
}

impl From<StepError> for Status {
    fn from(error: StepError) -> Self {
        match error {
            StepError::TokenOutOfRange { .. } => SaritToken,
            StepError::TakesFrames => SaritTakesFrames,
            StepError::TakesTokens => SaritTakesTokens,
            StepError::FrameLen { .. } => SaritFrameLen,
            StepError::FrameNotFinite(_) => SaritFrameNotFinite,
            StepError::Interval => SaritInterval,
            StepError::OtherState | StepError::OtherStateDType { .. } | StepError::OtherScratch => {
                SaritOtherModel
            }
            _ => SaritInternal,
        }
    }
}

impl From<SampleError> for Status {
    fn from(_: SampleError) -> Self {
        SaritSampling
    }
}
