//! `oxwarp synth`: a file with random weights in the shape of a public model.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::builder::PossibleValuesParser;
use indicatif::{ProgressBar, ProgressStyle};
use oxwarp::synth::{MAX_LAYERS, Plan, QUANTS, Quant, SHAPES, Shape};

use super::Outcome;

/// Write a file with random weights in the shape of a public model, for timing
///
/// The tensors, their types and sizes are those of the public file; what a model made of it writes means nothing.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The model whose shape to take
    #[arg(value_parser = PossibleValuesParser::new(SHAPES.map(|shape| shape.name)))]
    shape: String,

    /// How to store the weights: the name of llama.cpp's recipe
    #[arg(value_parser = PossibleValuesParser::new(QUANTS.map(|quant| quant.name)))]
    quant: String,

    /// File to write to
    #[arg(value_name = "OUT")]
    out: PathBuf,

    /// Layers of the model [default: as many as the public one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_LAYERS)))]
    layers: Option<u32>,

    /// Seed of the weights
    #[arg(short, long, value_name = "S", default_value = "1")]
    seed: u64,

    /// Replace OUT if it exists
    #[arg(long)]
    force: bool,
}

/// An output file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to {}", path.display())]
struct WriteError {
    path: PathBuf,
    source: io::Error,
}

/// An output file that nobody wants to lose.
#[derive(Debug, thiserror::Error)]
#[error("{} exists; --force replaces it", .0.display())]
struct Exists(PathBuf);

/// Runs the subcommand.
pub fn run(args: Args) -> Outcome {
    let shape = Shape::from_name(&args.shape).expect("clap lets known shapes through only");
    let quant = Quant::from_name(&args.quant).expect("clap lets known recipes through only");
    let plan = Plan::new(shape, quant, args.layers)?;
    if args.out.exists() && !args.force {
        return Err(Exists(args.out).into());
    }
    let bar = ProgressBar::new(plan.file_bytes());
    let style = ProgressStyle::with_template("{bytes:>11} of {total_bytes} {wide_bar} {bytes_per_sec:>13}");
    bar.set_style(style.expect("the template is well formed"));
    let start = Instant::now();
    let written = write(&plan, &args.out, args.seed, |n_bytes| bar.set_position(n_bytes));
    bar.finish_and_clear();
    written?;
    let (n_bytes, seconds) = (plan.file_bytes(), start.elapsed().as_secs_f64());
    let rate = n_bytes as f64 / 1e9 / seconds;
    super::note(format_args!(
        "{}: {n_bytes} bytes, {} layers, {} bytes of weights a token, {seconds:.1} s, {rate:.2} GB/s",
        args.out.display(),
        plan.n_layers,
        plan.bytes_per_token()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Writes beside `path` and renames at the end: whoever sees `path` sees a whole file.
fn write(plan: &Plan, path: &Path, seed: u64, progress: impl FnMut(u64)) -> Result<(), Box<dyn Error>> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".part");
    let partial = PathBuf::from(partial);
    let failed = |source| WriteError { path: path.to_owned(), source };
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&partial).map_err(failed)?;
    let written = write_all(plan, file, seed, progress).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // The error that is reported is the first one.
        let _ = fs::remove_file(&partial);
    }
    Ok(written.map_err(failed)?)
}

fn write_all(plan: &Plan, file: File, seed: u64, progress: impl FnMut(u64)) -> io::Result<()> {
    // Weights come in pieces of megabytes, which pass through; the head is written field by field.
    let mut out = BufWriter::with_capacity(1 << 20, file);
    plan.write(&mut out, seed, progress)?;
    out.flush()
}
