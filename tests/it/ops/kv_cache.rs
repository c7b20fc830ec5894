//! The KV cache's writes against the reference: in f16 bits, in Q8_0 bounds.

use half::f16 as HostF16;
use kernels_gpu::kv_cache::{
    kv_write_blocks, kv_write_f16, kv_write_q8_0, kv_write_q8_0_blocks, q8_0_blocks,
};
use kernels_gpu::launch::{Device, Grid, Purpose};
use kernels_gpu::simt::f16;
use testkit::compare::{F16_ROUNDING, F16_SUBNORMAL_ROUNDING, F32_ROUNDING};
use testkit::data::{Rng, widen_halves};
use testkit::reference;

fn check<D: Device>(device: &D, n_kv_heads: usize, head_dim: usize, n_ctx: usize, positions: &[u32]) {
    let n_tokens = positions.len();
    let mut rng = Rng::new(2);
    // Values that a half holds only rounded, subnormal or as infinity among them.
    let mut k = rng.normal(n_tokens * n_kv_heads * head_dim, 1.0);
    k[0] = 1.0e-6;
    k[1] = 70_000.0;
    let v = rng.normal(n_tokens * n_kv_heads * head_dim, 100.0);
    let len = n_kv_heads * n_ctx * head_dim;

    let mut k_cache = device.zeros::<f16>(len, Purpose::KvCache).unwrap();
    let mut v_cache = device.zeros::<f16>(len, Purpose::KvCache).unwrap();
    let device_k = device.upload(&k, Purpose::Activations).unwrap();
    let device_v = device.upload(&v, Purpose::Activations).unwrap();
    let device_positions = device.upload(positions, Purpose::Other).unwrap();
    device
        .launch(
            kv_write_f16 {
                k_cache: &mut k_cache,
                v_cache: &mut v_cache,
                k: &device_k,
                v: &device_v,
                positions: &device_positions,
                n_kv_heads: n_kv_heads as u32,
                head_dim: head_dim as u32,
                n_ctx: n_ctx as u32,
            },
            Grid::xy(kv_write_blocks(n_kv_heads, head_dim) as u32, n_tokens as u32),
        )
        .unwrap();

    for (cache, source) in [(&k_cache, &k), (&v_cache, &v)] {
        let found: Vec<u16> = device.download(cache).unwrap().iter().map(|h| h.to_bits()).collect();
        let mut expected = vec![HostF16::ZERO; len];
        reference::kv_write(&mut expected, source, positions, n_kv_heads, head_dim, n_ctx);
        let expected: Vec<u16> = expected.iter().map(|h| h.to_bits()).collect();
        let differs = (0..len).find(|&i| found[i] != expected[i]);
        assert_eq!(
            differs.map(|i| (i, found[i], expected[i])),
            None,
            "first difference: index, found, expected"
        );
    }
}

/// The signed bytes of words.
fn quants_of(words: &[u32]) -> Vec<i8> {
    words.iter().flat_map(|word| word.to_le_bytes().map(u8::cast_signed)).collect()
}

/// Values and, for each block of 32 along a head, the largest magnitude.
///
/// A scale is max|x| / 127, rounded three times to f32 (the constant, the product, and the maximum not at all) and once
/// to f16. A quant is off by half a step, or where it is cut to ±127 by what the rounding of the scale makes x / scale
/// exceed it, and by what two roundings and a fast reciprocal (1 ulp) do to numbers of up to 127.
fn check_q8_0<D: Device>(device: &D, shape: [usize; 3], positions: &[u32], deviation: f64) {
    let [n_kv_heads, head_dim, n_ctx] = shape;
    let (n_tokens, n_blocks) = (positions.len(), q8_0_blocks(head_dim));
    let mut rng = Rng::new(2);
    let mut k = rng.normal(n_tokens * n_kv_heads * head_dim, deviation);
    let v = rng.normal(n_tokens * n_kv_heads * head_dim, 100.0);
    k[..head_dim.min(32)].fill(0.0);
    let n_places = n_kv_heads * n_ctx;

    // Quants of 99 with scales of 1 before, which must stay where no token goes.
    let quants = || {
        device.upload(&vec![u32::from_le_bytes([99; 4]); n_places * head_dim / 4], Purpose::KvCache).unwrap()
    };
    let scales = || {
        let ones = vec![f16::from_bits(HostF16::ONE.to_bits()); n_places * n_blocks];
        device.upload(&ones, Purpose::KvCache).unwrap()
    };
    let (mut k_quants, mut v_quants, mut k_scales, mut v_scales) = (quants(), quants(), scales(), scales());
    let device_k = device.upload(&k, Purpose::Activations).unwrap();
    let device_v = device.upload(&v, Purpose::Activations).unwrap();
    let device_positions = device.upload(positions, Purpose::Other).unwrap();
    let kernel = kv_write_q8_0 {
        k_quants: &mut k_quants,
        k_scales: &mut k_scales,
        v_quants: &mut v_quants,
        v_scales: &mut v_scales,
        k: &device_k,
        v: &device_v,
        positions: &device_positions,
        n_kv_heads: n_kv_heads as u32,
        head_dim: head_dim as u32,
        n_ctx: n_ctx as u32,
    };
    let grid = Grid::xy(kv_write_q8_0_blocks(n_kv_heads, head_dim) as u32, n_tokens as u32);
    device.launch(kernel, grid).unwrap();

    for (quants, scales, source) in [(&k_quants, &k_scales, &k), (&v_quants, &v_scales, &v)] {
        let quants = quants_of(&device.download(quants).unwrap());
        let scales = widen_halves(&device.download(scales).unwrap());
        for place in 0..n_places {
            let (head, position) = (place / n_ctx, (place % n_ctx) as u32);
            let quants = &quants[place * head_dim..][..head_dim];
            let scales = &scales[place * n_blocks..][..n_blocks];
            let Some(token) = positions.iter().position(|p| *p == position) else {
                assert!(quants.iter().all(|q| *q == 99) && scales.iter().all(|s| *s == 1.0), "place {place}");
                continue;
            };
            let x = &source[(token * n_kv_heads + head) * head_dim..][..head_dim];
            for (block, x) in x.chunks(32).enumerate() {
                let scale = f64::from(scales[block]);
                let largest = x.iter().fold(0.0f64, |m, x| m.max(f64::from(x.abs())));
                let exact = largest / 127.0;
                let rounding = (F16_ROUNDING + 4.0 * F32_ROUNDING) * exact;
                let scale_bound = rounding.max(F16_SUBNORMAL_ROUNDING * (1.0 + 4.0 * F32_ROUNDING));
                assert!((scale - exact).abs() <= scale_bound, "scale {scale} for {exact}, place {place}");
                let bound = scale * (0.5 + 127.5 * 6.0 * F32_ROUNDING) + 127.0 * (exact - scale).max(0.0);
                for (i, &x) in x.iter().enumerate() {
                    let value = scale * f64::from(quants[block * 32 + i]);
                    let error = (value - f64::from(x)).abs();
                    assert!(error <= bound, "place {place}, block {block}, element {i}: {value}, not {x}");
                }
            }
        }
    }
}

#[test]
fn q8_0_of_every_head_size() {
    for head_dim in [16, 64, 80, 96, 128, 256] {
        on_every_device!(|device| check_q8_0(device, [3, head_dim, 4], &[1, 3], 1.0));
    }
}

#[test]
fn q8_0_more_elements_than_one_block() {
    on_every_device!(|device| check_q8_0(device, [9, 128, 2], &[1], 1.0));
}

/// Scales that f16 holds only as subnormal numbers, or not at all.
#[test]
fn q8_0_of_tiny_values() {
    for deviation in [1e-3, 1e-5, 1e-7] {
        on_every_device!(|device| check_q8_0(device, [1, 64, 2], &[1], deviation));
    }
}

#[test]
fn q8_0_position_past_131072() {
    on_every_device!(|device| check_q8_0(device, [1, 16, 131_080], &[65_537, 131_079], 1.0));
}

#[test]
fn q8_0_block_with_nan_reads_as_nan() {
    on_every_device!(|device| {
        for poison in [f32::NAN, f32::INFINITY] {
            let mut x = vec![1.0; 64];
            x[40] = poison;
            let x = device.upload(&x, Purpose::Activations).unwrap();
            let positions = device.upload(&[0u32], Purpose::Other).unwrap();
            let mut quants = [0; 2].map(|_| device.alloc::<u32>(64 / 4, Purpose::KvCache).unwrap());
            let mut scales = [0; 2].map(|_| device.alloc::<f16>(2, Purpose::KvCache).unwrap());
            let ([k_quants, v_quants], [k_scales, v_scales]) = (&mut quants, &mut scales);
            let kernel = kv_write_q8_0 {
                k_quants,
                k_scales,
                v_quants,
                v_scales,
                k: &x,
                v: &x,
                positions: &positions,
                n_kv_heads: 1,
                head_dim: 64,
                n_ctx: 1,
            };
            device.launch(kernel, Grid::x(kv_write_q8_0_blocks(1, 64) as u32)).unwrap();
            let quants = quants_of(&device.download(&quants[0]).unwrap());
            let scales = widen_halves(&device.download(&scales[0]).unwrap());
            assert!((scales[1] * f32::from(quants[40])).is_nan() && (scales[0] - 1.0 / 127.0).abs() < 1e-5);
        }
    });
}

#[test]
fn one_token_in_the_middle() {
    on_every_device!(|device| check(device, 3, 64, 16, &[5]));
}

#[test]
fn several_tokens_up_to_the_end() {
    on_every_device!(|device| check(device, 2, 80, 8, &[4, 5, 6, 7]));
}

#[test]
fn smallest_head() {
    on_every_device!(|device| check(device, 4, 8, 8, &[0, 1, 2]));
}

#[test]
fn more_elements_than_one_block() {
    on_every_device!(|device| check(device, 9, 128, 2, &[1]));
}
