//! What runs a model, and what its states are made of.

use crate::session::{CHUNK, GPU_CHUNK, GPU_FAST_CHUNK};
use sarit_core::StateDType;
use sarit_cpu::{Isa, UnknownIsa};
use sarit_cuda::Prompts;

/// What a model runs on.
#[derive(Debug, clap::Args)]
pub(crate) struct Compute {
    /// Threads to use [default: the machine's, at most 4; in `stream` and `eval frames` 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Option<u16>,
    /// Instruction set (scalar, avx2, avx512, neon, dotprod or i8mm), or cuda for a GPU; the results are the same bits. With
    /// cuda-fast the GPU reads prompts of 320 tokens and more faster, in f16: near the same results, not the same bits
    /// [default: the processor's fastest]
    #[arg(long, value_name = "B", value_parser = parse_backend)]
    pub(crate) backend: Option<Backend>,
    /// Which GPU, as `sarit devices` numbers them
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) device: usize,
    /// Keep the whole model in memory, so that no step waits for the disk
    #[arg(long)]
    pub(crate) lock: bool,
}

/// What runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// The processor, with this instruction set.
    Cpu(Isa),
    /// A GPU, which reads prompts so.
    Cuda(Prompts),
}

impl Backend {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Backend::Cpu(isa) => isa.name(),
            Backend::Cuda(Prompts::Exact) => "cuda",
            Backend::Cuda(Prompts::Halves { .. }) => "cuda-fast",
        }
    }

    /// How a GPU reads prompts, if it is one.
    pub(crate) fn prompts(self) -> Option<Prompts> {
        match self {
            Backend::Cpu(_) => None,
            Backend::Cuda(prompts) => Some(prompts),
        }
    }
}

impl Compute {
    /// `--threads`, or as many as the machine runs at once, at most 4: decoding is bound by memory, which a few
    /// cores use up.
    pub(crate) fn threads(&self) -> usize {
        let machine = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or_else(|| machine().min(4), usize::from)
    }

    /// Tokens to read at once: enough for a processor's caches, or for all of a GPU.
    pub(crate) fn chunk(&self) -> usize {
        match self.prompts() {
            None => CHUNK,
            Some(Prompts::Exact) => GPU_CHUNK,
            Some(Prompts::Halves { .. }) => GPU_FAST_CHUNK,
        }
    }

    /// How a GPU reads prompts, if one runs the model.
    pub(crate) fn prompts(&self) -> Option<Prompts> {
        self.backend.and_then(Backend::prompts)
    }

    /// Items that are worked on beside each other: one a thread, or one at a time on a GPU.
    pub(crate) fn workers(&self) -> usize {
        if self.prompts().is_some() { 1 } else { self.threads() }
    }
}

pub(super) fn parse_backend(text: &str) -> Result<Backend, String> {
    match text {
        "cuda" => Ok(Backend::Cuda(Prompts::Exact)),
        "cuda-fast" => Ok(Backend::Cuda(Prompts::NEAR)),
        _ => {
            text.parse().map(Backend::Cpu).map_err(|error: UnknownIsa| format!("{error}, cuda or cuda-fast"))
        }
    }
}

/// What states are made of.
#[derive(Debug, clap::Args)]
pub(crate) struct StateFormat {
    /// Element type of the state: f32, f16 or i8 [default: as the model file says]
    #[arg(long = "state", visible_alias = "state-format", value_name = "T", value_parser = parse_state)]
    pub(crate) format: Option<StateDType>,
}

pub(super) fn parse_state(text: &str) -> Result<StateDType, String> {
    let wanted = StateDType::ALL.into_iter().find(|dtype| dtype.name() == text);
    wanted.ok_or_else(|| "choose f32, f16 or i8".to_owned())
}
