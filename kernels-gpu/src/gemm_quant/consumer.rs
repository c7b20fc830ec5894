//! What a consumer does: fetches packed weights, decodes them, has them multiplied.

#![allow(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "constant indices keep arrays in registers"
)]

use core::marker::PhantomData;

use super::items::Item;
use super::ring::{Ring, STAGE_COLS};
use crate::quant::fragments::{self, QuantFragments};
use crate::quant::halves::{CHUNK_COLS, Constants, Decoded, Factors, Fetched, OfRows, UNIT_COLS};
use crate::simt::mbarrier::Place;
use crate::simt::prelude::*;
use crate::simt::wgmma::{self, Accumulators};

/// Chunks of a unit, and of a stage of x. A chunk is the columns of one product; they are decoded, and multiplied, chunk by chunk.
const UNIT_CHUNKS: usize = UNIT_COLS as usize / CHUNK_COLS;
const STAGE_CHUNKS: usize = STAGE_COLS as usize / CHUNK_COLS;
/// Units that are on their way to the second-level cache: memory answers later than the next unit is needed.
const PREFETCHED: u32 = 6;
/// Bytes that come to the second-level cache at a time.
const LINE_BYTES: u32 = 128;
/// Chunks that are decoded before they are multiplied.
const AHEAD: usize = 2;
/// Chunks in registers: two are decoded, and the tensor cores may still read two.
const BUFFERS: usize = 2 * AHEAD;

/// A unit, of which the first chunks are decoded.
pub struct Ready<Q: QuantFragments, const GROUPS: usize> {
    unit: Fetched<Q, GROUPS>,
    factors: Factors,
    of_rows: OfRows,
    decoded: [Decoded; AHEAD],
}

impl<Q: QuantFragments, const GROUPS: usize> Ready<Q, GROUPS> {
    /// A unit of which nothing is decoded yet.
    #[inline(always)]
    #[track_caller]
    fn new(unit: Fetched<Q, GROUPS>) -> Self {
        let factors = unit.factors();
        let zero = [f16x2::from_bits(0); 2];
        Self { unit, factors, of_rows: [zero; 2], decoded: [[0; 4]; AHEAD] }
    }

    /// Chunk `chunk`, of which the one before was decoded last.
    #[inline(always)]
    #[track_caller]
    fn decode(&mut self, constants: Constants, chunk: usize) -> Decoded {
        self.of_rows = Fetched::<Q, GROUPS>::of_rows(&self.factors, chunk, self.of_rows);
        self.unit.decode(constants, self.of_rows, chunk)
    }
}

/// A consumer and its matrix.
pub struct Consumer<Q, const GROUPS: usize> {
    w: In<u8>,
    n_cols: u32,
    last_tile: u32,
    /// Of the block's rows.
    first_row: u32,
    last_unit: u32,
    constants: Constants,
    format: PhantomData<Q>,
}

impl<Q: QuantFragments, const GROUPS: usize> Consumer<Q, GROUPS> {
    /// The consumer of the rows of a block's tile from `first_row` on.
    #[inline(always)]
    pub fn new(w: In<u8>, n_rows: u32, n_cols: u32, first_row: u32) -> Self {
        let last_tile = (n_rows - 1) / fragments::TILE_ROWS as u32;
        let last_unit = (n_cols - 1) / UNIT_COLS;
        let constants = Constants::new(n_cols);
        Self { w, n_cols, last_tile, first_row, last_unit, constants, format: PhantomData }
    }

    /// Units of a tile.
    const TILE_UNITS: u32 = Fetched::<Q, GROUPS>::TILE_UNITS;

    /// Tile of the warp's rows of the block's tile at `row`.
    #[inline(always)]
    fn row_tile(&self, row: u32) -> usize {
        let tile = (row + self.first_row) / fragments::TILE_ROWS as u32 + warp::warp_id() % 4;
        tile.min(self.last_tile) as usize
    }

    #[inline(always)]
    fn col_tile(unit: u32) -> usize {
        (unit / Self::TILE_UNITS) as usize
    }

    /// Has the tile of a unit, if it is the tile's first, come to the second-level cache. Past the last unit that is
    /// another one.
    #[inline(always)]
    #[track_caller]
    fn prefetch(&self, row: u32, unit: u32) {
        const { assert!(Q::TILE_BYTES <= (warp::SIZE * LINE_BYTES) as usize, "a line for each lane") };
        let unit = unit.min(self.last_unit);
        let at = (warp::lane_id() * LINE_BYTES) as usize;
        if unit.is_multiple_of(Self::TILE_UNITS) && at < Q::TILE_BYTES {
            let (row_tile, col_tile) = (self.row_tile(row), Self::col_tile(unit));
            self.w.prefetch(fragments::tile_start::<Q>(self.n_cols as usize, row_tile, col_tile) + at);
        }
    }

    /// Starts to load a unit of the warp's rows of the block's tile at `row`. Past the last row that is some other row: nobody
    /// looks at its results.
    #[inline(always)]
    #[track_caller]
    fn fetch(&self, row: u32, unit: u32) -> Fetched<Q, GROUPS> {
        Fetched::load(self.w, self.n_cols, self.row_tile(row), unit)
    }

    /// Fetches the first unit of an item, and decodes its first chunks.
    #[inline(always)]
    #[track_caller]
    pub fn start(&self, item: Item) -> Ready<Q, GROUPS> {
        let mut ready = Ready::new(self.fetch(item.row, item.first_unit));
        let mut ahead = 1;
        while ahead < PREFETCHED {
            self.prefetch(item.row, item.first_unit + ahead);
            ahead += 1;
        }
        for chunk in 0..AHEAD {
            ready.decoded[chunk] = ready.decode(self.constants, chunk);
        }
        ready
    }

    /// Multiplies an item, whose first unit is `ready`, with the stages of x from `place` on. Gives the last of them, whose
    /// products are under way, and the first unit of the `next` item.
    #[inline(always)]
    #[track_caller]
    pub fn multiply<const LEN: usize, const TOKENS: u32, const BOX: u32, const STAGES: usize>(
        &self,
        results: &mut Accumulators<LEN>,
        ring: Ring<TOKENS, BOX, STAGES>,
        ready: Ready<Q, GROUPS>,
        (item, next): (Item, Item),
        place: Place,
    ) -> (Place, Ready<Q, GROUPS>) {
        let (mut place, mut before) = (place, place);
        let mut ready = ready;
        // (Zero, but not to the compiler, which would take the first unit out of the loop, and more registers than there are.)
        let mut i = warp::shuffle_idx(0, 0);
        while i < item.n_units {
            let is_last = i + 1 == item.n_units;
            let (row, unit) =
                if is_last { (next.row, next.first_unit) } else { (item.row, item.first_unit + i + 1) };
            let fetched = self.fetch(row, unit);
            let ahead = i + PREFETCHED;
            if ahead < item.n_units {
                self.prefetch(item.row, item.first_unit + ahead);
            } else {
                self.prefetch(next.row, next.first_unit + ahead - item.n_units);
            }
            let mut decoded = [[0; 4]; BUFFERS];
            decoded[..AHEAD].copy_from_slice(&ready.decoded);
            for chunk in 0..UNIT_CHUNKS {
                let in_stage = chunk % STAGE_CHUNKS;
                if in_stage == 0 {
                    ring.wait(place);
                }
                let mut a = [decoded[chunk % BUFFERS]];
                wgmma::fence_operands(&mut a);
                results.fence();
                results.mma_registers_rows(
                    a[0],
                    ring.stage(place),
                    in_stage * CHUNK_COLS,
                    chunk > 0 || i > 0,
                );
                results.commit();
                // Two products go on; what the one before them read is free.
                results.wait_but::<{ AHEAD as u32 }>();
                if in_stage + 1 == AHEAD {
                    if chunk >= STAGE_CHUNKS || i > 0 {
                        ring.free(before);
                    }
                    before = place;
                }
                if in_stage + 1 == STAGE_CHUNKS {
                    place = place.next::<STAGES>();
                }
                let ahead = chunk + AHEAD;
                if ahead == UNIT_CHUNKS {
                    ready = Ready::new(fetched);
                }
                decoded[ahead % BUFFERS] = ready.decode(self.constants, ahead % UNIT_CHUNKS);
            }
            for chunk in 0..AHEAD {
                ready.decoded[chunk] = decoded[chunk % BUFFERS];
            }
            i += 1;
        }
        (before, ready)
    }
}
