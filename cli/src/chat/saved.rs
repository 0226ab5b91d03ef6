//! A conversation in files: the state, as `sarit read` writes states, and beside it a JSON file with the text.

use super::conversation::Conversation;
use crate::input;
use crate::session::{Memory, read_snapshot};
use anyhow::{Context, Result, ensure};
use sarit_core::{Engine, Kernels, Model, State};
use sarit_quant::atomic;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The longest text of a conversation, in bytes.
const LIMIT: u64 = 64 << 20;
/// Version of the JSON file.
const VERSION: u32 = 1;

/// A conversation to go on with.
pub(crate) struct Saved {
    pub(crate) snapshot: Vec<u8>,
    pub(crate) conversation: Conversation,
}

/// The JSON file: the conversation, and which state it belongs to.
#[derive(Serialize, Deserialize)]
struct Sidecar {
    version: u32,
    /// Hash of the state, 16 hex digits.
    state_hash: String,
    conversation: Conversation,
}

impl Saved {
    pub(crate) fn write(
        model: &Model<'_>,
        state: &State<'_>,
        conversation: &Conversation,
        path: &Path,
    ) -> Result<()> {
        let mut snapshot = vec![0; State::snapshot_bytes(model)];
        state.save(&mut snapshot)?;
        let state_hash = format!("{:016x}", state.hash());
        let sidecar = Sidecar { version: VERSION, state_hash, conversation: conversation.clone() };
        let text = serde_json::to_vec(&sidecar)?;
        let beside = beside(path);
        let cannot = |path: &Path| format!("cannot write {}", path.display());
        let prepare = |path: &Path, bytes: &[u8]| {
            atomic::prepare(path, |file| file.write_all(bytes)).with_context(|| cannot(path))
        };
        // Both are on disk before either replaces one of an older pair.
        let ((state, ()), (sidecar, ())) = (prepare(path, &snapshot)?, prepare(&beside, &text)?);
        state.commit().with_context(|| cannot(path))?;
        sidecar.commit().with_context(|| cannot(&beside))
    }

    /// The conversation at `path`, whole and of the engine's model.
    pub(crate) fn read<K: Kernels>(engine: &Engine<'_, K>, path: &Path) -> Result<Self> {
        Self::of(engine, path, read_snapshot(engine.model(), path)?)
    }

    /// The same, of which the bytes of the state file at `path` have been read.
    pub(crate) fn of<K: Kernels>(engine: &Engine<'_, K>, path: &Path, snapshot: Vec<u8>) -> Result<Self> {
        let cannot = || format!("cannot go on from {}", path.display());
        let mut memory = Memory::on_cpu(engine.model(), 1)?;
        let state_hash = memory.resume(engine, &snapshot).with_context(cannot)?.state()?.hash();

        let beside = beside(path);
        ensure!(
            beside.exists(),
            "{} holds a text and no conversation ({} is missing); ask about it with `sarit ask --state`",
            path.display(),
            beside.display()
        );
        let unreadable = || format!("{} is not a conversation that Sarit has saved", beside.display());
        let text = input::text(&beside, LIMIT)?;
        let sidecar: Sidecar = serde_json::from_str(&text).with_context(unreadable)?;
        ensure!(sidecar.version == VERSION, "{} is of a newer Sarit; use that one", beside.display());
        ensure!(
            sidecar.state_hash == format!("{state_hash:016x}"),
            "{} and {} were not saved together; load the pair that was",
            path.display(),
            beside.display()
        );
        sidecar.conversation.check().with_context(unreadable)?;
        Ok(Self { snapshot, conversation: sidecar.conversation })
    }
}

/// The JSON file beside the state at `path`.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".json");
    PathBuf::from(name)
}
