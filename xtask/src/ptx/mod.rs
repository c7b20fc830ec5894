//! `cargo xtask build-ptx`: from the kernels' Rust to checked PTX, one module per target.
//!
//! 1. [`bitcode`]: rustc compiles kernels-gpu to unoptimised bitcode.
//! 2. [`pipeline`]: llvm-link adds shim.ll and what is used of core; [`patch`] edits the text; opt and llc make PTX.
//! 3. [`lint`]: rules over the PTX, the optimised IR it came from, and what ptxas says where it is installed.
//! 4. The module goes to `target/ptx`, stamped with the hash of its sources. A module whose stamp is right is not built
//!    again.

mod bitcode;
mod ir;
mod lint;
mod patch;
mod pipeline;
mod registry;
mod report;
mod resources;
mod sync_op;
mod target;
mod text;
pub mod toolchain;

use crate::command::{Failure, OnPath, Result};
use crate::{paths, source_hash};
use pipeline::{Built, Pipeline};

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Instant;
use target::{TARGETS, Target};
use toolchain::Toolchain;

/// A kernel as the registry of kernels-gpu states it.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    pub name: String,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// Blocks that a multiprocessor must be able to hold at once.
    pub min_blocks: Option<u32>,
    pub max_registers: Option<u32>,
    /// Blocks of a cluster.
    pub cluster: Option<u32>,
    /// Whether the kernel may use local memory.
    pub allow_local: bool,
    /// Positions of the parameters that are tensor maps.
    pub tensor_maps: Vec<usize>,
}

/// How to build.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Build even what is fresh.
    pub force: bool,
    /// Keep the lines of the source in the PTX, for profilers.
    pub line_info: bool,
}

/// Builds and checks what is not fresh, and prints a table of the kernels of every target.
///
/// # Errors
/// Missing tools, a compiler's error, and every rule that a kernel breaks.
pub fn build(options: Options) -> Result<()> {
    let start = Instant::now();
    let workspace = paths::workspace();
    let hash = source_hash::source_hash(workspace).on(workspace)?;
    let ptxas = toolchain::ptxas();
    let stale: Vec<_> = TARGETS
        .into_iter()
        .filter(|target| options.force || options.line_info || !is_fresh(*target, &hash, ptxas.is_some()))
        .collect();
    if ptxas.is_none() {
        println!(
            "build-ptx: no ptxas, so registers and spills are not checked (`cargo xtask setup` fetches it)"
        );
    }
    if !stale.is_empty() {
        rebuild(&stale, &hash, ptxas.as_deref(), options)?;
    }
    for target in TARGETS {
        let table = target.table();
        println!("\n{} ({})", target.cpu, target.module().display());
        print!("{}", fs::read_to_string(&table).on(&table)?);
    }
    let what = if stale.is_empty() { "modules are fresh" } else { "modules built and checked" };
    println!("\nbuild-ptx: {what}, {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Whether the module on disk has this hash and was checked by as much as can check it now.
fn is_fresh(target: Target, hash: &str, have_ptxas: bool) -> bool {
    let module = fs::read_to_string(target.module()).unwrap_or_default();
    let table = fs::read_to_string(target.table()).unwrap_or_default();
    let checked =
        !table.is_empty() && (!have_ptxas || !table.contains(report::UNKNOWN) && target.cubin().exists());
    source_hash::stamp(&module) == Some(hash) && checked
}

fn rebuild(targets: &[Target], hash: &str, ptxas: Option<&Path>, options: Options) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let mut bitcodes = Vec::new();
    for target in targets {
        bitcodes.push(bitcode::compile(&toolchain, *target)?);
    }
    let build = |target: Target, bitcode| -> Result<Vec<lint::Violation>> {
        let kernels = registry::kernels(target);
        println!("build-ptx: {}: optimising", target.cpu);
        let pipeline =
            Pipeline { toolchain: &toolchain, ptxas, target, kernels: &kernels, dir: &target.build_dir() };
        let built = pipeline.build(bitcode, &[paths::workspace().join(pipeline::SHIM)], options.line_info)?;
        finish(target, &built, &kernels, hash)
    };
    // One thread a target: opt, llc and ptxas run on one core each.
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = targets
            .iter()
            .zip(&bitcodes)
            .map(|(target, bitcode)| scope.spawn(|| build(*target, bitcode)))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("the build panicked")).collect()
    });
    let mut broken = String::new();
    for (target, result) in targets.iter().zip(results) {
        for violation in result? {
            broken.push_str(&format!("\n  {}: {violation}", target.cpu));
        }
    }
    if broken.is_empty() { Ok(()) } else { Err(Failure::Other(format!("kernels break rules:{broken}"))) }
}

/// Checks a built module; one that breaks no rule becomes the target's module.
fn finish(target: Target, built: &Built, kernels: &[Entry], hash: &str) -> Result<Vec<lint::Violation>> {
    let module = ir::Module::parse(&built.optimised_ir);
    let ptx = text::Ptx::parse(&built.ptx);
    let violations = lint::check(&ptx, &module, built.report.as_ref(), kernels);
    let (path, table) = (target.module(), target.table());
    if !violations.is_empty() {
        // A module of the same sources that was good when less was known must not stay fresh.
        remove(&path)?;
        return Ok(violations);
    }
    fs::write(&table, report::table(kernels, built.report.as_ref())).on(&table)?;
    let stamped = format!("{}{hash} {}\n{}", source_hash::STAMP_PREFIX, target.cpu, built.ptx);
    fs::create_dir_all(paths::ptx_dir()).on(&paths::ptx_dir())?;
    // Machine code goes with the text that it was made of, or not at all: it has no stamp of its own.
    remove(&path)?;
    remove(&target.cubin())?;
    if let Some(cubin) = &built.cubin {
        fs::copy(cubin, target.cubin()).on(cubin)?;
    }
    fs::write(&path, stamped).on(&path)?;
    Ok(violations)
}

fn remove(path: &Path) -> Result<()> {
    if path.exists() { fs::remove_file(path).on(path) } else { Ok(()) }
}
