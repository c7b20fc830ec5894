//! The model part of the library.
