//! A checked view over the bytes of a `.sarit` file.

use crate::error::ModelError;
use crate::format::{
    FINGERPRINT_START, Header, MAGIC, RecordHeader, Section, TensorEntry, TensorTable, VERSION, section,
};
use crate::plan::{
    Before, Block, BlockOutput, Expert, Input, Moe, Operands, Output, Record, StateFormat, tag,
};
use crate::scratch::{ScratchLens, Shape};
use crate::state::{SNAPSHOT_CHECKSUM_BYTES, SNAPSHOT_HEADER_BYTES, StateDType, StatePart};
use crate::tensor::Tensor;
use crate::{ALIGN, hash};

/// A model: a view over bytes that were checked once and are never written.
#[derive(Debug, Clone, Copy)]
pub struct Model<'m> {
    bytes: &'m [u8],
    fingerprint: u64,
    /// Those of the blocks.
    records: Records<'m>,
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

impl<'m> RawRecord<'m> {
    /// The payload where it lies: the plan starts on a boundary of 64 bytes, and all lengths are multiples of 4.
    fn read<R: Record>(&self) -> Result<&'m R, ModelError> {
        let RecordHeader { tag, version, .. } = self.header;
        if (tag, version) != (R::TAG, R::VERSION) {
            return Err(ModelError::Record { index: self.index, tag, version });
        }
        bytemuck::try_from_bytes(self.payload).map_err(|_| ModelError::Field(self.index))
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
        // Checked where it is returned: to move it would need a second place on the stack.
        let mut opened = Self::open(bytes);
        if let Ok(model) = &mut opened
            && let Err(error) = model.check()
        {
            opened = Err(error);
        }
        opened
    }

    /// A model whose tensors and plan are not checked.
    #[inline(never)]
    fn open(bytes: &'m [u8]) -> Result<Self, ModelError> {
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
        let records = Records { rest: required(section::PLAN)?, index: 0 };
        let (entries, names) =
            tensor_table(required(section::TENSORS)?).ok_or(ModelError::Section(section::TENSORS))?;
        let meta = optional(section::META)?.unwrap_or(b"{}");

        Ok(Self {
            bytes,
            fingerprint: header.fingerprint,
            records,
            entries,
            names,
            tokenizer: optional(section::TOKENIZER)?,
            meta: str::from_utf8(meta).map_err(|_| ModelError::Text)?,
            // Until the plan is read.
            input: None,
            output: None,
            state_dtype: StateDType::F32,
            state_bytes: 0,
        })
    }

    /// Each part is a function that is not inlined: the stack holds one part's operands at a time.
    fn check(&mut self) -> Result<(), ModelError> {
        self.check_tensors()?;
        self.check_ends()?;
        self.check_blocks()?;
        self.check_scratch()
    }

    #[inline(never)]
    fn check_tensors(&self) -> Result<(), ModelError> {
        for id in 0..self.entries.len() as u32 {
            self.tensor(id).filter(Tensor::fits).ok_or(ModelError::Tensor(id))?;
            let name = self.name(id).ok_or(ModelError::Tensor(id))?;
            str::from_utf8(name).map_err(|_| ModelError::Text)?;
        }
        Ok(())
    }

    /// Resolves input and output, and reads the format of the state.
    #[inline(never)]
    fn check_ends(&mut self) -> Result<(), ModelError> {
        self.input = Some(self.read_input()?);
        self.output = Some(self.read_output()?);
        let mut records = self.records;
        if let Some(raw) = records.next()?.filter(|raw| raw.header.tag == tag::STATE_FORMAT) {
            let format: &StateFormat = raw.read()?;
            self.state_dtype = StateDType::from_u32(format.dtype).ok_or(ModelError::Field(raw.index))?;
            self.records = records;
        }
        Ok(())
    }

    /// Resolves every block and sums up the state, of which a snapshot can be addressed.
    #[inline(never)]
    fn check_blocks(&mut self) -> Result<(), ModelError> {
        let mut state_bytes = StateDType::ALL.map(|_| pool_bytes(self.output()));
        let most = usize::MAX - SNAPSHOT_HEADER_BYTES - SNAPSHOT_CHECKSUM_BYTES;
        let blocks = self.walk(|block, _, _| {
            for (sum, dtype) in state_bytes.iter_mut().zip(StateDType::ALL) {
                let bytes = padded_bytes(block, dtype).and_then(|bytes| bytes.checked_add(*sum));
                *sum = bytes.filter(|sum| *sum <= most).ok_or(ModelError::TooLarge)?;
            }
            Ok(())
        })?;
        if blocks == 0 {
            return Err(ModelError::PlanEnd(self.records.index));
        }
        self.state_bytes = state_bytes[self.state_dtype as usize];
        Ok(())
    }

    #[inline(never)]
    fn check_scratch(&self) -> Result<(), ModelError> {
        ScratchLens::default().grow_to(self, 1.into()).ok_or(ModelError::TooLarge)
    }

    #[inline(never)]
    fn read_input(&mut self) -> Result<Input<'m>, ModelError> {
        let raw = self.records.next()?.ok_or(ModelError::PlanEnd(0))?;
        match raw.header.tag {
            tag::FRAME_INPUT => {
                self.operands(0, Before::default()).frame_input(raw.read()?).map(Input::Frames)
            }
            _ => self.operands(0, Before::default()).token_input(raw.read()?),
        }
    }

    #[inline(never)]
    fn read_output(&mut self) -> Result<Output<'m>, ModelError> {
        let raw = self.records.next()?.ok_or(ModelError::PlanEnd(1))?;
        match self.input() {
            Input::Tokens { embedding, .. } => {
                self.operands(1, Before::default()).logits_output(raw.read()?, embedding.rows())
            }
            Input::Frames(_) => self.operands(1, Before::default()).frame_output(raw.read()?),
        }
    }

    /// Calls `f` with every block in order, the place of its first byte in the state, and the length of its normed input;
    /// returns the number of blocks. A block is resolved again every time it is needed, and handed on by reference: the
    /// stack holds one at a time.
    #[inline(never)]
    fn walk(
        &self,
        mut f: impl FnMut(&Block<'m>, usize, usize) -> Result<(), ModelError>,
    ) -> Result<usize, ModelError> {
        let mut records = self.records;
        let (mut start, mut before, mut blocks) = (0, Before::default(), 0);
        while let Some(raw) = records.next()? {
            match &self.resolve(&raw, before) {
                Ok(block) => {
                    let join = block.join();
                    before.input_len = join.input.len(self.d_model(), before.input_len);
                    before.branch |= join.output == BlockOutput::Branch;
                    f(block, start, before.input_len)?;
                    start += padded_bytes(block, self.state_dtype).ok_or(ModelError::TooLarge)?;
                }
                Err(error) => return Err(*error),
            }
            blocks += 1;
        }
        Ok(blocks)
    }

    /// Calls `f` with every block in order, the place of its first byte in the state, and the length of its normed input.
    pub fn each_block(&self, mut f: impl FnMut(&Block<'m>, usize, usize)) {
        let all = self.walk(|block, start, input_len| {
            f(block, start, input_len);
            Ok(())
        });
        all.expect(CHECKED);
    }

    /// The same model with SSM states of another element type than the file asks for.
    ///
    /// # Panics
    /// Where this build leaves out that type: see [`StateDType::is_built`].
    #[must_use]
    pub fn with_state(mut self, dtype: StateDType) -> Self {
        assert!(dtype.is_built(), "this build leaves out states of this type");
        self.state_dtype = dtype;
        let mut state_bytes = pool_bytes(self.output());
        self.each_block(|block, _, _| state_bytes += padded_bytes(block, dtype).expect(CHECKED));
        self.state_bytes = state_bytes;
        self
    }

    /// What resolves the operands of the record at `index`.
    fn operands(&self, index: u32, before: Before) -> Operands<'_, 'm> {
        Operands { index, model: self, before }
    }

    /// Each kind of block is resolved by a function that is not inlined: its part of the stack is only there while it runs.
    fn resolve(&self, raw: &RawRecord<'m>, before: Before) -> Result<Block<'m>, ModelError> {
        let operands = self.operands(raw.index, before);
        match raw.header.tag {
            tag::SSM => operands.ssm(raw.read()?),
            tag::ATTENTION if cfg!(feature = "attention") => operands.attention(raw.read()?),
            tag::MLP if cfg!(feature = "mlp") => operands.mlp(raw.read()?),
            tag::MOE if cfg!(feature = "moe") => operands.moe(raw.read()?),
            tag::SHORT_CONV if cfg!(feature = "short-conv") => operands.short_conv(raw.read()?),
            tag::LINEAR => operands.linear_block(raw.read()?),
            tag => Err(ModelError::Record { index: raw.index, tag, version: raw.header.version }),
        }
    }

    /// The matrices of expert `e` of a mixture.
    pub fn expert(&self, moe: &Moe<'m>, e: usize) -> Expert<'m> {
        self.operands(0, Before::default()).expert(moe, e).expect(CHECKED)
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
    pub fn input(&self) -> &Input<'m> {
        self.input.as_ref().expect(CHECKED)
    }

    /// What goes out.
    pub fn output(&self) -> &Output<'m> {
        self.output.as_ref().expect(CHECKED)
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
        self.state_bytes - pool_bytes(self.output())
    }

    /// `tokenizer.json`, if the file holds one.
    pub fn tokenizer(&self) -> Option<&'m [u8]> {
        self.tokenizer
    }

    /// JSON about the model; `{}` if the file holds none.
    pub fn meta(&self) -> &'m str {
        self.meta
    }

    /// All tensors in the order of their ids, each with its name.
    pub fn tensors(&self) -> impl Iterator<Item = (&'m str, Tensor<'m>)> {
        let model = *self;
        (0..self.entries.len() as u32)
            .filter_map(move |id| Some((str::from_utf8(model.name(id)?).ok()?, model.tensor(id)?)))
    }

    /// The tensor with an id.
    #[inline(never)]
    pub(crate) fn tensor(&self, id: u32) -> Option<Tensor<'m>> {
        Tensor::read(self.bytes, self.entry(id)?)
    }

    pub(crate) fn entry(&self, id: u32) -> Option<&'m TensorEntry> {
        self.entries.get(id as usize)
    }

    fn name(&self, id: u32) -> Option<&'m [u8]> {
        let e = self.entry(id)?;
        slice_unaligned(self.names, e.name_offset.into(), e.name_bytes.into())
    }
}

/// Why `expect` cannot fail after `from_bytes`: it has resolved the same records of the same bytes.
const CHECKED: &str = "the plan was checked when the model was opened";

/// Length in bytes of a block's state, each part filled up to a multiple of 64.
#[inline(never)]
fn padded_bytes(block: &Block<'_>, dtype: StateDType) -> Option<usize> {
    let parts = block.state_parts(dtype).into_iter();
    parts.map(StatePart::padded_bytes).try_fold(0usize, |sum, bytes| sum.checked_add(bytes?))
}

/// Length in bytes of the pool's state, filled up to a multiple of 64.
fn pool_bytes(output: &Output<'_>) -> usize {
    output.pool_state().padded_bytes().expect("a vector of the residual stream has at most 2^24 elements")
}

/// Walks the records of a plan.
#[derive(Debug, Clone, Copy)]
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
pub(crate) fn slice(bytes: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
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
