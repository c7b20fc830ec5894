//! Layer normalisation (Ba et al. 2016, <https://arxiv.org/abs/1607.06450>).

use crate::row::{self, Kept, Reread, Row, Source};
use crate::simt::prelude::*;

/// Threads of a block, which owns one row.
pub const THREADS: u32 = row::THREADS;

/// y = (x − m) / sqrt(v + eps) · w + b for each row, with m = mean(x) and v = mean((x − m)²).
///
/// `y` and `x [n_rows, dim]`, `w` and `b [dim]`. The variance is the mean of squared distances from the mean, in a second
/// pass over the row, because mean(x²) − m² cancels where the mean is large.
///
/// Grid: one block per row. Requires: all on 16 bytes; a `dim` that is a multiple of 4 takes the wide path.
/// Fast because: (1) the first 6144 elements of a row are read once, into registers, where both passes find them; (2) all of a
/// thread's 16-byte loads are in flight together; (3) four blocks a multiprocessor (three that
/// add), so that some load while others reduce.
#[kernel(threads = THREADS, shared = block::REDUCE_BYTES, min_blocks = 4, pdl)]
pub fn layernorm_f32(y: Out<f32>, x: In<f32>, w: In<f32>, b: In<f32>, dim: u32, eps: f32) {
    layernorm(y, Source::Plain(x), w, b, dim, eps);
}

/// As [`layernorm_f32`], rounded to f16 for a product that reads it so.
#[kernel(threads = THREADS, shared = block::REDUCE_BYTES, min_blocks = 4, pdl)]
pub fn layernorm_f32_f16(y: Out<f16>, x: In<f32>, w: In<f32>, b: In<f32>, dim: u32, eps: f32) {
    layernorm(y, Source::Plain(x), w, b, dim, eps);
}

/// x += branch, then y = layernorm(x), for each row.
///
/// `y`, `x` and `branch [n_rows, dim]`, `w` and `b [dim]`.
///
/// Grid, Requires, Fast because: as [`layernorm_f32`].
#[kernel(threads = THREADS, shared = block::REDUCE_BYTES, min_blocks = 3, pdl)]
pub fn layernorm_add_f32(
    y: Out<f32>,
    x: InOut<f32>,
    branch: In<f32>,
    w: In<f32>,
    b: In<f32>,
    dim: u32,
    eps: f32,
) {
    layernorm(y, Source::Sum { x, branch }, w, b, dim, eps);
}

/// As [`layernorm_add_f32`], with y rounded to f16; x stays f32.
#[kernel(threads = THREADS, shared = block::REDUCE_BYTES, min_blocks = 3, pdl)]
pub fn layernorm_add_f32_f16(
    y: Out<f16>,
    x: InOut<f32>,
    branch: In<f32>,
    w: In<f32>,
    b: In<f32>,
    dim: u32,
    eps: f32,
) {
    layernorm(y, Source::Sum { x, branch }, w, b, dim, eps);
}

#[inline(always)]
fn layernorm<T: Float>(y: Out<T>, x: Source, w: In<f32>, b: In<f32>, dim: u32, eps: f32) {
    pdl::launch_dependents();
    pdl::wait();
    let dim = dim as usize;
    let start = thread::block_idx_x() as usize * dim;
    if dim.is_multiple_of(4) {
        normalise(y, &Kept::<6, 2>::load(x, start, dim), w, b, dim, eps);
    } else {
        normalise(y, &Reread::<1>::new(x, start, dim), w, b, dim, eps);
    }
}

#[inline(always)]
fn normalise<const N: usize, T: Float>(
    y: Out<T>,
    row: &impl Row<N>,
    w: In<f32>,
    b: In<f32>,
    dim: usize,
    eps: f32,
) {
    let partials = Shared::new().tile::<f32>(block::REDUCE_LEN);
    let sum = block::sum_f32(row.fold(0.0, |sum, x| sum + x), partials);
    let mean = math::div(sum, dim as f32);
    let square = |sum, x| math::fma(x - mean, x - mean, sum);
    let squares = block::sum_f32(row.fold(0.0, square), partials);
    let scale = math::rsqrt(math::div(squares, dim as f32) + eps);
    row.write(y, |i, mut x| {
        let (w, b) = (w.load::<N>(i), b.load::<N>(i));
        let mut j = 0;
        while j < N {
            x[j] = math::fma((x[j] - mean) * scale, w[j], b[j]);
            j += 1;
        }
        x
    });
}

/// The longest chain of additions in each of a row's two sums, for an error bound.
pub const fn layernorm_chain(dim: usize) -> usize {
    row::sum_chain(dim)
}

/// Bytes that a launch must move: x, w, b, and y with `y_bytes` an element.
pub const fn layernorm_bytes(n_rows: usize, dim: usize, y_bytes: usize) -> usize {
    dim * ((4 + y_bytes) * n_rows + 2 * 4)
}

/// Bytes that a launch with residual addition must move: x once more, and branch.
pub const fn layernorm_add_bytes(n_rows: usize, dim: usize, y_bytes: usize) -> usize {
    layernorm_bytes(n_rows, dim, y_bytes) + 2 * 4 * dim * n_rows
}

/// Floating-point operations of a launch: sum; difference, square and sum; difference, two products and a sum; and one
/// addition with the branch.
pub const fn layernorm_flops(n_rows: usize, dim: usize, with_add: bool) -> usize {
    n_rows * dim * if with_add { 9 } else { 8 }
}
