//! GGUF files: what is in them, checked before anyone uses it.
//!
//! A model file is untrusted input.  [`Gguf::parse`] is pure and works on bytes; it refuses whatever the format does not
//! allow, and after it has returned every name, value and tensor range can be used without a further check.
//! [`MappedFile`] is where the bytes come from; [`write`](mod@write) makes files.
//!
//! ```
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/models/stories260K.F32.gguf");
//! use oxwarp::gguf::{Gguf, MappedFile};
//!
//! let file = MappedFile::open(path)?;
//! let gguf = Gguf::parse(file.bytes())?;
//! assert_eq!(gguf.str("general.architecture")?, "llama");
//! assert_eq!(gguf.u32("llama.block_count")?, 5);
//! assert_eq!(gguf.tensor("token_embd.weight")?.dims[..], [64, 512]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access;
mod check;
mod cursor;
mod error;
mod index;
mod map;
mod parse;
mod printable;
mod scales;
mod types;
mod value;
pub mod write;

use std::ops::Range;

pub use access::{FloatArray, IntArray, PerLayer, StrArray};
pub use check::{Finding, Severity};
pub use cursor::MAX_STRING_BYTES;
pub use error::{Error, Fault, KeyFault, Place};
pub use map::{FileError, MappedFile};
pub use parse::{
    DEFAULT_ALIGNMENT, Dims, MAX_ALIGNMENT, MAX_DIMS, MAX_KEY_BYTES, MAX_TENSOR_NAME_BYTES, MIN_ALIGNMENT,
    TensorInfo,
};
pub use printable::printable;
pub use scales::{BadBlock, Scan};
pub use types::GgmlType;
pub use value::{Array, Scalar, Value, ValueType};

/// The structure of a GGUF file, borrowed from its bytes.
#[derive(Clone, Debug)]
pub struct Gguf<'a> {
    /// Version of the format: 2 or 3.
    pub version: u32,
    /// Tensor data begins at multiples of this many bytes.
    pub alignment: u64,
    /// The tensors, in the file's order.
    pub tensors: Vec<TensorInfo<'a>>,
    data_begin: usize,
    bytes: &'a [u8],
    metadata: Vec<(&'a str, Value<'a>)>,
    metadata_index: index::Index,
    tensor_index: index::Index,
}

impl<'a> Gguf<'a> {
    /// Keys and values, in the file's order.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&'a str, &Value<'a>)> {
        self.metadata.iter().map(|(key, value)| (*key, value))
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        let at = self.metadata_index.find(key, |at| self.metadata[at].0)?;
        Some(&self.metadata[at].1)
    }

    /// The tensor called `name`, if the file has it.
    pub fn opt_tensor(&self, name: &str) -> Option<&TensorInfo<'a>> {
        let at = self.tensor_index.find(name, |at| self.tensors[at].name)?;
        Some(&self.tensors[at])
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// [`Error::NoTensor`] if the file has none of this name.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo<'a>, Error> {
        let none = || Error::NoTensor { name: name.to_owned(), n_tensors: self.tensors.len() };
        self.opt_tensor(name).ok_or_else(none)
    }

    /// The data of a tensor of this file.
    ///
    /// # Panics
    /// If `tensor` comes from another, larger file.
    pub fn data(&self, tensor: &TensorInfo<'_>) -> &'a [u8] {
        &self.bytes[tensor.range.clone()]
    }

    /// The first byte after metadata, tensor list and padding; the end of the file if it has no tensors.
    pub fn data_begin(&self) -> usize {
        self.data_begin
    }

    /// Bytes between tensors, beyond the padding that alignment asks for, in the order of the file.
    pub fn gaps(&self) -> Vec<Range<usize>> {
        let mut gaps = Vec::new();
        let mut expected = self.data_begin;
        for at in self.tensors_by_offset() {
            let range = &self.tensors[at as usize].range;
            if range.start > expected {
                gaps.push(expected..range.start);
            }
            expected = range.end.saturating_add(self.alignment as usize - 1) & !(self.alignment as usize - 1);
        }
        gaps
    }

    /// Bytes after the last tensor and its padding: nothing that belongs to the format.
    pub fn trailing(&self) -> Range<usize> {
        let last = self.tensors.iter().map(|tensor| tensor.range.end).max().unwrap_or(self.data_begin);
        let padded = last.checked_next_multiple_of(self.alignment as usize).unwrap_or(usize::MAX);
        padded.min(self.bytes.len())..self.bytes.len()
    }
}
