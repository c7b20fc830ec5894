//! Root-mean-square normalisation (Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>).

use crate::gemv::{XOrder, XPlace, padded_quads};
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
    rmsnorm(y, Source::Plain(x), w, dim, eps);
}

/// As [`rmsnorm_f32`], rounded to f16 for a product that reads it so.
#[kernel(threads = THREADS, shared = block::REDUCE_BYTES, min_blocks = 4, pdl)]
pub fn rmsnorm_f32_f16(y: Out<f16>, x: In<f32>, w: In<f32>, dim: u32, eps: f32) {
    rmsnorm(y, Source::Plain(x), w, dim, eps);
}

/// x += branch, then y = x / sqrt(mean(x²) + eps) · w, for each row.
///
/// `y`, `x` and `branch [n_rows, dim]`, `w [dim]`.
///
/// Grid, Requires, Fast because: as [`rmsnorm_f32`].
#[kernel(threads = THREADS, shared = block::REDUCE_BYTES, min_blocks = 3, pdl)]
pub fn rmsnorm_add_f32(y: Out<f32>, x: InOut<f32>, branch: In<f32>, w: In<f32>, dim: u32, eps: f32) {
    rmsnorm(y, Source::Sum { x, branch }, w, dim, eps);
}

/// As [`rmsnorm_add_f32`], with y rounded to f16; x stays f32.
#[kernel(threads = THREADS, shared = block::REDUCE_BYTES, min_blocks = 3, pdl)]
pub fn rmsnorm_add_f32_f16(y: Out<f16>, x: InOut<f32>, branch: In<f32>, w: In<f32>, dim: u32, eps: f32) {
    rmsnorm(y, Source::Sum { x, branch }, w, dim, eps);
}

#[inline(always)]
fn rmsnorm<T: Float>(y: Out<T>, x: Source, w: In<f32>, dim: u32, eps: f32) {
    pdl::launch_dependents();
    pdl::wait();
    let dim = dim as usize;
    let start = thread::block_idx_x() as usize * dim;
    if dim.is_multiple_of(4) {
        normalise(y, &Kept::<UNITS, GROUP>::load(x, start, dim), w, dim, eps);
    } else {
        normalise(y, &Reread::<1>::new(x, start, dim), w, dim, eps);
    }
}

#[inline(always)]
fn normalise<const N: usize, T: Float>(y: Out<T>, row: &impl Row<N>, w: In<f32>, dim: usize, eps: f32) {
    let scale = scale_of(row, dim, eps);
    row.write(y, |i, x| normalised(x, scale, w.load::<N>(i)));
}

/// What a row is multiplied with.
#[inline(always)]
fn scale_of<const N: usize>(row: &impl Row<N>, dim: usize, eps: f32) -> f32 {
    let partials = Shared::new().tile::<f32>(block::REDUCE_LEN);
    let squares = block::sum_f32(row.fold(0.0, |sum, x| math::fma(x, x, sum)), partials);
    math::rsqrt(math::div(squares, dim as f32) + eps)
}

#[inline(always)]
fn normalised<const N: usize>(mut x: [f32; N], scale: f32, w: [f32; N]) -> [f32; N] {
    let mut j = 0;
    while j < N {
        x[j] = x[j] * scale * w[j];
        j += 1;
    }
    x
}

/// Fours of a row's elements that a thread keeps, and how many of them it works on at a time.
const UNITS: usize = 8;
const GROUP: usize = 4;
/// The longest row that is also converted: one that is kept.
pub const CONVERTED_DIM: usize = UNITS * 4 * THREADS as usize;

/// As [`rmsnorm_f32`] of one row, and y converted for a product, as [`gemv_x`](crate::gemv::gemv_x_fixed) does it.
///
/// `words`, `numbers`: as many as [`XOrder::len`] says; `order`: its [`XOrder::code`].
///
/// y is that of the other kernel in every bit.
///
/// Grid: one block. Requires: all on 16 bytes; `dim` a multiple of 4, at most [`CONVERTED_DIM`]; w that no kernel still in
/// flight writes.
/// Fast because: (1) w is there before the previous kernel has ended; (2) the row is read once, into registers, all of
/// a thread's loads in flight together; (3) the conversion is worth some instructions, a launch of its own more than a
/// microsecond.
#[kernel(threads = THREADS, shared = block::REDUCE_BYTES, pdl)]
pub fn rmsnorm_f32_converted(
    y: Out<f32>,
    words: Out<u32>,
    numbers: Out<f32>,
    x: In<f32>,
    w: In<f32>,
    dim: u32,
    eps: f32,
    order: u32,
) {
    rmsnorm_converted(y, XPlace { words, numbers, order }, Source::Plain(x), w, dim, eps);
}

/// As [`rmsnorm_add_f32`] of one row, and y converted for a product.
///
/// Everything else: as [`rmsnorm_f32_converted`].
#[kernel(threads = THREADS, shared = block::REDUCE_BYTES, pdl)]
pub fn rmsnorm_add_f32_converted(
    y: Out<f32>,
    words: Out<u32>,
    numbers: Out<f32>,
    x: InOut<f32>,
    branch: In<f32>,
    w: In<f32>,
    dim: u32,
    eps: f32,
    order: u32,
) {
    rmsnorm_converted(y, XPlace { words, numbers, order }, Source::Sum { x, branch }, w, dim, eps);
}

#[inline(always)]
fn rmsnorm_converted(y: Out<f32>, converted: XPlace, x: Source, w: In<f32>, dim: u32, eps: f32) {
    pdl::launch_dependents();
    let dim = dim as usize;
    let w = Kept::<UNITS, GROUP>::load(Source::Plain(w), 0, dim);
    pdl::wait();
    let x = Kept::<UNITS, GROUP>::load(x, 0, dim);
    let scale = scale_of(&x, dim, eps);
    let n_quads = padded_quads(dim);
    x.zip(&w, 4 * n_quads, |first, x, w| {
        let (mut quads, mut results, mut are_there) = ([0; GROUP], [[0.0; 4]; GROUP], [false; GROUP]);
        let mut u = 0;
        while u < GROUP {
            let i = row::index(first + u);
            if i < dim {
                results[u] = normalised(x[u], scale, w[u]);
                y.store(i, results[u]);
            }
            quads[u] = i / 4;
            are_there[u] = quads[u] < n_quads;
            u += 1;
        }
        converted.store_each(quads, results, are_there);
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

/// Bytes that a launch which also converts must move: the same, and the converted row.
pub const fn rmsnorm_converted_bytes(dim: usize, with_add: bool, order: XOrder) -> usize {
    let bytes = if with_add { rmsnorm_add_bytes(1, dim) } else { rmsnorm_bytes(1, dim) };
    bytes + order.bytes(dim)
}

/// Floating-point operations of a launch: square and sum, two products; and one addition with the branch.
pub const fn rmsnorm_flops(n_rows: usize, dim: usize, with_add: bool) -> usize {
    n_rows * dim * if with_add { 5 } else { 4 }
}
