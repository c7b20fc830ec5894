//! Oxwarp runs language models from GGUF files on NVIDIA GPUs, with every kernel written in Rust.
//!
//! [`Model`] is the way in: it loads a file and generates text.
//!
//! ```
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/models/stories260K.Q8_0.gguf");
//! use oxwarp::generate::{GenerateOptions, StopReason};
//! use oxwarp::sampler::SamplerOptions;
//! use oxwarp::{LoadOptions, Model};
//!
//! let mut bytes_loaded = 0;
//! let mut model = Model::load(
//!     path,
//!     LoadOptions { progress: Some(&mut |progress| bytes_loaded = progress.bytes_done), ..Default::default() },
//! )?;
//! assert!(bytes_loaded > 300_000);
//!
//! // The same seed gives the same text.
//! let sampler = SamplerOptions { temperature: 0.7, seed: Some(1), ..Default::default() };
//! let mut generation =
//!     model.generate("Lily saw a", GenerateOptions { sampler, max_tokens: Some(30), ..Default::default() })?;
//! for token in generation.by_ref() {
//!     print!("{}", token?.text);
//! }
//! assert_eq!(generation.stop_reason(), Some(&StopReason::MaxTokens));
//! assert_eq!(generation.timings().n_generated, 30);
//! # Ok::<(), oxwarp::Error>(())
//! ```
//!
//! From the outside in:
//!
//! - [`generate`]: from a prompt to tokens, one at a time; stop strings, limits, cancelling.
//! - [`sampler`]: from logits to a token. [`tokenizer`]: from text to tokens and back; chat templates.
//! - [`model`]: what a model is, as data, and its forward pass as one list of ops; [`kv_cache`].
//! - [`backend`]: the ops, on the CPU and on a GPU; [`device`] chooses between them; [`cuda`] is the driver.
//! - [`gguf`]: model files, which nobody has to trust.

mod api;
pub mod backend;
pub mod cuda;
pub mod device;
mod error;
pub mod generate;
pub mod gguf;
pub mod kv_cache;
pub mod model;
pub mod sampler;
pub mod synth;
pub mod tokenizer;

pub use api::{LoadOptions, Model};
pub use error::Error;
