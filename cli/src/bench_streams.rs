//! `sarit bench --gpu-streams`: several streams decoding beside each other on a GPU.

use crate::args::Bench;
use crate::output;
use crate::session::{ModelFile, median_and_range, random_ids};
use anyhow::Result;
use sarit_core::Sampling;
use sarit_cuda::{Cuda, Request, Streams};
use serde::Serialize;
use std::time::Instant;

/// Tokens of each stream before anything is measured.
const WARM_UP: usize = 32;

#[derive(Serialize)]
struct Measured {
    device: String,
    streams: usize,
    /// Of each stream, in each run.
    generate: usize,
    runs: usize,
    /// Of all streams together, chosen greedily on the GPU; median of the runs.
    decode_tokens_per_s: f64,
    /// Slowest and fastest run.
    decode_range: [f64; 2],
    /// On the GPU: model, states and scratch.
    device_bytes: usize,
    /// Free on the GPU before the runs and after them.
    free_bytes: [usize; 2],
}

pub(crate) fn run(args: &Bench, streams: usize) -> Result<()> {
    let file = ModelFile::open(args.model.as_deref())?;
    let model = file.model()?;
    let (generate, runs) = (args.generate as usize, args.runs as usize);
    let mut gpu = Streams::new(Cuda::open(args.compute.device)?, model, streams, 1)?;
    let request = |(stream, token)| Request { stream, token, sampling: Sampling::default() };
    let ids = random_ids(model.vocab_len(), streams);
    let mut requests: Vec<Request> = ids.into_iter().enumerate().map(request).collect();
    gpu.generate(&mut requests, WARM_UP, &[])?;
    let free_before = gpu.device().free_bytes()?;
    let mut speeds = Vec::new();
    for _ in 0..runs {
        let start = Instant::now();
        gpu.generate(&mut requests, generate, &[])?;
        speeds.push((streams * generate) as f64 / start.elapsed().as_secs_f64());
    }
    let (decode_tokens_per_s, decode_range) = median_and_range(&mut speeds);
    let measured = Measured {
        device: gpu.device().info().name.clone(),
        streams,
        generate,
        runs,
        decode_tokens_per_s,
        decode_range,
        device_bytes: gpu.memory().total(),
        free_bytes: [free_before, gpu.device().free_bytes()?],
    };
    if args.json {
        return output::print_json(&measured);
    }
    let Measured { device, device_bytes, free_bytes: [before, after], .. } = measured;
    let [low, high] = decode_range;
    output::print(&format!(
        "{device}, {streams} streams: {decode_tokens_per_s:.0} tokens/s ({low:.0} to {high:.0}); \
         {device_bytes} bytes on the GPU; free there before {before} and after {after}\n"
    ))
}
