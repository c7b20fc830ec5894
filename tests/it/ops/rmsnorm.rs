//! RMS norm, with and without residual addition, against the reference.

use kernels_gpu::launch::{Device, Grid, Purpose};
use kernels_gpu::rmsnorm::{rmsnorm_add_f32, rmsnorm_chain, rmsnorm_f32};
use testkit::compare::{FAST_MATH_ROUNDINGS, assert_within, gamma};
use testkit::data::Rng;
use testkit::reference::{self, widen};

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
    check_add(device, &x, &w, n_rows, eps);
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
}

#[test]
fn one_row() {
    on_every_device!(|device| check(device, 1, 896, 1e-6));
}

#[test]
fn narrower_than_a_block() {
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

/// With values near the root of eps a wrong or missing eps shows.
#[test]
fn eps_counts_for_small_rows() {
    on_every_device!(|device| check(device, 1, 256, 1e-2));
}
