//! The integration tests: one binary, one module a subject.
mod gguf;
mod ops;
mod sampler;

mod tokenizer;
