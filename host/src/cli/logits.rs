//! `oxwarp logits`: what a model computes, as numbers.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use super::Outcome;
use super::options::{ENVIRONMENT, ModelArgs};

/// Write the logits after each token of a sequence
///
/// The output has n_tokens × n_vocab numbers without any header: 32-bit little-endian floats, those of the first token
/// first.
#[derive(clap::Args, Debug)]
#[command(after_help = ENVIRONMENT)]
pub struct Args {
    /// The token ids, with commas between them
    #[arg(long, value_name = "IDS", value_delimiter = ',', required = true)]
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
    let path = args.output;
    let failed = |source| WriteError { path: path.clone(), source };
    let mut model = args.model.load()?;
    let mut file = BufWriter::new(File::create(&path).map_err(failed)?);
    let mut written = Ok(());
    model.logits_each(&args.tokens, |_, logits| {
        if written.is_ok() {
            written = logits.iter().try_for_each(|logit| file.write_all(&logit.to_le_bytes()));
        }
    })?;
    written.and_then(|()| file.flush()).map_err(|source| Box::<dyn Error>::from(failed(source)))?;
    super::note(format_args!("{}: [{}, {}] f32", path.display(), args.tokens.len(), model.config().n_vocab));
    Ok(ExitCode::SUCCESS)
}
