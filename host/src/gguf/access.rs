//! Typed access to metadata: a value has the type and range that the reader needs, or the error names key, found value
//! and allowed values.  Each getter has an `opt_` form that returns `None` where the key is missing; a present value of
//! the wrong type is an error in both.

use std::ops::RangeInclusive;

use super::Gguf;
use super::error::{Error, KeyFault};
use super::printable::printable;
use super::value::{Array, Scalar, Value, ValueType};

/// Pairs of a required and an optional getter.
macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident, $opt_name:ident -> $ty:ty = $convert:expr, $needed:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// [`Error::Key`] if the key is missing or its value has another type or range.
        pub fn $name(&self, key: &str) -> Result<$ty, Error> {
            self.$opt_name(key)?.ok_or_else(|| missing(key, $needed))
        }

        $(#[$doc])*
        /// `None` if the key is missing.
        ///
        /// # Errors
        /// [`Error::Key`] if its value has another type or range.
        pub fn $opt_name(&self, key: &str) -> Result<Option<$ty>, Error> {
            let convert: fn(&Value<'a>) -> Result<$ty, KeyFault> = $convert;
            self.get(key).map(convert).transpose().map_err(|fault| Error::Key { key: key.to_owned(), fault })
        }
    )*};
}

impl<'a> Gguf<'a> {
    getters! {
        /// An integer of any width whose value fits u32.
        u32, opt_u32 -> u32 = integer, "an integer";
        /// An integer of any width whose value fits i32.
        i32, opt_i32 -> i32 = integer, "an integer";
        /// An integer of any width whose value fits u64.
        u64, opt_u64 -> u64 = integer, "an integer";
        /// An integer of any width whose value fits usize.
        usize, opt_usize -> usize = integer, "an integer";
        /// A finite f32, or a finite f64 rounded to f32.
        f32, opt_f32 -> f32 = |value| float(value, |number| number.is_finite(), "a finite number"), "a float";
        /// A finite f32 greater than zero, or an f64 rounded to one.
        positive_f32, opt_positive_f32 -> f32 =
            |value| float(value, |number| number.is_finite() && number > 0.0, "a finite number above 0"), "a float";
        /// A bool.
        bool, opt_bool -> bool = |value| match value {
            Value::Scalar(Scalar::Bool(found)) => Ok(*found),
            other => Err(wrong_type(other, "bool")),
        }, "a bool";
        /// A string; untrusted, see [`printable`].
        str, opt_str -> &'a str = |value| match value {
            Value::String(found) => Ok(*found),
            other => Err(wrong_type(other, "string")),
        }, "a string";
        /// An array of any element type.
        array, opt_array -> Array<'a> = |value| match value {
            Value::Array(found) => Ok(*found),
            other => Err(wrong_type(other, "array")),
        }, "an array";
        /// An array of strings.
        str_array, opt_str_array -> StrArray<'a> = |value| match value {
            Value::Array(found) if found.element_type() == ValueType::String => Ok(StrArray(*found)),
            other => Err(wrong_type(other, "array of string")),
        }, "an array of strings";
        /// An array of f32; NaN and infinities are let through.
        f32_array, opt_f32_array -> FloatArray<'a> = |value| match value {
            Value::Array(found) if found.element_type() == ValueType::F32 => Ok(FloatArray(*found)),
            other => Err(wrong_type(other, "array of f32")),
        }, "an array of f32";
        /// An array of integers of any width, each of which fits i64.
        int_array, opt_int_array -> IntArray<'a> = int_array, "an array of integers";
        /// One integer for all layers, or an array of one for each.
        per_layer, opt_per_layer -> PerLayer<'a> = |value| match value {
            Value::Scalar(_) => integer(value).map(PerLayer::Same),
            _ => int_array(value).map(PerLayer::Each),
        }, "an integer or an array of integers";
    }

    /// An integer in `allowed`.
    ///
    /// # Errors
    /// [`Error::Key`] if the key is missing, no integer, or outside.
    pub fn u32_in(&self, key: &str, allowed: RangeInclusive<u32>) -> Result<u32, Error> {
        let found = self.u32(key)?;
        if allowed.contains(&found) {
            return Ok(found);
        }
        Err(Error::refused(key, found, format_args!("{} to {}", allowed.start(), allowed.end())))
    }
}

fn missing(key: &str, needed: &'static str) -> Error {
    Error::Key { key: key.to_owned(), fault: KeyFault::Missing { needed } }
}

fn wrong_type(value: &Value<'_>, allowed: &'static str) -> KeyFault {
    KeyFault::Type { found: describe(value), allowed }
}

/// A value in an error message: type, then the value if it is short.
fn describe(value: &Value<'_>) -> String {
    match value {
        Value::Scalar(scalar) => format!("{} {scalar}", scalar.ty()),
        Value::String(text) => format!("string \"{}\"", printable(text, 40)),
        Value::Array(array) => format!("{} with {} elements", value.describe_type(), array.len()),
    }
}

fn integer<T: TryFrom<i128> + Bounded>(value: &Value<'_>) -> Result<T, KeyFault> {
    let Value::Scalar(scalar) = value else { return Err(wrong_type(value, "an integer")) };
    let found = scalar.as_integer().ok_or_else(|| wrong_type(value, "an integer"))?;
    T::try_from(found).map_err(|_| KeyFault::Refused { found: found.to_string(), allowed: T::bounds() })
}

fn float(value: &Value<'_>, is_allowed: fn(f32) -> bool, allowed: &'static str) -> Result<f32, KeyFault> {
    let Value::Scalar(scalar) = value else { return Err(wrong_type(value, "f32")) };
    let found = scalar.as_float().ok_or_else(|| wrong_type(value, "f32"))?;
    let number = found as f32;
    let refused = || KeyFault::Refused { found: scalar.to_string(), allowed: allowed.to_owned() };
    if is_allowed(number) { Ok(number) } else { Err(refused()) }
}

fn int_array<'a>(value: &Value<'a>) -> Result<IntArray<'a>, KeyFault> {
    let allowed = "array of integers";
    let Value::Array(array) = value else { return Err(wrong_type(value, allowed)) };
    match array.element_type() {
        ValueType::F32 | ValueType::F64 | ValueType::Bool | ValueType::String | ValueType::Array => {
            Err(wrong_type(value, allowed))
        }
        ValueType::U64 => {
            let large = array.iter().enumerate().find_map(|(at, element)| match element {
                Value::Scalar(Scalar::U64(found)) if i64::try_from(found).is_err() => Some((at, found)),
                _ => None,
            });
            large.map_or(Ok(IntArray(*array)), |(at, found)| {
                Err(KeyFault::Refused { found: format!("{found} at index {at}"), allowed: i64::bounds() })
            })
        }
        _ => Ok(IntArray(*array)),
    }
}

/// The values of an integer type, for messages.
trait Bounded {
    fn bounds() -> String;
}

macro_rules! bounded {
    ($($ty:ty)*) => {$(
        impl Bounded for $ty {
            fn bounds() -> String {
                format!("{} to {}", <$ty>::MIN, <$ty>::MAX)
            }
        }
    )*};
}

bounded!(u32 i32 u64 i64 usize);

/// An array of strings, which can only be walked through from the front.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StrArray<'a>(Array<'a>);

impl<'a> StrArray<'a> {
    /// Number of strings.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of all strings with their lengths, in the file.
    pub fn byte_len(&self) -> usize {
        self.0.byte_len()
    }

    /// The strings.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a str> + Clone + use<'a> {
        self.0.iter().map(|value| match value {
            Value::String(text) => text,
            _ => "",
        })
    }
}

/// An array of f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FloatArray<'a>(Array<'a>);

impl<'a> FloatArray<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Element `index` in constant time.
    pub fn get(&self, index: usize) -> Option<f32> {
        match self.0.scalar(index)? {
            Scalar::F32(number) => Some(number),
            _ => None,
        }
    }

    /// The elements.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = f32> + Clone + use<'a> {
        self.0.iter().map(|value| match value {
            Value::Scalar(Scalar::F32(number)) => number,
            _ => f32::NAN,
        })
    }
}

/// An array of integers of one width, read as i64.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IntArray<'a>(Array<'a>);

impl<'a> IntArray<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The width that the file uses.
    pub fn element_type(&self) -> ValueType {
        self.0.element_type()
    }

    /// Element `index` in constant time.
    pub fn get(&self, index: usize) -> Option<i64> {
        self.0.scalar(index)?.as_integer()?.try_into().ok()
    }

    /// The elements.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = i64> + Clone + use<'a> {
        self.0.iter().map(|value| match value {
            Value::Scalar(scalar) => {
                scalar.as_integer().and_then(|found| found.try_into().ok()).unwrap_or_default()
            }
            _ => 0,
        })
    }
}

/// A hyper-parameter that is the same for all layers or stated for each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PerLayer<'a> {
    Same(u32),
    Each(IntArray<'a>),
}

impl PerLayer<'_> {
    /// The value of `layer` out of `n_layers`; `key` is for the message.
    ///
    /// # Errors
    /// [`Error::Key`] if an array has another length than `n_layers`, or the element does not fit u32.
    pub fn of(&self, key: &str, layer: usize, n_layers: usize) -> Result<u32, Error> {
        match self {
            PerLayer::Same(value) => Ok(*value),
            PerLayer::Each(array) if array.len() != n_layers => {
                let allowed = format_args!("{n_layers} elements, one a layer");
                Err(Error::refused(key, format_args!("{} elements", array.len()), allowed))
            }
            PerLayer::Each(array) => {
                let found = array.get(layer).unwrap_or(-1);
                let found_at = format_args!("{found} at index {layer}");
                u32::try_from(found).map_err(|_| Error::refused(key, found_at, u32::bounds()))
            }
        }
    }
}
