//! `sarit ask`: a question about a text, or about the state of one that was read before.

use crate::args::{About, Ask};
use crate::extract::Passage;
use crate::input;
use crate::output::{self, Live};
use crate::prompt::Prompt;
use crate::session::{End, Memory, Meta, ModelFile, cpu};
use crate::text::Text;
use anyhow::{Context, Result, ensure};
use sarit_core::{Engine, Sampler, Sampling};
use serde::Serialize;

#[derive(Serialize)]
struct Answer {
    answer: String,
    /// Tokens read with this question; those behind a state were read before.
    prompt_tokens: usize,
    answer_tokens: usize,
    /// False if the answer was cut at the most tokens allowed.
    complete: bool,
}

pub(crate) fn run(args: &Ask) -> Result<()> {
    ensure!(!args.question.trim().is_empty(), "the question is empty; say what to ask with --question");
    let context = context(&args.about)?;
    let file = ModelFile::open_to_run(args.model.as_deref(), &args.compute)?;
    let state = args.about.state.as_deref();
    let (model, snapshot) = file.model_and_snapshot(args.state_format, state)?;
    let meta = Meta::of(&model)?;
    let text = Text::of(&model, Prompt::specials(&meta))?;
    let prompt = Prompt::new(&meta, &text)?;
    let engine = Engine::new(model, cpu(&args.compute)?);
    let mut memory = Memory::new(&model, args.compute.chunk(), &args.compute)?;

    let mut ids = match &context {
        Some(context) => prompt.context_ids(context)?,
        None => Vec::new(),
    };
    ids.extend(prompt.question_ids(&args.question)?);
    let extractor = match context {
        Some(_) if !args.free => prompt.extractor()?,
        _ => None,
    };
    let passage = match (&extractor, &context) {
        (Some(extractor), Some(context)) => Some(extractor.passage(context)?),
        _ => None,
    };
    let mut stream = match (state, &snapshot) {
        (Some(path), Some(snapshot)) => memory
            .resume(&engine, snapshot)
            .with_context(|| format!("cannot go on from state {}", path.display()))?,
        _ => memory.start(&engine)?,
    };

    let mut sampler = Sampler::new(Sampling::default())?;
    let max_tokens = args.max_tokens.unwrap_or(prompt.max_tokens);
    let answer = passage.as_ref().map(Passage::answer);
    let mut answer_tokens = 0;
    let mut live = Live::new(&text, args.json);
    let end = stream.continue_within(answer, &ids, &prompt.stop, max_tokens, &mut sampler, |token| {
        answer_tokens += 1;
        live.push(token)
    })?;
    match live.finish()? {
        None => Ok(()),
        Some(answer) => {
            let complete = end == End::Stop;
            output::print_json(&Answer { answer, prompt_tokens: ids.len(), answer_tokens, complete })
        }
    }
}

/// The text that the question is about, unless it is about a state.
fn context(about: &About) -> Result<Option<String>> {
    let context = match (&about.context, &about.context_file) {
        (Some(text), _) => {
            input::within(text.len() as u64, input::CONTEXT_LIMIT)?;
            text.clone()
        }
        (None, Some(path)) => input::context(path)?,
        (None, None) => return Ok(None),
    };
    ensure!(!context.trim().is_empty(), "the context is empty; give the text that the question is about");
    Ok(Some(context))
}
