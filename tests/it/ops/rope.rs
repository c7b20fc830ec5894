//! Rotary position embedding against the reference.

use kernels_gpu::launch::{Device, Grid, Purpose};
use kernels_gpu::rope::{rope_adjacent_f32, rope_blocks, rope_half_f32};
use testkit::compare::{assert_within, gamma};
use testkit::data::Rng;
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
    let grid = Grid::xy(rope_blocks(n_heads, rope_dim) as u32, n_tokens as u32);
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

fn both<D: Device>(device: &D, shape: &Shape) {
    check(device, RopePairs::Adjacent, shape);
    check(device, RopePairs::Half, shape);
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
fn position_past_65536() {
    on_every_device!(|device| both(
        device,
        &Shape { n_heads: 1, head_dim: 8, rope_dim: 8, n_ctx: 70_000, positions: vec![65_537, 69_999] }
    ));
}
