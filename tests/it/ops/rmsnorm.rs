//! RMS norm, with and without residual addition, in f32 and f16, against the reference.

use kernels_gpu::launch::{Device, Grid, Purpose};
use kernels_gpu::rmsnorm::{
    CONVERTED_DIM, rmsnorm_add_f32, rmsnorm_add_f32_converted, rmsnorm_add_f32_f16, rmsnorm_chain,
    rmsnorm_f32, rmsnorm_f32_converted, rmsnorm_f32_f16,
};
use testkit::compare::{FAST_MATH_ROUNDINGS, assert_within, f16_bound, gamma};
use testkit::data::{Rng, widen_halves};
use testkit::reference::{self, widen};

use super::gemv::check_converted;

/// Roundings of an element of y. The root halves what is wrong below it: the squares and their sum (a chain of
/// positive terms), the quotient (2 ulp on a GPU), the addition of eps. On top come the reciprocal root and two
/// products.
fn roundings(dim: usize) -> usize {
    (1 + rmsnorm_chain(dim) + FAST_MATH_ROUNDINGS + 1).div_ceil(2) + FAST_MATH_ROUNDINGS + 2
}

/// Uneven rows: their scales differ by powers of ten, as hidden states of different tokens do.
fn rows(rng: &mut Rng, n_rows: usize, dim: usize) -> Vec<f32> {
    (0..n_rows).flat_map(|row| rng.normal(dim, 10f64.powi(row as i32 - 2))).collect()
}

fn check<D: Device>(device: &D, n_rows: usize, dim: usize, eps: f32) {
    let mut rng = Rng::new(2);
    let (x, w) = (rows(&mut rng, n_rows, dim), rng.normal(dim, 2.0));
    let device_x = device.upload(&x, Purpose::Activations).unwrap();
    let device_w = device.upload(&w, Purpose::Weights).unwrap();
    let mut device_y = device.alloc(x.len(), Purpose::Activations).unwrap();
    let kernel = rmsnorm_f32 { y: &mut device_y, x: &device_x, w: &device_w, dim: dim as u32, eps };
    device.launch(kernel, Grid::x(n_rows as u32)).unwrap();
    let mut expected = vec![0.0; x.len()];
    reference::rmsnorm(&mut expected, &widen(&x), &widen(&w), f64::from(eps));
    let found = device.download(&device_y).unwrap();
    let bound = |i: usize| gamma(roundings(dim)) * expected[i].abs();
    assert_within("rmsnorm", &found, &expected, &[n_rows, dim], bound);
    if has_converted(n_rows, dim) {
        check_converted(device, "rmsnorm", &found, dim.next_multiple_of(64), |y, words, numbers, order| {
            let (x, w, dim) = (&device_x, &device_w, dim as u32);
            let kernel = rmsnorm_f32_converted { y, words, numbers, x, w, dim, eps, order };
            device.launch(kernel, Grid::x(1)).unwrap();
        });
    }
    check_add(device, &x, &w, n_rows, eps);
    check_f16(device, &x, &w, n_rows, eps);
}

/// Whether the kernels that also convert take such rows.
fn has_converted(n_rows: usize, dim: usize) -> bool {
    n_rows == 1 && dim.is_multiple_of(4) && dim <= CONVERTED_DIM
}

/// The kernels that write f16 compute the same values and round them once more.
fn check_f16<D: Device>(device: &D, x: &[f32], w: &[f32], n_rows: usize, eps: f32) {
    let dim = w.len();
    let device_w = device.upload(w, Purpose::Weights).unwrap();
    let mut device_y = device.alloc(x.len(), Purpose::Activations).unwrap();
    let verify = |what: &str, found: Vec<_>, x: &[f32]| {
        let mut expected = vec![0.0; x.len()];
        reference::rmsnorm(&mut expected, &widen(x), &widen(w), f64::from(eps));
        let bound = |i: usize| f16_bound(gamma(roundings(dim)) * expected[i].abs(), expected[i]);
        assert_within(what, &widen_halves(&found), &expected, &[n_rows, dim], bound);
    };

    let device_x = device.upload(x, Purpose::Activations).unwrap();
    let kernel = rmsnorm_f32_f16 { y: &mut device_y, x: &device_x, w: &device_w, dim: dim as u32, eps };
    device.launch(kernel, Grid::x(n_rows as u32)).unwrap();
    verify("rmsnorm_f32_f16", device.download(&device_y).unwrap(), x);

    let branch = rows(&mut Rng::new(3), n_rows, dim);
    let device_branch = device.upload(&branch, Purpose::Activations).unwrap();
    let mut device_x = device.upload(x, Purpose::Activations).unwrap();
    let kernel = rmsnorm_add_f32_f16 {
        y: &mut device_y,
        x: &mut device_x,
        branch: &device_branch,
        w: &device_w,
        dim: dim as u32,
        eps,
    };
    device.launch(kernel, Grid::x(n_rows as u32)).unwrap();
    let sum: Vec<f32> = x.iter().zip(&branch).map(|(x, branch)| x + branch).collect();
    assert_eq!(device.download(&device_x).unwrap(), sum);
    verify("rmsnorm_add_f32_f16", device.download(&device_y).unwrap(), &sum);
}

/// The sum is exact up to one rounding, so y is compared with the norm of the rounded sum.
fn check_add<D: Device>(device: &D, x: &[f32], w: &[f32], n_rows: usize, eps: f32) {
    let dim = w.len();
    let branch = rows(&mut Rng::new(3), n_rows, dim);
    let mut device_x = device.upload(x, Purpose::Activations).unwrap();
    let device_branch = device.upload(&branch, Purpose::Activations).unwrap();
    let device_w = device.upload(w, Purpose::Weights).unwrap();
    let mut device_y = device.alloc(x.len(), Purpose::Activations).unwrap();
    let kernel = rmsnorm_add_f32 {
        y: &mut device_y,
        x: &mut device_x,
        branch: &device_branch,
        w: &device_w,
        dim: dim as u32,
        eps,
    };
    device.launch(kernel, Grid::x(n_rows as u32)).unwrap();

    let mut expected_x = widen(x);
    reference::add(&mut expected_x, &widen(&branch));
    let found_x = device.download(&device_x).unwrap();
    assert_within("rmsnorm_add, x", &found_x, &expected_x, &[n_rows, dim], |i| {
        gamma(1) * expected_x[i].abs()
    });

    let mut expected = vec![0.0; x.len()];
    reference::rmsnorm(&mut expected, &widen(&found_x), &widen(w), f64::from(eps));
    let found = device.download(&device_y).unwrap();
    let bound = |i: usize| gamma(roundings(dim)) * expected[i].abs();
    assert_within("rmsnorm_add, y", &found, &expected, &[n_rows, dim], bound);

    if has_converted(n_rows, dim) {
        check_converted(
            device,
            "rmsnorm_add",
            &found,
            dim.next_multiple_of(64),
            |y, words, numbers, order| {
                let mut device_x = device.upload(x, Purpose::Activations).unwrap();
                let (x, branch, w, dim) = (&mut device_x, &device_branch, &device_w, dim as u32);
                let kernel = rmsnorm_add_f32_converted { y, words, numbers, x, branch, w, dim, eps, order };
                device.launch(kernel, Grid::x(1)).unwrap();
                assert_eq!(device.download(&device_x).unwrap(), found_x);
            },
        );
    }
}

#[test]
fn one_row() {
    on_every_device!(|device| check(device, 1, 896, 1e-6));
}

#[test]
fn one_row_that_stretches_do_not_divide() {
    on_every_device!(|device| check(device, 1, 4 * 1024 + 172, 1e-6));
}

#[test]
fn narrower_than_a_block() {
    on_every_device!(|device| check(device, 1, 64, 1e-5));
    on_every_device!(|device| check(device, 3, 64, 1e-5));
}

#[test]
fn odd_width() {
    on_every_device!(|device| check(device, 2, 1037, 1e-5));
}

#[test]
fn width_of_8192() {
    on_every_device!(|device| check(device, 1, 8192, 1e-5));
}

#[test]
fn wider_than_a_block_keeps() {
    on_every_device!(|device| check(device, 1, 8192 + 516, 1e-5));
}

/// With values near the root of eps a wrong or missing eps shows.
#[test]
fn eps_counts_for_small_rows() {
    on_every_device!(|device| check(device, 1, 256, 1e-2));
}
