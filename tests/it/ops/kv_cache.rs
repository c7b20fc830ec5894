//! The KV cache's writes against the reference: bits, not bounds.

use half::f16 as HostF16;
use kernels_gpu::kv_cache::{kv_write_blocks, kv_write_f16};
use kernels_gpu::launch::{Device, Grid, Purpose};
use kernels_gpu::simt::f16;
use testkit::data::Rng;
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
