//! `sarit`: questions about texts, generation, conversion and measurement with Mamba-family models.
//!
//! Results go to stdout, all else to stderr. Exit code 0: success; 1: a failure, with one sentence on stderr;
//! 2: wrong usage.
#![forbid(unsafe_code)]

mod args;
mod ask;
mod bench;
mod bench_streams;
mod chat;
mod convert;
mod devices;
mod eval_frames;
mod eval_ppl;
mod eval_qa;
mod extract;
mod generate;
mod input;
mod inspect;
mod interrupt;
mod logits;
mod output;
mod parallel;
mod prompt;
mod pull;
mod read;
mod score;
mod session;
mod stream;
mod text;
mod verify;

use anyhow::Error;
use args::{Args, Command, Eval};
use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Ask(args) => ask::run(&args),
        Command::Read(args) => read::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Eval(Eval::Qa(args)) => eval_qa::run(&args),
        Command::Eval(Eval::Ppl(args)) => eval_ppl::run(&args),
        Command::Eval(Eval::Frames(args)) => eval_frames::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Stream(args) => stream::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Devices(args) => devices::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<output::Closed>() => ExitCode::SUCCESS,
        Err(error) => {
            // Where stderr is closed too, the exit code is all that is left to say.
            let _ = writeln!(std::io::stderr(), "sarit: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// What failed and why, in one line. Causes that an error has already told are left out.
fn sentence(error: &Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !sentence.contains(&cause) {
            let colon = if sentence.is_empty() { "" } else { ": " };
            sentence += &format!("{colon}{cause}");
        }
    }
    sentence.split_whitespace().collect::<Vec<_>>().join(" ")
}
