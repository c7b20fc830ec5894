//! Products with few tiles: the columns of a tile are divided between the two blocks of a cluster.
//!
//! In the end each block has a piece of every result. Block r gets all pieces of the r-th half of the tile's tokens, which the
//! other one stores into its shared memory, and adds them in the order of the columns.

#![allow(clippy::needless_range_loop, reason = "constant indices keep arrays in registers")]

use super::consumer::Consumer;
use super::items::{Item, Place};
use super::ring::Ring;
use super::staging::{Output, STAGED_ROWS, Scales, Staging, Y_BOX};
use super::{CLUSTER, CONSUMER_ROWS, TILE_ROWS, shared_bytes};
use crate::gemm_wgmma::split::{add, give};
use crate::quant::fragments::QuantFragments;
use crate::quant::halves::UNIT_COLS;
use crate::simt::boxes::{InBoxes, OutBoxes};
use crate::simt::cluster;
use crate::simt::mbarrier;
use crate::simt::prelude::*;
use crate::simt::shared::tile_bytes;
use crate::simt::wgmma::{self, Accumulators};

/// Tokens of a tile.
pub const TILE_TOKENS: u32 = 256;
const STAGES: usize = 4;
/// Results of a thread, and those that it adds in the end.
const LEN: usize = 128;
const HALF: usize = LEN / CLUSTER as usize;
/// Pieces that the other block stores.
const N_PIECES: usize = (TILE_TOKENS * TILE_ROWS / CLUSTER) as usize;

/// A block's shared memory.
pub const SHARED_BYTES: usize = shared_bytes(TILE_TOKENS, STAGES, 2 * STAGED_ROWS)
    + tile_bytes::<f32>(N_PIECES)
    + mbarrier::bytes(1).next_multiple_of(1024);

/// The product of w with its rows and columns and x with its scales and tokens.
#[inline(always)]
#[track_caller]
pub fn split<Q: QuantFragments, const GROUPS: usize>(
    y: OutBoxes<f32, Y_BOX>,
    (w, n_rows, n_cols): (In<u8>, u32, u32),
    (x, x_scales, n_tokens): (InBoxes<f16, TILE_TOKENS>, In<f32>, u32),
) {
    let mut shared = Shared::new();
    let output = Staging { y, rows: shared.rows(2 * STAGED_ROWS), consumer: 0 };
    let pieces = shared.tile::<f32>(N_PIECES);
    let given = shared.barriers(1);
    if thread::thread_idx_x() == 0 {
        given.init(0, 1);
        mbarrier::fence_init();
        given.arrive_expect(0, (N_PIECES * size_of::<f32>()) as u32);
    }
    // Ends with a barrier: the other block's shared memory is there from here on.
    let ring = Ring::<TILE_TOKENS, TILE_TOKENS, STAGES>::new(&mut shared, 2);
    pdl::launch_dependents();
    let rank = cluster::block_rank();
    let (tile, n_row_tiles) = (thread::block_idx_x() / CLUSTER, n_rows.div_ceil(TILE_ROWS));
    let n_units = n_cols.div_ceil(UNIT_COLS);
    let first_unit = rank * n_units / CLUSTER;
    let item = Item {
        token: tile / n_row_tiles * TILE_TOKENS,
        row: tile % n_row_tiles * TILE_ROWS,
        part: 0,
        first_unit,
        n_units: (rank + 1) * n_units / CLUSTER - first_unit,
    };
    // The same in all lanes, and so that the PTX compiler knows it.
    let warp = warp::shuffle_idx(warp::warp_id(), 0);
    let warpgroup = warp * warp::SIZE / wgmma::SIZE;
    if warpgroup == 0 {
        wgmma::release_registers::<24>();
        if warp == 0 {
            pdl::wait();
            ring.fill(x, item, mbarrier::Place::START);
        }
    } else {
        wgmma::take_registers::<240>();
        let consumer = warpgroup - 1;
        let output = output.of_consumer(consumer);
        let this = Consumer::<Q, GROUPS>::new(w, n_rows, n_cols, consumer * CONSUMER_ROWS);
        let ready = this.start(item);
        pdl::wait();
        let mut results = Accumulators::<LEN>::zero();
        this.multiply(&mut results, ring, ready, (item, item), mbarrier::Place::START);
        let token = item.token + rank * (TILE_TOKENS / CLUSTER);
        let scales = Scales::load(x_scales, token, n_tokens);
        results.finish();
        give::<LEN, { CLUSTER as usize }>(pieces, given, &results, rank);
        given.wait_remote(0, 0);
        let mut sums = Accumulators::<HALF>::zero();
        add::<LEN, { CLUSTER as usize }>(pieces, &results, rank, |quad, sum| {
            for i in 0..4 {
                sums.set(4 * quad + i, sum[i]);
            }
        });
        output.store(&sums, &scales, Place { row: token, end: u32::MAX, col: item.row }, 0);
        // A block's shared memory must outlive the stores that read it.
        output.finish();
    }
}
