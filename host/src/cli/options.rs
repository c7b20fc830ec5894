//! Options that several subcommands share, and the parsers of their values.

use std::path::PathBuf;

use clap::Args;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use indicatif::{ProgressBar, ProgressStyle};
use oxwarp::{LoadOptions, Model};

/// Which model, and where it runs.
#[derive(Args, Debug)]
pub struct ModelArgs {
    /// The model, a GGUF file [env: OXWARP_MODEL]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

    /// The model, as FILE
    #[arg(short, long, value_name = "FILE", conflicts_with = "file")]
    model: Option<PathBuf>,

    /// Tokens that prompt and answer may have together [default: what the model was trained for, at most 8192]
    #[arg(short, long, value_name = "N", env = "OXWARP_CTX_SIZE", hide_env_values = true)]
    ctx_size: Option<usize>,

    /// Allow a context longer than the model was trained for
    #[arg(long)]
    allow_longer_context: bool,

    /// Threads of the CPU back end [default: one for each core]
    #[arg(short, long, value_name = "N", env = "OXWARP_THREADS", hide_env_values = true)]
    threads: Option<usize>,
}

impl ModelArgs {
    /// Loads the model, with a progress bar on standard error if that is a terminal.
    pub fn load(&self) -> Result<Model, oxwarp::Error> {
        // Not by clap, which would take a set variable and --model for a contradiction.
        let from_environment = || std::env::var_os("OXWARP_MODEL").map(PathBuf::from);
        let path = self.model.clone().or_else(|| self.file.clone()).or_else(from_environment);
        let Some(path) = path else { no_model() };
        let bar = ProgressBar::no_length();
        let style =
            ProgressStyle::with_template("loading {bar:40} {bytes} of {total_bytes}, {bytes_per_sec}");
        bar.set_style(style.expect("a literal template"));
        let model = Model::load(
            path,
            LoadOptions {
                n_ctx: self.ctx_size,
                allow_longer_context: self.allow_longer_context,
                n_threads: self.threads,
                progress: Some(&mut |progress| {
                    bar.set_length(progress.bytes_total);
                    bar.set_position(progress.bytes_done);
                }),
            },
        );
        bar.finish_and_clear();
        model
    }
}

/// Ends the program as clap does when a required argument is missing; that the file may come from two arguments or from
/// the environment is beyond what clap can be told.
fn no_model() -> ! {
    let mut error = clap::Error::new(ErrorKind::MissingRequiredArgument);
    error.insert(ContextKind::InvalidArg, ContextValue::Strings(vec!["<FILE>".to_owned()]));
    error.exit()
}
