//! Decoding speed of the peers that are on crates.io: one run, printed as one JSON object.

mod candle;
mod mamba_rs;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Steps before those that are timed.
const WARM_UP: usize = 8;

/// Times decoding with candle (on RAYON_NUM_THREADS threads) or mamba-rs (on one); prints one JSON object.
#[derive(Parser)]
#[command(after_help = "Example:
  RAYON_NUM_THREADS=2 sarit-bench-peers candle models/mamba2-130m --dtype f32 --generate 64")]
struct Args {
    peer: Peer,
    /// Hugging Face folder with config.json and model.safetensors
    checkpoint: PathBuf,
    #[arg(long, value_enum, default_value_t = DType::F32)]
    dtype: DType,
    /// Tokens to decode
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    generate: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Peer {
    Candle,
    MambaRs,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum DType {
    F32,
    F16,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let generate = args.generate as usize;
    let seconds = match args.peer {
        Peer::Candle => candle::decode(&args.checkpoint, args.dtype, generate)?,
        Peer::MambaRs => mamba_rs::decode(&args.checkpoint, args.dtype, generate)?,
    };
    println!("{}", json!({ "decode_tokens_per_s": generate as f64 / seconds }));
    Ok(())
}

/// Runs `step` for the warm-up and then for `count` tokens, and returns the seconds of the latter.
fn timed(count: usize, mut step: impl FnMut(u32) -> Result<()>) -> Result<f64> {
    let mut start = Instant::now();
    for i in 0..WARM_UP + count {
        if i == WARM_UP {
            start = Instant::now();
        }
        step((i * 7919 % 50_000) as u32).with_context(|| format!("step {i}"))?;
    }
    Ok(start.elapsed().as_secs_f64())
}
