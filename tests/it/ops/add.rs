//! Residual addition against the reference.

use kernels_gpu::add::{add_blocks, add_f32};
use kernels_gpu::launch::{Device, Grid, Purpose};
use testkit::compare::{assert_within, gamma};
use testkit::data::Rng;
use testkit::reference::{self, widen};

fn check<D: Device>(device: &D, n: usize) {
    let mut rng = Rng::new(1);
    let (x, branch) = (rng.normal(n, 1.0), rng.normal(n, 3.0));
    let mut device_x = device.upload(&x, Purpose::Activations).unwrap();
    let device_branch = device.upload(&branch, Purpose::Activations).unwrap();
    let kernel = add_f32 { x: &mut device_x, branch: &device_branch, n: n as u32 };
    device.launch(kernel, Grid::x(add_blocks(n) as u32)).unwrap();
    let mut expected = widen(&x);
    reference::add(&mut expected, &widen(&branch));
    let found = device.download(&device_x).unwrap();
    assert_within("add", &found, &expected, &[n], |i| gamma(1) * expected[i].abs());
}

#[test]
fn one_element() {
    on_every_device!(|device| check(device, 1));
}

#[test]
fn whole_block() {
    on_every_device!(|device| check(device, 2048));
}

#[test]
fn partial_last_block_and_vector() {
    on_every_device!(|device| check(device, 2048 + 1024 + 131));
}
