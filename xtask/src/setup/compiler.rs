//! core's sources and LLVM's tools: rustup's components, else Debian's packages.

use super::say;
use crate::command::{Result, run};
use crate::ptx::toolchain::{DEBIAN_PACKAGES, RUSTUP_COMPONENTS, Toolchain, find_in_path};
use std::process::Command;

/// Completes the toolchain that compiles kernels.
pub fn install() -> Result<()> {
    if let Ok(toolchain) = Toolchain::find() {
        say(&format!("compiler for kernels: {} with {}", toolchain.rustc.display(), toolchain.opt.display()));
        return Ok(());
    }
    for (what, command) in ways() {
        say(&format!("compiler for kernels: {what}"));
        if let Err(failure) = command.into_iter().try_for_each(|mut command| run(&mut command)) {
            say(&format!("that did not work: {failure}"));
        } else if Toolchain::find().is_ok() {
            return Ok(());
        }
    }
    Toolchain::find().map(|_| ())
}

/// What can be tried here without asking anybody.
fn ways() -> Vec<(String, Vec<Command>)> {
    let mut ways = Vec::new();
    if find_in_path("rustup").is_some() {
        ways.push((RUSTUP_COMPONENTS.to_string(), vec![words(RUSTUP_COMPONENTS)]));
    }
    if find_in_path("apt-get").is_some() && is_root() {
        let install = format!("apt-get install -y --no-install-recommends {DEBIAN_PACKAGES}");
        ways.push((install.clone(), vec![words("apt-get update -q"), words(&install)]));
    }
    ways
}

fn words(line: &str) -> Command {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == "0")
}
