//! What a run says about itself at its end: one line on standard error, or one JSON object.

use std::fmt::{self, Display};
use std::time::Duration;

use oxwarp::Model;
use oxwarp::generate::{Generation, StopReason, Timings};
use serde_json::{Value, json};

use super::answer::Answer;

/// What there is to say about a generation that has ended.
pub struct Report {
    pub seed: u64,
    timings: Timings,
    stop_reason: Option<StopReason>,
}

impl Report {
    pub fn of(generation: &Generation<'_>) -> Report {
        Report {
            seed: generation.seed(),
            timings: generation.timings(),
            stop_reason: generation.stop_reason().cloned(),
        }
    }

    /// Tokens, tokens/s, time to the first token, and why it ended if the model did not end it.
    pub fn speed(&self) -> impl Display {
        fmt::from_fn(|f| {
            let Timings { n_prompt, n_cached, n_generated, first_token, .. } = self.timings;
            write!(f, "prompt {n_prompt} tokens")?;
            if n_cached > 0 {
                write!(f, " ({n_cached} cached)")?;
            }
            write_rate(f, self.timings.prompt_rate())?;
            write!(f, " | generated {n_generated} tokens")?;
            write_rate(f, self.timings.generated_rate())?;
            if n_generated > 0 {
                write!(f, " | first token after {:.2} s", first_token.as_secs_f64())?;
            }
            match &self.stop_reason {
                None | Some(StopReason::EndOfGeneration) => Ok(()),
                Some(StopReason::StopString(stop)) => write!(f, " | stopped at {stop:?}"),
                Some(StopReason::MaxTokens) => f.write_str(" | stopped at the token limit"),
                Some(StopReason::ContextFull) => f.write_str(" | stopped: the context is full"),
                Some(StopReason::Cancelled) => f.write_str(" | interrupted"),
            }
        })
    }

    /// The object that `--json` prints; what is not known is null.
    pub fn json(&self, model: &Model, prompt: &[u32], answer: &Answer, load_time: Duration) -> Value {
        let Report { seed, timings, stop_reason } = self;
        let memory = model.memory();
        let stop_string = match stop_reason {
            Some(StopReason::StopString(stop)) => Some(stop),
            _ => None,
        };
        json!({
            "model": model.path().to_string_lossy(),
            "device": model.device(),
            "seed": seed,
            "prompt_tokens": timings.n_prompt,
            "prompt_ids": prompt,
            "tokens": answer.ids,
            "text": answer.text,
            "stop_reason": stop_reason.as_ref().map(StopReason::name),
            "stop_string": stop_string,
            "timings": {
                "load_s": load_time.as_secs_f64(),
                "first_token_s": timings.first_token.as_secs_f64(),
                "prompt_tokens_per_s": timings.prompt_rate(),
                "generated_tokens_per_s": timings.generated_rate(),
                "total_s": (timings.first_token + timings.after_first).as_secs_f64(),
            },
            "memory": {
                "weights_bytes": memory.weights,
                "kv_cache_bytes": memory.kv_cache,
                "activations_bytes": memory.activations,
                "peak_resident_bytes": peak_resident_bytes(),
            },
        })
    }
}

/// The memory that `model` and this process hold, and the seed that repeats the text.
pub fn resources(model: &Model, seed: u64) -> impl Display {
    let memory = model.memory();
    let place = if model.device().starts_with("cuda") { "VRAM: " } else { "" };
    fmt::from_fn(move |f| {
        let (weights, kv_cache) = (mib(memory.weights), mib(memory.kv_cache));
        write!(f, "{place}weights {weights}, KV cache {kv_cache}, activations {}", mib(memory.activations))?;
        if let Some(bytes) = peak_resident_bytes() {
            write!(f, ", peak RSS {}", mib(bytes))?;
        }
        write!(f, " | seed {seed}")
    })
}

fn write_rate(f: &mut fmt::Formatter<'_>, tokens_per_s: Option<f64>) -> fmt::Result {
    tokens_per_s.map_or(Ok(()), |rate| write!(f, ", {rate:.1} tokens/s"))
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The most main memory that this process has held, the file's mapped pages included, where the system tells.
fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
