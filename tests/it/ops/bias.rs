//! Bias against the reference.

use kernels_gpu::bias::{ROWS, bias_add_f32, bias_blocks};
use kernels_gpu::launch::{Device, Grid, Purpose};
use testkit::compare::{assert_within, gamma};
use testkit::data::Rng;
use testkit::reference::{self, widen};

fn check<D: Device>(device: &D, n_tokens: usize, dim: usize) {
    let mut rng = Rng::new(4);
    let (y, b) = (rng.normal(n_tokens * dim, 1.0), rng.normal(dim, 10.0));
    let mut device_y = device.upload(&y, Purpose::Activations).unwrap();
    let device_b = device.upload(&b, Purpose::Weights).unwrap();
    device
        .launch(
            bias_add_f32 { y: &mut device_y, b: &device_b, n_tokens: n_tokens as u32, dim: dim as u32 },
            Grid::xy(bias_blocks(dim) as u32, n_tokens.div_ceil(ROWS) as u32),
        )
        .unwrap();
    let mut expected = widen(&y);
    reference::bias_add(&mut expected, &widen(&b));
    let found = device.download(&device_y).unwrap();
    assert_within("bias", &found, &expected, &[n_tokens, dim], |i| gamma(1) * expected[i].abs());
}

#[test]
fn one_row() {
    on_every_device!(|device| check(device, 1, 896));
}

#[test]
fn odd_width() {
    on_every_device!(|device| check(device, 3, 171));
}

#[test]
fn odd_width_partial_last_group_of_rows() {
    on_every_device!(|device| check(device, 6, 171));
}

#[test]
fn whole_groups_of_rows_and_several_blocks() {
    on_every_device!(|device| check(device, 8, 1028));
}

#[test]
fn narrower_than_a_block() {
    on_every_device!(|device| check(device, 5, 4));
}
