//! Blocks whose scales are no use.

use insta::assert_snapshot;
use oxwarp::gguf::{GgmlType, Gguf, Scan};

use super::mutate::*;

const NAN: u16 = 0x7e01;
const INFINITE: u16 = 0xfc00;
const ONE: u16 = 0x3c00;
const SUBNORMAL: u16 = 0x0001;

/// Three rows of two blocks of Q4_0 with these scales.
fn file_with_scales(scales: [u16; 6]) -> Vec<u8> {
    let mut raw = Raw::with_tensors([tensor("blk.0.attn_q.weight", &[64, 3], Q4_0, 0)]);
    raw.data = scales.iter().flat_map(|scale| [&scale.to_le_bytes()[..], &[0x87; 16]].concat()).collect();
    raw.bytes()
}

fn findings(bytes: &[u8], strict: bool) -> String {
    let findings = Gguf::parse(bytes).unwrap().check(strict);
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

#[test]
fn h1_nan_and_infinite_scales() {
    assert_eq!(findings(&file_with_scales([ONE; 6]), true), "");
    assert_snapshot!(findings(&file_with_scales([ONE, ONE, ONE, NAN, ONE, INFINITE]), false), @r"
    error: tensor `blk.0.attn_q.weight` (Q4_0), block 3 (row 1, column 32): d is NaN; such blocks: 2 of 6
    error: tensor `blk.0.attn_q.weight` (Q4_0), block 5 (row 2, column 32): d is infinite; such blocks: 2 of 6
    ");
    let all_bad = findings(&file_with_scales([NAN; 6]), false);
    assert_eq!(all_bad.lines().count(), 4);
    assert!(all_bad.contains("such blocks: 6 of 6"), "{all_bad}");
}

#[test]
fn h1_zero_and_subnormal_scales() {
    let bytes = file_with_scales([ONE, 0, 0x8000, SUBNORMAL, ONE, 0]);
    assert_snapshot!(findings(&bytes, false), @r"
    note: tensor `blk.0.attn_q.weight` (Q4_0), block 1 (row 0, column 32): an all-zero block, the first of 3 in 1 tensors; legal
    note: tensor `blk.0.attn_q.weight` (Q4_0), block 3 (row 1, column 32): a subnormal scale, the first of 1 in 1 tensors; legal
    ");
    assert_snapshot!(findings(&bytes, true), @r"
    note: tensor `blk.0.attn_q.weight` (Q4_0), block 1 (row 0, column 32): an all-zero block, the first of 3 in 6 blocks
    note: tensor `blk.0.attn_q.weight` (Q4_0), block 3 (row 1, column 32): a subnormal scale, the first of 1 in 6 blocks
    ");
}

/// For every type: a good tensor, then each byte pair of one block set to NaN.  The fields that the scan sees are those
/// that the format has.
#[test]
fn h1_the_scales_of_every_type() {
    let mut lines = String::new();
    for ty in GgmlType::all() {
        let block = ty.block_bytes() as usize;
        // 0x11 is a normal number as F16, BF16, F32, F64 and UE4M3, and no NaN as E8M0.
        let good = vec![0x11; 5 * block];
        let scan = Scan::of(ty, &good);
        assert_eq!((scan.n_blocks, scan.n_bad, scan.n_zero, scan.n_subnormal), (5, 0, 0, 0), "{ty}");
        let mut seen = Vec::new();
        for at in 0..block {
            let mut bad = good.clone();
            // NaN in each float format whose last byte this is.
            bad[3 * block + at] = 0xff;
            if at > 0 {
                bad[3 * block + at - 1] = 0xff;
            }
            let scan = Scan::of(ty, &bad);
            assert!(scan.bad.iter().all(|bad| bad.block == 3 && bad.problem == "NaN"), "{ty} {scan:?}");
            seen.extend(scan.bad.iter().map(|bad| format!(" {}@{at}", bad.field)));
        }
        lines += &format!("{ty}:{}\n", seen.concat());
    }
    assert_snapshot!(lines, @r"
    F32: value@3
    F16: value@1
    Q4_0: d@1 d@2
    Q4_1: d@1 d@2 m@3 m@4
    Q5_0: d@1 d@2
    Q5_1: d@1 d@2 m@3 m@4
    Q8_0: d@1 d@2
    Q8_1: d@1 d@2 s@3 s@4
    Q2_K: d@81 d@82 dmin@83
    Q3_K: d@109
    Q4_K: d@1 d@2 dmin@3 dmin@4
    Q5_K: d@1 d@2 dmin@3 dmin@4
    Q6_K: d@209
    Q8_K: d@3
    IQ2_XXS: d@1 d@2
    IQ2_XS: d@1 d@2
    IQ3_XXS: d@1 d@2
    IQ1_S: d@1 d@2
    IQ4_NL: d@1 d@2
    IQ3_S: d@1 d@2
    IQ2_S: d@1 d@2
    IQ4_XS: d@1 d@2
    I8:
    I16:
    I32:
    I64:
    F64: value@7
    IQ1_M:
    BF16: value@1
    TQ1_0: d@53
    TQ2_0: d@65
    MXFP4: e@0 e@1
    NVFP4: d[0]@0 d[0]@1 d[1]@2 d[2]@3 d[3]@4
    Q1_0: d@1 d@2
    ");
}

/// Where the scan finds fault with a block, the decoder makes numbers that are no numbers of it, and nowhere else.
#[test]
fn h1_a_block_is_bad_if_its_decoder_says_so() {
    use kernels_gpu::quant::*;
    fn check<B: QuantBlock + bytemuck::Pod>() {
        let ty = GgmlType::from_name(B::NAME).unwrap();
        let mut n_bad = 0;
        let bytes = [0x00, 0x7c, 0x7e, 0x7f, 0x80, 0xfc, 0xff];
        for (fill, at, byte) in [0x00, 0x80]
            .iter()
            .flat_map(|fill| (0..B::BYTES).flat_map(move |at| bytes.map(move |byte| (*fill, at, byte))))
        {
            let mut block = vec![fill; B::BYTES];
            block[at] = byte;
            let is_bad = Scan::of(ty, &block).n_bad > 0;
            let mut values = vec![0f32; B::ELEMENTS];
            bytemuck::pod_read_unaligned::<B>(&block).decode(&mut values);
            let has_bad = values.iter().any(|value| !value.is_finite());
            assert_eq!(is_bad, has_bad, "{ty}: {byte:#x} at {at} among {fill:#x}");
            n_bad += u32::from(is_bad);
        }
        assert!(n_bad > 0, "{ty}");
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
    // Not MXFP4: its scale 255 is a NaN of the standard and a number for decoders.
}

/// The scale of IQ1_M lies in the upper four bits of its last four u16, the lowest first.
#[test]
fn h1_the_scattered_scale_of_iq1_m() {
    let block = |scale: u16| {
        let mut block = vec![0u8; 56];
        (0..4).for_each(|i| block[49 + 2 * i] = (scale >> (4 * i) << 4) as u8 | 0x0f);
        Scan::of(GgmlType::IQ1_M, &block)
    };
    assert_eq!((block(NAN).n_bad, block(NAN).bad[0].problem), (1, "NaN"));
    assert_eq!(block(INFINITE).bad[0].problem, "infinite");
    assert_eq!((block(ONE).n_bad, block(0).n_zero, block(SUBNORMAL).n_subnormal), (0, 1, 1));
}

/// A bad block deep inside a tensor of several tasks keeps its number.
#[test]
fn h1_the_number_of_a_late_block() {
    let mut data = [ONE.to_le_bytes()[0], ONE.to_le_bytes()[1]].repeat(9 * 200_000);
    let late = 150_001 * 18;
    data[late..late + 2].copy_from_slice(&NAN.to_le_bytes());
    let scan = Scan::of(GgmlType::Q4_0, &data);
    assert_eq!((scan.n_blocks, scan.n_bad, scan.bad[0].block), (200_000, 1, 150_001));
}
