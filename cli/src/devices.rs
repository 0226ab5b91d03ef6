//! `sarit devices`: what can run a model here.

use crate::args::Devices;
use crate::output;
use anyhow::Result;
use indicatif::HumanBytes;
use sarit_cpu::Isa;
use sarit_cuda::Info;
use serde::Serialize;
use std::fmt::Write;

#[derive(Serialize)]
struct Listing {
    /// Slowest first.
    instruction_sets: Vec<&'static str>,
    cuda: Vec<Gpu>,
    /// Why there is no GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_cuda: Option<String>,
}

#[derive(Serialize)]
struct Gpu {
    index: usize,
    name: String,
    arch: String,
    multiprocessors: usize,
    memory_bytes: usize,
    free_bytes: usize,
    /// It reads models in the host's memory.
    integrated: bool,
}

impl From<Info> for Gpu {
    fn from(info: Info) -> Self {
        let Info { index, name, arch, multiprocessors, memory_bytes, free_bytes, is_integrated: integrated } =
            info;
        Self { index, name, arch, multiprocessors, memory_bytes, free_bytes, integrated }
    }
}

pub(crate) fn run(args: &Devices) -> Result<()> {
    let (gpus, no_cuda) = match sarit_cuda::devices() {
        Ok(gpus) => (gpus, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let listing = Listing {
        instruction_sets: Isa::available().map(Isa::name).collect(),
        cuda: gpus.into_iter().map(Gpu::from).collect(),
        no_cuda,
    };
    if args.json { output::print_json(&listing) } else { output::print(&as_text(&listing)) }
}

fn as_text(listing: &Listing) -> String {
    let mut text = format!("cpu     {}\n", listing.instruction_sets.join(", "));
    for gpu in &listing.cuda {
        let Gpu { index, name, arch, multiprocessors, memory_bytes, free_bytes, integrated } = gpu;
        let size = |bytes: usize| HumanBytes(bytes as u64);
        let shared = if *integrated { ", shared with the processor" } else { "" };
        let _ = writeln!(
            text,
            "cuda {index}  {name}, {arch}, {multiprocessors} multiprocessors, {} ({} free){shared}",
            size(*memory_bytes),
            size(*free_bytes)
        );
    }
    if let Some(reason) = &listing.no_cuda {
        let _ = writeln!(text, "cuda    none: {reason}");
    }
    text
}
