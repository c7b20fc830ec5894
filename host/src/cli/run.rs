//! `oxwarp run`: text from a model, once or in a conversation.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::string::FromUtf8Error;
use std::time::{Duration, Instant};

use oxwarp::Model;
use oxwarp::generate::GenerateOptions;
use oxwarp::tokenizer::{EncodeOptions, MAX_TEXT_BYTES, Message};

use super::answer::Answer;
use super::chat::{self, Opening};
use super::interrupt::Interrupt;
use super::options::{ENVIRONMENT, ModelArgs, SamplerArgs, count_or_all, some_text};
use super::report::{Report, resources};
use super::{Outcome, note};

/// Generate text from a prompt, or hold a conversation
///
/// The prompt is taken from --prompt, from --file, or from standard input if that is no terminal. It is put to the model
/// as a user's message if the file has a chat template, and continued as it is with --raw or if the file has none.
/// Without a prompt a conversation begins.
///
/// Text goes to standard output, everything else to standard error.
#[derive(clap::Args, Debug)]
#[command(after_help = ENVIRONMENT)]
pub struct Args {
    /// The prompt
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "prompt_file")]
    prompt: Option<String>,

    /// Read the prompt from a file; - is standard input
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    prompt_file: Option<PathBuf>,

    /// System message of the conversation
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,

    /// Continue the prompt as it is, without the chat template
    #[arg(long)]
    raw: bool,

    /// With --raw: take the texts of control tokens in the prompt, such as <|im_end|>, for the tokens
    #[arg(long, requires = "raw")]
    parse_special: bool,

    /// Converse also if there is a prompt, which is then the first message, or if standard input is no terminal
    #[arg(short, long, conflicts_with_all = ["raw", "json"])]
    interactive: bool,

    /// Tokens to generate at most; -1 is until the model ends or the context is full
    #[arg(short, long, value_name = "N", default_value = "-1", allow_negative_numbers = true)]
    #[arg(value_parser = count_or_all, env = "OXWARP_N_PREDICT", hide_env = true)]
    n_predict: usize,

    /// End before this text; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = some_text)]
    stop: Vec<String>,

    /// Print one JSON object at the end, and no text before
    #[arg(long)]
    json: bool,

    /// Tell what is done: the device, the prompt's tokens, the order of the sampler's stages
    #[arg(short, long)]
    verbose: bool,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    sampler: SamplerArgs,
}

impl Args {
    fn generate_options(&self) -> GenerateOptions {
        GenerateOptions {
            sampler: self.sampler.options(),
            max_tokens: (self.n_predict != usize::MAX).then_some(self.n_predict),
            stop: self.stop.clone(),
            cancel: None,
        }
    }
}

/// A prompt that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot take the prompt from {name}")]
struct PromptError {
    name: String,
    #[source]
    fault: PromptFault,
}

#[derive(Debug, thiserror::Error)]
enum PromptFault {
    #[error(transparent)]
    Read(io::Error),
    #[error("it is empty")]
    Empty,
    #[error("it has more than the {MAX_TEXT_BYTES} bytes that are allowed")]
    TooLong,
    #[error("it is not UTF-8 text: byte {at} is wrong")]
    NotText { at: usize },
}

/// Neither a prompt nor the means to converse.
#[derive(Debug, thiserror::Error)]
#[error("{}: the file has no chat template to converse with; give a text to continue with --prompt", path.display())]
struct NothingToDo {
    path: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Outcome {
    // Without a model, nobody needs to type a prompt.
    args.model.path();
    let prompt = read_prompt(&args)?;
    let start = Instant::now();
    let mut model = args.model.load()?;
    let load_time = start.elapsed();
    if args.verbose {
        let (device, n_ctx) = (model.device(), model.n_ctx());
        note(format_args!(
            "loaded in {:.2} s on {device}, context of {n_ctx} tokens",
            load_time.as_secs_f64()
        ));
    }
    match prompt {
        Some(prompt) if !args.interactive => answer_once(&args, &mut model, prompt, load_time),
        first => {
            if !model.has_chat_template() {
                return Err(NothingToDo { path: model.path().to_owned() }.into());
            }
            let options = args.generate_options();
            chat::converse(&mut model, Opening { system: args.system, first }, options, args.verbose)
        }
    }
}

/// The prompt, if there is any but one to be typed.
fn read_prompt(args: &Args) -> Result<Option<String>, PromptError> {
    let (name, text) = match (&args.prompt, &args.prompt_file) {
        (Some(prompt), _) => return Ok(Some(prompt.clone())),
        (None, Some(path)) if path.as_os_str() != "-" => {
            (path.display().to_string(), File::open(path).map_err(PromptFault::Read).and_then(read_text))
        }
        (None, None) if args.interactive || io::stdin().is_terminal() => return Ok(None),
        (None, _) => ("standard input".to_owned(), read_text(io::stdin())),
    };
    text.map(Some).map_err(|fault| PromptError { name, fault })
}

/// All of `source`, without the line break that editors and `echo` put at the end.
fn read_text(source: impl Read) -> Result<String, PromptFault> {
    let mut bytes = Vec::new();
    source.take(MAX_TEXT_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(PromptFault::Read)?;
    if bytes.len() > MAX_TEXT_BYTES {
        return Err(PromptFault::TooLong);
    }
    let not_text = |error: FromUtf8Error| PromptFault::NotText { at: error.utf8_error().valid_up_to() };
    let mut text = String::from_utf8(bytes).map_err(not_text)?;
    if text.ends_with('\n') {
        text.pop();
    }
    if text.is_empty() { Err(PromptFault::Empty) } else { Ok(text) }
}

/// One answer: streamed, or as one JSON object.
fn answer_once(args: &Args, model: &mut Model, prompt: String, load_time: Duration) -> Outcome {
    let tokens = prompt_tokens(args, model, prompt)?;
    let interrupt = Interrupt::catch();
    let options = GenerateOptions { cancel: Some(interrupt.flag()), ..args.generate_options() };
    let mut generation = model.generate_from_tokens(&tokens, options)?;
    if args.verbose {
        note(format_args!("prompt tokens: {tokens:?}\nsampler: {}", generation.sampler()));
    }
    let mut answer = if args.json { Answer::kept() } else { Answer::streamed() };
    answer.take(&mut generation)?;
    let report = Report::of(&generation);
    drop(generation);
    if args.json {
        writeln!(io::stdout(), "{}", report.json(model, &tokens, &answer, load_time))?;
    } else {
        answer.end_line()?;
        note(format_args!("[{} | {}]", report.speed(), resources(model, report.seed)));
    }
    Ok(if interrupt.happened() { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// The exit code of a program that Ctrl-C ended: 128 and the signal's number.
const INTERRUPTED: u8 = 130;

/// The prompt as the model is to see it.
fn prompt_tokens(args: &Args, model: &Model, prompt: String) -> Result<Vec<u32>, oxwarp::Error> {
    if args.raw || (!model.has_chat_template() && args.system.is_none()) {
        let options = EncodeOptions { parse_special: args.parse_special, ..EncodeOptions::PROMPT };
        return Ok(model.tokenizer().encode(&prompt, options)?);
    }
    let system = args.system.clone().map(|text| Message::new("system", text));
    let messages: Vec<Message> = system.into_iter().chain([Message::new("user", prompt)]).collect();
    Ok(model.chat_prompt(&messages)?.ids)
}
