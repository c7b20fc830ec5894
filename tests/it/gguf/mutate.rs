//! Writes GGUF files that may be wrong in any way: every number and byte is the caller's.

use oxwarp::gguf::{Finding, Gguf};

/// A file as its parts.  `Raw::small()` is a good one; a test spoils what it is about.
#[derive(Clone)]
pub struct Raw {
    pub magic: Vec<u8>,
    pub version: u32,
    /// What the header claims; `None`: the truth.
    pub n_tensors: Option<u64>,
    pub n_entries: Option<u64>,
    /// Encoded metadata entries, see [`entry`].
    pub entries: Vec<Vec<u8>>,
    pub tensors: Vec<RawTensor>,
    /// The data section begins at a multiple of this.
    pub alignment: usize,
    pub data: Vec<u8>,
}

/// An entry of the tensor list.
#[derive(Clone)]
pub struct RawTensor {
    pub name: Vec<u8>,
    /// What the entry claims; `None`: the truth.
    pub n_dims: Option<u32>,
    pub dims: Vec<u64>,
    pub ty: u32,
    pub offset: u64,
}

pub const F32: u32 = 0;
pub const Q4_0: u32 = 2;
pub const Q4_K: u32 = 12;

/// Numbers of value types.
pub const U8: u32 = 0;
pub const U32: u32 = 4;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;

/// A length and the bytes.
pub fn text(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    [&(bytes.as_ref().len() as u64).to_le_bytes(), bytes.as_ref()].concat()
}

/// A metadata entry.
pub fn entry(key: impl AsRef<[u8]>, ty: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    [&text(key), &ty.to_le_bytes()[..], payload.as_ref()].concat()
}

/// The payload of an array.
pub fn array(ty: u32, len: u64, elements: impl AsRef<[u8]>) -> Vec<u8> {
    [&ty.to_le_bytes(), &len.to_le_bytes()[..], elements.as_ref()].concat()
}

/// A tensor list's entry.
pub fn tensor(name: impl AsRef<[u8]>, dims: &[u64], ty: u32, offset: u64) -> RawTensor {
    RawTensor { name: name.as_ref().to_vec(), n_dims: None, dims: dims.to_vec(), ty, offset }
}

impl Raw {
    /// A good file without metadata and tensors.
    pub fn empty() -> Raw {
        Raw {
            magic: b"GGUF".to_vec(),
            version: 3,
            n_tensors: None,
            n_entries: None,
            entries: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
            data: Vec::new(),
        }
    }

    /// A good file with a few values and two tensors: `a`, 8 x 2 of F32 (64 bytes), and `b`, 32 of Q4_0 (18 bytes).
    pub fn small() -> Raw {
        let mut data: Vec<u8> = (1..=16).flat_map(|i| (i as f32).to_le_bytes()).collect();
        // A block of Q4_0: scale 1.0, then nibbles.
        data.extend([0x00, 0x3c]);
        data.extend([0x87; 16]);
        Raw {
            entries: vec![
                entry("general.architecture", STRING, text("llama")),
                entry("llama.block_count", U32, 2u32.to_le_bytes()),
                entry("tokenizer.ggml.tokens", ARRAY, array(STRING, 2, [text("a"), text("bc")].concat())),
                entry("tokenizer.ggml.add_bos_token", BOOL, [1]),
            ],
            tensors: vec![tensor("a", &[8, 2], F32, 0), tensor("b", &[32], Q4_0, 64)],
            data,
            ..Raw::empty()
        }
    }

    /// The good small file with one more metadata entry.
    pub fn with_entry(key: impl AsRef<[u8]>, ty: u32, payload: impl AsRef<[u8]>) -> Raw {
        let mut raw = Raw::small();
        raw.entries.push(entry(key, ty, payload));
        raw
    }

    /// The good small file with another tensor list.
    pub fn with_tensors(tensors: impl Into<Vec<RawTensor>>) -> Raw {
        Raw { tensors: tensors.into(), ..Raw::small() }
    }

    /// Header, metadata and tensor list.
    pub fn head(&self) -> Vec<u8> {
        let mut bytes = self.magic.clone();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.n_entries.unwrap_or(self.entries.len() as u64).to_le_bytes());
        bytes.extend(self.entries.iter().flatten());
        for tensor in &self.tensors {
            bytes.extend(text(&tensor.name));
            bytes.extend(tensor.n_dims.unwrap_or(tensor.dims.len() as u32).to_le_bytes());
            bytes.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            bytes.extend(tensor.ty.to_le_bytes());
            bytes.extend(tensor.offset.to_le_bytes());
        }
        bytes
    }

    /// The whole file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head();
        if !self.tensors.is_empty() || !self.data.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        }
        bytes.extend(&self.data);
        bytes
    }
}

/// The message with which a file is refused; the same from the library and as a line of `check`.
pub fn refusal(bytes: &[u8]) -> String {
    let error = Gguf::parse(bytes).expect_err("the file must be refused");
    let message = error.to_string();
    assert_eq!(Finding::from(error).to_string(), format!("error: {message}"));
    message
}

/// One line for each input: its label, and why it is refused.
pub fn refusals<L: std::fmt::Display>(inputs: impl IntoIterator<Item = (L, Raw)>) -> String {
    let lines = inputs.into_iter().map(|(label, raw)| format!("{label}: {}\n", refusal(&raw.bytes())));
    lines.collect()
}
