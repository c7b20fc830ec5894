//! Why a file is refused: where, what was found, what is allowed.

use std::fmt::{self, Display};

use super::parse::{MAX_ALIGNMENT, MAX_DIMS, MIN_ALIGNMENT};
use super::printable::printable;
use super::types::GgmlType;
use super::value::ValueType;

/// Characters of a name that an error message shows.
const NAME_CHARS: usize = 100;

/// Why a GGUF file, or one of its values, is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The bytes are no well-formed file.
    #[error("{place}, byte {offset}: {fault}")]
    Malformed {
        /// The part of the file.
        place: Place,
        /// Bytes from the start of the file.
        offset: u64,
        /// What is wrong there.
        fault: Fault,
    },
    /// A key is missing, or its value is not what the reader needs.
    #[error("metadata key `{}`: {fault}", printable(key, NAME_CHARS))]
    Key {
        key: String,
        /// What is wrong with it.
        fault: KeyFault,
    },
    /// No tensor of this name.
    #[error("tensor `{}` is missing; the file has {n_tensors} tensors", printable(name, NAME_CHARS))]
    NoTensor { name: String, n_tensors: usize },
}

impl Error {
    /// The value of `key` is `found`, where `allowed` is.
    pub fn refused(key: &str, found: impl Display, allowed: impl Display) -> Error {
        let fault = KeyFault::Refused { found: found.to_string(), allowed: allowed.to_string() };
        Error::Key { key: key.to_owned(), fault }
    }
}

/// What is wrong with a metadata key that a reader asked for.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum KeyFault {
    #[error("missing; needed: {needed}")]
    Missing { needed: &'static str },
    #[error("found {found}, allowed: {allowed}")]
    Type { found: String, allowed: &'static str },
    #[error("found {found}, allowed: {allowed}")]
    Refused { found: String, allowed: String },
}

/// A part of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    Header,
    /// Entry `index` (from 0) of the metadata; its key, once that is known.
    Metadata {
        index: u64,
        key: Option<String>,
    },
    /// Entry `index` (from 0) of the tensor list; its name, once that is known.
    Tensor {
        index: u64,
        name: Option<String>,
    },
    /// What follows the tensor list.
    Data,
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, index, name) = match self {
            Place::Header => return f.write_str("header"),
            Place::Data => return f.write_str("tensor data"),
            Place::Metadata { index, key } => ("metadata entry", index, key),
            Place::Tensor { index, name } => ("tensor", index, name),
        };
        write!(f, "{what} {index}")?;
        name.as_ref().map_or(Ok(()), |name| write!(f, " (`{}`)", printable(name, NAME_CHARS)))
    }
}

/// What is wrong with the bytes.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    #[error("the file is empty; a GGUF file begins with the bytes `GGUF`")]
    Empty,
    #[error("the file ends in a {what}: {needed} bytes needed, {left} left")]
    Truncated { what: &'static str, needed: u64, left: u64 },
    #[error("magic is {}, allowed: `GGUF`; {guess}", found.escape_ascii())]
    Magic { found: [u8; 4], guess: &'static str },
    #[error("the file is big-endian (version reads as {found:#010x}); allowed: little-endian")]
    BigEndian { found: u32 },
    #[error("version {found}, allowed: 2 and 3")]
    Version { found: u32 },
    #[error("{found} {what} claimed, allowed: at most {max} ({left} bytes are left)")]
    Count { what: &'static str, found: u64, max: u64, left: u64 },
    #[error("a {what} of {found} bytes, allowed: {min} to {max}")]
    Length { what: &'static str, found: u64, min: u64, max: u64 },
    #[error("{what} has byte {byte:#04x} at position {at}, allowed: {allowed}")]
    Text { what: &'static str, byte: u8, at: usize, allowed: &'static str },
    #[error("the key of entry {first} again; each key may occur once")]
    DuplicateKey { first: usize },
    #[error("value type {found}, allowed: 0 to 12")]
    ValueType { found: u32 },
    #[error("array elements of type array, allowed: scalars and strings")]
    NestedArray,
    #[error("bool byte {found}, allowed: 0 and 1")]
    Bool { found: u8 },
    #[error("value of type {found}, allowed: u32")]
    AlignmentType { found: ValueType },
    #[error("alignment {found}, allowed: powers of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}")]
    Alignment { found: u32 },
    #[error("the name of tensor {first} again; each name may occur once")]
    DuplicateTensor { first: usize },
    #[error("{found} dimensions, allowed: 1 to {MAX_DIMS}")]
    DimCount { found: u32 },
    #[error("dimension {axis} is 0, allowed: at least 1")]
    ZeroDim { axis: usize },
    #[error("a tensor of {dims:?} elements of type {ty} has 2^64 bytes or more")]
    TooLarge { dims: Vec<u64>, ty: GgmlType },
    #[error("rows of {found} elements, allowed for {ty}: multiples of {block}")]
    PartialBlock { found: u64, ty: GgmlType, block: u64 },
    #[error("tensor type {found} ({}), allowed: {}", type_story(*found), all_types())]
    TensorType { found: u32 },
    #[error("data offset {found}, allowed: multiples of the alignment {alignment}")]
    Unaligned { found: u64, alignment: u64 },
    #[error(
        "{size} bytes from {begin} on do not fit into the file's {file}: the file is damaged, or a download is incomplete"
    )]
    OutOfBounds { begin: u64, size: u64, file: u64 },
    #[error("overlaps tensor {index} (`{}`), whose data ends at byte {end}", printable(other, NAME_CHARS))]
    Overlap { index: usize, other: String, end: u64 },
    #[error("{n_bytes} bytes of tensor data, but the file lists no tensors")]
    DataWithoutTensors { n_bytes: u64 },
}

fn type_story(id: u32) -> String {
    match GgmlType::removed_name(id) {
        Some(name) => format!("{name}, removed from ggml: convert the model again"),
        None => "unknown".to_owned(),
    }
}

fn all_types() -> String {
    let names: Vec<_> = GgmlType::all().map(|ty| format!("{ty}={}", ty.id())).collect();
    names.join(" ")
}
