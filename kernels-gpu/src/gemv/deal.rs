//! The kernels for several vectors: how warps share a matrix. Every warp has a tile of rows of its own, or shares it with others
//! that have other columns: as many share as leave no warp without work. So a warp adds up over long runs of tiles, and
//! only the last sums meet in shared memory. The vectors do not go there: a lane reads what it needs from global memory, in
//! the order in which the tensor cores take it.

use core::marker::PhantomData;

use super::ring::{Ring, Walk, place_bytes, ring_depth};
use super::several::{At, Several, VectorWords, each_sum, vector_at};
use super::{WARPS, X};
use crate::quant::fragments::{Fragments, TILE_ROWS};
use crate::simt::prelude::*;
use crate::simt::shared;

/// Shared memory for tiles on their way.
const RING_BYTES: usize = 56 << 10;

const fn depth<Q: Fragments>() -> usize {
    ring_depth::<Q>(RING_BYTES)
}

/// Sums of a block's warps.
const fn n_sums(n_vectors: usize) -> usize {
    WARPS * n_vectors * TILE_ROWS
}

/// Shared memory of a block.
pub const fn shared_bytes<Q: Fragments>(max_vectors: usize) -> usize {
    let bytes = shared::tile_bytes::<u8>(depth::<Q>() * WARPS * place_bytes::<Q>())
        + shared::tile_bytes::<f32>(n_sums(max_vectors));
    assert!(bytes <= super::SHARED_BYTES_MAX);
    bytes
}

/// How the warps of a block share tiles of rows.
#[derive(Clone, Copy)]
struct Deal {
    row_tiles: u32,
    col_tiles: u32,
    /// The logarithm of how many warps share a tile of rows.
    sharing: u32,
}

impl Deal {
    #[inline(always)]
    fn new(row_tiles: u32, col_tiles: u32) -> Self {
        let sharing = match row_tiles.div_ceil(thread::grid_dim_x()) {
            1 => 3,
            2 => 2,
            3 | 4 => 1,
            _ => 0,
        };
        Self { row_tiles, col_tiles, sharing }
    }

    /// Tiles of rows that a block works on at once.
    #[inline(always)]
    fn slots(self) -> u32 {
        WARPS as u32 >> self.sharing
    }

    /// Which of the warps that share a tile of rows this one is; it takes every so many-th tile, from that on.
    #[inline(always)]
    fn share(self) -> u32 {
        warp::warp_id() & ((1 << self.sharing) - 1)
    }

    /// The tile of rows of a slot, if that of the first slot is `row_tile`.
    #[inline(always)]
    fn in_slot(self, row_tile: u32, slot: u32) -> u32 {
        row_tile + slot * thread::grid_dim_x()
    }

    /// The same of the warp's slot.
    #[inline(always)]
    fn of_warp(self, row_tile: u32) -> u32 {
        self.in_slot(row_tile, warp::warp_id() >> self.sharing)
    }

    /// From a slot's tile of rows to its next one.
    #[inline(always)]
    fn step(self) -> u32 {
        self.slots() * thread::grid_dim_x()
    }
}

/// The tiles of a warp.
struct Runs<Q> {
    format: PhantomData<Q>,
    w: In<u8>,
    deal: Deal,
    row_tile: u32,
    col_tile: u32,
}

impl<Q: Fragments> Runs<Q> {
    #[inline(always)]
    fn new(w: In<u8>, deal: Deal) -> Self {
        let (row_tile, col_tile) = (deal.of_warp(thread::block_idx_x()), deal.share());
        Self { format: PhantomData, w, deal, row_tile, col_tile }
    }
}

impl<Q: Fragments> Walk for Runs<Q> {
    #[inline(always)]
    fn next(&mut self) -> Option<(In<u8>, usize)> {
        if self.row_tile >= self.deal.row_tiles || self.col_tile >= self.deal.col_tiles {
            return None;
        }
        let tile = self.row_tile * self.deal.col_tiles + self.col_tile;
        self.col_tile += 1 << self.deal.sharing;
        if self.col_tile >= self.deal.col_tiles {
            self.row_tile += self.deal.step();
            self.col_tile = self.deal.share();
        }
        Some((self.w, tile as usize * Q::TILE_BYTES))
    }
}

/// The product.
#[inline(always)]
pub fn gemv<Q: Several, const PARTS: usize, const NT: usize>(y: InOut<f32>, w: In<u8>, x: X, n_rows: usize) {
    let mut shared = Shared::new();
    let bytes = shared.tile::<u8>(depth::<Q>() * WARPS * place_bytes::<Q>());
    let sums_tile = shared.tile::<f32>(n_sums(8 / PARTS * NT));
    let row_tiles = n_rows.div_ceil(TILE_ROWS) as u32;
    let deal = Deal::new(row_tiles, Q::tiles_per_row(x.n_cols) as u32);

    pdl::launch_dependents();
    let mut ring = Ring::<Q, _>::new(bytes, depth::<Q>(), Runs::<Q>::new(w, deal));
    pdl::wait();
    let words = VectorWords::<PARTS, NT>::new::<Q>(x);
    // Of the first slot, so that the warps of a block agree.
    let mut row_tile = thread::block_idx_x();
    while row_tile < row_tiles {
        let row_tile_of_warp = deal.of_warp(row_tile);
        let end = if row_tile_of_warp < row_tiles { deal.col_tiles } else { 0 };
        let mut sums = [[0.0; 4]; NT];
        let mut col_tile = deal.share();
        while col_tile < end {
            ring.wait();
            Q::add_tile(&mut sums, ring.tile(), words, At::new(col_tile as usize));
            ring.advance();
            col_tile += 1 << deal.sharing;
        }
        let store = |row_tile: u32, row: usize, vector: usize, sum: f32| {
            let row = row_tile as usize * TILE_ROWS + row;
            if row_tile < row_tiles && row < n_rows && vector < x.n_vectors {
                y.set(vector * n_rows + row, sum);
            }
        };
        if deal.sharing == 0 {
            each_sum::<PARTS, NT>(sums, |row, place, sum| {
                store(row_tile_of_warp, row, vector_at::<PARTS>(place), sum);
            });
        } else {
            add_warps::<PARTS, NT>(sums_tile, sums, deal, |slot, row, vector, sum| {
                store(deal.in_slot(row_tile, slot), row, vector, sum);
            });
        }
        row_tile += deal.step();
    }
}

/// Adds up what the warps of each slot have and gives each sum to one thread, as (slot, row of the tile, vector, sum).
#[inline(always)]
fn add_warps<const PARTS: usize, const NT: usize>(
    tile: Tile<f32>,
    sums: [[f32; 4]; NT],
    deal: Deal,
    store: impl Fn(u32, usize, usize, f32),
) {
    let n_vectors = 8 / PARTS * NT;
    // Vectors whose sums a lane has come four apart, and every other pair of places has its halves exchanged: so lanes with
    // four places and eight rows hit 32 banks.
    let at = |warp: u32, place: usize, row: usize| {
        (warp as usize * n_vectors + place) * TILE_ROWS + (row ^ (place / 2 % 2 * 8))
    };
    thread::sync_threads();
    each_sum::<PARTS, NT>(sums, |row, place, sum| tile.set(at(warp::warp_id(), place, row), sum));
    thread::sync_threads();
    let mut i = thread::thread_idx_x() as usize;
    while i < deal.slots() as usize * n_vectors * TILE_ROWS {
        let (slot, place, row) = (i / (n_vectors * TILE_ROWS), i / TILE_ROWS % n_vectors, i % TILE_ROWS);
        let mut sum = 0.0;
        let mut warp = 0;
        while warp < 1 << deal.sharing {
            sum += tile.get(at(((slot as u32) << deal.sharing) + warp, place, row));
            warp += 1;
        }
        store(slot as u32, row, vector_at::<PARTS>(place), sum);
        i += super::THREADS as usize;
    }
}
