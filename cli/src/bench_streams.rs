//! `sarit bench --streams`: several streams that decode at once.

use crate::args::Compute;
use crate::session::random_ids;
use anyhow::{Context, Result};
use sarit_core::{Engine, Kernels, Model, Sampling, Scratch, Shape, State};
use sarit_cpu::AlignedBytes;
use sarit_cuda::{Cuda, Request, Streams};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Memory of several streams.
pub(crate) enum Many<'m> {
    Cpu { states: Vec<AlignedBytes>, scratch: AlignedBytes },
    Gpu(Box<Streams<'m, Cuda>>),
}

impl<'m> Many<'m> {
    pub(crate) fn new(model: &Model<'m>, streams: usize, compute: &Compute) -> Result<Self> {
        if compute.prompts().is_some() {
            return Ok(Self::Gpu(Box::new(Streams::new(Cuda::open(compute.device)?, *model, streams, 1)?)));
        }
        let need = model.memory(shape(streams)).context("so many streams need too much memory")?;
        let state = |_| AlignedBytes::zeroed(need.state_bytes);
        Ok(Self::Cpu {
            states: (0..streams).map(state).collect::<Result<_, _>>()?,
            scratch: AlignedBytes::zeroed(need.scratch_bytes)?,
        })
    }

    /// Steps all streams, from no state on, as many tokens as there are `ids`, and says how long it took: through `ids`,
    /// each stream from another place on, or on a GPU, as in use, through those that it chooses.
    pub(crate) fn run<K: Kernels>(&mut self, engine: &Engine<'_, K>, ids: &[u32]) -> Result<Duration> {
        match self {
            Self::Cpu { states, scratch } => on_cpu(engine, states, scratch, ids),
            Self::Gpu(gpu) => on_gpu(gpu, ids.len()),
        }
    }
}

fn shape(streams: usize) -> Shape {
    Shape { chunk: 1, streams }
}

fn on_cpu<K: Kernels>(
    engine: &Engine<'_, K>,
    states: &mut [AlignedBytes],
    scratch: &mut AlignedBytes,
    ids: &[u32],
) -> Result<Duration> {
    let (model, streams) = (engine.model(), states.len());
    let mut scratch = Scratch::new(model, scratch, shape(streams))?;
    let states = states.iter_mut().map(|memory| State::init(model, memory));
    let mut states = states.collect::<Result<Vec<_>, _>>()?;
    let mut states: Vec<&mut State<'_>> = states.iter_mut().collect();
    let mut tokens = vec![0; streams];
    let start = Instant::now();
    for t in 0..ids.len() {
        tokens.iter_mut().enumerate().for_each(|(i, token)| *token = ids[(t + i) % ids.len()]);
        black_box(engine.step_many(&mut states, &mut scratch, &tokens)?);
    }
    Ok(start.elapsed())
}

fn on_gpu(gpu: &mut Streams<'_, Cuda>, tokens: usize) -> Result<Duration> {
    let ids = random_ids(gpu.model().vocab_len(), gpu.count());
    let request = |(stream, token)| Request { stream, token, sampling: Sampling::default() };
    let mut requests: Vec<Request> = ids.into_iter().enumerate().map(request).collect();
    for stream in 0..gpu.count() {
        gpu.reset(stream)?;
    }
    gpu.wait()?;
    let start = Instant::now();
    black_box(gpu.generate(&mut requests, tokens, &[])?);
    Ok(start.elapsed())
}
