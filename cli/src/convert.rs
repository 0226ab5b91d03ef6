//! `sarit convert`: a checkpoint becomes a model file.

use crate::args::Convert;
use crate::interrupt::Interrupt;
use crate::{input, output};
use anyhow::{Context, Result};
use indicatif::HumanBytes;
use sarit_quant::{Options, Report, TensorReport};
use serde_json::{Map, Value, json};
use std::ops::ControlFlow;
use std::path::Path;

/// The longest meta file, in bytes.
const META_LIMIT: u64 = 1 << 20;

pub(crate) fn run(args: &Convert) -> Result<()> {
    let meta = args.meta.as_deref().map(read_meta).transpose()?.unwrap_or_default();
    let options = Options { weights: args.weights, state: args.state, window: args.window, meta };
    let report = compile(&args.source, &args.output, &options)?;
    if args.json {
        output::print_json(&as_json(&report))
    } else {
        output::print(&as_text(&args.output, &report))
    }
}

/// Converts with a progress bar, until Ctrl-C.
pub(crate) fn compile(source: &Path, out: &Path, options: &Options) -> Result<Report> {
    let interrupt = Interrupt::listen()?;
    let bar = output::bar(0, "converting");
    let result = sarit_quant::convert(source, out, options, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        if interrupt.pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    Ok(result?)
}

fn read_meta(path: &Path) -> Result<Map<String, Value>> {
    let text = input::text(path, META_LIMIT)?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a JSON object", path.display()))
}

fn as_json(report: &Report) -> Value {
    let tensor = |t: &TensorReport| {
        let (name, dtype, error) = (&t.name, t.dtype.name(), t.relative_error);
        json!({ "name": name, "dtype": dtype, "shape": [t.rows, t.cols], "relative_error": error })
    };
    let tensors: Vec<Value> = report.tensors.iter().map(tensor).collect();
    json!({ "file_bytes": report.file_bytes, "tensors": tensors })
}

/// What was written and how exactly.
pub(crate) fn as_text(out: &Path, report: &Report) -> String {
    let mut text = format!("wrote {} ({})\n", out.display(), HumanBytes(report.file_bytes));
    let worst = report.tensors.iter().max_by(|a, b| a.relative_error.total_cmp(&b.relative_error));
    if let Some(t) = worst.filter(|t| t.relative_error > 0.0) {
        let (percent, dtype) = (100.0 * t.relative_error, t.dtype.name());
        text += &format!("largest relative error of a matrix: {percent:.2} % ({}, {dtype})\n", t.name);
    }
    text
}
