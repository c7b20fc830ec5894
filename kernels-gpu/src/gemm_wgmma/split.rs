//! Products with few tokens and so few rows that two blocks for each tile, as in [`super::pair`], would leave most
//! multiprocessors without work: the columns of a tile are divided among four.
//!
//! The blocks of a cluster take equal stretches of one tile's columns. In the end each has a piece of every result; block r
//! gets all pieces of the r-th part of the tile, which the others store into its shared memory, and adds them in the
//! order of the columns, so that the result does not depend on which block was first.

use super::ring::{Ring, STAGE_COLS, Stretch, THREADS, ring_bytes};
use crate::simt::boxes::InBoxes;
use crate::simt::cluster;
use crate::simt::mbarrier::{self, Barriers, Place};
use crate::simt::prelude::*;
use crate::simt::shared::tile_bytes;
use crate::simt::wgmma::{self, Accumulators, Operand};

/// Tokens of a tile.
pub const TILE_TOKENS: u32 = 64;
/// Rows of a tile.
pub const TILE_ROWS: u32 = 128;
/// Blocks of a cluster, among which the columns of a tile are divided.
pub const BLOCKS: usize = 4;

const STAGES: usize = 8;
/// Threads that hold results.
const CONSUMER_THREADS: usize = 2 * wgmma::SIZE as usize;
/// Results of a thread.
const LEN: usize = (TILE_TOKENS * TILE_ROWS) as usize / CONSUMER_THREADS;
/// Results of a thread that one block adds.
const PART: usize = LEN / BLOCKS;
/// Results that the other blocks give.
const N_GIVEN: usize = CONSUMER_THREADS * PART * (BLOCKS - 1);
const SHARED_BYTES: usize =
    ring_bytes(TILE_TOKENS, TILE_ROWS, STAGES) + tile_bytes::<f32>(N_GIVEN) + mbarrier::bytes(1);

macro_rules! entry {
    ($name:ident: $ty:ident) => {
        #[doc = concat!("y\\[t, o\\] = Σ w\\[o, k\\] · x\\[t, k\\], all in ", stringify!($ty), ", tiles of 64 tokens by 128 rows,")]
        /// whose columns are divided among four blocks.
        ///
        /// `y [n_tokens, n_rows]`, `w [n_rows, n_cols]`, `x [n_tokens, n_cols]`; sums in f32, those of each block's columns
        /// apart.
        ///
        /// Grid: a cluster for each tile.
        /// Requires: compute capability 9.0; `n_rows` even; 64 columns for each block of a cluster.
        /// Fast because: every block reads an equal part of w, through the copy engine, 128 KiB ahead; pieces move between
        /// multiprocessors without the second-level cache, 16 bytes a thread, and need no second kernel.
        #[kernel(threads = THREADS, cluster = BLOCKS, shared = SHARED_BYTES, min_blocks = 1, max_regs = 128, pdl, sm_90a)]
        pub fn $name(
            y: Out<$ty>,
            w: InBoxes<$ty, TILE_ROWS>,
            x: InBoxes<$ty, TILE_TOKENS>,
            n_tokens: u32,
            n_rows: u32,
            n_cols: u32,
        ) {
            split(|i, pair| y.store(i, pair.map($ty::from_f32)), w, x, n_tokens, n_rows, n_cols);
        }
    };
}

entry!(gemm_split_bf16: bf16);
entry!(gemm_split_f16: f16);

#[inline(always)]
#[track_caller]
fn split<T: Operand>(
    store: impl Fn(usize, [f32; 2]),
    w: InBoxes<T, TILE_ROWS>,
    x: InBoxes<T, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    let mut shared = Shared::new();
    let ring = Ring::<T, TILE_TOKENS, TILE_ROWS, TILE_ROWS, STAGES>::new(&mut shared, 2);
    let pieces = shared.tile::<f32>(N_GIVEN);
    let given = shared.barriers(1);
    pdl::launch_dependents();
    let (rank, n_blocks) = (cluster::block_rank(), BLOCKS as u32);
    let n_stages = n_cols.div_ceil(STAGE_COLS);
    let stages = rank * n_stages / n_blocks..(rank + 1) * n_stages / n_blocks;
    let tile = thread::block_idx_x() / n_blocks;
    let stretch = Stretch::of_tile::<TILE_TOKENS, TILE_ROWS>(tile, n_rows, stages);
    if thread::thread_idx_x() == 0 {
        given.init(0, 1);
        mbarrier::fence_init();
        given.arrive_expect(0, (N_GIVEN * size_of::<f32>()) as u32);
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
            let mut results = Accumulators::<LEN>::zero();
            // A consumer has half of the rows.
            let first_row = consumer * TILE_ROWS / 2;
            ring.multiply(&mut results, (0, first_row), stretch.n_stages, Place::START);
            give::<LEN, BLOCKS>(pieces, given, &results, rank);
            given.wait_remote(0, 0);
            let lane = warp::lane_id();
            let token = stretch.token + warp::warp_id() % 4 * 16 + lane / 4;
            let row = stretch.row + first_row + rank * 2 * PART as u32 + lane % 4 * 2;
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
