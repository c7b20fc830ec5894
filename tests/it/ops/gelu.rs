//! GELU in both forms, plain and gated, in f32 and f16, against the reference.

use kernels_gpu::gelu::*;
use kernels_gpu::launch::{Device, DeviceSlice, Grid, Purpose};
use kernels_gpu::simt::{Float, f16};
use testkit::compare::{F32_ROUNDING, F32_SMALLEST_NORMAL, assert_within, f16_bound};
use testkit::data::{Rng, widen_halves};
use testkit::reference::{self, Gelu, widen};

const ULP: f64 = 2.0 * F32_ROUNDING;

/// Relative error of a gelu. The erf form: Φ's 12 + x² ulp and the product. The tanh form is x · σ(z): σ's own
/// 6 + 1.25·|z| ulp, what the four roundings in z (two products, a multiply-add, two constants) do to it, at most
/// |z| times 2.5 ulp, and the product.
fn roundings(x: f64, form: Gelu) -> f64 {
    match form {
        Gelu::Erf => 12.0 + x * x + 0.5,
        Gelu::Tanh => {
            let z = 1.6 * (x + 0.0448 * x * x * x).abs();
            6.0 + (1.25 + 2.5) * z + 0.5
        }
    }
}

/// `up` of ones stands for the plain form. What is below the normal numbers may become zero, times the factors.
fn check_values(what: &str, found: &[f32], x: &[f32], up: &[f32], form: Gelu, halves: bool) {
    let mut expected = vec![0.0; x.len()];
    reference::geglu(&mut expected, &widen(x), &widen(up), form);
    assert_within(what, found, &expected, &[x.len()], |i| {
        let (x, up) = (f64::from(x[i]), f64::from(up[i]).abs());
        let bound = (roundings(x, form) + 0.5) * ULP * expected[i].abs()
            + F32_SMALLEST_NORMAL * (x.abs() + 1.0) * (up + 1.0);
        if halves { f16_bound(bound, expected[i]) } else { bound }
    });
}

fn check<D: Device>(device: &D, x: &[f32], up: &[f32]) {
    let n = x.len();
    let x_on_device = device.upload(x, Purpose::Activations).unwrap();
    let up_on_device = device.upload(up, Purpose::Activations).unwrap();
    let ones = vec![1.0; n];
    fn result<D: Device, T: Float>(
        device: &D,
        n: usize,
        launch: impl Fn(&mut DeviceSlice<T>) -> Result<(), D::Error>,
    ) -> Vec<T> {
        let mut y = device.alloc::<T>(n, Purpose::Activations).unwrap();
        launch(&mut y).unwrap();
        device.download(&y).unwrap()
    }
    macro_rules! both {
        ($form:expr, $plain:ident, $gated:ident, $ty:ty, $halves:literal, $widen:expr) => {
            let plain = result::<D, $ty>(device, n, |y| {
                device.launch($plain { y, x: &x_on_device, n: n as u32 }, Grid::x(gelu_blocks(n) as u32))
            });
            check_values(stringify!($plain), &$widen(plain), x, &ones, $form, $halves);
            let gated = result::<D, $ty>(device, n, |y| {
                let kernel = $gated { y, gate: &x_on_device, up: &up_on_device, n: n as u32 };
                device.launch(kernel, Grid::x(geglu_blocks(n) as u32))
            });
            check_values(stringify!($gated), &$widen(gated), x, up, $form, $halves);
        };
    }
    let same = |values: Vec<f32>| values;
    let wide = |values: Vec<f16>| widen_halves(&values);
    both!(Gelu::Erf, gelu_f32, geglu_f32, f32, false, same);
    both!(Gelu::Tanh, gelu_tanh_f32, geglu_tanh_f32, f32, false, same);
    both!(Gelu::Erf, gelu_f32_f16, geglu_f32_f16, f16, true, wide);
    both!(Gelu::Tanh, gelu_tanh_f32_f16, geglu_tanh_f32_f16, f16, true, wide);
}

#[test]
fn several_blocks_and_a_partial_one() {
    let mut rng = Rng::new(5);
    let n = 2 * 4096 + 2048 + 131;
    let (x, up) = (rng.normal(n, 3.0), rng.normal(n, 1.0));
    on_every_device!(|device| check(device, &x, &up));
}

#[test]
fn fewer_than_four() {
    on_every_device!(|device| check(device, &[1.0, -1.0, 0.0], &[2.0, 3.0, 4.0]));
}

/// Both tails, down to where the result is no normal number any more, in steps of a hundredth.
#[test]
fn tails() {
    let x: Vec<f32> = (-1500..=1500).map(|i| i as f32 / 100.0).collect();
    let up = vec![-0.5; x.len()];
    on_every_device!(|device| check(device, &x, &up));
}

#[test]
fn large_values_neither_overflow_nor_turn_into_nan() {
    let x = [-60_000.0, -200.0, -20.0, 20.0, 200.0, 60_000.0];
    on_every_device!(|device| check(device, &x, &[1.0; 6]));
}
