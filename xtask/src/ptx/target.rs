//! The processors that modules are built for, and where each one's files lie.

use crate::paths;
use std::path::PathBuf;

/// A processor that modules are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// LLVM's and ptxas's name.
    pub cpu: &'static str,
    /// The lowest PTX version, as LLVM's feature, that has what kernels for this target use. A driver refuses
    /// versions newer than itself.
    pub ptx_feature: &'static str,
    /// Value of the configuration `oxwarp_sm`, by which kernels say where they exist.
    pub cfg: &'static str,
}

/// The oldest target first: newer processors run its module too.
pub const TARGETS: [Target; 2] = [
    Target { cpu: "sm_80", ptx_feature: "+ptx74", cfg: "80" },
    Target { cpu: "sm_90a", ptx_feature: "+ptx81", cfg: "90a" },
];

impl Target {
    /// The finished module.
    pub fn module(self) -> PathBuf {
        paths::ptx_dir().join(format!("oxwarp_{}.ptx", self.cpu))
    }

    /// The module as machine code, which this processor runs without a compiler; only where ptxas is installed.
    pub fn cubin(self) -> PathBuf {
        self.module().with_extension("cubin")
    }

    /// The table of the module's kernels, kept so that a run that builds nothing can print it.
    pub fn table(self) -> PathBuf {
        self.build_dir().join("table.txt")
    }

    /// Everything between bitcode and PTX.
    pub fn build_dir(self) -> PathBuf {
        paths::ptx_build_dir().join(self.cpu)
    }
}
