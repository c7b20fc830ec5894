//! SwiGLU against the reference.

use kernels_gpu::launch::{Device, Grid, Purpose};
use kernels_gpu::swiglu::{swiglu_blocks, swiglu_f32};
use testkit::compare::{F32_ROUNDING, F32_SMALLEST_NORMAL, assert_within};
use testkit::data::Rng;
use testkit::reference::{self, widen};

fn check<D: Device>(device: &D, gate: &[f32], up: &[f32]) {
    let n = gate.len();
    let mut y = device.alloc::<f32>(n, Purpose::Activations).unwrap();
    let device_gate = device.upload(gate, Purpose::Activations).unwrap();
    let device_up = device.upload(up, Purpose::Activations).unwrap();
    device
        .launch(
            swiglu_f32 { y: &mut y, gate: &device_gate, up: &device_up, n: n as u32 },
            Grid::x(swiglu_blocks(n) as u32),
        )
        .unwrap();
    let found = device.download(&y).unwrap();
    let mut expected = vec![0.0; n];
    reference::swiglu(&mut expected, &widen(gate), &widen(up));
    // e^−g has 2 + 1.2·|g| ulp, of which 1 + e^−g keeps at most all; then one rounding, a division of 2 ulp and a
    // product. What is smaller than a normal number may become zero, times `up`.
    let ulp = 2.0 * F32_ROUNDING;
    assert_within("swiglu", &found, &expected, &[n], |i| {
        let (gate, up) = (f64::from(gate[i].abs()), f64::from(up[i].abs()));
        (2.0 + 1.2 * gate + 0.5 + 2.0 + 0.5) * ulp * expected[i].abs()
            + F32_SMALLEST_NORMAL * (gate + 1.0) * (up + 1.0)
    });
}

#[test]
fn several_blocks_and_a_partial_one() {
    let mut rng = Rng::new(5);
    let (gate, up) = (rng.normal(2500, 3.0), rng.normal(2500, 1.0));
    on_every_device!(|device| check(device, &gate, &up));
}

#[test]
fn fewer_than_four() {
    on_every_device!(|device| check(device, &[1.0, -1.0, 0.0], &[2.0, 3.0, 4.0]));
}

#[test]
fn large_gates_neither_overflow_nor_turn_into_nan() {
    let gate = [-200.0, -89.0, -87.0, 87.0, 89.0, 200.0, 1.0e30, -1.0e30];
    on_every_device!(|device| check(device, &gate, &[1.0; 8]));
}
