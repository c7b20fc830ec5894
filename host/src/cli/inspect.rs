//! `oxwarp inspect`: what is in a file.

mod json;

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use oxwarp::gguf::{Array, GgmlType, Gguf, MappedFile, TensorInfo, Value, printable};

use super::Outcome;

/// Characters of a string that are shown.
const STRING_CHARS: usize = 80;
/// Elements of an array that are shown, and characters of each.
const ARRAY_ELEMENTS: usize = 8;
const ELEMENT_CHARS: usize = 24;

/// Show metadata and tensors of a model file
///
/// Long strings and arrays are cut short; --json has all of them.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The model, a GGUF file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Print one JSON object instead
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Outcome {
    let file = MappedFile::open(&args.file)?;
    let bytes = file.bytes();
    let gguf = Gguf::parse(bytes)
        .map_err(|source| oxwarp::Error::Gguf { path: args.file.clone().into_boxed_path(), source })?;
    let out = io::BufWriter::new(io::stdout().lock());
    if args.json {
        json::write(out, &args.file, bytes.len(), &gguf)?;
    } else {
        write_text(out, &args.file, bytes.len(), &gguf)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Tensors of one type, or all of them.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    n_tensors: u64,
    n_elements: u64,
    n_bytes: u64,
}

impl Total {
    fn add(&mut self, tensor: &TensorInfo<'_>) {
        self.n_tensors += 1;
        // Tensors of a type without bytes do not exist, so elements are bounded by eight for each byte of the file.
        self.n_elements = self.n_elements.saturating_add(tensor.n_elements());
        self.n_bytes += tensor.n_bytes();
    }

    fn bits_per_element(&self) -> f64 {
        self.n_bytes as f64 * 8.0 / self.n_elements.max(1) as f64
    }
}

/// The totals of each type, in the order of their numbers, and of all.
fn totals(gguf: &Gguf<'_>) -> (Vec<(GgmlType, Total)>, Total) {
    let (mut by_id, mut all) = (BTreeMap::new(), Total::default());
    for tensor in &gguf.tensors {
        by_id.entry(tensor.ty.id()).or_insert((tensor.ty, Total::default())).1.add(tensor);
        all.add(tensor);
    }
    (by_id.into_values().collect(), all)
}

fn write_text(mut out: impl Write, path: &Path, file_bytes: usize, gguf: &Gguf<'_>) -> io::Result<()> {
    let path = printable(&path.to_string_lossy(), usize::MAX).to_string();
    let size = Bytes(file_bytes as u64);
    writeln!(out, "{path}: GGUF version {}, {size}, alignment {}", gguf.version, gguf.alignment)?;

    writeln!(out, "\nmetadata: {} entries", gguf.metadata().len())?;
    let key_width = gguf.metadata().map(|(key, _)| key.len()).max().unwrap_or(0).min(60);
    for (key, value) in gguf.metadata() {
        let (key, ty) = (printable(key, STRING_CHARS).to_string(), value.describe_type());
        writeln!(out, "  {key:key_width$}  {ty:15}  {}", Shown(value))?;
    }

    writeln!(out, "\ntensors: {}", gguf.tensors.len())?;
    let rows: Vec<_> = gguf.tensors.iter().map(TensorRow::of).collect();
    let name_width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let dims_width = rows.iter().map(|row| row.dims.len()).max().unwrap_or(0);
    for (row, tensor) in rows.iter().zip(&gguf.tensors) {
        let TensorRow { name, dims } = row;
        let (ty, n_bytes, begin) = (tensor.ty, tensor.n_bytes(), tensor.range.start);
        writeln!(out, "  {name:name_width$}  {dims:>dims_width$}  {ty:7}  {n_bytes:>12} bytes at {begin}")?;
    }

    let (types, all) = totals(gguf);
    writeln!(out, "\ntypes:")?;
    let labelled = types.iter().map(|(ty, total)| (ty.name(), total)).chain([("total", &all)]);
    for (label, total) in labelled {
        let Total { n_tensors, n_elements, n_bytes } = *total;
        let (size, bits) = (Bytes(n_bytes), total.bits_per_element());
        writeln!(
            out,
            "  {label:7}  {n_tensors:>5} tensors  {n_elements:>13} elements  {size}, {bits:.2} bits each"
        )?;
    }
    out.flush()
}

/// What a line of the tensor table is as wide as.
struct TensorRow {
    name: String,
    dims: String,
}

impl TensorRow {
    fn of(tensor: &TensorInfo<'_>) -> TensorRow {
        let dims: Vec<_> = tensor.dims.iter().map(u64::to_string).collect();
        TensorRow { name: printable(tensor.name, STRING_CHARS).to_string(), dims: dims.join(" x ") }
    }
}

/// A number of bytes, exact and in a unit to grasp.
struct Bytes(u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)?;
        match self.0 {
            0..10_000 => Ok(()),
            10_000..10_000_000 => write!(f, " ({:.1} KiB)", self.0 as f64 / 1024.0),
            10_000_000..10_000_000_000 => write!(f, " ({:.1} MiB)", self.0 as f64 / 1_048_576.0),
            _ => write!(f, " ({:.2} GiB)", self.0 as f64 / 1_073_741_824.0),
        }
    }
}

/// A value in a line: strings escaped, long ones cut.
struct Shown<'v, 'a>(&'v Value<'a>);

impl Display for Shown<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Scalar(scalar) => write!(f, "{scalar}"),
            Value::String(text) => write!(f, "\"{}\"", printable(text, STRING_CHARS)),
            Value::Array(array) => write_array(f, array),
        }
    }
}

fn write_array(f: &mut fmt::Formatter<'_>, array: &Array<'_>) -> fmt::Result {
    f.write_str("[")?;
    for (index, element) in array.iter().take(ARRAY_ELEMENTS).enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        match element {
            Value::String(text) => write!(f, "\"{}\"", printable(text, ELEMENT_CHARS))?,
            other => Shown(&other).fmt(f)?,
        }
    }
    match array.len().saturating_sub(ARRAY_ELEMENTS) {
        0 => f.write_str("]"),
        n_more => write!(f, ", … {n_more} more]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oxwarp::gguf::write::Head;

    /// A file with something of everything, hostile strings among them.
    pub(super) fn file() -> Vec<u8> {
        let mut head = Head::new();
        head.str("general.architecture", "llama")
            .str("general.name", "\x1b[2Jbell\x07 \u{9b}31m \"quoted\" \\ \u{202e}")
            .str("long", &"abcdefghij".repeat(20))
            .u32("u32", 7)
            .u64("u64", u64::MAX)
            .i32("i32", -7)
            .f32("f32", 1e-5)
            .f32("nan", f32::NAN)
            .bool("bool", true)
            .str_array("strings", ["a\n", "b"])
            .i32_array("numbers", 0..20)
            .f32_array("empty", []);
        head.tensor("blk.0.attn_q.weight", &[64, 2], GgmlType::Q4_0);
        head.tensor("norm", &[3], GgmlType::F32);
        head.tensor("k", &[32, 1, 2], GgmlType::Q4_0);
        let mut data = head.begin(Vec::new()).unwrap();
        data.write(&[0; 4 * 18 + 12 + 2 * 18]).unwrap();
        data.finish().unwrap()
    }

    #[test]
    fn text() {
        let (file, mut out) = (file(), Vec::new());
        write_text(&mut out, Path::new("folder/model\x1b.gguf"), file.len(), &Gguf::parse(&file).unwrap())
            .unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        insta::assert_snapshot!(text, @r#"
        folder/model\u{1b}.gguf: GGUF version 3, 1024 bytes, alignment 32

        metadata: 12 entries
          general.architecture  string           "llama"
          general.name          string           "\u{1b}[2Jbell\u{7} \u{9b}31m "quoted" \\ \u{202e}"
          long                  string           "abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghij… (120 bytes more)"
          u32                   u32              7
          u64                   u64              18446744073709551615
          i32                   i32              -7
          f32                   f32              1e-5
          nan                   f32              NaN
          bool                  bool             true
          strings               array of string  ["a\n", "b"]
          numbers               array of i32     [0, 1, 2, 3, 4, 5, 6, 7, … 12 more]
          empty                 array of f32     []

        tensors: 3
          blk.0.attn_q.weight      64 x 2  Q4_0               72 bytes at 832
          norm                          3  F32                12 bytes at 928
          k                    32 x 1 x 2  Q4_0               36 bytes at 960

        types:
          F32          1 tensors              3 elements  12 bytes, 32.00 bits each
          Q4_0         2 tensors            192 elements  108 bytes, 4.50 bits each
          total        3 tensors            195 elements  120 bytes, 4.92 bits each
        "#);
    }

    #[test]
    fn sizes() {
        let shown = [0, 9_999, 10_240, 10_485_760, 10_737_418_240].map(|n| Bytes(n).to_string());
        assert_eq!(
            shown,
            [
                "0 bytes",
                "9999 bytes",
                "10240 bytes (10.0 KiB)",
                "10485760 bytes (10.0 MiB)",
                "10737418240 bytes (10.00 GiB)"
            ]
        );
    }
}
