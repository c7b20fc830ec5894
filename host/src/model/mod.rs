//! A model is data: an adapter maps a file's metadata to one [`ModelConfig`], [`Weights`] names the tensors, and
//! [`forward`] is one flat list of ops for every architecture, generic over the back end.
//!
//! Reading order: [`ModelConfig`], [`Weights`], [`forward`], then [`Engine`], which puts them together behind the
//! object-safe [`Runner`].

pub mod adapters;
mod config;
mod engine;
mod error;
pub mod forward;
mod hyper;
pub mod rope;
mod tensors;
mod weights;

pub use adapters::ModelAdapter;
pub use config::{ModelConfig, RopeConfig, RopeScaling};
pub use engine::{Engine, EngineOptions, LoadProgress, Runner};
pub use error::Error;
pub use weights::{LayerWeights, Linear, Weights};

use crate::backend::Backend;
use crate::gguf::Gguf;

/// Checks metadata and tensors as [`Engine::load`] does for back end `b`, and loads nothing.
///
/// # Errors
/// See [`Error`]: metadata, and tensors that are missing, surplus, or of another shape or type.
pub fn check<B: Backend>(gguf: &Gguf<'_>, b: &B) -> Result<ModelConfig, Error> {
    let config = adapters::adapter(gguf)?.config(gguf)?;
    tensors::census(gguf, &config, 1, b)?;
    Ok(config)
}
