//! The gguf part of the library.
