//! `oxwarp logits`: what a model computes, as numbers.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::options::{ENVIRONMENT, ModelArgs, whole};
use super::{Outcome, note};

/// Write the logits after each token of a sequence
///
/// The output has n_tokens × n_vocab numbers without any header: 32-bit little-endian floats, those of the first token
/// first.
#[derive(clap::Args, Debug)]
#[command(after_help = ENVIRONMENT)]
pub struct Args {
    /// The token ids, with commas between them
    #[arg(long, value_name = "IDS", value_delimiter = ',', required = true)]
    #[arg(allow_negative_numbers = true, value_parser = whole(0..=u32::MAX))]
    tokens: Vec<u32>,

    /// File to write to
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,

    #[command(flatten)]
    model: ModelArgs,
}

/// An output file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to {}", path.display())]
struct WriteError {
    path: PathBuf,
    source: io::Error,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Outcome {
    let mut model = args.model.load()?;
    // Opened with the first row: a request that is refused leaves what is there alone.
    let mut file = None;
    let mut written = Ok(());
    model.logits_each(&args.tokens, |_, logits| {
        if written.is_ok() {
            written = write_row(&mut file, &args.output, logits);
        }
    })?;
    let flushed = written.and_then(|()| file.map_or(Ok(()), |mut file| file.flush()));
    flushed.map_err(|source| WriteError { path: args.output.clone(), source })?;
    let (n_tokens, n_vocab) = (args.tokens.len(), model.config().n_vocab);
    note(format_args!("{}: [{n_tokens}, {n_vocab}] f32", args.output.display()));
    Ok(ExitCode::SUCCESS)
}

fn write_row(file: &mut Option<BufWriter<File>>, path: &Path, logits: &[f32]) -> io::Result<()> {
    let file = match file {
        Some(file) => file,
        None => file.insert(BufWriter::new(File::create(path)?)),
    };
    logits.iter().try_for_each(|logit| file.write_all(&logit.to_le_bytes()))
}
