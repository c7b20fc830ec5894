//! The command line: one file a subcommand, each with its `Args` and a `run(Args) -> Outcome`.
//!
//! To add a subcommand: write `cli/NAME.rs` with `pub struct Args` (derive [`clap::Args`]) and `pub fn run`, then add
//! one `mod` line, one variant of [`Command`] and one arm in [`Command::run`].
//!
//! Commands return their errors and print none of them: [`main`] is the only place that does, with the chain of causes
//! below, so an error's own text must not repeat its source's. A subcommand writes to standard output with
//! `writeln!(…)?`, never `println!`: a closed pipe is then an error like any other, and `main` ends quietly on it.

mod answer;
mod chat;
mod check;
mod inspect;
mod interrupt;
mod logits;
mod options;
mod report;
mod run;
mod synth;
mod tokenize;

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a subcommand ends with: exit code 0 or 1 by its own judgement, or an error, which is exit code 1.
/// (Exit code 2 is a command line that cannot be understood; clap ends the process with it.)
pub type Outcome = Result<ExitCode, Box<dyn Error>>;

/// Language models on NVIDIA GPUs, with every kernel written in Rust.
#[derive(Parser)]
#[command(name = "oxwarp", version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Logits(logits::Args),
    Tokenize(tokenize::Args),
    Inspect(inspect::Args),
    Check(check::Args),
    Synth(synth::Args),
}

impl Command {
    fn run(self) -> Outcome {
        match self {
            Command::Run(args) => run::run(args),
            Command::Logits(args) => logits::run(args),
            Command::Tokenize(args) => tokenize::run(args),
            Command::Inspect(args) => inspect::run(args),
            Command::Check(args) => check::run(args),
            Command::Synth(args) => synth::run(args),
        }
    }
}

/// Parses the command line, runs the subcommand and prints its error, if any.
pub fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(code) => code,
        Err(error) if is_closed_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => {
            note_error(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

/// A line on standard error, which is for everything but the output itself.
fn note(line: impl Display) {
    // If nobody listens there, nobody needs to know.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Says what went wrong: `error: …`, then one indented line for each cause.
fn note_error(error: &(dyn Error + 'static)) {
    let mut said = format!("error: {error}");
    for cause in causes(error).skip(1).map(ToString::to_string) {
        // Some texts end in their source's.
        if !said.ends_with(&cause) {
            said += &format!("\n  caused by: {cause}");
        }
    }
    note(said);
}

/// True when the reader of our output has gone (`oxwarp … | head`), which is no fault.
fn is_closed_pipe(error: &(dyn Error + 'static)) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// The error itself and then its sources, outermost first.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}
