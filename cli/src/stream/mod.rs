//! `sarit stream`: a frame model steps through rows of numbers as they arrive.

mod clock;
mod rows;

use crate::args::Stream as Args;
use crate::output;
use crate::session::{Memory, Meta, ModelFile, cpu_with};
use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use sarit_core::plan::Readout;
use sarit_core::{Engine, argmax};
use serde::Serialize;
use std::io::Write;
use std::time::{Duration, Instant};

pub(crate) use clock::{Clock, is_interval};
pub(crate) use rows::Rows;

/// Longer times than this, an hour, count as this.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// What is said about one row.
#[derive(Serialize)]
struct Answer<'a> {
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<f64>,
    #[serde(flatten)]
    outcome: Outcome<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Outcome<'a> {
    Class {
        class: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        label: Option<&'a str>,
        /// The class's share in the softmax of the scores.
        probability: f64,
        scores: &'a [f32],
    },
    Values {
        values: &'a [f32],
    },
}

/// The last line of JSON.
#[derive(Serialize)]
struct Last {
    summary: Summary,
}

#[derive(Serialize)]
struct Summary {
    rows: u64,
    skipped: u64,
    seconds: f64,
    rows_per_s: f64,
    /// From a whole line to its printed result.
    latency_us: Latency,
    /// Hash of the state after the last row, 16 hex digits.
    state_hash: String,
}

#[derive(Serialize)]
struct Latency {
    mean: f64,
    /// 99 of 100 rows take no longer.
    p99: f64,
    max: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let file = ModelFile::open_to_run(Some(&args.model), &args.compute)?;
    let model = file.model()?;
    let meta = Meta::of(&model)?;
    let readout = model.output().readout;
    ensure!(
        readout != Readout::Logits,
        "{} takes tokens, not rows of numbers; `sarit stream` needs a frame model",
        file.name()
    );
    let mut clock =
        Clock::new(&args.columns, &meta).with_context(|| format!("cannot use model {}", file.name()))?;
    let mut rows = Rows::open(&args.csv, &args.columns, &[], &meta, model.frame_len())?;
    let engine = Engine::new(model, cpu_with(&args.compute, args.compute.threads.map_or(1, usize::from))?);
    let mut memory = Memory::new(&model, 1, &args.compute)?;
    let mut stream = memory.start(&engine)?;

    let start = Instant::now();
    let mut latencies = Histogram::<u64>::new_with_max(LONGEST_NS, 3)?;
    let mut skipped = 0;
    while let Some(row) = rows.next()? {
        let (row, interval) = match row.and_then(|row| Ok((clock.interval(row.time)?, row))) {
            Ok((interval, row)) => (row, interval),
            Err(error) => {
                let error = error.context(rows.place());
                if !args.skip_bad {
                    return Err(error);
                }
                let _ = writeln!(std::io::stderr(), "sarit: {}", crate::sentence(&error));
                skipped += 1;
                continue;
            }
        };
        let result = stream.step_frame(&row.frame, interval).with_context(|| rows.place())?;
        let answer = Answer { line: row.line, time: row.time, outcome: outcome(readout, &meta, result) };
        if args.json {
            output::print_json(&answer)?
        } else {
            output::print(&answer.as_text())?
        }
        latencies.saturating_record(rows.arrived().elapsed().as_nanos() as u64);
    }
    ensure!(!latencies.is_empty(), "{}: no row can be used; {skipped} were passed over", rows.place());
    let summary = Summary::new(start.elapsed(), skipped, &latencies, stream.state()?.hash());
    let _ = writeln!(std::io::stderr(), "{}", summary.as_text());
    if args.json { output::print_json(&Last { summary }) } else { Ok(()) }
}

fn outcome<'a>(readout: Readout, meta: &'a Meta, result: &'a [f32]) -> Outcome<'a> {
    if !matches!(readout, Readout::Classes(_)) {
        return Outcome::Values { values: result };
    }
    let class = argmax(result) as usize;
    let sum: f64 = result.iter().map(|score| f64::from(score - result[class]).exp()).sum();
    let label = meta.labels.as_ref().and_then(|labels| labels.get(class)).map(String::as_str);
    Outcome::Class { class, label, probability: 1.0 / sum, scores: result }
}

impl Answer<'_> {
    fn as_text(&self) -> String {
        match self.outcome {
            Outcome::Class { class, label, probability, .. } => {
                let label = label.map_or_else(|| class.to_string(), str::to_owned);
                format!("{label}\t{probability:.4}\n")
            }
            Outcome::Values { values } => {
                let values: Vec<String> = values.iter().map(f32::to_string).collect();
                values.join("\t") + "\n"
            }
        }
    }
}

impl Summary {
    fn new(elapsed: Duration, skipped: u64, latencies: &Histogram<u64>, state_hash: u64) -> Self {
        let (rows, seconds) = (latencies.len(), elapsed.as_secs_f64());
        Self {
            rows,
            skipped,
            seconds,
            rows_per_s: rows as f64 / seconds,
            latency_us: Latency {
                mean: latencies.mean() / 1e3,
                p99: latencies.value_at_quantile(0.99) as f64 / 1e3,
                max: latencies.max() as f64 / 1e3,
            },
            state_hash: format!("{state_hash:016x}"),
        }
    }

    fn as_text(&self) -> String {
        let Self { rows, skipped, seconds, rows_per_s, latency_us: Latency { mean, p99, max }, .. } = self;
        format!(
            "{rows} rows in {seconds:.3} s ({rows_per_s:.0} a second), {skipped} passed over; from line to result \
             {mean:.1} µs on average, 99 % within {p99:.1} µs, the longest {max:.1} µs"
        )
    }
}
