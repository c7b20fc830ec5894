//! What a consumer does: fetches packed weights, decodes them, has them multiplied.

#![allow(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "constant indices keep arrays in registers"
)]

use core::marker::PhantomData;

use super::WEIGHT_FACTOR;
use super::items::Item;
use super::ring::{Ring, STAGE_COLS};
use crate::quant::fragments::{self, QuantFragments};
use crate::simt::mbarrier::Place;
use crate::simt::prelude::*;
use crate::simt::wgmma::{self, Accumulators};

/// Columns that a warp fetches at a time: a group of four-bit quants.
pub const UNIT_COLS: u32 = 128;
/// Chunks of a unit, and of a stage of x. A chunk is the columns of one product; they are decoded, and multiplied, chunk by chunk.
const UNIT_CHUNKS: usize = UNIT_COLS as usize / wgmma::K;
const STAGE_CHUNKS: usize = STAGE_COLS as usize / wgmma::K;
/// Batches that are decoded before they are multiplied. A batch is some chunks that go to the tensor cores together.
const AHEAD: usize = 2;
/// Most chunks of a batch.
const BATCH_MAX: usize = 2;
/// Chunks in registers: two batches are decoded, and the tensor cores may still read two.
const BUFFERS_MAX: usize = 2 * AHEAD * BATCH_MAX;

/// What a lane holds of a unit as it lies in memory.
pub struct Fetched<Q: QuantFragments, const GROUPS: usize> {
    quants: [Q::Quants; GROUPS],
    scales: Q::Scales,
    /// Which unit of its tile it is.
    in_tile: usize,
}

impl<Q: QuantFragments, const GROUPS: usize> Clone for Fetched<Q, GROUPS> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<Q: QuantFragments, const GROUPS: usize> Copy for Fetched<Q, GROUPS> {}

/// Scales of a unit, or its offsets: pairs for rows g and g + 8, in sub-blocks c and c + 4 of the unit (if a sub-block has
/// 32 elements there is no second one).
#[derive(Clone, Copy)]
struct Factors {
    scales: [f16x2; 2],
    offsets: [f16x2; 2],
}

/// Those of one sub-block: of row g in both halves, and of row g + 8.
type OfRows = [[f16x2; 2]; 2];

/// Constants of decoding, in registers. An instruction has room for one constant, and if it takes two the compiler copies
/// the other one to a register, before each use. So they are made of something that it cannot know.
#[derive(Clone, Copy)]
struct Constants {
    /// The upper byte of the halves from 1024 to 1279, four times.
    upper: u32,
    /// The highest bit of each byte.
    signs: u32,
    zero: u32,
}

impl Constants {
    #[inline(always)]
    fn new(n_cols: u32) -> Self {
        // Zero, since there are not that many columns; and each lane's own, so not kept among the numbers of the warp.
        let zero = warp::lane_id() & (n_cols >> 31);
        Self { upper: 0x6464_6464 | zero, signs: 0x8080_8080 | zero, zero }
    }

    /// Four bytes, less the middle quant, as two pairs.
    #[inline(always)]
    fn to_f16<Q: QuantFragments>(self, word: u32) -> [f16x2; 2] {
        if Q::UPPER_BYTES {
            return [0x1404, 0x3424].map(|places| f16x2::from_bits(math::byte_perm(word, 0, places)));
        }
        // Formats with offsets have no negative bytes.
        let (biased, bias) = if Q::HAS_OFFSET { (word, 1024) } else { (word ^ self.signs, 1024 + 128) };
        let bias = -((bias + Q::MIDDLE) as f32);
        let bias = f16x2::from_f32(bias, bias);
        [0x4140, 0x4342].map(|places| f16x2::from_bits(math::byte_perm(biased, self.upper, places)) + bias)
    }
}

/// Matrix a for the columns of a chunk.
type Decoded = [u32; 4];

impl<Q: QuantFragments, const GROUPS: usize> Fetched<Q, GROUPS> {
    /// Sub-blocks of a unit that a lane holds scales of.
    const SCALES: usize = UNIT_COLS as usize / Q::SUB / 4;
    /// Chunks of a sub-block.
    const SUB_CHUNKS: usize = Q::SUB / wgmma::K;

    /// The unit's scales and offsets, times [`WEIGHT_FACTOR`].
    #[inline(always)]
    fn factors(&self) -> Factors {
        let zero = f16x2::from_bits(0);
        let mut factors = Factors { scales: [zero; 2], offsets: [zero; 2] };
        for i in 0..Self::SCALES {
            let t = self.in_tile * Self::SCALES + i;
            let scales = [0, 1].map(|half| Q::scale(&self.scales, t, half) * WEIGHT_FACTOR);
            factors.scales[i] = f16x2::from_f32(scales[0], scales[1]);
            if Q::HAS_OFFSET {
                let offset = |half| Q::offset(&self.scales, t, half) * WEIGHT_FACTOR;
                let [near, far] = [0, 1].map(|half| math::fma(scales[half], Q::MIDDLE as f32, offset(half)));
                factors.offsets[i] = f16x2::from_f32(near, far);
            }
        }
        factors
    }

    /// The scales and offsets of a chunk; `before` are those of the chunk before it, unless it is the first.
    #[inline(always)]
    #[track_caller]
    fn of_rows(factors: &Factors, chunk: usize, before: OfRows) -> OfRows {
        if !chunk.is_multiple_of(Self::SUB_CHUNKS) {
            return before;
        }
        let sub = chunk / Self::SUB_CHUNKS;
        // The lane of these rows that has the sub-block's scales.
        let owner = warp::lane_id() & !3 | (sub % 4) as u32;
        let of_rows = |pairs: [f16x2; 2]| {
            let pair = warp::shuffle_idx(pairs[sub / 4].to_bits(), owner);
            [0x1010, 0x3232].map(|twice| f16x2::from_bits(math::byte_perm(pair, pair, twice)))
        };
        let scales = of_rows(factors.scales);
        [scales, if Q::HAS_OFFSET { of_rows(factors.offsets) } else { scales }]
    }

    /// Chunk `chunk` of a unit as matrix a.
    #[inline(always)]
    fn decode(&self, constants: Constants, [scales, offsets]: OfRows, chunk: usize) -> Decoded {
        let (step, k) = (chunk * wgmma::K / Q::STEP_COLS, chunk * wgmma::K % Q::STEP_COLS / wgmma::K);
        let quants = &self.quants[step / Q::GROUP_STEPS];
        let words = Q::half_words(quants, step % Q::GROUP_STEPS, constants.zero);
        let mut decoded = [0u32; 4];
        for half in 0..2 {
            let pairs = constants.to_f16::<Q>(words[2 * k + half]);
            for i in 0..2 {
                let weight = if Q::HAS_OFFSET {
                    pairs[i].fma(scales[half], offsets[half])
                } else {
                    pairs[i] * scales[half]
                };
                decoded[2 * i + half] = weight.to_bits();
            }
        }
        decoded
    }
}

/// A unit, of which the first chunks are decoded.
pub struct Ready<Q: QuantFragments, const GROUPS: usize> {
    unit: Fetched<Q, GROUPS>,
    factors: Factors,
    of_rows: OfRows,
    decoded: [Decoded; AHEAD * BATCH_MAX],
}

impl<Q: QuantFragments, const GROUPS: usize> Ready<Q, GROUPS> {
    /// A unit of which nothing is decoded yet.
    #[inline(always)]
    #[track_caller]
    fn new(unit: Fetched<Q, GROUPS>) -> Self {
        let factors = unit.factors();
        let zero = [f16x2::from_bits(0); 2];
        Self { unit, factors, of_rows: [zero; 2], decoded: [[0; 4]; AHEAD * BATCH_MAX] }
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
pub struct Consumer<Q, const GROUPS: usize, const BATCH: usize> {
    w: In<u8>,
    n_cols: usize,
    last_tile: usize,
    /// Of the block's rows.
    first_row: u32,
    constants: Constants,
    format: PhantomData<Q>,
}

impl<Q: QuantFragments, const GROUPS: usize, const BATCH: usize> Consumer<Q, GROUPS, BATCH> {
    const BUFFERS: usize = 2 * AHEAD * BATCH;

    /// The consumer of the rows of a block's tile from `first_row` on.
    #[inline(always)]
    pub fn new(w: In<u8>, n_rows: u32, n_cols: u32, first_row: u32) -> Self {
        let last_tile = (n_rows as usize - 1) / fragments::TILE_ROWS;
        let constants = Constants::new(n_cols);
        Self { w, n_cols: n_cols as usize, last_tile, first_row, constants, format: PhantomData }
    }

    /// Starts to load a unit of the warp's rows of the block's tile at `row`. Past the last row that is some other row: nobody
    /// looks at its results.
    #[inline(always)]
    #[track_caller]
    fn fetch(&self, row: u32, unit: u32) -> Fetched<Q, GROUPS> {
        let units = Q::TILE_COLS / UNIT_COLS as usize;
        let row_tile = (row + self.first_row) as usize / fragments::TILE_ROWS + warp::warp_id() as usize % 4;
        let tile = fragments::global_tile::<Q>(
            self.w,
            self.n_cols,
            row_tile.min(self.last_tile),
            unit as usize / units,
        );
        let (lane, in_tile) = (warp::lane_id() as usize, unit as usize % units);
        Fetched {
            quants: core::array::from_fn(|i| Q::quants(tile, lane, in_tile * GROUPS + i)),
            scales: Q::scales(tile, lane / 4, lane % 4),
            in_tile,
        }
    }

    /// Fetches the first unit of an item, and decodes its first chunks.
    #[inline(always)]
    #[track_caller]
    pub fn start(&self, item: Item) -> Ready<Q, GROUPS> {
        let mut ready = Ready::new(self.fetch(item.row, item.first_unit));
        for chunk in 0..AHEAD * BATCH {
            ready.decoded[chunk] = ready.decode(self.constants, chunk);
        }
        ready
    }

    /// Multiplies an item, whose first unit is `ready`, with the stages of x from `place` on. Gives the place after them and
    /// the first unit of the `next` item; the results are complete.
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
            let mut decoded = [[0; 4]; BUFFERS_MAX];
            for chunk in 0..AHEAD * BATCH {
                decoded[chunk] = ready.decoded[chunk];
            }
            for batch in 0..UNIT_CHUNKS / BATCH {
                let (first, in_stage) = (batch * BATCH, batch % (STAGE_CHUNKS / BATCH));
                if in_stage == 0 {
                    ring.wait(place);
                }
                let mut a = [[0; 4]; BATCH];
                for i in 0..BATCH {
                    a[i] = decoded[(first + i) % Self::BUFFERS];
                }
                wgmma::fence_operands(&mut a);
                results.fence();
                for chunk in 0..BATCH {
                    let (adds, col) = (first + chunk > 0 || i > 0, (in_stage * BATCH + chunk) * wgmma::K);
                    results.mma_registers_rows(a[chunk], ring.stage(place), col, adds);
                }
                results.commit();
                // Two batches go on; what the one before them read is free.
                results.wait_but::<{ AHEAD as u32 }>();
                if in_stage + 1 == AHEAD {
                    if first >= STAGE_CHUNKS || i > 0 {
                        ring.free(before);
                    }
                    before = place;
                }
                if (in_stage + 1) * BATCH == STAGE_CHUNKS {
                    place = place.next::<STAGES>();
                }
                for chunk in first + AHEAD * BATCH..first + (AHEAD + 1) * BATCH {
                    if chunk == UNIT_CHUNKS {
                        ready = Ready::new(fetched);
                    }
                    decoded[chunk % Self::BUFFERS] = ready.decode(self.constants, chunk % UNIT_CHUNKS);
                }
            }
            for chunk in 0..AHEAD * BATCH {
                ready.decoded[chunk] = decoded[chunk];
            }
            i += 1;
        }
        results.finish();
        ring.free(before);
        (place, ready)
    }
}
