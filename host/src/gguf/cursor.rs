//! A reading position over untrusted bytes: every step is checked against what is left.

use super::error::Fault;
use super::value::{Scalar, ValueType};

/// What went wrong, and at which byte of the file.
pub(super) type At<T> = Result<T, (u64, Fault)>;

/// The longest string value that is accepted, in bytes.
pub const MAX_STRING_BYTES: u64 = 16 << 20;

/// A reading position in a file's bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, pos: 0 }
    }

    /// Bytes from the start of the file.
    pub fn offset(&self) -> u64 {
        self.pos as u64
    }

    /// Bytes between here and the end of the file.
    pub fn left(&self) -> u64 {
        (self.bytes.len() - self.pos) as u64
    }

    /// The next `n_bytes`, which are (part of) a `what`.
    pub fn take(&mut self, n_bytes: u64, what: &'static str) -> At<&'a [u8]> {
        let left = self.left();
        if n_bytes > left {
            return Err((self.offset(), Fault::Truncated { what, needed: n_bytes, left }));
        }
        let begin = self.pos;
        self.pos += n_bytes as usize;
        Ok(&self.bytes[begin..self.pos])
    }

    /// The bytes from `begin` to here.
    pub fn since(&self, begin: Cursor<'a>) -> &'a [u8] {
        &self.bytes[begin.pos..self.pos]
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> At<[u8; N]> {
        let bytes = self.take(N as u64, what)?;
        Ok(bytes.try_into().expect("take returned N bytes"))
    }

    pub fn u32(&mut self, what: &'static str) -> At<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub fn u64(&mut self, what: &'static str) -> At<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A value of a fixed-size type.
    pub fn scalar(&mut self, ty: ValueType) -> At<Scalar> {
        let begin = self.offset();
        Ok(match ty {
            ValueType::U8 => Scalar::U8(u8::from_le_bytes(self.array("u8 value")?)),
            ValueType::I8 => Scalar::I8(i8::from_le_bytes(self.array("i8 value")?)),
            ValueType::U16 => Scalar::U16(u16::from_le_bytes(self.array("u16 value")?)),
            ValueType::I16 => Scalar::I16(i16::from_le_bytes(self.array("i16 value")?)),
            ValueType::U32 => Scalar::U32(u32::from_le_bytes(self.array("u32 value")?)),
            ValueType::I32 => Scalar::I32(i32::from_le_bytes(self.array("i32 value")?)),
            ValueType::U64 => Scalar::U64(u64::from_le_bytes(self.array("u64 value")?)),
            ValueType::I64 => Scalar::I64(i64::from_le_bytes(self.array("i64 value")?)),
            ValueType::F32 => Scalar::F32(f32::from_le_bytes(self.array("f32 value")?)),
            ValueType::F64 => Scalar::F64(f64::from_le_bytes(self.array("f64 value")?)),
            ValueType::Bool => match self.array::<1>("bool value")? {
                [0] => Scalar::Bool(false),
                [1] => Scalar::Bool(true),
                [found] => return Err((begin, Fault::Bool { found })),
            },
            ValueType::String | ValueType::Array => unreachable!("{ty:?} is no scalar"),
        })
    }

    /// A length and as many bytes, at least `min` and at most `max`.
    pub fn counted(&mut self, what: &'static str, min: u64, max: u64) -> At<&'a [u8]> {
        let begin = self.offset();
        let found = self.u64(what)?;
        let left = self.left();
        if found < min || found > max {
            return Err((begin, Fault::Length { what, found, min, max }));
        }
        if found > left {
            return Err((begin, Fault::Truncated { what, needed: found, left }));
        }
        self.take(found, what)
    }

    /// A length and as many bytes of UTF-8.
    pub fn text(&mut self, what: &'static str, min: u64, max: u64) -> At<&'a str> {
        let bytes = self.counted(what, min, max)?;
        let begin = self.offset() - bytes.len() as u64;
        std::str::from_utf8(bytes).map_err(|error| {
            let at = error.valid_up_to();
            (begin + at as u64, Fault::Text { what, byte: bytes[at], at, allowed: "UTF-8" })
        })
    }
}
