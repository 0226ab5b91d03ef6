//! `sarit eval qa`: exact match and F1 over rows of context, question and answer.

use crate::args::EvalQa;
use crate::extract::Passage;
use crate::prompt::Prompt;
use crate::score::{Means, Score, Tally, normalize, score};
use crate::session::{End, Meta, ModelFile, worker};
use crate::text::Text;
use crate::{output, parallel};
use anyhow::{Context, Result, anyhow, ensure};
use sarit_core::{Sampler, Sampling};
use sarit_quant::atomic;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

/// A row of the data.
#[derive(Debug, Deserialize)]
struct Row {
    lang: String,
    kind: String,
    context: String,
    question: String,
    answer: String,
    /// Other answers that are right.
    #[serde(default)]
    accept: Vec<String>,
}

impl Row {
    /// A kind has one part or several, such as record/layout/answer/phrasing; `none` means that the context holds no
    /// answer.
    fn is_unanswerable(&self) -> bool {
        self.kind.split('/').any(|part| part == "none")
    }
}

/// What `--predictions` writes for a row.
#[derive(Serialize)]
struct Prediction<'r> {
    lang: &'r str,
    kind: &'r str,
    question: &'r str,
    answer: &'r str,
    prediction: &'r str,
    exact_match: bool,
    f1: f64,
}

#[derive(Serialize)]
struct Summary {
    #[serde(flatten)]
    all: Means,
    languages: BTreeMap<String, Means>,
    /// Per part of the rows' kinds: of `person/table/value/new`, each of the four.
    kinds: BTreeMap<String, Means>,
    /// Rows with the context of the row before.
    #[serde(skip_serializing_if = "Option::is_none")]
    later_questions: Option<Means>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unanswerable: Option<Unanswerable>,
}

/// How well the model tells that a context holds no answer, in percent.
#[derive(Serialize)]
struct Unanswerable {
    /// Of the rows answered with the language's words for "not given", those that have no answer.
    precision: f64,
    /// Of the rows that have no answer, those answered so.
    recall: f64,
    rows: usize,
}

pub(crate) fn run(args: &EvalQa) -> Result<()> {
    let rows = rows(&args.data)?;
    let cannot = |path: &Path| format!("cannot write {}", path.display());
    if let Some(path) = &args.predictions {
        atomic::check(path).with_context(|| cannot(path))?;
    }
    let answers = answers(args, &rows)?;
    let mut scores = Vec::new();
    for (row, answer) in rows.iter().zip(&answers) {
        let accepted: Vec<String> =
            row.accept.iter().chain([&row.answer]).map(|text| normalize(text)).collect();
        scores.push(score(&normalize(answer), &accepted));
    }
    let summary = summarize(&rows, &answers, &scores);
    // Neither a file that cannot be written nor a reader that has left takes the other's result.
    let printed = if args.json { output::print_json(&summary) } else { output::print(&table(&summary)) };
    if let Some(path) = &args.predictions {
        write_predictions(path, &rows, &answers, &scores).with_context(|| cannot(path))?;
    }
    printed
}

fn rows(path: &Path) -> Result<Vec<Row>> {
    let shown = path.display();
    let data = std::fs::read(path).with_context(|| format!("cannot read {shown}"))?;
    let lines = data.split(|byte| *byte == b'\n').enumerate();
    let rows = lines.filter(|(_, line)| !line.trim_ascii().is_empty()).map(|(i, line)| {
        let line_number = i + 1;
        let row: Row = serde_json::from_slice(line).map_err(|error| {
            let reason = error.to_string();
            // serde_json counts lines from the start of this one.
            let reason = reason.split(" at line ").next().unwrap_or_default();
            anyhow!("line {line_number} of {shown} is not a row of question and answer: {reason}")
        })?;
        ensure!(!row.question.trim().is_empty(), "the question in line {line_number} of {shown} is empty");
        Ok(row)
    });
    let rows = rows.collect::<Result<Vec<Row>>>()?;
    ensure!(!rows.is_empty(), "{shown} holds no rows");
    Ok(rows)
}

/// The model's answers, shared out to as many workers as threads are asked for.
fn answers(args: &EvalQa, rows: &[Row]) -> Result<Vec<String>> {
    let file = ModelFile::open_to_run(args.model.as_deref(), &args.compute)?;
    let model = file.model_with(args.state.format)?;
    let meta = Meta::of(&model)?;
    let text = Text::of(&model, Prompt::specials(&meta))?;
    let prompt = Prompt::new(&meta, &text)?;
    ensure!(
        !args.keep_state || meta.prompt.is_some(),
        "an instruct model takes context and question as one message, so --keep-state does not go with it"
    );
    let extractor = if args.free { None } else { prompt.extractor()? };
    // Rows of one state each.
    let streams: Vec<&[Row]> = if args.keep_state {
        rows.chunk_by(|a, b| a.context == b.context).collect()
    } else {
        rows.chunks(1).collect()
    };
    let bar = output::bar(streams.len() as u64, "answering");
    let start = || worker(&model, &args.compute);
    let answers = parallel::map(streams.len(), args.compute.workers(), &bar, start, |(engine, memory), i| {
        let mut stream = memory.start(engine)?;
        let context = &streams[i][0].context;
        let mut ids = prompt.context_ids(context)?;
        let passage = extractor.as_ref().map(|extractor| extractor.passage(context)).transpose()?;
        let mut answers = Vec::new();
        for row in streams[i] {
            ids.extend(prompt.question_ids(&row.question)?);
            let mut answer = Vec::new();
            let mut sampler = Sampler::new(Sampling::default())?;
            let within = passage.as_ref().map(Passage::answer);
            let (stop, max_tokens) = (&prompt.stop, prompt.max_tokens);
            let ended = stream.continue_within(within, &ids, stop, max_tokens, &mut sampler, |token| {
                answer.push(token);
                Ok(())
            })?;
            answers.push(text.decode(&answer)?);
            // What the stream has not read: of an answer that was cut off, the last token.
            ids.clear();
            ids.extend(answer.last().filter(|_| ended == End::Limit));
            ids.extend(prompt.stop.first());
        }
        Ok(answers)
    });
    bar.finish_and_clear();
    Ok(answers?.concat())
}

fn write_predictions(path: &Path, rows: &[Row], answers: &[String], scores: &[Score]) -> Result<()> {
    let mut lines = String::new();
    for ((row, prediction), score) in rows.iter().zip(answers).zip(scores) {
        let Row { lang, kind, question, answer, .. } = row;
        let (exact_match, f1) = (score.exact, score.f1);
        lines += &serde_json::to_string(&Prediction {
            lang,
            kind,
            question,
            answer,
            prediction,
            exact_match,
            f1,
        })?;
        lines.push('\n');
    }
    Ok(atomic::write(path, |file| file.write_all(lines.as_bytes()))?)
}

fn summarize(rows: &[Row], answers: &[String], scores: &[Score]) -> Summary {
    let mut all = Tally::default();
    let (mut languages, mut kinds) = (BTreeMap::<_, Tally>::new(), BTreeMap::<_, Tally>::new());
    for (row, score) in rows.iter().zip(scores) {
        all.add(*score);
        languages.entry(row.lang.clone()).or_default().add(*score);
        for part in row.kind.split('/') {
            kinds.entry(part.to_owned()).or_default().add(*score);
        }
    }
    let mut later = Tally::default();
    for (pair, score) in rows.windows(2).zip(&scores[1..]) {
        if pair[0].context == pair[1].context {
            later.add(*score);
        }
    }
    let means =
        |tallies: BTreeMap<String, Tally>| tallies.into_iter().map(|(name, t)| (name, t.means())).collect();
    Summary {
        all: all.means(),
        languages: means(languages),
        kinds: means(kinds),
        later_questions: Some(later.means()).filter(|means| means.rows > 0),
        unanswerable: unanswerable(rows, answers),
    }
}

/// The words for "not given" are those that the data answers such rows with, in each language.
fn unanswerable(rows: &[Row], answers: &[String]) -> Option<Unanswerable> {
    let without = || rows.iter().filter(|row| row.is_unanswerable());
    let words: HashSet<_> = without().map(|row| (row.lang.as_str(), normalize(&row.answer))).collect();
    let (mut said, mut right) = (0, 0);
    for (row, answer) in rows.iter().zip(answers) {
        if words.contains(&(row.lang.as_str(), normalize(answer))) {
            said += 1;
            right += usize::from(row.is_unanswerable());
        }
    }
    let count = without().count();
    let percent = |of: usize| 100.0 * right as f64 / of.max(1) as f64;
    (count > 0).then(|| Unanswerable { precision: percent(said), recall: percent(count), rows: count })
}

fn table(summary: &Summary) -> String {
    let mut text = format!("{:<12} {:>6} {:>13} {:>7}\n", "", "rows", "exact match", "F1");
    let mut line = |name: &str, means: &Means| {
        let Means { exact_match, f1, rows } = means;
        let _ = writeln!(text, "{name:<12} {rows:>6} {exact_match:>13.1} {f1:>7.1}");
    };
    summary.languages.iter().for_each(|(name, means)| line(name, means));
    line("all", &summary.all);
    summary.later_questions.iter().for_each(|means| line("later", means));
    summary.kinds.iter().for_each(|(name, means)| line(name, means));
    if let Some(Unanswerable { precision, recall, rows }) = &summary.unanswerable {
        let _ =
            writeln!(text, "\n{rows} rows without an answer: precision {precision:.1}, recall {recall:.1}");
    }
    text
}
