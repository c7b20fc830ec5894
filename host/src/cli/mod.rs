//! The command line: one file a subcommand, each with its `Args` and a `run(Args)`.

use std::process::ExitCode;

use clap::Parser;

/// Language models on NVIDIA GPUs, with every kernel written in Rust.
#[derive(Parser)]
#[command(name = "oxwarp", version)]
struct Cli {}

/// Parses the command line and runs the subcommand.
pub fn main() -> ExitCode {
    Cli::parse();
    ExitCode::SUCCESS
}
