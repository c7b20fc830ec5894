//! Products with few tokens in small tiles, so that all multiprocessors have one: 64 tokens by 64 rows.
//!
//! Such a product is bound by reading w. The consumers take stages in turns, so that each reads a stage whole and alone
//! from shared memory, whose bandwidth would else be the bound; in the end they add what they have. Two tiles of the same
//! rows are a cluster, of which each block loads half of the rows of w for both.

use super::ring::{Ring, STAGE_COLS, Stretch, THREADS, ring_bytes};
use super::{GROUP, Tiles};
use crate::simt::boxes::InBoxes;
use crate::simt::cluster;
use crate::simt::mbarrier::Place;
use crate::simt::prelude::*;
use crate::simt::shared::tile_bytes;
use crate::simt::wgmma::{self, Accumulators, Operand};

/// Tokens, and rows, of a tile.
pub const TILE: u32 = 64;
/// Results of a thread.
const LEN: usize = 32;
const STAGES: usize = 13;
const N_CONSUMERS: u32 = 2;
const SHARED_BYTES: usize = ring_bytes(TILE, TILE, STAGES) + tile_bytes::<f32>((TILE * TILE) as usize);

/// Rows of w that a block loads for both of its cluster.
const W_BOX: u32 = TILE / BLOCKS;
/// Blocks of a cluster.
const BLOCKS: u32 = 2;

macro_rules! entry {
    ($name:ident: $ty:ident) => {
        #[doc = concat!("y\\[t, o\\] = Σ w\\[o, k\\] · x\\[t, k\\], all in ", stringify!($ty), ", tiles of 64 tokens by 64 rows.")]
        ///
        /// `y [n_tokens, n_rows]`, `w [n_rows, n_cols]`, `x [n_tokens, n_cols]`; sums in f32, those of even and those of odd
        /// stages of 64 columns apart.
        ///
        /// Grid: any number of clusters up to one for each two tiles along the tokens, best one block a multiprocessor.
        /// Requires: compute capability 9.0; `n_rows` even.
        /// Fast because: small tiles give every multiprocessor an equal part of w, which comes through the copy engine 100 KiB
        /// ahead; a stage is read once.
        #[kernel(threads = THREADS, cluster = BLOCKS, shared = SHARED_BYTES, min_blocks = 1, max_regs = 128, pdl, sm_90a)]
        pub fn $name(
            y: Out<$ty>,
            w: InBoxes<$ty, W_BOX>,
            x: InBoxes<$ty, TILE>,
            n_tokens: u32,
            n_rows: u32,
            n_cols: u32,
        ) {
            turns(|i, pair| y.store(i, pair.map($ty::from_f32)), w, x, n_tokens, n_rows, n_cols);
        }
    };
}

entry!(gemm_turns_bf16: bf16);
entry!(gemm_turns_f16: f16);

#[inline(always)]
#[track_caller]
fn turns<T: Operand>(
    store: impl Fn(usize, [f32; 2]),
    w: InBoxes<T, W_BOX>,
    x: InBoxes<T, TILE>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    let mut shared = Shared::new();
    let ring = Ring::<T, TILE, TILE, W_BOX, STAGES>::new(&mut shared, 1);
    let halves = shared.tile::<f32>((TILE * TILE) as usize);
    pdl::launch_dependents();
    let rank = cluster::block_rank();
    let tiles = Tiles {
        tokens: n_tokens.div_ceil(BLOCKS * TILE),
        rows: n_rows.div_ceil(TILE),
        group: GROUP / BLOCKS,
    };
    let n_tiles = tiles.tokens * tiles.rows;
    let (first_tile, step) = (thread::block_idx_x() / BLOCKS, thread::grid_dim_x() / BLOCKS);
    // As many stages for each consumer: past the last column there are zeros.
    let n_stages = n_cols.div_ceil(N_CONSUMERS * STAGE_COLS) * N_CONSUMERS;
    let stretch = |tile: u32| {
        let (token_tile, row_tile) = tiles.at(tile);
        let token = (token_tile * BLOCKS + rank) * TILE;
        Stretch { token, row: row_tile * TILE, first_stage: 0, n_stages }
    };
    wgmma::specialise::<56, 160>(
        || {
            let (mut tile, mut place) = (first_tile, Place::START);
            let mut n_preloaded = ring.preload(w, stretch(tile));
            pdl::wait();
            while tile < n_tiles {
                place = ring.fill(x, w, stretch(tile), place, n_preloaded);
                n_preloaded = 0;
                tile += step;
            }
            // A block's shared memory must outlive the arrivals of the other block's consumers.
            ring.drain(place);
        },
        |consumer| {
            pdl::wait();
            let (mut tile, mut place) = (first_tile, Place::START);
            if consumer > 0 {
                place = place.next::<STAGES>();
            }
            while tile < n_tiles {
                let Stretch { token, row, .. } = stretch(tile);
                let mut results = Accumulators::<LEN>::zero();
                place = ring.multiply_every_other(&mut results, n_stages / N_CONSUMERS, place);
                let sums = add_halves(halves, &results, consumer);
                let lane = warp::lane_id();
                let token = token + warp::warp_id() % 4 * 16 + lane / 4;
                let row = row + consumer * TILE / 2 + lane % 4 * 2;
                for half in 0..2 {
                    let token = token + 8 * half as u32;
                    for group in 0..LEN / 8 {
                        let row = row + 8 * group as u32;
                        let i = 4 * group + 2 * half;
                        if token < n_tokens && row < n_rows {
                            store(token as usize * n_rows as usize + row as usize, [sums[i], sums[i + 1]]);
                        }
                    }
                }
                tile += step;
            }
        },
    );
}

/// Gives the other consumer its half of this one's results, and adds what the other gives: sums for half of the rows.
#[inline(always)]
#[track_caller]
fn add_halves(halves: Tile<f32>, results: &Accumulators<LEN>, consumer: u32) -> [f32; LEN / 2] {
    const BARRIER: u32 = 1;
    const THREADS: u32 = N_CONSUMERS * wgmma::SIZE;
    let thread = (thread::thread_idx_x() % wgmma::SIZE) as usize;
    let place =
        |owner: u32, quad: usize| 4 * ((owner as usize * LEN / 8 + quad) * wgmma::SIZE as usize + thread);
    let of = |upper: bool, i: usize| if upper { results.get(LEN / 2 + i) } else { results.get(i) };
    // The sums before have been read.
    thread::sync_named(BARRIER, THREADS);
    for quad in 0..LEN / 8 {
        let given = [0, 1, 2, 3].map(|i| of(consumer == 0, 4 * quad + i));
        halves.store::<4>(place(1 - consumer, quad), given);
    }
    thread::sync_named(BARRIER, THREADS);
    let mut sums = [0.0f32; LEN / 2];
    for quad in 0..LEN / 8 {
        let given = halves.load::<4>(place(consumer, quad));
        for i in 0..4 {
            sums[4 * quad + i] = of(consumer == 1, 4 * quad + i) + given[i];
        }
    }
    sums
}
