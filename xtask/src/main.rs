//! The project's commands: `cargo xtask demo`, `test`, `bench`, `setup`, `build-ptx`, `tidy`.

mod bench;
mod command;
mod demo;
mod paths;
mod ptx;
mod setup;
mod source_hash;
mod test;
mod tidy;

use command::{Failure, Result};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <command>

  demo                 set up what is missing, and run a small real model
  test                 set up what is missing, and run every check and test
  bench [FILTER] ...   time the kernels on this machine's GPU; `bench --help` lists the options

  setup                fetch what is missing: compiler parts, ptxas, the demo model
  build-ptx            compile and check the GPU kernels (target/ptx)
      --force          even those that are fresh
      --line-info      keep source lines, for profilers
  tidy                 check the project's invariants
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
        ["demo"] => demo::command(),
        ["test"] => test::command(),
        ["bench", arguments @ ..] => bench::command(arguments),
        ["setup"] => setup::command(),
        ["build-ptx", options @ ..] => ptx::build(build_options(options)?),
        ["tidy"] => tidy::check(),
        [] | ["help" | "--help" | "-h", ..] => {
            print!("{USAGE}");
            Ok(())
        }
        unknown => Err(Failure::Other(format!("unknown command `{}`\n\n{USAGE}", unknown.join(" ")))),
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
