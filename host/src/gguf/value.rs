//! Metadata values: thirteen types, borrowed from the file.

use std::fmt;

use super::cursor::{Cursor, MAX_STRING_BYTES};

/// The type of a metadata value or of an array's elements; the discriminant is its number in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// All thirteen, in the order of their numbers.
    pub const ALL: [ValueType; 13] = {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64]
    };

    /// The type that a file means by `id`.
    pub fn from_id(id: u32) -> Option<ValueType> {
        ValueType::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// The number that stands for this type in a file.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// Bytes of one value; `None` for strings and arrays, whose sizes vary.
    pub fn bytes(self) -> Option<u64> {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            String | Array => None,
        }
    }

    /// The name shown to users, e.g. `u32`.
    pub fn name(self) -> &'static str {
        use ValueType::*;
        match self {
            U8 => "u8",
            I8 => "i8",
            U16 => "u16",
            I16 => "i16",
            U32 => "u32",
            I32 => "i32",
            F32 => "f32",
            Bool => "bool",
            String => "string",
            Array => "array",
            U64 => "u64",
            I64 => "i64",
            F64 => "f64",
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A value of fixed size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Scalar {
    /// The type of this value.
    pub fn ty(self) -> ValueType {
        match self {
            Scalar::U8(_) => ValueType::U8,
            Scalar::I8(_) => ValueType::I8,
            Scalar::U16(_) => ValueType::U16,
            Scalar::I16(_) => ValueType::I16,
            Scalar::U32(_) => ValueType::U32,
            Scalar::I32(_) => ValueType::I32,
            Scalar::F32(_) => ValueType::F32,
            Scalar::Bool(_) => ValueType::Bool,
            Scalar::U64(_) => ValueType::U64,
            Scalar::I64(_) => ValueType::I64,
            Scalar::F64(_) => ValueType::F64,
        }
    }

    /// The integer, whatever its width; `None` for floats and bools.
    pub fn as_integer(self) -> Option<i128> {
        match self {
            Scalar::U8(v) => Some(v.into()),
            Scalar::I8(v) => Some(v.into()),
            Scalar::U16(v) => Some(v.into()),
            Scalar::I16(v) => Some(v.into()),
            Scalar::U32(v) => Some(v.into()),
            Scalar::I32(v) => Some(v.into()),
            Scalar::U64(v) => Some(v.into()),
            Scalar::I64(v) => Some(v.into()),
            Scalar::F32(_) | Scalar::F64(_) | Scalar::Bool(_) => None,
        }
    }

    /// The floating-point number, f32 widened; `None` for integers and bools.
    pub fn as_float(self) -> Option<f64> {
        match self {
            Scalar::F32(v) => Some(v.into()),
            Scalar::F64(v) => Some(v),
            _ => None,
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::F32(v) => write!(f, "{v:?}"),
            Scalar::F64(v) => write!(f, "{v:?}"),
            Scalar::Bool(v) => write!(f, "{v}"),
            integer => write!(f, "{}", integer.as_integer().unwrap_or_default()),
        }
    }
}

/// The value of a metadata key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Scalar(Scalar),
    /// Untrusted text: escape it before showing it in a terminal (`gguf::printable`).
    String(&'a str),
    Array(Array<'a>),
}

impl Value<'_> {
    /// The type of this value.
    pub fn ty(&self) -> ValueType {
        match self {
            Value::Scalar(scalar) => scalar.ty(),
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
        }
    }

    /// The type with an array's element type, e.g. `array of f32`.
    pub fn describe_type(&self) -> String {
        match self {
            Value::Array(array) => format!("array of {}", array.element_type()),
            other => other.ty().to_string(),
        }
    }
}

/// Bytes of an array before its elements: element type (u32) and length (u64).
const ARRAY_HEAD_BYTES: usize = 12;

/// An array, read from the file's bytes as it is iterated; it owns nothing.
#[derive(Clone, Copy, PartialEq)]
pub struct Array<'a> {
    /// Head and elements, which the parser has checked from end to end.
    raw: &'a [u8],
}

impl<'a> Array<'a> {
    /// `raw` is head and elements of an array that the parser has walked through.
    pub(super) fn from_checked(raw: &'a [u8]) -> Array<'a> {
        debug_assert!(raw.len() >= ARRAY_HEAD_BYTES);
        Array { raw }
    }

    fn head(&self) -> (ValueType, u64) {
        let mut head = Cursor::new(self.raw);
        let ty = head.u32("element type").ok().and_then(ValueType::from_id);
        (ty.expect("checked by the parser"), head.u64("array length").expect("checked by the parser"))
    }

    /// The type of every element: never `Array`.
    pub fn element_type(&self) -> ValueType {
        self.head().0
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        usize::try_from(self.head().1).expect("the parser has seen each element in memory")
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the elements take in the file.
    pub fn byte_len(&self) -> usize {
        self.raw.len() - ARRAY_HEAD_BYTES
    }

    /// The elements, each a scalar or a string.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Value<'a>> + Clone + use<'a> {
        let ty = self.element_type();
        let mut cursor = Cursor::new(&self.raw[ARRAY_HEAD_BYTES..]);
        (0..self.len()).map(move |_| match ty {
            ValueType::String => {
                Value::String(cursor.text("string", 0, MAX_STRING_BYTES).expect("checked by the parser"))
            }
            _ => Value::Scalar(cursor.scalar(ty).expect("checked by the parser")),
        })
    }

    /// Element `index` in constant time; `None` past the end and for strings, which can only be iterated.
    pub fn scalar(&self, index: usize) -> Option<Scalar> {
        let (ty, len) = self.head();
        let size = usize::try_from(ty.bytes()?).ok()?;
        let inside = u64::try_from(index).is_ok_and(|index| index < len);
        let begin = ARRAY_HEAD_BYTES + inside.then_some(index)? * size;
        Cursor::new(&self.raw[begin..begin + size]).scalar(ty).ok()
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Array({} x {})", self.len(), self.element_type())
    }
}
