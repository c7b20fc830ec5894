//! The integration tests: one binary, one module a subject.
mod gguf;
mod sampler;

mod tokenizer;
