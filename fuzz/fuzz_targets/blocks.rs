//! Any bytes as a block of any format: decoding has a result, and where the scales are finite, so is each element.

#![no_main]

use kernels_gpu::quant::*;
use libfuzzer_sys::fuzz_target;
use oxwarp::gguf::{GgmlType, Scan};

fn check<B: QuantBlock + bytemuck::Pod>(bytes: &[u8]) {
    let Some(bytes) = bytes.get(..B::BYTES) else { return };
    let block: B = bytemuck::pod_read_unaligned(bytes);
    let mut values = vec![0f32; B::ELEMENTS];
    block.decode(&mut values);
    let ty = GgmlType::from_name(B::NAME).unwrap();
    assert_eq!(Scan::of(ty, bytes).n_bad > 0, values.iter().any(|value| !value.is_finite()), "{ty}");
}

fuzz_target!(|bytes: &[u8]| {
    let checks: [fn(&[u8]); 15] = [
        check::<F32>,
        check::<F16>,
        check::<BF16>,
        check::<Q4_0>,
        check::<Q4_1>,
        check::<Q5_0>,
        check::<Q5_1>,
        check::<Q8_0>,
        check::<Q2_K>,
        check::<Q3_K>,
        check::<Q4_K>,
        check::<Q5_K>,
        check::<Q6_K>,
        check::<IQ4_NL>,
        check::<IQ4_XS>,
        // Not MXFP4: its scale 255 is a NaN of the standard and a number for decoders.
    ];
    checks.iter().for_each(|check| check(bytes));
});
