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

/// Rows of a tile.
pub const TILE_ROWS: u32 = 128;

/// A block's shared memory: the ring, and the pieces of its part of the tile that other blocks give it.
const fn shared_bytes(tokens: u32, blocks: usize) -> usize {
    let pieces = tile_bytes::<f32>((tokens * TILE_ROWS) as usize / blocks * (blocks - 1));
    ring_bytes(tokens, TILE_ROWS, stages(tokens)) + pieces + mbarrier::bytes(1)
}

/// Stages of the ring.
const fn stages(tokens: u32) -> usize {
    if tokens == 64 { 8 } else { 5 }
}

macro_rules! entries {
    ($($name:ident: $ty:ident, $tokens:tt among $blocks:tt;)*) => {$(
        #[doc = concat!("y\\[t, o\\] = Σ w\\[o, k\\] · x\\[t, k\\], all in ", stringify!($ty), ", tiles of ", $tokens)]
        #[doc = concat!("tokens by 128 rows, whose columns are divided among ", $blocks, " blocks.")]
        ///
        /// `y [n_tokens, n_rows]`, `w [n_rows, n_cols]`, `x [n_tokens, n_cols]`; sums in f32, those of each block's columns
        /// apart. Of 64 tokens each consumer multiplies half of the rows, of 128 half of the tokens.
        ///
        /// Grid: a cluster for each tile.
        /// Requires: compute capability 9.0; `n_rows` even; 64 columns for each block of a cluster.
        /// Fast because: every block reads an equal part of w, through the copy engine, 80 KiB ahead or more; pieces
        /// move between multiprocessors without the second-level cache, 16 bytes a thread, and need no second kernel.
        #[kernel(
            threads = THREADS,
            cluster = $blocks,
            shared = shared_bytes($tokens, $blocks),
            min_blocks = 1,
            max_regs = 128,
            pdl,
            sm_90a
        )]
        pub fn $name(
            y: Out<$ty>,
            w: InBoxes<$ty, TILE_ROWS>,
            x: InBoxes<$ty, $tokens>,
            n_tokens: u32,
            n_rows: u32,
            n_cols: u32,
        ) {
            const LEN: usize = $tokens * TILE_ROWS as usize / CONSUMER_THREADS;
            let store = |i: usize, pair: [f32; 2]| y.store(i, pair.map($ty::from_f32));
            split::<$ty, $tokens, LEN, { stages($tokens) }, $blocks>(store, w, x, n_tokens, n_rows, n_cols);
        }
    )*};
}

entries! {
    gemm_split2_bf16_t64: bf16, 64 among 2;
    gemm_split4_bf16_t64: bf16, 64 among 4;
    gemm_split2_bf16_t128: bf16, 128 among 2;
    gemm_split4_bf16_t128: bf16, 128 among 4;
    gemm_split2_f16_t64: f16, 64 among 2;
    gemm_split4_f16_t64: f16, 64 among 4;
    gemm_split2_f16_t128: f16, 128 among 2;
    gemm_split4_f16_t128: f16, 128 among 4;
}

#[inline(always)]
#[track_caller]
fn split<T: Operand, const TOKENS: u32, const LEN: usize, const STAGES: usize, const BLOCKS: usize>(
    store: impl Fn(usize, [f32; 2]),
    w: InBoxes<T, TILE_ROWS>,
    x: InBoxes<T, TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    let mut shared = Shared::new();
    let ring = Ring::<T, TOKENS, TILE_ROWS, TILE_ROWS, STAGES>::new(&mut shared, 2);
    let pieces = shared.tile::<f32>((TOKENS * TILE_ROWS) as usize / BLOCKS * (BLOCKS - 1));
    let given = shared.barriers(1);
    pdl::launch_dependents();
    let (rank, n_blocks) = (cluster::block_rank(), BLOCKS as u32);
    let (tile, n_row_tiles) = (thread::block_idx_x() / n_blocks, n_rows.div_ceil(TILE_ROWS));
    let n_stages = n_cols.div_ceil(STAGE_COLS);
    let first_stage = rank * n_stages / n_blocks;
    let stretch = Stretch {
        token: tile / n_row_tiles * TOKENS,
        row: tile % n_row_tiles * TILE_ROWS,
        first_stage,
        n_stages: (rank + 1) * n_stages / n_blocks - first_stage,
    };
    // Warps with tokens: of the others nothing is wanted.
    let n_warps = (n_tokens - stretch.token).min(TOKENS).div_ceil(16) * 2 * CONSUMER_TOKENS / TOKENS;
    if thread::thread_idx_x() == 0 {
        given.init(0, 1);
        mbarrier::fence_init();
        let bytes = (LEN / BLOCKS * (BLOCKS - 1) * size_of::<f32>()) as u32;
        given.arrive_expect(0, n_warps * warp::SIZE * bytes);
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
                let lane = warp::lane_id();
                let row = stretch.row + corner.1 + rank * (2 * LEN / BLOCKS) as u32 + lane % 4 * 2;
                let token = token + lane / 4;
                add::<LEN, BLOCKS>(pieces, &results, rank, |quad, sum| {
                    let row = row + 8 * quad as u32;
                    for half in 0..2 {
                        let token = token + 8 * half as u32;
                        if token < n_tokens && row < n_rows {
                            let i = token as usize * n_rows as usize + row as usize;
                            store(i, [sum[2 * half], sum[2 * half + 1]]);
                        }
                    }
                });
            }
        },
    );
}

/// Where four results of a thread lie, of those that block `from` gives to block `to`, which has no place for its own.
#[inline(always)]
fn place_of<const LEN: usize, const BLOCKS: usize>(from: u32, to: u32, quad: usize) -> usize {
    let thread = thread::thread_idx_x() as usize - wgmma::SIZE as usize;
    let slot = (from - u32::from(from > to)) as usize;
    ((slot * LEN / BLOCKS / 4 + quad) * CONSUMER_THREADS + thread) * 4
}

/// Four of this thread's results, of the part of the tile that block `to` adds.
#[inline(always)]
fn quad_of<const LEN: usize, const BLOCKS: usize>(
    results: &Accumulators<LEN>,
    to: usize,
    quad: usize,
) -> [f32; 4] {
    [0, 1, 2, 3].map(|i| results.get(to * LEN / BLOCKS + 4 * quad + i))
}

/// Gives every other block of the cluster its part of this thread's results.
#[inline(always)]
#[track_caller]
pub(crate) fn give<const LEN: usize, const BLOCKS: usize>(
    pieces: Tile<f32>,
    given: Barriers,
    results: &Accumulators<LEN>,
    rank: u32,
) {
    for to in 0..BLOCKS {
        if to as u32 != rank {
            for quad in 0..LEN / BLOCKS / 4 {
                let place = place_of::<LEN, BLOCKS>(rank, to as u32, quad);
                pieces.store_async(to as u32, place, quad_of::<LEN, BLOCKS>(results, to, quad), given, 0);
            }
        }
    }
}

/// Adds the pieces of this thread's part of the block's part of the tile, four results at a time, in the order of the columns.
/// Its own piece is among the results.
#[inline(always)]
#[track_caller]
pub(crate) fn add<const LEN: usize, const BLOCKS: usize>(
    pieces: Tile<f32>,
    results: &Accumulators<LEN>,
    rank: u32,
    mut take: impl FnMut(usize, [f32; 4]),
) {
    for quad in 0..LEN / BLOCKS / 4 {
        let mut own = quad_of::<LEN, BLOCKS>(results, 0, quad);
        for part in 1..BLOCKS {
            if part as u32 == rank {
                own = quad_of::<LEN, BLOCKS>(results, part, quad);
            }
        }
        let mut sum = [0.0f32; 4];
        for from in 0..BLOCKS as u32 {
            let piece =
                if from == rank { own } else { pieces.load::<4>(place_of::<LEN, BLOCKS>(from, rank, quad)) };
            sum = [sum[0] + piece[0], sum[1] + piece[1], sum[2] + piece[2], sum[3] + piece[3]];
        }
        take(quad, sum);
    }
}
