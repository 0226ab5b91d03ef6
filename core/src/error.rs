//! One small error type per operation. They hold numbers, not text: a device pays nothing for sentences.

use crate::state::StateDType;
use core::fmt;

/// Why bytes are not a model that this build can run. Returned by [`Model::from_bytes`](crate::Model::from_bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelError {
    /// Fewer bytes than the 64-byte header, or than the section table that it announces.
    TooShort,
    /// The bytes do not start on a 64-byte boundary.
    Misaligned,
    /// The first eight bytes are not those of a `.sarit` file.
    Magic,
    /// The file was written by a newer Sarit; the number is its format version.
    Version(u32),
    /// The header's length is not the number of bytes given: a truncated or padded file.
    Length {
        /// Length that the header states, in bytes.
        stated: u64,
        /// Bytes given.
        given: u64,
    },
    /// The bytes do not hash to the fingerprint in the header: the file is damaged.
    Fingerprint,
    /// A section (its kind) is missing, lies outside the file or is not aligned.
    Section(u32),
    /// The tensor table entry with this index is wrong: type, shape, place or name.
    Tensor(u32),
    /// The plan ends in the middle of the record with this index, or lacks its input, its output or any block.
    PlanEnd(u32),
    /// The record with this index has a kind or version that this build does not know, leaves out, or takes elsewhere only.
    Record {
        /// Position of the record in the plan.
        index: u32,
        /// Its tag.
        tag: u16,
        /// Its version.
        version: u16,
    },
    /// A number in the record with this index is out of range.
    Field(u32),
    /// The record with this index names a tensor that is missing or has another shape or type than it needs.
    Operand {
        /// Position of the record in the plan.
        index: u32,
        /// The tensor's id in the tensor table.
        tensor: u32,
    },
    /// State or scratch would be larger than this machine can address.
    TooLarge,
    /// The `meta` or a tensor's name is not UTF-8.
    Text,
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooShort => {
                f.write_str("the file is too short for the header and sections of a .sarit model")
            }
            Self::Misaligned => f.write_str("the model's bytes do not start on a 64-byte boundary"),
            Self::Magic => f.write_str("this is not a .sarit model"),
            Self::Version(v) => write!(
                f,
                "the model has format version {v}, this build reads version {}: a newer Sarit is needed",
                crate::format::VERSION
            ),
            Self::Length { stated, given } => {
                write!(
                    f,
                    "the model should be {stated} bytes long but has {given}: it is truncated or damaged"
                )
            }
            Self::Fingerprint => f.write_str("the model is damaged: its bytes do not match its fingerprint"),
            Self::Section(kind) => write!(f, "section {kind} of the model is missing or misplaced"),
            Self::Tensor(i) => write!(f, "entry {i} of the tensor table is invalid"),
            Self::PlanEnd(i) => write!(f, "the plan ends early, at record {i}"),
            Self::Record { index, tag, version } => write!(
                f,
                "record {index} of the plan is of kind {tag}, version {version}, which this build does not take there: if the file is sound, a newer Sarit, or one built with all kinds of blocks, is needed"
            ),
            Self::Field(i) => write!(f, "record {i} of the plan holds a number out of range"),
            Self::Operand { index, tensor } => {
                write!(
                    f,
                    "record {index} of the plan uses tensor {tensor}, which is missing or has the wrong shape or type"
                )
            }
            Self::TooLarge => {
                f.write_str("the model's state or scratch is larger than this machine can address")
            }
            Self::Text => f.write_str("the model's names or meta section are not UTF-8"),
        }
    }
}

/// Why memory cannot hold a state, or a snapshot cannot be loaded or saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateError {
    /// The memory lent is too small; both numbers in bytes.
    TooSmall {
        /// Bytes needed.
        need: usize,
        /// Bytes lent.
        have: usize,
    },
    /// The memory lent does not start on a 64-byte boundary.
    Misaligned,
    /// The first eight bytes are not those of a state.
    Magic,
    /// The snapshot has a layout version that this build does not know.
    Version(u32),
    /// The snapshot's elements have a type that this build does not know.
    DType(u32),
    /// The snapshot belongs to a model with this fingerprint.
    OtherModel(u64),
    /// The snapshot's elements have another type than the model was told to use.
    OtherDType {
        /// Type needed.
        need: StateDType,
        /// Type in the snapshot.
        have: StateDType,
    },
    /// The snapshot, or the state that its header announces, is not as long as the model's; both numbers in bytes.
    Length {
        /// Bytes needed.
        need: usize,
        /// Bytes given or announced.
        have: usize,
    },
    /// The bytes do not match the checksum: the snapshot is damaged.
    Checksum,
    /// The state claims to have read so many tokens, more than [`MAX_POSITION`](crate::MAX_POSITION).
    Position(u64),
    /// The element at this place of the state, in bytes, is infinite or not a number.
    NotFinite(usize),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooSmall { need, have } => {
                write!(f, "the state needs {need} bytes of memory but was lent {have}")
            }
            Self::Misaligned => f.write_str("the state's memory does not start on a 64-byte boundary"),
            Self::Magic => f.write_str("this is not a Sarit state"),
            Self::Version(v) => {
                write!(
                    f,
                    "the state has layout version {v}, which this build does not know: the Sarit that wrote it is needed, or the text once more"
                )
            }
            Self::DType(d) => {
                write!(f, "the state's elements are of type {d}, which this build does not know")
            }
            Self::OtherModel(print) => {
                write!(f, "the state belongs to another model (fingerprint {print:016x})")
            }
            Self::OtherDType { need, have } => {
                write!(
                    f,
                    "the state's elements are {}, the model was told to use {}",
                    have.name(),
                    need.name()
                )
            }
            Self::Length { need, have } => {
                write!(f, "the state should be {need} bytes long but has {have}: it is truncated or damaged")
            }
            Self::Checksum => f.write_str("the state is damaged: its bytes do not match its checksum"),
            Self::Position(p) => {
                write!(f, "the state claims to have read {p} tokens, more than a stream can")
            }
            Self::NotFinite(i) => write!(f, "the state holds a value that is not finite, at byte {i}"),
        }
    }
}

/// Why memory cannot serve as scratch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScratchError {
    /// The memory lent is too small; both numbers in bytes.
    TooSmall {
        /// Bytes needed.
        need: usize,
        /// Bytes lent.
        have: usize,
    },
    /// The memory lent does not start on a 64-byte boundary.
    Misaligned,
    /// A chunk of no tokens, or no streams.
    EmptyShape,
}

impl fmt::Display for ScratchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooSmall { need, have } => {
                write!(f, "the scratch needs {need} bytes of memory but was lent {have}")
            }
            Self::Misaligned => f.write_str("the scratch's memory does not start on a 64-byte boundary"),
            Self::EmptyShape => f.write_str("a scratch must take at least one token of one stream"),
        }
    }
}

/// Why a step was refused. The state is as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepError {
    /// A token id at or above the size of the vocabulary.
    TokenOutOfRange {
        /// The id.
        token: u32,
        /// Number of ids that the model knows.
        vocab: u32,
    },
    /// Tokens for a model that takes frames.
    TakesFrames,
    /// Frames for a model that takes tokens.
    TakesTokens,
    /// A frame of the wrong width, or frames that are not whole; both numbers in floats.
    FrameLen {
        /// Floats of a frame.
        need: u32,
        /// Floats given.
        have: usize,
    },
    /// The number at this index of the frames is infinite or not a number.
    FrameNotFinite(usize),
    /// An interval that is not above 0 and at most [`MAX_INTERVAL`](crate::MAX_INTERVAL).
    Interval,
    /// The state was made for another model.
    OtherState,
    /// The scratch was made for another model.
    OtherScratch,
    /// The state's elements have another type than the model was told to use.
    OtherStateDType {
        /// Type needed.
        need: StateDType,
        /// Type of the state.
        have: StateDType,
    },
    /// There are not as many tokens as streams.
    TokenCount {
        /// Streams given.
        streams: usize,
        /// Tokens given.
        tokens: usize,
    },
    /// There are more streams than the scratch was made for.
    TooManyStreams {
        /// Streams given.
        streams: usize,
        /// The most that the scratch takes.
        most: usize,
    },
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TokenOutOfRange { token, vocab } => {
                write!(f, "token id {token} is outside the vocabulary of {vocab} ids")
            }
            Self::TakesFrames => f.write_str("the model takes frames of numbers, not tokens"),
            Self::TakesTokens => f.write_str("the model takes tokens, not frames of numbers"),
            Self::FrameLen { need, have } => {
                write!(f, "a frame of the model has {need} numbers, but {have} were given")
            }
            Self::FrameNotFinite(i) => write!(f, "number {i} of the frame is infinite or not a number"),
            Self::Interval => {
                write!(f, "an interval must be above 0 and at most {}", crate::MAX_INTERVAL)
            }
            Self::OtherState => f.write_str("the state was made for another model"),
            Self::OtherScratch => f.write_str("the scratch was made for another model"),
            Self::OtherStateDType { need, have } => {
                write!(
                    f,
                    "the state's elements are {}, the model was told to use {}",
                    have.name(),
                    need.name()
                )
            }
            Self::TokenCount { streams, tokens } => {
                write!(f, "{streams} streams need one token each but were given {tokens}")
            }
            Self::TooManyStreams { streams, most } => {
                write!(f, "{streams} streams are too many for a scratch for {most}")
            }
        }
    }
}

/// Why a [`Sampling`](crate::Sampling) cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SampleError {
    /// The temperature is negative or not finite.
    Temperature,
    /// `top_p` is not above 0 and at most 1.
    TopP,
}

impl fmt::Display for SampleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Temperature => "the temperature must be 0 (greedy) or a positive number",
            Self::TopP => "top-p must be above 0 and at most 1",
        })
    }
}

impl core::error::Error for ModelError {}
impl core::error::Error for StateError {}
impl core::error::Error for ScratchError {}
impl core::error::Error for StepError {}
impl core::error::Error for SampleError {}
