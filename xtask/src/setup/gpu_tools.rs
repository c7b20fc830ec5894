//! ptxas, nvdisasm and cuobjdump into target/tools. They check kernels and show their machine code; nothing needs them to
//! build or to run.

use super::pip::{Package, unpack};
use super::say;
use crate::command::{OnPath, Result};
use crate::paths;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

const VERSION: &str = "13.5.37";

/// Each tool and the package that has it.
const TOOLS: [(&str, &str); 3] = [
    ("ptxas", "nvidia-cuda-nvcc"),
    ("nvdisasm", "nvidia-cuda-nvdisasm"),
    ("cuobjdump", "nvidia-cuda-cuobjdump"),
];

/// Fetches the tools that are missing.
pub fn fetch() -> Result<()> {
    let dir = paths::tools_dir();
    let wheels = dir.join("wheels");
    for (tool, package) in TOOLS {
        let path = dir.join(tool);
        if path.is_file() {
            say(&format!("{tool}: {}", path.display()));
            continue;
        }
        let wheel = Package { name: package, version: VERSION }.wheel(&wheels)?;
        say(&format!("{tool}: unpacking to {}", path.display()));
        unpack(&wheel, &format!("bin/{tool}"), &path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o755)).on(&path)?;
        fs::remove_file(&wheel).on(&wheel)?;
    }
    Ok(())
}
