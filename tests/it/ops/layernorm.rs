//! Layer norm, with and without residual addition, in f32 and f16, against the reference.

use kernels_gpu::launch::{Device, Grid, Purpose};
use kernels_gpu::layernorm::*;
use testkit::compare::{F32_ROUNDING, FAST_MATH_ROUNDINGS, assert_within, f16_bound, gamma};
use testkit::data::{Rng, widen_halves};
use testkit::reference::{self, widen};

/// Largest errors of the elements of y for rows x.
///
/// The mean is off by e = γ(chain + 5) · mean|x| (the sum, and a quotient of 2 ulp). A distance from it is off by e and
/// its own rounding, so the variance, relatively, by γ(chain + 8) and, since distances from the true mean sum to zero,
/// by e² / (v + eps) more, of which the root keeps half. On top come the reciprocal root, two products and the sum with
/// b, whose rounding counts for the sum's terms.
fn bounds(x: &[f64], w: &[f64], b: &[f64], eps: f64) -> Vec<f64> {
    let dim = w.len();
    let chain = layernorm_chain(dim);
    let row = |x: &[f64]| {
        let mean = x.iter().sum::<f64>() / dim as f64;
        let e = gamma(chain + 5) * x.iter().map(|x| x.abs()).sum::<f64>() / dim as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / dim as f64 + eps;
        let scale = 1.0 / variance.sqrt();
        let relative =
            0.5 * (gamma(chain + 8) + e * e / variance) + gamma(FAST_MATH_ROUNDINGS + 4) + gamma(2);
        let element = |i: usize| {
            let distance = (x[i] - mean).abs();
            let product = w[i].abs() * scale;
            product * e * (1.0 + relative)
                + product * distance * relative
                + F32_ROUNDING * (product * distance + b[i].abs())
        };
        (0..dim).map(element).collect::<Vec<f64>>()
    };
    x.chunks_exact(dim).flat_map(row).collect()
}

struct Rows {
    x: Vec<f32>,
    branch: Vec<f32>,
    w: Vec<f32>,
    b: Vec<f32>,
    eps: f32,
}

impl Rows {
    /// Rows with different deviations around means of `mean` times the deviation.
    fn new(n_rows: usize, dim: usize, mean: f64, eps: f32) -> Self {
        let mut rng = Rng::new(9);
        let mut rows = |mean: f64| -> Vec<f32> {
            let row = |row: usize| {
                let deviation = 10f64.powi(row as i32 - 1);
                let shift = (mean * deviation) as f32;
                rng.normal(dim, deviation).into_iter().map(move |x| x + shift).collect::<Vec<f32>>()
            };
            (0..n_rows).flat_map(row).collect()
        };
        let (x, branch) = (rows(mean), rows(0.0));
        let (w, b) = (rng.normal(dim, 2.0), rng.normal(dim, 0.5));
        Self { x, branch, w, b, eps }
    }
}

fn check<D: Device>(device: &D, rows: &Rows) {
    let (dim, n_rows) = (rows.w.len(), rows.x.len() / rows.w.len());
    let shape = [n_rows, dim];
    let w = device.upload(&rows.w, Purpose::Weights).unwrap();
    let b = device.upload(&rows.b, Purpose::Weights).unwrap();
    let branch = device.upload(&rows.branch, Purpose::Activations).unwrap();
    let x = device.upload(&rows.x, Purpose::Activations).unwrap();
    let (w64, b64, eps) = (widen(&rows.w), widen(&rows.b), f64::from(rows.eps));
    let verify = |what: &str, found: &[f32], x: &[f32], halves: bool| {
        let x = widen(x);
        let mut expected = vec![0.0; x.len()];
        reference::layernorm(&mut expected, &x, &w64, &b64, eps);
        let bounds = bounds(&x, &w64, &b64, eps);
        let bound = |i: usize| if halves { f16_bound(bounds[i], expected[i]) } else { bounds[i] };
        assert_within(what, found, &expected, &shape, bound);
    };
    macro_rules! plain {
        ($kernel:ident, $halves:literal, $widen:expr) => {
            let mut y = device.alloc(rows.x.len(), Purpose::Activations).unwrap();
            let kernel = $kernel { y: &mut y, x: &x, w: &w, b: &b, dim: dim as u32, eps: rows.eps };
            device.launch(kernel, Grid::x(n_rows as u32)).unwrap();
            verify(stringify!($kernel), &$widen(device.download(&y).unwrap()), &rows.x, $halves);
        };
    }
    macro_rules! add {
        ($kernel:ident, $halves:literal, $widen:expr) => {
            let mut y = device.alloc(rows.x.len(), Purpose::Activations).unwrap();
            let mut x = device.upload(&rows.x, Purpose::Activations).unwrap();
            let kernel = $kernel {
                y: &mut y,
                x: &mut x,
                branch: &branch,
                w: &w,
                b: &b,
                dim: dim as u32,
                eps: rows.eps,
            };
            device.launch(kernel, Grid::x(n_rows as u32)).unwrap();
            // The sum is exact up to one rounding, so y is compared with the norm of the rounded sum.
            let sum = device.download(&x).unwrap();
            let mut exact = widen(&rows.x);
            reference::add(&mut exact, &widen(&rows.branch));
            assert_within("sum", &sum, &exact, &shape, |i| gamma(1) * exact[i].abs());
            verify(stringify!($kernel), &$widen(device.download(&y).unwrap()), &sum, $halves);
        };
    }
    let same = |values: Vec<f32>| values;
    let wide = |values: Vec<_>| widen_halves(&values);
    plain!(layernorm_f32, false, same);
    plain!(layernorm_f32_f16, true, wide);
    add!(layernorm_add_f32, false, same);
    add!(layernorm_add_f32_f16, true, wide);
}

#[test]
fn one_row() {
    on_every_device!(|device| check(device, &Rows::new(1, 896, 0.3, 1e-6)));
}

#[test]
fn narrower_than_a_block() {
    on_every_device!(|device| check(device, &Rows::new(3, 64, 0.0, 1e-5)));
}

#[test]
fn odd_width() {
    on_every_device!(|device| check(device, &Rows::new(2, 1037, 0.5, 1e-5)));
}

#[test]
fn width_of_8192() {
    on_every_device!(|device| check(device, &Rows::new(1, 8192, 0.0, 1e-5)));
}

#[test]
fn wider_than_a_block_keeps() {
    on_every_device!(|device| check(device, &Rows::new(1, 8192 + 1028, 0.1, 1e-5)));
}

/// mean(x²) − m² would have no correct digit here: m² is 2²⁶ times the variance.
#[test]
fn mean_of_8192_deviations() {
    on_every_device!(|device| {
        for dim in [512, 1037, 8192 + 4] {
            check(device, &Rows::new(2, dim, 8192.0, 1e-12));
        }
    });
}

/// With deviations near the root of eps a wrong or missing eps shows.
#[test]
fn eps_counts_for_small_rows() {
    on_every_device!(|device| check(device, &Rows::new(1, 256, 0.0, 1e-2)));
}
