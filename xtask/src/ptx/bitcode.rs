//! Step 1: rustc compiles kernels-gpu, and core with it, to unoptimised LLVM bitcode.

use super::Target;
use super::toolchain::Toolchain;
use crate::command::{Failure, OnPath, Result, capture};
use crate::paths;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Rust libraries whose members are bitcode.
#[derive(Debug)]
pub struct Bitcode {
    pub kernels: PathBuf,
    /// core and compiler_builtins, of which little is needed.
    pub support: Vec<PathBuf>,
}

const PACKAGE: &str = "kernels-gpu";

/// Flags for the kernels and for core alike.
pub const RUSTFLAGS: [&str; 6] = [
    "-Zunstable-options",
    // A panic becomes one trap instruction.
    "-Cpanic=immediate-abort",
    // One build of core serves all targets; the IR patch replaces the processor.
    "-Ctarget-cpu=sm_80",
    // This pass copies barriers into both arms of an `if`.
    "-Zmir-enable-passes=-JumpThreading",
    // No LLVM pass may run before the IR patch.
    "-Cno-prepopulate-passes",
    // Locations, by which the linter recognises copies; dropped before code generation.
    "-Cdebuginfo=line-directives-only",
];

/// Compiles kernels-gpu for one target.
///
/// # Errors
/// The compiler's own.
pub fn compile(toolchain: &Toolchain, target: Target) -> Result<Bitcode> {
    println!("build-ptx: {}: compiling the kernels", target.cpu);
    let output = capture(
        Command::new(&toolchain.cargo)
            .args(["rustc", "--package", PACKAGE, "--lib", "--release", "-Zbuild-std=core"])
            .args([
                "--target",
                "nvptx64-nvidia-cuda",
                "--message-format=json-render-diagnostics",
                "--target-dir",
            ])
            .arg(paths::ptx_build_dir().join("cargo"))
            .args(["--", "--cfg", &format!("oxwarp_sm=\"{}\"", target.cfg)])
            .current_dir(paths::workspace())
            .env("RUSTC", &toolchain.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\u{1f}"))
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            // As in the flags, of which the last one counts.
            .env("CARGO_PROFILE_RELEASE_DEBUG", "line-directives-only")
            .stderr(Stdio::inherit()),
    )?;
    let mut bitcode = libraries(&output.stdout)?;
    // The next target's compilation overwrites cargo's file.
    let dir = target.build_dir();
    fs::create_dir_all(&dir).on(&dir)?;
    let kept = dir.join("kernels.rlib");
    fs::copy(&bitcode.kernels, &kept).on(&kept)?;
    bitcode.kernels = kept;
    Ok(bitcode)
}

/// Finds the libraries in cargo's messages.
fn libraries(messages: &str) -> Result<Bitcode> {
    let files = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default())
        .filter_map(|file| file.as_str().map(PathBuf::from));
    let (mut kernels, mut support) = (None, Vec::new());
    for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "rlib")) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == "libkernels_gpu.rlib" || name.starts_with("libkernels_gpu-") {
            kernels = Some(file);
        } else if name.starts_with("libcore-") || name.starts_with("libcompiler_builtins-") {
            support.push(file);
        }
    }
    match kernels {
        Some(kernels) if support.len() == 2 => Ok(Bitcode { kernels, support }),
        _ => Err(Failure::Other(format!(
            "cargo built {PACKAGE} but names no bitcode of it, core and its builtins"
        ))),
    }
}
