//! Rounding of activations to f16 against the reference.

use kernels_gpu::launch::{Device, Grid, Purpose};
use kernels_gpu::narrow::{PERMUTED, narrow_f16, place};
use kernels_gpu::simt::emulator::Emulator;
use kernels_gpu::simt::f16;
use testkit::compare::{F16_ROUNDING, F16_SUBNORMAL_ROUNDING, assert_within};
use testkit::data::Rng;
use testkit::reference::{self, widen};

/// Launches the kernel; gives its rows in the order of x, and their scales.
fn narrow<D: Device>(device: &D, x: &[f32], dim: usize) -> (Vec<f32>, Vec<f32>) {
    let n_rows = x.len() / dim;
    let device_x = device.upload(x, Purpose::Activations).unwrap();
    let mut y = device.alloc::<f16>(x.len(), Purpose::Activations).unwrap();
    let mut scales = device.alloc::<f32>(n_rows, Purpose::Activations).unwrap();
    let kernel = narrow_f16 { y: &mut y, scales: &mut scales, x: &device_x, dim: dim as u32 };
    device.launch(kernel, Grid::x(n_rows as u32)).unwrap();
    let y = device.download(&y).unwrap();
    let in_order = (0..x.len()).map(|i| y[i / dim * dim + place(i % dim)].to_f32()).collect();
    (in_order, device.download(&scales).unwrap())
}

fn check<D: Device>(device: &D, x: &[f32], dim: usize) {
    let n_rows = x.len() / dim;
    let (found, found_scales) = narrow(device, x, dim);
    let (mut expected, mut scales) = (vec![0.0; x.len()], vec![0.0; n_rows]);
    reference::narrow(&mut expected, &mut scales, &widen(x), dim);
    assert_within("scales", &found_scales, &scales, &[n_rows], |_| 0.0);
    // The product with a power of two is exact.
    let bound = |i: usize| expected[i].abs() * F16_ROUNDING + F16_SUBNORMAL_ROUNDING;
    assert_within("narrow", &found, &expected, &[n_rows, dim], bound);
}

/// Rows whose sizes differ by powers of ten; one of zeros, and one that would become infinite in f16.
fn rows(dim: usize) -> Vec<f32> {
    let mut rng = Rng::new(5);
    [0.0, 1e-6, 1.0, 3e7].into_iter().flat_map(|size| rng.normal(dim, size)).collect()
}

/// Fewer elements than a warp's, a last warp that is partly idle, several rounds and a partial one, all that a block keeps, and
/// more.
#[test]
fn widths() {
    for dim in [32, 160, 2 * 1024 + 96, 8192, 8192 + 1024 + 32] {
        on_every_device!(|device| check(device, &rows(dim), dim));
    }
}

/// The largest finite number, subnormal ones, and a row whose largest element is a power of two.
#[test]
fn extreme_rows() {
    let mut x = vec![0.0; 3 * 32];
    (x[3], x[4]) = (f32::MAX, -1.0);
    (x[32], x[33]) = (f32::MIN_POSITIVE, -2.0e-30);
    (x[64 + 31], x[64]) = (-16384.0, 32.0);
    on_every_device!(|device| check(device, &x, 32));
}

/// Infinities and NaN stay what they are.
#[test]
fn infinities_and_nan() {
    on_every_device!(|device| {
        let mut x = vec![1.0f32; 64];
        (x[5], x[32 + 7]) = (f32::NEG_INFINITY, f32::NAN);
        let (y, _) = narrow(device, &x, 32);
        assert_eq!(y[5], f32::NEG_INFINITY);
        assert!(y[32 + 7].is_nan());
        assert!(y.iter().enumerate().all(|(i, y)| i == 5 || i == 32 + 7 || y.is_finite()), "{y:?}");
    });
}

/// The four neighbours of a lane, in a fragment's order.
#[test]
fn places() {
    assert_eq!(
        [0, 1, 2, 3, 4, 7, 15, 16].map(place),
        [0, 1, 8, 9, 2, 11, 15, PERMUTED],
        "a permutation of 16 elements"
    );
    let mut all: Vec<usize> = (0..64).map(place).collect();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..64));
}

/// Whole sectors only, and no bank conflict.
#[test]
fn accesses_are_coalesced() {
    let device = Emulator::checked().counting();
    narrow(&device, &rows(4096)[..2 * 4096], 4096);
    let report = device.report().expect("a counting emulator reports");
    assert_eq!((report.bank_conflicts(), report.excess_sectors()), (0, 0), "{report:#?}");
}
