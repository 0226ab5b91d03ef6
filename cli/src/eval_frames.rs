//! `sarit eval frames`: how many series of frames a classifier gets right.

use crate::args::EvalFrames;
use crate::output;
use crate::session::{Memory, Meta, ModelFile, cpu_with};
use crate::stream::{Clock, Rows};
use anyhow::{Context, Result, bail, ensure};
use sarit_core::plan::Readout;
use sarit_core::{Engine, argmax};
use serde::Serialize;
use std::collections::HashSet;
use std::fmt::Write as _;

#[derive(Serialize)]
struct Summary {
    /// Of all series, in percent.
    accuracy: f64,
    right: u64,
    series: u64,
    /// The longest series, in frames.
    frames: u64,
    labels: Vec<String>,
    /// Series per true class, and of those per class given.
    confusion: Vec<Vec<u64>>,
}

/// A series, as far as it was read.
struct Series {
    id: String,
    /// Its true class.
    class: usize,
    /// The class given after its last frame.
    given: usize,
    frames: u64,
}

pub(crate) fn run(args: &EvalFrames) -> Result<()> {
    let file = ModelFile::open_to_run(Some(&args.model), &args.compute)?;
    let model = file.model()?;
    let (name, meta) = (file.name(), Meta::of(&model)?);
    let is_classifier = matches!(model.output().readout, Readout::Classes(_));
    ensure!(is_classifier, "{name} is no classifier of frames; `sarit eval frames` needs one");
    let numbers = || (0..model.output_len()).map(|class| class.to_string()).collect();
    let labels: Vec<String> = meta.labels.clone().unwrap_or_else(numbers);
    ensure!(labels.len() == model.output_len(), "{name} does not name as many classes as it has");

    let mut clock = Clock::new(&args.columns, &meta).with_context(|| format!("cannot use model {name}"))?;
    let keys = [args.series_column.as_str(), &args.label_column];
    let mut rows = Rows::open(&args.data, &args.columns, &keys, &meta, model.frame_len())?;
    let engine = Engine::new(model, cpu_with(&args.compute, args.compute.threads.map_or(1, usize::from))?);
    let mut memory = Memory::new(&model, 1, &args.compute)?;
    let mut stream = memory.start(&engine)?;
    let (mut done, mut seen): (Vec<Series>, _) = (Vec::new(), HashSet::new());
    while let Some(row) = rows.next()? {
        let row = row.with_context(|| rows.place())?;
        let place = || rows.place();
        let [id, label] = row.keys.as_slice() else { bail!("{}: there are other keys", rows.place()) };
        let class = labels.iter().position(|known| known == label).with_context(|| {
            format!(
                "{}: a class of the model was expected ({}), but there is {label:?}",
                place(),
                labels.join(", ")
            )
        })?;
        if done.last().is_none_or(|series| series.id != *id) {
            ensure!(seen.insert(id.clone()), "{}: series {id:?} goes on after another has begun", place());
            done.push(Series { id: id.clone(), class, given: 0, frames: 0 });
            stream = memory.start(&engine)?;
            clock.restart();
        }
        let Some(series) = done.last_mut() else { continue };
        let first = &labels[series.class];
        ensure!(series.class == class, "{}: series {id:?} was {first:?}, but is {label:?} here", place());
        let interval = clock.interval(row.time).with_context(place)?;
        if args.first.is_none_or(|first| series.frames < first) {
            series.given = argmax(stream.step_frame(&row.frame, interval).with_context(place)?) as usize;
            series.frames += 1;
        }
    }
    ensure!(!done.is_empty(), "{} has no rows", args.data.display());
    let summary = summarize(&done, labels);
    if args.json { output::print_json(&summary) } else { output::print(&table(&summary)) }
}

fn summarize(all: &[Series], labels: Vec<String>) -> Summary {
    let mut confusion = vec![vec![0; labels.len()]; labels.len()];
    all.iter().for_each(|series| confusion[series.class][series.given] += 1);
    let (right, series) = ((0..labels.len()).map(|i| confusion[i][i]).sum(), all.len() as u64);
    Summary {
        accuracy: 100.0 * right as f64 / series as f64,
        right,
        series,
        frames: all.iter().map(|series| series.frames).max().unwrap_or(0),
        labels,
        confusion,
    }
}

/// True classes down, classes given across.
fn table(summary: &Summary) -> String {
    let Summary { accuracy, right, series, frames, labels, confusion } = summary;
    let width = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0).max(6) + 2;
    let mut text = " ".repeat(width);
    labels.iter().for_each(|label| text += &format!("{label:>width$}"));
    for (label, given) in labels.iter().zip(confusion) {
        let _ = write!(text, "\n{label:<width$}");
        given.iter().for_each(|count| text += &format!("{count:>width$}"));
    }
    let _ = writeln!(
        text,
        "\n\n{right} of {series} series right ({accuracy:.1} %) after at most {frames} frames each"
    );
    text
}
