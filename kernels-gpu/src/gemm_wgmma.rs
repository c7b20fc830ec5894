//! Matrix times matrix on Hopper's tensor cores: linear layers over many tokens, with 16-bit operands.
//!
//! A block is three warpgroups. One thread of the first, the producer, has the copy engine fill a ring of stages, each
//! a tile of x and one of w, 64 columns deep (`ring.rs`). The other two, the consumers, multiply: each owns 64 tokens of
//! the block's tile of y, in registers. Ring and products run ahead of each other as far as the ring is long;
//! nobody waits for the whole block. Blocks stay and take tile after tile, so that loading the next tile
//! overlaps the last products of this one. [`multicast`] has the variant whose blocks load for each other, [`pair`],
//! [`few`] and [`split`] those for few tokens, [`plan`] the choice.

pub mod few;
pub mod multicast;
pub mod pair;
#[cfg(not(target_arch = "nvptx64"))]
pub mod plan;
mod ring;
pub mod split;

use crate::simt::boxes::{self, InBoxes, OutBoxes, Rows, rows_bytes};
use crate::simt::cluster;
use crate::simt::mbarrier::Place;
use crate::simt::prelude::*;
use crate::simt::wgmma::{self, Accumulators, Operand};
use ring::{CONSUMER_TOKENS, Ring, STAGE_COLS, Stretch, ring_bytes};

pub use ring::THREADS;

/// Tokens of a block's tile.
pub const TILE_TOKENS: u32 = 128;
/// Tiles of tokens that are worked on side by side, so that the tiles of w that they share stay in the second-level cache.
const GROUP: u32 = 16;
/// Rows of a box of y: one consumer's.
const Y_BOX: u32 = 64;
/// Boxes that a consumer stages for the copy engine: one is filled while the other is read.
const N_STAGED: usize = 2;

/// A block's shared memory.
const fn shared_bytes(tile_rows: u32, stages: usize) -> usize {
    // The ring's barriers come last.
    ring_bytes(TILE_TOKENS, tile_rows, stages) + rows_bytes(2 * N_STAGED * Y_BOX as usize)
}

const STAGES_256: usize = 4;
const STAGES_224: usize = 4;
const STAGES_192: usize = 4;
const STAGES_128: usize = 6;
const STAGES_64: usize = 8;

/// y[t, o] = Σ w[o, k] · x[t, k], all in bf16, tiles of 128 tokens by 256 rows.
///
/// `y [n_tokens, n_rows]`, `w [n_rows, n_cols]`, `x [n_tokens, n_cols]`; sums in f32, in the order of k.
///
/// Grid: any number of blocks up to that of tiles, best one a multiprocessor.
/// Requires: compute capability 9.0.
/// Fast because: (1) `wgmma` reads both operands from shared memory, 64 x 256 results an instruction; (2) the copy
/// engine fills it, swizzled, without a register or an address computation; (3) producer and consumers overlap, also
/// from one tile to the next; (4) results leave through shared memory, in whole rows of 128 bytes.
#[kernel(threads = THREADS, shared = shared_bytes(256, STAGES_256), min_blocks = 1, pdl, sm_90a)]
pub fn gemm_wgmma_bf16_n256(
    y: OutBoxes<bf16, Y_BOX>,
    w: InBoxes<bf16, 256>,
    x: InBoxes<bf16, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    gemm::<bf16, 256, 256, 128, STAGES_256>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_wgmma_bf16_n256`], tiles of 128 tokens by 224 rows.
#[kernel(threads = THREADS, shared = shared_bytes(224, STAGES_224), min_blocks = 1, pdl, sm_90a)]
pub fn gemm_wgmma_bf16_n224(
    y: OutBoxes<bf16, Y_BOX>,
    w: InBoxes<bf16, 224>,
    x: InBoxes<bf16, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    gemm::<bf16, 224, 224, 112, STAGES_224>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_wgmma_bf16_n256`], tiles of 128 tokens by 192 rows.
#[kernel(threads = THREADS, shared = shared_bytes(192, STAGES_192), min_blocks = 1, pdl, sm_90a)]
pub fn gemm_wgmma_bf16_n192(
    y: OutBoxes<bf16, Y_BOX>,
    w: InBoxes<bf16, 192>,
    x: InBoxes<bf16, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    gemm::<bf16, 192, 192, 96, STAGES_192>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_wgmma_bf16_n256`], tiles of 128 tokens by 128 rows: more tiles, for matrices that have few.
#[kernel(threads = THREADS, shared = shared_bytes(128, STAGES_128), min_blocks = 1, pdl, sm_90a)]
pub fn gemm_wgmma_bf16_n128(
    y: OutBoxes<bf16, Y_BOX>,
    w: InBoxes<bf16, 128>,
    x: InBoxes<bf16, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    gemm::<bf16, 128, 128, 64, STAGES_128>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_wgmma_bf16_n256`], tiles of 128 tokens by 64 rows, for so few tokens that reading w is what counts.
#[kernel(threads = THREADS, shared = shared_bytes(64, STAGES_64), min_blocks = 1, pdl, sm_90a)]
pub fn gemm_wgmma_bf16_n64(
    y: OutBoxes<bf16, Y_BOX>,
    w: InBoxes<bf16, 64>,
    x: InBoxes<bf16, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    gemm::<bf16, 64, 64, 32, STAGES_64>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_wgmma_bf16_n256`], all in f16.
#[kernel(threads = THREADS, shared = shared_bytes(256, STAGES_256), min_blocks = 1, pdl, sm_90a)]
pub fn gemm_wgmma_f16_n256(
    y: OutBoxes<f16, Y_BOX>,
    w: InBoxes<f16, 256>,
    x: InBoxes<f16, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    gemm::<f16, 256, 256, 128, STAGES_256>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_wgmma_bf16_n224`], all in f16.
#[kernel(threads = THREADS, shared = shared_bytes(224, STAGES_224), min_blocks = 1, pdl, sm_90a)]
pub fn gemm_wgmma_f16_n224(
    y: OutBoxes<f16, Y_BOX>,
    w: InBoxes<f16, 224>,
    x: InBoxes<f16, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    gemm::<f16, 224, 224, 112, STAGES_224>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_wgmma_bf16_n192`], all in f16.
#[kernel(threads = THREADS, shared = shared_bytes(192, STAGES_192), min_blocks = 1, pdl, sm_90a)]
pub fn gemm_wgmma_f16_n192(
    y: OutBoxes<f16, Y_BOX>,
    w: InBoxes<f16, 192>,
    x: InBoxes<f16, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    gemm::<f16, 192, 192, 96, STAGES_192>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_wgmma_bf16_n128`], all in f16.
#[kernel(threads = THREADS, shared = shared_bytes(128, STAGES_128), min_blocks = 1, pdl, sm_90a)]
pub fn gemm_wgmma_f16_n128(
    y: OutBoxes<f16, Y_BOX>,
    w: InBoxes<f16, 128>,
    x: InBoxes<f16, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    gemm::<f16, 128, 128, 64, STAGES_128>(y, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_wgmma_bf16_n64`], all in f16.
#[kernel(threads = THREADS, shared = shared_bytes(64, STAGES_64), min_blocks = 1, pdl, sm_90a)]
pub fn gemm_wgmma_f16_n64(
    y: OutBoxes<f16, Y_BOX>,
    w: InBoxes<f16, 64>,
    x: InBoxes<f16, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    gemm::<f16, 64, 64, 32, STAGES_64>(y, w, x, n_tokens, n_rows, n_cols);
}

/// The tiles of y, and the order in which blocks take them.
#[derive(Clone, Copy)]
pub(crate) struct Tiles {
    /// Tiles side by side along the tokens.
    pub tokens: u32,
    /// Tiles along the rows.
    pub rows: u32,
    /// Tiles of tokens in a group.
    pub group: u32,
}

impl Tiles {
    /// Numbers along tokens and rows of tile `i`: groups of tiles of tokens, in each group all tokens of one tile of rows
    /// before the next.
    #[inline(always)]
    pub fn at(self, i: u32) -> (u32, u32) {
        let per_group = self.group * self.rows;
        let group = i / per_group;
        let first = group * self.group;
        let n_tokens = (self.tokens - first).min(self.group);
        let in_group = i - group * per_group;
        (first + in_group % n_tokens, in_group / n_tokens)
    }
}

/// A block loads `BOX` of the `ROWS` rows of a tile of w, and the other blocks of its cluster, which have the tokens after
/// its own, the rest.
#[inline(always)]
#[track_caller]
fn gemm<T: Operand, const ROWS: u32, const BOX: u32, const LEN: usize, const STAGES: usize>(
    y: OutBoxes<T, Y_BOX>,
    w: InBoxes<T, BOX>,
    x: InBoxes<T, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    let mut shared = Shared::new();
    let staged = shared.rows::<T>(2 * N_STAGED * Y_BOX as usize);
    let ring = Ring::<T, TILE_TOKENS, ROWS, BOX, STAGES>::new(&mut shared, 2);
    pdl::launch_dependents();
    let n_blocks = ROWS / BOX;
    let rank = if n_blocks == 1 { 0 } else { cluster::block_rank() };
    let tiles = Tiles {
        tokens: n_tokens.div_ceil(n_blocks * TILE_TOKENS),
        rows: n_rows.div_ceil(ROWS),
        group: GROUP / n_blocks,
    };
    let n_tiles = tiles.tokens * tiles.rows;
    let (first_tile, step) = (thread::block_idx_x() / n_blocks, thread::grid_dim_x() / n_blocks);
    // First token and row of the block's part of a tile.
    let corner = |tile: u32| {
        let (token_tile, row_tile) = tiles.at(tile);
        ((token_tile * n_blocks + rank) * TILE_TOKENS, row_tile * ROWS)
    };
    let n_stages = n_cols.div_ceil(STAGE_COLS);
    wgmma::specialise::<40, 232>(
        || {
            let (mut tile, mut place) = (first_tile, Place::START);
            let (token, row) = corner(tile);
            let mut n_preloaded = ring.preload(w, Stretch { token, row, first_stage: 0, n_stages });
            pdl::wait();
            while tile < n_tiles {
                let (token, row) = corner(tile);
                place = ring.fill(x, w, Stretch { token, row, first_stage: 0, n_stages }, place, n_preloaded);
                n_preloaded = 0;
                tile += step;
            }
            if n_blocks > 1 {
                // A block's shared memory must outlive the arrivals of the other blocks' consumers.
                ring.drain(place);
            }
        },
        |consumer| {
            pdl::wait();
            let (mut tile, mut place) = (first_tile, Place::START);
            let staged = staged.at_row(consumer as usize * N_STAGED * Y_BOX as usize);
            let first_token = consumer * CONSUMER_TOKENS;
            let mut n_stored = 0;
            while tile < n_tiles {
                let (token, row) = corner(tile);
                let mut results = Accumulators::<LEN>::zero();
                place = ring.multiply(&mut results, (first_token, 0), n_stages, place);
                n_stored =
                    store::<T, LEN>(y, staged, &results, (token + first_token, row), consumer, n_stored);
                tile += step;
            }
            // A block's shared memory must outlive the stores that read it.
            if thread::thread_idx_x().is_multiple_of(wgmma::SIZE) {
                boxes::wait_stores_read::<0>();
            }
        },
    );
}

/// Stores a consumer's results through shared memory, one box of 64 columns after the other; `n_stored` are those of the
/// tiles before, and it gives their number now.
#[inline(always)]
#[track_caller]
fn store<T: Operand, const LEN: usize>(
    y: OutBoxes<T, Y_BOX>,
    staged: Rows<T>,
    results: &Accumulators<LEN>,
    (token, row): (u32, u32),
    consumer: u32,
    n_stored: usize,
) -> usize {
    /// Registers of a box.
    const PART: usize = STAGE_COLS as usize / 2;
    let is_first = thread::thread_idx_x().is_multiple_of(wgmma::SIZE);
    let lane = warp::lane_id() as usize;
    // Lane l names a row of matrix l / 8: matrices 0 and 1 lie one below the other, 2 and 3 to their right.
    let staged_row = (warp::warp_id() as usize % 4) * 16 + lane % 16;
    for part in 0..LEN.div_ceil(PART) {
        // Of 224 columns the last box is no whole one more: it begins in the one before.
        let first = (part * PART).min(LEN - PART);
        let staged = staged.at_row((n_stored + part) % N_STAGED * Y_BOX as usize);
        // The last but one store must have read what is overwritten now.
        if is_first {
            boxes::wait_stores_read::<{ N_STAGED as u32 - 1 }>();
        }
        thread::sync_named(1 + consumer, wgmma::SIZE);
        for step in 0..PART / 8 {
            let r = first + 8 * step;
            let pair = |i: usize| T::pair(results.get(r + i), results.get(r + i + 1));
            staged.stmatrix_x4(staged_row, 2 * step + lane / 16, [pair(0), pair(2), pair(4), pair(6)]);
        }
        boxes::fence();
        thread::sync_named(1 + consumer, wgmma::SIZE);
        if is_first {
            y.store(staged, token, row + 2 * first as u32);
            boxes::commit_stores();
        }
    }
    n_stored + LEN.div_ceil(PART)
}

/// Floating-point operations of a product.
pub const fn gemm_flops(n_tokens: usize, n_rows: usize, n_cols: usize) -> u64 {
    2 * n_tokens as u64 * n_rows as u64 * n_cols as u64
}

/// Bytes that a product must move at least: both operands and the result once, 2 bytes an element.
pub const fn gemm_bytes(n_tokens: usize, n_rows: usize, n_cols: usize) -> u64 {
    2 * (n_tokens as u64 * n_cols as u64 + n_rows as u64 * n_cols as u64 + n_tokens as u64 * n_rows as u64)
}
