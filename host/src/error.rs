//! Everything that a user of the library can be refused.

use std::path::Path;

use crate::{device, generate, gguf, model, sampler, tokenizer};

/// Each variant names the file or the value at fault; what was found and what is allowed is in the source's text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] gguf::FileError),
    /// The file is no GGUF file, or a damaged one.
    #[error("{}: not a usable GGUF file", path.display())]
    Gguf { path: Box<Path>, source: gguf::Error },
    /// The file's tokenizer is incomplete or of an unknown kind.
    #[error("{}: its tokenizer cannot be used", path.display())]
    Vocabulary { path: Box<Path>, source: tokenizer::Error },
    /// The device asked for cannot be used.
    #[error(transparent)]
    Device(#[from] device::Error),
    /// The file's model cannot be run, or not here.
    #[error("{}: its model cannot be loaded", path.display())]
    Model { path: Box<Path>, source: model::Error },
    /// There is nothing to turn a conversation into a prompt with.
    #[error("{}: the file has no chat template", path.display())]
    NoChatTemplate { path: Box<Path> },
    /// There is a template, and it is broken.
    #[error("{}: its chat template cannot be used", path.display())]
    ChatTemplate { path: Box<Path>, source: tokenizer::TemplateError },
    /// Text cannot be encoded, or ids not be decoded.
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
    /// Tokens cannot be computed.
    #[error(transparent)]
    Compute(#[from] model::Error),
    /// A generation cannot begin or go on.
    #[error(transparent)]
    Generate(#[from] generate::Error),
    #[error(transparent)]
    Sampler(#[from] sampler::Error),
}
