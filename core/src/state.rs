//! What a stream remembers: one memory block per stream, the same bytes on every back end.
//!
//! A state is, block by block, up to four parts, each filled up with zeros to a multiple of 64 bytes:
//!
//! | block | parts |
//! |---|---|
//! | state space | convolution window `[conv_width - 1][conv_channels]`; SSM state `[heads][head_dim][d_state]`, with i8 and a decay per head followed by what rounding has left over `[heads][head_dim][ceil(d_state / 32)][16]` (see [`crate::kernels::Rests`]); with i8 its scales `[heads][head_dim][ceil(d_state / 256)]`; with a decay per head the last 16 tokens `[16][d_inner + n_groups · d_state + heads]`, each `[dt · x, B, decay]` (see [`crate::kernels::Held`]) |
//! | attention | convolution window `[conv_width - 1][channels]`; keys and values, each `[window][kv_heads][head_dim]` |
//! | short convolution | convolution window `[conv_width - 1][channels]` |
//! | pool of a frame model, after all blocks | running mean or maximum `[d_model]` |
//!
//! Windows are in time order, oldest first; the token at position `p` of the stream is held in row `p % 16`. All is f32 but the SSM state, whose elements have a [`StateDType`].
//! A snapshot is a [`SnapshotHeader`], those bytes, and the [`hash`] of both as a little-endian u64.

use crate::error::StateError;
use crate::model::Model;
use crate::{ALIGN, hash};
use bytemuck::{Pod, Zeroable};
use half::f16;

/// First bytes of a snapshot.
const MAGIC: [u8; 8] = *b"\x89SRTSTA\n";
/// Version of the layout above.
const VERSION: u32 = 3;

/// Elements of a row of the SSM state (the `d_state` elements of a channel) that share a scale with
/// [`StateDType::I8`]: in every model so far the whole row. A multiple of the lanes of a sum.
pub const STATE_GROUP: usize = 256;

/// The most tokens that a state which comes from elsewhere may have read: no stream gets there, and none that goes on from
/// there counts past the end of a u64.
pub const MAX_POSITION: u64 = 1 << 62;

/// Length of a snapshot's header in bytes.
pub const SNAPSHOT_HEADER_BYTES: usize = size_of::<SnapshotHeader>();
/// Length of a snapshot's checksum in bytes.
pub const SNAPSHOT_CHECKSUM_BYTES: usize = 8;

/// Element type of the SSM state, which is rounded to it when it is written: after every token, or after every
/// [`crate::kernels::HELD`] tokens where there is a decay per head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u32)]
pub enum StateDType {
    /// IEEE binary32.
    #[default]
    F32 = 0,
    /// IEEE binary16.
    F16 = 1,
    /// 8-bit codes, one f32 scale per row (per [`STATE_GROUP`] elements of a longer one); with a decay per head also four bits of
    /// what rounding left over: [`crate::kernels::Rests`].
    I8 = 2,
}

impl StateDType {
    /// All types, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::I8];

    /// The type with this number in a file or a snapshot, if this build has it.
    pub fn from_u32(n: u32) -> Option<Self> {
        Self::ALL.get(n as usize).copied().filter(|dtype| dtype.is_built())
    }

    /// Whether this build has it: all but f32 can be left out (see the features of this crate).
    pub const fn is_built(self) -> bool {
        matches!(self, Self::F32) || cfg!(feature = "small-states")
    }

    /// Name as on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::I8 => "i8",
        }
    }

    /// Bytes of an element, scales not counted.
    pub const fn element_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::I8 => 1,
        }
    }
}

/// A part of a block's state: equal elements, one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatePart {
    /// Type of the elements; codes without their scales with [`StateDType::I8`].
    pub dtype: StateDType,
    /// Number of elements.
    pub len: usize,
}

impl StatePart {
    /// `len` floats.
    pub(crate) fn f32(len: usize) -> Self {
        Self { dtype: StateDType::F32, len }
    }

    /// Length in bytes.
    pub fn bytes(self) -> usize {
        self.len * self.dtype.element_bytes()
    }

    /// Length in bytes, filled up to a multiple of 64; `None` where that cannot be addressed.
    pub(crate) fn padded_bytes(self) -> Option<usize> {
        self.len.checked_mul(self.dtype.element_bytes())?.checked_next_multiple_of(ALIGN)
    }

    /// Index of the first element of `bytes` that is not finite.
    fn not_finite(self, bytes: &[u8]) -> Option<usize> {
        match self.dtype {
            StateDType::F32 => bytemuck::cast_slice(bytes).iter().position(|x: &f32| !x.is_finite()),
            StateDType::F16 => bytemuck::cast_slice(bytes).iter().position(|x: &f16| !x.is_finite()),
            StateDType::I8 => None,
        }
    }
}

/// Cuts a block's parts off the front of `state`, which is of a length that the model has computed from them.
#[inline(never)]
pub(crate) fn split_parts<const N: usize>(state: &mut [u8], parts: [StatePart; N]) -> [&mut [u8]; N] {
    let mut rest = state;
    parts.map(|part| {
        // For every block of every step, so without the checks of `padded_bytes`, which a model has passed.
        let padded = part.bytes().next_multiple_of(ALIGN);
        let (bytes, left) = core::mem::take(&mut rest).split_at_mut(padded);
        rest = left;
        &mut bytes[..part.bytes()]
    })
}

/// Start of a snapshot, 64 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct SnapshotHeader {
    magic: [u8; 8],
    version: u32,
    /// A [`StateDType`].
    dtype: u32,
    /// Of the model that the state belongs to.
    fingerprint: u64,
    /// Tokens read so far.
    position: u64,
    /// Length of the state that follows, in bytes.
    state_bytes: u64,
    reserved: [u64; 3],
}

const _: () = assert!(SNAPSHOT_HEADER_BYTES == 64);

/// The state of one stream, in memory that the caller lends.
#[derive(Debug)]
pub struct State<'s> {
    fingerprint: u64,
    dtype: StateDType,
    position: u64,
    data: &'s mut [u8],
}

impl<'s> State<'s> {
    /// A stream that has read nothing.
    ///
    /// # Errors
    /// `memory` must start on a boundary of [`ALIGN`] bytes and hold `state_bytes` of [`Model::memory`].
    pub fn init(model: &Model<'_>, memory: &'s mut [u8]) -> Result<Self, StateError> {
        let mut state = Self::lend(model, memory)?;
        state.reset();
        Ok(state)
    }

    fn lend(model: &Model<'_>, memory: &'s mut [u8]) -> Result<Self, StateError> {
        let (need, have) = (model.state_bytes(), memory.len());
        let data = memory.get_mut(..need).ok_or(StateError::TooSmall { need, have })?;
        if !data.as_ptr().addr().is_multiple_of(ALIGN) {
            return Err(StateError::Misaligned);
        }
        Ok(Self { fingerprint: model.fingerprint(), dtype: model.state_dtype(), position: 0, data })
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.position = 0;
        self.data.fill(0);
    }

    /// Number of tokens read since the last reset.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Fingerprint of the model that the state belongs to.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Element type of the SSM state.
    pub fn dtype(&self) -> StateDType {
        self.dtype
    }

    /// The state itself, laid out as this module's page says.
    pub fn data(&self) -> &[u8] {
        self.data
    }

    /// Hash of the state: equal states have equal hashes on every back end.
    pub fn hash(&self) -> u64 {
        hash(self.data)
    }

    /// Takes the place of a state of the same model that has read `position` tokens and that `fill` writes, as another
    /// device hands it over.
    ///
    /// # Errors
    /// [`StateError::Position`] above [`MAX_POSITION`]; the state is then as it was. Those of `fill`; the state is then that
    /// of a stream that has read nothing.
    pub fn replace<E: From<StateError>>(
        &mut self,
        position: u64,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        check_position(position)?;
        let filled = fill(self.data);
        match filled {
            Ok(()) => self.position = position,
            Err(_) => self.reset(),
        }
        filled
    }

    /// For the step: the state, to be written.
    pub(crate) fn data_mut(&mut self) -> &mut [u8] {
        self.data
    }

    /// For the step: `count` tokens have been read.
    pub(crate) fn advance(&mut self, count: usize) {
        self.position += count as u64;
    }

    /// Length of a snapshot of any state of `model`, in bytes: header, state and checksum.
    pub fn snapshot_bytes(model: &Model<'_>) -> usize {
        SNAPSHOT_HEADER_BYTES + model.state_bytes() + SNAPSHOT_CHECKSUM_BYTES
    }

    /// Writes a snapshot to the start of `out` and returns its length in bytes.
    ///
    /// # Errors
    /// [`StateError::TooSmall`] if `out` is shorter than [`State::snapshot_bytes`].
    pub fn save(&self, out: &mut [u8]) -> Result<usize, StateError> {
        let (have, end) = (out.len(), SNAPSHOT_HEADER_BYTES + self.data.len());
        let need = end + SNAPSHOT_CHECKSUM_BYTES;
        let out = out.get_mut(..need).ok_or(StateError::TooSmall { need, have })?;
        let header = SnapshotHeader {
            magic: MAGIC,
            version: VERSION,
            dtype: self.dtype as u32,
            fingerprint: self.fingerprint,
            position: self.position,
            state_bytes: self.data.len() as u64,
            reserved: [0; 3],
        };
        out[..SNAPSHOT_HEADER_BYTES].copy_from_slice(bytemuck::bytes_of(&header));
        out[SNAPSHOT_HEADER_BYTES..end].copy_from_slice(self.data);
        let checksum = hash(&out[..end]);
        out[end..].copy_from_slice(&checksum.to_le_bytes());
        Ok(need)
    }

    /// Element type of the state in a snapshot, which says what to open it with: [`Model::with_state`].
    ///
    /// # Errors
    /// If `snapshot` does not begin as a snapshot of a known version and type does.
    pub fn snapshot_dtype(snapshot: &[u8]) -> Result<StateDType, StateError> {
        let length = StateError::Length { need: SNAPSHOT_HEADER_BYTES, have: snapshot.len() };
        let header = snapshot.get(..SNAPSHOT_HEADER_BYTES).ok_or(length)?;
        SnapshotHeader::check(header).map(|(_, dtype)| dtype)
    }

    /// Goes on from a snapshot that any back end has written. `snapshot` need not be aligned.
    ///
    /// # Errors
    /// As [`State::init`], and for a snapshot that is damaged, of another model or type, not finite, or of a position above
    /// [`MAX_POSITION`].
    pub fn load(model: &Model<'_>, snapshot: &[u8], memory: &'s mut [u8]) -> Result<Self, StateError> {
        let mut state = Self::lend(model, memory)?;
        let (need, have) = (Self::snapshot_bytes(model), snapshot.len());
        let length = StateError::Length { need, have };
        let (header, dtype) = SnapshotHeader::check(snapshot.get(..SNAPSHOT_HEADER_BYTES).ok_or(length)?)?;
        if header.fingerprint != state.fingerprint {
            return Err(StateError::OtherModel(header.fingerprint));
        }
        if dtype != state.dtype {
            return Err(StateError::OtherDType { need: state.dtype, have: dtype });
        }
        if have != need {
            return Err(length);
        }
        let (body, checksum) = snapshot.split_at(need - SNAPSHOT_CHECKSUM_BYTES);
        if hash(body).to_le_bytes() != checksum {
            return Err(StateError::Checksum);
        }
        let stated = usize::try_from(header.state_bytes).unwrap_or(usize::MAX);
        if stated != state.data.len() {
            return Err(StateError::Length { need: state.data.len(), have: stated });
        }
        check_position(header.position)?;
        state.data.copy_from_slice(&body[SNAPSHOT_HEADER_BYTES..]);
        if let Some(at) = state.not_finite(model) {
            state.reset();
            return Err(StateError::NotFinite(at));
        }
        state.position = header.position;
        Ok(state)
    }

    /// Place in bytes of the first element that is not finite.
    fn not_finite(&mut self, model: &Model<'_>) -> Option<usize> {
        let mut found = None;
        model.each_block(|block, start, _| {
            let parts = block.state_parts(self.dtype);
            let mut at = start;
            for (part, bytes) in parts.into_iter().zip(split_parts(&mut self.data[start..], parts)) {
                let i = part.not_finite(bytes);
                found = found.or(i.map(|i| at + i * part.dtype.element_bytes()));
                at += part.padded_bytes().unwrap_or(0);
            }
        });
        if found.is_some() {
            return found;
        }
        let (pool, start) = (model.output().pool_state(), model.pool_start());
        pool.not_finite(&self.data[start..start + pool.bytes()]).map(|i| start + 4 * i)
    }
}

fn check_position(position: u64) -> Result<(), StateError> {
    if position <= MAX_POSITION { Ok(()) } else { Err(StateError::Position(position)) }
}

impl SnapshotHeader {
    /// The header and the element type that it states, if this build knows both.
    fn check(bytes: &[u8]) -> Result<(Self, StateDType), StateError> {
        let header: Self = bytemuck::pod_read_unaligned(bytes);
        if header.magic != MAGIC {
            return Err(StateError::Magic);
        }
        if header.version != VERSION {
            return Err(StateError::Version(header.version));
        }
        let dtype = StateDType::from_u32(header.dtype).ok_or(StateError::DType(header.dtype))?;
        Ok((header, dtype))
    }
}
