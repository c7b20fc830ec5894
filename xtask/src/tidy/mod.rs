//! `cargo xtask tidy`: the project's invariants as code. ARCHITECTURE.md states them; each rule here has a test that
//! plants a violation, and the tests run the rules over the project itself.

mod rules;
mod source;
mod unsafe_code;

use crate::command::{Failure, OnPath, Result};
use crate::paths;
use rules::RULES;
use source::Source;
use std::fs;
use std::path::Path;

/// A place that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// From 1; 0 where the whole file is meant.
    line: usize,
    what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

/// Checks every file of the project.
///
/// # Errors
/// All places that break a rule.
pub fn check() -> Result<()> {
    let mut sources = Vec::new();
    collect(paths::workspace(), "", &mut sources)?;
    let findings = findings(&sources);
    if findings.is_empty() {
        println!("tidy: {} files, {} rules", sources.len(), RULES.len());
        return Ok(());
    }
    let list: String = findings.iter().map(|finding| format!("\n  {finding}")).collect();
    Err(Failure::Other(format!("the project is not tidy:{list}")))
}

fn findings(sources: &[Source]) -> Vec<Finding> {
    RULES.iter().flat_map(|rule| rule(sources)).collect()
}

/// Folders that are not the project's text: build results, fixtures from elsewhere, git's own.
const SKIPPED: [&str; 4] = ["target", "fixtures", "shared", ".git"];
const TEXT: [&str; 6] = [".rs", ".toml", ".md", ".ll", ".yml", ".ci/run"];

fn collect(dir: &Path, prefix: &str, sources: &mut Vec<Source>) -> Result<()> {
    for entry in fs::read_dir(dir).on(dir)? {
        let path = entry.on(dir)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if SKIPPED.contains(&name.as_str()) {
            continue;
        }
        let relative = format!("{prefix}{name}");
        if path.is_dir() {
            collect(&path, &format!("{relative}/"), sources)?;
        } else if TEXT.iter().any(|end| relative.ends_with(end)) {
            sources.push(Source::new(&relative, &fs::read_to_string(&path).on(&path)?));
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_is_tidy() {
        if let Err(failure) = check() {
            panic!("{failure}");
        }
    }
}
