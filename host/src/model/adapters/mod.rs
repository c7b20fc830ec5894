//! One adapter for each architecture: what its metadata mean. No other file knows a model's name.

mod llama;
mod qwen2;

use crate::gguf::Gguf;

use super::config::ModelConfig;
use super::error::Error;

/// What an architecture is.
///
/// An adapter names the architecture and turns metadata into a [`ModelConfig`]. From that alone the weights are found
/// and loaded ([`super::Weights`]) and the forward pass, for a prompt or for one token, is run ([`super::forward`]).
pub trait ModelAdapter: Sync {
    /// The value of `general.architecture` that selects this adapter.
    fn architecture(&self) -> &'static str;

    /// Reads and checks the metadata.
    ///
    /// # Errors
    /// A missing key, or a value that no model of this architecture can have, or that is not supported.
    fn config(&self, gguf: &Gguf<'_>) -> Result<ModelConfig, Error>;
}

/// Every architecture there is.
pub const ADAPTERS: &[&dyn ModelAdapter] = &[&llama::Llama, &qwen2::Qwen2];

/// The adapter for the file's `general.architecture`.
///
/// # Errors
/// No such key, or an architecture that is not among [`ADAPTERS`]; the message lists those that are.
pub fn adapter(gguf: &Gguf<'_>) -> Result<&'static dyn ModelAdapter, Error> {
    let found = gguf.str("general.architecture")?;
    let known = |adapter: &&&'static dyn ModelAdapter| adapter.architecture() == found;
    ADAPTERS.iter().find(known).copied().ok_or_else(|| Error::UnknownArchitecture {
        found: found.to_owned(),
        known: ADAPTERS.iter().map(|adapter| adapter.architecture()).collect::<Vec<_>>().join(", "),
    })
}
