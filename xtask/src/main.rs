//! The project's commands: `cargo xtask setup|build-ptx`.

mod command;
mod paths;
mod ptx;
mod setup;
mod source_hash;

use command::{Failure, Result};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <command>

  setup                fetch what is missing: compiler parts, ptxas, the demo model
  build-ptx            compile and check the GPU kernels (target/ptx)
      --force          even those that are fresh
      --line-info      keep source lines, for profilers
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(words: &[&str]) -> Result<()> {
    match words {
        ["setup"] => setup::command(),
        ["build-ptx", options @ ..] => ptx::build(build_options(options)?),
        [] | ["help" | "--help" | "-h", ..] => {
            print!("{USAGE}");
            Ok(())
        }
        [unknown, ..] => Err(Failure::Other(format!("unknown command `{unknown}`\n\n{USAGE}"))),
    }
}

fn build_options(words: &[&str]) -> Result<ptx::Options> {
    let mut options = ptx::Options::default();
    for word in words {
        match *word {
            "--force" => options.force = true,
            "--line-info" => options.line_info = true,
            _ => return Err(Failure::Other(format!("build-ptx has no option `{word}`\n\n{USAGE}"))),
        }
    }
    Ok(options)
}
