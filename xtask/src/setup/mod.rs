//! `cargo xtask setup`: fetches what a fresh machine lacks. `demo` and `test` call it.
//!
//! Each step says what it does, is skipped when it is done, and when it cannot work names the one command that a person
//! can run instead.

mod compiler;
mod demo_model;
mod gpu_tools;
mod pip;

use crate::command::{Failure, Result};
use std::path::PathBuf;

/// What became of each step.
pub struct Outcome {
    /// The compiler's parts that build kernels.
    pub compiler: Result<()>,
    /// ptxas and its like, with which kernels are checked.
    pub gpu_tools: Result<()>,
    /// The demo model's file.
    pub model: Result<PathBuf>,
}

/// Runs every step; a failed one does not stop the others.
pub fn run() -> Outcome {
    let outcome =
        Outcome { compiler: compiler::install(), gpu_tools: gpu_tools::fetch(), model: demo_model::fetch() };
    for failure in [outcome.compiler.as_ref().err(), outcome.model.as_ref().err()].into_iter().flatten() {
        say(&format!("failed: {failure}"));
    }
    if let Err(failure) = &outcome.gpu_tools {
        say(&format!("no ptxas, so kernels are built without its checks: {failure}"));
    }
    outcome
}

impl Outcome {
    /// Whether all that builds, tests and the demo need is there. ptxas only adds checks.
    pub fn complete(self) -> Result<PathBuf> {
        self.compiler?;
        self.model
    }
}

/// `cargo xtask setup`.
///
/// # Errors
/// A step that failed; what failed has been printed.
pub fn command() -> Result<()> {
    match run().complete() {
        Ok(_) => {
            say("complete");
            Ok(())
        }
        Err(_) => Err(Failure::Other("setup is not complete, see above".into())),
    }
}

fn say(text: &str) {
    println!("setup: {text}");
}
