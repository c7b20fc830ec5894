//! Root-mean-square normalisation (Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>).

use crate::row::{self, Kept, Reread, Row, Source};
use crate::simt::prelude::*;

/// Threads of a block, which owns one row.
pub const THREADS: u32 = row::THREADS;

/// y = x / sqrt(mean(x²) + eps) · w, for each row.
///
/// `y` and `x [n_rows, dim]`, `w [dim]`.
///
/// Grid: one block per row. Requires: y, x and w on 16 bytes; a `dim` that is a multiple of 4 takes the wide path.
/// Fast because: (1) the first 8192 elements of a row are read once, into registers; (2) all of a thread's 16-byte
/// loads are in flight together, of x and then of w; (3) four blocks a multiprocessor, so that some load while others reduce.
#[kernel(threads = THREADS, shared = block::REDUCE_BYTES, min_blocks = 4, pdl)]
pub fn rmsnorm_f32(y: Out<f32>, x: In<f32>, w: In<f32>, dim: u32, eps: f32) {
    rmsnorm::<_, 2>(y, Source::Plain(x), w, dim, eps);
}

/// As [`rmsnorm_f32`], rounded to f16 for a product that reads it so.
#[kernel(threads = THREADS, shared = block::REDUCE_BYTES, min_blocks = 4, pdl)]
pub fn rmsnorm_f32_f16(y: Out<f16>, x: In<f32>, w: In<f32>, dim: u32, eps: f32) {
    rmsnorm::<_, 2>(y, Source::Plain(x), w, dim, eps);
}

/// x += branch, then y = x / sqrt(mean(x²) + eps) · w, for each row.
///
/// `y`, `x` and `branch [n_rows, dim]`, `w [dim]`.
///
/// Grid, Requires, Fast because: as [`rmsnorm_f32`].
#[kernel(threads = THREADS, shared = block::REDUCE_BYTES, min_blocks = 3, pdl)]
pub fn rmsnorm_add_f32(y: Out<f32>, x: InOut<f32>, branch: In<f32>, w: In<f32>, dim: u32, eps: f32) {
    rmsnorm::<_, 4>(y, Source::Sum { x, branch }, w, dim, eps);
}

/// As [`rmsnorm_add_f32`], with y rounded to f16; x stays f32.
#[kernel(threads = THREADS, shared = block::REDUCE_BYTES, min_blocks = 3, pdl)]
pub fn rmsnorm_add_f32_f16(y: Out<f16>, x: InOut<f32>, branch: In<f32>, w: In<f32>, dim: u32, eps: f32) {
    rmsnorm::<_, 4>(y, Source::Sum { x, branch }, w, dim, eps);
}

#[inline(always)]
fn rmsnorm<T: Float, const GROUP: usize>(y: Out<T>, x: Source, w: In<f32>, dim: u32, eps: f32) {
    pdl::launch_dependents();
    pdl::wait();
    let dim = dim as usize;
    let start = thread::block_idx_x() as usize * dim;
    if dim.is_multiple_of(4) {
        normalise(y, &Kept::<8, GROUP>::load(x, start, dim), w, dim, eps);
    } else {
        normalise(y, &Reread::<1>::new(x, start, dim), w, dim, eps);
    }
}

#[inline(always)]
fn normalise<const N: usize, T: Float>(y: Out<T>, row: &impl Row<N>, w: In<f32>, dim: usize, eps: f32) {
    let partials = Shared::new().tile::<f32>(block::REDUCE_LEN);
    let squares = block::sum_f32(row.fold(0.0, |sum, x| math::fma(x, x, sum)), partials);
    let scale = math::rsqrt(math::div(squares, dim as f32) + eps);
    row.write(y, |i, mut x| {
        let w = w.load::<N>(i);
        let mut j = 0;
        while j < N {
            x[j] = x[j] * scale * w[j];
            j += 1;
        }
        x
    });
}

/// The longest chain of additions in a row's sum of squares, for an error bound.
pub const fn rmsnorm_chain(dim: usize) -> usize {
    row::sum_chain(dim)
}

/// Bytes that a launch of `rmsnorm_f32` must move: x, y and w.
pub const fn rmsnorm_bytes(n_rows: usize, dim: usize) -> usize {
    4 * dim * (2 * n_rows + 1)
}

/// Bytes that a launch of `rmsnorm_f32_f16` must move: x, y in f16, and w.
pub const fn rmsnorm_f16_bytes(n_rows: usize, dim: usize) -> usize {
    dim * ((4 + 2) * n_rows + 4)
}

/// Bytes that a launch of `rmsnorm_add_f32` must move: x read and written, branch, y and w.
pub const fn rmsnorm_add_bytes(n_rows: usize, dim: usize) -> usize {
    4 * dim * (4 * n_rows + 1)
}

/// Bytes that a launch of `rmsnorm_add_f32_f16` must move: the same with y in f16.
pub const fn rmsnorm_add_f16_bytes(n_rows: usize, dim: usize) -> usize {
    dim * ((3 * 4 + 2) * n_rows + 4)
}

/// Floating-point operations of a launch: square and sum, two products; and one addition with the branch.
pub const fn rmsnorm_flops(n_rows: usize, dim: usize, with_add: bool) -> usize {
    n_rows * dim * if with_add { 5 } else { 4 }
}
