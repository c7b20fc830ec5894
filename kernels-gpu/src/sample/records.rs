//! What the chain's second launch reads of the slices.

use super::chain::{BINS, ONE, absolute_bin, below};
use super::draw::THREADS;
use super::search::{Item, NUMBERS};
use super::slices::{COUNTS, DRAW_WEIGHTS, HEAD, LARGEST, RECORD_WORDS, TOKENS, WEIGHTS};
use crate::simt::prelude::*;
use crate::simt::shared::tile_bytes;

pub(super) const LAST_BIN: u32 = BINS as u32 - 1;

/// Tokens of the slices' heads that a thread has.
pub(super) const HEADS_PER_THREAD: usize = NUMBERS * HEAD / THREADS;

/// Shared memory of [`Records`].
pub(super) const RECORDS_BYTES: usize =
    tile_bytes::<f32>(block::REDUCE_LEN) + tile_bytes::<f32>(NUMBERS) + tile_bytes::<u32>(NUMBERS);

/// Which sums of a record.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Row {
    /// As if every token had the weight of the best.
    Counts,
    /// Weights at temperature 1.
    Unscaled,
    /// Weights at the chain's temperature.
    Draw,
}

/// The slices of one sequence.
pub(super) struct Records {
    words: In<u32>,
    pub n_slices: usize,
    /// Where the sequence's records begin.
    first: usize,
    reduce: Tile<f32>,
    /// Of each slice: its largest logit, and how many bins that is below the largest of all.
    largest: Tile<f32>,
    below: Tile<u32>,
}

impl Records {
    #[inline(always)]
    pub fn new(words: In<u32>, n_slices: usize, shared: &mut Shared) -> Self {
        Records {
            words,
            n_slices,
            first: thread::block_idx_y() as usize * n_slices * RECORD_WORDS,
            reduce: shared.tile(block::REDUCE_LEN),
            largest: shared.tile(NUMBERS),
            below: shared.tile(NUMBERS),
        }
    }

    #[inline(always)]
    fn word(&self, slice: usize, word: usize) -> u32 {
        self.words.get(self.first + slice * RECORD_WORDS + word)
    }

    /// The largest logit of all; notes how the slices lie to it.
    #[inline(always)]
    pub fn compare(&self) -> f32 {
        let t = thread::thread_idx_x() as usize;
        let own = if t < self.n_slices { f32::from_bits(self.word(t, LARGEST)) } else { f32::NEG_INFINITY };
        let largest = block::max_f32(own, self.reduce);
        if t < self.n_slices {
            self.largest.set(t, own);
            self.below.set(t, below(absolute_bin(largest), absolute_bin(own)));
        } else if t < NUMBERS {
            self.below.set(t, u32::MAX);
        }
        thread::sync_threads();
        largest
    }

    /// The thread's share of the first tokens of all slices: of slice t / [`HEAD`] + 64 j token t % [`HEAD`]; −∞ of
    /// slices that do not exist.
    #[inline(always)]
    pub fn heads(&self) -> [Item; HEADS_PER_THREAD] {
        let t = thread::thread_idx_x() as usize;
        let mut heads = [Item { logit: f32::NEG_INFINITY, id: 0 }; HEADS_PER_THREAD];
        let mut j = 0;
        while j < HEADS_PER_THREAD {
            let slice = t / HEAD + j * (THREADS / HEAD);
            if slice < self.n_slices {
                heads[j] = self.item(slice, t % HEAD);
            }
            j += 1;
        }
        heads
    }

    /// Whether the thread's heads are the last ones of their slices.
    #[inline(always)]
    pub fn is_last_of_head(&self) -> bool {
        thread::thread_idx_x() as usize % HEAD == HEAD - 1
    }

    /// The largest logit of a slice.
    #[inline(always)]
    pub fn largest(&self, slice: usize) -> f32 {
        self.largest.get(slice)
    }

    /// How many slices have their largest logit in the bins up to this one, and in better ones.
    #[inline(always)]
    pub fn slices_through(&self, bin: u32) -> (u32, u32) {
        let (mut through, mut before) = (0, 0);
        let mut slice = 0;
        while slice < self.n_slices {
            // Past the last slice there are those that are in no bin.
            let below = self.below.load::<4>(slice);
            let mut i = 0;
            while i < 4 {
                through += (below[i] <= bin) as u32;
                before += (below[i] < bin) as u32;
                i += 1;
            }
            slice += 4;
        }
        (through, before)
    }

    /// Which sum of a slice's rows covers the bins up to this one; none if the slice has no token in them.
    #[inline(always)]
    fn sum_through(&self, slice: usize, bin: u32) -> Option<usize> {
        let below = self.below.get(slice);
        match bin {
            LAST_BIN => Some(LAST_BIN as usize),
            bin if bin >= below => Some((bin - below) as usize),
            _ => None,
        }
    }

    /// How many tokens of a slice are in the bins up to this one.
    #[inline(always)]
    pub fn count_through(&self, slice: usize, bin: u32) -> usize {
        self.sum_through(slice, bin).map_or(0, |sum| self.word(slice, COUNTS + sum) as usize)
    }

    /// How many tokens of a slice are in better bins.
    #[inline(always)]
    pub fn count_before(&self, slice: usize, bin: u32) -> usize {
        if bin == 0 { 0 } else { self.count_through(slice, bin - 1) }
    }

    /// The weights of a slice's tokens in the bins up to this one, relative to the slice's largest logit.
    #[inline(always)]
    pub fn weight_through(&self, slice: usize, bin: u32, row: Row) -> f32 {
        let first = match row {
            Row::Counts => COUNTS,
            Row::Unscaled => WEIGHTS,
            Row::Draw => DRAW_WEIGHTS,
        };
        // It is read in any case: without a branch many readings are on their way at a time.
        let sum = self.sum_through(slice, bin);
        let bits = self.word(slice, first + sum.unwrap_or(0));
        let weight = if row == Row::Counts { bits as f32 * ONE } else { f32::from_bits(bits) };
        if sum.is_some() { weight } else { 0.0 }
    }

    /// Token `i` of a slice, in the order of bins.
    #[inline(always)]
    pub fn item(&self, slice: usize, i: usize) -> Item {
        let [logit, id] = self.words.load::<2>(self.first + slice * RECORD_WORDS + TOKENS + 2 * i);
        Item { logit: f32::from_bits(logit), id }
    }
}

/// The bin of a logit, counted from that of the largest of all.
#[inline(always)]
pub(super) fn bin_of(logit: f32, largest: f32) -> u32 {
    below(absolute_bin(largest), absolute_bin(logit))
}
