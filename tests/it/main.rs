//! The integration tests: one binary, one module a subject.

mod cuda;
mod cuda_models;
mod emulator_models;
mod generate;
mod gguf;
mod golden;
mod models;
mod ops;
mod sampler;
mod template;
mod tokenizer;
mod tokenizer_faults;
mod tokenizer_hf;
mod tokenizer_random;
