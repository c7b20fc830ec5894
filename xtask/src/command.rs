//! Child processes and the one error type of the commands.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why a command of `cargo xtask` failed. Each message says what was tried, on what, and what came back.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{path}: {error}", path = path.display())]
    File { path: PathBuf, error: std::io::Error },
    #[error("`{command}` could not be started: {error}")]
    Start { command: String, error: std::io::Error },
    #[error("`{command}` failed with {status}{output}")]
    Exit { command: String, status: String, output: String },
    /// Something a person has to do; `fix` is the one command that does it.
    #[error("{what}\n  run this instead:  {fix}")]
    Missing { what: String, fix: String },
    #[error("{0}")]
    Other(String),
}

pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Adds the path to an I/O error.
pub trait OnPath<T> {
    fn on(self, path: &Path) -> Result<T>;
}

impl<T> OnPath<T> for std::io::Result<T> {
    fn on(self, path: &Path) -> Result<T> {
        self.map_err(|error| Failure::File { path: path.to_path_buf(), error })
    }
}

/// Runs a command whose output the user sees.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| Failure::Start { command: shown(command), error })?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::Exit { command: shown(command), status: status.to_string(), output: String::new() })
}

/// What a finished command wrote.
pub struct Output {
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command and keeps what it writes; on failure the error shows it.
pub fn capture(command: &mut Command) -> Result<Output> {
    let output = command.output().map_err(|error| Failure::Start { command: shown(command), error })?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(Output { stdout, stderr });
    }
    let output_text = [stderr.trim_end(), stdout.trim_end()].join("\n");
    Err(Failure::Exit {
        command: shown(command),
        status: output.status.to_string(),
        output: format!(":\n{}", output_text.trim()),
    })
}

/// A command as a person would type it.
fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program()];
    words.extend(command.get_args());
    words.into_iter().map(quoted).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    if word.is_empty() || word.contains(|c: char| c.is_whitespace() || "\"'$<>;|&*".contains(c)) {
        format!("'{}'", word.replace('\'', r"'\''"))
    } else {
        word.into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_shows_command_status_and_output() {
        let error =
            capture(Command::new("sh").args(["-c", "echo to-stderr >&2; exit 3"])).err().expect("exit 3");
        let message = error.to_string();
        assert!(message.contains("sh -c 'echo to-stderr >&2; exit 3'"), "{message}");
        assert!(message.contains("exit status: 3") && message.ends_with("to-stderr"), "{message}");
    }

    #[test]
    fn unknown_program_is_named() {
        let error = capture(&mut Command::new("no-such-program-here")).err().expect("does not exist");
        assert!(error.to_string().starts_with("`no-such-program-here` could not be started"), "{error}");
    }
}
