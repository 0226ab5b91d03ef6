//! A model file, what it runs on, and one stream with its memory.

use crate::args::{Backend, Compute};
use crate::extract::Answer;
use anyhow::{Context, Result, anyhow, ensure};
use sarit_core::{
    Engine, Kernels, Model, ModelError, Sampler, Sampling, Scratch, State, StateDType, StateError, StepError,
};
use sarit_cpu::{AlignedBytes, Cpu, Isa, Mapped};
use sarit_cuda::{Cuda, Request, Streams};
use serde::Deserialize;
use serde_json::Value;
use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::path::Path;

/// Tokens that are read at once unless a command says otherwise.
pub(crate) const CHUNK: usize = 64;

/// The same on a GPU, and on one that reads prompts in f16.
pub(crate) const GPU_CHUNK: usize = 512;
pub(crate) const GPU_FAST_CHUNK: usize = 4096;

/// Tokens that a GPU chooses before they are shown.
const GPU_TOKENS: usize = 16;

/// The bundled model starts on the boundary that [`Model::from_bytes`] asks for.
#[repr(C, align(64))]
struct Aligned<B: ?Sized>(B);

static BUNDLED: &Aligned<[u8]> = &Aligned(*include_bytes!("../../models/indic-qa-natural.sarit"));
const _: () = assert!(sarit_core::ALIGN == align_of::<Aligned<[u8; 0]>>());

/// The bytes of a model: the bundled one, or a file mapped into memory.
pub(crate) struct ModelFile {
    name: String,
    mapped: Option<Mapped>,
    /// Keeps the bytes in memory; unlocks them when dropped.
    locked: Option<region::LockGuard>,
}

impl ModelFile {
    /// The file at `path`, or the bundled model.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self { name: "(bundled)".to_owned(), mapped: None, locked: None });
        };
        let name = path.display().to_string();
        let mapped = Mapped::open(path).with_context(|| format!("cannot use model {name}"))?;
        Ok(Self { name, mapped: Some(mapped), locked: None })
    }

    /// The same for running the model: kept in memory if `compute` asks for it.
    pub(crate) fn open_to_run(path: Option<&Path>, compute: &Compute) -> Result<Self> {
        let mut file = Self::open(path)?;
        if compute.lock {
            let (bytes, name) = (file.bytes(), &file.name);
            let locked = region::lock(bytes.as_ptr(), bytes.len()).with_context(|| {
                format!("cannot keep the {} bytes of model {name} in memory; `ulimit -l` says how much is allowed", bytes.len())
            })?;
            file.locked = Some(locked);
        }
        Ok(file)
    }

    fn bytes(&self) -> &[u8] {
        self.mapped.as_ref().map_or(&BUNDLED.0, |mapped| mapped.bytes())
    }

    /// Where the model comes from.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The model, checked.
    pub(crate) fn model(&self) -> Result<Model<'_>> {
        Model::from_bytes(self.bytes())
            .map_err(|error| anyhow!("{error}; {}", remedy(error)))
            .with_context(|| format!("cannot use model {}", self.name))
    }

    /// The model with states of the element type asked for, or of the file's.
    pub(crate) fn model_with(&self, state: Option<StateDType>) -> Result<Model<'_>> {
        let model = self.model()?;
        Ok(state.map_or(model, |dtype| model.with_state(dtype)))
    }

    /// The model with states of the element type asked for, or of the state file at `path`, if there is one that says, or
    /// of the model's file; and the bytes of the state file.
    pub(crate) fn model_and_snapshot(
        &self,
        asked: Option<StateDType>,
        path: Option<&Path>,
    ) -> Result<(Model<'_>, Option<Vec<u8>>)> {
        let model = self.model()?;
        let snapshot = path.map(|path| read_snapshot(&model, path)).transpose()?;
        let stated = || State::snapshot_dtype(snapshot.as_deref()?).ok();
        let dtype = asked.or_else(stated);
        Ok((dtype.map_or(model, |dtype| model.with_state(dtype)), snapshot))
    }
}

/// What to do about a model that cannot be used.
fn remedy(error: ModelError) -> &'static str {
    match error {
        ModelError::TooShort | ModelError::Magic => "make one from a checkpoint with `sarit convert`",
        ModelError::Version(_) | ModelError::Record { .. } => "or convert the checkpoint with this one",
        _ => "copy it again, or convert its checkpoint again",
    }
}

/// What Sarit reads of a model's meta section. Any field may be missing.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Meta {
    pub(crate) prompt: Option<PromptFormat>,
    pub(crate) chat: Option<ChatFormat>,
    /// Tokens that end a text, as the checkpoint lists them.
    #[serde(default)]
    pub(crate) eos_token_ids: Vec<Value>,
    /// Of a frame model: what the numbers of a frame are called.
    pub(crate) columns: Option<Vec<String>>,
    /// Of a classifier: names of the classes.
    pub(crate) labels: Option<Vec<String>>,
    /// Of a frame model: seconds from one frame to the next in training.
    pub(crate) frame_interval_s: Option<f64>,
}

/// How an instruct model is talked to.
#[derive(Debug, Deserialize)]
pub(crate) struct ChatFormat {
    /// Jinja, as Hugging Face writes it.
    pub(crate) template: String,
    pub(crate) bos_token: Option<String>,
    pub(crate) eos_token: Option<String>,
}

/// How a question answering model is asked.
#[derive(Debug, Deserialize)]
pub(crate) struct PromptFormat {
    /// Special tokens and text with one `{context}` and, after it, one `{question}`.
    pub(crate) template: String,
    /// Special tokens that end an answer.
    #[serde(default)]
    pub(crate) stop: Vec<String>,
    /// The most tokens of an answer.
    pub(crate) max_tokens: Option<usize>,
    /// Of a model whose answers are parts of the context.
    pub(crate) extract: Option<ExtractFormat>,
}

/// What a model that extracts answers may say, beside spans of the context.
#[derive(Debug, Deserialize)]
pub(crate) struct ExtractFormat {
    /// Words for "not given".
    #[serde(default)]
    pub(crate) refusals: Vec<String>,
    /// How much likelier than a span a refusal must be to begin, in nats.
    #[serde(default)]
    pub(crate) margin: f32,
}

impl Meta {
    /// The meta section of `model`.
    pub(crate) fn of(model: &Model<'_>) -> Result<Self> {
        serde_json::from_str(model.meta()).context("the model's meta section is not as Sarit writes it")
    }

    /// Tokens that end a text.
    pub(crate) fn eos_ids(&self) -> Vec<u32> {
        self.eos_token_ids.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
    }
}

/// The processor with the instruction set and the threads asked for; the fastest where a GPU is.
pub(crate) fn cpu(compute: &Compute) -> Result<Cpu> {
    cpu_with(compute, compute.threads())
}

/// The same with `threads` threads: one each for workers that run beside each other.
pub(crate) fn cpu_with(compute: &Compute, threads: usize) -> Result<Cpu> {
    let here: Vec<Isa> = Isa::available().collect();
    let asked = match compute.backend {
        Some(Backend::Cpu(isa)) => Some(isa),
        Some(Backend::Cuda(_)) | None => None,
    };
    let isa = asked.or(here.last().copied());
    let isa = isa.context("this build of Sarit is for an instruction set that this machine lacks")?;
    Cpu::with_isa(isa, threads).with_context(|| {
        let names: Vec<_> = here.iter().map(|isa| isa.name()).collect();
        format!("this machine cannot run backend {}; choose --backend {}", isa.name(), names.join(" or "))
    })
}

/// Memory of one stream: all that running a model takes beside the model; on a GPU the model too.
pub(crate) struct Memory<'m> {
    chunk: usize,
    state: AlignedBytes,
    scratch: AlignedBytes,
    gpu: Option<Streams<'m, Cuda>>,
}

impl<'m> Memory<'m> {
    /// Memory to run `model` on up to `chunk` tokens at once on what `compute` names.
    pub(crate) fn new(model: &Model<'m>, chunk: usize, compute: &Compute) -> Result<Self> {
        let Some(prompts) = compute.prompts() else { return Self::on_cpu(model, chunk) };
        let gpu = Streams::with_prompts(Cuda::open(compute.device)?, *model, 1, chunk, prompts)?;
        Ok(Self { gpu: Some(gpu), ..Self::on_cpu(model, 1)? })
    }

    /// The same on the processor.
    pub(crate) fn on_cpu(model: &Model<'m>, chunk: usize) -> Result<Self> {
        let need = model.memory(chunk).with_context(|| format!("a chunk of {chunk} tokens is too large"))?;
        let allocate = |bytes: usize, what: &str| {
            AlignedBytes::zeroed(bytes).with_context(|| format!("there is not enough memory for the {what}"))
        };
        Ok(Self {
            chunk,
            state: allocate(need.state_bytes, "state")?,
            scratch: allocate(need.scratch_bytes, "scratch")?,
            gpu: None,
        })
    }

    /// The model on the GPU, if it runs there.
    pub(crate) fn gpu(&self) -> Option<&Streams<'m, Cuda>> {
        self.gpu.as_ref()
    }

    /// A stream that has read nothing.
    pub(crate) fn start<'a, K: Kernels>(
        &'a mut self,
        engine: &'a Engine<'m, K>,
    ) -> Result<Stream<'a, 'm, K>> {
        let state = State::init(engine.model(), &mut self.state)?;
        let scratch = Scratch::new(engine.model(), &mut self.scratch, self.chunk)?;
        let mut gpu = self.gpu.as_mut();
        if let Some(gpu) = &mut gpu {
            gpu.reset(0)?;
        }
        Ok(Stream { engine, state, scratch, gpu })
    }

    /// A stream that goes on from a snapshot.
    pub(crate) fn resume<'a, K: Kernels>(
        &'a mut self,
        engine: &'a Engine<'m, K>,
        snapshot: &[u8],
    ) -> Result<Stream<'a, 'm, K>> {
        let state = State::load(engine.model(), snapshot, &mut self.state).map_err(|error| match error {
            StateError::OtherDType { have, .. } => anyhow!("{error}; say --state-format {}", have.name()),
            _ => anyhow!("{error}; read the text again with this model (`sarit read`)"),
        })?;
        let scratch = Scratch::new(engine.model(), &mut self.scratch, self.chunk)?;
        let mut gpu = self.gpu.as_mut();
        if let Some(gpu) = &mut gpu {
            gpu.import(0, &state)?;
        }
        Ok(Stream { engine, state, scratch, gpu })
    }
}

/// An engine of one thread and its memory, for workers that run beside each other.
pub(crate) fn worker<'m>(model: &Model<'m>, compute: &Compute) -> Result<(Engine<'m, Cpu>, Memory<'m>)> {
    Ok((Engine::new(*model, cpu_with(compute, 1)?), Memory::new(model, compute.chunk(), compute)?))
}

/// The state file at `path`, of which no more is read than any state of `model` can hold and one byte.
pub(crate) fn read_snapshot(model: &Model<'_>, path: &Path) -> Result<Vec<u8>> {
    let sizes = StateDType::ALL.map(|dtype| State::snapshot_bytes(&model.with_state(dtype)));
    let limit = sizes.into_iter().fold(0, usize::max) as u64 + 1;
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read state {}", path.display()))?;
    Ok(bytes)
}

/// A running model.
pub(crate) struct Stream<'a, 'm, K> {
    engine: &'a Engine<'m, K>,
    /// What the GPU last handed over, where one runs the model.
    state: State<'a>,
    scratch: Scratch<'a>,
    gpu: Option<&'a mut Streams<'m, Cuda>>,
}

/// Why a continuation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// A stop token was chosen.
    Stop,
    /// The most tokens allowed were chosen.
    Limit,
}

impl<K: Kernels> Stream<'_, '_, K> {
    /// What the stream remembers.
    pub(crate) fn state(&mut self) -> Result<&State<'_>> {
        if let Some(gpu) = &self.gpu {
            gpu.export(0, &mut self.state)?;
        }
        Ok(&self.state)
    }

    /// Forgets everything.
    pub(crate) fn reset(&mut self) -> Result<()> {
        self.state.reset();
        match &mut self.gpu {
            Some(gpu) => Ok(gpu.reset(0)?),
            None => Ok(()),
        }
    }

    /// Reads tokens without computing logits.
    pub(crate) fn feed(&mut self, tokens: &[u32]) -> Result<()> {
        match &mut self.gpu {
            Some(gpu) => Ok(gpu.feed(0, tokens)?),
            None => Ok(self.engine.feed(&mut self.state, &mut self.scratch, tokens)?),
        }
    }

    /// Reads tokens and shows the logits after each.
    pub(crate) fn feed_each(&mut self, tokens: &[u32], each: impl FnMut(usize, &[f32])) -> Result<()> {
        match &mut self.gpu {
            Some(gpu) => Ok(gpu.feed_each(0, tokens, each)?),
            None => Ok(self.engine.feed_each(&mut self.state, &mut self.scratch, tokens, each)?),
        }
    }

    /// Reads one token and returns the logits of the next.
    pub(crate) fn step(&mut self, token: u32) -> Result<&mut [f32]> {
        match &mut self.gpu {
            Some(gpu) => Ok(gpu.step(0, token)?),
            None => Ok(self.engine.step(&mut self.state, &mut self.scratch, token)?),
        }
    }

    /// Waits until all that was asked for is done.
    pub(crate) fn wait(&mut self) -> Result<()> {
        match &self.gpu {
            Some(gpu) => Ok(gpu.wait()?),
            None => Ok(()),
        }
    }

    /// Reads tokens one by one, and makes the logits of each: for measurement. A GPU reads the first and then, as in use,
    /// as many of those that it chooses.
    pub(crate) fn decode(&mut self, tokens: &[u32]) -> Result<()> {
        let Some(gpu) = &mut self.gpu else {
            for &token in tokens {
                black_box(self.step(token)?);
            }
            return Ok(());
        };
        let Some(&token) = tokens.first() else { return Ok(()) };
        let mut request = [Request { stream: 0, token, sampling: Sampling::default() }];
        black_box(gpu.generate(&mut request, tokens.len(), &[])?);
        Ok(())
    }

    /// Reads `token` and chooses up to `most` tokens, one after another, up to a stop token: on a GPU several at once,
    /// unless `answer` says which ones it may be.
    fn choose(
        &mut self,
        answer: Option<&Answer<'_>>,
        token: u32,
        stop: &[u32],
        most: usize,
        sampler: &mut Sampler,
    ) -> Result<Vec<u32>> {
        let sampling = sampler.sampling();
        match (&mut self.gpu, answer) {
            (Some(gpu), None) if gpu.can_choose(&sampling) && stop.len() <= Streams::<Cuda>::STOP_MOST => {
                let mut request = [Request { stream: 0, token, sampling }];
                let chosen = gpu.generate(&mut request, most.min(GPU_TOKENS), stop)?;
                *sampler = Sampler::new(request[0].sampling)?;
                Ok(chosen.into_iter().flatten().collect())
            }
            _ => {
                let logits = self.step(token)?;
                if let Some(answer) = answer {
                    answer.mask(logits);
                }
                Ok(vec![sampler.sample(logits)])
            }
        }
    }

    /// Reads frames of numbers without computing results.
    pub(crate) fn feed_frames(&mut self, frames: &[f32], interval: f32) -> Result<(), StepError> {
        self.engine.feed_frames(&mut self.state, &mut self.scratch, frames, interval)
    }

    /// Reads one frame of numbers and returns the result after it, which must be finite.
    pub(crate) fn step_frame(&mut self, frame: &[f32], interval: f32) -> Result<&mut [f32]> {
        let result = self.engine.step_frame(&mut self.state, &mut self.scratch, frame, interval)?;
        let finite = result.iter().all(|x| x.is_finite());
        ensure!(finite, "the result is not finite; the numbers are too large for this model");
        Ok(result)
    }

    /// Reads `prompt` and hands the tokens that follow to `each`, up to a stop token or `max_tokens`.
    pub(crate) fn continue_from(
        &mut self,
        prompt: &[u32],
        stop: &[u32],
        max_tokens: usize,
        sampler: &mut Sampler,
        each: impl FnMut(u32) -> Result<()>,
    ) -> Result<End> {
        self.continue_within(None, prompt, stop, max_tokens, sampler, each)
    }

    /// The same with no tokens but those that `answer` allows, if there is one.
    pub(crate) fn continue_within(
        &mut self,
        mut answer: Option<Answer<'_>>,
        prompt: &[u32],
        stop: &[u32],
        max_tokens: usize,
        sampler: &mut Sampler,
        mut each: impl FnMut(u32) -> Result<()>,
    ) -> Result<End> {
        let (&last, before) = prompt.split_last().context("the prompt holds no tokens")?;
        self.feed(before)?;
        let (mut token, mut left) = (last, max_tokens);
        while left > 0 {
            let chosen = self.choose(answer.as_ref(), token, stop, left, sampler)?;
            left -= chosen.len();
            for next in chosen {
                if stop.contains(&next) {
                    return Ok(End::Stop);
                }
                token = next;
                if let Some(answer) = &mut answer {
                    answer.push(token);
                }
                each(token)?;
            }
        }
        Ok(End::Limit)
    }
}

/// Token ids below `vocab`, which is not 0, `count` of them, the same every time.
pub(crate) fn random_ids(vocab: usize, count: usize) -> Vec<u32> {
    random().map(|x| (x % vocab as u64) as u32).take(count).collect()
}

/// Frames of numbers from -1 to 1, `count` of them, the same every time.
pub(crate) fn random_frames(model: &Model<'_>, count: usize) -> Vec<f32> {
    random().map(|x| (x >> 40) as f32 / (1 << 23) as f32 - 1.0).take(count * model.frame_len()).collect()
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn random() -> impl Iterator<Item = u64> {
    let mut seed = 0u64;
    std::iter::repeat_with(move || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}
