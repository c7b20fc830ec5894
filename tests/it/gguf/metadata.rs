//! Keys and values.

use std::time::Instant;

use insta::assert_snapshot;
use oxwarp::gguf::{Gguf, MAX_KEY_BYTES, MAX_STRING_BYTES, PerLayer, Scalar, Value, ValueType, printable};

use super::mutate::*;

/// The error of a getter on a file with one value under `key`.
fn key_error<T>(
    ty: u32,
    payload: &[u8],
    get: impl Fn(&Gguf<'_>) -> Result<T, oxwarp::gguf::Error>,
) -> String {
    let bytes = Raw::with_entry("x.y", ty, payload).bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    get(&gguf).err().expect("the value must be refused").to_string()
}

#[test]
fn b1_lengths_beyond_limits_and_file() {
    let long_key = entry(vec![b'k'; 65_536], U8, [0]);
    let mut claims_key = entry("k", U8, [0]);
    claims_key[..8].copy_from_slice(&65_535u64.to_le_bytes());
    let claims = |length: u64| entry("s", STRING, length.to_le_bytes());
    let inputs = [
        ("key of 65536 bytes", long_key),
        ("key past the end", claims_key),
        ("string of 2^64-1", claims(u64::MAX)),
        ("string of 2^63", claims(1 << 63)),
        ("string over the limit", claims(MAX_STRING_BYTES + 1)),
        ("string past the end", claims(MAX_STRING_BYTES)),
        ("string past the end by one", claims(166)),
    ];
    let files = inputs.map(|(label, entry)| (label, Raw { entries: vec![entry], ..Raw::small() }));
    assert_snapshot!(refusals(files), @r"
    key of 65536 bytes: metadata entry 0, byte 24: a key of 65536 bytes, allowed: 1 to 65535
    key past the end: metadata entry 0, byte 24: the file ends in a key: 65535 bytes needed, 178 left
    string of 2^64-1: metadata entry 0 (`s`), byte 37: a string of 18446744073709551615 bytes, allowed: 0 to 16777216
    string of 2^63: metadata entry 0 (`s`), byte 37: a string of 9223372036854775808 bytes, allowed: 0 to 16777216
    string over the limit: metadata entry 0 (`s`), byte 37: a string of 16777217 bytes, allowed: 0 to 16777216
    string past the end: metadata entry 0 (`s`), byte 37: the file ends in a string: 16777216 bytes needed, 165 left
    string past the end by one: metadata entry 0 (`s`), byte 37: the file ends in a string: 166 bytes needed, 165 left
    ");
    let longest =
        Raw { entries: vec![entry(vec![b'k'; MAX_KEY_BYTES as usize], U8, [7])], ..Raw::small() }.bytes();
    let gguf = Gguf::parse(&longest).unwrap();
    assert_eq!(gguf.u32(&"k".repeat(65_535)).unwrap(), 7);
    let longest = Raw::with_entry("s", STRING, text(vec![b's'; MAX_STRING_BYTES as usize])).bytes();
    assert_eq!(Gguf::parse(&longest).unwrap().str("s").unwrap().len(), 16 << 20);
}

#[test]
fn b2_empty_key() {
    assert_snapshot!(refusals([("empty", Raw::with_entry("", U8, [0]))]), @r"empty: metadata entry 4, byte 207: a key of 0 bytes, allowed: 1 to 65535");
}

#[test]
fn b3_keys_that_are_no_printable_ascii() {
    let keys: [(&str, &[u8]); 6] = [
        ("bad UTF-8", b"general.\xff\xfe"),
        ("NUL", b"general\0.name"),
        ("newline", b"general.\nname"),
        ("ANSI escape", b"\x1b[2Jgeneral"),
        ("delete", b"general\x7f"),
        ("UTF-8", "général".as_bytes()),
    ];
    assert_snapshot!(refusals(keys.map(|(label, key)| (label, Raw::with_entry(key, U8, [0])))), @r"
    bad UTF-8: metadata entry 4, byte 223: the key has byte 0xff at position 8, allowed: printable ASCII
    NUL: metadata entry 4, byte 222: the key has byte 0x00 at position 7, allowed: printable ASCII
    newline: metadata entry 4, byte 223: the key has byte 0x0a at position 8, allowed: printable ASCII
    ANSI escape: metadata entry 4, byte 215: the key has byte 0x1b at position 0, allowed: printable ASCII
    delete: metadata entry 4, byte 222: the key has byte 0x7f at position 7, allowed: printable ASCII
    UTF-8: metadata entry 4, byte 216: the key has byte 0xc3 at position 1, allowed: printable ASCII
    ");
    // Harmless to Rust, and cut short in messages.
    let formats = "%n".repeat(32_000);
    let mut raw = Raw::with_entry(&formats, U8, [0]);
    assert!(Gguf::parse(&raw.bytes()).unwrap().get(&formats).is_some());
    raw.entries.push(entry(&formats, U8, [0]));
    let message = refusal(&raw.bytes());
    assert!(message.len() < 300 && message.contains("%n… (63900 bytes more)"), "{message}");
}

#[test]
fn b3_strings_that_are_no_utf8_and_strings_that_control_terminals() {
    let inputs = [
        ("value", Raw::with_entry("s", STRING, text(b"ab\xc3"))),
        ("element", Raw::with_entry("s", ARRAY, array(STRING, 2, [text("ok"), text(b"\x80")].concat()))),
    ];
    assert_snapshot!(refusals(inputs), @r"
    value: metadata entry 4 (`s`), byte 230: string has byte 0xc3 at position 2, allowed: UTF-8
    element: metadata entry 4 (`s`), byte 250: string has byte 0x80 at position 0, allowed: UTF-8
    ");
    let bytes = Raw::with_entry("s", STRING, text("\x1b]0;owned\x07\r\u{202e}")).bytes();
    let shown = printable(Gguf::parse(&bytes).unwrap().str("s").unwrap(), 80).to_string();
    assert_snapshot!(shown, @r"\u{1b}]0;owned\u{7}\r\u{202e}");
}

#[test]
fn b4_duplicate_keys() {
    let inputs = [
        ("same type", Raw::with_entry("llama.block_count", U32, 2u32.to_le_bytes())),
        ("other type", Raw::with_entry("general.architecture", BOOL, [0])),
    ];
    assert_snapshot!(refusals(inputs), @r"
    same type: metadata entry 4 (`llama.block_count`), byte 207: the key of entry 1 again; each key may occur once
    other type: metadata entry 4 (`general.architecture`), byte 207: the key of entry 0 again; each key may occur once
    ");
}

#[test]
fn b5_unknown_value_types() {
    let inputs = [13, 255, u32::MAX].map(|ty| (ty, Raw::with_entry("k", ty, [0; 16])));
    assert_snapshot!(refusals(inputs), @r"
    13: metadata entry 4 (`k`), byte 216: value type 13, allowed: 0 to 12
    255: metadata entry 4 (`k`), byte 216: value type 255, allowed: 0 to 12
    4294967295: metadata entry 4 (`k`), byte 216: value type 4294967295, allowed: 0 to 12
    ");
    let inputs = [13, 255, u32::MAX].map(|ty| (ty, Raw::with_entry("k", ARRAY, array(ty, 1, [0; 16]))));
    assert_snapshot!(refusals(inputs), @r"
    13: metadata entry 4 (`k`), byte 220: value type 13, allowed: 0 to 12
    255: metadata entry 4 (`k`), byte 220: value type 255, allowed: 0 to 12
    4294967295: metadata entry 4 (`k`), byte 220: value type 4294967295, allowed: 0 to 12
    ");
}

#[test]
fn b6_nested_and_oversized_arrays() {
    // 12 bytes a level.
    let deep = (0..1_000_000).flat_map(|_| array(ARRAY, 1, [])).collect::<Vec<u8>>();
    let mut inputs = vec![("a million levels".to_owned(), Raw::with_entry("k", ARRAY, deep))];
    for (ty, len) in
        [(U8, 1 << 63), (U8, u64::MAX), (STRING, 1 << 61), (U32, 1 << 62), (12, 1 << 61), (BOOL, 200)]
    {
        inputs.push((format!("{len} of type {ty}"), Raw::with_entry("k", ARRAY, array(ty, len, []))));
    }
    assert_snapshot!(refusals(inputs), @r"
    a million levels: metadata entry 4 (`k`), byte 220: array elements of type array, allowed: scalars and strings
    9223372036854775808 of type 0: metadata entry 4 (`k`), byte 224: 9223372036854775808 array elements claimed, allowed: at most 170 (170 bytes are left)
    18446744073709551615 of type 0: metadata entry 4 (`k`), byte 224: 18446744073709551615 array elements claimed, allowed: at most 170 (170 bytes are left)
    2305843009213693952 of type 8: metadata entry 4 (`k`), byte 224: 2305843009213693952 array elements claimed, allowed: at most 21 (170 bytes are left)
    4611686018427387904 of type 4: metadata entry 4 (`k`), byte 224: 4611686018427387904 array elements claimed, allowed: at most 42 (170 bytes are left)
    2305843009213693952 of type 12: metadata entry 4 (`k`), byte 224: 2305843009213693952 array elements claimed, allowed: at most 21 (170 bytes are left)
    200 of type 7: metadata entry 4 (`k`), byte 224: 200 array elements claimed, allowed: at most 170 (170 bytes are left)
    ");
}

#[test]
fn b6_empty_arrays_of_each_type() {
    for ty in ValueType::ALL.into_iter().filter(|ty| *ty != ValueType::Array) {
        let bytes = Raw::with_entry("k", ARRAY, array(ty.id(), 0, [])).bytes();
        let found = Gguf::parse(&bytes).unwrap().array("k").unwrap();
        assert_eq!(
            (found.element_type(), found.len(), found.iter().count(), found.scalar(0)),
            (ty, 0, 0, None)
        );
    }
}

#[test]
fn b7_bools_are_0_or_1() {
    let mut inputs: Vec<_> =
        (2..=255u8).map(|byte| (byte.to_string(), Raw::with_entry("k", BOOL, [byte]))).collect();
    for (byte, raw) in &inputs {
        assert!(refusal(&raw.bytes()).ends_with(&format!("bool byte {byte}, allowed: 0 and 1")));
    }
    inputs.truncate(1);
    inputs.push(("in an array".to_owned(), Raw::with_entry("k", ARRAY, array(BOOL, 3, [0, 1, 9]))));
    assert_snapshot!(refusals(inputs), @r"
    2: metadata entry 4 (`k`), byte 220: bool byte 2, allowed: 0 and 1
    in an array: metadata entry 4 (`k`), byte 234: bool byte 9, allowed: 0 and 1
    ");
}

#[test]
fn b8_alignment() {
    let of_type = |ty: u32, payload: &[u8]| Raw::with_entry("general.alignment", ty, payload);
    let inputs = [
        ("u64", of_type(10, &32u64.to_le_bytes())),
        ("i32", of_type(5, &32u32.to_le_bytes())),
        ("string", of_type(STRING, &text("32"))),
        ("0", of_type(U32, &0u32.to_le_bytes())),
        ("7", of_type(U32, &7u32.to_le_bytes())),
        ("4", of_type(U32, &4u32.to_le_bytes())),
        ("48", of_type(U32, &48u32.to_le_bytes())),
        ("2^17", of_type(U32, &(1u32 << 17).to_le_bytes())),
        ("2^31", of_type(U32, &(1u32 << 31).to_le_bytes())),
    ];
    assert_snapshot!(refusals(inputs), @r"
    u64: metadata entry 4 (`general.alignment`), byte 207: value of type u64, allowed: u32
    i32: metadata entry 4 (`general.alignment`), byte 207: value of type i32, allowed: u32
    string: metadata entry 4 (`general.alignment`), byte 207: value of type string, allowed: u32
    0: metadata entry 4 (`general.alignment`), byte 207: alignment 0, allowed: powers of two from 8 to 65536
    7: metadata entry 4 (`general.alignment`), byte 207: alignment 7, allowed: powers of two from 8 to 65536
    4: metadata entry 4 (`general.alignment`), byte 207: alignment 4, allowed: powers of two from 8 to 65536
    48: metadata entry 4 (`general.alignment`), byte 207: alignment 48, allowed: powers of two from 8 to 65536
    2^17: metadata entry 4 (`general.alignment`), byte 207: alignment 131072, allowed: powers of two from 8 to 65536
    2^31: metadata entry 4 (`general.alignment`), byte 207: alignment 2147483648, allowed: powers of two from 8 to 65536
    ");
    for alignment in [8u32, 16, 64, 65_536] {
        let mut raw = of_type(U32, &alignment.to_le_bytes());
        raw.alignment = alignment as usize;
        raw.tensors.truncate(1);
        let bytes = raw.bytes();
        let gguf = Gguf::parse(&bytes).unwrap();
        assert_eq!((gguf.alignment, gguf.tensors[0].range.start % alignment as usize), (alignment.into(), 0));
        assert_eq!(gguf.data(&gguf.tensors[0])[..4], 1f32.to_le_bytes());
    }
}

#[test]
fn b9_missing_keys_and_wrong_types() {
    let bytes = Raw::small().bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    let lines = [
        gguf.u32("no.key").unwrap_err().to_string(),
        gguf.str("no.key").unwrap_err().to_string(),
        gguf.u32("general.architecture").unwrap_err().to_string(),
        gguf.str("llama.block_count").unwrap_err().to_string(),
        gguf.bool("llama.block_count").unwrap_err().to_string(),
        gguf.f32("llama.block_count").unwrap_err().to_string(),
        gguf.u32("tokenizer.ggml.add_bos_token").unwrap_err().to_string(),
        gguf.f32_array("tokenizer.ggml.tokens").unwrap_err().to_string(),
        gguf.int_array("tokenizer.ggml.tokens").unwrap_err().to_string(),
        gguf.opt_str("tokenizer.ggml.tokens").unwrap_err().to_string(),
        gguf.u32_in("llama.block_count", 4..=100).unwrap_err().to_string(),
        gguf.tensor("blk.0.attn_q.weight").unwrap_err().to_string(),
    ];
    assert_snapshot!(lines.join("\n"), @r#"
    metadata key `no.key`: missing; needed: an integer
    metadata key `no.key`: missing; needed: a string
    metadata key `general.architecture`: found string "llama", allowed: an integer
    metadata key `llama.block_count`: found u32 2, allowed: string
    metadata key `llama.block_count`: found u32 2, allowed: bool
    metadata key `llama.block_count`: found u32 2, allowed: f32
    metadata key `tokenizer.ggml.add_bos_token`: found bool true, allowed: an integer
    metadata key `tokenizer.ggml.tokens`: found array of string with 2 elements, allowed: array of f32
    metadata key `tokenizer.ggml.tokens`: found array of string with 2 elements, allowed: array of integers
    metadata key `tokenizer.ggml.tokens`: found array of string with 2 elements, allowed: string
    metadata key `llama.block_count`: found 2, allowed: 4 to 100
    tensor `blk.0.attn_q.weight` is missing; the file has 2 tensors
    "#);
    assert_eq!((gguf.opt_u32("no.key"), gguf.opt_str("no.key")), (Ok(None), Ok(None)));
}

#[test]
fn b9_integers_of_every_width() {
    let widths: [(u32, &[u8]); 8] = [
        (0, &[200]),
        (1, &[100]),
        (2, &200u16.to_le_bytes()),
        (3, &200i16.to_le_bytes()),
        (4, &200u32.to_le_bytes()),
        (5, &200i32.to_le_bytes()),
        (10, &200u64.to_le_bytes()),
        (11, &200i64.to_le_bytes()),
    ];
    for (ty, payload) in widths {
        let bytes = Raw::with_entry("x.y", ty, payload).bytes();
        let gguf = Gguf::parse(&bytes).unwrap();
        let expected = u32::from(payload[0]);
        assert_eq!((gguf.u32("x.y"), gguf.u64("x.y")), (Ok(expected), Ok(expected.into())), "type {ty}");
        assert_eq!(
            (gguf.i32("x.y"), gguf.usize("x.y")),
            (Ok(expected as i32), Ok(expected as usize)),
            "type {ty}"
        );
    }
    let lines = [
        key_error(11, &(-1i64).to_le_bytes(), |gguf| gguf.u32("x.y")),
        key_error(10, &(1u64 << 32).to_le_bytes(), |gguf| gguf.u32("x.y")),
        key_error(10, &u64::MAX.to_le_bytes(), |gguf| gguf.i32("x.y")),
        key_error(1, &[0xff], |gguf| gguf.u64("x.y")),
    ];
    assert_snapshot!(lines.join("\n"), @r"
    metadata key `x.y`: found -1, allowed: 0 to 4294967295
    metadata key `x.y`: found 4294967296, allowed: 0 to 4294967295
    metadata key `x.y`: found 18446744073709551615, allowed: -2147483648 to 2147483647
    metadata key `x.y`: found -1, allowed: 0 to 18446744073709551615
    ");
}

#[test]
fn b9_arrays_of_integers_and_values_of_a_layer() {
    let bytes = Raw::with_entry("x.y", ARRAY, array(1, 3, [1, 0x80, 3])).bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    let ints = gguf.int_array("x.y").unwrap();
    assert_eq!(ints.iter().collect::<Vec<_>>(), [1, -128, 3]);
    assert_eq!((ints.get(1), ints.get(3)), (Some(-128), None));
    let layers = gguf.per_layer("x.y").unwrap();
    assert_eq!(layers.of("x.y", 2, 3), Ok(3));
    assert_eq!(gguf.per_layer("llama.block_count").unwrap(), PerLayer::Same(2));
    let huge = [1u64, 1 << 63].map(u64::to_le_bytes).concat();
    let lines = [
        layers.of("x.y", 0, 4).unwrap_err().to_string(),
        layers.of("x.y", 1, 3).unwrap_err().to_string(),
        key_error(ARRAY, &array(10, 2, huge), |gguf| gguf.int_array("x.y").map(drop)),
        key_error(ARRAY, &array(6, 1, [0; 4]), |gguf| gguf.int_array("x.y").map(drop)),
    ];
    assert_snapshot!(lines.join("\n"), @r"
    metadata key `x.y`: found 3 elements, allowed: 4 elements, one a layer
    metadata key `x.y`: found -128 at index 1, allowed: 0 to 4294967295
    metadata key `x.y`: found 9223372036854775808 at index 1, allowed: -9223372036854775808 to 9223372036854775807
    metadata key `x.y`: found array of f32 with 1 elements, allowed: array of integers
    ");
}

#[test]
fn b10_floats_that_are_no_use() {
    let f32_error = |number: f32| key_error(6, &number.to_le_bytes(), |gguf| gguf.f32("x.y"));
    let positive_error = |number: f32| key_error(6, &number.to_le_bytes(), |gguf| gguf.positive_f32("x.y"));
    let lines = [
        f32_error(f32::NAN),
        f32_error(f32::INFINITY),
        positive_error(f32::NEG_INFINITY),
        positive_error(f32::NAN),
        positive_error(-10_000.0),
        positive_error(0.0),
        positive_error(-0.0),
        // Beyond f32, and above zero but below what f32 can hold.
        key_error(12, &1e300f64.to_le_bytes(), |gguf| gguf.f32("x.y")),
        key_error(12, &1e-300f64.to_le_bytes(), |gguf| gguf.positive_f32("x.y")),
    ];
    assert_snapshot!(lines.join("\n"), @r"
    metadata key `x.y`: found NaN, allowed: a finite number
    metadata key `x.y`: found inf, allowed: a finite number
    metadata key `x.y`: found -inf, allowed: a finite number above 0
    metadata key `x.y`: found NaN, allowed: a finite number above 0
    metadata key `x.y`: found -10000.0, allowed: a finite number above 0
    metadata key `x.y`: found 0.0, allowed: a finite number above 0
    metadata key `x.y`: found -0.0, allowed: a finite number above 0
    metadata key `x.y`: found 1e300, allowed: a finite number
    metadata key `x.y`: found 1e-300, allowed: a finite number above 0
    ");
    let bytes = Raw::with_entry("x.y", 12, 1e6f64.to_le_bytes()).bytes();
    assert_eq!(Gguf::parse(&bytes).unwrap().positive_f32("x.y"), Ok(1e6));
}

/// A million keys take linear time: ten times as many keys may not take a hundred times as long.
#[test]
fn b11_a_million_keys_with_a_common_prefix() {
    let file = |n_keys: usize| {
        let entries = (0..n_keys).map(|i| entry(format!("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{i:07}"), U8, [0]));
        Raw { entries: entries.collect(), ..Raw::empty() }.bytes()
    };
    let time = |bytes: &[u8]| {
        let start = Instant::now();
        assert!(Gguf::parse(bytes).unwrap().get("general.architecture").is_none());
        start.elapsed().as_secs_f64()
    };
    let (few, many) = (file(100_000), file(1_000_000));
    let fastest = |bytes: &[u8]| (0..3).map(|_| time(bytes)).fold(f64::INFINITY, f64::min);
    let (few_s, many_s) = (fastest(&few), fastest(&many));
    // A pairwise scan would take a hundred times as long; caches that overflow cost far less than half of that.
    assert!(many_s < 50.0 * few_s, "100 000 keys: {few_s} s, 1 000 000 keys: {many_s} s");
    let gguf = Gguf::parse(&many).unwrap();
    assert_eq!(gguf.u32("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa0999999"), Ok(0));
    let mut twice = Raw { entries: vec![entry("k", U8, [0]); 2], ..Raw::empty() };
    twice.entries.splice(1..1, (0..1000).map(|i| entry(format!("k{i}"), U8, [0])));
    assert_snapshot!(refusal(&twice.bytes()), @r"metadata entry 1001 (`k`), byte 16928: the key of entry 0 again; each key may occur once");
}

#[test]
fn all_thirteen_types_are_read() {
    let scalars: [(u32, &[u8], Scalar); 11] = [
        (0, &[0xfe], Scalar::U8(254)),
        (1, &[0xfe], Scalar::I8(-2)),
        (2, &[0xfe, 0xff], Scalar::U16(0xfffe)),
        (3, &[0xfe, 0xff], Scalar::I16(-2)),
        (4, &[1, 2, 3, 4], Scalar::U32(0x0403_0201)),
        (5, &[0xfe, 0xff, 0xff, 0xff], Scalar::I32(-2)),
        (6, &[0, 0, 0xc0, 0x3f], Scalar::F32(1.5)),
        (7, &[1], Scalar::Bool(true)),
        (10, &[1, 0, 0, 0, 0, 0, 0, 0x80], Scalar::U64(0x8000_0000_0000_0001)),
        (11, &[0xff; 8], Scalar::I64(-1)),
        (12, &[0, 0, 0, 0, 0, 0, 0xf8, 0xbf], Scalar::F64(-1.5)),
    ];
    for (ty, payload, expected) in scalars {
        let bytes = Raw::with_entry("k", ty, payload).bytes();
        assert_eq!(Gguf::parse(&bytes).unwrap().get("k"), Some(&Value::Scalar(expected)));
        let twice = array(ty, 2, [payload, payload].concat());
        let bytes = Raw::with_entry("k", ARRAY, twice).bytes();
        let elements: Vec<_> = Gguf::parse(&bytes).unwrap().array("k").unwrap().iter().collect();
        assert_eq!(elements, [Value::Scalar(expected); 2]);
    }
    let bytes = Raw::small().bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.str("general.architecture"), Ok("llama"));
    assert_eq!(gguf.str_array("tokenizer.ggml.tokens").unwrap().iter().collect::<Vec<_>>(), ["a", "bc"]);
}
