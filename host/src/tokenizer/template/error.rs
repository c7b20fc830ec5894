//! Why there is no prompt.

use std::error::Error as _;
use std::fmt;
use std::io;

use minijinja::{Error, ErrorKind};

use crate::gguf;

/// Why a chat template was refused or made no prompt.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The metadata about it is not as the format says.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),

    /// Its source is longer than any sane one.
    #[error("the chat template has {found} bytes, allowed are {allowed}")]
    TooLong { found: usize, allowed: usize },

    /// It is no valid Jinja, or uses a filter, test, function or tag that does not exist.
    #[error("chat template, line {line}: {reason}")]
    Invalid { line: usize, reason: String },

    /// It called `raise_exception`: these messages are not for this model.
    #[error("the chat template refuses these messages: {message}")]
    Raised { message: String },

    /// It did not end within the allowed number of instructions.
    #[error("chat template, line {line}: it takes more work than any conversation needs")]
    OutOfFuel { line: usize },

    /// It wrote too much.
    #[error("the chat template writes more than {allowed} bytes")]
    OutputTooLong { allowed: usize },

    /// A further variable would replace one of the template's own.
    #[error("{name} is a variable of the chat template and cannot be replaced")]
    Reserved { name: String },

    /// The template could not be run at all.
    #[error("cannot run the chat template: {reason}")]
    NotRun { reason: String },
}

impl TemplateError {
    pub(super) fn from_engine(error: Error) -> TemplateError {
        let line = error.line().unwrap_or(0);
        let mut cause = error.source();
        while let Some(source) = cause {
            if let Some(Raised(message)) = source.downcast_ref() {
                return TemplateError::Raised { message: message.clone() };
            }
            cause = source.source();
        }
        match error.kind() {
            ErrorKind::OutOfFuel => TemplateError::OutOfFuel { line },
            kind => {
                let detail = error.detail().unwrap_or_default();
                let separator = if detail.is_empty() { "" } else { ": " };
                TemplateError::Invalid { line, reason: format!("{kind}{separator}{detail}") }
            }
        }
    }

    pub(super) fn no_thread(error: io::Error) -> TemplateError {
        TemplateError::NotRun { reason: format!("no thread for it: {error}") }
    }

    pub(super) fn engine_failed() -> TemplateError {
        TemplateError::NotRun { reason: "the template engine failed on it".to_owned() }
    }
}

/// Carries the argument of `raise_exception` through the engine.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// The function of this name in templates.
pub(super) fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
}
