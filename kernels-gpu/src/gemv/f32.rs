//! Weights in f32: multiply-adds, since no tensor core keeps all bits, and rows as they lie in the file.

use super::{THREADS, WARPS};
use crate::simt::prelude::*;
use crate::simt::shared;

/// Lanes of a warp.
const LANES: usize = warp::SIZE as usize;
/// Rows that a warp works on at once: each of its reads of x from shared memory serves all of them.
const ROWS_PER_WARP: usize = 2;
/// Rows that a block works on at once.
const ROWS_PER_BLOCK: usize = WARPS * ROWS_PER_WARP;
/// Elements of x that are in shared memory at once.
pub const X_TILE: usize = 8192;

/// `y[o] = Σ w[o, k] · x[k]`, with weights in f32.
///
/// `y [n_rows]`, `w [n_rows, n_cols]` as in the file, `x [n_cols]`. f32 accumulation in an order that depends on `n_cols`
/// alone.
///
/// Grid: any number of blocks, best [`super::gemv_blocks`]; block b works on rows 16 b to 16 b + 15, then on those
/// 16 · gridDim further, and so on.
/// Requires: x on 16 bytes; weights that no kernel still in flight writes.
/// Fast because: (1) a warp fetches 512 consecutive bytes at once; (2) the next are on their way while it works on the last;
/// (3) the first are fetched before the previous kernel has ended; (4) x is read from shared memory without bank
/// conflicts and for two rows at once.
#[kernel(threads = THREADS, shared = shared::tile_bytes::<f32>(X_TILE), pdl)]
pub fn gemv_f32(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    let (n_rows, n_cols) = (n_rows as usize, n_cols as usize);
    if !n_cols.is_multiple_of(4) {
        pdl::launch_dependents();
        pdl::wait();
        return gemv_by_element(y, w, x, n_rows, n_cols);
    }
    let x_tile = Shared::new().tile::<f32>(X_TILE);
    let lane_col = warp::lane_id() as usize * 4;
    let stride = thread::grid_dim_x() as usize * ROWS_PER_BLOCK;
    let mut block_row = thread::block_idx_x() as usize * ROWS_PER_BLOCK;
    let mut row = block_row + warp::warp_id() as usize * ROWS_PER_WARP;
    let mut ahead = load(w, row, lane_col, n_rows, n_cols);
    pdl::launch_dependents();
    pdl::wait();
    let mut x_is_there = false;
    while block_row < n_rows {
        let mut sums = [0.0; ROWS_PER_WARP];
        let mut first_col = 0;
        while first_col < n_cols {
            if first_col.is_multiple_of(X_TILE) && !x_is_there {
                fill(x_tile, x, first_col, n_cols);
                x_is_there = n_cols <= X_TILE;
            }
            let (weights, col) = (ahead, first_col + lane_col);
            first_col += LANES * 4;
            ahead = if first_col < n_cols {
                load(w, row, first_col + lane_col, n_rows, n_cols)
            } else {
                load(w, row + stride, lane_col, n_rows, n_cols)
            };
            if col < n_cols {
                let x = x_tile.load::<4>(col % X_TILE);
                let mut r = 0;
                while r < ROWS_PER_WARP {
                    let w = weights[r];
                    sums[r] = math::fma(f32::from_bits(w[0]), x[0], sums[r]);
                    sums[r] = math::fma(f32::from_bits(w[1]), x[1], sums[r]);
                    sums[r] = math::fma(f32::from_bits(w[2]), x[2], sums[r]);
                    sums[r] = math::fma(f32::from_bits(w[3]), x[3], sums[r]);
                    r += 1;
                }
            }
        }
        store_sums(y, sums, row, n_rows);
        block_row += stride;
        row += stride;
    }
}

/// Columns `col` to `col + 3` of two rows; nothing that is used where there are none.
#[inline(always)]
fn load(w: In<u8>, row: usize, col: usize, n_rows: usize, n_cols: usize) -> [[u32; 4]; ROWS_PER_WARP] {
    let mut weights = [[0; 4]; ROWS_PER_WARP];
    let mut r = 0;
    while r < ROWS_PER_WARP {
        if row + r < n_rows && col < n_cols {
            weights[r] = w.u32x4_at_stream(((row + r) * n_cols + col) * 4);
        }
        r += 1;
    }
    weights
}

/// Copies up to [`X_TILE`] elements of x from `start` on. The whole block comes here.
#[inline(always)]
fn fill(x_tile: Tile<f32>, x: In<f32>, start: usize, n_cols: usize) {
    thread::sync_threads();
    let n = if n_cols - start < X_TILE { n_cols - start } else { X_TILE };
    let mut i = thread::thread_idx_x() as usize * 4;
    while i < n {
        x_tile.store::<4>(i, x.load::<4>(start + i));
        i += THREADS as usize * 4;
    }
    thread::sync_threads();
}

/// Adds up what the lanes have and writes the rows that exist.
#[inline(always)]
fn store_sums(y: Out<f32>, sums: [f32; ROWS_PER_WARP], row: usize, n_rows: usize) {
    let mut r = 0;
    while r < ROWS_PER_WARP {
        let sum = warp::sum_f32(sums[r]);
        if warp::lane_id() == 0 && row + r < n_rows {
            y.set(row + r, sum);
        }
        r += 1;
    }
}

/// The same for rows that no 16-byte load divides: a warp a row, a lane an element.
#[inline(always)]
fn gemv_by_element(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: usize, n_cols: usize) {
    let mut row = thread::block_idx_x() as usize * WARPS + warp::warp_id() as usize;
    while row < n_rows {
        let mut sum = 0.0;
        let mut i = warp::lane_id() as usize;
        while i < n_cols {
            sum = math::fma(f32::from_bits(w.u32_at((row * n_cols + i) * 4)), x.get(i), sum);
            i += LANES;
        }
        let sum = warp::sum_f32(sum);
        if warp::lane_id() == 0 {
            y.set(row, sum);
        }
        row += thread::grid_dim_x() as usize * WARPS;
    }
}

/// The longest chain of roundings between a product of [`gemv_f32`] and the result: a lane's running sum and the butterfly
/// over the warp.
pub const fn gemv_f32_chain(n_cols: usize) -> usize {
    if n_cols.is_multiple_of(4) { 4 * n_cols.div_ceil(4 * LANES) + 5 } else { n_cols.div_ceil(LANES) + 5 }
}
