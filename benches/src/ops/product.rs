//! What all products of matrices share: how a sample of their results is checked.

use kernels_gpu::launch::DeviceSlice;
use oxwarp::cuda::Cuda;
use testkit::reference;

use crate::case::Check;
use crate::data::{Number, read, sample};
use crate::error::Result;

/// Tokens and rows of which the results are compared.
const TOKENS: usize = 8;
const ROWS: usize = 128;

/// Compares y [n_tokens, n_rows] = x [n_tokens, n_cols] · w [n_rows, n_cols]ᵀ with the reference, in a sample.
pub fn check<T: Number, R: Number>(
    device: &Cuda,
    y: &DeviceSlice<R>,
    w: &DeviceSlice<T>,
    x: &DeviceSlice<T>,
    [n_tokens, n_rows, n_cols]: [usize; 3],
    allowed: f64,
) -> Result<Check> {
    let (tokens, rows) = (sample(TOKENS, n_tokens), sample(ROWS, n_rows));
    let mut ws = Vec::with_capacity(rows.len() * n_cols);
    for &row in &rows {
        ws.extend(read(device, w.slice(row * n_cols..(row + 1) * n_cols))?);
    }
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    for &token in &tokens {
        let x = read(device, x.slice(token * n_cols..(token + 1) * n_cols))?;
        let mut exact = vec![0.0; rows.len()];
        reference::linear(&mut exact, &ws, &x, n_cols);
        expected.extend(exact);
        let y = read(device, y.slice(token * n_rows..(token + 1) * n_rows))?;
        found.extend(rows.iter().map(|&row| y[row] as f32));
    }
    Ok(Check::of(&found, &expected, allowed))
}
