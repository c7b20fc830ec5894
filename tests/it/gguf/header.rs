//! The first bytes of a file, and files that end too early.

use insta::assert_snapshot;
use oxwarp::gguf::Gguf;

use super::mutate::*;

#[test]
fn a1_empty_and_nearly_empty_files() {
    let file = Raw::small().bytes();
    let lines = (0..=5).map(|n_bytes| format!("{n_bytes}: {}\n", refusal(&file[..n_bytes])));
    assert_snapshot!(lines.collect::<String>(), @r"
    0: header, byte 0: the file is empty; a GGUF file begins with the bytes `GGUF`
    1: header, byte 0: the file ends in a magic: 4 bytes needed, 1 left
    2: header, byte 0: the file ends in a magic: 4 bytes needed, 2 left
    3: header, byte 0: the file ends in a magic: 4 bytes needed, 3 left
    4: header, byte 4: the file ends in a version: 4 bytes needed, 0 left
    5: header, byte 4: the file ends in a version: 4 bytes needed, 1 left
    ");
}

#[test]
fn a2_wrong_magic() {
    let inputs: [(&str, &[u8]); 13] = [
        ("old", b"lmgg\x01\0\0\0"),
        ("older", b"tjgg\x03\0\0\0"),
        ("upper case", b"GGML\x03\0\0\0"),
        ("swapped", b"FUGG\0\0\0\x03"),
        ("web page", b"<!DOCTYPE html><html><body>Not Found"),
        ("web page without a type", b"<html lang=en>"),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0"),
        ("Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
        ("safetensors", b"\x40\0\0\0\0\0\0\0{\"__metadata__\":{}}"),
        ("zip", b"PK\x03\x04\x14\0"),
        ("pickle", b"\x80\x02}q\0"),
        ("JSON", b"{\"error\":\"Unauthorized\"}"),
        ("zeros", &[0; 64]),
    ];
    let lines = inputs.iter().map(|(label, bytes)| format!("{label}: {}\n", refusal(bytes)));
    assert_snapshot!(lines.collect::<String>(), @r#"
    old: header, byte 0: magic is lmgg, allowed: `GGUF`; this looks like a file of ggml's format before GGUF: convert the model again
    older: header, byte 0: magic is tjgg, allowed: `GGUF`; this looks like a file of ggml's format before GGUF: convert the model again
    upper case: header, byte 0: magic is GGML, allowed: `GGUF`; this looks like a file of ggml's format before GGUF: convert the model again
    swapped: header, byte 0: magic is FUGG, allowed: `GGUF`; this looks like a byte-swapped GGUF file
    web page: header, byte 0: magic is <!DO, allowed: `GGUF`; this looks like a web page: the download went wrong
    web page without a type: header, byte 0: magic is <htm, allowed: `GGUF`; this looks like a web page: the download went wrong
    gzip: header, byte 0: magic is \x1f\x8b\x08\x00, allowed: `GGUF`; this looks like a gzip archive: unpack it first
    Git LFS: header, byte 0: magic is vers, allowed: `GGUF`; this looks like a Git LFS pointer: fetch the real file with `git lfs pull`
    safetensors: header, byte 0: magic is @\x00\x00\x00, allowed: `GGUF`; this looks like a safetensors file: convert the model to GGUF
    zip: header, byte 0: magic is PK\x03\x04, allowed: `GGUF`; this looks like a zip archive or a PyTorch checkpoint
    pickle: header, byte 0: magic is \x80\x02}q, allowed: `GGUF`; this looks like a Python pickle
    JSON: header, byte 0: magic is {\"er, allowed: `GGUF`; this looks like JSON
    zeros: header, byte 0: magic is \x00\x00\x00\x00, allowed: `GGUF`; the kind of file is unknown
    "#);
}

#[test]
fn a3_versions() {
    let inputs = [0, 1, 4, u32::MAX].map(|version| (version, Raw { version, ..Raw::small() }));
    assert_snapshot!(refusals(inputs), @r"
    0: header, byte 4: version 0, allowed: 2 and 3
    1: header, byte 4: version 1, allowed: 2 and 3
    4: header, byte 4: version 4, allowed: 2 and 3
    4294967295: header, byte 4: version 4294967295, allowed: 2 and 3
    ");
    for version in [2, 3] {
        assert_eq!(Gguf::parse(&Raw { version, ..Raw::small() }.bytes()).unwrap().version, version);
    }
}

#[test]
fn a4_big_endian() {
    let inputs = [2u32, 3].map(|version| (version, Raw { version: version.swap_bytes(), ..Raw::small() }));
    assert_snapshot!(refusals(inputs), @r"
    2: header, byte 4: the file is big-endian (version reads as 0x02000000); allowed: little-endian
    3: header, byte 4: the file is big-endian (version reads as 0x03000000); allowed: little-endian
    ");
}

#[test]
fn a5_truncated_after_every_byte() {
    let raw = Raw::small();
    let (file, head) = (raw.bytes(), raw.head());
    let mut messages = String::new();
    let mut last = String::new();
    for n_bytes in 0..file.len() {
        let message = refusal(&file[..n_bytes]);
        // Every message names an offset inside the file or at its end.
        let offset = message.split("byte ").nth(1).unwrap().split(':').next().unwrap();
        assert!(offset.parse::<usize>().unwrap() <= file.len(), "{n_bytes} bytes: {message}");
        let is_early = n_bytes < head.len().next_multiple_of(32);
        assert_eq!(
            message.contains("the file ends in a") || message.contains("claimed"),
            is_early && n_bytes > 0
        );
        // From byte to byte only the numbers change, until something else is cut.
        let kind: String = message.chars().filter(|c| !c.is_ascii_digit()).collect();
        if kind != last {
            messages += &format!("from {n_bytes}: {message}\n");
            last = kind;
        }
    }
    assert_snapshot!(messages, @r"
    from 0: header, byte 0: the file is empty; a GGUF file begins with the bytes `GGUF`
    from 1: header, byte 0: the file ends in a magic: 4 bytes needed, 1 left
    from 4: header, byte 4: the file ends in a version: 4 bytes needed, 0 left
    from 8: header, byte 8: the file ends in a tensor count: 8 bytes needed, 0 left
    from 16: header, byte 16: the file ends in a metadata count: 8 bytes needed, 0 left
    from 24: header, byte 8: 2 tensors claimed, allowed: at most 0 (0 bytes are left)
    from 72: header, byte 16: 4 metadata entries claimed, allowed: at most 3 (48 bytes are left)
    from 76: metadata entry 1, byte 69: the file ends in a key: 8 bytes needed, 7 left
    from 94: metadata entry 1 (`llama.block_count`), byte 94: the file ends in a value type: 4 bytes needed, 0 left
    from 98: metadata entry 1 (`llama.block_count`), byte 98: the file ends in a u32 value: 4 bytes needed, 0 left
    from 102: metadata entry 2, byte 102: the file ends in a key: 8 bytes needed, 0 left
    from 131: metadata entry 2 (`tokenizer.ggml.tokens`), byte 131: the file ends in a value type: 4 bytes needed, 0 left
    from 135: metadata entry 2 (`tokenizer.ggml.tokens`), byte 135: the file ends in a element type: 4 bytes needed, 0 left
    from 139: metadata entry 2 (`tokenizer.ggml.tokens`), byte 139: the file ends in a array length: 8 bytes needed, 0 left
    from 147: metadata entry 2 (`tokenizer.ggml.tokens`), byte 139: 2 array elements claimed, allowed: at most 0 (0 bytes are left)
    from 163: metadata entry 2 (`tokenizer.ggml.tokens`), byte 156: the file ends in a string: 8 bytes needed, 7 left
    from 166: metadata entry 3, byte 166: the file ends in a key: 8 bytes needed, 0 left
    from 202: metadata entry 3 (`tokenizer.ggml.add_bos_token`), byte 202: the file ends in a value type: 4 bytes needed, 0 left
    from 206: metadata entry 3 (`tokenizer.ggml.add_bos_token`), byte 206: the file ends in a bool value: 1 bytes needed, 0 left
    from 207: tensor 0, byte 207: the file ends in a tensor name: 8 bytes needed, 0 left
    from 216: tensor 0 (`a`), byte 216: the file ends in a dimension count: 4 bytes needed, 0 left
    from 220: tensor 0 (`a`), byte 220: the file ends in a dimension: 8 bytes needed, 0 left
    from 236: tensor 0 (`a`), byte 236: the file ends in a tensor type: 4 bytes needed, 0 left
    from 240: tensor 0 (`a`), byte 240: the file ends in a data offset: 8 bytes needed, 0 left
    from 248: tensor 1, byte 248: the file ends in a tensor name: 8 bytes needed, 0 left
    from 257: tensor 1 (`b`), byte 257: the file ends in a dimension count: 4 bytes needed, 0 left
    from 261: tensor 1 (`b`), byte 261: the file ends in a dimension: 8 bytes needed, 0 left
    from 269: tensor 1 (`b`), byte 269: the file ends in a tensor type: 4 bytes needed, 0 left
    from 273: tensor 1 (`b`), byte 273: the file ends in a data offset: 8 bytes needed, 0 left
    from 281: tensor data, byte 281: the file ends in a padding before the data: 7 bytes needed, 0 left
    from 288: tensor 0 (`a`), byte 288: 64 bytes from 288 on do not fit into the file's 288: the file is damaged, or a download is incomplete
    from 352: tensor 1 (`b`), byte 352: 18 bytes from 352 on do not fit into the file's 352: the file is damaged, or a download is incomplete
    ");
    assert!(Gguf::parse(&file).is_ok());
}

#[test]
fn a6_metadata_count_beyond_the_file() {
    let left = Raw::small().bytes().len() as u64 - 24;
    let counts = [1 << 63, u64::MAX, left / 13 + 1, 5];
    let inputs = counts.map(|n| (n, Raw { n_entries: Some(n), ..Raw::small() }));
    assert_snapshot!(refusals(inputs), @r"
    9223372036854775808: header, byte 16: 9223372036854775808 metadata entries claimed, allowed: at most 26 (346 bytes are left)
    18446744073709551615: header, byte 16: 18446744073709551615 metadata entries claimed, allowed: at most 26 (346 bytes are left)
    27: header, byte 16: 27 metadata entries claimed, allowed: at most 26 (346 bytes are left)
    5: tensor 0, byte 222: a tensor name of 562949953421312 bytes, allowed: 1 to 64
    ");
}

#[test]
fn a7_tensor_count_beyond_the_file() {
    let left = Raw::small().bytes().len() as u64 - 24;
    let counts = [1 << 63, u64::MAX, left / 24 + 1, 3];
    let inputs = counts.map(|n| (n, Raw { n_tensors: Some(n), ..Raw::small() }));
    assert_snapshot!(refusals(inputs), @r"
    9223372036854775808: header, byte 8: 9223372036854775808 tensors claimed, allowed: at most 14 (346 bytes are left)
    18446744073709551615: header, byte 8: 18446744073709551615 tensors claimed, allowed: at most 14 (346 bytes are left)
    15: header, byte 8: 15 tensors claimed, allowed: at most 14 (346 bytes are left)
    3: tensor 2, byte 281: a tensor name of 0 bytes, allowed: 1 to 64
    ");
}

#[test]
fn a7_no_tensors() {
    let with_data = Raw { n_tensors: Some(0), tensors: Vec::new(), ..Raw::small() };
    assert_snapshot!(refusals([("with data", with_data)]), @r"with data: tensor data, byte 224: 82 bytes of tensor data, but the file lists no tensors");
    let vocabulary = Raw { tensors: Vec::new(), data: Vec::new(), ..Raw::small() };
    let mut bytes = vocabulary.bytes();
    assert_eq!(Gguf::parse(&bytes).unwrap().tensors.len(), 0);
    // Writers that pad before looking for tensors end at the next multiple of the alignment.
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    let gguf = Gguf::parse(&bytes).unwrap();
    let findings: Vec<_> = gguf.check(true).iter().map(ToString::to_string).collect();
    assert_eq!(findings, ["note: tensors: none: the file holds a vocabulary only"]);
}
