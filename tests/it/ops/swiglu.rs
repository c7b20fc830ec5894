//! SwiGLU, plain and clamped, in f32 and f16, against the reference.

use kernels_gpu::gemv::gemv_x_blocks;
use kernels_gpu::launch::{Device, Grid, Purpose};
use kernels_gpu::swiglu::{
    swiglu_blocks, swiglu_clamped_f32, swiglu_clamped_f32_f16, swiglu_f32, swiglu_f32_converted,
    swiglu_f32_f16,
};
use testkit::compare::{F32_ROUNDING, F32_SMALLEST_NORMAL, assert_within, f16_bound};
use testkit::data::{Rng, widen_halves};
use testkit::reference::{self, widen};

use super::gemv::check_converted;

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
    let bound = |i: usize| {
        let (gate, up) = (f64::from(gate[i].abs()), f64::from(up[i].abs()));
        (2.0 + 1.2 * gate + 0.5 + 2.0 + 0.5) * ulp * expected[i].abs()
            + F32_SMALLEST_NORMAL * (gate + 1.0) * (up + 1.0)
    };
    assert_within("swiglu", &found, &expected, &[n], bound);
    if n.is_multiple_of(4) {
        check_converted(device, "swiglu", &found, n.next_multiple_of(64), |y, words, numbers, order| {
            let (gate, up) = (&device_gate, &device_up);
            let kernel = swiglu_f32_converted { y, words, numbers, gate, up, n: n as u32, order };
            device.launch(kernel, Grid::x(gemv_x_blocks(1, n) as u32)).unwrap();
        });
    }

    let mut y = device.alloc(n, Purpose::Activations).unwrap();
    let kernel = swiglu_f32_f16 { y: &mut y, gate: &device_gate, up: &device_up, n: n as u32 };
    device.launch(kernel, Grid::x(swiglu_blocks(n) as u32)).unwrap();
    let found = widen_halves(&device.download(&y).unwrap());
    // f16 ends at 65504, and what is nearer to 65536 than to it becomes infinity.
    let in_range = |e: &f64| if e.abs() < 65_520.0 { *e } else { e.signum() * f64::INFINITY };
    let halves: Vec<f64> = expected.iter().map(in_range).collect();
    assert_within("swiglu_f32_f16", &found, &halves, &[n], |i| f16_bound(bound(i), expected[i]));
    check_clamped(device, gate, up);
}

const ALPHA: f32 = 1.702;
const LIMIT: f32 = 7.0;

fn check_clamped<D: Device>(device: &D, gate: &[f32], up: &[f32]) {
    let n = gate.len();
    let device_gate = device.upload(gate, Purpose::Activations).unwrap();
    let device_up = device.upload(up, Purpose::Activations).unwrap();
    let mut expected = vec![0.0; n];
    let (alpha, limit) = (f64::from(ALPHA), f64::from(LIMIT));
    reference::swiglu_clamped(&mut expected, &widen(gate), &widen(up), alpha, limit);
    // As above, with alpha · g for g, whose own rounding is worth half an ulp of it, and with u + 1 for u, rounded once.
    let ulp = 2.0 * F32_ROUNDING;
    let bound = |i: usize| {
        let gate = f64::from(gate[i]).min(limit).abs();
        (2.0 + (1.2 + 0.5) * alpha * gate + 0.5 + 2.0 + 0.5 + 0.5) * ulp * expected[i].abs()
            + F32_SMALLEST_NORMAL * (gate + 1.0) * (limit + 2.0)
    };
    let grid = Grid::x(swiglu_blocks(n) as u32);
    let mut y = device.alloc(n, Purpose::Activations).unwrap();
    let (gate, up, n_arg) = (&device_gate, &device_up, n as u32);
    let kernel = swiglu_clamped_f32 { y: &mut y, gate, up, n: n_arg, alpha: ALPHA, limit: LIMIT };
    device.launch(kernel, grid).unwrap();
    assert_within("swiglu_clamped_f32", &device.download(&y).unwrap(), &expected, &[n], bound);

    let mut y = device.alloc(n, Purpose::Activations).unwrap();
    let kernel = swiglu_clamped_f32_f16 { y: &mut y, gate, up, n: n_arg, alpha: ALPHA, limit: LIMIT };
    device.launch(kernel, grid).unwrap();
    let found = widen_halves(&device.download(&y).unwrap());
    assert_within("swiglu_clamped_f32_f16", &found, &expected, &[n], |i| f16_bound(bound(i), expected[i]));
}

#[test]
fn several_blocks_and_a_partial_one() {
    let mut rng = Rng::new(5);
    let (gate, up) = (rng.normal(2500, 3.0), rng.normal(2500, 5.0));
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

#[test]
fn clamps_hide_no_nan() {
    on_every_device!(|device| {
        let gate = device.upload(&[f32::NAN, 1.0, 1.0, 9.0], Purpose::Activations).unwrap();
        let up = device.upload(&[1.0, f32::NAN, 1.0, -9.0], Purpose::Activations).unwrap();
        let mut y = device.alloc(4, Purpose::Activations).unwrap();
        let kernel = swiglu_clamped_f32 { y: &mut y, gate: &gate, up: &up, n: 4, alpha: ALPHA, limit: LIMIT };
        device.launch(kernel, Grid::x(1)).unwrap();
        let y = device.download(&y).unwrap();
        assert_eq!([y[0].is_nan(), y[1].is_nan(), y[2].is_nan(), y[3].is_nan()], [true, true, false, false]);
    });
}
