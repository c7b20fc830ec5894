//! Products with few tokens: the columns of a tile are divided among the blocks of a cluster.
//!
//! Such a product has fewer tiles than the GPU has multiprocessors, and is bound by reading w. So the blocks of a cluster
//! take equal stretches of one tile's columns. In the end each has a piece of every result; block r gets all pieces
//! of the r-th part of the tile, which the others store into its shared memory, and adds them in the order of the
//! columns, so that the result does not depend on which block was first.

use super::ring::{CONSUMER_TOKENS, Ring, STAGE_COLS, Stretch, THREADS, ring_bytes};
use crate::simt::boxes::InBoxes;
use crate::simt::cluster;
use crate::simt::mbarrier::{self, Barriers, Place};
use crate::simt::prelude::*;
use crate::simt::shared::tile_bytes;
use crate::simt::wgmma::{self, Accumulators, Operand};

/// Threads that hold results.
const CONSUMER_THREADS: usize = 2 * wgmma::SIZE as usize;

/// A block's shared memory: the ring, and the pieces of its part of the tile, as many bytes as a whole tile in f32.
const fn shared_bytes(tokens: u32, rows: u32, stages: usize) -> usize {
    ring_bytes(tokens, rows, stages) + tile_bytes::<f32>((tokens * rows) as usize) + mbarrier::bytes(1)
}

/// Stages of the ring with tiles of 64 tokens by 128 rows.
const STAGES_64_128: usize = 8;
/// Stages of the ring with tiles of 64 tokens by 192 rows.
const STAGES_64_192: usize = 5;
/// Stages of the ring with tiles of 128 tokens by 128 rows.
const STAGES_128_128: usize = 5;

/// y[t, o] = Σ w[o, k] · x[t, k], all in bf16, clusters of 4 blocks, each a quarter of the columns of a tile of 64 tokens
/// by 128 rows; each consumer multiplies half of the rows.
///
/// `y [n_tokens, n_rows]`, `w [n_rows, n_cols]`, `x [n_tokens, n_cols]`; sums in f32.
///
/// Grid: four times the number of tiles, best at most one block a multiprocessor.
/// Requires: compute capability 9.0; `n_rows` even.
/// Fast because: every multiprocessor reads an equal part of w, through the copy engine, 128 KiB ahead; pieces move
/// between multiprocessors without the second-level cache, 16 bytes a thread, and need no second kernel.
#[kernel(threads = THREADS, cluster = 4, shared = shared_bytes(64, 128, STAGES_64_128), min_blocks = 1, max_regs = 128, pdl, sm_90a)]
pub fn gemm_split4_bf16_t64_n128(
    y: Out<bf16>,
    w: InBoxes<bf16, 128>,
    x: InBoxes<bf16, 64>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    let store = |i: usize, pair: [f32; 2]| y.store(i, pair.map(bf16::from_f32));
    split::<bf16, 64, 128, 32, STAGES_64_128, 4>(store, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_split4_bf16_t64_n128`], clusters of 4 blocks, tiles of 64 tokens by 192 rows.
#[kernel(threads = THREADS, cluster = 4, shared = shared_bytes(64, 192, STAGES_64_192), min_blocks = 1, max_regs = 128, pdl, sm_90a)]
pub fn gemm_split4_bf16_t64_n192(
    y: Out<bf16>,
    w: InBoxes<bf16, 192>,
    x: InBoxes<bf16, 64>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    let store = |i: usize, pair: [f32; 2]| y.store(i, pair.map(bf16::from_f32));
    split::<bf16, 64, 192, 48, STAGES_64_192, 4>(store, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_split4_bf16_t64_n128`], clusters of 4 blocks, tiles of 128 tokens by 128 rows, of which each consumer multiplies half of the tokens.
#[kernel(threads = THREADS, cluster = 4, shared = shared_bytes(128, 128, STAGES_128_128), min_blocks = 1, max_regs = 128, pdl, sm_90a)]
pub fn gemm_split4_bf16_t128_n128(
    y: Out<bf16>,
    w: InBoxes<bf16, 128>,
    x: InBoxes<bf16, 128>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    let store = |i: usize, pair: [f32; 2]| y.store(i, pair.map(bf16::from_f32));
    split::<bf16, 128, 128, 64, STAGES_128_128, 4>(store, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_split4_bf16_t64_n128`], clusters of 2 blocks, tiles of 64 tokens by 128 rows.
#[kernel(threads = THREADS, cluster = 2, shared = shared_bytes(64, 128, STAGES_64_128), min_blocks = 1, max_regs = 128, pdl, sm_90a)]
pub fn gemm_split2_bf16_t64_n128(
    y: Out<bf16>,
    w: InBoxes<bf16, 128>,
    x: InBoxes<bf16, 64>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    let store = |i: usize, pair: [f32; 2]| y.store(i, pair.map(bf16::from_f32));
    split::<bf16, 64, 128, 32, STAGES_64_128, 2>(store, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_split4_bf16_t64_n128`], clusters of 2 blocks, tiles of 64 tokens by 192 rows.
#[kernel(threads = THREADS, cluster = 2, shared = shared_bytes(64, 192, STAGES_64_192), min_blocks = 1, max_regs = 128, pdl, sm_90a)]
pub fn gemm_split2_bf16_t64_n192(
    y: Out<bf16>,
    w: InBoxes<bf16, 192>,
    x: InBoxes<bf16, 64>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    let store = |i: usize, pair: [f32; 2]| y.store(i, pair.map(bf16::from_f32));
    split::<bf16, 64, 192, 48, STAGES_64_192, 2>(store, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_split4_bf16_t64_n128`], clusters of 2 blocks, tiles of 128 tokens by 128 rows, of which each consumer multiplies half of the tokens.
#[kernel(threads = THREADS, cluster = 2, shared = shared_bytes(128, 128, STAGES_128_128), min_blocks = 1, max_regs = 128, pdl, sm_90a)]
pub fn gemm_split2_bf16_t128_n128(
    y: Out<bf16>,
    w: InBoxes<bf16, 128>,
    x: InBoxes<bf16, 128>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    let store = |i: usize, pair: [f32; 2]| y.store(i, pair.map(bf16::from_f32));
    split::<bf16, 128, 128, 64, STAGES_128_128, 2>(store, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_split4_bf16_t64_n128`] in f16.
#[kernel(threads = THREADS, cluster = 4, shared = shared_bytes(64, 128, STAGES_64_128), min_blocks = 1, max_regs = 128, pdl, sm_90a)]
pub fn gemm_split4_f16_t64_n128(
    y: Out<f16>,
    w: InBoxes<f16, 128>,
    x: InBoxes<f16, 64>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    let store = |i: usize, pair: [f32; 2]| y.store(i, pair.map(f16::from_f32));
    split::<f16, 64, 128, 32, STAGES_64_128, 4>(store, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_split4_bf16_t64_n192`] in f16.
#[kernel(threads = THREADS, cluster = 4, shared = shared_bytes(64, 192, STAGES_64_192), min_blocks = 1, max_regs = 128, pdl, sm_90a)]
pub fn gemm_split4_f16_t64_n192(
    y: Out<f16>,
    w: InBoxes<f16, 192>,
    x: InBoxes<f16, 64>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    let store = |i: usize, pair: [f32; 2]| y.store(i, pair.map(f16::from_f32));
    split::<f16, 64, 192, 48, STAGES_64_192, 4>(store, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_split4_bf16_t128_n128`] in f16.
#[kernel(threads = THREADS, cluster = 4, shared = shared_bytes(128, 128, STAGES_128_128), min_blocks = 1, max_regs = 128, pdl, sm_90a)]
pub fn gemm_split4_f16_t128_n128(
    y: Out<f16>,
    w: InBoxes<f16, 128>,
    x: InBoxes<f16, 128>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    let store = |i: usize, pair: [f32; 2]| y.store(i, pair.map(f16::from_f32));
    split::<f16, 128, 128, 64, STAGES_128_128, 4>(store, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_split2_bf16_t64_n128`] in f16.
#[kernel(threads = THREADS, cluster = 2, shared = shared_bytes(64, 128, STAGES_64_128), min_blocks = 1, max_regs = 128, pdl, sm_90a)]
pub fn gemm_split2_f16_t64_n128(
    y: Out<f16>,
    w: InBoxes<f16, 128>,
    x: InBoxes<f16, 64>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    let store = |i: usize, pair: [f32; 2]| y.store(i, pair.map(f16::from_f32));
    split::<f16, 64, 128, 32, STAGES_64_128, 2>(store, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_split2_bf16_t64_n192`] in f16.
#[kernel(threads = THREADS, cluster = 2, shared = shared_bytes(64, 192, STAGES_64_192), min_blocks = 1, max_regs = 128, pdl, sm_90a)]
pub fn gemm_split2_f16_t64_n192(
    y: Out<f16>,
    w: InBoxes<f16, 192>,
    x: InBoxes<f16, 64>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    let store = |i: usize, pair: [f32; 2]| y.store(i, pair.map(f16::from_f32));
    split::<f16, 64, 192, 48, STAGES_64_192, 2>(store, w, x, n_tokens, n_rows, n_cols);
}

/// As [`gemm_split2_bf16_t128_n128`] in f16.
#[kernel(threads = THREADS, cluster = 2, shared = shared_bytes(128, 128, STAGES_128_128), min_blocks = 1, max_regs = 128, pdl, sm_90a)]
pub fn gemm_split2_f16_t128_n128(
    y: Out<f16>,
    w: InBoxes<f16, 128>,
    x: InBoxes<f16, 128>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    let store = |i: usize, pair: [f32; 2]| y.store(i, pair.map(f16::from_f32));
    split::<f16, 128, 128, 64, STAGES_128_128, 2>(store, w, x, n_tokens, n_rows, n_cols);
}

#[inline(always)]
#[track_caller]
fn split<
    T: Operand,
    const TOKENS: u32,
    const ROWS: u32,
    const LEN: usize,
    const STAGES: usize,
    const BLOCKS: usize,
>(
    store: impl Fn(usize, [f32; 2]),
    w: InBoxes<T, ROWS>,
    x: InBoxes<T, TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    let mut shared = Shared::new();
    let ring = Ring::<T, TOKENS, ROWS, ROWS, STAGES>::new(&mut shared);
    let pieces = shared.tile::<f32>((TOKENS * ROWS) as usize);
    let given = shared.barriers(1);
    pdl::launch_dependents();
    let (rank, n_blocks) = (cluster::block_rank(), BLOCKS as u32);
    let (tile, n_row_tiles) = (thread::block_idx_x() / n_blocks, n_rows.div_ceil(ROWS));
    let n_stages = n_cols.div_ceil(STAGE_COLS);
    let first_stage = rank * n_stages / n_blocks;
    let stretch = Stretch {
        token: tile / n_row_tiles * TOKENS,
        row: tile % n_row_tiles * ROWS,
        first_stage,
        n_stages: (rank + 1) * n_stages / n_blocks - first_stage,
    };
    // Warps with tokens: of the others nothing is wanted.
    let n_warps = (n_tokens - stretch.token).min(TOKENS).div_ceil(16) * 2 * CONSUMER_TOKENS / TOKENS;
    if thread::thread_idx_x() == 0 {
        given.init(0, 1);
        mbarrier::fence_init();
        given.arrive_expect(0, n_warps * warp::SIZE * (LEN * size_of::<f32>()) as u32);
    }
    // The others' shared memory is there from here on.
    cluster::start();
    wgmma::specialise::<56, 160>(
        || {
            let n_preloaded = ring.preload(w, stretch);
            pdl::wait();
            ring.fill(x, w, stretch, Place::START, n_preloaded);
        },
        |consumer| {
            pdl::wait();
            // Tiles of 64 tokens are divided by rows, those of 128 by tokens.
            let corner = if TOKENS == CONSUMER_TOKENS {
                (0, consumer * 2 * LEN as u32)
            } else {
                (consumer * CONSUMER_TOKENS, 0)
            };
            let mut results = Accumulators::<LEN>::zero();
            ring.multiply(&mut results, corner, stretch.n_stages, Place::START);
            let token = stretch.token + corner.0 + warp::warp_id() % 4 * 16;
            if token < n_tokens {
                give::<LEN, BLOCKS>(pieces, given, &results, rank);
            }
            given.wait_remote(0, 0);
            if token < n_tokens {
                let row = stretch.row + corner.1 + rank * (2 * LEN / BLOCKS) as u32;
                add::<LEN, BLOCKS>(pieces, store, (token, n_tokens), (row, n_rows));
            }
        },
    );
}

/// Where four results of a thread lie, of those that one block gives to another.
#[inline(always)]
fn place_of<const LEN: usize, const BLOCKS: usize>(from: usize, quad: usize) -> usize {
    let thread = thread::thread_idx_x() as usize - wgmma::SIZE as usize;
    ((from * LEN / BLOCKS / 4 + quad) * CONSUMER_THREADS + thread) * 4
}

/// Gives every block of the cluster its part of this thread's results.
#[inline(always)]
#[track_caller]
fn give<const LEN: usize, const BLOCKS: usize>(
    pieces: Tile<f32>,
    given: Barriers,
    results: &Accumulators<LEN>,
    rank: u32,
) {
    for to in 0..BLOCKS {
        for quad in 0..LEN / BLOCKS / 4 {
            let first = to * LEN / BLOCKS + 4 * quad;
            let values = [0, 1, 2, 3].map(|i| results.get(first + i));
            let place = place_of::<LEN, BLOCKS>(rank as usize, quad);
            pieces.store_async(to as u32, place, values, given, 0);
        }
    }
}

/// Adds the pieces of this thread's part of the block's part of the tile, whose first token and row are passed, in the order
/// of the columns.
#[inline(always)]
#[track_caller]
fn add<const LEN: usize, const BLOCKS: usize>(
    pieces: Tile<f32>,
    store: impl Fn(usize, [f32; 2]),
    (token, n_tokens): (u32, u32),
    (row, n_rows): (u32, u32),
) {
    let lane = warp::lane_id();
    let (token, row) = (token + lane / 4, row + lane % 4 * 2);
    for quad in 0..LEN / BLOCKS / 4 {
        let mut sum = [0.0f32; 4];
        for from in 0..BLOCKS {
            let piece = pieces.load::<4>(place_of::<LEN, BLOCKS>(from, quad));
            sum = [sum[0] + piece[0], sum[1] + piece[1], sum[2] + piece[2], sum[3] + piece[3]];
        }
        let row = row + 8 * quad as u32;
        for half in 0..2 {
            let token = token + 8 * half as u32;
            if token < n_tokens && row < n_rows {
                let i = token as usize * n_rows as usize + row as usize;
                store(i, [sum[2 * half], sum[2 * half + 1]]);
            }
        }
    }
}
