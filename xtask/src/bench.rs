//! `cargo xtask bench`: the kernels' speed, on a machine with a GPU.

use crate::command::{Result, run};
use crate::test::cargo;
use crate::{paths, ptx};

/// Builds the kernels and the benchmarks, says where the binary is that can be carried elsewhere, and runs it with the
/// given arguments.
///
/// # Errors
/// A build that failed; no GPU; a result that is wrong.
pub fn command(arguments: &[&str]) -> Result<()> {
    ptx::build(ptx::Options::default())?;
    run(cargo().args(["build", "--release", "--package", "benches"]))?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| paths::workspace().join("target"), Into::into);
    let binary = target.join("release/oxwarp-bench");
    println!("\nbench: {} runs wherever a GPU's driver is", binary.display());
    run(std::process::Command::new(binary).args(arguments).current_dir(paths::workspace()))
}
