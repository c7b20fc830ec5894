//! PyTorch's attention as a peer, where a Python with PyTorch is on the machine.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::stats::Stats;

/// The tokens are the last of the keys' ones, and see the keys up to their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Attention {
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub n_tokens: usize,
    pub n_keys: usize,
}

const SCRIPT: &str = include_str!("sdpa.py");

/// A back end, and its times or why there are none.
type Time = (String, Result<Stats, String>);

/// What PyTorch took for each shape.
#[derive(Debug, Default, PartialEq)]
pub struct Torch {
    pub version: String,
    times: BTreeMap<Attention, Vec<Time>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Version { version: String },
    Result { number: usize, backend: String, samples_us: Option<Vec<f64>>, error: Option<String> },
}

impl Torch {
    /// Lets PyTorch do all shapes; the reason where it cannot.
    pub fn measure(python: &Path, shapes: &[Attention]) -> Result<Self, String> {
        let list = serde_json::to_string(shapes).expect("numbers");
        let output = Command::new(python)
            .args(["-c", SCRIPT, &list])
            .output()
            .map_err(|error| format!("{}: {error}", python.display()))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let last = stderr.lines().last().unwrap_or("no message").to_string();
            return Err(format!("{}: {last}", python.display()));
        }
        Self::parse(&String::from_utf8_lossy(&output.stdout), shapes)
    }

    fn parse(text: &str, shapes: &[Attention]) -> Result<Self, String> {
        let mut torch = Torch::default();
        for line in text.lines().filter(|line| line.starts_with('{')) {
            match serde_json::from_str(line).map_err(|error| format!("{line:?}: {error}"))? {
                Line::Version { version } => torch.version = version,
                Line::Result { number, backend, samples_us, error } => {
                    let shape = *shapes.get(number).ok_or_else(|| format!("{line:?}: no shape {number}"))?;
                    let result = match samples_us {
                        Some(samples) if !samples.is_empty() => Ok(Stats::of(&samples)),
                        _ => Err(error.unwrap_or_else(|| "no samples".into())),
                    };
                    torch.times.entry(shape).or_default().push((backend, result));
                }
            }
        }
        Ok(torch)
    }

    /// Times of a shape, by back end.
    pub fn times(&self, shape: Attention) -> &[Time] {
        self.times.get(&shape).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Attention = Attention { n_heads: 4, n_kv_heads: 2, head_dim: 64, n_tokens: 8, n_keys: 8 };

    #[test]
    fn results_are_found_by_shape_and_failures_keep_their_reason() {
        let text = "a warning\n{\"version\": \"2.9\"}\n\
                    {\"number\": 0, \"backend\": \"flash\", \"samples_us\": [2.0, 1.0, 3.0]}\n\
                    {\"number\": 0, \"backend\": \"cudnn\", \"error\": \"No available kernel.\"}\n";
        let torch = Torch::parse(text, &[SHAPE]).expect("well formed");
        assert_eq!(torch.version, "2.9");
        let [(flash, Ok(stats)), (cudnn, Err(error))] = torch.times(SHAPE) else { panic!("{torch:?}") };
        assert_eq!((flash.as_str(), stats.median_us), ("flash", 2.0));
        assert_eq!((cudnn.as_str(), error.as_str()), ("cudnn", "No available kernel."));
        assert!(torch.times(Attention { n_heads: 8, ..SHAPE }).is_empty());
    }

    #[test]
    fn a_line_that_nobody_expects_is_an_error() {
        assert!(Torch::parse("{\"number\": 3, \"backend\": \"flash\"}\n", &[SHAPE]).is_err());
        assert!(Torch::parse("{\"what\": 1}\n", &[SHAPE]).is_err());
    }

    #[test]
    fn no_python_is_a_reason() {
        let why = Torch::measure(Path::new("no-such-python-here"), &[SHAPE]).expect_err("is not there");
        assert!(why.starts_with("no-such-python-here: "), "{why}");
    }
}
