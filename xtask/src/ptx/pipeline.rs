//! Step 2: bitcode to PTX with LLVM's own tools.

use super::bitcode::Bitcode;
use super::resources::PtxasReport;
use super::toolchain::Toolchain;
use super::{Entry, Target, patch};
use crate::command::{OnPath, Result, capture};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What Rust cannot express, as IR: owned by the DSL, linked to every module.
pub const SHIM: &str = "kernels-gpu/src/simt/nvptx/shim.ll";

/// What one target's kernels became.
pub struct Built {
    /// LLVM IR text after all optimisations, with debug locations.
    pub optimised_ir: String,
    pub ptx: String,
    /// Known where ptxas is.
    pub report: Option<PtxasReport>,
    /// Machine code, likewise.
    pub cubin: Option<PathBuf>,
}

/// Loops up to this size, in LLVM's units, are unrolled completely. Accumulators in arrays need it: an array that is
/// indexed by a loop that remains would stay in local memory.
const UNROLL_THRESHOLD: &str = "-unroll-threshold=4000";

/// One target's build: the tools, and the folder that keeps every intermediate result.
pub struct Pipeline<'a> {
    pub toolchain: &'a Toolchain,
    pub ptxas: Option<&'a Path>,
    pub target: Target,
    pub kernels: &'a [Entry],
    pub dir: &'a Path,
}

impl Pipeline<'_> {
    /// Links, patches, optimises and translates; ptxas, where there is one, checks the result.
    ///
    /// # Errors
    /// Those of the tools.
    pub fn build(&self, bitcode: &Bitcode, shim: &[PathBuf], line_info: bool) -> Result<Built> {
        let linked = self.link(bitcode, shim)?;
        let patched = patch::patch(&linked, self.target.cpu, self.kernels);
        self.build_patched(&patched, line_info)
    }

    /// The steps after the patch.
    pub fn build_patched(&self, patched_ir: &str, line_info: bool) -> Result<Built> {
        let patched = self.dir.join("patched.ll");
        fs::write(&patched, patched_ir).on(&patched)?;
        let optimised = self.optimise(&patched)?;
        let ptx = self.translate(&optimised, line_info)?;
        let report = self.ptxas.map(|ptxas| self.assemble(ptxas, &ptx)).transpose()?;
        Ok(Built {
            optimised_ir: fs::read_to_string(&optimised).on(&optimised)?,
            ptx: fs::read_to_string(&ptx).on(&ptx)?,
            cubin: report.is_some().then(|| self.cubin()),
            report,
        })
    }

    /// The kernels, the shims and what they use of core, as IR text.
    pub fn link(&self, bitcode: &Bitcode, shim: &[PathBuf]) -> Result<String> {
        fs::create_dir_all(self.dir).on(self.dir)?;
        let own = self.dir.join("kernels.bc");
        // A Rust library is an archive with a member of metadata, which is no bitcode.
        let mut link = Command::new(&self.toolchain.llvm_link);
        capture(link.args(["--ignore-non-bitcode", "-o"]).args([&own, &bitcode.kernels]).args(shim))?;
        let linked = self.dir.join("linked.ll");
        let mut link = Command::new(&self.toolchain.llvm_link);
        link.args(["-S", "--ignore-non-bitcode", "--only-needed", "-o"]).args([&linked, &own]);
        capture(link.args(&bitcode.support))?;
        fs::read_to_string(&linked).on(&linked)
    }

    fn optimise(&self, input: &Path) -> Result<PathBuf> {
        let output = self.dir.join("optimised.ll");
        let names: Vec<_> = self.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
        capture(
            Command::new(&self.toolchain.opt)
                .args(["-S", "--passes=internalize,default<O3>", UNROLL_THRESHOLD])
                .arg(format!("--internalize-public-api-list={}", names.join(",")))
                // Without triple and processor, opt does not know that threads diverge.
                .arg("-mtriple=nvptx64-nvidia-cuda")
                .args(machine(self.target))
                .arg("-o")
                .args([&output, input]),
        )?;
        Ok(output)
    }

    fn translate(&self, input: &Path, line_info: bool) -> Result<PathBuf> {
        let (stripped, output) = (self.dir.join("stripped.ll"), self.dir.join("module.ptx"));
        if !line_info {
            let mut strip = Command::new(&self.toolchain.opt);
            capture(strip.args(["-S", "-strip-debug", "-passes=", "-o"]).args([&stripped, input]))?;
        }
        let mut llc = Command::new(&self.toolchain.llc);
        llc.args(["-O3", "-fp-contract=fast"]).args(machine(self.target)).arg("-o").arg(&output);
        capture(llc.arg(if line_info { input } else { &stripped }))?;
        Ok(output)
    }

    fn cubin(&self) -> PathBuf {
        self.dir.join("module.cubin")
    }

    /// Runs ptxas for its report and the machine code.
    fn assemble(&self, ptxas: &Path, ptx: &Path) -> Result<PtxasReport> {
        let mut command = Command::new(ptxas);
        command.arg("-v").arg(format!("-arch={}", self.target.cpu)).arg("-o").arg(self.cubin()).arg(ptx);
        let output = capture(&mut command)?;
        Ok(PtxasReport::parse(&format!("{}{}", output.stderr, output.stdout)))
    }
}

fn machine(target: Target) -> [String; 2] {
    [format!("-mcpu={}", target.cpu), format!("-mattr={}", target.ptx_feature)]
}
