//! A file as one JSON object, written as it is read: nothing is collected, however long the arrays are.

use std::io::{self, Write};
use std::path::Path;

use oxwarp::gguf::{Gguf, Scalar, TensorInfo, Value};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::ser::Formatter;

use super::{Total, totals};

/// Writes the object and a line feed.
pub(super) fn write(mut out: impl Write, path: &Path, file_bytes: usize, gguf: &Gguf<'_>) -> io::Result<()> {
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, Escaping);
    File { path, file_bytes, gguf }.serialize(&mut serializer)?;
    writeln!(out)?;
    out.flush()
}

/// JSON allows the control characters from U+007F to U+009F in strings, and a terminal obeys them.
struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        for piece in fragment.split_inclusive(char::is_control) {
            let mut chars = piece.chars();
            match chars.next_back().filter(|last| last.is_control()) {
                Some(last) => write!(writer, "{}\\u{:04x}", chars.as_str(), u32::from(last))?,
                None => writer.write_all(piece.as_bytes())?,
            }
        }
        Ok(())
    }
}

struct File<'f, 'a> {
    path: &'f Path,
    file_bytes: usize,
    gguf: &'f Gguf<'a>,
}

impl Serialize for File<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let gguf = self.gguf;
        let (types, all) = totals(gguf);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("file", &self.path.to_string_lossy())?;
        map.serialize_entry("bytes", &self.file_bytes)?;
        map.serialize_entry("version", &gguf.version)?;
        map.serialize_entry("alignment", &gguf.alignment)?;
        map.serialize_entry("data_begin", &gguf.data_begin())?;
        map.serialize_entry("metadata", &Metadata(gguf))?;
        map.serialize_entry("tensors", &Tensors(&gguf.tensors))?;
        map.serialize_entry("types", &Types(types.iter().map(|(ty, total)| (ty.name(), *total)).collect()))?;
        map.serialize_entry("total", &all)?;
        map.end()
    }
}

struct Metadata<'f, 'a>(&'f Gguf<'a>);

impl Serialize for Metadata<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.metadata().map(|(key, value)| (key, Typed(value))))
    }
}

/// A value with its type, which JSON's own types do not tell.
struct Typed<'v, 'a>(&'v Value<'a>);

impl Serialize for Typed<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", self.0.ty().name())?;
        if let Value::Array(array) = self.0 {
            map.serialize_entry("element_type", array.element_type().name())?;
        }
        map.serialize_entry("value", &Plain(*self.0))?;
        map.end()
    }
}

struct Plain<'a>(Value<'a>);

impl Serialize for Plain<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::String(text) => serializer.serialize_str(text),
            Value::Array(array) => serializer.collect_seq(array.iter().map(Plain)),
            Value::Scalar(scalar) => match scalar {
                Scalar::Bool(value) => serializer.serialize_bool(value),
                Scalar::F32(value) if value.is_finite() => serializer.serialize_f32(value),
                Scalar::F64(value) if value.is_finite() => serializer.serialize_f64(value),
                // JSON has no such numbers.
                Scalar::F32(_) | Scalar::F64(_) => serializer.collect_str(&scalar),
                Scalar::U64(value) => serializer.serialize_u64(value),
                integer => serializer
                    .serialize_i64(integer.as_integer().and_then(|v| v.try_into().ok()).unwrap_or(0)),
            },
        }
    }
}

struct Tensors<'f, 'a>(&'f [TensorInfo<'a>]);

impl Serialize for Tensors<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Tensor))
    }
}

struct Tensor<'f, 'a>(&'f TensorInfo<'a>);

impl Serialize for Tensor<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let TensorInfo { name, dims, ty, range } = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", name)?;
        map.serialize_entry("type", ty.name())?;
        map.serialize_entry("dims", &dims[..])?;
        map.serialize_entry("begin", &range.start)?;
        map.serialize_entry("bytes", &range.len())?;
        map.end()
    }
}

struct Types(Vec<(&'static str, Total)>);

impl Serialize for Types {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, total)| (name, total)))
    }
}

impl Serialize for Total {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("tensors", &self.n_tensors)?;
        map.serialize_entry("elements", &self.n_elements)?;
        map.serialize_entry("bytes", &self.n_bytes)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json() {
        let (file, mut out) = (super::super::tests::file(), Vec::new());
        write(&mut out, Path::new("model.gguf"), file.len(), &Gguf::parse(&file).unwrap()).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.trim_end().chars().any(char::is_control), "{text:?}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value["metadata"]["general.name"]["value"],
            "\x1b[2Jbell\x07 \u{9b}31m \"quoted\" \\ \u{202e}"
        );
        assert_eq!(value["metadata"]["u64"]["value"], u64::MAX);
        assert_eq!(value["metadata"]["numbers"]["value"].as_array().unwrap().len(), 20);
        insta::assert_snapshot!(serde_json::to_string_pretty(&value["tensors"][0]).unwrap(), @r#"
        {
          "name": "blk.0.attn_q.weight",
          "type": "Q4_0",
          "dims": [
            64,
            2
          ],
          "begin": 832,
          "bytes": 72
        }
        "#);
        let rest =
            [&value["total"], &value["types"], &value["metadata"]["nan"], &value["metadata"]["strings"]];
        insta::assert_snapshot!(rest.map(ToString::to_string).join("\n"), @r#"
        {"tensors":3,"elements":195,"bytes":120}
        {"F32":{"tensors":1,"elements":3,"bytes":12},"Q4_0":{"tensors":2,"elements":192,"bytes":108}}
        {"type":"f32","value":"NaN"}
        {"type":"array","element_type":"string","value":["a\n","b"]}
        "#);
    }
}
