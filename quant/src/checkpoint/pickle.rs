//! A small reader for the pickles that `torch.save` writes of a state dict. No code is ever run.
//!
//! A pickle is a program for a stack machine. This one knows the few instructions that a state dict needs and the few
//! names that it may call, each of which makes a plain value here; any other is refused by name. Every value lives in
//! one list and is referred to by its number, so that cycles do no harm. Nothing recurses, and work and memory are
//! proportional to the pickle's length.

use std::collections::{BTreeMap, HashMap};

use super::SourceDtype;

/// Values that a pickle may make. A tensor takes about ten.
const MAX_VALUES: usize = 1 << 20;
/// Dimensions that a tensor may have.
const MAX_RANK: usize = 8;
/// Keys under which training scripts keep the state dict, and how deep they may be nested.
const WRAPPERS: [&str; 4] = ["state_dict", "model_state_dict", "model", "module"];
const MAX_WRAPPERS: usize = 4;

/// Why a pickle is refused. Positions are bytes from the beginning of `data.pkl`.
#[derive(Debug, thiserror::Error)]
pub enum PickleError {
    /// The pickle ends in the middle of an instruction.
    #[error("data.pkl ends early at byte {0}; fetch the file again")]
    Truncated(usize),

    /// An instruction that no state dict needs.
    #[error(
        "data.pkl has instruction {code:#04x} at byte {at}, which no state dict needs; save model.state_dict() alone"
    )]
    Instruction {
        /// The instruction's code.
        code: u8,
        /// Its position.
        at: usize,
    },

    /// A name that is not needed to build tensors, and would run code in Python.
    #[error("data.pkl refers to {name:?} at byte {at}, which is not allowed; save model.state_dict() alone")]
    Global {
        /// Module and name, as `module.name`.
        name: String,
        /// Position of the instruction.
        at: usize,
    },

    /// A value that is not there, or not of the kind that its place asks for.
    #[error("data.pkl lacks {expected} before byte {at}; the file is damaged, fetch it again")]
    Value {
        /// What was expected.
        expected: &'static str,
        /// Position after the instruction.
        at: usize,
    },

    /// The pickle makes more values than any state dict does.
    #[error("data.pkl makes more than {MAX_VALUES} values by byte {0}; save model.state_dict() alone")]
    TooManyValues(usize),

    /// The pickle is whole but holds no dict of named tensors.
    #[error("data.pkl holds no dict of named tensors; save model.state_dict() alone")]
    NoStateDict,
}

/// A tensor as the pickle describes it; its elements are elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Tensor<'a> {
    /// Key of the storage that holds the elements.
    pub(super) storage: &'a str,
    pub(super) dtype: SourceDtype,
    /// Elements of the storage before the first one of the tensor.
    pub(super) offset: u64,
    /// Its product fits in a `usize`.
    pub(super) shape: Vec<usize>,
    /// Whether the elements lie in row-major order without gaps.
    pub(super) row_major: bool,
}

/// The named tensors of the state dict in `bytes`, or of one kept under a usual name in a dict; sorted by name.
pub(super) fn state_dict(bytes: &[u8]) -> Result<Vec<(&str, Tensor<'_>)>, PickleError> {
    let mut machine = Machine { reader: Reader { bytes, at: 0 }, ..Machine::default() };
    let root = machine.run()?;
    let tensors = machine.named_tensors(root);
    if tensors.is_empty() { Err(PickleError::NoStateDict) } else { Ok(tensors) }
}

/// The number of a value.
type Id = usize;

/// What a state dict is made of.
enum Value<'a> {
    /// None, truth values, fractions, bytes: carried along and never looked at.
    Opaque,
    Int(i64),
    Text(&'a str),
    Tuple(Vec<Id>),
    /// Lists occur in a state dict's metadata only, so their items are dropped.
    List,
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage {
        dtype: SourceDtype,
        key: &'a str,
    },
    Tensor(Box<Tensor<'a>>),
}

/// The names that a pickle may refer to.
#[derive(Clone)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(SourceDtype),
}

impl Global {
    fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "FloatStorage") => Self::Storage(SourceDtype::F32),
            ("torch", "HalfStorage") => Self::Storage(SourceDtype::F16),
            ("torch", "BFloat16Storage") => Self::Storage(SourceDtype::BF16),
            ("torch", "DoubleStorage") => Self::Storage(SourceDtype::F64),
            (
                "torch",
                "LongStorage"
                | "IntStorage"
                | "ShortStorage"
                | "CharStorage"
                | "ByteStorage"
                | "BoolStorage"
                | "ComplexFloatStorage"
                | "ComplexDoubleStorage"
                | "QInt8Storage"
                | "QUInt8Storage"
                | "QInt32Storage"
                | "QUInt4x2Storage"
                | "QUInt2x4Storage",
            ) => Self::Storage(SourceDtype::Other(name.to_owned())),
            _ => return None,
        })
    }
}

/// The pickle's bytes and how far they have been read.
#[derive(Default)]
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: u64) -> Result<&'a [u8], PickleError> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(len)
            .ok()
            .and_then(|len| rest.get(..len))
            .ok_or(PickleError::Truncated(self.at))?;
        self.at += taken.len();
        Ok(taken)
    }

    /// A little-endian unsigned number of `N` bytes, at most 8.
    fn number<const N: usize>(&mut self) -> Result<u64, PickleError> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(self.take(N as u64)?);
        Ok(u64::from_le_bytes(wide))
    }

    fn text(&mut self, len: u64) -> Result<&'a str, PickleError> {
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|_| self.lacks("UTF-8 text"))
    }

    /// Text up to a line feed, which is skipped.
    fn line(&mut self) -> Result<&'a str, PickleError> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|b| *b == b'\n').ok_or(PickleError::Truncated(self.at))?;
        let line = self.text(len as u64)?;
        self.at += 1;
        Ok(line)
    }

    fn lacks(&self, expected: &'static str) -> PickleError {
        PickleError::Value { expected, at: self.at }
    }
}

/// The stack machine.
#[derive(Default)]
struct Machine<'a> {
    reader: Reader<'a>,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at the marks that are still open.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    /// Runs the pickle and gives the value that it leaves.
    fn run(&mut self) -> Result<Id, PickleError> {
        loop {
            let at = self.reader.at;
            match self.reader.number::<1>()? as u8 {
                0x80 => self.skip(1)?, // PROTO: each instruction is checked by itself anyway
                0x95 => self.skip(8)?, // FRAME: a hint for reading ahead
                b'.' => return self.pop(),

                b'(' => self.marks.push(self.stack.len()),
                b'N' | 0x88 | 0x89 => self.push(Value::Opaque)?, // NONE, NEWTRUE, NEWFALSE
                b'G' => {
                    self.skip(8)?; // BINFLOAT
                    self.push(Value::Opaque)?;
                }
                b'J' => {
                    let int = self.reader.number::<4>()? as u32 as i32; // BININT
                    self.push(Value::Int(int.into()))?;
                }
                b'K' => self.unsigned::<1>()?, // BININT1
                b'M' => self.unsigned::<2>()?, // BININT2
                0x8a => self.long()?,          // LONG1
                b'X' => self.text::<4>()?,     // BINUNICODE
                0x8c => self.text::<1>()?,     // SHORT_BINUNICODE
                0x8d => self.text::<8>()?,     // BINUNICODE8
                b'B' => self.bytes::<4>()?,    // BINBYTES
                b'C' => self.bytes::<1>()?,    // SHORT_BINBYTES
                0x8e => self.bytes::<8>()?,    // BINBYTES8

                b']' => self.push(Value::List)?,
                b'a' => {
                    self.pop()?; // APPEND
                    self.list_on_top()?;
                }
                b'e' => {
                    self.pop_to_mark()?; // APPENDS
                    self.list_on_top()?;
                }
                b')' => self.push(Value::Tuple(Vec::new()))?,
                0x85 => self.tuple(1)?,
                0x86 => self.tuple(2)?,
                0x87 => self.tuple(3)?,
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::Tuple(items))?;
                }
                b'}' => self.push(Value::Dict(Vec::new()))?,
                b's' => {
                    let pair = self.pop_many(2)?; // SETITEM
                    self.insert(&pair)?;
                }
                b'u' => {
                    let pairs = self.pop_to_mark()?; // SETITEMS
                    self.insert(&pairs)?;
                }

                b'q' => self.remember::<1>()?, // BINPUT
                b'r' => self.remember::<4>()?, // LONG_BINPUT
                0x94 => {
                    let top = self.top()?; // MEMOIZE
                    self.memo.insert(self.memo.len() as u64, top);
                }
                b'h' => self.recall::<1>()?, // BINGET
                b'j' => self.recall::<4>()?, // LONG_BINGET

                b'c' => {
                    let (module, name) = (self.reader.line()?, self.reader.line()?); // GLOBAL
                    self.global(module, name, at)?;
                }
                0x93 => {
                    let names = self.pop_many(2)?; // STACK_GLOBAL
                    let (module, name) = (self.text_of(names[0])?, self.text_of(names[1])?);
                    self.global(module, name, at)?;
                }
                b'Q' => self.storage()?, // BINPERSID
                b'R' => self.call()?,    // REDUCE
                b'b' => {
                    self.pop()?; // BUILD: a state dict's `_metadata`, not needed
                    self.dict_on_top()?;
                }
                code => return Err(PickleError::Instruction { code, at }),
            }
        }
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), PickleError> {
        if self.values.len() == MAX_VALUES {
            return Err(PickleError::TooManyValues(self.reader.at));
        }
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
    }

    fn unsigned<const N: usize>(&mut self) -> Result<(), PickleError> {
        let int = self.reader.number::<N>()?;
        self.push(Value::Int(int as i64))
    }

    /// A signed number that says its length first; those that matter here have at most 8 bytes.
    fn long(&mut self) -> Result<(), PickleError> {
        let len = self.reader.number::<1>()?;
        let digits = self.reader.take(len)?;
        if digits.len() > 8 {
            return Err(self.lacks("a number of 8 bytes at most"));
        }
        let negative = digits.last().is_some_and(|high| high & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..digits.len()].copy_from_slice(digits);
        self.push(Value::Int(i64::from_le_bytes(wide)))
    }

    fn text<const N: usize>(&mut self) -> Result<(), PickleError> {
        let len = self.reader.number::<N>()?;
        let text = self.reader.text(len)?;
        self.push(Value::Text(text))
    }

    fn bytes<const N: usize>(&mut self) -> Result<(), PickleError> {
        let len = self.reader.number::<N>()?;
        self.skip(len)?;
        self.push(Value::Opaque)
    }

    fn skip(&mut self, len: u64) -> Result<(), PickleError> {
        self.reader.take(len).map(drop)
    }

    fn tuple(&mut self, len: usize) -> Result<(), PickleError> {
        let items = self.pop_many(len)?;
        self.push(Value::Tuple(items))
    }

    /// Adds `pairs`, key and value by turns, to the dict on top of the stack.
    fn insert(&mut self, pairs: &[Id]) -> Result<(), PickleError> {
        let (pairs, odd) = pairs.as_chunks::<2>();
        if !odd.is_empty() {
            return Err(self.lacks("a value for each key"));
        }
        let dict = self.dict_on_top()?;
        dict.extend(pairs.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    fn remember<const N: usize>(&mut self) -> Result<(), PickleError> {
        let slot = self.reader.number::<N>()?;
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall<const N: usize>(&mut self) -> Result<(), PickleError> {
        let slot = self.reader.number::<N>()?;
        let id = *self.memo.get(&slot).ok_or_else(|| self.lacks("a remembered value"))?;
        self.stack.push(id);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str, at: usize) -> Result<(), PickleError> {
        let refused =
            || PickleError::Global { name: format!("{module}.{name}").chars().take(100).collect(), at };
        let global = Global::find(module, name).ok_or_else(refused)?;
        self.push(Value::Global(global))
    }

    /// Makes a storage of the tuple `("storage", type, key, device, length)`; its length is seen in the archive.
    fn storage(&mut self) -> Result<(), PickleError> {
        let reference = self.pop()?;
        let Value::Tuple(parts) = &self.values[reference] else { return Err(self.lacks("a storage tuple")) };
        let [kind, class, key, ..] = parts[..] else { return Err(self.lacks("a whole storage tuple")) };
        let Value::Global(Global::Storage(dtype)) = &self.values[class] else {
            return Err(self.lacks("a storage type"));
        };
        if self.text_of(kind)? != "storage" {
            return Err(self.lacks("the word \"storage\""));
        }
        let storage = Value::Storage { dtype: dtype.clone(), key: self.text_of(key)? };
        self.push(storage)
    }

    fn call(&mut self) -> Result<(), PickleError> {
        let operands = self.pop_many(2)?;
        let (Value::Global(callee), Value::Tuple(args)) =
            (&self.values[operands[0]], &self.values[operands[1]])
        else {
            return Err(self.lacks("a function and a tuple of arguments"));
        };
        match (callee, &args[..]) {
            (Global::OrderedDict, []) => self.push(Value::Dict(Vec::new())),
            (Global::RebuildTensor, [storage, offset, shape, strides, ..]) => {
                let tensor = self.tensor(*storage, *offset, *shape, *strides)?;
                self.push(Value::Tensor(Box::new(tensor)))
            }
            // A parameter is its tensor.
            (Global::RebuildParameter, [tensor, ..]) => {
                self.stack.push(*tensor);
                Ok(())
            }
            _ => Err(self.lacks("a call with the usual arguments")),
        }
    }

    fn tensor(&self, storage: Id, offset: Id, shape: Id, strides: Id) -> Result<Tensor<'a>, PickleError> {
        let Value::Storage { dtype, key } = &self.values[storage] else {
            return Err(self.lacks("a storage"));
        };
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        if shape.len() != strides.len() {
            return Err(self.lacks("one stride for each dimension"));
        }
        if shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size)).is_none() {
            return Err(self.lacks("a shape that fits in memory"));
        }
        let row_major = is_row_major(&shape, &strides);
        let offset = self.size(offset)? as u64;
        Ok(Tensor { storage: key, dtype: dtype.clone(), offset, shape, row_major })
    }

    /// The tensors of the dict `root`, or of the dict that it keeps under one of the usual names.
    fn named_tensors(&self, root: Id) -> Vec<(&'a str, Tensor<'a>)> {
        let mut dict = self.entries(root);
        for _ in 0..MAX_WRAPPERS {
            let inner = WRAPPERS.iter().find_map(|name| dict.get(name).filter(|id| self.is_dict(**id)));
            match inner {
                Some(id) => dict = self.entries(*id),
                None => break,
            }
        }
        let tensor = |(name, id)| match &self.values[id] {
            Value::Tensor(tensor) => Some((name, Tensor::clone(tensor))),
            _ => None,
        };
        dict.into_iter().filter_map(tensor).collect()
    }

    /// The entries of a dict that have text for a key, as in Python the last one of each key; empty if it is no dict.
    fn entries(&self, dict: Id) -> BTreeMap<&'a str, Id> {
        let Value::Dict(pairs) = &self.values[dict] else { return BTreeMap::new() };
        pairs.iter().filter_map(|(key, value)| Some((self.text_of(*key).ok()?, *value))).collect()
    }

    fn is_dict(&self, id: Id) -> bool {
        matches!(self.values[id], Value::Dict(_))
    }

    fn text_of(&self, id: Id) -> Result<&'a str, PickleError> {
        match self.values[id] {
            Value::Text(text) => Ok(text),
            _ => Err(self.lacks("text")),
        }
    }

    fn size(&self, id: Id) -> Result<usize, PickleError> {
        match self.values[id] {
            Value::Int(int) => usize::try_from(int).map_err(|_| self.lacks("a size of zero or more")),
            _ => Err(self.lacks("a number")),
        }
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>, PickleError> {
        match &self.values[id] {
            Value::Tuple(items) if items.len() <= MAX_RANK => items.iter().map(|id| self.size(*id)).collect(),
            _ => Err(self.lacks("a tuple of at most 8 sizes")),
        }
    }

    /// The lowest place on the stack that may be popped: what lies under an open mark is out of reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop_many(&mut self, len: usize) -> Result<Vec<Id>, PickleError> {
        match self.stack.len().checked_sub(len) {
            Some(start) if start >= self.floor() => Ok(self.stack.split_off(start)),
            _ => Err(self.lacks("enough values on the stack")),
        }
    }

    fn pop(&mut self) -> Result<Id, PickleError> {
        Ok(self.pop_many(1)?[0])
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        let mark = self.marks.pop().ok_or_else(|| self.lacks("a mark"))?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Result<Id, PickleError> {
        self.stack[self.floor()..].last().copied().ok_or_else(|| self.lacks("a value on the stack"))
    }

    fn dict_on_top(&mut self) -> Result<&mut Vec<(Id, Id)>, PickleError> {
        let (top, not_a_dict) = (self.top()?, self.lacks("a dict"));
        match &mut self.values[top] {
            Value::Dict(pairs) => Ok(pairs),
            _ => Err(not_a_dict),
        }
    }

    fn list_on_top(&self) -> Result<(), PickleError> {
        match self.values[self.top()?] {
            Value::List => Ok(()),
            _ => Err(self.lacks("a list")),
        }
    }

    fn lacks(&self, expected: &'static str) -> PickleError {
        self.reader.lacks(expected)
    }
}

/// Whether elements in row-major order have these strides. The stride of a dimension of size 1 means nothing, and
/// that of an empty tensor neither.
fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    if shape.contains(&0) {
        return true;
    }
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(size, stride)| {
        let fits = *size == 1 || *stride == expected;
        expected *= size;
        fits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tensor `w` of 2 × 3 half floats from element 1 of storage `7`, as each protocol writes it.
    fn protocol_2() -> Vec<u8> {
        [
            b"\x80\x02}q\x00X\x01\x00\x00\x00wq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02".as_slice(),
            b"((X\x07\x00\x00\x00storageq\x03ctorch\nHalfStorage\nq\x04X\x01\x00\x00\x007q\x05",
            b"X\x03\x00\x00\x00cpuq\x06K\x07tq\x07QK\x01K\x02K\x03\x86q\x08K\x03K\x01\x86q\x09\x89",
            b"ccollections\nOrderedDict\nq\x0a)Rq\x0btq\x0cRq\x0ds.",
        ]
        .concat()
    }

    fn protocol_4() -> Vec<u8> {
        [
            b"\x80\x04\x95\xa0\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01w\x94".as_slice(),
            b"\x8c\x0ctorch._utils\x94\x8c\x12_rebuild_tensor_v2\x94\x93\x94",
            b"((\x8c\x07storage\x94\x8c\x05torch\x94\x8c\x0bHalfStorage\x94\x93\x94\x8c\x017\x94\x8c\x03cpu\x94",
            b"\x8a\x01\x07t\x94QK\x01K\x02K\x03\x86\x94K\x03K\x01\x86\x94\x89",
            b"\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93\x94)R\x94t\x94R\x94s.",
        ]
        .concat()
    }

    #[test]
    fn every_protocol_gives_the_same_tensor() {
        for pickle in [protocol_2(), protocol_4()] {
            let tensors = state_dict(&pickle).unwrap();
            let [("w", tensor)] = &tensors[..] else { panic!("{tensors:?}") };
            assert_eq!((tensor.storage, tensor.offset, &tensor.shape[..]), ("7", 1, &[2, 3][..]));
            assert_eq!(tensor.dtype, SourceDtype::F16);
            assert!(tensor.row_major);
        }
    }

    #[test]
    fn other_names_are_refused_by_name() {
        for call in [
            b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR.".as_slice(),
            b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        ] {
            let error = state_dict(call).unwrap_err();
            assert!(matches!(&error, PickleError::Global { name, .. } if name == "os.system"), "{error}");
            assert!(error.to_string().contains("os.system"), "{error}");
        }
        // A name that is allowed as such, in a place where it is not.
        let call = b"\x80\x02ctorch\nFloatStorage\n)R.";
        assert!(matches!(state_dict(call), Err(PickleError::Value { .. })));
    }

    #[test]
    fn damaged_pickles_are_refused() {
        for (pickle, what) in [
            (b"\x80\x02N.".as_slice(), "no dict"),
            (b"\x80\x02}.", "no dict"),
            (b"\x80\x02(t", "ends early"),
            (b"\x80\x02.", "enough values"),
            (b"\x80\x02h\x00.", "remembered"),
            (b"\x80\x02t.", "a mark"),
            (b"}(}s.", "enough values"),
            (b"}(Nu.", "a value for each key"),
            (b"Nq\x00Na.", "a list"),
            (b"}Nb", "ends early"),
            (b"NNb", "a dict"),
            (b"NQ", "a storage tuple"),
            (b"NNR", "a function"),
            (b"\x8a\x09123456789.", "8 bytes"),
            (b"X\xff\xff\xff\xff", "ends early"),
            (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "ends early"),
            (b"X\x01\x00\x00\x00\xff", "UTF-8"),
            (b"\x81", "0x81"),
        ] {
            let error = state_dict(pickle).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(what), "{pickle:?}: {error}");
        }
        let many = b"N".repeat(MAX_VALUES + 1);
        assert!(matches!(state_dict(&many), Err(PickleError::TooManyValues(_))));
    }

    #[test]
    fn a_dict_that_holds_itself_does_no_harm() {
        let pickle = b"}q\x00X\x05\x00\x00\x00modelh\x00s.";
        assert!(matches!(state_dict(pickle), Err(PickleError::NoStateDict)));
    }

    #[test]
    fn every_prefix_and_every_changed_byte_is_survived() {
        for pickle in [protocol_2(), protocol_4()] {
            for len in 0..pickle.len() {
                assert!(state_dict(&pickle[..len]).is_err());
            }
            for at in 0..pickle.len() {
                for byte in 0..=255 {
                    let mut changed = pickle.clone();
                    changed[at] = byte;
                    let _ = state_dict(&changed);
                }
            }
        }
    }

    #[test]
    fn row_major_strides() {
        for (shape, strides) in [
            (&[][..], &[][..]),
            (&[2, 3], &[3, 1]),
            (&[4, 1, 3], &[3, 1, 1]),
            (&[1, 4], &[9, 1]),
            (&[0, 4], &[0, 7]),
        ] {
            assert!(is_row_major(shape, strides), "{shape:?} {strides:?}");
        }
        for (shape, strides) in
            [(&[2, 3][..], &[1, 2][..]), (&[2, 3], &[6, 2]), (&[2], &[0]), (&[3, 4, 1], &[1, 3, 1])]
        {
            assert!(!is_row_major(shape, strides), "{shape:?} {strides:?}");
        }
    }
}
