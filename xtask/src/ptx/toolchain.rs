//! Finds the compiler, its LLVM tools and ptxas.

use crate::command::{Failure, Result, capture};
use crate::paths;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What turns the kernels into PTX: a cargo and rustc that have core's sources, and LLVM tools that read its bitcode.
#[derive(Debug)]
pub struct Toolchain {
    pub cargo: PathBuf,
    pub rustc: PathBuf,
    pub llvm_link: PathBuf,
    pub opt: PathBuf,
    pub llc: PathBuf,
}

/// Debian's packages that can stand in for rustup's components.
pub const DEBIAN_PACKAGES: &str = "rustc-web cargo-web rust-web-src llvm-22";
/// The rustup way to the same.
pub const RUSTUP_COMPONENTS: &str = "rustup component add rust-src llvm-tools";

impl Toolchain {
    /// The running cargo's own toolchain if it is complete, else Debian's.
    ///
    /// # Errors
    /// What is missing, with the command that brings it.
    pub fn find() -> Result<Toolchain> {
        let mut lacking = Vec::new();
        for (cargo, rustc) in compilers() {
            match Self::complete(&cargo, &rustc) {
                Ok(toolchain) => return Ok(toolchain),
                Err(what) => lacking.push(format!("{}: {what}", rustc.display())),
            }
        }
        let fix = if find_in_path("rustup").is_some() {
            RUSTUP_COMPONENTS.to_string()
        } else {
            format!("sudo apt-get install {DEBIAN_PACKAGES}")
        };
        Err(Failure::Missing {
            what: format!("no complete toolchain for kernels ({})", lacking.join("; ")),
            fix,
        })
    }

    fn complete(cargo: &Path, rustc: &Path) -> Result<Toolchain> {
        let sysroot = PathBuf::from(capture(Command::new(rustc).args(["--print", "sysroot"]))?.stdout.trim());
        if !sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() {
            return Err(Failure::Other("no core sources (rust-src)".into()));
        }
        let version = capture(Command::new(rustc).arg("-vV"))?.stdout;
        let (host, major) = host_and_llvm_major(&version).ok_or_else(|| {
            Failure::Other(format!("`rustc -vV` names no host and LLVM version:\n{version}"))
        })?;
        let own = sysroot.join("lib/rustlib").join(host).join("bin");
        let tool = |name: &str| {
            let candidates = [
                Some(own.join(name)),
                find_in_path(&format!("{name}-{major}")),
                Some(PathBuf::from(format!("/usr/lib/llvm-{major}/bin/{name}"))),
            ];
            let found = candidates.into_iter().flatten().find(|path| path.is_file());
            found.ok_or_else(|| Failure::Other(format!("no {name} of LLVM {major} (llvm-tools)")))
        };
        Ok(Toolchain {
            cargo: cargo.to_path_buf(),
            rustc: rustc.to_path_buf(),
            llvm_link: tool("llvm-link")?,
            opt: tool("opt")?,
            llc: tool("llc")?,
        })
    }
}

/// Pairs of cargo and rustc to try, best first.
fn compilers() -> Vec<(PathBuf, PathBuf)> {
    let cargo = env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let beside = cargo.with_file_name("rustc");
    let rustc = if cargo.is_absolute() && beside.is_file() { beside } else { PathBuf::from("rustc") };
    let mut pairs = vec![(cargo, rustc)];
    let debian = (PathBuf::from("/usr/bin/cargo"), PathBuf::from("/usr/bin/rustc"));
    if debian.0.is_file() && debian.1.is_file() && pairs[0] != debian {
        pairs.push(debian);
    }
    pairs
}

/// The lines `host: …` and `LLVM version: MAJOR.…` of `rustc -vV`.
fn host_and_llvm_major(version: &str) -> Option<(&str, &str)> {
    let field = |name: &str| version.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Some((field("host:")?, field("LLVM version:")?.split('.').next()?))
}

/// ptxas: the one that `setup` fetched, else one that is installed.
pub fn ptxas() -> Option<PathBuf> {
    let fetched = paths::tools_dir().join("ptxas");
    if fetched.is_file() {
        return Some(fetched);
    }
    find_in_path("ptxas")
}

/// The first executable of this name in `PATH`.
pub fn find_in_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_text_gives_host_and_llvm() {
        let version =
            "rustc 1.95.0 (59807616e 2026-04-14)\nhost: x86_64-unknown-linux-gnu\nLLVM version: 22.1.2\n";
        assert_eq!(host_and_llvm_major(version), Some(("x86_64-unknown-linux-gnu", "22")));
        assert_eq!(host_and_llvm_major("rustc 1.95.0"), None);
    }
}
