//! Options that several subcommands share, and the parsers of their values.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use indicatif::{ProgressBar, ProgressStyle};
use oxwarp::backend::cpu::CpuOptions;
use oxwarp::backend::gpu::GpuOptions;
use oxwarp::device::{DeviceChoice, DeviceOptions};
use oxwarp::sampler::{self, OptionRange, SamplerOptions};
use oxwarp::{LoadOptions, Model};

use super::note;

/// More than any machine has cores; fewer than a system refuses to start.
const MAX_THREADS: usize = 1024;

/// What `after_help` says of the environment.
pub const ENVIRONMENT: &str = "\
Settings may come from the environment too: OXWARP_TEMP for --temp, OXWARP_CTX_SIZE for --ctx-size,
OXWARP_MODEL for the file, and so on. The command line comes first.";

/// Which model, and where it runs.
#[derive(Args, Debug)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// The model, a GGUF file
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

    /// The model, as FILE
    #[arg(short, long, value_name = "FILE", conflicts_with = "file")]
    model: Option<PathBuf>,

    /// Tokens that prompt and answer may have together [default: what the model was trained for, at most 8192]
    #[arg(short, long, value_name = "N", env = "OXWARP_CTX_SIZE", hide_env = true)]
    #[arg(allow_negative_numbers = true, value_parser = whole(1..=usize::MAX))]
    ctx_size: Option<usize>,

    /// Allow a context longer than the model was trained for
    #[arg(long)]
    allow_longer_context: bool,

    /// Threads of the CPU back end [default: one for each core]
    #[arg(short, long, value_name = "N", env = "OXWARP_THREADS", hide_env = true)]
    #[arg(allow_negative_numbers = true, value_parser = whole(1..=MAX_THREADS))]
    threads: Option<usize>,

    /// Where to compute: auto, cpu, cuda, cuda:N or emulator
    #[arg(long, value_name = "DEVICE", default_value = "auto", env = "OXWARP_DEVICE", hide_env = true)]
    device: DeviceChoice,

    /// Bytes of the pieces in which weights go to a GPU; K and M may follow the number [default: 1M]
    #[arg(long, value_name = "BYTES", value_parser = chunk_size, env = "OXWARP_H2D_CHUNK", hide_env = true)]
    h2d_chunk: Option<GpuOptions>,
}

impl ModelArgs {
    /// The model's file. If none is given, the program ends as with any command line that lacks something.
    pub fn path(&self) -> PathBuf {
        // Not by clap, which would take a set variable and --model for a contradiction.
        let from_environment = || std::env::var_os("OXWARP_MODEL").map(PathBuf::from);
        let path = self.model.clone().or_else(|| self.file.clone()).or_else(from_environment);
        path.unwrap_or_else(|| no_model())
    }

    /// Loads the model, with a progress bar on standard error if that is a terminal.
    pub fn load(&self) -> Result<Model, oxwarp::Error> {
        let bar = ProgressBar::no_length();
        let style =
            ProgressStyle::with_template("loading {bar:40} {bytes} of {total_bytes}, {bytes_per_sec}");
        bar.set_style(style.expect("a literal template"));
        let model = Model::load(
            self.path(),
            LoadOptions {
                n_ctx: self.ctx_size,
                allow_longer_context: self.allow_longer_context,
                device: self.device,
                device_options: DeviceOptions {
                    cpu: CpuOptions { n_threads: self.threads, isa: None },
                    gpu: self.h2d_chunk.unwrap_or_default(),
                },
                progress: Some(&mut |progress| {
                    bar.set_length(progress.bytes_total);
                    bar.set_position(progress.bytes_done);
                }),
            },
        );
        bar.finish_and_clear();
        if let Some(notice) = model.as_ref().ok().and_then(Model::notice) {
            note(notice);
        }
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

/// How tokens are chosen.
#[derive(Args, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplerArgs {
    /// Seed of the draws: the same seed gives the same text; -1 is a random one
    #[arg(short, long, value_name = "N", default_value = "-1", allow_negative_numbers = true)]
    #[arg(value_parser = seed, env = "OXWARP_SEED", hide_env = true)]
    seed: Seed,

    /// Temperature, 0 to 2; 0 always takes the most probable token
    #[arg(long, value_name = "T", default_value = "0.8", allow_negative_numbers = true)]
    #[arg(value_parser = in_range(sampler::TEMPERATURE), env = "OXWARP_TEMP", hide_env = true)]
    temp: f32,

    /// Keep the K most probable tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value = "40", allow_negative_numbers = true)]
    #[arg(value_parser = whole(0..=usize::MAX), env = "OXWARP_TOP_K", hide_env = true)]
    top_k: usize,

    /// Keep the most probable tokens whose probabilities sum to P, 0 to 1; 1 keeps all
    #[arg(long, value_name = "P", default_value = "0.95", allow_negative_numbers = true)]
    #[arg(value_parser = in_range(sampler::TOP_P), env = "OXWARP_TOP_P", hide_env = true)]
    top_p: f32,

    /// Keep tokens at least P times as probable as the best one, 0 to 1; 0 keeps all
    #[arg(long, value_name = "P", default_value = "0.05", allow_negative_numbers = true)]
    #[arg(value_parser = in_range(sampler::MIN_P), env = "OXWARP_MIN_P", hide_env = true)]
    min_p: f32,

    /// Make tokens that occurred less probable, 0.01 to 100; 1 is off
    #[arg(long, value_name = "X", default_value = "1", allow_negative_numbers = true)]
    #[arg(value_parser = in_range(sampler::REPEAT_PENALTY), env = "OXWARP_REPEAT_PENALTY", hide_env = true)]
    repeat_penalty: f32,

    /// Take X from a token's logit for each time that it occurred, -100 to 100; 0 is off
    #[arg(long, value_name = "X", default_value = "0", allow_negative_numbers = true)]
    #[arg(value_parser = in_range(sampler::FREQUENCY_PENALTY), env = "OXWARP_FREQUENCY_PENALTY", hide_env = true)]
    frequency_penalty: f32,

    /// Take X from a token's logit if it occurred, -100 to 100; 0 is off
    #[arg(long, value_name = "X", default_value = "0", allow_negative_numbers = true)]
    #[arg(value_parser = in_range(sampler::PRESENCE_PENALTY), env = "OXWARP_PRESENCE_PENALTY", hide_env = true)]
    presence_penalty: f32,

    /// Tokens that the penalties look back at; 0 is none, -1 all
    #[arg(long, value_name = "N", default_value = "64", allow_negative_numbers = true)]
    #[arg(value_parser = count_or_all, env = "OXWARP_REPEAT_LAST_N", hide_env = true)]
    repeat_last_n: usize,
}

impl SamplerArgs {
    pub fn options(&self) -> SamplerOptions {
        SamplerOptions {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            repeat_last_n: self.repeat_last_n,
            seed: self.seed.0,
        }
    }
}

/// A seed; none for a random one.
#[derive(Clone, Copy, Debug)]
struct Seed(Option<u64>);

fn seed(text: &str) -> Result<Seed, String> {
    match text {
        "-1" => Ok(Seed(None)),
        _ => text.parse().map(|seed| Seed(Some(seed))).map_err(|_| format!("allowed: -1 to {}", u64::MAX)),
    }
}

fn chunk_size(text: &str) -> Result<GpuOptions, String> {
    let (number, unit) = match text.strip_suffix(['K', 'k']) {
        Some(number) => (number, 1 << 10),
        None => text.strip_suffix(['M', 'm']).map_or((text, 1), |number| (number, 1 << 20)),
    };
    let bytes = number.parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
    let options = bytes.and_then(|bytes| GpuOptions::with_chunk_bytes(bytes).ok());
    let (min, max) = (GpuOptions::MIN_CHUNK_BYTES, GpuOptions::MAX_CHUNK_BYTES);
    options.ok_or_else(|| format!("allowed: {min} to {max} bytes, as 65536, 512K or 1M"))
}

/// A parser of numbers in `range`, whose refusals name the range; clap names the option and the value.
fn in_range(range: OptionRange) -> impl Fn(&str) -> Result<f32, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().and_then(|number| range.check(number).ok());
        number.ok_or_else(|| format!("allowed: {} to {}", range.min, range.max))
    }
}

/// A whole number in `range`.
pub fn whole<T>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("allowed: {} to {}", range.start(), range.end()))
    }
}

/// A count, where -1 stands for all there are.
pub fn count_or_all(text: &str) -> Result<usize, String> {
    match text {
        "-1" => Ok(usize::MAX),
        _ => text.parse().map_err(|_| format!("allowed: -1 to {}", usize::MAX)),
    }
}

/// A text that is not empty.
pub fn some_text(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("allowed: at least one character") } else { Ok(text.to_owned()) }
}
