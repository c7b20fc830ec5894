//! The chain's second launch: where the stages' borders lie, and the draw.

use super::chain::{
    BINS, Chain, ID_BITS, UNSCALED, WEIGHT_BITS, absolute_bin, below, id_rank, logit_of_key, min_p_cut, rank,
    weight,
};
use super::records::{LAST_BIN, RECORDS_BYTES, Records, Row};
use super::search::{FEW, Found, Item, Items, NUMBERS, SEARCH_BYTES, Search};
use super::slices::SLICE;
use super::sums::warp_sum;
use super::{STATUS_NAN, STATUS_NO_CANDIDATE, random};
use crate::simt::prelude::*;
use crate::simt::shared::tile_bytes;

const THREADS: usize = 512;
const WARPS: usize = THREADS / 32;
/// Threads that share the slices of a bin.
const GROUPS: usize = THREADS / BINS;
const _: () = assert!(NUMBERS == BINS && GROUPS == 2);
/// Threads that share the tokens of a slice, of which most have few.
const SLICE_THREADS: usize = 4;
/// Slices whose sums are on their way to a thread at a time.
const IN_FLIGHT: usize = 8;
/// Tokens of the list in shared memory: those of a slice.
const LIST: usize = SLICE;
/// Bytes of the rank of an id, and of a token.
const ID_BYTES: u32 = ID_BITS / 8;
const RANK_BYTES: u32 = 4 + ID_BYTES;

const SHARED_BYTES: usize = SEARCH_BYTES
    + RECORDS_BYTES
    + tile_bytes::<u64>(NUMBERS)
    + 2 * tile_bytes::<u32>(NUMBERS)
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
/// happens there. The stages are rounds of one loop, since code that runs once is waited for.
#[kernel(threads = THREADS, shared = SHARED_BYTES, min_blocks = 1, pdl)]
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
    let largest = draw.records.compare();
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
    records: Records,
    search: Search,
    slice_sums: Tile<u64>,
    /// Of each slice, the tokens under consideration: the first, and the one behind the last.
    firsts: Tile<u32>,
    ends: Tile<u32>,
    partial_sums: Tile<u64>,
    list_logits: Tile<f32>,
    list_ids: Tile<u32>,
    n_listed: Tile<u32>,
}

/// Tokens under consideration.
#[derive(Clone, Copy)]
struct Chosen {
    /// How many they are, if they are in the list; else they lie where `firsts` and `ends` say.
    n_listed: Option<u32>,
    /// Whether all better tokens are among them.
    with_better: bool,
}

/// Tokens under consideration, and where they lie.
struct Candidates<'a>(&'a Draw, Chosen);

impl Items for Candidates<'_> {
    #[inline(always)]
    fn each(&self, body: impl Fn(Item)) {
        let Candidates(draw, chosen) = self;
        let Some(n_listed) = chosen.n_listed else { return draw.each_in_slices(body) };
        let (mut i, step) = (thread::thread_idx_x() as usize, thread::block_dim_x() as usize);
        while i < n_listed as usize {
            body(draw.listed(i));
            i += step;
        }
    }
}

/// A round of the search: for the last token that a stage keeps, or for the one that is drawn.
#[derive(Clone, Copy)]
struct Stage {
    row: Row,
    exponent_scale: f32,
}

impl Stage {
    #[inline(always)]
    fn new(row: Row, chain: &Chain) -> Self {
        let exponent_scale = match row {
            Row::Counts => 0.0,
            Row::Unscaled => UNSCALED,
            Row::Draw => chain.exponent_scale,
        };
        Stage { row, exponent_scale }
    }

    /// The first one that does something.
    #[inline(always)]
    fn first(chain: &Chain) -> Self {
        let after_top_k = if chain.top_p < 1.0 { Row::Unscaled } else { Row::Draw };
        Stage::new(if chain.top_k > 0 { Row::Counts } else { after_top_k }, chain)
    }

    #[inline(always)]
    fn next(self, chain: &Chain) -> Self {
        let has_top_p = self.row == Row::Counts && chain.top_p < 1.0;
        Stage::new(if has_top_p { Row::Unscaled } else { Row::Draw }, chain)
    }

    /// Where the running sum of weights must come to, out of their total.
    #[inline(always)]
    fn target(self, total: u64, chain: &Chain, unit: f64) -> u64 {
        match self.row {
            Row::Counts => (chain.top_k.min(1 << 20) as u64) << WEIGHT_BITS,
            Row::Unscaled => at_least(total as f64 * chain.top_p as f64),
            // The first sum that reaches this exceeds the point that the random number marks.
            Row::Draw => (total as f64 * unit) as u64 + 1,
        }
    }
}

/// The least whole number that is no less.
#[inline(always)]
fn at_least(exact: f64) -> u64 {
    let whole = exact as u64;
    if (whole as f64) < exact { whole + 1 } else { whole }
}

impl Draw {
    #[inline(always)]
    fn new(slices: In<u32>, n_slices: usize) -> Self {
        let mut shared = Shared::new();
        Draw {
            records: Records::new(slices, n_slices, &mut shared),
            search: Search::new(&mut shared),
            slice_sums: shared.tile(NUMBERS),
            firsts: shared.tile(NUMBERS),
            ends: shared.tile(NUMBERS),
            partial_sums: shared.tile(GROUPS * BINS),
            list_logits: shared.tile(LIST),
            list_ids: shared.tile(LIST),
            n_listed: shared.tile(1),
        }
    }

    /// Draws from what the stages leave.
    #[inline(always)]
    fn token(&self, chain: &Chain, largest: f32, unit: f64) -> u32 {
        // The lowest rank that stays.
        let mut cut = 0;
        let mut chosen = Chosen { n_listed: None, with_better: false };
        let mut stage = Stage::first(chain);
        loop {
            let is_draw = stage.row == Row::Draw;
            if is_draw {
                cut = cut.max(min_p_cut(largest, chain.ln_min_p));
            }
            let mut reference = largest;
            // The target, or where in a slice's weights it lies.
            let (mut target, mut place) = (None, None);
            if !chosen.with_better {
                let found = match stage.row {
                    Row::Counts => Found::nothing(stage.target(0, chain, unit)),
                    _ => {
                        self.sum_slices(cut, stage, largest);
                        self.first_slice(|total| stage.target(total, chain, unit))
                    }
                };
                if is_draw {
                    let slice = found.index as usize;
                    reference = self.records.largest(slice);
                    chosen = self.choose_slice(slice, cut_bin(cut, largest));
                    place = Some((found.target - found.before) as f64 / found.value as f64);
                } else {
                    let few =
                        if stage.row == Row::Counts { self.choose_few(chain.top_k, largest) } else { None };
                    if let Some(few) = few {
                        (chosen, target) = (few, Some(found.target));
                    } else {
                        let (worst, found) =
                            (cut_bin(cut, largest), self.first_bin(stage, found.target, largest));
                        chosen = self.choose(found.index.min(worst), LIST);
                        target = Some(match () {
                            // Roundings differ between the sums: the border is that of the stage before.
                            () if found.index > worst => u64::MAX,
                            () if chosen.with_better => found.target,
                            () => found.target - found.before,
                        });
                    }
                }
            }
            let measure = |item: Item| {
                let weight = weight(item.logit, reference, stage.exponent_scale);
                // A token that weighs nothing still has its place in the ranking.
                let weight = if is_draw { weight } else { weight.max(1) };
                if rank(item.logit, item.id) >= cut { weight } else { 0 }
            };
            let target = |total: u64| match (target, place) {
                (Some(target), _) => target,
                (None, Some(place)) => at_least(place * total as f64),
                (None, None) => stage.target(total, chain, unit),
            };
            let rank = |item: Item| if is_draw { id_rank(item.id) } else { rank(item.logit, item.id) };
            let found = match chosen.n_listed {
                Some(n) if n as usize <= FEW => {
                    let item = |i| (rank(self.listed(i)), measure(self.listed(i)));
                    self.search.select_few(n as usize, item, target)
                }
                _ => {
                    let n_bytes = if is_draw { ID_BYTES } else { RANK_BYTES };
                    let target = target(self.sum(chosen, measure));
                    self.search.select(&Candidates(self, chosen), n_bytes, target, rank, measure)
                }
            };
            if is_draw {
                return (1 << ID_BITS) - 1 - found as u32;
            }
            cut = cut.max(found);
            if chain.fits_list() && !chosen.with_better {
                chosen = self.choose_down_to(cut, largest);
            }
            stage = stage.next(chain);
        }
    }

    #[inline(always)]
    fn listed(&self, i: usize) -> Item {
        Item { logit: self.list_logits.get(i), id: self.list_ids.get(i) }
    }

    #[inline(always)]
    fn list(&self, i: usize, item: Item) {
        self.list_logits.set(i, item.logit);
        self.list_ids.set(i, item.id);
    }

    /// The sum over the tokens in the list.
    #[inline(always)]
    fn sum(&self, chosen: Chosen, measure: impl Fn(Item) -> u64) -> u64 {
        let n = chosen.n_listed.unwrap_or(0) as usize;
        let (mut sum, mut i, step) = (0, thread::thread_idx_x() as usize, thread::block_dim_x() as usize);
        while i < n {
            sum += measure(self.listed(i));
            i += step;
        }
        self.search.sum(sum)
    }

    /// The bin in which the sum over all slices reaches the target.
    #[inline(always)]
    fn first_bin(&self, stage: Stage, target: u64, largest: f32) -> Found {
        let t = thread::thread_idx_x() as usize;
        let (bin, mut slice) = (t % BINS, t / BINS);
        let mut partial = 0;
        let last = self.records.n_slices - 1;
        while slice <= last {
            let mut own = [0.0; IN_FLIGHT];
            let mut i = 0;
            while i < IN_FLIGHT {
                own[i] = self.records.weight_through((slice + i * GROUPS).min(last), bin as u32, stage.row);
                i += 1;
            }
            let mut i = 0;
            while i < IN_FLIGHT {
                if slice <= last {
                    partial += (own[i] * self.factor(slice, stage, largest)) as u64;
                }
                slice += GROUPS;
                i += 1;
            }
        }
        self.partial_sums.set(t, partial);
        thread::sync_threads();
        let through = |bin: usize| {
            let partial = |group: usize| self.partial_sums.get(group * BINS + bin);
            partial(0) + partial(1)
        };
        self.search
            .first(|bin| if bin == 0 { through(0) } else { through(bin) - through(bin - 1) }, |_| target)
    }

    /// Considers tokens down to the bin of the `top_k`-th best of the slices' largest logits, which has as many at least,
    /// unless they are more than few.
    #[inline(always)]
    fn choose_few(&self, top_k: u32, largest: f32) -> Option<Chosen> {
        if top_k as usize > self.records.n_slices {
            return None;
        }
        let item = |slice| (rank(self.records.largest(slice), slice as u32), 1);
        let cut = self.search.select_few(self.records.n_slices, item, |_| top_k as u64);
        let chosen = self.choose(cut_bin(cut, largest), FEW);
        chosen.with_better.then_some(chosen)
    }

    /// Considers the tokens down to a cut that no more than [`LIST`] reach.
    #[inline(always)]
    fn choose_down_to(&self, cut: u64, largest: f32) -> Chosen {
        let t = thread::thread_idx_x() as usize;
        if t == 0 {
            self.n_listed.set(0, 0);
        }
        if t < self.records.n_slices {
            self.firsts.set(t, 0);
            self.ends.set(t, self.records.count_through(t, cut_bin(cut, largest)) as u32);
        }
        thread::sync_threads();
        self.each_in_slices(|item| {
            if rank(item.logit, item.id) >= cut {
                self.list(atomic::add_u32(self.n_listed, 0, 1) as usize, item);
            }
        });
        thread::sync_threads();
        Chosen { n_listed: Some(self.n_listed.get(0)), with_better: true }
    }

    /// Considers the tokens of a bin: with those of all better bins if these are no more than `limit`.
    #[inline(always)]
    fn choose(&self, bin: u32, limit: usize) -> Chosen {
        let t = thread::thread_idx_x() as usize;
        if t == 0 {
            self.n_listed.set(0, 0);
        }
        let (mut through, mut before) = (0, 0);
        if t < self.records.n_slices {
            through = self.records.count_through(t, bin);
            before = self.records.count_before(t, bin);
        }
        // Two counts in one sum.
        let counts = self.search.sum((through as u64) << 32 | before as u64);
        let (n_through, n_before) = (counts >> 32, counts as u32 as u64);
        let with_better = n_through <= limit as u64;
        let n = if with_better { n_through } else { n_through - n_before };
        if t < self.records.n_slices {
            self.firsts.set(t, if with_better { 0 } else { before as u32 });
            self.ends.set(t, through as u32);
        }
        thread::sync_threads();
        if n > LIST as u64 {
            return Chosen { n_listed: None, with_better };
        }
        self.each_in_slices(|item| self.list(atomic::add_u32(self.n_listed, 0, 1) as usize, item));
        thread::sync_threads();
        Chosen { n_listed: Some(n as u32), with_better }
    }

    /// Does something with each token that `firsts` and `ends` name.
    #[inline(always)]
    fn each_in_slices(&self, body: impl Fn(Item)) {
        let t = thread::thread_idx_x() as usize;
        let (mut slice, step) = (t / SLICE_THREADS, thread::block_dim_x() as usize / SLICE_THREADS);
        while slice < self.records.n_slices {
            let end = self.ends.get(slice) as usize;
            let mut i = self.firsts.get(slice) as usize + t % SLICE_THREADS;
            while i < end {
                body(self.records.item(slice, i));
                i += SLICE_THREADS;
            }
            slice += step;
        }
    }

    /// Considers the tokens of one slice in the bins up to this one.
    #[inline(always)]
    fn choose_slice(&self, slice: usize, bin: u32) -> Chosen {
        let n = self.records.count_through(slice, bin);
        let mut i = thread::thread_idx_x() as usize;
        while i < n {
            self.list(i, self.records.item(slice, i));
            i += THREADS;
        }
        thread::sync_threads();
        Chosen { n_listed: Some(n as u32), with_better: true }
    }

    /// Notes the sum of weights of each slice's tokens down to the cut, relative to the largest logit of all.
    #[inline(always)]
    fn sum_slices(&self, cut: u64, stage: Stage, largest: f32) {
        let bin = cut_bin(cut, largest);
        let factor = |slice: usize| self.factor(slice, stage, largest) as f64;
        if cut == 0 {
            let slice = thread::thread_idx_x() as usize;
            if slice < self.records.n_slices {
                let sum = self.records.weight_through(slice, bin, stage.row);
                self.slice_sums.set(slice, (sum as f64 * factor(slice)) as u64);
            }
            return thread::sync_threads();
        }
        // The sum of the better bins, and the cut's own bin token by token.
        let mut slice = warp::warp_id() as usize;
        while slice < self.records.n_slices {
            let better = if bin == 0 { 0.0 } else { self.records.weight_through(slice, bin - 1, stage.row) };
            let own = self.records.largest(slice);
            let end = self.records.count_through(slice, bin);
            let (mut i, step) = (warp::lane_id() as usize, warp::SIZE as usize);
            i += self.records.count_before(slice, bin);
            let mut sum = 0;
            while i < end {
                let item = self.records.item(slice, i);
                if rank(item.logit, item.id) >= cut {
                    sum += weight(item.logit, own, stage.exponent_scale);
                }
                i += step;
            }
            let sum = warp_sum(sum) + better as u64;
            if warp::lane_id() == 31 {
                self.slice_sums.set(slice, (sum as f64 * factor(slice)) as u64);
            }
            slice += WARPS;
        }
        thread::sync_threads();
    }

    /// What a slice's own weights are multiplied by to be relative to the largest logit of all.
    #[inline(always)]
    fn factor(&self, slice: usize, stage: Stage, largest: f32) -> f32 {
        math::exp2_flush((self.records.largest(slice) - largest) * stage.exponent_scale)
    }

    /// The slice at which the sums that were noted reach the target.
    #[inline(always)]
    fn first_slice(&self, target: impl Fn(u64) -> u64) -> Found {
        let sum = |slice| if slice < self.records.n_slices { self.slice_sums.get(slice) } else { 0 };
        let found = self.search.first(sum, target);
        thread::sync_threads();
        found
    }
}

/// The bin in which a cut lies; without a cut, the last.
#[inline(always)]
fn cut_bin(cut: u64, largest: f32) -> u32 {
    if cut == 0 {
        return LAST_BIN;
    }
    below(absolute_bin(largest), absolute_bin(logit_of_key((cut >> ID_BITS) as u32)))
}

/// Bytes that [`sample_draw_f32`] must move: of each slice a row of counts, and its largest logit.
pub const fn sample_draw_bytes(n_vocab: usize, n_sequences: usize) -> usize {
    n_sequences * super::slices_blocks(n_vocab) * (BINS + 1) * 4
}
