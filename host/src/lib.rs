//! Oxwarp runs language models from GGUF files on NVIDIA GPUs, with every kernel written in Rust.

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
pub mod tokenizer;

pub use api::{LoadOptions, Model};
pub use error::Error;
