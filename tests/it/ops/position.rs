//! Learned positions against the reference.

use kernels_gpu::launch::{Device, Grid, Purpose};
use kernels_gpu::position::{position_add_blocks, position_add_f32};
use testkit::compare::{assert_within, gamma};
use testkit::data::Rng;
use testkit::reference::{self, widen};

fn run<D: Device>(device: &D, x: &[f32], table: &[f32], positions: &[u32], dim: usize) -> Vec<f32> {
    let mut device_x = device.upload(x, Purpose::Activations).unwrap();
    let device_table = device.upload(table, Purpose::Weights).unwrap();
    let device_positions = device.upload(positions, Purpose::Other).unwrap();
    let kernel = position_add_f32 {
        x: &mut device_x,
        table: &device_table,
        positions: &device_positions,
        dim: dim as u32,
        n_positions: (table.len() / dim) as u32,
    };
    device.launch(kernel, Grid::xy(position_add_blocks(dim) as u32, positions.len() as u32)).unwrap();
    device.download(&device_x).unwrap()
}

fn check<D: Device>(device: &D, positions: &[u32], dim: usize, n_positions: usize) {
    let mut rng = Rng::new(8);
    let (x, table) = (rng.normal(positions.len() * dim, 1.0), rng.normal(n_positions * dim, 3.0));
    let found = run(device, &x, &table, positions, dim);
    let mut expected = widen(&x);
    reference::position_add(&mut expected, &widen(&table), positions, dim);
    assert_within("position_add", &found, &expected, &[positions.len(), dim], |i| {
        gamma(1) * expected[i].abs()
    });
}

#[test]
fn first_and_last_row_and_one_twice() {
    on_every_device!(|device| check(device, &[0, 10, 3, 10], 768, 11));
}

#[test]
fn several_blocks_and_a_partial_one() {
    on_every_device!(|device| check(device, &[1, 2], 2 * 1024 + 516, 3));
}

#[test]
fn odd_width() {
    on_every_device!(|device| check(device, &[4, 0, 3], 1171, 5));
}

#[test]
fn position_past_131072() {
    on_every_device!(|device| check(device, &[65_537, 131_080], 8, 131_081));
}

#[test]
fn unknown_position_gives_nan_in_its_row_alone() {
    on_every_device!(|device| {
        for dim in [8, 7] {
            let found = run(device, &vec![1.0; 2 * dim], &vec![2.0; 3 * dim], &[3, 2], dim);
            assert!(found[..dim].iter().all(|x| x.is_nan()), "{found:?}");
            assert_eq!(found[dim..], vec![3.0; dim]);
        }
    });
}
