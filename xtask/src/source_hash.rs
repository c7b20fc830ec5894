//! The hash that ties a PTX module to the kernel sources it was built from.
//!
//! One implementation for its two users: `cargo xtask build-ptx` stamps every module with it, and host/build.rs (which
//! includes this file) tells the host which stamp to accept. So this file uses nothing but std and sha2.

use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// What starts the first line of every module; the hash (64 hex digits) and the target follow.
pub const STAMP_PREFIX: &str = "// oxwarp-kernels ";

/// What decides on the PTX, relative to the workspace root: the kernels and the recipe that translates them. Files, or
/// folders with everything below them.
pub const SOURCES: [&str; 8] = [
    "kernels-gpu/Cargo.toml",
    "kernels-gpu/src",
    "kernels-gpu/macros/Cargo.toml",
    "kernels-gpu/macros/src",
    "xtask/src/ptx/bitcode.rs",
    "xtask/src/ptx/patch.rs",
    "xtask/src/ptx/pipeline.rs",
    "xtask/src/ptx/target.rs",
];

/// SHA-256, in hex, of every source file's path and contents.
///
/// # Errors
/// A source that is missing or cannot be read; the message names the path.
pub fn source_hash(workspace: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect_files(&workspace.join(source), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let name = file.strip_prefix(workspace).unwrap_or(&file).to_string_lossy().replace('\\', "/");
        let contents = fs::read(&file).map_err(|error| naming(&file, error))?;
        // Lengths go in front, so that no two different trees give the same bytes.
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        hash.update((contents.len() as u64).to_le_bytes());
        hash.update(&contents);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The hash in a module's first line, or `None` where the text has no stamp.
pub fn stamp(ptx: &str) -> Option<&str> {
    let hash = ptx.strip_prefix(STAMP_PREFIX)?.split_whitespace().next()?;
    (hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(hash)
}

fn collect_files(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if fs::metadata(path).map_err(|error| naming(path, error))?.is_file() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(|error| naming(path, error))? {
        collect_files(&entry.map_err(|error| naming(path, error))?.path(), files)?;
    }
    Ok(())
}

fn naming(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
