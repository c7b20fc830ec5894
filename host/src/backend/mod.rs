//! The backend part of the library.
