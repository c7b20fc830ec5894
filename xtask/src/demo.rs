//! `cargo xtask demo`: from a fresh checkout to text that a real model writes.

use crate::command::{Result, run};
use crate::test::cargo;
use crate::{ptx, setup};

const PROMPT: &str = "Explain in a few sentences why the sky is blue.";

/// Sets up what is missing, builds, and runs the demo model.
///
/// # Errors
/// No demo model, or the build or the run failed. Without kernels the demo runs on the CPU.
pub fn command() -> Result<()> {
    let outcome = setup::run();
    let model = outcome.model?;
    if let Err(failure) = outcome.compiler.and_then(|()| ptx::build(ptx::Options::default())) {
        println!("demo: no GPU kernels, so it runs on the CPU: {failure}");
    }
    println!("\ndemo: building oxwarp");
    run(cargo().args(["build", "--release", "--package", "oxwarp"]))?;
    println!("\ndemo: oxwarp run {} -p \"{PROMPT}\"\n", model.display());
    let mut oxwarp = cargo();
    oxwarp.args(["run", "--release", "--quiet", "--package", "oxwarp", "--", "run"]);
    run(oxwarp.arg(&model).args(["-p", PROMPT]))
}
