//! The rules on kernels that break them: xtask/planted/kernels.rs, built for real.

use super::*;
use crate::command::capture;
use crate::paths;
use crate::ptx::bitcode::{self, Bitcode};
use crate::ptx::pipeline::{Built, Pipeline};
use crate::ptx::toolchain::{self, Toolchain};
use crate::ptx::{TARGETS, Target};
use std::path::Path;
use std::process::Command;

const SM_80: Target = TARGETS[0];
const SM_90A: Target = TARGETS[1];
const JUMP_THREADING_OFF: &str = "-Zmir-enable-passes=-JumpThreading";

fn entries(names: &[&str]) -> Vec<Entry> {
    names.iter().map(|name| Entry { name: name.to_string(), threads: 128, ..Entry::default() }).collect()
}

/// Compiles the planted kernels against the core that the real ones use.
fn compile(toolchain: &Toolchain, dir: &Path, flags: &[&str]) -> Bitcode {
    let Bitcode { support, .. } = bitcode::compile(toolchain, SM_80).expect("the real kernels compile");
    let kernels = dir.join("libplanted.rlib");
    let mut rustc = Command::new(&toolchain.rustc);
    rustc.env("RUSTC_BOOTSTRAP", "1").args(["--crate-name=planted", "--crate-type=rlib", "--edition=2024"]);
    rustc.args(["--target=nvptx64-nvidia-cuda", "-Copt-level=3", "-Ccodegen-units=1"]).args(flags);
    for library in &support {
        let name = if library.to_string_lossy().contains("libcore-") { "core" } else { "compiler_builtins" };
        rustc.arg("--extern").arg(format!("noprelude:{name}={}", library.display()));
    }
    capture(rustc.arg("-o").args([&kernels, &paths::workspace().join("xtask/planted/kernels.rs")]))
        .expect("compiles");
    Bitcode { kernels, support }
}

/// The flags of the real build, with or without one of them, and the target's configuration.
fn flags(without: Option<&str>, target: Target) -> Vec<String> {
    let mut flags: Vec<_> =
        bitcode::RUSTFLAGS.into_iter().filter(|flag| Some(*flag) != without).map(str::to_string).collect();
    flags.push(format!("--cfg=oxwarp_sm=\"{}\"", target.cfg));
    flags
}

fn violations(built: &Built, kernels: &[Entry]) -> Vec<(String, &'static str)> {
    let module = ir::Module::parse(&built.optimised_ir);
    let violations = check(&Ptx::parse(&built.ptx), &module, built.report.as_ref(), kernels);
    let mut broken: Vec<_> =
        violations.into_iter().map(|violation| (violation.kernel, violation.rule)).collect();
    broken.dedup();
    broken
}

/// Builds the named kernels and returns which rules they break.
fn broken_rules(
    names: &[&str],
    target: Target,
    without_flag: Option<&str>,
    patched: bool,
) -> Vec<(String, &'static str)> {
    let toolchain = Toolchain::find().expect("`cargo xtask setup` completes the toolchain");
    let dir = tempfile::tempdir().expect("temporary folder");
    let flags = flags(without_flag, target);
    let bitcode = compile(&toolchain, dir.path(), &flags.iter().map(String::as_str).collect::<Vec<_>>());
    let kernels = entries(names);
    let ptxas = toolchain::ptxas().filter(|_| target == SM_90A);
    let pipeline = Pipeline {
        toolchain: &toolchain,
        ptxas: ptxas.as_deref(),
        target,
        kernels: &kernels,
        dir: dir.path(),
    };
    let built = if patched {
        pipeline.build(&bitcode, &[], false)
    } else {
        pipeline.link(&bitcode, &[]).and_then(|linked| pipeline.build_patched(&linked, false))
    };
    violations(&built.expect("builds"), &kernels)
}

fn named(violations: &[(&str, &'static str)]) -> Vec<(String, &'static str)> {
    violations.iter().map(|(kernel, rule)| (kernel.to_string(), *rule)).collect()
}

#[test]
fn each_kernel_breaks_its_rule_and_no_other() {
    let kernels = [
        "innocent",
        "barrier_between_tests",
        "asm_barrier_between_tests",
        "generic_pointers",
        "local_array",
        "packed_loads",
        "large_copy",
        "calls_nothing_known",
        "calls_a_function",
        "not_there",
    ];
    let expected = named(&[
        ("not_there", "entries"),
        ("(module)", "unresolved externs"),
        ("generic_pointers", "generic access"),
        ("local_array", "local memory"),
        ("packed_loads", "split access"),
        ("large_copy", "split access"),
        ("calls_nothing_known", "calls"),
        ("calls_a_function", "calls"),
    ]);
    assert_eq!(broken_rules(&kernels, SM_80, None, true), expected);
}

/// What rustc 1.95 does without the flag: its own pass copies the barrier, before LLVM sees it. (It spares assembly.)
#[test]
fn a_barrier_that_rustc_duplicated_is_found() {
    let kernels = ["innocent", "barrier_between_tests", "asm_barrier_between_tests"];
    let found = broken_rules(&kernels, SM_80, Some(JUMP_THREADING_OFF), true);
    assert_eq!(found, named(&[("barrier_between_tests", "duplicated synchronisation")]));
}

/// What LLVM does without the patch: it copies assembly that it may not know to be a barrier.
#[test]
fn a_barrier_that_llvm_duplicated_is_found() {
    let kernels = ["innocent", "barrier_between_tests", "asm_barrier_between_tests"];
    assert_eq!(
        broken_rules(&kernels, SM_80, None, false),
        named(&[("asm_barrier_between_tests", "duplicated synchronisation")])
    );
}

#[test]
fn serialised_wgmma_is_found() {
    let expected: &[_] = match toolchain::ptxas() {
        Some(_) => &[("serialised_wgmma", "serialised wgmma")],
        None => &[],
    };
    assert_eq!(broken_rules(&["serialised_wgmma"], SM_90A, None, true), named(expected));
}
