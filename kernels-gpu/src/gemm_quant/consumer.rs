//! What a consumer does: fetches packed weights, decodes them, has them multiplied.

#![allow(clippy::needless_range_loop, reason = "constant indices keep arrays in registers")]

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
/// Columns that are decoded at a time.
const STEP_COLS: usize = 32;
/// Steps of a unit, and of a stage of x.
const UNIT_STEPS: usize = UNIT_COLS as usize / STEP_COLS;
const STAGE_STEPS: usize = STAGE_COLS as usize / STEP_COLS;

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

/// Constants of decoding, in registers. An instruction has room for one constant, and if it takes two the compiler copies
/// the other one to a register, before each use. So they are made of something that it cannot know.
#[derive(Clone, Copy)]
struct Constants {
    /// The upper byte of the halves from 1024 to 1279, four times.
    upper: u32,
    /// The highest bit of each byte.
    signs: u32,
}

impl Constants {
    #[inline(always)]
    fn new(n_cols: u32) -> Self {
        // Zero, since there are not that many columns; and each lane's own, so not kept among the numbers of the warp.
        let zero = warp::lane_id() & (n_cols >> 31);
        Self { upper: 0x6464_6464 | zero, signs: 0x8080_8080 | zero }
    }

    /// Four signed bytes as two pairs.
    #[inline(always)]
    fn to_f16(self, word: u32) -> [f16x2; 2] {
        let biased = word ^ self.signs;
        let bias = f16x2::from_f32(-(1024.0 + 128.0), -(1024.0 + 128.0));
        [0x4140, 0x4342].map(|places| f16x2::from_bits(math::byte_perm(biased, self.upper, places)) + bias)
    }
}

/// Matrix a for 32 columns.
type Decoded = [[u32; 4]; STEP_COLS / wgmma::K];

impl<Q: QuantFragments, const GROUPS: usize> Fetched<Q, GROUPS> {
    /// Sub-blocks of a unit that a lane holds scales of.
    const SCALES: usize = UNIT_COLS as usize / Q::SUB / 4;

    /// The unit's scales, times [`WEIGHT_FACTOR`].
    #[inline(always)]
    fn factors(&self) -> Factors {
        let zero = f16x2::from_bits(0);
        let mut factors = Factors { scales: [zero; 2], offsets: [zero; 2] };
        for i in 0..Self::SCALES {
            let t = self.in_tile * Self::SCALES + i;
            let pair = |value: fn(&Q::Scales, usize, usize) -> f32| {
                let value = |half| value(&self.scales, t, half) * WEIGHT_FACTOR;
                f16x2::from_f32(value(0), value(1))
            };
            factors.scales[i] = pair(Q::scale);
            if Q::HAS_OFFSET {
                factors.offsets[i] = pair(Q::offset);
            }
        }
        factors
    }

    /// Step `step` of a unit as matrix a.
    #[inline(always)]
    #[track_caller]
    fn decode(&self, constants: Constants, factors: &Factors, step: usize) -> Decoded {
        let steps = Q::GROUP_STEPS;
        let words = Q::words(&self.quants[step / steps], step % steps);
        let mut decoded = [[0u32; 4]; STEP_COLS / wgmma::K];
        for k in 0..STEP_COLS / wgmma::K {
            let sub = (step * STEP_COLS + k * wgmma::K) / Q::SUB;
            // The lane of these rows that has the sub-block's scales.
            let owner = warp::lane_id() & !3 | (sub % 4) as u32;
            let of_rows = |pairs: [f16x2; 2]| {
                let pair = warp::shuffle_idx(pairs[sub / 4].to_bits(), owner);
                [0x1010, 0x3232].map(|twice| f16x2::from_bits(math::byte_perm(pair, pair, twice)))
            };
            let scales = of_rows(factors.scales);
            let offsets = if Q::HAS_OFFSET { of_rows(factors.offsets) } else { scales };
            for half in 0..2 {
                let pairs = constants.to_f16(words[2 * k + half]);
                for i in 0..2 {
                    let weight = if Q::HAS_OFFSET {
                        pairs[i].fma(scales[half], offsets[half])
                    } else {
                        pairs[i] * scales[half]
                    };
                    decoded[k][2 * i + half] = weight.to_bits();
                }
            }
        }
        decoded
    }
}

/// A unit, of which the first step is decoded.
pub struct Ready<Q: QuantFragments, const GROUPS: usize> {
    unit: Fetched<Q, GROUPS>,
    factors: Factors,
    decoded: Decoded,
}

impl<Q: QuantFragments, const GROUPS: usize> Ready<Q, GROUPS> {
    /// Decodes the first step.
    #[inline(always)]
    #[track_caller]
    fn new(constants: Constants, unit: Fetched<Q, GROUPS>) -> Self {
        let factors = unit.factors();
        Self { decoded: unit.decode(constants, &factors, 0), unit, factors }
    }
}

/// A consumer and its matrix.
pub struct Consumer<Q, const GROUPS: usize> {
    w: In<u8>,
    n_cols: usize,
    last_tile: usize,
    /// Of the block's rows.
    first_row: u32,
    constants: Constants,
    format: PhantomData<Q>,
}

impl<Q: QuantFragments, const GROUPS: usize> Consumer<Q, GROUPS> {
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

    /// Fetches the first unit of an item, and decodes its first step.
    #[inline(always)]
    #[track_caller]
    pub fn start(&self, item: Item) -> Ready<Q, GROUPS> {
        Ready::new(self.constants, self.fetch(item.row, item.first_unit))
    }

    /// Multiplies an item, whose first unit is `ready`, with the stages of x from `place` on. Gives the place after them and
    /// the first unit of the `next` item; the results are complete.
    #[inline(always)]
    #[track_caller]
    pub fn multiply<const LEN: usize, const TOKENS: u32, const STAGES: usize>(
        &self,
        results: &mut Accumulators<LEN>,
        ring: &Ring<TOKENS, STAGES>,
        ready: Ready<Q, GROUPS>,
        item: Item,
        next: Item,
        place: Place,
    ) -> (Place, Ready<Q, GROUPS>) {
        let is_first_lane = warp::lane_id() == 0;
        let (mut place, mut before) = (place, place);
        let mut ready = ready;
        let mut i = 0;
        while i < item.n_units {
            let is_last = i + 1 == item.n_units;
            let (row, unit) =
                if is_last { (next.row, next.first_unit) } else { (item.row, item.first_unit + i + 1) };
            let ahead = self.fetch(row, unit);
            let mut decoded = ready.decoded;
            for step in 0..UNIT_STEPS {
                let in_stage = step % STAGE_STEPS;
                if in_stage == 0 {
                    ring.full.wait(place.stage, place.parity);
                }
                let x = ring.stage(place);
                let mut a = decoded;
                wgmma::fence_operands(&mut a);
                results.fence();
                for k in 0..STEP_COLS / wgmma::K {
                    let is_first = step == 0 && k == 0;
                    let col = in_stage * STEP_COLS + k * wgmma::K;
                    results.mma_registers_rows(a[k], x, col, !is_first || i > 0);
                }
                results.commit();
                // The step before is done, and with the last of a stage that stage; this one goes on.
                results.wait_but::<1>();
                if in_stage == 0 {
                    if is_first_lane && (step > 0 || i > 0) {
                        ring.empty.arrive(before.stage);
                    }
                    before = place;
                }
                if in_stage + 1 == STAGE_STEPS {
                    place = place.next::<STAGES>();
                }
                if step + 1 < UNIT_STEPS {
                    decoded = ready.unit.decode(self.constants, &ready.factors, step + 1);
                }
            }
            ready = Ready::new(self.constants, ahead);
            i += 1;
        }
        results.finish();
        if is_first_lane {
            ring.empty.arrive(before.stage);
        }
        (place, ready)
    }
}
