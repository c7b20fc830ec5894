//! What can be wrong with a model or a request to it.

use std::fmt;

use crate::backend;
use crate::gguf::{self, GgmlType};

/// Each variant names the key, tensor or number that was found, and what is allowed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    #[error(transparent)]
    Backend(#[from] backend::Error),
    #[error("architecture {found:?} is not supported (supported: {known})")]
    UnknownArchitecture { found: String, known: String },
    #[error("metadata key `{key}`: found {found}; {feature} is not supported")]
    UnsupportedFeature { key: String, found: String, feature: &'static str },
    #[error("metadata key `{key}`: found {declared}, but the tensors are of {present} layers")]
    LayerCount { key: String, declared: usize, present: usize },
    #[error("the tensors are not those of architecture {architecture:?}: {differences}")]
    TensorSet { architecture: &'static str, differences: Differences },
    #[error("tensor `{name}`: found {found}, but the metadata call for {expected} (fastest dimension first)")]
    TensorShape { name: String, found: Dims, expected: Dims },
    #[error("tensor `{name}`: found type {found}, allowed: {supported}")]
    TensorType { name: String, found: GgmlType, supported: &'static str },
    #[error("tensor `{name}`: found {value} at element {index}, allowed: {allowed}")]
    TensorValue { name: String, value: f32, index: usize, allowed: &'static str },
    #[error(
        "a context of {wanted} tokens is more than the {trained} that the model was trained for \
         (longer ones must be allowed expressly)"
    )]
    ContextTooLong { wanted: usize, trained: usize },
    #[error("a context of {0} tokens is not possible; allowed: 1 and more")]
    NoContext(usize),
    #[error("a KV cache of {n_layers} layers for {n_ctx} tokens is larger than any memory")]
    KvCacheSize { n_layers: usize, n_ctx: usize },
    #[error("no tokens to compute")]
    NoTokens,
    #[error("token {index} is {token}, but the vocabulary ends at {n_vocab}")]
    TokenOutOfRange { index: usize, token: u32, n_vocab: usize },
    #[error("{n_tokens} more tokens do not fit the context: {n_past} of {n_ctx} positions are taken")]
    ContextFull { n_tokens: usize, n_past: usize, n_ctx: usize },
    #[error("the model computed no usable logits at position {position}: {what}")]
    BadLogits { position: usize, what: String },
}

/// A tensor's dimensions as the file lists them, fastest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dims(pub Vec<u64>);

impl fmt::Display for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.0.iter().map(u64::to_string).collect();
        write!(f, "[{}]", dims.join(", "))
    }
}

/// Tensors that a file lacks, and tensors that nothing uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// In the order in which the model needs them.
    pub missing: Vec<String>,
    /// In the file's order.
    pub surplus: Vec<String>,
}

/// Names printed of each list.
const NAMES_SHOWN: usize = 6;

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [("missing", &self.missing), ("surplus", &self.surplus)];
        let mut separator = "";
        for (what, names) in lists.into_iter().filter(|(_, names)| !names.is_empty()) {
            let shown: Vec<String> = names.iter().take(NAMES_SHOWN).map(|name| format!("`{name}`")).collect();
            write!(f, "{separator}{} {what}: {}", names.len(), shown.join(", "))?;
            if names.len() > NAMES_SHOWN {
                write!(f, " and {} more", names.len() - NAMES_SHOWN)?;
            }
            separator = "; ";
        }
        Ok(())
    }
}
