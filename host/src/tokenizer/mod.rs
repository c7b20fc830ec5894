//! The tokenizer part of the library.
