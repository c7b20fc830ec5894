//! Rotary position embedding, in place and to f16, against the reference.

use kernels_gpu::launch::{Device, Grid, Purpose};
use kernels_gpu::rope::*;
use kernels_gpu::simt::f16;
use testkit::compare::{assert_within, f16_bound, gamma};
use testkit::data::{Rng, narrow_halves, widen_halves};
use testkit::reference::{self, RopePairs, widen};

struct Shape {
    n_heads: usize,
    head_dim: usize,
    rope_dim: usize,
    n_ctx: usize,
    positions: Vec<u32>,
}

fn check<D: Device>(device: &D, pairs: RopePairs, shape: &Shape) {
    let Shape { n_heads, head_dim, rope_dim, n_ctx, ref positions } = *shape;
    let n_tokens = positions.len();
    let x = Rng::new(1).normal(n_tokens * n_heads * head_dim, 1.0);
    let table: Vec<f32> =
        reference::rope_table(n_ctx, rope_dim, 10_000.0).iter().map(|&v| v as f32).collect();

    let mut device_x = device.upload(&x, Purpose::Activations).unwrap();
    let device_table = device.upload(&table, Purpose::Other).unwrap();
    let device_positions = device.upload(positions, Purpose::Other).unwrap();
    let grid = Grid::xy(rope_blocks(n_heads, head_dim, rope_dim) as u32, n_tokens as u32);
    let (x_arg, table_arg, positions_arg) = (&mut device_x, &device_table, &device_positions);
    let (n_heads_arg, head_dim_arg, rope_dim_arg) = (n_heads as u32, head_dim as u32, rope_dim as u32);
    match pairs {
        RopePairs::Adjacent => device.launch(
            rope_adjacent_f32 {
                x: x_arg,
                table: table_arg,
                positions: positions_arg,
                n_heads: n_heads_arg,
                head_dim: head_dim_arg,
                rope_dim: rope_dim_arg,
            },
            grid,
        ),
        RopePairs::Half => device.launch(
            rope_half_f32 {
                x: x_arg,
                table: table_arg,
                positions: positions_arg,
                n_heads: n_heads_arg,
                head_dim: head_dim_arg,
                rope_dim: rope_dim_arg,
            },
            grid,
        ),
    }
    .unwrap();
    let found = device.download(&device_x).unwrap();

    let mut expected = widen(&x);
    reference::rope(&mut expected, &widen(&table), positions, n_heads, head_dim, rope_dim, pairs);
    // Two products and their sum: three roundings at most, and |cos|, |sin| ≤ 1, so each term is at most the largest
    // element of the pair.
    let largest = x.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
    assert_within(&format!("{pairs:?}"), &found, &expected, &[n_tokens, n_heads, head_dim], |_| {
        gamma(3) * 2.0 * largest
    });
}

/// The kernels that write f16 compute the same and round once more; the rest of a head is rounded only.
fn check_f16<D: Device>(device: &D, pairs: RopePairs, shape: &Shape) {
    let Shape { n_heads, head_dim, rope_dim, n_ctx, ref positions } = *shape;
    let n_tokens = positions.len();
    let halves = narrow_halves(&Rng::new(1).normal(n_tokens * n_heads * head_dim, 1.0));
    // Both kinds of input hold the same values.
    let x = widen_halves(&halves);
    let table: Vec<f32> =
        reference::rope_table(n_ctx, rope_dim, 10_000.0).iter().map(|&v| v as f32).collect();
    let mut expected = widen(&x);
    reference::rope(&mut expected, &widen(&table), positions, n_heads, head_dim, rope_dim, pairs);
    let largest = x.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));

    let device_x = device.upload(&x, Purpose::Activations).unwrap();
    let device_halves = device.upload(&halves, Purpose::Activations).unwrap();
    let device_table = device.upload(&table, Purpose::Other).unwrap();
    let device_positions = device.upload(positions, Purpose::Other).unwrap();
    macro_rules! launch {
        ($kernel:ident, $x:expr) => {
            let mut y = device.alloc::<f16>(x.len(), Purpose::Activations).unwrap();
            let kernel = $kernel {
                y: &mut y,
                x: $x,
                table: &device_table,
                positions: &device_positions,
                n_heads: n_heads as u32,
                head_dim: head_dim as u32,
                rope_dim: rope_dim as u32,
            };
            let grid = Grid::xy(rope_f16_blocks(n_heads, head_dim) as u32, n_tokens as u32);
            device.launch(kernel, grid).unwrap();
            let found = widen_halves(&device.download(&y).unwrap());
            assert_within(stringify!($kernel), &found, &expected, &[n_tokens, n_heads, head_dim], |i| {
                let turned = if i % head_dim < rope_dim { gamma(3) * 2.0 * largest } else { 0.0 };
                f16_bound(turned, expected[i])
            });
        };
    }
    match pairs {
        RopePairs::Adjacent => {
            launch!(rope_adjacent_f32_f16, &device_x);
            launch!(rope_adjacent_f16_f16, &device_halves);
        }
        RopePairs::Half => {
            launch!(rope_half_f32_f16, &device_x);
            launch!(rope_half_f16_f16, &device_halves);
        }
    }
}

fn both<D: Device>(device: &D, shape: &Shape) {
    for pairs in [RopePairs::Adjacent, RopePairs::Half] {
        check(device, pairs, shape);
        if shape.head_dim.is_multiple_of(8) && shape.rope_dim.is_multiple_of(8) {
            check_f16(device, pairs, shape);
        }
    }
}

#[test]
fn several_positions() {
    on_every_device!(|device| both(
        device,
        &Shape { n_heads: 9, head_dim: 64, rope_dim: 64, n_ctx: 128, positions: vec![0, 1, 2, 77, 127] }
    ));
}

#[test]
fn partial_dimensions_leave_the_rest_alone() {
    on_every_device!(|device| both(
        device,
        &Shape { n_heads: 2, head_dim: 80, rope_dim: 32, n_ctx: 16, positions: vec![3, 15] }
    ));
}

#[test]
fn heads_that_do_not_fill_a_block() {
    on_every_device!(|device| both(
        device,
        &Shape { n_heads: 3, head_dim: 8, rope_dim: 8, n_ctx: 4, positions: vec![3] }
    ));
}

#[test]
fn more_pairs_than_one_block() {
    on_every_device!(|device| both(
        device,
        &Shape { n_heads: 5, head_dim: 96, rope_dim: 96, n_ctx: 4, positions: vec![1, 2] }
    ));
}

#[test]
fn head_dims_of_96_128_and_256() {
    for (n_heads, head_dim) in [(34, 96), (33, 128), (17, 256)] {
        let positions = vec![7, 2];
        on_every_device!(|device| both(
            device,
            &Shape { n_heads, head_dim, rope_dim: head_dim, n_ctx: 8, positions: positions.clone() }
        ));
    }
}

/// Widths that 16-byte accesses do not divide: one pair at a time.
#[test]
fn odd_numbers_of_pairs() {
    for (head_dim, rope_dim) in [(10, 10), (90, 54), (64, 12), (6, 2)] {
        on_every_device!(|device| both(
            device,
            &Shape { n_heads: 7, head_dim, rope_dim, n_ctx: 8, positions: vec![7, 2, 0] }
        ));
    }
}

#[test]
fn position_past_131072() {
    on_every_device!(|device| both(
        device,
        &Shape { n_heads: 1, head_dim: 8, rope_dim: 8, n_ctx: 131_080, positions: vec![131_071, 131_079] }
    ));
}

#[test]
fn position_past_65536() {
    on_every_device!(|device| both(
        device,
        &Shape { n_heads: 1, head_dim: 8, rope_dim: 8, n_ctx: 70_000, positions: vec![65_537, 69_999] }
    ));
}
