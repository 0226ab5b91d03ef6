//! What a stream remembers: one memory block per stream, the same bytes on every back end.
//!
//! A state is, block by block, the convolution window `[conv_width - 1][conv_channels]` in time order (oldest
//! first) and the SSM state `[heads][head_dim][d_state]`, f32, each filled up with zeros to a multiple of 64 bytes.
//! A snapshot is a [`SnapshotHeader`], those bytes, and the [`hash`] of both as a little-endian u64.

use crate::error::StateError;
use crate::model::Model;
use crate::{ALIGN, hash};
use bytemuck::{Pod, Zeroable};

/// First bytes of a snapshot.
const MAGIC: [u8; 8] = *b"\x89SRTSTA\n";
/// Version of the layout above.
const VERSION: u32 = 1;
/// Element type of the SSM state: f32.
const DTYPE_F32: u32 = 0;

/// Length of a snapshot's header in bytes.
pub const SNAPSHOT_HEADER_BYTES: usize = size_of::<SnapshotHeader>();
/// Length of a snapshot's checksum in bytes.
pub const SNAPSHOT_CHECKSUM_BYTES: usize = 8;

/// Start of a snapshot, 64 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct SnapshotHeader {
    magic: [u8; 8],
    version: u32,
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
    position: u64,
    data: &'s mut [f32],
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
        let (need, have) = (model.state_len() * 4, memory.len());
        let memory = memory.get_mut(..need).ok_or(StateError::TooSmall { need, have })?;
        if !memory.as_ptr().addr().is_multiple_of(ALIGN) {
            return Err(StateError::Misaligned);
        }
        Ok(Self { fingerprint: model.fingerprint(), position: 0, data: bytemuck::cast_slice_mut(memory) })
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.position = 0;
        self.data.fill(0.0);
    }

    /// Number of tokens read since the last reset.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Fingerprint of the model that the state belongs to.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The elements, laid out as this module's page says.
    pub fn data(&self) -> &[f32] {
        self.data
    }

    /// Hash of the elements: equal states have equal hashes on every back end.
    pub fn hash(&self) -> u64 {
        hash(bytemuck::cast_slice(self.data))
    }

    /// Takes the place of a state of the same model that has read `position` tokens and that `fill` writes, as another
    /// device hands it over.
    ///
    /// # Errors
    /// Those of `fill`; the state is then that of a stream that has read nothing.
    pub fn replace<E>(
        &mut self,
        position: u64,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let filled = fill(bytemuck::cast_slice_mut(self.data));
        match filled {
            Ok(()) => self.position = position,
            Err(_) => self.reset(),
        }
        filled
    }

    /// For the step: the elements, to be written.
    pub(crate) fn data_mut(&mut self) -> &mut [f32] {
        self.data
    }

    /// For the step: `count` tokens have been read.
    pub(crate) fn advance(&mut self, count: usize) {
        self.position += count as u64;
    }

    /// Length of a snapshot of any state of `model`, in bytes: header, state and checksum.
    pub fn snapshot_bytes(model: &Model<'_>) -> usize {
        SNAPSHOT_HEADER_BYTES + model.state_len() * 4 + SNAPSHOT_CHECKSUM_BYTES
    }

    /// Writes a snapshot to the start of `out` and returns its length in bytes.
    ///
    /// # Errors
    /// [`StateError::TooSmall`] if `out` is shorter than [`State::snapshot_bytes`].
    pub fn save(&self, out: &mut [u8]) -> Result<usize, StateError> {
        let state: &[u8] = bytemuck::cast_slice(self.data);
        let (have, end) = (out.len(), SNAPSHOT_HEADER_BYTES + state.len());
        let need = end + SNAPSHOT_CHECKSUM_BYTES;
        let out = out.get_mut(..need).ok_or(StateError::TooSmall { need, have })?;
        let header = SnapshotHeader {
            magic: MAGIC,
            version: VERSION,
            dtype: DTYPE_F32,
            fingerprint: self.fingerprint,
            position: self.position,
            state_bytes: state.len() as u64,
            reserved: [0; 3],
        };
        out[..SNAPSHOT_HEADER_BYTES].copy_from_slice(bytemuck::bytes_of(&header));
        out[SNAPSHOT_HEADER_BYTES..end].copy_from_slice(state);
        let checksum = hash(&out[..end]);
        out[end..].copy_from_slice(&checksum.to_le_bytes());
        Ok(need)
    }

    /// Goes on from a snapshot that any back end has written. `snapshot` need not be aligned.
    ///
    /// # Errors
    /// As [`State::init`], and for a snapshot that is damaged, of another model, or not finite.
    pub fn load(model: &Model<'_>, snapshot: &[u8], memory: &'s mut [u8]) -> Result<Self, StateError> {
        let state = Self::lend(model, memory)?;
        let (need, have) = (Self::snapshot_bytes(model), snapshot.len());
        let length = StateError::Length { need, have };
        let header: SnapshotHeader =
            bytemuck::pod_read_unaligned(snapshot.get(..SNAPSHOT_HEADER_BYTES).ok_or(length)?);
        if header.magic != MAGIC {
            return Err(StateError::Magic);
        }
        if header.version != VERSION {
            return Err(StateError::Version(header.version));
        }
        if header.dtype != DTYPE_F32 {
            return Err(StateError::DType(header.dtype));
        }
        if header.fingerprint != model.fingerprint() {
            return Err(StateError::OtherModel(header.fingerprint));
        }
        if have != need || header.state_bytes != model.state_len() as u64 * 4 {
            return Err(length);
        }
        let (body, checksum) = snapshot.split_at(need - SNAPSHOT_CHECKSUM_BYTES);
        if hash(body).to_le_bytes() != checksum {
            return Err(StateError::Checksum);
        }
        let Self { fingerprint, data, .. } = state;
        bytemuck::cast_slice_mut(data).copy_from_slice(&body[SNAPSHOT_HEADER_BYTES..]);
        if let Some(i) = data.iter().position(|x| !x.is_finite()) {
            data.fill(0.0);
            return Err(StateError::NotFinite(i));
        }
        Ok(Self { fingerprint, position: header.position, data })
    }
}
