//! Matrix times matrix on the tensor cores, for GPUs from compute capability 8.0 on: `mma.sync`.

use crate::simt::prelude::*;
use crate::simt::shared;

/// Threads of a block: eight warps.
pub const THREADS: u32 = 256;
/// Tokens of a block's tile of y.
pub const TILE_TOKENS: usize = 128;
/// Rows of w (columns of y) of a block's tile.
pub const TILE_ROWS: usize = 128;
/// Columns of x and w in a stage.
pub const TILE_COLS: usize = 32;
/// Stages of shared memory: one is multiplied while the others fill.
const STAGES: usize = 4;

/// The warps lie 2 × 4 over the tile of y, so each owns this many tokens and rows.
const WARP_TOKENS: usize = TILE_TOKENS / 2;
const WARP_ROWS: usize = TILE_ROWS / 4;
/// Results of one `mma`: 16 tokens by 8 rows.
const MMA_TOKENS: usize = WARP_TOKENS / 16;
const MMA_ROWS: usize = WARP_ROWS / 8;
/// Columns that one `mma` takes.
const MMA_COLS: usize = 16;

/// Elements of 16 bytes.
const CHUNK: usize = 8;
const CHUNKS: usize = TILE_COLS / CHUNK;

/// Chunks of a stage of x, or of w, that a thread copies.
const COPIES: usize = TILE_TOKENS * CHUNKS / THREADS as usize;

/// Elements of one stage of x, and as many of w.
const STAGE: usize = TILE_TOKENS * TILE_COLS;
const SHARED: usize = 2 * shared::tile_bytes::<f16>(STAGES * STAGE);

const _: () = assert!(TILE_TOKENS == TILE_ROWS && CHUNKS == 4 && THREADS == 256);

/// y[t, o] = Σ w[o, k] · x[t, k], all of w and x in f16, sums and y in f32.
///
/// `y [n_tokens, n_rows]`, `w [n_rows, n_cols]`, `x [n_tokens, n_cols]`. The tensor cores add 16 products to the running
/// sum at a time; in which order, and with how many bits, is the hardware's affair: see [`gemm_mma_chain`].
///
/// Grid: [`gemm_mma_grid`]; a block owns 128 tokens by 128 rows.
/// Requires: `n_cols` a multiple of 8; x and w on 16 bytes, y on 8.
/// Fast because: (1) the tensor cores multiply; (2) an element that comes from memory once serves 128 tokens or rows, one
/// that comes from shared memory once 32 or 64; (3) copies fill three stages while one is multiplied, with one
/// barrier a stage; (4) chunks of 16 bytes lie swizzled, so that neither filling nor reading has a bank conflict;
/// (5) neighbouring blocks use the same weights.
#[kernel(threads = THREADS, shared = SHARED, min_blocks = 2, pdl)]
pub fn gemm_f16_f16(y: Out<f32>, w: In<f16>, x: In<f16>, n_tokens: u32, n_rows: u32, n_cols: u32) {
    let mut shared = Shared::new();
    let x_tile = shared.tile::<f16>(STAGES * STAGE);
    let w_tile = shared.tile::<f16>(STAGES * STAGE);
    let first_token = thread::block_idx_x() * TILE_TOKENS as u32;
    let first_row = thread::block_idx_y() * TILE_ROWS as u32;
    let (warp, lane) = (warp::warp_id() as usize, warp::lane_id() as usize);
    let warp_token = warp / 4 * WARP_TOKENS;
    let warp_row = warp % 4 * WARP_ROWS;
    let n_stages = n_cols.div_ceil(TILE_COLS as u32);
    let fill = |stage: u32| {
        if stage < n_stages {
            let place = stage as usize % STAGES * STAGE;
            let first_col = stage * TILE_COLS as u32;
            fill_tile(x_tile, place, x, first_token, n_tokens, first_col, n_cols);
            fill_tile(w_tile, place, w, first_row, n_rows, first_col, n_cols);
        }
        // A group of nothing at the end, so that the groups stay as many as the stages.
        async_copy::commit();
    };

    pdl::launch_dependents();
    pdl::wait();
    let mut stage = 0;
    while stage < STAGES as u32 - 1 {
        fill(stage);
        stage += 1;
    }
    let mut sums = [[[0.0f32; 4]; MMA_ROWS]; MMA_TOKENS];
    let mut stage = 0;
    while stage < n_stages {
        async_copy::wait::<{ STAGES - 2 }>();
        // All have their copies of this stage, and have multiplied the one before, whose place is filled now.
        thread::sync_threads();
        fill(stage + STAGES as u32 - 1);
        let place = stage as usize % STAGES * STAGE;
        multiply(&mut sums, (x_tile, place, warp_token), (w_tile, place, warp_row), lane);
        stage += 1;
    }
    let first = (first_token + warp_token as u32, first_row + warp_row as u32);
    store(y, &sums, first, n_tokens, n_rows, lane as u32);
}

/// Where chunk `chunk` of line `line` (a token's or a row's elements) of a stage begins: at `chunk ^ (line / 2 % 4)` of
/// the line. So the same chunk of eight lines, which `ldmatrix` reads at once, falls into all 32 banks: two lines of
/// 64 bytes pass once over them.
#[inline(always)]
fn chunk_index(line: usize, chunk: usize) -> usize {
    line * TILE_COLS + (chunk ^ (line / 2 % CHUNKS)) * CHUNK
}

/// Begins to copy 128 lines by 32 columns; zeros where the matrix ends. Four lanes copy 64 bytes of a line.
#[inline(always)]
fn fill_tile(
    tile: Tile<f16>,
    place: usize,
    matrix: In<f16>,
    first_line: u32,
    n_lines: u32,
    first_col: u32,
    n_cols: u32,
) {
    let (first, chunk) = (thread::thread_idx_x() as usize / CHUNKS, thread::thread_idx_x() as usize % CHUNKS);
    let col = first_col + (chunk * CHUNK) as u32;
    let mut turn = 0;
    while turn < COPIES {
        let line = first + turn * TILE_TOKENS / COPIES;
        let of_matrix = first_line + line as u32;
        let exists = of_matrix < n_lines && col < n_cols;
        let element = of_matrix as usize * n_cols as usize + col as usize;
        tile.copy_async_or_zero::<CHUNK>(place + chunk_index(line, chunk), matrix, element, exists);
        turn += 1;
    }
}

/// Adds the products of one stage to a warp's results. `x` and `w` are a tile, the stage's place in it, and the warp's
/// first line.
#[inline(always)]
fn multiply(
    sums: &mut [[[f32; 4]; MMA_ROWS]; MMA_TOKENS],
    x: (Tile<f16>, usize, usize),
    w: (Tile<f16>, usize, usize),
    lane: usize,
) {
    let ((x_tile, x_place, first_token), (w_tile, w_place, first_row)) = (x, w);
    // The row of a matrix of 8 × 8 that this lane passes to `ldmatrix`, and its chunk of the 16 columns. Of x the four
    // matrices are 16 tokens by 16 columns, tokens first; of w 16 rows by 16 columns, columns first: so the registers
    // that come are the a of one `mma`, and the b of two.
    let (x_line, x_chunk) = (first_token + lane % 16, lane / 16);
    let (w_line, w_chunk) = (first_row + lane / 16 * 8 + lane % 8, lane / 8 % 2);
    let mut col = 0;
    while col < TILE_COLS / MMA_COLS {
        let mut a = [[0; 4]; MMA_TOKENS];
        let mut t = 0;
        while t < MMA_TOKENS {
            a[t] = x_tile.ldmatrix_x4(x_place + chunk_index(x_line + 16 * t, 2 * col + x_chunk));
            t += 1;
        }
        let mut r = 0;
        while r < MMA_ROWS {
            let [b0, b1, b2, b3] =
                w_tile.ldmatrix_x4(w_place + chunk_index(w_line + 8 * r, 2 * col + w_chunk));
            let mut t = 0;
            while t < MMA_TOKENS {
                sums[t][r] = matrix::mma_m16n8k16_f16(a[t], [b0, b1], sums[t][r]);
                sums[t][r + 1] = matrix::mma_m16n8k16_f16(a[t], [b2, b3], sums[t][r + 1]);
                t += 1;
            }
            r += 2;
        }
        col += 1;
    }
}

/// Writes those of a warp's results that exist; four lanes write 32 bytes of a token.
#[inline(always)]
fn store(
    y: Out<f32>,
    sums: &[[[f32; 4]; MMA_ROWS]; MMA_TOKENS],
    (first_token, first_row): (u32, u32),
    n_tokens: u32,
    n_rows: u32,
    lane: u32,
) {
    let mut t = 0;
    while t < MMA_TOKENS {
        let mut half = 0;
        while half < 2 {
            let token = first_token + (16 * t + 8 * half) as u32 + lane / 4;
            let mut r = 0;
            while r < MMA_ROWS {
                let row = first_row + 8 * r as u32 + lane % 4 * 2;
                let pair = [sums[t][r][2 * half], sums[t][r][2 * half + 1]];
                store_pair(y, pair, token, n_tokens, row, n_rows);
                r += 1;
            }
            half += 1;
        }
        t += 1;
    }
}

/// Writes two neighbouring results of a token; `row` is even.
#[inline(always)]
fn store_pair(y: Out<f32>, pair: [f32; 2], token: u32, n_tokens: u32, row: u32, n_rows: u32) {
    if token >= n_tokens || row >= n_rows {
        return;
    }
    let place = token as usize * n_rows as usize + row as usize;
    if n_rows.is_multiple_of(2) {
        y.store::<2>(place, pair);
        return;
    }
    y.set(place, pair[0]);
    if row + 1 < n_rows {
        y.set(place + 1, pair[1]);
    }
}

/// Blocks of a launch in x (tokens) and y (rows).
pub const fn gemm_mma_grid(n_tokens: usize, n_rows: usize) -> (usize, usize) {
    (n_tokens.div_ceil(TILE_TOKENS), n_rows.div_ceil(TILE_ROWS))
}

/// The longest chain of roundings between a product and the result, for an error bound: a running sum. The hardware may
/// cut off instead of rounding, which loses up to twice as much.
pub const fn gemm_mma_chain(n_cols: usize) -> usize {
    2 * n_cols
}

/// Bytes that a launch must move: w, x and y once.
pub const fn gemm_mma_bytes(n_tokens: usize, n_rows: usize, n_cols: usize) -> usize {
    2 * (n_tokens + n_rows) * n_cols + 4 * n_tokens * n_rows
}

/// Floating-point operations of a launch: a product and a sum for each weight and token.
pub const fn gemm_mma_flops(n_tokens: usize, n_rows: usize, n_cols: usize) -> usize {
    2 * n_tokens * n_rows * n_cols
}
