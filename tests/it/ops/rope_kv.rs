//! RoPE with the write to the cache against the reference of both.

use kernels_gpu::launch::{Device, Grid, Purpose};
use kernels_gpu::rope_kv::*;
use kernels_gpu::simt::f16;
use testkit::compare::{assert_within, f16_bound, gamma};
use testkit::data::{Rng, narrow_halves, widen_halves};
use testkit::reference::{self, RopePairs, widen};

struct Shape {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    rope_dim: usize,
    n_ctx: usize,
    positions: Vec<u32>,
}

/// What lies in the caches before, and must stay where no token goes.
const BEFORE: f32 = 77.0;

fn check<D: Device>(device: &D, shape: &Shape) {
    let Shape { n_heads, n_kv_heads, head_dim, rope_dim, n_ctx, ref positions } = *shape;
    let n_tokens = positions.len();
    let mut rng = Rng::new(1);
    let mut new = |n_heads: usize| narrow_halves(&rng.normal(n_tokens * n_heads * head_dim, 1.0));
    let halves = [new(n_heads), new(n_kv_heads), new(n_kv_heads)];
    let wide = [0, 1, 2].map(|i| widen_halves(&halves[i]));
    let table: Vec<f32> =
        reference::rope_table(n_ctx, rope_dim, 10_000.0).iter().map(|&v| v as f32).collect();

    let device_wide = [0, 1, 2].map(|i| device.upload(&wide[i], Purpose::Activations).unwrap());
    let device_halves = [0, 1, 2].map(|i| device.upload(&halves[i], Purpose::Activations).unwrap());
    let device_table = device.upload(&table, Purpose::Other).unwrap();
    let device_positions = device.upload(positions, Purpose::Other).unwrap();
    let before = narrow_halves(&vec![BEFORE; n_kv_heads * n_ctx * head_dim]);
    macro_rules! launch {
        ($kernel:ident, $inputs:expr, $pairs:expr) => {
            let mut y = device.alloc::<f16>(wide[0].len(), Purpose::Activations).unwrap();
            let mut k_cache = device.upload(&before, Purpose::KvCache).unwrap();
            let mut v_cache = device.upload(&before, Purpose::KvCache).unwrap();
            let [q, k, v] = &$inputs;
            let kernel = $kernel {
                y: &mut y,
                k_cache: &mut k_cache,
                v_cache: &mut v_cache,
                q,
                k,
                v,
                table: &device_table,
                positions: &device_positions,
                n_heads: n_heads as u32,
                n_kv_heads: n_kv_heads as u32,
                head_dim: head_dim as u32,
                rope_dim: rope_dim as u32,
                n_ctx: n_ctx as u32,
            };
            let grid = Grid::xy(rope_kv_blocks(n_heads, n_kv_heads, head_dim) as u32, n_tokens as u32);
            device.launch(kernel, grid).unwrap();
            let found = [&y, &k_cache, &v_cache].map(|b| widen_halves(&device.download(b).unwrap()));
            verify(stringify!($kernel), shape, &found, &wide, &table, $pairs);
        };
    }
    launch!(rope_kv_adjacent_f32, device_wide, RopePairs::Adjacent);
    launch!(rope_kv_half_f32, device_wide, RopePairs::Half);
    launch!(rope_kv_adjacent_f16, device_halves, RopePairs::Adjacent);
    launch!(rope_kv_half_f16, device_halves, RopePairs::Half);
}

/// q, k and v are turned by the reference (v by nothing), and k and v moved to their places. Turned elements may be off
/// by what `rope.rs` derives, and all are rounded to f16, except those that stay what they were.
fn verify(
    what: &str,
    shape: &Shape,
    found: &[Vec<f32>; 3],
    new: &[Vec<f32>; 3],
    table: &[f32],
    pairs: RopePairs,
) {
    let Shape { n_heads, n_kv_heads, head_dim, rope_dim, n_ctx, ref positions } = *shape;
    let largest = new.iter().flatten().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
    for (i, name) in ["y", "k_cache", "v_cache"].into_iter().enumerate() {
        let n_heads = if i == 0 { n_heads } else { n_kv_heads };
        let mut turned = widen(&new[i]);
        if i < 2 {
            reference::rope(&mut turned, &widen(table), positions, n_heads, head_dim, rope_dim, pairs);
        }
        let mut expected = turned.clone();
        if i > 0 {
            expected = vec![f64::from(BEFORE); n_kv_heads * n_ctx * head_dim];
            for (row, values) in turned.chunks_exact(head_dim).enumerate() {
                let (token, head) = (row / n_kv_heads, row % n_kv_heads);
                let place = head * n_ctx + positions[token] as usize;
                expected[place * head_dim..][..head_dim].copy_from_slice(values);
            }
        }
        assert_within(&format!("{what}, {name}"), &found[i], &expected, &[expected.len()], |j| {
            match i < 2 && j % head_dim < rope_dim && expected[j] != f64::from(BEFORE) {
                true => f16_bound(gamma(3) * 2.0 * largest, expected[j]),
                false => 0.0,
            }
        });
    }
}

#[test]
fn several_tokens_and_grouped_heads() {
    on_every_device!(|device| check(
        device,
        &Shape { n_heads: 12, n_kv_heads: 4, head_dim: 64, rope_dim: 64, n_ctx: 8, positions: vec![4, 5, 7] }
    ));
}

#[test]
fn partial_dimensions() {
    on_every_device!(|device| check(
        device,
        &Shape { n_heads: 4, n_kv_heads: 4, head_dim: 80, rope_dim: 32, n_ctx: 4, positions: vec![3] }
    ));
}

#[test]
fn head_dims_of_96_128_and_256() {
    for head_dim in [96, 128, 256] {
        on_every_device!(|device| check(
            device,
            &Shape {
                n_heads: 6,
                n_kv_heads: 2,
                head_dim,
                rope_dim: head_dim,
                n_ctx: 3,
                positions: vec![0, 2]
            }
        ));
    }
}

#[test]
fn position_past_131072() {
    on_every_device!(|device| check(
        device,
        &Shape {
            n_heads: 2,
            n_kv_heads: 1,
            head_dim: 8,
            rope_dim: 8,
            n_ctx: 131_080,
            positions: vec![65_537, 131_079]
        }
    ));
}
