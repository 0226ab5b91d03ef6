//! A checked view over the bytes of a `.sarit` file.

use crate::error::ModelError;
use crate::format::{
    FINGERPRINT_START, Header, MAGIC, RecordHeader, Section, TensorEntry, TensorTable, VERSION, section,
};
use crate::plan::{Block, Expert, Input, Moe, Operands, Output, Record, StateFormat, tag};
use crate::scratch::{ScratchLens, Shape};
use crate::state::{StateDType, StatePart};
use crate::tensor::{DType, Tensor};
use crate::{ALIGN, hash};

/// A model: a view over bytes that were checked once and are never written.
#[derive(Debug, Clone, Copy)]
pub struct Model<'m> {
    bytes: &'m [u8],
    fingerprint: u64,
    plan: &'m [u8],
    entries: &'m [TensorEntry],
    names: &'m [u8],
    tokenizer: Option<&'m [u8]>,
    meta: &'m str,
    input: Option<Input<'m>>,
    output: Option<Output<'m>>,
    state_dtype: StateDType,
    state_bytes: usize,
}

/// Memory that a caller lends, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// For the state: once per stream.
    pub state_bytes: usize,
    /// For the scratch: once for any number of streams that do not run at the same time.
    pub scratch_bytes: usize,
    /// Alignment of both.
    pub align: usize,
}

/// A record of the plan: its position, header and payload.
struct RawRecord<'m> {
    index: u32,
    header: RecordHeader,
    payload: &'m [u8],
}

impl RawRecord<'_> {
    fn read<R: Record>(&self) -> Result<R, ModelError> {
        let RecordHeader { tag, version, .. } = self.header;
        if (tag, version) != (R::TAG, R::VERSION) {
            return Err(ModelError::Record { index: self.index, tag, version });
        }
        bytemuck::try_pod_read_unaligned(self.payload).map_err(|_| ModelError::Field(self.index))
    }
}

impl<'m> Model<'m> {
    /// Checks `bytes`, the whole content of a `.sarit` file, and borrows them.
    ///
    /// After `Ok` nothing about the file can make a step fail. Reads every byte once (for the fingerprint).
    ///
    /// # Errors
    /// See [`ModelError`]. `bytes` must start on a boundary of [`ALIGN`] bytes.
    pub fn from_bytes(bytes: &'m [u8]) -> Result<Self, ModelError> {
        let start = bytes.get(..size_of::<Header>()).ok_or(ModelError::TooShort)?;
        let header: Header = bytemuck::pod_read_unaligned(start);
        if header.magic != MAGIC {
            return Err(ModelError::Magic);
        }
        if header.version != VERSION {
            return Err(ModelError::Version(header.version));
        }
        if header.file_bytes != bytes.len() as u64 {
            return Err(ModelError::Length { stated: header.file_bytes, given: bytes.len() as u64 });
        }
        if !bytes.as_ptr().addr().is_multiple_of(ALIGN) {
            return Err(ModelError::Misaligned);
        }
        if header.fingerprint != hash(&bytes[FINGERPRINT_START..]) {
            return Err(ModelError::Fingerprint);
        }
        let sections = usize::try_from(header.section_count)
            .ok()
            .and_then(|n| n.checked_mul(size_of::<Section>()))
            .and_then(|n| bytes[size_of::<Header>()..].get(..n))
            .ok_or(ModelError::TooShort)?;
        let sections: &[Section] = bytemuck::cast_slice(sections);
        let optional = |kind: u32| match sections.iter().find(|s| s.kind == kind) {
            Some(s) => slice(bytes, s.offset, s.bytes).ok_or(ModelError::Section(kind)).map(Some),
            None => Ok(None),
        };
        let required = |kind: u32| optional(kind)?.ok_or(ModelError::Section(kind));
        let plan = required(section::PLAN)?;
        let (entries, names) =
            tensor_table(required(section::TENSORS)?).ok_or(ModelError::Section(section::TENSORS))?;
        let meta = optional(section::META)?.unwrap_or(b"{}");

        let mut model = Self {
            bytes,
            fingerprint: header.fingerprint,
            plan,
            entries,
            names,
            tokenizer: optional(section::TOKENIZER)?,
            meta: str::from_utf8(meta).map_err(|_| ModelError::Text)?,
            // Until the plan is read.
            input: None,
            output: None,
            state_dtype: StateDType::F32,
            state_bytes: 0,
        };
        for i in 0..entries.len() {
            model.checked_tensor(i as u32)?;
        }
        model.check_plan()?;
        Ok(model)
    }

    /// Reads the whole plan once: resolves input and output, and every block, and sums up the state.
    fn check_plan(&mut self) -> Result<(), ModelError> {
        let mut records = Records { rest: self.plan, index: 0 };
        let raw = records.next()?.ok_or(ModelError::PlanEnd(0))?;
        self.input = Some(match raw.header.tag {
            tag::FRAME_INPUT => Input::Frames(self.operands(0, 0).frame_input(&raw.read()?)?),
            _ => self.operands(0, 0).token_input(&raw.read()?)?,
        });
        let raw = records.next()?.ok_or(ModelError::PlanEnd(1))?;
        let output = match self.input() {
            Input::Tokens { embedding, .. } => {
                self.operands(1, 0).logits_output(&raw.read()?, embedding.rows())?
            }
            Input::Frames(_) => self.operands(1, 0).frame_output(&raw.read()?)?,
        };
        self.output = Some(output);

        let mut next = records.next()?;
        if let Some(raw) = next.as_ref().filter(|raw| raw.header.tag == tag::STATE_FORMAT) {
            let format: StateFormat = raw.read()?;
            self.state_dtype = StateDType::from_u32(format.dtype).ok_or(ModelError::Field(raw.index))?;
            next = records.next()?;
        }

        let (mut before, mut state_bytes) = (0, StateDType::ALL.map(|_| pool_bytes(&output)));
        while let Some(raw) = next {
            before = self.check_block(&raw, before, &mut state_bytes)?;
            next = records.next()?;
        }
        if before == 0 {
            return Err(ModelError::PlanEnd(records.index));
        }
        self.state_bytes = state_bytes[self.state_dtype as usize];
        ScratchLens::checked(self, 1.into()).ok_or(ModelError::TooLarge)?;
        Ok(())
    }

    /// Resolves a block and adds the bytes of its state in each format; returns the length of its normed input.
    #[inline(never)]
    fn check_block(
        &self,
        raw: &RawRecord<'m>,
        before: usize,
        state_bytes: &mut [usize; StateDType::ALL.len()],
    ) -> Result<usize, ModelError> {
        let block = self.resolve(raw, before)?;
        for (sum, dtype) in state_bytes.iter_mut().zip(StateDType::ALL) {
            let bytes = padded_bytes(&block, dtype).and_then(|bytes| bytes.checked_add(*sum));
            *sum = bytes.ok_or(ModelError::TooLarge)?;
        }
        Ok(block.join().input.len(self.d_model(), before))
    }

    /// The same model with SSM states of another element type than the file asks for.
    #[must_use]
    pub fn with_state(mut self, dtype: StateDType) -> Self {
        self.state_dtype = dtype;
        let blocks = self.blocks().map(|(block, _)| padded_bytes(&block, dtype).expect(CHECKED));
        self.state_bytes = blocks.sum::<usize>() + pool_bytes(&self.output());
        self
    }

    /// What resolves the operands of the record at `index`, after a block whose normed input has length `before`.
    fn operands(&self, index: u32, before: usize) -> Operands<'_, 'm> {
        Operands { index, model: self, before }
    }

    /// Each kind of block is resolved by a function that is not inlined: its part of the stack is only there while it runs.
    fn resolve(&self, raw: &RawRecord<'m>, before: usize) -> Result<Block<'m>, ModelError> {
        let operands = self.operands(raw.index, before);
        Ok(match raw.header.tag {
            tag::SSM => Block::Ssm(operands.ssm(&raw.read()?)?),
            tag::ATTENTION => Block::Attention(operands.attention(&raw.read()?)?),
            tag::MLP => Block::Mlp(operands.mlp(&raw.read()?)?),
            tag::MOE => Block::Moe(operands.moe(&raw.read()?)?),
            tag::SHORT_CONV => Block::ShortConv(operands.short_conv(&raw.read()?)?),
            tag::LINEAR => Block::Linear(operands.linear_block(&raw.read()?)?),
            tag => return Err(ModelError::Record { index: raw.index, tag, version: raw.header.version }),
        })
    }

    /// The blocks in order, each with the place of its first byte in the state.
    pub fn blocks(&self) -> impl Iterator<Item = (Block<'m>, usize)> {
        let mut records = Records { rest: self.plan, index: 0 };
        let (mut offset, mut before) = (0, 0);
        core::iter::from_fn(move || {
            // Past input, output, and the format of the state.
            let raw = loop {
                let raw = records.next().expect(CHECKED)?;
                if raw.index >= 2 && raw.header.tag != tag::STATE_FORMAT {
                    break raw;
                }
            };
            let block = self.resolve(&raw, before).expect(CHECKED);
            before = block.join().input.len(self.d_model(), before);
            let start = offset;
            offset += padded_bytes(&block, self.state_dtype).expect(CHECKED);
            Some((block, start))
        })
    }

    /// The matrices of expert `e` of a mixture.
    pub fn expert(&self, moe: &Moe<'m>, e: usize) -> Expert<'m> {
        self.operands(0, 0).expert(moe, e).expect(CHECKED)
    }

    /// Memory for one state, and for a scratch of the given shape: a number is that of the tokens taken at once.
    ///
    /// `None` where the shape is so large that the scratch cannot be addressed; never for one token of one stream.
    pub fn memory(&self, shape: impl Into<Shape>) -> Option<Memory> {
        let scratch = ScratchLens::checked(self, shape.into())?;
        Some(Memory { state_bytes: self.state_bytes, scratch_bytes: scratch.bytes(), align: ALIGN })
    }

    /// Length of a state in bytes.
    pub fn state_bytes(&self) -> usize {
        self.state_bytes
    }

    /// Element type of the SSM state.
    pub fn state_dtype(&self) -> StateDType {
        self.state_dtype
    }

    /// Hash of the file: the model's identity. States carry it.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The file.
    pub fn bytes(&self) -> &'m [u8] {
        self.bytes
    }

    /// Length of the file in bytes.
    pub fn file_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What comes in: tokens or frames.
    pub fn input(&self) -> Input<'m> {
        self.input.expect(CHECKED)
    }

    /// What goes out.
    pub fn output(&self) -> Output<'m> {
        self.output.expect(CHECKED)
    }

    /// Number of token ids; ids are below it. 0 for a frame model.
    pub fn vocab_len(&self) -> usize {
        match self.input() {
            Input::Tokens { embedding, .. } => embedding.rows(),
            Input::Frames(_) => 0,
        }
    }

    /// Number of floats in a frame; 0 for a token model.
    pub fn frame_len(&self) -> usize {
        match self.input() {
            Input::Tokens { .. } => 0,
            Input::Frames(read_in) => read_in.matrix.cols(),
        }
    }

    /// Width of the residual stream.
    pub fn d_model(&self) -> usize {
        match self.input() {
            Input::Tokens { embedding, .. } => embedding.cols(),
            Input::Frames(read_in) => read_in.matrix.rows(),
        }
    }

    /// Number of logits, classes or regression values that a step gives.
    pub fn output_len(&self) -> usize {
        self.output().head.matrix.rows()
    }

    /// Place of the first byte of the pool's state.
    pub(crate) fn pool_start(&self) -> usize {
        self.state_bytes - pool_bytes(&self.output())
    }

    /// `tokenizer.json`, if the file holds one.
    pub fn tokenizer(&self) -> Option<&'m [u8]> {
        self.tokenizer
    }

    /// JSON about the model; `{}` if the file holds none.
    pub fn meta(&self) -> &'m str {
        self.meta
    }

    /// All tensors in the order of their ids.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'m>> {
        let model = *self;
        (0..self.entries.len() as u32).filter_map(move |id| model.tensor(id))
    }

    /// The tensor with an id.
    pub(crate) fn tensor(&self, id: u32) -> Option<Tensor<'m>> {
        self.checked_tensor(id).ok()
    }

    fn checked_tensor(&self, id: u32) -> Result<Tensor<'m>, ModelError> {
        let error = ModelError::Tensor(id);
        let e = self.entries.get(id as usize).ok_or(error)?;
        let name = slice_unaligned(self.names, e.name_offset.into(), e.name_bytes.into()).ok_or(error)?;
        let data = slice(self.bytes, e.offset, e.bytes).ok_or(error)?;
        let (rows, cols) = (e.rows as usize, e.cols as usize);
        let dtype = DType::from_u32(e.dtype).ok_or(error)?;
        if dtype.bytes(rows, cols) != Some(data.len()) || data.is_empty() {
            return Err(error);
        }
        Ok(Tensor { name: str::from_utf8(name).map_err(|_| ModelError::Text)?, dtype, rows, cols, data })
    }
}

/// Why `expect` cannot fail after `from_bytes`: it has resolved the same records of the same bytes.
const CHECKED: &str = "the plan was checked when the model was opened";

/// Length in bytes of a block's state, each part filled up to a multiple of 64.
fn padded_bytes(block: &Block<'_>, dtype: StateDType) -> Option<usize> {
    let parts = block.state_parts(dtype).into_iter();
    parts.map(StatePart::padded_bytes).try_fold(0usize, |sum, bytes| sum.checked_add(bytes?))
}

/// Length in bytes of the pool's state, filled up to a multiple of 64.
fn pool_bytes(output: &Output<'_>) -> usize {
    output.pool_state().padded_bytes().expect("a vector of the residual stream has at most 2^24 elements")
}

/// Walks the records of a plan.
struct Records<'m> {
    rest: &'m [u8],
    index: u32,
}

impl<'m> Records<'m> {
    fn next(&mut self) -> Result<Option<RawRecord<'m>>, ModelError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (index, end) = (self.index, ModelError::PlanEnd(self.index));
        let (head, rest) = self.rest.split_at_checked(size_of::<RecordHeader>()).ok_or(end)?;
        let header: RecordHeader = bytemuck::pod_read_unaligned(head);
        if !header.bytes.is_multiple_of(4) {
            return Err(end);
        }
        let (payload, rest) = rest.split_at_checked(header.bytes as usize).ok_or(end)?;
        self.rest = rest;
        self.index += 1;
        Ok(Some(RawRecord { index, header, payload }))
    }
}

/// `bytes[offset..offset + len]` if that exists and starts on a 64-byte boundary.
fn slice(bytes: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    if !offset.is_multiple_of(ALIGN as u64) { None } else { slice_unaligned(bytes, offset, len) }
}

fn slice_unaligned(bytes: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    bytes.get(start..start.checked_add(usize::try_from(len).ok()?)?)
}

/// Entries and names of a tensor section.
fn tensor_table(bytes: &[u8]) -> Option<(&[TensorEntry], &[u8])> {
    let (head, rest) = bytes.split_at_checked(size_of::<TensorTable>())?;
    let table: TensorTable = bytemuck::pod_read_unaligned(head);
    let (entries, rest) =
        rest.split_at_checked((table.count as usize).checked_mul(size_of::<TensorEntry>())?)?;
    Some((bytemuck::try_cast_slice(entries).ok()?, rest.get(..table.names_bytes as usize)?))
}
