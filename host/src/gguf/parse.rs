//! From bytes to a [`Gguf`]: header, metadata, tensor list, and where each tensor's data lies.
//!
//! Nothing is allocated by a number that the file claims: a list is walked to its end once before room is made for its
//! entries.  All together at most four bytes are allocated for each byte of the file.

use std::ops::{Deref, Range};

use super::Gguf;
use super::cursor::{At, Cursor, MAX_STRING_BYTES};
use super::error::{Error, Fault, Place};
use super::index::Index;
use super::types::GgmlType;
use super::value::{Array, Scalar, Value, ValueType};

/// Alignment of a file that does not state one, in bytes.
pub const DEFAULT_ALIGNMENT: u64 = 32;
/// The smallest alignment that a file may state.
pub const MIN_ALIGNMENT: u32 = 8;
/// The largest alignment that a file may state.
pub const MAX_ALIGNMENT: u32 = 1 << 16;
/// The most dimensions that a tensor may have.
pub const MAX_DIMS: usize = 4;
/// The longest key, in bytes.
pub const MAX_KEY_BYTES: u64 = 65_535;
/// The longest tensor name, in bytes.
pub const MAX_TENSOR_NAME_BYTES: u64 = 64;

/// The key under which a file states its alignment.
const ALIGNMENT_KEY: &str = "general.alignment";
/// A metadata entry has at least a key's length, a type and one byte of value.
const MIN_ENTRY_BYTES: u64 = 8 + 4 + 1;
/// A tensor entry has at least a name's length, a dimension count, a type and an offset.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 4 + 8;
/// The names' index holds positions as u32.
const MAX_ENTRIES: u64 = u32::MAX as u64 - 1;

/// A tensor's dimensions, fastest first: `[n_cols, n_rows, …]`, one to four, each at least 1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Dims {
    n_dims: usize,
    sizes: [u64; MAX_DIMS],
}

impl Deref for Dims {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        &self.sizes[..self.n_dims]
    }
}

impl std::fmt::Debug for Dims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.deref().fmt(f)
    }
}

/// One entry of the tensor list.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo<'a> {
    /// At most 64 bytes, no control characters, unique in the file.
    pub name: &'a str,
    /// Dimensions, fastest first; `dims[0]` is a multiple of the type's block.
    pub dims: Dims,
    /// How the elements are stored.
    pub ty: GgmlType,
    /// Where the data lies: bytes from the start of the file, inside the file and free of other tensors.
    pub range: Range<usize>,
}

impl TensorInfo<'_> {
    /// Number of elements.
    pub fn n_elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Bytes of the data.
    pub fn n_bytes(&self) -> u64 {
        self.range.len() as u64
    }
}

impl<'a> Gguf<'a> {
    /// Reads the structure of a whole file.  Pure: it looks at `bytes` and nothing else, borrows every name, string and
    /// array from it, and touches no tensor data.  Time is linear in the bytes before the data, apart from a sort of the
    /// tensor list.
    ///
    /// # Errors
    /// [`Error::Malformed`] for anything that the format does not allow, with the place and byte of the first fault.
    pub fn parse(bytes: &'a [u8]) -> Result<Gguf<'a>, Error> {
        let mut cursor = Cursor::new(bytes);
        let head = header(&mut cursor).map_err(|at| malformed(Place::Header, at))?;
        let mut gguf = Gguf {
            version: head.version,
            alignment: DEFAULT_ALIGNMENT,
            tensors: Vec::new(),
            data_begin: 0,
            bytes,
            metadata: Vec::new(),
            metadata_index: Index::with_capacity(0),
            tensor_index: Index::with_capacity(0),
        };
        gguf.read_metadata(&mut cursor, head.n_entries)?;
        gguf.read_tensor_list(&mut cursor, head.n_tensors)?;
        gguf.place_tensors(cursor)?;
        Ok(gguf)
    }

    fn read_metadata(&mut self, cursor: &mut Cursor<'a>, n_entries: u64) -> Result<(), Error> {
        // Nothing is allocated before all entries are known to be there.
        let mut scout = *cursor;
        for index in 0..n_entries {
            read_entry(&mut scout, index)?;
        }
        self.metadata.reserve_exact(n_entries as usize);
        self.metadata_index = Index::with_capacity(n_entries as usize);
        for index in 0..n_entries {
            let begin = *cursor;
            let (key, value) = read_entry(cursor, index)?;
            let refuse = |fault| malformed(metadata_place(index, key), (begin.offset(), fault));
            self.metadata_index
                .insert(key, self.metadata.len(), |at| self.metadata[at].0)
                .map_err(|first| refuse(Fault::DuplicateKey { first }))?;
            if key == ALIGNMENT_KEY {
                self.alignment = check_alignment(value).map_err(refuse)?;
            }
            self.metadata.push((key, value));
        }
        Ok(())
    }

    fn read_tensor_list(&mut self, cursor: &mut Cursor<'a>, n_tensors: u64) -> Result<(), Error> {
        let mut scout = *cursor;
        for index in 0..n_tensors {
            read_tensor(&mut scout, index, self.alignment)?;
        }
        self.tensors.reserve_exact(n_tensors as usize);
        self.tensor_index = Index::with_capacity(n_tensors as usize);
        for index in 0..n_tensors {
            let begin = cursor.offset();
            let tensor = read_tensor(cursor, index, self.alignment)?;
            self.tensor_index.insert(tensor.name, self.tensors.len(), |at| self.tensors[at].name).map_err(
                |first| {
                    malformed(tensor_place(index, tensor.name), (begin, Fault::DuplicateTensor { first }))
                },
            )?;
            self.tensors.push(tensor);
        }
        Ok(())
    }

    /// Turns the ranges, relative to the data section so far, into places in the file: all inside it, none overlapping.
    fn place_tensors(&mut self, cursor: Cursor<'a>) -> Result<(), Error> {
        let file = self.bytes.len() as u64;
        let begin = cursor.offset().next_multiple_of(self.alignment);
        if self.tensors.is_empty() {
            self.data_begin = self.bytes.len();
            let n_bytes = file.saturating_sub(begin);
            return match n_bytes {
                0 => Ok(()),
                _ => Err(malformed(Place::Data, (begin, Fault::DataWithoutTensors { n_bytes }))),
            };
        }
        let needed = begin - cursor.offset();
        if begin > file {
            let fault = Fault::Truncated { what: "padding before the data", needed, left: cursor.left() };
            return Err(malformed(Place::Data, (cursor.offset(), fault)));
        }
        self.data_begin = begin as usize;
        for (index, tensor) in self.tensors.iter_mut().enumerate() {
            let (offset, size) = (tensor.range.start as u64, tensor.range.len() as u64);
            let first = begin.checked_add(offset);
            let end = first.and_then(|first| first.checked_add(size)).filter(|end| *end <= file);
            let (Some(first), Some(end)) = (first, end) else {
                let place = tensor_place(index as u64, tensor.name);
                let first = begin.saturating_add(offset);
                return Err(malformed(place, (first, Fault::OutOfBounds { begin: first, size, file })));
            };
            tensor.range = first as usize..end as usize;
        }
        self.check_overlap()
    }

    fn check_overlap(&self) -> Result<(), Error> {
        let order = self.tensors_by_offset();
        for (&before, &after) in order.iter().zip(order.iter().skip(1)) {
            let (before_tensor, after_tensor) =
                (&self.tensors[before as usize], &self.tensors[after as usize]);
            if before_tensor.range.end > after_tensor.range.start {
                let fault = Fault::Overlap {
                    index: before as usize,
                    other: before_tensor.name.to_owned(),
                    end: before_tensor.range.end as u64,
                };
                let place = tensor_place(after.into(), after_tensor.name);
                return Err(malformed(place, (after_tensor.range.start as u64, fault)));
            }
        }
        Ok(())
    }

    /// Positions in `tensors`, ordered by where the data lies.
    pub(super) fn tensors_by_offset(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.tensors.len() as u32).collect();
        order.sort_unstable_by_key(|&at| (self.tensors[at as usize].range.start, at));
        order
    }
}

fn malformed(place: Place, (offset, fault): (u64, Fault)) -> Error {
    Error::Malformed { place, offset, fault }
}

fn metadata_place(index: u64, key: &str) -> Place {
    Place::Metadata { index, key: Some(key.to_owned()) }
}

fn tensor_place(index: u64, name: &str) -> Place {
    Place::Tensor { index, name: Some(name.to_owned()) }
}

struct Header {
    version: u32,
    n_tensors: u64,
    n_entries: u64,
}

fn header(cursor: &mut Cursor<'_>) -> At<Header> {
    if cursor.left() == 0 {
        return Err((0, Fault::Empty));
    }
    let start = *cursor;
    let magic: [u8; 4] = cursor.take(4, "magic")?.try_into().expect("took 4 bytes");
    if &magic != b"GGUF" {
        return Err((0, Fault::Magic { found: magic, guess: guess_kind(start) }));
    }
    let version_at = cursor.offset();
    let version = cursor.u32("version")?;
    match version {
        2 | 3 => {}
        found if matches!(found.swap_bytes(), 1..=3) => return Err((version_at, Fault::BigEndian { found })),
        found => return Err((version_at, Fault::Version { found })),
    }
    let counts_at = cursor.offset();
    let n_tensors = cursor.u64("tensor count")?;
    let n_entries = cursor.u64("metadata count")?;
    check_count(cursor, "tensors", n_tensors, MIN_TENSOR_BYTES).map_err(|fault| (counts_at, fault))?;
    check_count(cursor, "metadata entries", n_entries, MIN_ENTRY_BYTES)
        .map_err(|fault| (counts_at + 8, fault))?;
    Ok(Header { version, n_tensors, n_entries })
}

/// Whether `found` entries of at least `min_bytes` fit into the rest of the file.
fn check_count(cursor: &Cursor<'_>, what: &'static str, found: u64, min_bytes: u64) -> Result<(), Fault> {
    let left = cursor.left();
    let max = (left / min_bytes).min(MAX_ENTRIES);
    if found > max { Err(Fault::Count { what, found, max, left }) } else { Ok(()) }
}

/// What a file that is no GGUF file seems to be.
fn guess_kind(mut start: Cursor<'_>) -> &'static str {
    let n_bytes = start.left().min(64);
    let head = start.take(n_bytes, "magic").unwrap_or_default();
    let begins = |magic: &[u8]| head.len() >= magic.len() && head[..magic.len()].eq_ignore_ascii_case(magic);
    match head {
        _ if head.starts_with(b"FUGG") => "this looks like a byte-swapped GGUF file",
        _ if [b"lmgg", b"tjgg", b"fmgg", b"algg", b"GGML", b"ggml", b"ggjt", b"ggmf", b"ggla"]
            .iter()
            .any(|magic| head.starts_with(*magic)) =>
        {
            "this looks like a file of ggml's format before GGUF: convert the model again"
        }
        _ if begins(b"version https://git-lfs") => {
            "this looks like a Git LFS pointer: fetch the real file with `git lfs pull`"
        }
        _ if begins(b"<!doctype") || begins(b"<html") || begins(b"<?xml") => {
            "this looks like a web page: the download went wrong"
        }
        [0x1f, 0x8b, ..] => "this looks like a gzip archive: unpack it first",
        [b'P', b'K', 3, 4, ..] => "this looks like a zip archive or a PyTorch checkpoint",
        [0x80, 2..=5, ..] => "this looks like a Python pickle",
        [_, _, _, _, _, 0, 0, 0, b'{', ..] => "this looks like a safetensors file: convert the model to GGUF",
        [b'{', ..] => "this looks like JSON",
        _ => "the kind of file is unknown",
    }
}

fn read_entry<'a>(cursor: &mut Cursor<'a>, index: u64) -> Result<(&'a str, Value<'a>), Error> {
    let key = read_key(cursor).map_err(|at| malformed(Place::Metadata { index, key: None }, at))?;
    let value = read_value(cursor).map_err(|at| malformed(metadata_place(index, key), at))?;
    Ok((key, value))
}

/// A key is shown in messages and typed by users: printable ASCII only.
fn read_key<'a>(cursor: &mut Cursor<'a>) -> At<&'a str> {
    let key = cursor.counted("key", 1, MAX_KEY_BYTES)?;
    let begin = cursor.offset() - key.len() as u64;
    if let Some(at) = key.iter().position(|byte| !matches!(byte, b' '..=b'~')) {
        let fault = Fault::Text { what: "the key", byte: key[at], at, allowed: "printable ASCII" };
        return Err((begin + at as u64, fault));
    }
    Ok(std::str::from_utf8(key).expect("ASCII is UTF-8"))
}

fn read_tensor_name<'a>(cursor: &mut Cursor<'a>) -> At<&'a str> {
    let name = cursor.text("tensor name", 1, MAX_TENSOR_NAME_BYTES)?;
    let begin = cursor.offset() - name.len() as u64;
    match name.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, _)) => {
            let byte = name.as_bytes()[at];
            let allowed = "UTF-8 without control characters";
            Err((begin + at as u64, Fault::Text { what: "the tensor name", byte, at, allowed }))
        }
        None => Ok(name),
    }
}

fn read_value_type(cursor: &mut Cursor<'_>, what: &'static str) -> At<ValueType> {
    let begin = cursor.offset();
    let found = cursor.u32(what)?;
    ValueType::from_id(found).ok_or((begin, Fault::ValueType { found }))
}

fn read_value<'a>(cursor: &mut Cursor<'a>) -> At<Value<'a>> {
    Ok(match read_value_type(cursor, "value type")? {
        ValueType::String => Value::String(cursor.text("string", 0, MAX_STRING_BYTES)?),
        ValueType::Array => Value::Array(read_array(cursor)?),
        scalar => Value::Scalar(cursor.scalar(scalar)?),
    })
}

/// Walks over an array and checks every element, so that iterating it later cannot fail.
fn read_array<'a>(cursor: &mut Cursor<'a>) -> At<Array<'a>> {
    let head = *cursor;
    let ty = read_value_type(cursor, "element type")?;
    if ty == ValueType::Array {
        return Err((head.offset(), Fault::NestedArray));
    }
    let len_at = cursor.offset();
    let len = cursor.u64("array length")?;
    // A string has at least its length.
    let element_bytes = ty.bytes().unwrap_or(8);
    let (max, left) = (cursor.left() / element_bytes, cursor.left());
    if len > max {
        return Err((len_at, Fault::Count { what: "array elements", found: len, max, left }));
    }
    match ty {
        ValueType::String => {
            for _ in 0..len {
                cursor.text("string", 0, MAX_STRING_BYTES)?;
            }
        }
        ValueType::Bool => {
            for _ in 0..len {
                cursor.scalar(ty)?;
            }
        }
        _ => {
            cursor.take(len * element_bytes, "array")?;
        }
    }
    Ok(Array::from_checked(cursor.since(head)))
}

fn check_alignment(value: Value<'_>) -> Result<u64, Fault> {
    let Value::Scalar(Scalar::U32(found)) = value else {
        return Err(Fault::AlignmentType { found: value.ty() });
    };
    let allowed = found.is_power_of_two() && (MIN_ALIGNMENT..=MAX_ALIGNMENT).contains(&found);
    if allowed { Ok(found.into()) } else { Err(Fault::Alignment { found }) }
}

fn read_tensor<'a>(cursor: &mut Cursor<'a>, index: u64, alignment: u64) -> Result<TensorInfo<'a>, Error> {
    let name = read_tensor_name(cursor).map_err(|at| malformed(Place::Tensor { index, name: None }, at))?;
    read_tensor_rest(cursor, name, alignment).map_err(|at| malformed(tensor_place(index, name), at))
}

/// A tensor entry after its name.  The range is relative to the data section until all entries are read.
fn read_tensor_rest<'a>(cursor: &mut Cursor<'a>, name: &'a str, alignment: u64) -> At<TensorInfo<'a>> {
    let dims = read_dims(cursor)?;
    let type_at = cursor.offset();
    let id = cursor.u32("tensor type")?;
    let ty = GgmlType::from_id(id).ok_or((type_at, Fault::TensorType { found: id }))?;
    let size = tensor_bytes(&dims, ty).map_err(|fault| (type_at, fault))?;
    let offset_at = cursor.offset();
    let offset = cursor.u64("data offset")?;
    if !offset.is_multiple_of(alignment) {
        return Err((offset_at, Fault::Unaligned { found: offset, alignment }));
    }
    let range = offset
        .checked_add(size)
        .and_then(|end| Some(usize::try_from(offset).ok()?..usize::try_from(end).ok()?));
    let range = range.ok_or_else(|| {
        let file = cursor.offset() + cursor.left();
        (offset_at, Fault::OutOfBounds { begin: offset, size, file })
    })?;
    Ok(TensorInfo { name, dims, ty, range })
}

fn read_dims(cursor: &mut Cursor<'_>) -> At<Dims> {
    let count_at = cursor.offset();
    let found = cursor.u32("dimension count")?;
    let n_dims = found as usize;
    if n_dims == 0 || n_dims > MAX_DIMS {
        return Err((count_at, Fault::DimCount { found }));
    }
    let mut sizes = [0; MAX_DIMS];
    for (axis, size) in sizes[..n_dims].iter_mut().enumerate() {
        let dim_at = cursor.offset();
        *size = cursor.u64("dimension")?;
        if *size == 0 {
            return Err((dim_at, Fault::ZeroDim { axis }));
        }
    }
    Ok(Dims { n_dims, sizes })
}

/// Bytes of a tensor; the product of its dimensions fits u64 too.
fn tensor_bytes(dims: &Dims, ty: GgmlType) -> Result<u64, Fault> {
    let n_elements = dims.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
    let too_large = || Fault::TooLarge { dims: dims.to_vec(), ty };
    let n_elements = n_elements.ok_or_else(too_large)?;
    let (row, block) = (dims[0], ty.block_elements());
    if !row.is_multiple_of(block) {
        return Err(Fault::PartialBlock { found: row, ty, block });
    }
    ty.row_bytes(n_elements).ok_or_else(too_large)
}
