//! A conversation at the terminal.

use std::process::ExitCode;

use oxwarp::Model;
use oxwarp::generate::{self, GenerateOptions};
use oxwarp::sampler::random_seed;
use oxwarp::tokenizer::Message;
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};

use super::answer::Answer;
use super::interrupt::Interrupt;
use super::report::{Report, resources};
use super::{Outcome, note, note_error};

const HELP: &str = "/exit or Ctrl-D ends, /reset forgets the conversation; Ctrl-C stops an answer";

/// What a conversation begins with.
pub struct Opening {
    pub system: Option<String>,
    /// The user's first message; otherwise it is typed.
    pub first: Option<String>,
}

/// Reads messages and answers them until there are no more.
pub fn converse(model: &mut Model, opening: Opening, options: GenerateOptions, verbose: bool) -> Outcome {
    // One seed for all: a turn's own is the seed plus the number of the turn, so that a question that is asked again may
    // be answered in another way.
    let seed = options.sampler.seed.unwrap_or_else(random_seed);
    let mut conversation =
        Conversation { model, system: opening.system, messages: Vec::new(), options, seed, n_turns: 0 };
    conversation.forget();
    let mut editor = DefaultEditor::with_config(Config::builder().auto_add_history(true).build())?;
    note(HELP);
    let mut first = opening.first;
    loop {
        let line = match first.take() {
            Some(first) => first,
            None => match editor.readline("> ") {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => {
                    note(HELP);
                    continue;
                }
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(error.into()),
            },
        };
        match line.trim() {
            "" => {}
            "/exit" => break,
            "/reset" => conversation.forget(),
            "/help" => note(HELP),
            message => conversation.answer(message, verbose)?,
        }
    }
    note(format_args!("[{}]", resources(conversation.model, seed)));
    Ok(ExitCode::SUCCESS)
}

struct Conversation<'m> {
    model: &'m mut Model,
    system: Option<String>,
    messages: Vec<Message>,
    options: GenerateOptions,
    seed: u64,
    n_turns: u64,
}

impl Conversation<'_> {
    fn forget(&mut self) {
        self.messages = self.system.clone().map(|text| Message::new("system", text)).into_iter().collect();
    }

    /// Streams an answer to `message`. A message that cannot be answered is said to be so and forgotten; errors are those
    /// of which the next message would suffer too.
    fn answer(&mut self, message: &str, verbose: bool) -> Result<(), Box<dyn std::error::Error>> {
        self.messages.push(Message::new("user", message));
        let prompt = self.model.chat_prompt(&self.messages)?;
        let interrupt = Interrupt::catch();
        let mut options = GenerateOptions { cancel: Some(interrupt.flag()), ..self.options.clone() };
        options.sampler.seed = Some(self.seed.wrapping_add(self.n_turns));
        let mut generation = match self.model.generate_from_tokens(&prompt.ids, options) {
            Ok(generation) => generation,
            Err(error @ oxwarp::Error::Generate(generate::Error::PromptTooLong { .. })) => {
                self.messages.pop();
                note_error(&error);
                note("the message has been dropped; /reset makes room");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        if verbose {
            note(format_args!("sampler: {}", generation.sampler()));
        }
        let mut answer = Answer::streamed();
        answer.take(&mut generation)?;
        let report = Report::of(&generation);
        drop(generation);
        answer.end_line()?;
        if verbose {
            note(format_args!("[{}]", report.speed()));
        }
        self.messages.push(Message::new("assistant", answer.text));
        self.n_turns += 1;
        Ok(())
    }
}
