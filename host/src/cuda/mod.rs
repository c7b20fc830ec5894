//! The cuda part of the library.
