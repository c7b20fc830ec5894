//! Copies: every bit, and nothing beyond them.

use kernels_gpu::copy::{copy_blocks, copy_f32};
use kernels_gpu::launch::{Device, Grid, Purpose};
use testkit::data::Rng;

fn check<D: Device>(device: &D, n: usize) {
    let values = Rng::new(n as u64).normal(n, 1.0);
    let x = device.upload(&values, Purpose::Activations).unwrap();
    let mut y = device.upload(&vec![7.0; n + 1], Purpose::Activations).unwrap();
    device.launch(copy_f32 { y: &mut y, x: &x, n: n as u32 }, Grid::x(copy_blocks(n) as u32)).unwrap();
    assert_eq!(device.download(&y).unwrap(), [&values[..], &[7.0]].concat());
}

#[test]
fn one_element() {
    on_every_device!(|device| check(device, 1));
}

#[test]
fn whole_blocks_and_a_partial_one() {
    on_every_device!(|device| check(device, 512));
    on_every_device!(|device| check(device, 513));
}
