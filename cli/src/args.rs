//! The command line.

mod compute;

use crate::session::CHUNK;
use crate::stream::is_interval;
use clap::{Parser, Subcommand};
pub(crate) use compute::{Backend, Compute, StateFormat};
use compute::{parse_backend, parse_state};
use sarit_core::{DType, SampleError, Sampler, Sampling, StateDType};
use std::num::ParseFloatError;
use std::path::PathBuf;

/// Answers questions about a text, in Indic languages and English, on this machine and in constant memory.
///
/// Results go to standard output, all else to standard error. Exit code 0: success, 1: failure, 2: wrong usage.
#[derive(Debug, Parser)]
#[command(
    name = "sarit",
    version,
    arg_required_else_help = true,
    after_help = "Examples:
  sarit ask --context \"नाम: रवि; उम्र: 34\" --question \"रवि की उम्र क्या है?\"
  sarit read --context-file notes.txt -o notes.state
  sarit convert ./mamba2-130m -o mamba2-130m.sarit --weights q8

`sarit COMMAND --help` explains a command."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Ask(Ask),
    Read(Read),
    Generate(Generate),
    Chat(Chat),
    Pull(Pull),
    Convert(Convert),
    Inspect(Inspect),
    Logits(Logits),
    #[command(subcommand)]
    Eval(Eval),
    Bench(Bench),
    Stream(Stream),
    Verify(Verify),
    Devices(Devices),
}

/// Measure a model's quality.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  sarit eval qa tests/data/indic-qa/eval.jsonl
  sarit eval ppl tests/data/indic-qa/lm-text.txt --json
  sarit eval frames models/motion.sarit tests/data/motion/test.csv")]
pub(crate) enum Eval {
    Qa(EvalQa),
    Ppl(EvalPpl),
    Frames(EvalFrames),
}

fn parse_dtype(text: &str) -> Result<DType, String> {
    let wanted = DType::ALL.into_iter().find(|dtype| dtype.name() == text);
    wanted.ok_or_else(|| "choose f32, f16, q8 or q4".to_owned())
}

/// Answer a question about a text.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The bundled model, and any whose file says so, answers with a part of the text, word for word, or with its words for
\"not given\". With --free, and with --state, where the text is not known, nothing holds it to that.

Examples:
  sarit ask --context \"Name: Ravi; age: 34; city: Pune\" --question \"What is Ravi's age?\"
  sarit ask --context-file notes.txt --question \"रवि कहाँ रहता है?\"
  sarit ask --state notes.state --question \"रवि कहाँ रहता है?\" --json"
)]
pub(crate) struct Ask {
    /// Model file [default: the bundled Indic question answering model]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) about: About,
    /// The question
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) question: String,
    /// Stop after this many tokens [default: as the model states]
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<usize>,
    /// Let the model answer freely, not only with parts of the text
    #[arg(long)]
    pub(crate) free: bool,
    /// Element type of the state: f32, f16 or i8 [default: that of the state file, or as the model file says]
    #[arg(long, value_name = "T", value_parser = parse_state)]
    pub(crate) state_format: Option<StateDType>,
    #[command(flatten)]
    pub(crate) compute: Compute,
    /// Print one JSON object when the answer is complete
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a question is about.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct About {
    /// The text itself, at most 1 MiB
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) context: Option<String>,
    /// File with the text, at most 1 MiB; `-` reads standard input; newlines at its end do not count
    #[arg(long, value_name = "F")]
    pub(crate) context_file: Option<PathBuf>,
    /// State of a text that `sarit read` has read with the same model
    #[arg(long, value_name = "F")]
    pub(crate) state: Option<PathBuf>,
}

/// Read a text once and keep the state, to ask questions about it later.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sarit read --context-file notes.txt -o notes.state
  sarit ask --state notes.state --question \"रवि कहाँ रहता है?\"")]
pub(crate) struct Read {
    /// Model file [default: the bundled Indic question answering model]
    pub(crate) model: Option<PathBuf>,
    /// File with the text, at most 1 MiB; `-` reads standard input; newlines at its end do not count
    #[arg(long, value_name = "F")]
    pub(crate) context_file: PathBuf,
    /// State file to write
    #[arg(short, long, value_name = "F")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) compute: Compute,
    #[command(flatten)]
    pub(crate) state: StateFormat,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Continue a text.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Special tokens in the prompt, such as <bos>, are read as such. Only the continuation is printed.

Examples:
  sarit generate mamba2-130m.sarit --prompt \"The river\" --max-tokens 50
  sarit generate mamba2-130m.sarit --prompt-file start.txt --temperature 0.8 --top-p 0.9 --seed 7
  sarit generate falcon-h1-instruct.sarit --chat --prompt \"Name three rivers.\""
)]
pub(crate) struct Generate {
    /// Model file [default: the bundled Indic question answering model]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) start: Start,
    /// Stop after this many tokens
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(crate) max_tokens: usize,
    /// Take the prompt as a user's message to an instruct model, and print its answer
    #[arg(long)]
    pub(crate) chat: bool,
    #[command(flatten)]
    pub(crate) sampling: Choice,
    #[command(flatten)]
    pub(crate) compute: Compute,
    #[command(flatten)]
    pub(crate) state: StateFormat,
    /// Print one JSON object when the text is complete
    #[arg(long)]
    pub(crate) json: bool,
}

/// How tokens are chosen.
#[derive(Debug, clap::Args)]
pub(crate) struct Choice {
    /// 0: always the likeliest token; higher: more varied
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true, value_parser = parse_temperature)]
    temperature: f32,
    /// Choose among this many likeliest tokens; 0: all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true, value_parser = parse_top_p)]
    top_p: f32,
    /// The same seed gives the same text
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
}

impl Choice {
    /// A sampler for the text numbered `text`: each has a seed of its own.
    pub(crate) fn sampler(&self, text: u64) -> Result<Sampler, SampleError> {
        let Self { temperature, top_k, top_p, seed } = *self;
        Sampler::new(Sampling { temperature, top_k, top_p, seed: seed.wrapping_add(text) })
    }
}

fn parse_temperature(text: &str) -> Result<f32, String> {
    parse_sampling(text, |temperature| Sampling { temperature, ..Sampling::default() })
}

fn parse_top_p(text: &str) -> Result<f32, String> {
    parse_sampling(text, |top_p| Sampling { top_p, ..Sampling::default() })
}

/// A number that a sampler takes.
fn parse_sampling(text: &str, sampling: impl Fn(f32) -> Sampling) -> Result<f32, String> {
    let number = text.parse().map_err(|error: ParseFloatError| error.to_string())?;
    Sampler::new(sampling(number)).map_err(|error| error.to_string())?;
    Ok(number)
}

/// Where a generated text starts.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Start {
    /// The text to continue
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
    /// File with the text to continue, taken as it is; `-` reads standard input
    #[arg(long, value_name = "F")]
    pub(crate) prompt_file: Option<PathBuf>,
}

/// Talk with an instruct model.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every line of standard input is a message; the answer is printed as it comes. The model reads only what is new.
A line that begins with / is a command: /save F, /load F, /reset, /help, /quit. /save writes the state to F,
as `sarit read` does, and the text of the conversation to F.json. In a terminal a command that fails does not
end the conversation; elsewhere it does.

Examples:
  sarit chat falcon-h1-instruct.sarit
  sarit chat falcon-h1-instruct.sarit --system \"Answer in Hindi.\" --temperature 0.7 --seed 7
  sarit chat falcon-h1-instruct.sarit --state rivers.chat
  echo \"Name three rivers.\" | sarit chat falcon-h1-instruct.sarit --json"
)]
pub(crate) struct Chat {
    /// Model file of an instruct model [default: the bundled model, which is none]
    pub(crate) model: Option<PathBuf>,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "state")]
    pub(crate) system: Option<String>,
    /// Go on with a conversation that /save has saved
    #[arg(long, value_name = "F")]
    pub(crate) state: Option<PathBuf>,
    /// Stop an answer after this many tokens
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = parse_tokens)]
    pub(crate) max_tokens: usize,
    /// Element type of the state: f32, f16 or i8 [default: that of the state file, or as the model file says]
    #[arg(long, value_name = "T", value_parser = parse_state)]
    pub(crate) state_format: Option<StateDType>,
    #[command(flatten)]
    pub(crate) sampling: Choice,
    #[command(flatten)]
    pub(crate) compute: Compute,
    /// Print one JSON object for each answer, when it is complete
    #[arg(long)]
    pub(crate) json: bool,
}

/// Download a model from the Hugging Face Hub.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Takes the configuration, the tokenizer, the chat template and the weights: safetensors, or else
pytorch_model.bin, or else the one GGUF file. Files that are there already are checked and not taken again, and a
download that was cut goes on where it ended. Checksums are compared where the Hub states them.

A token comes from HF_TOKEN or the file that `huggingface-cli login` writes; HF_ENDPOINT is another Hub to use.

Examples:
  sarit pull state-spaces/mamba2-130m
  sarit pull tiiuae/Falcon-H1-0.5B-Instruct -o falcon --convert q4
  sarit pull tiiuae/Falcon-H1-0.5B-Instruct-GGUF --gguf Falcon-H1-0.5B-Instruct-Q4_K_M.gguf"
)]
pub(crate) struct Pull {
    /// The model's name on the Hub
    #[arg(value_name = "OWNER/NAME")]
    pub(crate) name: String,
    /// Folder to write to [default: NAME]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Branch, tag or commit
    #[arg(long, value_name = "R", default_value = "main")]
    pub(crate) revision: String,
    /// Take this GGUF file instead of a checkpoint
    #[arg(long, value_name = "FILE.gguf")]
    pub(crate) gguf: Option<String>,
    /// Also compile it into DIR/NAME-W.sarit, with its large matrices as f32, f16, q8 or q4
    #[arg(long, value_name = "W", value_parser = parse_dtype)]
    pub(crate) convert: Option<DType>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Compile a checkpoint (Hugging Face or state-spaces) into a model file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sarit convert ./mamba2-130m -o mamba2-130m.sarit
  sarit convert ./indic-qa -o indic-qa.sarit --weights q4 --meta indic-qa.meta.json")]
pub(crate) struct Convert {
    /// Checkpoint folder or file
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,
    /// Model file to write
    #[arg(short, long, value_name = "OUT.sarit")]
    pub(crate) output: PathBuf,
    /// Element type of the large matrices: f32, f16, q8 or q4
    #[arg(long, value_name = "W", default_value = "q8", value_parser = parse_dtype)]
    pub(crate) weights: DType,
    /// Element type that states have unless a command asks for another: f32, f16 or i8
    #[arg(long, visible_alias = "state-format", value_name = "T", default_value = "f32", value_parser = parse_state)]
    pub(crate) state: StateDType,
    /// Positions that attention layers keep; as many as the model was trained for, at most 4096, if left out
    #[arg(long, value_name = "N")]
    pub(crate) window: Option<usize>,
    /// JSON object for the model's meta section: name, languages, licence, source, prompt
    #[arg(long, value_name = "FILE.json")]
    pub(crate) meta: Option<PathBuf>,
    /// Print one JSON object with every tensor's error
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show a model's plan, sizes, memory and quantization.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sarit inspect
  sarit inspect mamba2-130m.sarit --json")]
pub(crate) struct Inspect {
    /// Model file [default: the bundled Indic question answering model]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) state: StateFormat,
    /// Print one JSON object, with every block and tensor
    #[arg(long)]
    pub(crate) json: bool,
}

/// Write the logits after each of the given tokens; print the hash of the state after the last.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  sarit logits model.sarit --ids 5,7,9 --chunk 1 -o logits.safetensors")]
pub(crate) struct Logits {
    /// Model file [default: the bundled Indic question answering model]
    pub(crate) model: Option<PathBuf>,
    /// Token ids
    #[arg(long, value_name = "5,7,9", value_delimiter = ',', required = true)]
    pub(crate) ids: Vec<u32>,
    /// Tokens to read at once; the results are the same bits
    #[arg(long, value_name = "N", default_value_t = CHUNK, value_parser = parse_tokens)]
    pub(crate) chunk: usize,
    /// File to write: tensor `logits`, f32 [tokens, vocabulary]
    #[arg(short, long, value_name = "F.safetensors")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) compute: Compute,
    #[command(flatten)]
    pub(crate) state: StateFormat,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

fn parse_tokens(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least one token is needed".to_owned()),
        Ok(tokens) => Ok(tokens),
        Err(error) => Err(format!("{error}")),
    }
}

/// Exact match and F1 of the answers to given questions, per language.
#[derive(Debug, clap::Args)]
#[command(
    allow_missing_positional = true,
    after_help = "A row is an object: lang, kind, context, question, answer and, if other answers are right too, accept.
Answers are compared in NFC, without blanks around and without one final full stop (Urdu's too) or danda.
The second and later ones of rows with the same context, one after the other, are also counted by themselves (later).
With --keep-state they are asked of the state that has read the context, the questions before and the model's answers.
A model whose file says so answers with parts of the context, word for word, or with its words for \"not given\"; with
--free nothing holds it to that.

Examples:
  sarit eval qa tests/data/indic-qa/eval.jsonl
  sarit eval qa training/qa/natural-dev.jsonl --keep-state
  sarit eval qa model.sarit rows.jsonl --json --predictions answers.jsonl"
)]
pub(crate) struct EvalQa {
    /// Model file [default: the bundled Indic question answering model]
    pub(crate) model: Option<PathBuf>,
    /// Rows, one JSON object a line
    #[arg(value_name = "DATA.jsonl", required = true)]
    pub(crate) data: PathBuf,
    /// Also write every row's answer, one JSON object a line
    #[arg(long, value_name = "F.jsonl")]
    pub(crate) predictions: Option<PathBuf>,
    /// Read a context once for all of its rows in a row, as someone does who asks on
    #[arg(long)]
    pub(crate) keep_state: bool,
    /// Let the model answer freely, not only with parts of the text
    #[arg(long)]
    pub(crate) free: bool,
    #[command(flatten)]
    pub(crate) compute: Compute,
    #[command(flatten)]
    pub(crate) state: StateFormat,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Perplexity per token and bits per byte of a text, line by line.
#[derive(Debug, clap::Args)]
#[command(
    allow_missing_positional = true,
    after_help = "Every line that is not empty is read by itself, after the model's first special token if it has one, and cut
at 1,024 tokens. All tokens after the first count, and with them all bytes of the text that was read.

With --stream the lines are one unbroken text of so many tokens, begun again where it ends, and only the last tokens
count: what a state is still worth after a long text.

Examples:
  sarit eval ppl tests/data/indic-qa/lm-text.txt
  sarit eval ppl model.sarit text.txt --json
  sarit eval ppl model.sarit text.txt --stream 100000 --last 10000 --state i8"
)]
pub(crate) struct EvalPpl {
    /// Model file [default: the bundled Indic question answering model]
    pub(crate) model: Option<PathBuf>,
    /// UTF-8 text, one paragraph a line
    #[arg(value_name = "TEXT", required = true)]
    pub(crate) text: PathBuf,
    /// Read the text as one stream of so many tokens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) stream: Option<u32>,
    /// Count only so many tokens at the end of the stream [default: all]
    #[arg(long, value_name = "N", requires = "stream", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) last: Option<u32>,
    #[command(flatten)]
    pub(crate) compute: Compute,
    #[command(flatten)]
    pub(crate) state: StateFormat,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Accuracy of a classifier of frames over series of rows, and which classes it mistakes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The file has a first line with names, one row a frame, and the rows of a series together. A series is read from a
fresh state; what the model says after its last frame counts.

Examples:
  sarit eval frames models/motion.sarit tests/data/motion/test.csv
  sarit eval frames models/motion.sarit tests/data/motion/test.csv --first 20
  sarit eval frames motion.sarit rows.csv --series-column id --label-column activity --time-column t --json"
)]
pub(crate) struct EvalFrames {
    /// Model file of a classifier of frames
    pub(crate) model: PathBuf,
    /// Rows of series, labels and frames; `-` reads standard input
    #[arg(value_name = "DATA.csv")]
    pub(crate) data: PathBuf,
    /// Column with the name or number of the row's series
    #[arg(long, value_name = "NAME", default_value = "series")]
    pub(crate) series_column: String,
    /// Column with the true class, as the model names it
    #[arg(long, value_name = "NAME", default_value = "label")]
    pub(crate) label_column: String,
    #[command(flatten)]
    pub(crate) columns: Columns,
    /// Read only the first frames of each series
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) first: Option<u64>,
    #[command(flatten)]
    pub(crate) compute: Compute,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Measure reading and generating speed against the machine's memory bandwidth.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The fraction of the bandwidth counts the bytes that a token needs: all weights (the embedding only where it is
the head too), the state read, and what of it is written. A model that fits in the cache can exceed 100 %.

Examples:
  sarit bench
  sarit bench mamba2-130m.sarit --prompt 512 --generate 128 --threads 2 --json
  sarit bench mamba2-130m.sarit --streams 8 --state i8"
)]
pub(crate) struct Bench {
    /// Model file [default: the bundled Indic question answering model]
    pub(crate) model: Option<PathBuf>,
    /// Tokens to read
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) prompt: u32,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) generate: u32,
    /// Streams that generate at once, with one read of the weights for a token of each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) streams: u16,
    /// Runs, of which the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) runs: u32,
    #[command(flatten)]
    pub(crate) compute: Compute,
    #[command(flatten)]
    pub(crate) state: StateFormat,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Step a frame model through rows of numbers, one result a row, as the rows arrive.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without names, a row has as many numbers as a frame, in the order of training. A model that states the names of its
columns, or --columns, takes those from a file whose first line has names. A first line without any number is a line of
names. Numbers are separated by commas.

One line is printed for each row: the likeliest class and its probability, or the values, separated by tabs.
How many rows a second were read, and how long each took, is printed to standard error at the end.

Examples:
  sarit stream motion.sarit --csv walk.csv
  sensor | sarit stream motion.sarit --csv - --json
  sarit stream motion.sarit --csv walk.csv --columns ax,ay,az,gx,gy,gz --time-column t --skip-bad"
)]
pub(crate) struct Stream {
    /// Model file of a frame model
    pub(crate) model: PathBuf,
    /// File with the rows; `-` reads standard input
    #[arg(long, value_name = "F")]
    pub(crate) csv: PathBuf,
    #[command(flatten)]
    pub(crate) columns: Columns,
    /// Pass over rows that cannot be used, and count them
    #[arg(long)]
    pub(crate) skip_bad: bool,
    #[command(flatten)]
    pub(crate) compute: Compute,
    /// Print one JSON object for each row, and one with the summary at the end
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which columns of a file are read.
#[derive(Debug, clap::Args)]
pub(crate) struct Columns {
    /// Columns that make a frame, in this order, by their names; by numbers from 1 where there are no names
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    pub(crate) columns: Option<Vec<String>>,
    /// Column with the time of a row in seconds: a longer interval than in training moves the model's state on further
    #[arg(long, value_name = "NAME")]
    pub(crate) time_column: Option<String>,
    /// Seconds from one frame to the next in training [default: as the model states]
    #[arg(long, value_name = "S", requires = "time_column", allow_negative_numbers = true, value_parser = parse_interval)]
    pub(crate) frame_interval: Option<f64>,
}

fn parse_interval(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| is_interval(*seconds));
    seconds.ok_or_else(|| "give a number of seconds above 0".to_owned())
}

/// Check that every instruction set of this machine, or its GPU, gives the same bits, with every element type of the state.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads 200 tokens or frames with each instruction set, 1 and 2 threads, chunks of 1, 7 and 64 tokens, and three streams of tokens at
once, and compares the hashes of the results and of the states with those of the scalar definition. With --backend, only that
one: cuda, which takes models of tokens and holds states in f32, hands the state to the processor and back in the middle of
the text as well.

Examples:
  sarit verify
  sarit verify mamba2-130m.sarit --json
  sarit verify mamba2-130m.sarit --backend cuda"
)]
pub(crate) struct Verify {
    /// Model file [default: the bundled Indic question answering model]
    pub(crate) model: Option<PathBuf>,
    /// Only this element type of the state: f32, f16 or i8
    #[arg(long, visible_alias = "state-format", value_name = "T", value_parser = parse_state)]
    pub(crate) state: Option<StateDType>,
    /// Only this back end: an instruction set, or cuda
    #[arg(long, value_name = "B", value_parser = parse_backend)]
    pub(crate) backend: Option<Backend>,
    /// Which GPU, as `sarit devices` numbers them
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) device: usize,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// List what can run a model: the processor's instruction sets, and GPUs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  sarit devices --json")]
pub(crate) struct Devices {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Args::command().debug_assert();
    }
}
