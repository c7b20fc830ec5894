//! Matrix times matrix with quantised weights, or 16-bit floats in the same layout, on the tensor cores, for GPUs from compute
//! capability 8.0 on: `mma.sync`.
//!
//! Rows of w are rows of matrix a, which lanes decode from packed weights ([`crate::quant::fragments`])
//! for themselves, and tokens are columns of the results. A warp owns 16 rows for all tokens of the block's tile, so that a weight
//! is decoded once a block; x comes through shared memory.
//!
//! Bytes and operations are those of [`crate::gemm_quant`].
//!
//! **Numbers.** Weights are rounded to f16 as [`crate::quant::halves`] says; those that are floats are exact but for bf16 below
//! 2^-20, which are off by 2^-31 at most, and bf16 of 1023 or more become infinite. x is f16 with a scale for each token
//! ([`crate::narrow`]). Products are exact, sums in f32.

#[cfg(not(target_arch = "nvptx64"))]
pub mod product;
mod unit;

use crate::quant::fragments;
use crate::quant::halves::{CHUNK_COLS, Constants, Fetched};
use crate::quant::{
    BF16, F16, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};
use crate::simt::prelude::*;
use crate::simt::shared;
pub(crate) use unit::groups;
use unit::{Floats, Unit};

/// Columns of x in a stage.
const STAGE_COLS: usize = 64;
/// Stages of shared memory: one is multiplied while the others fill.
const STAGES: usize = 3;
/// Tokens that one `mma` takes.
pub(crate) const MMA_TOKENS: usize = 8;
/// Elements of 16 bytes.
const CHUNK: usize = 8;
const CHUNKS: usize = STAGE_COLS / CHUNK;
/// Chunks of weights for a stage.
const STAGE_CHUNKS: usize = STAGE_COLS / CHUNK_COLS;

/// A block's shared memory.
pub(crate) const fn shared_bytes(tokens: usize) -> usize {
    shared::tile_bytes::<f16>(STAGES * tokens * STAGE_COLS)
}

/// Rows of a block's tile for one of `tokens` tokens: as many as there are tokens.
pub(crate) const fn tile_rows(tokens: usize) -> usize {
    tokens
}

/// Threads of a block.
pub(crate) const fn threads(tokens: usize) -> u32 {
    (tile_rows(tokens) / fragments::TILE_ROWS) as u32 * warp::SIZE
}

macro_rules! entries {
    (quants: $($format:ty: $t128:ident, $t64:ident;)+) => {$(
        entries!(Fetched<$format, { groups::<$format>() }>, $t128, 128, 2);
        entries!(Fetched<$format, { groups::<$format>() }>, $t64, 64, 4);
    )+};
    (floats: $($format:ty: $t128:ident, $t64:ident;)+) => {$(
        entries!(Floats<$format>, $t128, 128, 2);
        entries!(Floats<$format>, $t64, 64, 4);
    )+};
    ($unit:ty, $name:ident, $tokens:literal, $blocks:literal) => {
        #[doc = concat!("y\\[t, o\\] = Σ w\\[o, k\\] · x\\[t, k\\], tiles of ", $tokens, " tokens by as many rows.")]
        ///
        /// `y [n_tokens, n_rows]`; `w [n_rows, n_cols]` in fragments; `x [n_tokens, n_cols]` with `x_scales [n_tokens]`, both
        /// from [`crate::narrow`]. Sums in f32, in the order of k.
        ///
        /// Grid: a block for each tile, along tokens and rows: [`product`].
        /// Requires: `n_cols` a multiple of 32; x on 16 bytes, with less than 2^32 elements.
        /// Fast because: (1) packed weights are read once a block, 16 bytes a lane, into the registers where they are needed, and
        /// decoded there once; (2) those of the next 128 columns are on their way meanwhile; (3) copies fill two stages of x
        /// while one is multiplied, with one barrier a stage; (4) chunks of 16 bytes of x lie swizzled, so that neither filling
        /// nor reading has a bank conflict; (5) several blocks on a multiprocessor: some decode while others multiply; (6)
        /// neighbouring blocks use the same weights.
        #[kernel(threads = threads($tokens), shared = shared_bytes($tokens), min_blocks = $blocks, pdl)]
        pub fn $name(
            y: Out<f32>,
            w: In<u8>,
            x: In<f16>,
            x_scales: In<f32>,
            n_tokens: u32,
            n_rows: u32,
            n_cols: u32,
        ) {
            const NT: usize = $tokens / MMA_TOKENS;
            let tile = Tokens { first: thread::block_idx_x() * $tokens, end: n_tokens, w_tile: 0 };
            gemm::<$unit, NT>(y, w, X { values: x, scales: x_scales, n_tokens, n_cols }, n_rows, tile);
        }
    };
}

entries! {
    floats:
    F16: gemm_quant_mma_f16_t128, gemm_quant_mma_f16_t64;
    BF16: gemm_quant_mma_bf16_t128, gemm_quant_mma_bf16_t64;
}

entries! {
    quants:
    Q2_K: gemm_quant_mma_q2_k_t128, gemm_quant_mma_q2_k_t64;
    Q3_K: gemm_quant_mma_q3_k_t128, gemm_quant_mma_q3_k_t64;
    Q4_0: gemm_quant_mma_q4_0_t128, gemm_quant_mma_q4_0_t64;
    Q4_1: gemm_quant_mma_q4_1_t128, gemm_quant_mma_q4_1_t64;
    Q5_0: gemm_quant_mma_q5_0_t128, gemm_quant_mma_q5_0_t64;
    Q5_1: gemm_quant_mma_q5_1_t128, gemm_quant_mma_q5_1_t64;
    Q8_0: gemm_quant_mma_q8_0_t128, gemm_quant_mma_q8_0_t64;
    Q4_K: gemm_quant_mma_q4_k_t128, gemm_quant_mma_q4_k_t64;
    Q5_K: gemm_quant_mma_q5_k_t128, gemm_quant_mma_q5_k_t64;
    Q6_K: gemm_quant_mma_q6_k_t128, gemm_quant_mma_q6_k_t64;
    IQ4_NL: gemm_quant_mma_iq4_nl_t128, gemm_quant_mma_iq4_nl_t64;
    IQ4_XS: gemm_quant_mma_iq4_xs_t128, gemm_quant_mma_iq4_xs_t64;
    MXFP4: gemm_quant_mma_mxfp4_t128, gemm_quant_mma_mxfp4_t64;
}

/// The activations.
#[derive(Clone, Copy)]
pub(crate) struct X {
    pub values: In<f16>,
    pub scales: In<f32>,
    pub n_tokens: u32,
    pub n_cols: u32,
}

/// The tokens of a block: the first, the one where they end at the latest, and the tile of rows of w where their matrix begins.
#[derive(Clone, Copy)]
pub(crate) struct Tokens {
    pub first: u32,
    pub end: u32,
    pub w_tile: u32,
}

#[inline(always)]
#[track_caller]
pub(crate) fn gemm<U: Unit, const NT: usize>(y: Out<f32>, w: In<u8>, x: X, n_rows: u32, of_block: Tokens) {
    let tokens = NT * MMA_TOKENS;
    let stage_len = tokens * STAGE_COLS;
    let x_tile = Shared::new().tile::<f16>(STAGES * stage_len);
    let first_token = of_block.first;
    let first_row =
        thread::block_idx_y() * tile_rows(tokens) as u32 + warp::warp_id() * fragments::TILE_ROWS as u32;
    // Past the last row it is some other one: nobody looks at its results.
    let row_tile = of_block.w_tile as usize + first_row.min(n_rows - 1) as usize / fragments::TILE_ROWS;
    let lane = warp::lane_id() as usize;
    let n_units = x.n_cols.div_ceil(U::COLS as u32);
    let constants = Constants::new(x.n_cols);
    let place = |stage: u32| stage as usize % STAGES * stage_len;

    pdl::launch_dependents();
    // No earlier kernel writes weights, so they need not wait.
    let mut unit = U::load(w, x.n_cols, row_tile, 0);
    pdl::wait();
    let mut stage = 0;
    while stage < STAGES as u32 - 1 {
        fill::<NT>(x_tile, place(stage), x, first_token, stage);
        stage += 1;
    }
    // The row of a matrix of 8 × 8 that this lane passes to `ldmatrix`, and its chunk of the 16 columns: the four matrices are
    // 16 tokens by 16 columns, columns first, and so the registers that come are the b of two `mma`.
    let (line, in_cols) = (lane / 16 * 8 + lane % 8, lane / 8 % 2);
    let mut sums = [[0.0f32; 4]; NT];
    let mut i = 0;
    while i < n_units {
        let mut next = unit;
        let mut scales = unit.scales();
        let mut in_unit = 0;
        while in_unit < U::COLS / STAGE_COLS {
            async_copy::wait::<{ STAGES - 2 }>();
            // All have their copies of this stage, and have multiplied the one before, whose place is filled now.
            thread::sync_threads();
            let stage = i * (U::COLS / STAGE_COLS) as u32 + in_unit as u32;
            let ahead = stage + STAGES as u32 - 1;
            fill::<NT>(x_tile, place(ahead), x, first_token, ahead);
            let from = place(stage);
            let mut step = 0;
            while step < STAGE_CHUNKS {
                let chunk = in_unit * STAGE_CHUNKS + step;
                if chunk == U::NEXT_AT {
                    next = U::load(w, x.n_cols, row_tile, (i + 1).min(n_units - 1));
                }
                let a = unit.decode(&mut scales, constants, chunk);
                let mut t = 0;
                while t < NT {
                    let at = chunk_index(line + MMA_TOKENS * t, 2 * step + in_cols);
                    let [b0, b1, b2, b3] = x_tile.ldmatrix_x4(from + at);
                    sums[t] = matrix::mma_m16n8k16_f16(a, [b0, b1], sums[t]);
                    sums[t + 1] = matrix::mma_m16n8k16_f16(a, [b2, b3], sums[t + 1]);
                    t += 2;
                }
                step += 1;
            }
            in_unit += 1;
        }
        unit = next;
        i += 1;
    }
    // Those of zeros past the last stage.
    async_copy::wait::<0>();
    store(y, &sums, (x, 1.0 / U::FACTOR), of_block, first_row, n_rows);
}

/// Where chunk `chunk` of line `line` (a token's elements) of a stage begins: at `chunk ^ (line % 8)` of the line. So the same
/// chunk of eight lines, which `ldmatrix` reads at once, falls into all 32 banks.
#[inline(always)]
fn chunk_index(line: usize, chunk: usize) -> usize {
    line * STAGE_COLS + (chunk ^ (line % CHUNKS)) * CHUNK
}

/// Begins to copy a stage of a tile of tokens; zeros where the matrix ends. Eight lanes copy 128 bytes of a token.
#[inline(always)]
#[track_caller]
fn fill<const NT: usize>(tile: Tile<f16>, place: usize, x: X, first_token: u32, stage: u32) {
    let tokens = NT * MMA_TOKENS;
    let lines = threads(tokens) as usize / CHUNKS;
    let (first, chunk) = (thread::thread_idx_x() as usize / CHUNKS, thread::thread_idx_x() as usize % CHUNKS);
    let col = stage * STAGE_COLS as u32 + (chunk * CHUNK) as u32;
    let mut turn = 0;
    while turn < tokens / lines {
        let line = first + turn * lines;
        // Past the last token it is that one again: nobody looks at its results.
        let token = (first_token + line as u32).min(x.n_tokens - 1);
        let element = (token * x.n_cols + col) as usize;
        let place = place + chunk_index(line, chunk);
        tile.copy_async_or_zero::<CHUNK>(place, x.values, element, col < x.n_cols);
        turn += 1;
    }
    async_copy::commit();
}

/// Writes those of a warp's results that exist, multiplied by their tokens' scales and a factor; eight lanes write 32 bytes of a token.
#[inline(always)]
#[track_caller]
fn store<const NT: usize>(
    y: Out<f32>,
    sums: &[[f32; 4]; NT],
    (x, factor): (X, f32),
    of_block: Tokens,
    first_row: u32,
    n_rows: u32,
) {
    let lane = warp::lane_id();
    let (g, c) = (lane / 4, lane % 4);
    let mut t = 0;
    while t < NT {
        let mut i = 0;
        while i < 2 {
            let token = of_block.first + (MMA_TOKENS * t) as u32 + 2 * c + i as u32;
            if token < of_block.end {
                let scale = x.scales.get(token as usize) * factor;
                let mut half = 0;
                while half < 2 {
                    let row = first_row + g + 8 * half as u32;
                    if row < n_rows {
                        y.set(token as usize * n_rows as usize + row as usize, sums[t][2 * half + i] * scale);
                    }
                    half += 1;
                }
            }
            i += 1;
        }
        t += 1;
    }
}
