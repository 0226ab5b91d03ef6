//! A model on a device with the states of its streams: what a user of this crate works with.

use crate::device::Device;
use crate::error::CudaError;
use crate::program::{
    Ahead, Params, Program, Programs, Prompts, SHARED_BYTES, SamplingOf, Sequence, TOP_K_MOST,
};
use bytemuck::Pod;
use sarit_core::{Model, Sampling, State, StateDType, StepError};
use std::ops::Range;

/// Tokens that a stream may choose in one launch.
const STEPS: usize = 32;
/// Tokens that end a text, at most.
const STOP_TOKENS: usize = 64;
/// Logits of so many tokens are made at once.
const LOGIT_ROWS: usize = 16;
/// Words that the blocks of a launch share.
const CONTROL_BYTES: usize = 64;

/// Bytes on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// The model file; nothing where the device reads the host's memory.
    pub model_bytes: usize,
    /// All streams' states.
    pub state_bytes: usize,
    /// Working memory, programs and messages.
    pub scratch_bytes: usize,
}

impl DeviceMemory {
    /// All of it.
    pub fn total(&self) -> usize {
        self.model_bytes + self.state_bytes + self.scratch_bytes
    }

    /// What `model` needs with so many streams that read up to `chunk` tokens at once, on a device that runs `grid`
    /// blocks at the same time and has a copy of the model; where attention has no part in it, the number of blocks
    /// changes nothing.
    ///
    /// # Errors
    /// If the kernels cannot run the model.
    pub fn of(
        model: &Model<'_>,
        streams: usize,
        chunk: usize,
        grid: usize,
        prompts: Prompts,
    ) -> Result<Self, CudaError> {
        let rows = chunk.max(streams);
        let logit_rows = logit_rows(streams, rows);
        let programs = Programs::new(model, streams, rows, logit_rows, grid, SHARED_BYTES, prompts)?;
        Ok(Self::needed(model, streams, rows, &programs))
    }

    fn needed(model: &Model<'_>, streams: usize, rows: usize, programs: &Programs) -> Self {
        Self {
            model_bytes: model.file_bytes(),
            state_bytes: model.state_bytes() * streams,
            scratch_bytes: programs.scratch_bytes + code(programs).0.len() + Mail::new(streams, rows).end,
        }
    }
}

/// Rows whose logits are made at once.
fn logit_rows(streams: usize, rows: usize) -> usize {
    LOGIT_ROWS.min(rows).max(streams)
}

/// What a stream is asked to go on with.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Which stream.
    pub stream: usize,
    /// The token that it reads first.
    pub token: u32,
    /// How it chooses.
    pub sampling: Sampling,
}

/// Places in the buffer of messages, in bytes: from `sequences` to the end of `sampling` goes to the device, from
/// `sampling` to the end of `chosen` comes back.
#[derive(Debug, Clone, Copy)]
struct Mail {
    sequences: usize,
    tokens: usize,
    stop: usize,
    sampling: usize,
    chosen: usize,
    best: usize,
    histogram: usize,
    control: usize,
    end: usize,
}

impl Mail {
    fn new(streams: usize, rows: usize) -> Self {
        let mut end = 0usize;
        let mut take = |bytes: usize| {
            let start = end;
            end += bytes.next_multiple_of(64);
            start
        };
        let sequences = take(streams * size_of::<Sequence>());
        let tokens = take(4 * rows);
        let stop = take(4 * STOP_TOKENS);
        let sampling = take(streams * size_of::<SamplingOf>());
        let chosen = take(4 * STEPS * streams);
        let best = take(8 * streams);
        let histogram = take(4 * 4 * 256 * streams);
        let control = take(CONTROL_BYTES);
        Self { sequences, tokens, stop, sampling, chosen, best, histogram, control, end }
    }
}

/// Which program runs, in the order in which they lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProgramKind {
    One,
    Steps,
    Many,
    Halves,
}

/// A launch; the letter holds the sequences, tokens, samplings and stop tokens.
struct Launch {
    kind: ProgramKind,
    /// Of the program.
    ops: Range<usize>,
    sequences: usize,
    /// Tokens of each sequence.
    count: usize,
    steps: usize,
    /// Rows whose logits are made.
    head: Range<usize>,
    stop: usize,
    sampled: bool,
}

impl Launch {
    /// Of so many sequences with so many tokens each: one step of nothing, without logits.
    fn new(sequences: usize, count: usize) -> Self {
        let kind = match (sequences, count) {
            (0 | 1, 1) => ProgramKind::One,
            (_, 1) => ProgramKind::Steps,
            _ => ProgramKind::Many,
        };
        Self { kind, ops: 0..0, sequences, count, steps: 1, head: 0..0, stop: 0, sampled: false }
    }
}

/// `count` elements of the letter from byte `start` on.
fn part<T: Pod>(letter: &mut [u64], start: usize, count: usize) -> &mut [T] {
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(letter);
    bytemuck::cast_slice_mut(&mut bytes[start..start + count * size_of::<T>()])
}

/// A model on a device, and its streams. Steps allocate nothing on the device.
pub struct Streams<'m, D: Device> {
    device: D,
    model: Model<'m>,
    programs: Programs,
    prompts: Prompts,
    /// Blocks for one row, and for many.
    grids: [usize; 2],
    weights: D::Model<'m>,
    states: D::Buffer,
    scratch: D::Buffer,
    /// Each program's operations, then its tables.
    code: D::Buffer,
    code_starts: [[usize; 2]; 4],
    mail: D::Buffer,
    mail_layout: Mail,
    /// Messages as they go out and come back.
    letter: Vec<u64>,
    positions: Vec<u64>,
    /// Operations of all launches of one row so far.
    turn: u32,
    chunk: usize,
    rows: usize,
    logit_rows: usize,
    logits: Vec<f32>,
    memory: DeviceMemory,
}

impl Programs {
    fn of(&self, kind: ProgramKind) -> Option<&Program> {
        match kind {
            ProgramKind::One => Some(&self.one),
            ProgramKind::Steps => self.steps.as_ref(),
            ProgramKind::Many => Some(&self.many),
            ProgramKind::Halves => self.halves.as_ref(),
        }
    }
}

impl<'m, D: Device> Streams<'m, D> {
    /// The most tokens that may end a text.
    pub const STOP_MOST: usize = STOP_TOKENS;

    /// Brings `model` to `device`, with memory for `streams` streams that read up to `chunk` tokens at once. All has the bits of
    /// [`sarit_core::Scalar`].
    ///
    /// # Errors
    /// If the device has too little memory, or the kernels cannot run the model.
    pub fn new(device: D, model: Model<'m>, streams: usize, chunk: usize) -> Result<Self, CudaError> {
        Self::with_prompts(device, model, streams, chunk, Prompts::Exact)
    }

    /// The same, with prompts read as `prompts` says.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_prompts(
        mut device: D,
        model: Model<'m>,
        streams: usize,
        chunk: usize,
        prompts: Prompts,
    ) -> Result<Self, CudaError> {
        if streams == 0 || chunk == 0 {
            return Err(CudaError::Empty);
        }
        if model.state_dtype() != StateDType::F32 {
            return Err(CudaError::StateType(model.state_dtype().name()));
        }
        let rows = chunk.max(streams);
        let logit_rows = logit_rows(streams, rows);
        // Scores lie in scratch for each block, so the grid comes first; it depends on the shared memory only.
        let most = device.shared_bytes()?;
        let programs = |grid: usize| Programs::new(&model, streams, rows, logit_rows, grid, most, prompts);
        let any_grid = programs(1)?;
        let [one, many] = any_grid.blocks();
        device.load(&any_grid.dispatch)?;
        let grids = [device.grid(false, one)?, device.grid(true, many)?];
        let programs = programs(grids[0].max(grids[1]))?;
        let mail_layout = Mail::new(streams, rows);

        let (code, code_starts) = code(&programs);
        let weights = device.model(model.bytes())?;
        let memory = DeviceMemory {
            model_bytes: device.model_bytes(&weights),
            ..DeviceMemory::needed(&model, streams, rows, &programs)
        };
        let mut states = device.allocate(memory.state_bytes.max(64))?;
        device.clear(&mut states, 0, memory.state_bytes)?;
        let mut scratch = device.allocate(programs.scratch_bytes)?;
        device.clear(&mut scratch, programs.posted_bytes.start, programs.posted_bytes.len())?;
        let mut mail = device.allocate(mail_layout.end)?;
        device.clear(&mut mail, 0, mail_layout.end)?;
        let mut code_buffer = device.allocate(code.len())?;
        device.write(&mut code_buffer, 0, &code)?;
        Ok(Self {
            letter: vec![0; mail_layout.best / 8],
            positions: vec![0; streams],
            turn: 1,
            logits: vec![0.0; logit_rows * model.vocab_len()],
            code: code_buffer,
            device,
            model,
            programs,
            prompts,
            grids,
            weights,
            states,
            scratch,
            code_starts,
            mail,
            mail_layout,
            chunk,
            rows,
            logit_rows,
            memory,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model<'m> {
        &self.model
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Memory on the device.
    pub fn memory(&self) -> DeviceMemory {
        self.memory
    }

    /// Number of streams.
    pub fn count(&self) -> usize {
        self.positions.len()
    }

    /// Tokens that a stream has read.
    pub fn position(&self, stream: usize) -> u64 {
        self.positions[stream]
    }

    /// Makes a stream forget everything.
    ///
    /// # Errors
    /// If the device has failed.
    pub fn reset(&mut self, stream: usize) -> Result<(), CudaError> {
        let bytes = self.model.state_bytes();
        self.positions[stream] = 0;
        self.device.clear(&mut self.states, stream * bytes, bytes)
    }

    /// Lets a stream go on from `state`, which any back end may have made.
    ///
    /// # Errors
    /// [`StepError::OtherState`] for a state of another model.
    pub fn import(&mut self, stream: usize, state: &State<'_>) -> Result<(), CudaError> {
        self.check_state(state)?;
        let bytes = state.data();
        self.device.write(&mut self.states, stream * bytes.len(), bytes)?;
        self.positions[stream] = state.position();
        Ok(())
    }

    /// Takes a stream's state into `state`, with which any back end can go on.
    ///
    /// # Errors
    /// [`StepError::OtherState`] for a state of another model.
    pub fn export(&self, stream: usize, state: &mut State<'_>) -> Result<(), CudaError> {
        self.check_state(state)?;
        let bytes = self.model.state_bytes();
        let fill = |data: &mut [u8]| self.device.read(&self.states, stream * bytes, data);
        state.replace(self.positions[stream], fill)
    }

    /// Reads tokens without making logits.
    ///
    /// # Errors
    /// For a token outside the vocabulary, before anything is read; if the device has failed.
    pub fn feed(&mut self, stream: usize, tokens: &[u32]) -> Result<(), CudaError> {
        self.check(tokens)?;
        for part in tokens.chunks(self.chunk) {
            self.read_part(stream, part)?;
        }
        Ok(())
    }

    /// Reads tokens and calls `each(i, logits)` after every one; logits are `[vocab]`.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn feed_each(
        &mut self,
        stream: usize,
        tokens: &[u32],
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<(), CudaError> {
        self.check(tokens)?;
        let (vocab, mut i) = (self.model.vocab_len(), 0);
        for part in tokens.chunks(self.chunk) {
            self.read_part(stream, part)?;
            let launch = Launch::new(1, part.len());
            let program = self.program(launch.kind);
            let ops = program.body..program.head;
            for start in (0..part.len()).step_by(self.logit_rows) {
                let head = start..part.len().min(start + self.logit_rows);
                let count = head.len();
                self.launch(&Launch { ops: ops.clone(), head, ..launch })?;
                self.read_logits(count)?;
                for logits in self.logits.chunks_exact(vocab).take(count) {
                    each(i, logits);
                    i += 1;
                }
            }
        }
        Ok(())
    }

    /// Reads one token and returns the logits `[vocab]` of the next.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn step(&mut self, stream: usize, token: u32) -> Result<&mut [f32], CudaError> {
        self.step_all(&[(stream, token)])
    }

    /// Reads one token of each stream named, all at once; returns their logits `[streams][vocab]`: none, and nothing is
    /// read, if none is named.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    ///
    /// # Panics
    /// If a stream is named twice, or more than there are.
    pub fn step_all(&mut self, tokens: &[(usize, u32)]) -> Result<&mut [f32], CudaError> {
        self.address(tokens.iter().copied())?;
        let launch = Launch::new(tokens.len(), 1);
        let ops = 0..self.program(launch.kind).head;
        self.launch(&Launch { ops, head: 0..tokens.len(), ..launch })?;
        tokens.iter().for_each(|&(stream, _)| self.positions[stream] += 1);
        self.read_logits(tokens.len())?;
        Ok(&mut self.logits[..tokens.len() * self.model.vocab_len()])
    }

    /// Waits until all that was launched is done.
    ///
    /// # Errors
    /// If the device has failed.
    pub fn wait(&self) -> Result<(), CudaError> {
        self.device.wait()
    }

    /// Whether the device can choose tokens so.
    pub fn can_choose(&self, sampling: &Sampling) -> bool {
        let most = TOP_K_MOST.min(self.model.vocab_len() - 1);
        sampling.temperature == 0.0 || (1..=most).contains(&sampling.top_k)
    }

    /// Lets the streams choose up to `tokens` tokens each, on the device; returns them.
    ///
    /// A lone stream ends with the first token of `stop`, which is the last one returned and is not read. Several go on
    /// until each has `tokens`. The requests' seeds become those with which their samplers would go on.
    ///
    /// # Errors
    /// For a token outside the vocabulary, or a way of choosing that the device lacks; if the device has failed.
    ///
    /// # Panics
    /// If a stream is named twice, or more than there are; with more than 64 stop tokens.
    pub fn generate(
        &mut self,
        requests: &mut [Request],
        tokens: usize,
        stop: &[u32],
    ) -> Result<Vec<Vec<u32>>, CudaError> {
        assert!(stop.len() <= Self::STOP_MOST);
        if !requests.iter().all(|request| self.can_choose(&request.sampling)) {
            return Err(CudaError::Sampling(TOP_K_MOST));
        }
        let step_len = requests.len();
        let mut all = vec![Vec::with_capacity(tokens); step_len];
        for start in (0..tokens).step_by(STEPS) {
            let steps = STEPS.min(tokens - start);
            self.address(requests.iter().map(|request| (request.stream, request.token)))?;
            let at = self.mail_layout;
            let samplings: &mut [SamplingOf] = part(&mut self.letter, at.sampling, requests.len());
            for (sampling, request) in samplings.iter_mut().zip(requests.iter()) {
                *sampling = sampling_of(&request.sampling);
            }
            part(&mut self.letter, at.stop, stop.len()).copy_from_slice(stop);
            let launch = Launch::new(requests.len(), 1);
            self.launch(&Launch {
                ops: 0..self.program(launch.kind).ops.len(),
                head: 0..requests.len(),
                steps,
                stop: stop.len(),
                sampled: requests.iter().any(|request| request.sampling.temperature != 0.0),
                ..launch
            })?;
            let came_back: &mut [u8] = part(&mut self.letter, at.sampling, at.best - at.sampling);
            self.device.read(&self.mail, at.sampling, came_back)?;
            for (i, request) in requests.iter_mut().enumerate() {
                let drawn: &[SamplingOf] = part(&mut self.letter, at.sampling, i + 1);
                request.sampling.seed = drawn[i].random;
            }
            let chosen: &[u32] = part(&mut self.letter, at.chosen, steps * requests.len());
            let lone = requests.len() == 1;
            let done = chosen.iter().position(|token| lone && stop.contains(token));
            let steps = done.map_or(steps, |i| i + 1);
            for (s, (request, all)) in requests.iter_mut().zip(&mut all).enumerate() {
                all.extend(chosen.chunks_exact(step_len).take(steps).map(|step| step[s]));
                request.token = *all.last().expect("a step");
                self.positions[request.stream] += steps as u64;
            }
            if done.is_some() {
                break;
            }
        }
        Ok(all)
    }

    fn check_state(&self, state: &State<'_>) -> Result<(), CudaError> {
        let own = (self.model.fingerprint(), self.model.state_dtype());
        if (state.fingerprint(), state.dtype()) == own { Ok(()) } else { Err(StepError::OtherState.into()) }
    }

    fn check(&self, tokens: &[u32]) -> Result<(), CudaError> {
        let vocab = self.model.vocab_len();
        match tokens.iter().find(|&&token| token as usize >= vocab) {
            Some(&token) => Err(StepError::TokenOutOfRange { token, vocab: vocab as u32 }.into()),
            None => Ok(()),
        }
    }

    /// Writes which streams are meant, each with one token, into the letter.
    fn address(&mut self, tokens: impl Iterator<Item = (usize, u32)> + Clone) -> Result<(), CudaError> {
        let vocab = self.model.vocab_len() as u32;
        let at = self.mail_layout;
        for (i, (stream, token)) in tokens.enumerate() {
            if token >= vocab {
                return Err(StepError::TokenOutOfRange { token, vocab }.into());
            }
            let position = self.positions[stream];
            let sequences: &mut [Sequence] = part(&mut self.letter, at.sequences, i + 1);
            let slot = stream as u32;
            assert!(sequences[..i].iter().all(|other| other.slot != slot), "a stream is named twice");
            sequences[i] = Sequence { position, slot, reserved: 0 };
            part(&mut self.letter, at.tokens, i + 1)[i] = token;
        }
        Ok(())
    }

    fn program(&self, kind: ProgramKind) -> &Program {
        self.programs.of(kind).expect("launches are of programs that there are")
    }

    /// Takes at most a chunk of valid tokens through all blocks.
    fn read_part(&mut self, stream: usize, tokens: &[u32]) -> Result<(), CudaError> {
        self.address(std::iter::once((stream, tokens[0])))?;
        part(&mut self.letter, self.mail_layout.tokens, tokens.len()).copy_from_slice(tokens);
        let mut launch = Launch::new(1, tokens.len());
        if let Prompts::Halves { least } = self.prompts
            && tokens.len() >= least.max(2)
        {
            launch.kind = ProgramKind::Halves;
        }
        launch.ops = 0..self.program(launch.kind).body;
        self.launch(&launch)?;
        self.positions[stream] += tokens.len() as u64;
        Ok(())
    }

    fn read_logits(&mut self, rows: usize) -> Result<(), CudaError> {
        let logits = &mut self.logits[..rows * self.model.vocab_len()];
        self.device.read(&self.scratch, 4 * self.programs.logits, bytemuck::cast_slice_mut(logits))
    }

    fn launch(&mut self, l: &Launch) -> Result<(), CudaError> {
        let rows = l.sequences * l.count;
        assert!(rows <= self.rows && l.sequences <= self.positions.len());
        if rows == 0 {
            return Ok(());
        }
        let many = l.kind != ProgramKind::One;
        let shared = self.programs.shared[usize::from(many)];
        let at = self.mail_layout;
        self.device.write(&mut self.mail, 0, part(&mut self.letter, 0, at.chosen))?;
        let over = if l.sampled { 0..0 } else { self.program(l.kind).sampling_ops() };
        let [ops, tables] = self.code_starts[l.kind as usize].map(|start| start as u64);
        let code = self.device.address(&self.code);
        let mail = |start: usize| self.device.address(&self.mail) + start as u64;
        let params = Params {
            model: self.device.model_address(&self.weights),
            states: self.device.address(&self.states),
            scratch: self.device.address(&self.scratch),
            ops: code + ops,
            tables: code + tables,
            sequences: mail(at.sequences),
            control: mail(at.control),
            tokens: mail(at.tokens),
            chosen: mail(at.chosen),
            best: mail(at.best),
            histogram: mail(at.histogram),
            sampling: mail(at.sampling),
            stop: mail(at.stop),
            state_len: self.model.state_bytes() as u64 / 4,
            first: l.ops.start as u32,
            last: l.ops.end as u32,
            sequence_count: l.sequences as u32,
            count: l.count as u32,
            steps: l.steps as u32,
            stop_count: l.stop as u32,
            head_row: l.head.start as u32,
            head_count: l.head.len() as u32,
            shared_floats: shared.floats as u32,
            shared_groups: shared.groups as u32,
            ahead: if many { Ahead::NONE } else { self.programs.ring.of(&l.ops) },
            over_first: over.start as u32,
            over_end: over.end as u32,
            turn: self.turn,
        };
        if !many {
            self.turn = self.turn.wrapping_add((l.ops.len() * l.steps) as u32);
        }
        // SAFETY: the buffers were made for these programs, and the launch has no more rows and streams than they hold.
        // `drop` waits for it.
        unsafe {
            self.device.run(
                many,
                self.grids[usize::from(many)],
                self.programs.blocks()[usize::from(many)],
                &params,
            )
        }
    }
}

impl<D: Device> Drop for Streams<'_, D> {
    /// The kernels, and what they read and write, must stay until they are done.
    fn drop(&mut self) {
        // On a device that has failed nothing runs.
        let _ = self.device.wait();
    }
}

/// Operations of each program followed by its tables, and where each starts in bytes.
fn code(programs: &Programs) -> (Vec<u8>, [[usize; 2]; 4]) {
    let mut code: Vec<u8> = Vec::new();
    let all = [ProgramKind::One, ProgramKind::Steps, ProgramKind::Many, ProgramKind::Halves];
    let starts = all.map(|kind| {
        let Some(program) = programs.of(kind) else { return [0; 2] };
        let parts: [&[u8]; 2] = [bytemuck::cast_slice(&program.ops), bytemuck::cast_slice(&program.tables)];
        parts.map(|part| {
            code.resize(code.len().next_multiple_of(64), 0);
            let start = code.len();
            code.extend_from_slice(part);
            start
        })
    });
    (code, starts)
}

fn sampling_of(s: &Sampling) -> SamplingOf {
    SamplingOf {
        random: s.seed,
        temperature: s.temperature,
        top_p: s.top_p,
        top_k: s.top_k as u32,
        reserved: 0,
    }
}
