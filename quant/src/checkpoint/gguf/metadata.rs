//! The head of a GGUF file: its metadata and the list of its tensors.
//!
//! All numbers are little-endian. `"GGUF"`, version u32, tensor count u64, key count u64; then the keys, each a text
//! (length u64 and bytes), a type u32 and a value; then the tensors, each a name, a number of dimensions u32, the
//! dimensions u64 with the fastest first, a type u32 and an offset u64 from the start of the data, which begins on the
//! next boundary after the list.

use std::collections::BTreeMap;
use std::fmt;

use super::GgufError;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::file::DataFile;

/// Bytes of head allowed. The largest vocabularies' heads have about 20 MB.
const HEAD_LIMIT: u64 = 128 << 20;
/// Bytes read from the disk at a time.
const READ_BYTES: u64 = 1 << 20;
/// Bytes that a key and a tensor take at least.
const KEY_BYTES: u64 = 13;
const TENSOR_BYTES: u64 = 32;
/// Boundary of tensors unless the file states another.
const ALIGNMENT: i64 = 32;

/// A metadata value. All whole numbers are `i64`; a u64 beyond it becomes `i64::MAX`, which nothing accepts.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Int(i64),
    Float(f64),
    Bool(bool),
    Text(Vec<u8>),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Bools(Vec<bool>),
    Texts(Vec<Vec<u8>>),
    /// An array of numbers below 32 bits, which nothing asks for.
    Skipped,
}

/// Shortened for messages.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: fmt::Debug>(f: &mut fmt::Formatter<'_>, list: &[T]) -> fmt::Result {
            match list {
                [first, _, _, _, _, ..] => write!(f, "a list of {} from {first:?}", list.len()),
                _ => write!(f, "{list:?}"),
            }
        }
        match self {
            Self::Int(n) => write!(f, "{n}"),
            Self::Float(x) => write!(f, "{x}"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Text(text) => {
                let text = String::from_utf8_lossy(&text[..text.len().min(40)]);
                write!(f, "{text:?}")
            }
            Self::Ints(l) => list(f, l),
            Self::Floats(l) => list(f, l),
            Self::Bools(l) => list(f, l),
            Self::Texts(l) => write!(f, "a list of {} texts", l.len()),
            Self::Skipped => f.write_str("a list of small numbers"),
        }
    }
}

/// The metadata by key.
pub(super) type Metadata = BTreeMap<String, Value>;

/// A tensor as the file lists it.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) name: String,
    /// Dimensions, the slowest first.
    pub(super) shape: Vec<usize>,
    /// Type's number.
    pub(super) kind: u32,
    /// Bytes from the start of the data.
    pub(super) offset: u64,
}

/// What stands before the data.
pub(super) struct Head {
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<Listed>,
    /// Boundary in bytes on which tensors begin.
    pub(super) alignment: u64,
    /// First byte of the data.
    pub(super) data: u64,
}

impl Head {
    pub(super) fn read(file: &DataFile) -> Result<Self, CheckpointError> {
        let mut reader = Reader { file, at: 0, buffer: Vec::new(), start: 0 };
        if reader.file.len() < 4 || reader.take::<4>("its first bytes")? != *b"GGUF" {
            return Err(reader.bad(GgufError::Magic));
        }
        match reader.u32("its version")? {
            2 | 3 => {}
            version if (1..=3).contains(&version.swap_bytes()) => {
                return Err(CheckpointError::BigEndian(file.path().to_owned()));
            }
            version => return Err(reader.bad(GgufError::Version(version))),
        }
        let tensor_count = reader.u64("its counts")?;
        let key_count = reader.u64("its counts")?;
        reader.room(tensor_count, TENSOR_BYTES, "tensors")?;
        reader.room(key_count, KEY_BYTES, "keys")?;

        let mut metadata = Metadata::new();
        for _ in 0..key_count {
            let key = reader.name()?;
            let kind = reader.u32("a key's type")?;
            let value = reader.value(&key, kind)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(reader.bad(GgufError::Duplicate(key)));
            }
        }
        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            tensors.push(reader.tensor()?);
        }
        let alignment = match metadata.get("general.alignment").unwrap_or(&Value::Int(ALIGNMENT)) {
            Value::Int(n) if (1..=1 << 20).contains(n) && n.count_ones() == 1 => *n as u64,
            other => {
                return Err(reader.bad(GgufError::Key {
                    key: "general.alignment".into(),
                    value: other.to_string(),
                    expected: "a power of two",
                }));
            }
        };
        Ok(Self { metadata, tensors, alignment, data: reader.at.next_multiple_of(alignment) })
    }
}

/// Reads the head from its start to its end.
struct Reader<'f> {
    file: &'f DataFile,
    /// Bytes read so far.
    at: u64,
    /// Bytes of the file from `start` on.
    buffer: Vec<u8>,
    start: u64,
}

impl Reader<'_> {
    fn bad(&self, source: GgufError) -> CheckpointError {
        CheckpointError::Gguf { path: self.file.path().to_owned(), source }
    }

    /// Refuses more things of at least `bytes` each than the rest of the file can hold.
    fn room(&self, count: u64, bytes: u64, what: &'static str) -> Result<(), CheckpointError> {
        match count.checked_mul(bytes) {
            Some(need) if need <= self.file.len() - self.at => Ok(()),
            _ => Err(self.bad(GgufError::Count { what, count })),
        }
    }

    /// The next `len` bytes; `what` they are is named if the file ends before.
    fn bytes(&mut self, len: u64, what: &'static str) -> Result<&[u8], CheckpointError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.file.len());
        let end = end.ok_or_else(|| self.bad(GgufError::Ends(what)))?;
        if end > HEAD_LIMIT {
            let path = self.file.path().to_owned();
            return Err(CheckpointError::TooLarge { path, len: end, limit: HEAD_LIMIT });
        }
        if end > self.start + self.buffer.len() as u64 {
            self.start = self.at;
            self.buffer.resize(len.max(READ_BYTES).min(self.file.len() - self.at) as usize, 0);
            self.file.read_at(&mut self.buffer, self.at)?;
        }
        let from = (self.at - self.start) as usize;
        self.at = end;
        Ok(&self.buffer[from..from + len as usize])
    }

    fn take<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CheckpointError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.bytes(N as u64, what)?);
        Ok(bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, CheckpointError> {
        Ok(u32::from_le_bytes(self.take(what)?))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, CheckpointError> {
        Ok(u64::from_le_bytes(self.take(what)?))
    }

    fn text(&mut self) -> Result<Vec<u8>, CheckpointError> {
        let len = self.u64("the length of a text")?;
        if len > self.file.len() - self.at {
            return Err(self.bad(GgufError::TextLength { at: self.at, len }));
        }
        Ok(self.bytes(len, "a text")?.to_vec())
    }

    fn name(&mut self) -> Result<String, CheckpointError> {
        let at = self.at;
        String::from_utf8(self.text()?).map_err(|_| self.bad(GgufError::Utf8(at)))
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<Value, CheckpointError> {
        const WHAT: &str = "a value";
        Ok(match kind {
            0 => Value::Int(u8::from_le_bytes(self.take(WHAT)?).into()),
            1 => Value::Int(i8::from_le_bytes(self.take(WHAT)?).into()),
            2 => Value::Int(u16::from_le_bytes(self.take(WHAT)?).into()),
            3 => Value::Int(i16::from_le_bytes(self.take(WHAT)?).into()),
            4 => Value::Int(self.u32(WHAT)?.into()),
            5 => Value::Int(i32::from_le_bytes(self.take(WHAT)?).into()),
            6 => Value::Float(f32::from_le_bytes(self.take(WHAT)?).into()),
            7 => Value::Bool(self.take::<1>(WHAT)? != [0]),
            8 => Value::Text(self.text()?),
            9 => self.array(key)?,
            10 => Value::Int(self.u64(WHAT)?.try_into().unwrap_or(i64::MAX)),
            11 => Value::Int(i64::from_le_bytes(self.take(WHAT)?)),
            12 => Value::Float(f64::from_le_bytes(self.take(WHAT)?)),
            _ => return Err(self.bad(GgufError::ValueType { key: key.to_owned(), kind })),
        })
    }

    fn array(&mut self, key: &str) -> Result<Value, CheckpointError> {
        const WHAT: &str = "a list";
        let kind = self.u32(WHAT)?;
        let count = self.u64(WHAT)?;
        let bytes = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            _ => return Err(self.bad(GgufError::ValueType { key: key.to_owned(), kind })),
        };
        self.room(count, bytes, "elements of a list")?;
        if kind == 8 {
            let mut texts = Vec::new();
            for _ in 0..count {
                texts.push(self.text()?);
            }
            return Ok(Value::Texts(texts));
        }
        let data = self.bytes(count * bytes, WHAT)?;
        let int = |n: u64| n.try_into().unwrap_or(i64::MAX);
        let (four, eight) = (data.as_chunks().0, data.as_chunks().0);
        Ok(match kind {
            4 => Value::Ints(four.iter().map(|b| u32::from_le_bytes(*b).into()).collect()),
            5 => Value::Ints(four.iter().map(|b| i32::from_le_bytes(*b).into()).collect()),
            6 => Value::Floats(four.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            7 => Value::Bools(data.iter().map(|b| *b != 0).collect()),
            10 => Value::Ints(eight.iter().map(|b| int(u64::from_le_bytes(*b))).collect()),
            11 => Value::Ints(eight.iter().map(|b| i64::from_le_bytes(*b)).collect()),
            12 => Value::Floats(eight.iter().map(|b| f64::from_le_bytes(*b) as f32).collect()),
            _ => Value::Skipped,
        })
    }

    fn tensor(&mut self) -> Result<Listed, CheckpointError> {
        const WHAT: &str = "the list of tensors";
        let name = self.name()?;
        let dimensions = self.u32(WHAT)?;
        if !(1..=4).contains(&dimensions) {
            return Err(self.bad(GgufError::Dimensions(name)));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(self.u64(WHAT)?);
        }
        // Up to 2^48 elements no number of bytes overflows; no file holds as many.
        let elements = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
        let elements = elements.filter(|n| (1..1 << 48).contains(n) && usize::try_from(*n).is_ok());
        if elements.is_none() {
            return Err(self.bad(GgufError::Dimensions(name)));
        }
        let shape = shape.iter().rev().map(|d| *d as usize).collect();
        Ok(Listed { name, shape, kind: self.u32(WHAT)?, offset: self.u64(WHAT)? })
    }
}
