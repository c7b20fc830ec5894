//! `cargo xtask test`: everything that decides whether the project is in order. CI runs exactly this.
//!
//! Tests that need a GPU are part of the same binaries and run where there is one.

use crate::command::{Failure, Result, run};
use crate::{paths, ptx, setup, tidy};
use std::env;
use std::io::{BufRead as _, BufReader, Write as _, stdout};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Runs every check, also after one that failed, and sums up.
///
/// # Errors
/// Any check that failed.
pub fn command() -> Result<()> {
    let mut steps = Steps::default();
    steps.run("setup", || setup::run().complete().map(|_| String::new()));
    steps.run("build-ptx", || ptx::build(ptx::Options::default()).map(|()| String::new()));
    steps.run("format", || quiet(cargo().args(["fmt", "--all", "--check"])));
    steps.run("tidy", || tidy::check().map(|()| String::new()));
    steps.run("clippy", || {
        quiet(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    steps.run("docs", || {
        quiet(cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
    });
    let mut counts = Counts::default();
    steps.run("tests", || {
        let (found, result) = tests();
        counts = found;
        result.and_then(|()| counts.judged())
    });
    steps.sum_up(&counts)
}

/// The cargo that runs this program, in the workspace.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::workspace());
    cargo
}

fn quiet(command: &mut Command) -> Result<String> {
    run(command).map(|()| String::new())
}

/// What became of each step, and how long it took.
#[derive(Default)]
struct Steps(Vec<(&'static str, Result<String>, f64)>);

impl Steps {
    fn run(&mut self, name: &'static str, step: impl FnOnce() -> Result<String>) {
        println!("\n== {name}");
        let start = Instant::now();
        let result = step();
        if let Err(failure) = &result {
            println!("{name} failed: {failure}");
        }
        self.0.push((name, result, start.elapsed().as_secs_f64()));
    }

    fn sum_up(self, counts: &Counts) -> Result<()> {
        println!("\n== summary");
        for (name, result, seconds) in &self.0 {
            let (verdict, detail) = match result {
                Ok(detail) => ("ok", detail.as_str()),
                Err(_) => ("FAILED", "see above"),
            };
            println!("  {name:<10} {verdict:<7} {seconds:>7.1} s  {detail}");
        }
        println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.ignored);
        let failed: Vec<_> =
            self.0.iter().filter(|(_, result, _)| result.is_err()).map(|(name, ..)| *name).collect();
        if failed.is_empty() { Ok(()) } else { Err(Failure::Other(format!("failed: {}", failed.join(", ")))) }
    }
}

/// Tests over all binaries and documentation.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
    ignored: usize,
}

impl Counts {
    /// Adds a line such as `test result: ok. 25 passed; 0 failed; 1 ignored; …`; any other line changes nothing.
    fn add(&mut self, line: &str) {
        let Some(result) = line.trim().strip_prefix("test result: ") else { return };
        let count = |word: &str| {
            let (before, _) = result.split_once(word)?;
            before.trim_end().rsplit(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok()
        };
        self.passed += count(" passed").unwrap_or(0);
        self.failed += count(" failed").unwrap_or(0);
        self.ignored += count(" ignored").unwrap_or(0);
    }

    /// A run of no test is a failure: it would say nothing.
    fn judged(&self) -> Result<String> {
        match self.passed {
            0 => Err(Failure::Other("no test ran".into())),
            passed => Ok(format!("{passed} tests")),
        }
    }
}

/// `cargo test`, shown as it goes and counted.
fn tests() -> (Counts, Result<()>) {
    let mut counts = Counts::default();
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]).stdout(Stdio::piped());
    let shown = "cargo test --workspace --no-fail-fast".to_string();
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return (counts, Err(Failure::Start { command: shown, error })),
    };
    let output = child.stdout.take().expect("stdout is piped");
    // Read as bytes: a test may print anything.
    for line in BufReader::new(output).split(b'\n').map_while(|line| line.ok()) {
        let line = String::from_utf8_lossy(&line);
        counts.add(&line);
        // A closed terminal must not end the tests.
        let _ = writeln!(stdout(), "{line}");
    }
    let result = match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            Err(Failure::Exit { command: shown, status: status.to_string(), output: String::new() })
        }
        Err(error) => Err(Failure::Start { command: shown, error }),
    };
    (counts, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed() {
        let mut counts = Counts::default();
        for line in [
            "test a ... ok",
            "test result: ok. 25 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 5.06s",
            "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            counts.add(line);
        }
        assert_eq!(counts, Counts { passed: 29, failed: 2, ignored: 1 });
    }

    #[test]
    fn no_test_is_a_failure() {
        assert!(Counts::default().judged().is_err());
        assert!(Counts { passed: 1, failed: 0, ignored: 0 }.judged().is_ok());
    }

    #[test]
    fn a_failed_step_fails_the_whole() {
        let mut steps = Steps::default();
        steps.run("good", || Ok(String::new()));
        steps.run("bad", || Err(Failure::Other("planted".into())));
        steps.run("after it", || Ok(String::new()));
        let message = steps.sum_up(&Counts::default()).expect_err("one failed").to_string();
        assert_eq!(message, "failed: bad");
    }
}
