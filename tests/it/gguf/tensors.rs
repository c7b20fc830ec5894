//! The tensor list, and where the data lies.

use insta::assert_snapshot;
use oxwarp::gguf::{GgmlType, Gguf};

use super::mutate::*;

#[test]
fn c1_names() {
    let names: [(&str, &[u8]); 6] = [
        ("65 bytes", &[b'n'; 65]),
        ("empty", b""),
        ("bad UTF-8", b"blk.0.\xe9"),
        ("newline", b"a\nb"),
        ("escape", "a\u{9b}31mb".as_bytes()),
        ("NUL", b"a\0"),
    ];
    let inputs = names.map(|(label, name)| (label, Raw::with_tensors([tensor(name, &[8, 2], F32, 0)])));
    assert_snapshot!(refusals(inputs), @r"
    65 bytes: tensor 0, byte 207: a tensor name of 65 bytes, allowed: 1 to 64
    empty: tensor 0, byte 207: a tensor name of 0 bytes, allowed: 1 to 64
    bad UTF-8: tensor 0, byte 221: tensor name has byte 0xe9 at position 6, allowed: UTF-8
    newline: tensor 0, byte 216: the tensor name has byte 0x0a at position 1, allowed: UTF-8 without control characters
    escape: tensor 0, byte 216: the tensor name has byte 0xc2 at position 1, allowed: UTF-8 without control characters
    NUL: tensor 0, byte 216: the tensor name has byte 0x00 at position 1, allowed: UTF-8 without control characters
    ");
    let bytes = Raw::with_tensors([tensor([b'n'; 64], &[8, 2], F32, 0)]).bytes();
    assert_eq!(Gguf::parse(&bytes).unwrap().tensors[0].name, "n".repeat(64));
}

#[test]
fn c2_duplicate_names() {
    let tensors = [tensor("a", &[8], F32, 0), tensor("b", &[8], F32, 32), tensor("a", &[8], F32, 64)];
    assert_snapshot!(refusals([("third", Raw::with_tensors(tensors))]), @r"third: tensor 2 (`a`), byte 273: the name of tensor 0 again; each name may occur once");
}

#[test]
fn c3_dimension_counts() {
    let claims =
        |n_dims| Raw::with_tensors([RawTensor { n_dims: Some(n_dims), ..tensor("a", &[8; 5], F32, 0) }]);
    assert_snapshot!(refusals([0, 5, u32::MAX].map(|n_dims| (n_dims, claims(n_dims)))), @r"
    0: tensor 0 (`a`), byte 216: 0 dimensions, allowed: 1 to 4
    5: tensor 0 (`a`), byte 216: 5 dimensions, allowed: 1 to 4
    4294967295: tensor 0 (`a`), byte 216: 4294967295 dimensions, allowed: 1 to 4
    ");
    for n_dims in 1..=4 {
        let bytes = Raw::with_tensors([tensor("a", &[2, 2, 2, 2][..n_dims], F32, 0)]).bytes();
        assert_eq!(Gguf::parse(&bytes).unwrap().tensors[0].dims[..], [2, 2, 2, 2][..n_dims]);
    }
}

#[test]
fn c4_dimensions_of_zero() {
    let inputs = (0..4).map(|axis| {
        let mut dims = [32, 1, 1, 1];
        dims[axis] = 0;
        (axis, Raw::with_tensors([tensor("a", &dims, Q4_0, 0)]))
    });
    assert_snapshot!(refusals(inputs), @r"
    0: tensor 0 (`a`), byte 220: dimension 0 is 0, allowed: at least 1
    1: tensor 0 (`a`), byte 228: dimension 1 is 0, allowed: at least 1
    2: tensor 0 (`a`), byte 236: dimension 2 is 0, allowed: at least 1
    3: tensor 0 (`a`), byte 244: dimension 3 is 0, allowed: at least 1
    ");
}

#[test]
fn c5_products_of_dimensions_that_overflow() {
    let of = |dims: &[u64], ty| Raw::with_tensors([tensor("a", dims, ty, 0)]);
    let inputs = [
        ("wraps to 0", of(&[1 << 32, 1 << 32, 2, 2], F32)),
        ("wraps to 32", of(&[32, (1 << 59) + 1, 1, 1], Q4_0)),
        ("wraps to 1 by two odd factors", of(&[3, 0xaaaa_aaaa_aaaa_aaab], F32)),
        ("largest", of(&[u64::MAX; 4], F32)),
    ];
    assert_snapshot!(refusals(inputs), @r"
    wraps to 0: tensor 0 (`a`), byte 252: a tensor of [4294967296, 4294967296, 2, 2] elements of type F32 has 2^64 bytes or more
    wraps to 32: tensor 0 (`a`), byte 252: a tensor of [32, 576460752303423489, 1, 1] elements of type Q4_0 has 2^64 bytes or more
    wraps to 1 by two odd factors: tensor 0 (`a`), byte 236: a tensor of [3, 12297829382473034411] elements of type F32 has 2^64 bytes or more
    largest: tensor 0 (`a`), byte 252: a tensor of [18446744073709551615, 18446744073709551615, 18446744073709551615, 18446744073709551615] elements of type F32 has 2^64 bytes or more
    ");
}

#[test]
fn c6_bytes_that_overflow() {
    let of = |dims: &[u64], ty, offset| Raw::with_tensors([tensor("a", dims, ty, offset)]);
    let inputs = [
        ("elements fit, bytes do not", of(&[1 << 62], F32, 0)),
        ("bytes fit, padded they do not", of(&[(1 << 62) - 1], F32, 0)),
        ("offset and bytes do not", of(&[1 << 20], F32, u64::MAX - 31)),
        ("begin of the data and offset do not", of(&[8], F32, u64::MAX - 63)),
        ("halves of 2^64", of(&[1 << 61], F32, 1 << 63)),
    ];
    assert_snapshot!(refusals(inputs), @r"
    elements fit, bytes do not: tensor 0 (`a`), byte 228: a tensor of [4611686018427387904] elements of type F32 has 2^64 bytes or more
    bytes fit, padded they do not: tensor 0 (`a`), byte 256: 18446744073709551612 bytes from 256 on do not fit into the file's 338: the file is damaged, or a download is incomplete
    offset and bytes do not: tensor 0 (`a`), byte 232: 4194304 bytes from 18446744073709551584 on do not fit into the file's 338: the file is damaged, or a download is incomplete
    begin of the data and offset do not: tensor 0 (`a`), byte 18446744073709551615: 32 bytes from 18446744073709551615 on do not fit into the file's 338: the file is damaged, or a download is incomplete
    halves of 2^64: tensor 0 (`a`), byte 232: 9223372036854775808 bytes from 9223372036854775808 on do not fit into the file's 338: the file is damaged, or a download is incomplete
    ");
}

#[test]
fn c7_rows_of_partial_blocks() {
    let of = |dims: &[u64], ty| Raw::with_tensors([tensor("a", dims, ty, 0)]);
    let inputs = [
        ("31 of 32", of(&[31], Q4_0)),
        ("16 x 2: whole blocks, but not whole in a row", of(&[16, 2], Q4_0)),
        ("128 x 2 of Q4_K", of(&[128, 2], Q4_K)),
        ("1 of MXFP4", of(&[1, 32], 39)),
    ];
    assert_snapshot!(refusals(inputs), @r"
    31 of 32: tensor 0 (`a`), byte 228: rows of 31 elements, allowed for Q4_0: multiples of 32
    16 x 2: whole blocks, but not whole in a row: tensor 0 (`a`), byte 236: rows of 16 elements, allowed for Q4_0: multiples of 32
    128 x 2 of Q4_K: tensor 0 (`a`), byte 236: rows of 128 elements, allowed for Q4_K: multiples of 256
    1 of MXFP4: tensor 0 (`a`), byte 236: rows of 1 elements, allowed for MXFP4: multiples of 32
    ");
}

#[test]
fn c8_types_that_are_removed_or_unknown() {
    let of = |ty| (ty, Raw::with_tensors([tensor("a", &[256], ty, 0)]));
    let ids = [4, 5, 31, 32, 33, 36, 37, 38, 42, 255, u32::MAX];
    let (list, messages): (Vec<_>, Vec<_>) = ids
        .map(|id| {
            let message = refusal(&of(id).1.bytes());
            let (text, list) = message.split_once("allowed: ").unwrap();
            (list.to_owned(), format!("{text}…"))
        })
        .into_iter()
        .unzip();
    assert_snapshot!(messages.join("\n"), @r"
    tensor 0 (`a`), byte 228: tensor type 4 (Q4_2, removed from ggml: convert the model again), …
    tensor 0 (`a`), byte 228: tensor type 5 (Q4_3, removed from ggml: convert the model again), …
    tensor 0 (`a`), byte 228: tensor type 31 (Q4_0_4_4, removed from ggml: convert the model again), …
    tensor 0 (`a`), byte 228: tensor type 32 (Q4_0_4_8, removed from ggml: convert the model again), …
    tensor 0 (`a`), byte 228: tensor type 33 (Q4_0_8_8, removed from ggml: convert the model again), …
    tensor 0 (`a`), byte 228: tensor type 36 (IQ4_NL_4_4, removed from ggml: convert the model again), …
    tensor 0 (`a`), byte 228: tensor type 37 (IQ4_NL_4_8, removed from ggml: convert the model again), …
    tensor 0 (`a`), byte 228: tensor type 38 (IQ4_NL_8_8, removed from ggml: convert the model again), …
    tensor 0 (`a`), byte 228: tensor type 42 (unknown), …
    tensor 0 (`a`), byte 228: tensor type 255 (unknown), …
    tensor 0 (`a`), byte 228: tensor type 4294967295 (unknown), …
    ");
    assert!(list.iter().all(|other| *other == list[0]));
    assert_snapshot!(list[0], @r"F32=0 F16=1 Q4_0=2 Q4_1=3 Q5_0=6 Q5_1=7 Q8_0=8 Q8_1=9 Q2_K=10 Q3_K=11 Q4_K=12 Q5_K=13 Q6_K=14 Q8_K=15 IQ2_XXS=16 IQ2_XS=17 IQ3_XXS=18 IQ1_S=19 IQ4_NL=20 IQ3_S=21 IQ2_S=22 IQ4_XS=23 I8=24 I16=25 I32=26 I64=27 F64=28 IQ1_M=29 BF16=30 TQ1_0=34 TQ2_0=35 MXFP4=39 NVFP4=40 Q1_0=41");
}

/// Every type that is read, with the size that its block is known to have.
#[test]
fn c8_types_that_are_known() {
    let sizes =
        GgmlType::all().map(|ty| format!("{ty} {} {}/{}\n", ty.id(), ty.block_elements(), ty.block_bytes()));
    assert_snapshot!(sizes.collect::<String>(), @r"
    F32 0 1/4
    F16 1 1/2
    Q4_0 2 32/18
    Q4_1 3 32/20
    Q5_0 6 32/22
    Q5_1 7 32/24
    Q8_0 8 32/34
    Q8_1 9 32/40
    Q2_K 10 256/84
    Q3_K 11 256/110
    Q4_K 12 256/144
    Q5_K 13 256/176
    Q6_K 14 256/210
    Q8_K 15 256/292
    IQ2_XXS 16 256/66
    IQ2_XS 17 256/74
    IQ3_XXS 18 256/98
    IQ1_S 19 256/50
    IQ4_NL 20 32/18
    IQ3_S 21 256/110
    IQ2_S 22 256/82
    IQ4_XS 23 256/136
    I8 24 1/1
    I16 25 1/2
    I32 26 1/4
    I64 27 1/8
    F64 28 1/8
    IQ1_M 29 256/56
    BF16 30 1/2
    TQ1_0 34 256/54
    TQ2_0 35 256/66
    MXFP4 39 32/17
    NVFP4 40 64/36
    Q1_0 41 128/18
    ");
    for ty in GgmlType::all() {
        let mut raw = Raw::with_tensors([tensor("a", &[256, 2], ty.id(), 0)]);
        raw.data = vec![0; (512 / ty.block_elements() * ty.block_bytes()) as usize];
        let bytes = raw.bytes();
        let gguf = Gguf::parse(&bytes).unwrap();
        assert_eq!((gguf.tensors[0].ty, gguf.tensors[0].range.end), (ty, bytes.len()));
        raw.data.pop();
        assert!(refusal(&raw.bytes()).contains("do not fit"), "{ty}");
    }
}

/// The crate that decodes blocks and the parser agree on their sizes.
#[test]
fn block_sizes_are_those_of_the_decoders() {
    use kernels_gpu::quant::*;
    fn check<B: QuantBlock>() {
        let ty = GgmlType::from_name(B::NAME).unwrap();
        assert_eq!((ty.block_elements(), ty.block_bytes()), (B::ELEMENTS as u64, B::BYTES as u64), "{ty}");
        assert_eq!(size_of::<B>(), B::BYTES);
    }
    check::<F32>();
    check::<F16>();
    check::<BF16>();
    check::<Q8_0>();
    check::<Q2_K>();
    check::<Q3_K>();
    check::<Q6_K>();
    check::<Q5_K>();
    check::<Q4_0>();
    check::<Q4_1>();
    check::<Q5_0>();
    check::<Q5_1>();
    check::<Q4_K>();
    check::<IQ4_NL>();
    check::<IQ4_XS>();
    check::<MXFP4>();
}

#[test]
fn c9_offsets_that_are_not_aligned() {
    let inputs = [1, 16, 33].map(|offset| (offset, Raw::with_tensors([tensor("a", &[8], F32, offset)])));
    assert_snapshot!(refusals(inputs), @r"
    1: tensor 0 (`a`), byte 232: data offset 1, allowed: multiples of the alignment 32
    16: tensor 0 (`a`), byte 232: data offset 16, allowed: multiples of the alignment 32
    33: tensor 0 (`a`), byte 232: data offset 33, allowed: multiples of the alignment 32
    ");
}

#[test]
fn c10_data_past_the_end_of_the_file() {
    let of =
        |dims: &[u64], offset| Raw::with_tensors([tensor("a", &[1], F32, 0), tensor("b", dims, F32, offset)]);
    let mut one_byte_short = Raw::small();
    one_byte_short.data.pop();
    let inputs = [
        ("by one byte", one_byte_short),
        ("by one block of alignment", of(&[1], 96)),
        ("by 2^63", of(&[1], 1 << 63)),
        ("by its size", of(&[1 << 40], 32)),
    ];
    assert_snapshot!(refusals(inputs), @r"
    by one byte: tensor 1 (`b`), byte 352: 18 bytes from 352 on do not fit into the file's 369: the file is damaged, or a download is incomplete
    by one block of alignment: tensor 1 (`b`), byte 384: 4 bytes from 384 on do not fit into the file's 370: the file is damaged, or a download is incomplete
    by 2^63: tensor 1 (`b`), byte 9223372036854776096: 4 bytes from 9223372036854776096 on do not fit into the file's 370: the file is damaged, or a download is incomplete
    by its size: tensor 1 (`b`), byte 320: 4398046511104 bytes from 320 on do not fit into the file's 370: the file is damaged, or a download is incomplete
    ");
}

#[test]
fn c11_tensors_that_overlap() {
    let first = tensor("a", &[16], F32, 0);
    let inputs = [
        ("all bytes shared", [first.clone(), tensor("b", &[16], F32, 0)]),
        ("end of one, begin of the other", [first.clone(), tensor("b", &[8], F32, 32)]),
        ("one inside the other, listed first", [tensor("b", &[4], F32, 32), first]),
    ];
    assert_snapshot!(refusals(inputs.map(|(label, tensors)| (label, Raw::with_tensors(tensors)))), @r"
    all bytes shared: tensor 1 (`b`), byte 288: overlaps tensor 0 (`a`), whose data ends at byte 352
    end of one, begin of the other: tensor 1 (`b`), byte 320: overlaps tensor 0 (`a`), whose data ends at byte 352
    one inside the other, listed first: tensor 0 (`b`), byte 320: overlaps tensor 1 (`a`), whose data ends at byte 352
    ");
}

#[test]
fn c11_order_and_gaps_are_free() {
    let raw = Raw::with_tensors([tensor("b", &[4], F32, 64), tensor("a", &[4], F32, 0)]);
    let bytes = raw.bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.data(gguf.tensor("a").unwrap())[..4], 1f32.to_le_bytes());
    let gap = gguf.data_begin() + 32..gguf.data_begin() + 64;
    assert_eq!(gguf.gaps(), std::slice::from_ref(&gap));
    assert!(gguf.check(false).is_empty(), "{:?}", gguf.check(false));
    let findings: Vec<_> = gguf.check(true).iter().map(ToString::to_string).collect();
    assert_snapshot!(findings.join("\n"), @"warning: tensor data, byte 320: a gap of 32 bytes between tensors");
}

#[test]
fn c12_bytes_after_the_last_tensor() {
    let mut raw = Raw::small();
    // The last tensor ends 18 bytes after a multiple of 32: 14 bytes are padding.
    raw.data.extend([0; 14]);
    assert!(Gguf::parse(&raw.bytes()).unwrap().check(true).is_empty());
    raw.data.extend([0xaa; 5]);
    let bytes = raw.bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.trailing(), bytes.len() - 5..bytes.len());
    let findings: Vec<_> = gguf.check(false).iter().map(ToString::to_string).collect();
    assert_snapshot!(findings.join("\n"), @"warning: tensor data, byte 384: 5 bytes after the last tensor");
}
