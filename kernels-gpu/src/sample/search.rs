//! Where a running sum reaches a target: among 256 numbers, among tokens with 256 values, and among a few tokens.

use super::sums::{SUM_LEN, lanes_sum, running_sum};
use crate::simt::prelude::*;
use crate::simt::shared::tile_bytes;

/// Numbers that a search goes through: bins, slices, or values of a byte.
pub(super) const NUMBERS: usize = 256;
const WARPS: usize = NUMBERS / 32;

/// A sum of weights is counted in three parts of 13 bits, so that the parts of fewer than 2¹⁹ fit 32 bits. (The last part
/// may also be 2¹³.)
const PART_BITS: u32 = 13;
const PARTS: usize = 3;
const _: () = assert!(super::chain::WEIGHT_BITS == PART_BITS * PARTS as u32);
/// Rows of a histogram: how many tokens, and the parts of their measures.
const ROWS: usize = 1 + PARTS;
const HISTOGRAM: usize = ROWS * NUMBERS;

/// Items that are few enough to be compared each with each.
pub(super) const FEW: usize = 256;
/// Lanes that share the comparisons of one item.
const LANES: usize = 8;

/// Shared memory of a [`Search`].
pub(super) const SEARCH_BYTES: usize = tile_bytes::<u64>(SUM_LEN)
    + tile_bytes::<u64>(4)
    + tile_bytes::<u32>(HISTOGRAM)
    + tile_bytes::<u64>(2 * FEW);

/// The number at which a running sum reaches the target.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub index: u32,
    /// The sum of all numbers before it.
    pub before: u64,
    /// The number itself.
    pub value: u64,
    /// The target.
    pub target: u64,
}

impl Found {
    /// Only a target.
    #[inline(always)]
    pub fn nothing(target: u64) -> Self {
        Found { index: 0, before: 0, value: 0, target }
    }
}

/// A token that may be chosen.
#[derive(Clone, Copy)]
pub(super) struct Item {
    pub logit: f32,
    pub id: u32,
}

/// Tokens, dealt to the threads of the block.
pub(super) trait Items {
    /// Does something with each. It says no word of the warp or block.
    fn each(&self, body: impl Fn(Item));
}

/// The shared memory of searches, which the whole block makes together.
#[derive(Clone, Copy)]
pub(super) struct Search {
    sums: Tile<u64>,
    found: Tile<u64>,
    histogram: Tile<u32>,
    /// Of each item its rank and measure.
    few: Tile<u64>,
}

impl Search {
    #[inline(always)]
    pub fn new(shared: &mut Shared) -> Self {
        Search {
            sums: shared.tile(SUM_LEN),
            found: shared.tile(4),
            histogram: shared.tile(HISTOGRAM),
            few: shared.tile(2 * FEW),
        }
    }

    /// The first of the numbers at which their running sum reaches a target, which may depend on the sum of all and is
    /// cut to 1 and that. The sum of all is not 0. What `value` reads was written before a barrier, which also follows
    /// the last search.
    #[inline(always)]
    pub fn first(&self, value: impl Fn(usize) -> u64, target: impl Fn(u64) -> u64) -> Found {
        let i = thread::thread_idx_x() as usize;
        let value = if i < NUMBERS { value(i) } else { 0 };
        let (before, total) = running_sum(value, WARPS, self.sums);
        if i < NUMBERS {
            let target = target(total).clamp(1, total.max(1));
            if before < target && target <= before + value {
                self.found.store::<2>(0, [i as u64, before]);
                self.found.store::<2>(2, [value, target]);
            }
        }
        thread::sync_threads();
        let ([index, before], [value, target]) = (self.found.load::<2>(0), self.found.load::<2>(2));
        Found { index: index as u32, before, value, target }
    }

    /// The sums of all threads before this one, and of all threads. Begins after a barrier that follows the last search.
    #[inline(always)]
    pub fn running_sum(&self, value: u64) -> (u64, u64) {
        let n_warps = thread::block_dim_x() as usize / 32;
        let sums = running_sum(value, n_warps, self.sums);
        thread::sync_threads();
        sums
    }

    /// The rank of the item at which the running sum of measures, the highest rank first, reaches the target, cut as in
    /// [`Search::first`]; of `n` items, [`FEW`] at most, whose rank and measure `item` gives: for each, the measures of all
    /// better ones are added up. No two ranks are equal; items of measure 0 count for nothing, and not all are such.
    #[inline(always)]
    pub fn select_few(
        &self,
        n: usize,
        item: impl Fn(usize) -> (u64, u64),
        target: impl Fn(u64) -> u64,
    ) -> u64 {
        let t = thread::thread_idx_x() as usize;
        if t < n {
            let (rank, measure) = item(t);
            self.few.store::<2>(2 * t, [rank, measure]);
        }
        thread::sync_threads();
        let lane = t % LANES;
        let (mut first, step) = (0, thread::block_dim_x() as usize / LANES);
        while first < n {
            let i = first + t / LANES;
            let [rank, measure] = if i < n { self.few.load::<2>(2 * i) } else { [0, 0] };
            let (mut before, mut total) = (0, 0);
            let mut other = lane;
            while other < n {
                let [other_rank, other_measure] = self.few.load::<2>(2 * other);
                total += other_measure;
                before += if other_rank > rank { other_measure } else { 0 };
                other += LANES;
            }
            let (before, total) = (lanes_sum(before, LANES), lanes_sum(total, LANES));
            let target = target(total).clamp(1, total.max(1));
            if lane == 0 && before < target && target <= before + measure {
                self.found.set(0, rank);
            }
            first += step;
        }
        thread::sync_threads();
        let rank = self.found.get(0);
        thread::sync_threads();
        rank
    }

    /// How many items have this value, after [`Search::first_of`].
    #[inline(always)]
    pub fn count_of(&self, value: u32) -> u32 {
        self.histogram.get(value as usize)
    }

    /// The value (below 256) at which the running sum of measures, the items of the lowest value first, reaches a target, as in
    /// [`Search::first`].
    #[inline(always)]
    pub fn first_of(
        &self,
        items: &impl Items,
        value: impl Fn(Item) -> usize,
        measure: impl Fn(Item) -> u64,
        target: impl Fn(u64) -> u64,
    ) -> Found {
        let mut i = thread::thread_idx_x() as usize;
        while i < HISTOGRAM {
            self.histogram.set(i, 0);
            i += thread::block_dim_x() as usize;
        }
        thread::sync_threads();
        items.each(|item| {
            let measure = measure(item);
            if measure > 0 {
                let value = value(item);
                atomic::add_u32(self.histogram, value, 1);
                let mut part = 0;
                while part < PARTS {
                    let bits = (measure >> (part as u32 * PART_BITS)) as u32;
                    let bits = if part == PARTS - 1 { bits } else { bits % (1 << PART_BITS) };
                    if bits > 0 {
                        atomic::add_u32(self.histogram, (1 + part) * NUMBERS + value, bits);
                    }
                    part += 1;
                }
            }
        });
        thread::sync_threads();
        let sum_of = |value: usize| {
            let part = |part: usize| {
                (self.histogram.get((1 + part) * NUMBERS + value) as u64) << (part as u32 * PART_BITS)
            };
            part(0) + part(1) + part(2)
        };
        self.first(sum_of, target)
    }
}
