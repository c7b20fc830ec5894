//! Root-mean-square normalisation (Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>).

use crate::simt::prelude::*;

/// Threads of a block, which owns one row.
pub const THREADS: u32 = 256;

/// y = x / sqrt(mean(x²) + eps) · w, for each row.
///
/// `y` and `x [n_rows, dim]`, `w [dim]`.
///
/// Grid: one block per row. Requires: y, x and w on 16 bytes; a `dim` that is a multiple of 4 takes the wide path.
/// Fast because: 16-byte accesses; the second reading of x comes from the first-level cache.
#[kernel(threads = THREADS, shared = block::REDUCE_BYTES, pdl)]
pub fn rmsnorm_f32(y: Out<f32>, x: In<f32>, w: In<f32>, dim: u32, eps: f32) {
    pdl::launch_dependents();
    pdl::wait();
    let (dim, row) = (dim as usize, thread::block_idx_x() as usize * dim as usize);
    if dim.is_multiple_of(4) {
        normalise::<4>(y, w, row, dim, eps, |i| x.load(row + i), |i| x.load(row + i));
    } else {
        normalise::<1>(y, w, row, dim, eps, |i| x.load(row + i), |i| x.load(row + i));
    }
}

/// x += branch, then y = x / sqrt(mean(x²) + eps) · w, for each row.
///
/// `y`, `x` and `branch [n_rows, dim]`, `w [dim]`.
///
/// Grid, Requires, Fast because: as [`rmsnorm_f32`].
#[kernel(threads = THREADS, shared = block::REDUCE_BYTES, pdl)]
pub fn rmsnorm_add_f32(y: Out<f32>, x: InOut<f32>, branch: In<f32>, w: In<f32>, dim: u32, eps: f32) {
    pdl::launch_dependents();
    pdl::wait();
    let (dim, row) = (dim as usize, thread::block_idx_x() as usize * dim as usize);
    if dim.is_multiple_of(4) {
        normalise::<4>(y, w, row, dim, eps, |i| add(x, branch, row + i), |i| x.load(row + i));
    } else {
        normalise::<1>(y, w, row, dim, eps, |i| add(x, branch, row + i), |i| x.load(row + i));
    }
}

/// Adds the branch to `N` elements of the residual stream and returns the sums.
#[inline(always)]
fn add<const N: usize>(x: InOut<f32>, branch: In<f32>, i: usize) -> [f32; N] {
    let (mut sum, added) = (x.load::<N>(i), branch.load::<N>(i));
    let mut j = 0;
    while j < N {
        sum[j] += added[j];
        j += 1;
    }
    x.store(i, sum);
    sum
}

/// Normalises one row, `N` elements an access. `value` reads elements of the row for the sum of squares, `again`
/// the same ones, by the same thread, for the result.
#[inline(always)]
fn normalise<const N: usize>(
    y: Out<f32>,
    w: In<f32>,
    row: usize,
    dim: usize,
    eps: f32,
    value: impl Fn(usize) -> [f32; N],
    again: impl Fn(usize) -> [f32; N],
) {
    let partials = Shared::new().tile::<f32>(block::REDUCE_LEN);
    let first = thread::thread_idx_x() as usize * N;
    let step = THREADS as usize * N;

    let mut sum = 0.0;
    let mut i = first;
    while i < dim {
        let x = value(i);
        let mut j = 0;
        while j < N {
            sum = math::fma(x[j], x[j], sum);
            j += 1;
        }
        i += step;
    }
    let mean = math::div(block::sum_f32(sum, partials), dim as f32);
    let scale = math::rsqrt(mean + eps);

    let mut i = first;
    while i < dim {
        let (mut x, w) = (again(i), w.load::<N>(i));
        let mut j = 0;
        while j < N {
            x[j] = x[j] * scale * w[j];
            j += 1;
        }
        y.store(row + i, x);
        i += step;
    }
}

/// The longest chain of additions in a row's sum of squares, for an error bound: those of a thread, then two
/// butterflies over 32.
pub const fn rmsnorm_chain(dim: usize) -> usize {
    let n = if dim.is_multiple_of(4) { 4 } else { 1 };
    dim.div_ceil(THREADS as usize * n) * n + 10
}

/// Bytes that a launch of `rmsnorm_f32` must move: x, y and w.
pub const fn rmsnorm_bytes(n_rows: usize, dim: usize) -> usize {
    4 * dim * (2 * n_rows + 1)
}

/// Bytes that a launch of `rmsnorm_add_f32` must move: x read and written, branch, y and w.
pub const fn rmsnorm_add_bytes(n_rows: usize, dim: usize) -> usize {
    4 * dim * (4 * n_rows + 1)
}

/// Floating-point operations of a launch: square and sum, two products; and one addition with the branch.
pub const fn rmsnorm_flops(n_rows: usize, dim: usize, with_add: bool) -> usize {
    n_rows * dim * if with_add { 5 } else { 4 }
}
