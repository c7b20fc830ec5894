//! Where things lie in a checkout.

use std::env;
use std::path::{Path, PathBuf};

/// The checkout's root.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// Finished modules, which host/build.rs embeds: `target/ptx`, or `OXWARP_PTX_DIR`.
pub fn ptx_dir() -> PathBuf {
    match env::var_os("OXWARP_PTX_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => workspace().join("target/ptx"),
    }
}

/// The kernels' own cargo target folder and everything between bitcode and PTX.
pub fn ptx_build_dir() -> PathBuf {
    workspace().join("target/ptx-build")
}

/// Tools that `cargo xtask setup` fetched: ptxas, nvdisasm, cuobjdump.
pub fn tools_dir() -> PathBuf {
    workspace().join("target/tools")
}
