//! Root-mean-square normalisation.

use crate::simt::prelude::*;

/// Threads of a block, which owns one row.
pub const THREADS: u32 = 256;

/// y = x / sqrt(mean(x²) + eps) · w, for each row.  Grid: one block per row of `dim` elements.
#[kernel(threads = THREADS, shared = block::REDUCE_BYTES)]
pub fn rmsnorm_f32(y: Out<f32>, x: In<f32>, w: In<f32>, dim: u32, eps: f32) {
    let partials = Shared::new().tile::<f32>(block::REDUCE_LEN);
    let dim = dim as usize;
    let row = thread::block_idx_x() as usize * dim;
    let first = thread::thread_idx_x() as usize;

    let mut sum = 0.0;
    let mut i = first;
    while i < dim {
        let value = x.get(row + i);
        sum = math::fma(value, value, sum);
        i += THREADS as usize;
    }
    let mean = math::div(block::sum_f32(sum, partials), dim as f32);
    let scale = math::rsqrt(mean + eps);

    let mut i = first;
    while i < dim {
        y.set(row + i, x.get(row + i) * scale * w.get(i));
        i += THREADS as usize;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::{Device, Grid, Purpose};
    use crate::simt::emulator::Emulator;

    /// Against f64. The sum of squares has `dim / 256` additions a thread, 5 a warp and 5 a block, each off by
    /// half an ulp of the (growing, positive) sum; its root halves that. Beside it: square, quotient, root, reciprocal
    /// and two products.
    fn check(n_rows: usize, dim: usize) {
        let value = |i: usize| ((i * 7919 % 1013) as f32 - 506.0) / 100.0;
        let x: Vec<f32> = (0..n_rows * dim).map(value).collect();
        let w: Vec<f32> = (0..dim).map(|i| value(i * 3 + 1)).collect();
        let eps = 1e-5f32;

        let device = Emulator::checked().with_seed(11);
        let x_device = device.upload(&x, Purpose::Activations).unwrap();
        let w_device = device.upload(&w, Purpose::Weights).unwrap();
        let mut y_device = device.alloc(x.len(), Purpose::Activations).unwrap();
        let kernel = rmsnorm_f32 { y: &mut y_device, x: &x_device, w: &w_device, dim: dim as u32, eps };
        device.launch(kernel, Grid::x(n_rows as u32)).unwrap();
        let y = device.download(&y_device).unwrap();

        let half_ulp = f64::from(f32::EPSILON) / 2.0;
        let n_roundings = (dim.div_ceil(THREADS as usize) + 10) as f64 / 2.0 + 6.0;
        for (row, (x, y)) in x.chunks(dim).zip(y.chunks(dim)).enumerate() {
            let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / dim as f64;
            let scale = 1.0 / (mean + f64::from(eps)).sqrt();
            for i in 0..dim {
                let expected = f64::from(x[i]) * scale * f64::from(w[i]);
                let error = (f64::from(y[i]) - expected).abs();
                let bound = n_roundings * half_ulp * expected.abs();
                assert!(error <= bound, "row {row}, column {i}: {} instead of {expected}", y[i]);
            }
        }
    }

    #[test]
    fn partial_iteration() {
        check(3, 100);
    }

    #[test]
    fn several_iterations() {
        check(2, 576);
    }

    #[test]
    fn whole_iterations() {
        check(1, 512);
    }
}
