//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::measure::Pace;

/// Times Oxwarp's kernels: against the limits of this machine, measured in the same run, against cuBLAS and cuBLASLt, and
/// against PyTorch's attention.
///
/// Needs an NVIDIA GPU and its driver, nothing else. cuBLASLt is looked for in the dynamic loader's places, in /usr/local/cuda*
/// and in Python's packages; PyTorch in python3. Without them their columns are empty, and the reason is printed.
#[derive(Debug, Parser)]
#[command(name = "oxwarp-bench", version)]
pub struct Options {
    /// Words that a case's name must contain, all of them; commas separate alternatives (gemv q4_k,q8_0)
    pub filter: Vec<String>,

    /// List the cases and end; needs no GPU
    #[arg(long)]
    pub list: bool,

    /// Fewer samples, and no PyTorch unless --torch names one: about a minute for everything
    #[arg(long)]
    pub quick: bool,

    /// Also the variants that a chooser could have chosen
    #[arg(long)]
    pub all_plans: bool,

    /// Write results as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write results as comma-separated values
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,

    /// Write results, table and charts to DIR/GPU/DATE
    #[arg(long, value_name = "DIR")]
    pub record: Option<PathBuf>,

    /// Draw the charts of recorded results again, beside them; needs no GPU
    #[arg(long, value_name = "RESULTS.json", conflicts_with_all = ["filter", "list", "json", "csv", "record"])]
    pub charts: Option<PathBuf>,

    /// Folder of libcublasLt and libcublas
    #[arg(long, value_name = "FOLDER", env = "OXWARP_BENCH_CUBLAS")]
    pub cublas: Option<PathBuf>,

    /// The Python that has PyTorch [default: that of the active environment, or python3]
    #[arg(long, value_name = "PYTHON", env = "OXWARP_BENCH_PYTHON")]
    pub torch: Option<PathBuf>,

    /// Leave PyTorch out
    #[arg(long)]
    pub no_torch: bool,

    /// Number of the GPU
    #[arg(long, default_value_t = 0)]
    pub gpu: u32,
}

impl Options {
    pub fn pace(&self) -> Pace {
        if self.quick { Pace::QUICK } else { Pace::FULL }
    }

    pub fn wants_torch(&self) -> bool {
        !self.no_torch && (!self.quick || self.torch.is_some())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn quick_leaves_torch_out_unless_it_is_named() {
        let wants = |words: &[&str]| Options::parse_from([&["oxwarp-bench"], words].concat()).wants_torch();
        assert!(wants(&[]) && wants(&["--quick", "--torch", "python3"]));
        assert!(!wants(&["--quick"]) && !wants(&["--no-torch"]));
    }
}
