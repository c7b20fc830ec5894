//! Writes GGUF files: the head in memory, the tensors' data as a stream.
//!
//! ```
//! use oxwarp::gguf::{GgmlType, Gguf, write::Head};
//!
//! let mut head = Head::new();
//! head.str("general.architecture", "llama").u32("llama.block_count", 1);
//! head.tensor("output_norm.weight", &[2], GgmlType::F32);
//! let mut data = head.begin(Vec::new())?;
//! data.write(&[1.0f32.to_le_bytes(), 2.0f32.to_le_bytes()].concat())?;
//! let file = data.finish()?;
//! assert_eq!(Gguf::parse(&file).unwrap().tensor("output_norm.weight").unwrap().dims[..], [2]);
//! # Ok::<(), std::io::Error>(())
//! ```

use std::io::{self, Write};

use super::parse::DEFAULT_ALIGNMENT;
use super::types::GgmlType;
use super::value::ValueType;

/// Version of the format that is written.
const VERSION: u32 = 3;

/// Metadata and tensor list of a file to be written.
///
/// Names, shapes and values are the caller's own: a tensor whose row is no whole number of blocks is a bug, and panics.
#[derive(Clone, Debug, Default)]
pub struct Head {
    n_entries: u64,
    entries: Vec<u8>,
    tensor_list: Vec<u8>,
    /// Bytes of each tensor's data.
    sizes: Vec<u64>,
    /// Where the next tensor's data begins, from the start of the data section.
    next_offset: u64,
}

macro_rules! scalars {
    ($($name:ident $array:ident $ty:ty, $value_type:ident;)*) => {$(
        /// Adds a value of the type that the name says.
        pub fn $name(&mut self, key: &str, value: $ty) -> &mut Head {
            self.entry(key, ValueType::$value_type, &value.to_le_bytes())
        }

        /// Adds an array of the type that the name says.
        pub fn $array(&mut self, key: &str, values: impl IntoIterator<Item = $ty>) -> &mut Head {
            self.array_entry(key, ValueType::$value_type, values, |bytes, value| bytes.extend(value.to_le_bytes()))
        }
    )*};
}

impl Head {
    /// A head without entries and tensors, of the default alignment.
    pub fn new() -> Head {
        Head::default()
    }

    scalars! {
        u32 u32_array u32, U32;
        i32 i32_array i32, I32;
        u64 u64_array u64, U64;
        f32 f32_array f32, F32;
    }

    /// Adds a bool.
    pub fn bool(&mut self, key: &str, value: bool) -> &mut Head {
        self.entry(key, ValueType::Bool, &[value.into()])
    }

    /// Adds a string.
    pub fn str(&mut self, key: &str, value: &str) -> &mut Head {
        let mut payload = Vec::with_capacity(8 + value.len());
        push_text(&mut payload, value);
        self.entry(key, ValueType::String, &payload)
    }

    /// Adds an array of strings.
    pub fn str_array<S: AsRef<str>>(&mut self, key: &str, values: impl IntoIterator<Item = S>) -> &mut Head {
        self.array_entry(key, ValueType::String, values, |bytes, value| push_text(bytes, value.as_ref()))
    }

    /// Adds a tensor; the data of all tensors follows in this order.
    pub fn tensor(&mut self, name: &str, dims: &[u64], ty: GgmlType) -> &mut Head {
        let n_bytes =
            tensor_bytes(dims, ty).unwrap_or_else(|| panic!("tensor {name} of shape {dims:?} as {ty}"));
        push_text(&mut self.tensor_list, name);
        self.tensor_list.extend((dims.len() as u32).to_le_bytes());
        self.tensor_list.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
        self.tensor_list.extend(ty.id().to_le_bytes());
        self.tensor_list.extend(self.next_offset.to_le_bytes());
        self.sizes.push(n_bytes);
        self.next_offset += n_bytes.next_multiple_of(DEFAULT_ALIGNMENT);
        self
    }

    /// Bytes that the whole file will have.
    pub fn file_bytes(&self) -> u64 {
        let head = 24 + self.entries.len() as u64 + self.tensor_list.len() as u64;
        if self.sizes.is_empty() { head } else { head.next_multiple_of(DEFAULT_ALIGNMENT) + self.next_offset }
    }

    /// Writes the head; the data comes next.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn begin<W: Write>(&self, mut out: W) -> io::Result<DataWriter<'_, W>> {
        out.write_all(b"GGUF")?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&(self.sizes.len() as u64).to_le_bytes())?;
        out.write_all(&self.n_entries.to_le_bytes())?;
        out.write_all(&self.entries)?;
        out.write_all(&self.tensor_list)?;
        let n_written = 24 + (self.entries.len() + self.tensor_list.len()) as u64;
        if !self.sizes.is_empty() {
            write_zeros(&mut out, n_written.next_multiple_of(DEFAULT_ALIGNMENT) - n_written)?;
        }
        Ok(DataWriter { out, sizes: &self.sizes, tensor: 0, n_written: 0 })
    }

    fn entry(&mut self, key: &str, ty: ValueType, payload: &[u8]) -> &mut Head {
        push_text(&mut self.entries, key);
        self.entries.extend(ty.id().to_le_bytes());
        self.entries.extend(payload);
        self.n_entries += 1;
        self
    }

    fn array_entry<T>(
        &mut self,
        key: &str,
        ty: ValueType,
        values: impl IntoIterator<Item = T>,
        push: impl Fn(&mut Vec<u8>, T),
    ) -> &mut Head {
        self.entry(key, ValueType::Array, &ty.id().to_le_bytes());
        let len_at = self.entries.len();
        self.entries.extend([0; 8]);
        let mut len = 0u64;
        for value in values {
            push(&mut self.entries, value);
            len += 1;
        }
        self.entries[len_at..len_at + 8].copy_from_slice(&len.to_le_bytes());
        self
    }
}

/// Bytes of a tensor; `None` if its rows are no whole blocks.
pub fn tensor_bytes(dims: &[u64], ty: GgmlType) -> Option<u64> {
    let (row, rest) = dims.split_first()?;
    ty.row_bytes(*row)?.checked_mul(rest.iter().product())
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn write_zeros(out: &mut impl Write, n_bytes: u64) -> io::Result<()> {
    out.write_all(&[0; DEFAULT_ALIGNMENT as usize][..n_bytes as usize])
}

/// Writes the tensors' data, in the order of the tensor list, and the padding between them.
#[derive(Debug)]
pub struct DataWriter<'h, W> {
    out: W,
    sizes: &'h [u64],
    /// The tensor that is being written.
    tensor: usize,
    /// Bytes of it that have been written.
    n_written: u64,
}

impl<W: Write> DataWriter<'_, W> {
    /// Writes the next bytes: of one tensor, or the end of one and the beginning of the next.
    ///
    /// # Errors
    /// Those of the file.
    ///
    /// # Panics
    /// If there are more bytes than the tensors have.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let size = *self.sizes.get(self.tensor).expect("more data than the tensors of the head have");
            let n_now = (size - self.n_written).min(bytes.len() as u64);
            let (now, later) = bytes.split_at(n_now as usize);
            self.out.write_all(now)?;
            self.n_written += n_now;
            if self.n_written == size {
                write_zeros(&mut self.out, size.next_multiple_of(DEFAULT_ALIGNMENT) - size)?;
                (self.tensor, self.n_written) = (self.tensor + 1, 0);
            }
            bytes = later;
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// Those of the file.
    ///
    /// # Panics
    /// If data is missing.
    pub fn finish(mut self) -> io::Result<W> {
        assert!(
            self.tensor == self.sizes.len(),
            "tensor {} of {} has {} bytes of data",
            self.tensor,
            self.sizes.len(),
            self.n_written
        );
        self.out.flush()?;
        Ok(self.out)
    }
}
