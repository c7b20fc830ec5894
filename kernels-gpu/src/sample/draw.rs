//! The chain's second launch: where the stages' borders lie, and the draw.

mod choose;
mod order;
mod weights;

use super::chain::{
    BINS, BINS_PER_NAT, Chain, ID_BITS, UNSCALED, WEIGHT_BITS, absolute_bin, below, id_rank, logit_of_key,
    min_p_cut, rank, weight,
};
use super::records::{LAST_BIN, RECORDS_BYTES, Records, Row, bin_of};
use super::search::{FEW, Found, Item, Items, NUMBERS, SEARCH_BYTES, Search};
use super::slices::SLICE;
use super::{STATUS_NAN, STATUS_NO_CANDIDATE, random};
use crate::simt::prelude::*;
use crate::simt::shared::tile_bytes;
use weights::PARTIAL_SUMS;

pub(super) const THREADS: usize = 512;
const _: () = assert!(NUMBERS == BINS);
/// Threads that share the tokens of a slice, of which most have few.
const SLICE_THREADS: usize = 4;
/// Tokens of the list in shared memory.
const LIST: usize = 2 * SLICE;
/// Tokens of a slice that a thread has.
const PER_THREAD: usize = SLICE / THREADS;
/// Bytes of a rank.
const RANK_BYTES: u32 = 4 + ID_BITS / 8;

const SHARED_BYTES: usize = SEARCH_BYTES
    + RECORDS_BYTES
    + tile_bytes::<u64>(NUMBERS)
    + 3 * tile_bytes::<u32>(NUMBERS)
    + tile_bytes::<u64>(PARTIAL_SUMS)
    + tile_bytes::<f32>(LIST)
    + tile_bytes::<u32>(LIST)
    + tile_bytes::<f32>(SLICE)
    + tile_bytes::<f32>(FEW)
    + tile_bytes::<u32>(FEW)
    + tile_bytes::<u32>(2);

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
/// Fast because: (1) the best of all slices are on their way before anything is known, and where `top_k` is small and they are
/// enough, nothing else is read; (2) else it reads a row of sums for each stage, and then the tokens of single bins; where no
/// more than 4096 tokens are as good as the worst that stays, they are copied to shared memory once; (3) the draw finds the
/// slice first, and then the token in the order of ids, by one sum. All searches are rounds of one loop, since code that runs
/// once is waited for.
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
    let heads = draw.records.heads();
    let largest = draw.records.compare();
    draw.keep_heads(heads);
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
    /// How many of them are in the slices before.
    starts: Tile<u32>,
    partial_sums: Tile<u64>,
    list_logits: Tile<f32>,
    list_ids: Tile<u32>,
    /// The logits of a slice in the order of ids.
    in_order: Tile<f32>,
    /// Those tokens among which the one that is looked for must be.
    few_logits: Tile<f32>,
    few_ids: Tile<u32>,
    /// How many are in the list, and among the few.
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
    /// One loop for both places, since its bodies are long.
    #[inline(always)]
    fn each(&self, body: impl Fn(Item)) {
        let Candidates(draw, chosen) = self;
        let (t, is_listed) = (thread::thread_idx_x() as usize, chosen.n_listed.is_some());
        // The list is a slice that all threads share.
        let mut slice = if is_listed { 0 } else { t / SLICE_THREADS };
        let n_slices = if is_listed { 1 } else { draw.records.n_slices };
        while slice < n_slices {
            let (mut i, mut end, mut step) = (t, chosen.n_listed.unwrap_or(0) as usize, THREADS);
            if !is_listed {
                i = draw.firsts.get(slice) as usize + t % SLICE_THREADS;
                (end, step) = (draw.ends.get(slice) as usize, SLICE_THREADS);
            }
            while i < end {
                body(if is_listed { draw.listed(i) } else { draw.records.item(slice, i) });
                i += step;
            }
            slice += THREADS / SLICE_THREADS;
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
            starts: shared.tile(NUMBERS),
            partial_sums: shared.tile(PARTIAL_SUMS),
            list_logits: shared.tile(LIST),
            list_ids: shared.tile(LIST),
            in_order: shared.tile(SLICE),
            few_logits: shared.tile(FEW),
            few_ids: shared.tile(FEW),
            n_listed: shared.tile(2),
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
            // The sum that is looked for, and the bin to which it is relative, if any.
            let (mut target, mut bin) = (None, None);
            if !chosen.with_better {
                let found = match stage.row {
                    Row::Counts => Found::nothing(stage.target(0, chain, unit)),
                    _ => {
                        self.sum_slices(cut, stage, largest);
                        self.first_slice(|total| stage.target(total, chain, unit))
                    }
                };
                if is_draw {
                    return self.draw_from_slice(found, cut, stage, largest);
                }
                target = Some(found.target);
                let mut guess = if stage.row == Row::Counts { self.guess_bin(chain.top_k) } else { None };
                if let Some(bin) = guess {
                    chosen = self.list_heads(bin, largest);
                }
                while !chosen.with_better {
                    let (mut found, mut worst) = (Found { index: guess.unwrap_or(0), ..found }, LAST_BIN);
                    if guess.is_none() {
                        worst = cut_bin(cut, largest);
                        found = self.first_bin(stage, found.target, largest);
                    }
                    let nearest = found.index.min(worst);
                    chosen = self.choose(nearest, if guess.is_some() { FEW } else { LIST });
                    if guess.take().is_none() {
                        // Roundings differ between the sums: the border may be that of the stage before.
                        let in_bin = found.target - found.before;
                        target = Some(if found.index > worst { u64::MAX } else { in_bin });
                        bin = Some(nearest);
                        break;
                    }
                }
            }
            let found = match self.search_in(chosen, stage, cut, largest, (target, bin), |total| {
                stage.target(total, chain, unit)
            }) {
                Outcome::Drawn(token) => return token,
                Outcome::Last(rank) => rank,
            };
            cut = cut.max(found);
            if chain.fits_list() && !chosen.with_better {
                chosen = self.choose_down_to(cut, largest);
            }
            stage = stage.next(chain);
        }
    }

    /// Finds where the sum over the tokens under consideration reaches the target: that among the tokens of a bin, if there is
    /// one; what `target_of` makes of the sum of all, if there is none.
    ///
    /// Round by round, the sums for 256 values tell in which of them it is, until few are left: of the draw slices; else bins,
    /// parts of a bin, and where these have many equals, bytes of ranks.
    #[inline(always)]
    fn search_in(
        &self,
        chosen: Chosen,
        stage: Stage,
        cut: u64,
        largest: f32,
        (mut target, bin): (Option<u64>, Option<u32>),
        target_of: impl Fn(u64) -> u64,
    ) -> Outcome {
        let is_draw = stage.row == Row::Draw;
        let candidates = Candidates(self, chosen);
        let place = |item: Item| if is_draw { id_rank(item.id) } else { rank(item.logit, item.id) };
        let mut n_few = None;
        let mut found_at = FoundAt { bin, part: None, shift: 8 * RANK_BYTES, prefix: 0 };
        loop {
            let at = found_at;
            let measure = |item: Item| {
                let weight = weight(item.logit, largest, stage.exponent_scale);
                // A token that weighs nothing still has its place in the ranking.
                let weight = if is_draw { weight } else { weight.max(1) };
                if rank(item.logit, item.id) >= cut && at.has(item, largest) { weight } else { 0 }
            };
            let target_in = |total: u64| target.unwrap_or_else(|| target_of(total));
            if let Some(n) = n_few.or(chosen.n_listed.filter(|&n| n as usize <= FEW)) {
                let item = |i| if n_few.is_some() { self.few(i) } else { self.listed(i) };
                let item = |i| (place(item(i)), measure(item(i)));
                let found = self.search.select_few(n as usize, item, target_in);
                return match is_draw {
                    true => Outcome::Drawn((1 << ID_BITS) - 1 - found as u32),
                    false => Outcome::Last(found),
                };
            }
            if thread::thread_idx_x() == 0 {
                self.n_listed.set(1, 0);
            }
            let value = |item: Item| if is_draw { item.id as usize / SLICE } else { at.value(item, largest) };
            let found = self.search.first_of(&candidates, value, measure, target_in);
            let n = self.search.count_of(found.index);
            if is_draw {
                self.begin_order();
            }
            if is_draw || n as usize <= FEW {
                candidates.each(|item| {
                    if measure(item) > 0 && value(item) == found.index as usize {
                        if is_draw {
                            self.in_order.set(item.id as usize % SLICE, item.logit);
                        } else {
                            self.set_few(atomic::add_u32(self.n_listed, 1, 1) as usize, item);
                        }
                    }
                });
                n_few = Some(n);
            } else {
                found_at = at.narrowed(found.index);
            }
            let in_it = found.target - found.before;
            if is_draw {
                let slice = found.index as usize;
                return Outcome::Drawn(self.first_in_order(slice, |_| in_it, stage, largest));
            }
            thread::sync_threads();
            target = Some(in_it);
        }
    }
}

/// Among which tokens the one is that is looked for: those of a bin, of a part of it, whose ranks begin like this.
#[derive(Clone, Copy)]
struct FoundAt {
    bin: Option<u32>,
    part: Option<u32>,
    /// Bits of a rank behind the prefix.
    shift: u32,
    prefix: u64,
}

impl FoundAt {
    #[inline(always)]
    fn has(self, item: Item, largest: f32) -> bool {
        match (self.bin, self.part) {
            (None, _) => true,
            (Some(bin), None) => bin_of(item.logit, largest) == bin,
            (Some(bin), Some(part)) => {
                bin_of(item.logit, largest) == bin
                    && bin_part(item.logit, bin, largest) == part
                    && rank(item.logit, item.id) >> self.shift == self.prefix
            }
        }
    }

    /// Which of 256 values the item has among these, the best first.
    #[inline(always)]
    fn value(self, item: Item, largest: f32) -> usize {
        match (self.bin, self.part) {
            (None, _) => bin_of(item.logit, largest) as usize,
            (Some(bin), None) => bin_part(item.logit, bin, largest) as usize,
            _ => 255 - (rank(item.logit, item.id) >> (self.shift - 8)) as usize % 256,
        }
    }

    /// Those of them with this value.
    #[inline(always)]
    fn narrowed(mut self, value: u32) -> Self {
        match (self.bin, self.part) {
            (None, _) => self.bin = Some(value),
            (_, None) => self.part = Some(value),
            _ => {
                self.shift -= 8;
                self.prefix = self.prefix << 8 | (255 - value) as u64;
            }
        }
        self
    }
}

/// What a search finds.
enum Outcome {
    /// The rank of the last token that stays.
    Last(u64),
    /// The token drawn.
    Drawn(u32),
}

/// In which of 256 parts of its bin a logit lies, the best first: never lower for a smaller logit.
#[inline(always)]
fn bin_part(logit: f32, bin: u32, largest: f32) -> u32 {
    // The bin's upper end. For the last bin, and where floats are farther apart than this, all may be in one part.
    let end = (absolute_bin(largest) as f32 - bin as f32 + 0.5) * (1.0 / BINS_PER_NAT);
    let part = math::round_to_i32((end - logit) * (BINS_PER_NAT * NUMBERS as f32) - 0.5);
    part.clamp(0, NUMBERS as i32 - 1) as u32
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
