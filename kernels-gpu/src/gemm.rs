//! Matrix times matrix: every linear layer of a prefill, in f32.

use crate::quant::layout::GpuLayout;
use crate::quant::{
    BF16, F16, F32, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};
use crate::simt::prelude::*;
use crate::simt::shared;

/// Threads of a block: 16 × 16, each with 4 × 4 results.
pub const THREADS: u32 = 256;
/// Tokens of a block's tile of y.
pub const TILE_TOKENS: usize = 64;
/// Rows of w (columns of y) of a block's tile.
pub const TILE_ROWS: usize = 64;
/// Columns of x and w in shared memory at once.
pub const TILE_COLS: usize = 32;
/// Shared memory of a block: one tile of x and one of decoded weights.
const SHARED: usize =
    shared::tile_bytes::<f32>(TILE_COLS * TILE_TOKENS) + shared::tile_bytes::<f32>(TILE_COLS * TILE_ROWS);

/// y[t, o] = Σ w[o, k] · x[t, k], with weights in f32.
///
/// `y [n_tokens, n_rows]`, `w [n_rows, n_cols]` in the GPU's layout, `x [n_tokens, n_cols]`. Each result is one
/// running f32 sum over k.
///
/// Grid: [`gemm_grid`]; a block owns 64 tokens by 64 rows.
/// Requires: `n_cols` a multiple of the format's block; x and y on 16 bytes.
/// Fast because: (1) a weight is decoded once for 64 tokens; (2) a thread uses each value from shared memory four
/// times; (3) tiles lie swizzled, so that both filling and reading them is free of bank conflicts.
#[kernel(threads = THREADS, shared = SHARED, min_blocks = 2, pdl)]
pub fn gemm_f32(y: Out<f32>, w: In<u8>, x: In<f32>, n_tokens: u32, n_rows: u32, n_cols: u32) {
    gemm::<F32>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_f32`], with weights in f16.
#[kernel(threads = THREADS, shared = SHARED, min_blocks = 2, pdl)]
pub fn gemm_f16(y: Out<f32>, w: In<u8>, x: In<f32>, n_tokens: u32, n_rows: u32, n_cols: u32) {
    gemm::<F16>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_f32`], with weights in bf16.
#[kernel(threads = THREADS, shared = SHARED, min_blocks = 2, pdl)]
pub fn gemm_bf16(y: Out<f32>, w: In<u8>, x: In<f32>, n_tokens: u32, n_rows: u32, n_cols: u32) {
    gemm::<BF16>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_f32`], with weights in Q4_0.
#[kernel(threads = THREADS, shared = SHARED, min_blocks = 2, pdl)]
pub fn gemm_q4_0(y: Out<f32>, w: In<u8>, x: In<f32>, n_tokens: u32, n_rows: u32, n_cols: u32) {
    gemm::<Q4_0>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_f32`], with weights in Q4_1.
#[kernel(threads = THREADS, shared = SHARED, min_blocks = 2, pdl)]
pub fn gemm_q4_1(y: Out<f32>, w: In<u8>, x: In<f32>, n_tokens: u32, n_rows: u32, n_cols: u32) {
    gemm::<Q4_1>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_f32`], with weights in Q5_0.
#[kernel(threads = THREADS, shared = SHARED, min_blocks = 2, pdl)]
pub fn gemm_q5_0(y: Out<f32>, w: In<u8>, x: In<f32>, n_tokens: u32, n_rows: u32, n_cols: u32) {
    gemm::<Q5_0>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_f32`], with weights in Q5_1.
#[kernel(threads = THREADS, shared = SHARED, min_blocks = 2, pdl)]
pub fn gemm_q5_1(y: Out<f32>, w: In<u8>, x: In<f32>, n_tokens: u32, n_rows: u32, n_cols: u32) {
    gemm::<Q5_1>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_f32`], with weights in Q8_0.
#[kernel(threads = THREADS, shared = SHARED, min_blocks = 2, pdl)]
pub fn gemm_q8_0(y: Out<f32>, w: In<u8>, x: In<f32>, n_tokens: u32, n_rows: u32, n_cols: u32) {
    gemm::<Q8_0>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_f32`], with weights in Q2_K.
#[kernel(threads = THREADS, shared = SHARED, min_blocks = 2, pdl)]
pub fn gemm_q2_k(y: Out<f32>, w: In<u8>, x: In<f32>, n_tokens: u32, n_rows: u32, n_cols: u32) {
    gemm::<Q2_K>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_f32`], with weights in Q3_K.
#[kernel(threads = THREADS, shared = SHARED, min_blocks = 2, pdl)]
pub fn gemm_q3_k(y: Out<f32>, w: In<u8>, x: In<f32>, n_tokens: u32, n_rows: u32, n_cols: u32) {
    gemm::<Q3_K>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_f32`], with weights in Q4_K.
#[kernel(threads = THREADS, shared = SHARED, min_blocks = 2, pdl)]
pub fn gemm_q4_k(y: Out<f32>, w: In<u8>, x: In<f32>, n_tokens: u32, n_rows: u32, n_cols: u32) {
    gemm::<Q4_K>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_f32`], with weights in Q5_K.
#[kernel(threads = THREADS, shared = SHARED, min_blocks = 2, pdl)]
pub fn gemm_q5_k(y: Out<f32>, w: In<u8>, x: In<f32>, n_tokens: u32, n_rows: u32, n_cols: u32) {
    gemm::<Q5_K>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_f32`], with weights in Q6_K.
#[kernel(threads = THREADS, shared = SHARED, min_blocks = 2, pdl)]
pub fn gemm_q6_k(y: Out<f32>, w: In<u8>, x: In<f32>, n_tokens: u32, n_rows: u32, n_cols: u32) {
    gemm::<Q6_K>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_f32`], with weights in IQ4_NL.
#[kernel(threads = THREADS, shared = SHARED, min_blocks = 2, pdl)]
pub fn gemm_iq4_nl(y: Out<f32>, w: In<u8>, x: In<f32>, n_tokens: u32, n_rows: u32, n_cols: u32) {
    gemm::<IQ4_NL>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_f32`], with weights in IQ4_XS.
#[kernel(threads = THREADS, shared = SHARED, min_blocks = 2, pdl)]
pub fn gemm_iq4_xs(y: Out<f32>, w: In<u8>, x: In<f32>, n_tokens: u32, n_rows: u32, n_cols: u32) {
    gemm::<IQ4_XS>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_f32`], with weights in MXFP4.
#[kernel(threads = THREADS, shared = SHARED, min_blocks = 2, pdl)]
pub fn gemm_mxfp4(y: Out<f32>, w: In<u8>, x: In<f32>, n_tokens: u32, n_rows: u32, n_cols: u32) {
    gemm::<MXFP4>(y, w, x, n_tokens, n_rows, n_cols);
}

/// Quad `quad` (of 16) of line k lies at the place `quad ^ (k / 4 % 8)` of the line: so lanes that write one element of
/// eight neighbouring groups of four lines, or 32 neighbouring elements of a line, hit different banks.
#[inline(always)]
fn tile_index(k: usize, quad: usize) -> usize {
    k * 64 + (quad ^ (k / 4 % 8)) * 4
}

const _: () = assert!(TILE_TOKENS == 64 && TILE_ROWS == 64 && TILE_COLS == 32 && THREADS == 256);

#[inline(always)]
fn gemm<Q: GpuLayout>(y: Out<f32>, w: In<u8>, x: In<f32>, n_tokens: u32, n_rows: u32, n_cols: u32) {
    let mut shared = Shared::new();
    let x_tile = shared.tile::<f32>(TILE_COLS * TILE_TOKENS);
    let w_tile = shared.tile::<f32>(TILE_COLS * TILE_ROWS);
    let first_row = thread::block_idx_x() * TILE_ROWS as u32;
    let first_token = thread::block_idx_y() * TILE_TOKENS as u32;
    let (row_quad, token_quad) = (thread::thread_idx_x() % 16, thread::thread_idx_x() / 16);

    pdl::launch_dependents();
    pdl::wait();
    let mut sums = [[0.0; 4]; 4];
    let mut col = 0;
    while col < n_cols {
        thread::sync_threads();
        fill_x(x_tile, x, first_token, n_tokens, col, n_cols);
        fill_w::<Q>(w_tile, w, first_row, n_rows, col, n_cols);
        thread::sync_threads();
        let mut k = 0;
        while k < TILE_COLS {
            let xs = x_tile.load::<4>(tile_index(k, token_quad as usize));
            let ws = w_tile.load::<4>(tile_index(k, row_quad as usize));
            let mut t = 0;
            while t < 4 {
                sums[t][0] = math::fma(ws[0], xs[t], sums[t][0]);
                sums[t][1] = math::fma(ws[1], xs[t], sums[t][1]);
                sums[t][2] = math::fma(ws[2], xs[t], sums[t][2]);
                sums[t][3] = math::fma(ws[3], xs[t], sums[t][3]);
                t += 1;
            }
            k += 1;
        }
        col += TILE_COLS as u32;
    }
    store(y, sums, first_token + token_quad * 4, n_tokens, first_row + row_quad * 4, n_rows);
}

/// Copies 64 tokens by 32 columns of x, transposed; zeros where x ends. Eight lanes read 128 bytes of a token.
#[inline(always)]
fn fill_x(tile: Tile<f32>, x: In<f32>, first_token: u32, n_tokens: u32, first_col: u32, n_cols: u32) {
    let mut i = thread::thread_idx_x();
    while i < (TILE_TOKENS * TILE_COLS / 4) as u32 {
        let (token, k) = (i / 8, i % 8 * 4);
        let col = first_col + k;
        let row = (first_token + token) as usize * n_cols as usize;
        let values = if first_token + token >= n_tokens || col >= n_cols {
            [0.0; 4]
        } else if n_cols.is_multiple_of(4) {
            x.load::<4>(row + col as usize)
        } else {
            let get = |j| if col + j < n_cols { x.get(row + (col + j) as usize) } else { 0.0 };
            [get(0), get(1), get(2), get(3)]
        };
        set_quad(tile, k as usize, token as usize, values);
        i += THREADS;
    }
}

/// Decodes 64 rows by 32 columns of w, transposed; zeros where w ends. A thread decodes eight elements of a row.
#[inline(always)]
fn fill_w<Q: GpuLayout>(
    tile: Tile<f32>,
    w: In<u8>,
    first_row: u32,
    n_rows: u32,
    first_col: u32,
    n_cols: u32,
) {
    let (row, first_k) = (thread::thread_idx_x() % 64, thread::thread_idx_x() / 64 * 8);
    let mut k = first_k;
    while k < first_k + 8 {
        let col = first_col + k;
        let values = if first_row + row >= n_rows || col >= n_cols {
            [0.0; 4]
        } else {
            Q::values(w, n_cols as usize, (first_row + row) as usize, col as usize)
        };
        set_quad(tile, k as usize, row as usize, values);
        k += 4;
    }
}

/// Puts four elements of a row into the lines k to k + 3 of a transposed tile; k is a multiple of four.
#[inline(always)]
fn set_quad(tile: Tile<f32>, k: usize, row: usize, values: [f32; 4]) {
    let place = tile_index(k, row / 4) + row % 4;
    tile.set(place, values[0]);
    tile.set(place + 64, values[1]);
    tile.set(place + 128, values[2]);
    tile.set(place + 192, values[3]);
}

/// Writes those of a thread's 4 × 4 results that exist.
#[inline(always)]
fn store(y: Out<f32>, sums: [[f32; 4]; 4], first_token: u32, n_tokens: u32, first_row: u32, n_rows: u32) {
    let mut t = 0;
    while t < 4 {
        let token = first_token + t as u32;
        let place = token as usize * n_rows as usize + first_row as usize;
        if token < n_tokens {
            if n_rows.is_multiple_of(4) {
                if first_row < n_rows {
                    y.store::<4>(place, sums[t]);
                }
            } else {
                let mut r = 0;
                while r < 4 {
                    if first_row + (r as u32) < n_rows {
                        y.set(place + r, sums[t][r]);
                    }
                    r += 1;
                }
            }
        }
        t += 1;
    }
}

/// Blocks of a launch in x (rows) and y (tokens).
pub const fn gemm_grid(n_tokens: usize, n_rows: usize) -> (usize, usize) {
    (n_rows.div_ceil(TILE_ROWS), n_tokens.div_ceil(TILE_TOKENS))
}

/// The longest chain of roundings between a product and the result, for an error bound: a running sum.
pub const fn gemm_chain(n_cols: usize) -> usize {
    n_cols
}

/// Bytes that a launch must move: the weights, x and y once.
pub const fn gemm_bytes<Q: GpuLayout>(n_tokens: usize, n_rows: usize, n_cols: usize) -> usize {
    n_rows * n_cols / Q::ELEMENTS * Q::BYTES + 4 * n_tokens * (n_rows + n_cols)
}

/// Floating-point operations of a launch: a product and a sum for each weight and token.
pub const fn gemm_flops(n_tokens: usize, n_rows: usize, n_cols: usize) -> usize {
    2 * n_tokens * n_rows * n_cols
}
