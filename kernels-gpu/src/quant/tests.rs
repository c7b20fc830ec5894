//! Every case of the golden blocks, bit for bit.

use super::*;
use std::io::Read;

#[derive(serde::Deserialize)]
struct GoldenType {
    r#type: String,
    block_elements: usize,
    block_bytes: usize,
    cases: Vec<GoldenCase>,
}

#[derive(serde::Deserialize)]
struct GoldenCase {
    note: String,
    raw: String,
    f32: String,
}

/// The golden blocks of one type.
fn golden(name: &str) -> GoldenType {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/golden/blocks.json.gz");
    let file = std::fs::File::open(path).expect(path);
    let mut json = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut json).expect(path);
    let types: Vec<GoldenType> = serde_json::from_str(&json).expect(path);
    types.into_iter().find(|t| t.r#type.eq_ignore_ascii_case(name)).expect(name)
}

fn bytes_of_hex(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "odd number of hex digits");
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex digits")).collect()
}

/// Compares bits, but any NaN equals any other.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

fn check_golden<B: QuantBlock + bytemuck::Pod>() {
    let golden = golden(B::NAME);
    assert_eq!((golden.block_elements, golden.block_bytes), (B::ELEMENTS, B::BYTES), "{}", B::NAME);
    assert_eq!(size_of::<B>(), B::BYTES, "{}", B::NAME);
    assert!(golden.cases.len() >= 10, "{}: only {} cases", B::NAME, golden.cases.len());
    for (case, GoldenCase { note, raw, f32 }) in golden.cases.iter().enumerate() {
        let blocks = bytes_of_hex(raw);
        let blocks: &[B] = bytemuck::cast_slice(&blocks);
        let expected: Vec<f32> =
            bytes_of_hex(f32).chunks_exact(4).map(|v| f32::from_le_bytes(v.try_into().unwrap())).collect();
        let mut decoded = vec![0.0; blocks.len() * B::ELEMENTS];
        decode_blocks(blocks, &mut decoded);
        assert_eq!(decoded.len(), expected.len(), "{} case {case} ({note})", B::NAME);
        for (i, (&found, &expected)) in decoded.iter().zip(&expected).enumerate() {
            assert!(
                same(found, expected),
                "{} case {case} ({note}), element {i}: {found:?}, not {expected:?}",
                B::NAME
            );
        }
    }
}

macro_rules! for_each_quantised_format {
    ($($test:ident: $format:ty),+ $(,)?) => {
        mod golden_blocks {
            use super::*;
            $(#[test] fn $test() { check_golden::<$format>(); })+
        }
    };
}

for_each_quantised_format! {
    f16: F16,
    bf16: BF16,
    q4_0: Q4_0,
    q4_1: Q4_1,
    q5_0: Q5_0,
    q5_1: Q5_1,
    q8_0: Q8_0,
    q2_k: Q2_K,
    q3_k: Q3_K,
    q4_k: Q4_K,
    q5_k: Q5_K,
    q6_k: Q6_K,
    iq4_nl: IQ4_NL,
    iq4_xs: IQ4_XS,
    mxfp4: MXFP4,
}

#[test]
fn every_f16_has_the_value_of_the_half_crate() {
    for bits in 0..=u16::MAX {
        let (found, expected) = (f16_to_f32(bits), half::f16::from_bits(bits).to_f32());
        assert!(same(found, expected), "{bits:#06x}: {found:?}, not {expected:?}");
    }
}

#[test]
fn f32_blocks_are_little_endian() {
    let mut value = [0.0];
    F32([0, 0, 0x80, 0xbf]).decode(&mut value);
    assert_eq!(value, [-1.0]);
}

#[test]
#[should_panic(expected = "2 blocks of q4_0 hold 64 values, the output 63")]
fn wrong_output_length_is_refused() {
    decode_blocks(&[Q4_0 { d: [0; 2], qs: [0; 16] }; 2], &mut [0.0; 63]);
}
