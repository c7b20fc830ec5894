//! The project's commands: `cargo xtask setup|build-ptx|demo|test|tidy`.

mod command;
mod paths;
mod ptx;
mod source_hash;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <command>

  setup                fetch what is missing: compiler parts, ptxas, the demo model
  build-ptx            compile and check the GPU kernels (target/ptx)
      --force          even if they are fresh
      --line-info      with source lines, for profilers
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match dispatch(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(words: &[&str]) -> command::Result<()> {
    match words {
        ["build-ptx", options @ ..] => ptx::build(ptx::Options {
            force: options.contains(&"--force"),
            line_info: options.contains(&"--line-info"),
        }),
        _ => Err(command::Failure::Other(USAGE.into())),
    }
}
