//! Why a GGUF file cannot be used.

/// Why a GGUF file cannot be used. Each message is one clause that follows the file's name.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file does not begin with `GGUF`.
    #[error("it does not begin with the letters GGUF")]
    Magic,

    /// A version other than 2 and 3.
    #[error("it is of version {0}, and only versions 2 and 3 can be read")]
    Version(u32),

    /// The file ends before what it announces.
    #[error("it ends within {0}; it is cut short, fetch it again")]
    Ends(&'static str),

    /// A count that the file is too short for, or that no real model has.
    #[error("it announces {count} {what}, which is more than it can hold")]
    Count {
        /// What is counted.
        what: &'static str,
        /// How many.
        count: u64,
    },

    /// A text that is longer than the rest of the file.
    #[error("it announces a text of {len} bytes at byte {at}, which is more than it can hold")]
    TextLength {
        /// Where the text begins.
        at: u64,
        /// Its length.
        len: u64,
    },

    /// A name that is not UTF-8.
    #[error("the name at byte {0} is not UTF-8")]
    Utf8(u64),

    /// A metadata value of a type that the format does not have, or arrays of arrays.
    #[error("key {key:?} has a value of type {kind}, which cannot be read")]
    ValueType {
        /// The key.
        key: String,
        /// The type's number in the file.
        kind: u32,
    },

    /// A key or a tensor that is there twice.
    #[error("it has {0:?} twice")]
    Duplicate(String),

    /// A key that must be there.
    #[error("it has no key {0:?}, which a model of its kind needs")]
    MissingKey(String),

    /// A key with a value of another kind or range than it should have.
    #[error("key {key:?} is {value}, but {expected} is needed")]
    Key {
        /// The key.
        key: String,
        /// Its value, shortened.
        value: String,
        /// What is needed.
        expected: &'static str,
    },

    /// An architecture that cannot be imported.
    #[error("models of architecture {0:?} are not supported")]
    Architecture(String),

    /// An option that is not implemented.
    #[error("key {key:?} is set to {value}, which is not supported")]
    Option {
        /// The key.
        key: String,
        /// Its value, shortened.
        value: String,
    },

    /// A tensor with no dimensions, more than four, or one that is 0 or beyond all memory.
    #[error("tensor {0:?} has dimensions that cannot be")]
    Dimensions(String),

    /// A type of elements that cannot be read.
    #[error(
        "tensor {tensor:?} is of type {dtype}, which cannot be read; quantize to Q8_0, Q6_K, Q5_K or Q4_K"
    )]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The type's name.
        dtype: String,
    },

    /// A tensor whose rows do not end where a block of its type ends.
    #[error("tensor {0:?} has rows that are not whole blocks of its type")]
    PartBlock(String),

    /// A tensor that does not begin on the file's alignment.
    #[error("tensor {0:?} does not begin on the boundary that the file states")]
    Misaligned(String),

    /// A tensor that reaches beyond the end of the file.
    #[error("tensor {0:?} reaches beyond its end; it is cut short or damaged, fetch it again")]
    Outside(String),

    /// Two tensors that share bytes.
    #[error("tensors {0:?} and {1:?} overlap")]
    Overlap(String, String),

    /// Two keys or tensors that contradict each other.
    #[error("tensor {tensor:?} does not have the shape that key {key:?} asks for")]
    Contradiction {
        /// The tensor.
        tensor: String,
        /// The key.
        key: String,
    },

    /// A tokenizer that cannot be written as a `tokenizer.json`.
    #[error("its tokenizer of kind {0:?} is not supported")]
    Tokenizer(String),

    /// A tokenizer whose parts do not fit together.
    #[error("its tokenizer is damaged: {0}")]
    BadTokenizer(String),
}
