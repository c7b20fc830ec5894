//! The chain's second launch: where the stages' borders lie, and the draw.

use super::chain::{
    BINS, Chain, ID_BITS, UNSCALED, absolute_bin, below, id_rank, logit_of_key, min_p_cut, rank, weight,
};
use super::search::{Found, Item, Items, NUMBERS, SEARCH_BYTES, Search};
use super::slices::{COUNTS, DRAW_WEIGHTS, IDS, LARGEST, LOGITS, MAX_SLICES, RECORD_WORDS, SLICE, WEIGHTS};
use super::sums::warp_sum;
use super::{STATUS_NAN, STATUS_NO_CANDIDATE, random};
use crate::simt::prelude::*;
use crate::simt::shared::tile_bytes;

const THREADS: usize = 1024;
const WARPS: usize = THREADS / 32;
/// Threads that share the slices of a bin.
const GROUPS: usize = THREADS / BINS;
/// Tokens of a list in shared memory: those of a slice at least.
const LIST: usize = SLICE;
const LAST_BIN: u32 = BINS as u32 - 1;
/// Bytes of a rank, and of an id's.
const RANK_BYTES: u32 = 4 + ID_BYTES;
const ID_BYTES: u32 = ID_BITS / 8;

const SHARED_BYTES: usize = SEARCH_BYTES
    + tile_bytes::<f32>(block::REDUCE_LEN)
    + tile_bytes::<f32>(MAX_SLICES)
    + tile_bytes::<u32>(MAX_SLICES)
    + tile_bytes::<u64>(MAX_SLICES)
    + tile_bytes::<u64>(GROUPS * BINS)
    + tile_bytes::<f32>(LIST)
    + tile_bytes::<u32>(LIST)
    + tile_bytes::<u32>(1);

/// Draws each sequence's next token and makes it the input of the next step.
///
/// `chosen [n_sequences, 2]`: the token and 0, or 0 and [`STATUS_NAN`] or [`STATUS_NO_CANDIDATE`]. `tokens
/// [n_sequences]` gets the token, `positions [n_sequences]` is advanced by 1, and the token is written to that place of
/// `history [n_sequences, n_ctx]`, if there is one. `slices` is what
/// [`sample_slices_f32`](super::sample_slices_f32) wrote, `chains` what it read.
///
/// The random number is [`random::unit`] of the chain's key and the new token's position plus the chain's offset.
///
/// Grid: one block for each sequence, along y. Requires: as `sample_slices_f32`, with the same `n_slices`.
/// Fast because: of the slices it reads a row of sums for each stage, and then the tokens of single bins; where no more
/// than 2048 tokens are as good as the worst that stays, they are copied to shared memory once, and all that follows
/// happens there.
#[kernel(threads = THREADS, shared = SHARED_BYTES, pdl)]
#[allow(clippy::too_many_arguments)]
pub fn sample_draw_f32(
    chosen: Out<u32>,
    tokens: Out<u32>,
    positions: InOut<u32>,
    history: Out<u32>,
    slices: In<u32>,
    chains: In<u32>,
    n_slices: u32,
    n_ctx: u32,
) {
    let draw = Draw::new(slices, n_slices as usize);
    pdl::launch_dependents();
    pdl::wait();
    let sequence = thread::block_idx_y() as usize;
    let position = positions.get(sequence) + 1;
    let chain = Chain::load(chains, sequence);
    let largest = draw.compare_slices();
    let (token, status) = if largest == f32::INFINITY {
        (0, STATUS_NAN)
    } else if largest == f32::NEG_INFINITY {
        (0, STATUS_NO_CANDIDATE)
    } else {
        let n = position.wrapping_add(chain.draw_offset);
        (draw.token(&chain, largest, random::unit(chain.random_key, n as u64)), 0)
    };
    if thread::thread_idx_x() == 0 {
        chosen.store::<2>(2 * sequence, [token, status]);
        tokens.set(sequence, token);
        positions.set(sequence, position);
        if position < n_ctx {
            history.set(sequence * n_ctx as usize + position as usize, token);
        }
    }
}

/// The slices of a sequence, and the block's shared memory.
struct Draw {
    slices: In<u32>,
    n_slices: usize,
    /// Where the sequence's records begin.
    records: usize,
    search: Search,
    reduce: Tile<f32>,
    /// Of each slice: its largest logit, and how many bins that is below the largest of all.
    slice_largest: Tile<f32>,
    slice_below: Tile<u32>,
    slice_sums: Tile<u64>,
    partial_sums: Tile<u64>,
    list_logits: Tile<f32>,
    list_ids: Tile<u32>,
    n_listed: Tile<u32>,
}

/// Tokens under consideration.
#[derive(Clone, Copy)]
struct Chosen {
    /// Their worst bin.
    bin: u32,
    /// How many they are, if they are in the list; else they are all those of the bin.
    n_listed: Option<u32>,
    /// Whether all tokens of better bins are among them.
    with_better: bool,
}

/// Which sums of a record, and the scale of their weights' exponents.
#[derive(Clone, Copy)]
struct Row {
    first: usize,
    exponent_scale: f32,
}

impl Row {
    /// Weights at temperature 1.
    const UNSCALED: Row = Row { first: WEIGHTS, exponent_scale: UNSCALED };

    /// Weights at the chain's temperature.
    #[inline(always)]
    fn of_draw(chain: &Chain) -> Row {
        Row { first: DRAW_WEIGHTS, exponent_scale: chain.exponent_scale }
    }
}

/// Tokens under consideration, and where they lie.
struct Listed<'a>(&'a Draw, Chosen);

impl Items for Listed<'_> {
    #[inline(always)]
    fn each(&self, body: impl Fn(Item)) {
        let Listed(draw, chosen) = self;
        let Some(n_listed) = chosen.n_listed else {
            return draw.each_in_bins(chosen.bin, chosen.bin, body);
        };
        let mut i = thread::thread_idx_x() as usize;
        while i < n_listed as usize {
            body(Item { logit: draw.list_logits.get(i), id: draw.list_ids.get(i) });
            i += THREADS;
        }
    }
}

/// The point that a uniform number marks in [0, total): the first sum that reaches this exceeds it.
#[inline(always)]
fn point(total: u64, unit: f64) -> u64 {
    (total as f64 * unit) as u64 + 1
}

/// The least sum that is a share of the total, or more.
#[inline(always)]
fn share(total: u64, share: f32) -> u64 {
    let exact = total as f64 * share as f64;
    let whole = exact as u64;
    if (whole as f64) < exact { whole + 1 } else { whole }
}

impl Draw {
    #[inline(always)]
    fn new(slices: In<u32>, n_slices: usize) -> Self {
        let mut shared = Shared::new();
        Draw {
            slices,
            n_slices,
            records: thread::block_idx_y() as usize * n_slices * RECORD_WORDS,
            search: Search::new(&mut shared),
            reduce: shared.tile(block::REDUCE_LEN),
            slice_largest: shared.tile(MAX_SLICES),
            slice_below: shared.tile(MAX_SLICES),
            slice_sums: shared.tile(MAX_SLICES),
            partial_sums: shared.tile(GROUPS * BINS),
            list_logits: shared.tile(LIST),
            list_ids: shared.tile(LIST),
            n_listed: shared.tile(1),
        }
    }

    #[inline(always)]
    fn word(&self, slice: usize, word: usize) -> u32 {
        self.slices.get(self.records + slice * RECORD_WORDS + word)
    }

    /// The largest logit of all; notes how the slices lie to it.
    #[inline(always)]
    fn compare_slices(&self) -> f32 {
        let t = thread::thread_idx_x() as usize;
        let own = if t < self.n_slices { f32::from_bits(self.word(t, LARGEST)) } else { f32::NEG_INFINITY };
        let largest = block::max_f32(own, self.reduce);
        if t < self.n_slices {
            self.slice_largest.set(t, own);
            self.slice_below.set(t, below(absolute_bin(largest), absolute_bin(own)));
        }
        thread::sync_threads();
        largest
    }

    /// Draws from what the stages leave.
    #[inline(always)]
    fn token(&self, chain: &Chain, largest: f32, unit: f64) -> u32 {
        let mut cut = 0;
        let mut chosen = Chosen { bin: 0, n_listed: None, with_better: false };
        if chain.top_k > 0 {
            let count = |slice, sum| self.word(slice, COUNTS + sum) as u64;
            let found = self.first_bin(count, chain.top_k as u64);
            chosen = self.choose(found.index);
            let target = if chosen.with_better { found.target } else { found.target - found.before };
            cut = self.cut(chosen, target, |_| 1);
        }
        if chain.top_p < 1.0 {
            // A token that counts for nothing still has its place.
            let weight = |item: Item| {
                let weight = weight(item.logit, largest, UNSCALED).max(1);
                if rank(item.logit, item.id) >= cut { weight } else { 0 }
            };
            let mut target;
            if chosen.with_better {
                target = share(self.sum(chosen, weight), chain.top_p);
            } else {
                self.sum_slices(cut, Row::UNSCALED, largest);
                target = self.first_slice(|total| share(total, chain.top_p)).target;
                let sum = |slice, sum| self.scaled(slice, sum, Row::UNSCALED, largest);
                let found = self.first_bin(sum, target);
                let last = self.cut_bin(cut, largest);
                chosen = self.choose(found.index.min(last));
                if found.index > last {
                    // Roundings differ between the sums: the border is that of top-k.
                    target = u64::MAX;
                } else {
                    target = if chosen.with_better { found.target } else { found.target - found.before };
                }
            }
            cut = cut.max(self.cut(chosen, target, weight));
        }
        cut = cut.max(min_p_cut(largest, chain.ln_min_p));

        let row = Row::of_draw(chain);
        let mut reference = largest;
        let mut place = None;
        if !chosen.with_better {
            self.sum_slices(cut, row, largest);
            let found = self.first_slice(|total| point(total, unit));
            reference = self.slice_largest.get(found.index as usize);
            chosen = self.choose_slice(found.index as usize, self.cut_bin(cut, largest));
            place = Some((found.target - found.before, found.value));
        }
        let weight = |item: Item| {
            let weight = weight(item.logit, reference, row.exponent_scale);
            if rank(item.logit, item.id) >= cut { weight } else { 0 }
        };
        let total = self.sum(chosen, weight);
        // The place within the slice, in units of its own weights.
        let target = match place {
            None => point(total, unit),
            Some((part, whole)) => (part as f64 / whole as f64 * total as f64) as u64,
        };
        let items = Listed(self, chosen);
        let drawn = self.search.select(&items, ID_BYTES, target, |item| id_rank(item.id), weight);
        (1 << ID_BITS) - 1 - drawn as u32
    }

    /// The rank at which the running sum of measures, best first, reaches the target.
    #[inline(always)]
    fn cut(&self, chosen: Chosen, target: u64, measure: impl Fn(Item) -> u64) -> u64 {
        let items = Listed(self, chosen);
        self.search.select(&items, RANK_BYTES, target, |item| rank(item.logit, item.id), measure)
    }

    /// The sum over the chosen tokens.
    #[inline(always)]
    fn sum(&self, chosen: Chosen, measure: impl Fn(Item) -> u64) -> u64 {
        let mut sum = 0;
        let mut i = thread::thread_idx_x() as usize;
        while i < chosen.n_listed.unwrap_or(0) as usize {
            sum += measure(Item { logit: self.list_logits.get(i), id: self.list_ids.get(i) });
            i += THREADS;
        }
        self.search.sum(sum)
    }

    /// The bin in which a cut lies.
    #[inline(always)]
    fn cut_bin(&self, cut: u64, largest: f32) -> u32 {
        if cut == 0 {
            return LAST_BIN;
        }
        below(absolute_bin(largest), absolute_bin(logit_of_key((cut >> ID_BITS) as u32)))
    }

    /// Which sum of a slice's rows covers the bins up to this one; none if the slice has no token in them.
    #[inline(always)]
    fn sum_through(&self, slice: usize, bin: u32) -> Option<usize> {
        let below = self.slice_below.get(slice);
        match bin {
            LAST_BIN => Some(LAST_BIN as usize),
            bin if bin >= below => Some((bin - below) as usize),
            _ => None,
        }
    }

    /// How many tokens of a slice are in the bins up to this one.
    #[inline(always)]
    fn count_through(&self, slice: usize, bin: u32) -> usize {
        self.sum_through(slice, bin).map_or(0, |sum| self.word(slice, COUNTS + sum) as usize)
    }

    /// How many tokens of a slice are in better bins.
    #[inline(always)]
    fn count_before(&self, slice: usize, bin: u32) -> usize {
        if bin == 0 { 0 } else { self.count_through(slice, bin - 1) }
    }

    /// A sum of a slice's weights, relative to the largest logit of all.
    #[inline(always)]
    fn scaled(&self, slice: usize, sum: usize, row: Row, largest: f32) -> u64 {
        let factor = math::exp2_flush((self.slice_largest.get(slice) - largest) * row.exponent_scale);
        (f32::from_bits(self.word(slice, row.first + sum)) * factor) as u64
    }

    /// The bin in which the sum over all slices reaches the target. `sum(slice, i)` is number `i` of a row.
    #[inline(always)]
    fn first_bin(&self, sum: impl Fn(usize, usize) -> u64, target: u64) -> Found {
        let t = thread::thread_idx_x() as usize;
        let (bin, mut slice) = (t % BINS, t / BINS);
        let mut partial = 0;
        while slice < self.n_slices {
            if let Some(i) = self.sum_through(slice, bin as u32) {
                partial += sum(slice, i);
            }
            slice += GROUPS;
        }
        self.partial_sums.set(t, partial);
        thread::sync_threads();
        let through = |bin: usize| {
            let partial = |group: usize| self.partial_sums.get(group * BINS + bin);
            partial(0) + partial(1) + partial(2) + partial(3)
        };
        self.search
            .first(|bin| if bin == 0 { through(0) } else { through(bin) - through(bin - 1) }, |_| target)
    }

    /// Considers the tokens of a bin: with those of all better bins if the list has room for them.
    #[inline(always)]
    fn choose(&self, bin: u32) -> Chosen {
        let t = thread::thread_idx_x() as usize;
        if t == 0 {
            self.n_listed.set(0, 0);
        }
        let (through, before) = match t < self.n_slices {
            true => (self.count_through(t, bin), self.count_before(t, bin)),
            false => (0, 0),
        };
        // Two counts in one sum.
        let counts = self.search.sum((through as u64) << 32 | before as u64);
        let (through, before) = ((counts >> 32) as usize, counts as u32 as usize);
        let with_better = through <= LIST;
        let n = if with_better { through } else { through - before };
        if n > LIST {
            return Chosen { bin, n_listed: None, with_better };
        }
        self.each_in_bins(if with_better { 0 } else { bin }, bin, |item| {
            let i = atomic::add_u32(self.n_listed, 0, 1) as usize;
            self.list_logits.set(i, item.logit);
            self.list_ids.set(i, item.id);
        });
        thread::sync_threads();
        Chosen { bin, n_listed: Some(n as u32), with_better }
    }

    /// Considers the tokens of one slice in the bins up to this one.
    #[inline(always)]
    fn choose_slice(&self, slice: usize, bin: u32) -> Chosen {
        let n = self.count_through(slice, bin);
        let mut i = thread::thread_idx_x() as usize;
        while i < n {
            self.list_logits.set(i, f32::from_bits(self.word(slice, LOGITS + i)));
            self.list_ids.set(i, self.word(slice, IDS + i));
            i += THREADS;
        }
        thread::sync_threads();
        Chosen { bin, n_listed: Some(n as u32), with_better: true }
    }

    /// Does something with each token of the bins `first` to `last`, a warp to a slice.
    #[inline(always)]
    fn each_in_bins(&self, first: u32, last: u32, body: impl Fn(Item)) {
        let mut slice = warp::warp_id() as usize;
        while slice < self.n_slices {
            let end = self.count_through(slice, last);
            let mut i = self.count_before(slice, first) + warp::lane_id() as usize;
            while i < end {
                let logit = f32::from_bits(self.word(slice, LOGITS + i));
                body(Item { logit, id: self.word(slice, IDS + i) });
                i += 32;
            }
            slice += WARPS;
        }
    }

    /// Notes the sum of weights of each slice's tokens down to the cut, relative to the largest logit of all.
    #[inline(always)]
    fn sum_slices(&self, cut: u64, row: Row, largest: f32) {
        let bin = self.cut_bin(cut, largest);
        let mut slice = warp::warp_id() as usize;
        while slice < self.n_slices {
            let own = self.slice_largest.get(slice);
            // Without a cut, all bins' sum; else that of the better bins, and the cut's bin token by token.
            let bins = if cut == 0 { Some(LAST_BIN) } else { bin.checked_sub(1) };
            let whole = bins.and_then(|bin| self.sum_through(slice, bin));
            let whole = whole.map_or(0.0, |sum| f32::from_bits(self.word(slice, row.first + sum)));
            let mut sum = 0;
            if cut != 0 {
                let end = self.count_through(slice, bin);
                let mut i = self.count_before(slice, bin) + warp::lane_id() as usize;
                while i < end {
                    let logit = f32::from_bits(self.word(slice, LOGITS + i));
                    if rank(logit, self.word(slice, IDS + i)) >= cut {
                        sum += weight(logit, own, row.exponent_scale);
                    }
                    i += 32;
                }
            }
            let sum = warp_sum(sum) + whole as u64;
            let factor = math::exp2_flush((own - largest) * row.exponent_scale);
            if warp::lane_id() == 31 {
                self.slice_sums.set(slice, (sum as f64 * factor as f64) as u64);
            }
            slice += WARPS;
        }
        thread::sync_threads();
    }

    /// The slice at which the sums that were noted reach the target.
    #[inline(always)]
    fn first_slice(&self, target: impl Fn(u64) -> u64) -> Found {
        let sum = |slice| if slice < self.n_slices { self.slice_sums.get(slice) } else { 0 };
        let found = self.search.first(sum, target);
        thread::sync_threads();
        found
    }
}

const _: () = assert!(NUMBERS == BINS && NUMBERS == MAX_SLICES && GROUPS == 4);

/// Bytes that [`sample_draw_f32`] must move: of each slice a row of counts, and its largest logit.
pub const fn sample_draw_bytes(n_vocab: usize, n_sequences: usize) -> usize {
    n_sequences * super::slices_blocks(n_vocab) * (BINS + 1) * 4
}
