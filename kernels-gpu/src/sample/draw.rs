//! The chain's second launch: where the stages' borders lie, and the draw.

mod choose;
mod order;
mod weights;

use super::chain::{
    BINS, Chain, ID_BITS, UNSCALED, WEIGHT_BITS, absolute_bin, below, id_rank, logit_of_key, min_p_cut, rank,
    weight,
};
use super::records::{HEADS_PER_THREAD, LAST_BIN, RECORDS_BYTES, Records, Row};
use super::search::{FEW, Found, Item, Items, NUMBERS, SEARCH_BYTES, Search};
use super::slices::SLICE;
use super::{STATUS_NAN, STATUS_NO_CANDIDATE, random};
use crate::simt::prelude::*;
use crate::simt::shared::tile_bytes;

pub(super) const THREADS: usize = 512;
/// Threads that share the slices of a bin.
const GROUPS: usize = THREADS / BINS;
const _: () = assert!(NUMBERS == BINS && GROUPS == 2);
/// Threads that share the tokens of a slice, of which most have few.
const SLICE_THREADS: usize = 8;
/// Slices whose sums are on their way to a thread at a time.
const IN_FLIGHT: usize = 10;
/// Tokens of the list in shared memory: those of a slice.
const LIST: usize = SLICE;
/// Tokens of the list, or of a slice, that a thread has.
const PER_THREAD: usize = LIST / THREADS;
/// Bytes of a rank.
const RANK_BYTES: u32 = 4 + ID_BITS / 8;

const SHARED_BYTES: usize = SEARCH_BYTES
    + RECORDS_BYTES
    + tile_bytes::<u64>(NUMBERS)
    + 3 * tile_bytes::<u32>(NUMBERS)
    + tile_bytes::<u64>(GROUPS * BINS)
    + tile_bytes::<f32>(LIST)
    + tile_bytes::<u32>(LIST)
    + tile_bytes::<f32>(SLICE)
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
/// more than 2048 tokens are as good as the worst that stays, they are copied to shared memory once; (3) the draw finds the
/// slice first, and then the token in the order of ids, by one sum. The stages are rounds of one loop, since code that runs
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
    let (token, status) = if largest == f32::INFINITY {
        (0, STATUS_NAN)
    } else if largest == f32::NEG_INFINITY {
        (0, STATUS_NO_CANDIDATE)
    } else {
        let n = position.wrapping_add(chain.draw_offset);
        (draw.token(&chain, &heads, largest, random::unit(chain.random_key, n as u64)), 0)
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
    /// Places in the list of the tokens of one bin.
    few: Tile<u32>,
    /// How many are in the list, and in `few`.
    n_listed: Tile<u32>,
}

/// Tokens under consideration.
#[derive(Clone, Copy)]
struct Chosen {
    /// How many they are, if they are in the list; else they lie where `firsts` and `ends` say.
    n_listed: Option<u32>,
    /// Whether all better tokens are among them.
    with_better: bool,
    /// How many of them are in the bin that was asked for, if `few` names them.
    n_few: Option<u32>,
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
            starts: shared.tile(NUMBERS),
            partial_sums: shared.tile(GROUPS * BINS),
            list_logits: shared.tile(LIST),
            list_ids: shared.tile(LIST),
            in_order: shared.tile(SLICE),
            few: shared.tile(FEW),
            n_listed: shared.tile(2),
        }
    }

    /// Draws from what the stages leave.
    #[inline(always)]
    fn token(&self, chain: &Chain, heads: &[Item; HEADS_PER_THREAD], largest: f32, unit: f64) -> u32 {
        // The lowest rank that stays.
        let mut cut = 0;
        let mut chosen = Chosen { n_listed: None, with_better: false, n_few: None };
        let mut stage = Stage::first(chain);
        loop {
            let is_draw = stage.row == Row::Draw;
            if is_draw {
                cut = cut.max(min_p_cut(largest, chain.ln_min_p));
            }
            let mut target = None;
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
                let few = match stage.row {
                    Row::Counts => self.choose_few(chain.top_k, heads, largest),
                    _ => None,
                };
                if let Some(few) = few {
                    (chosen, target) = (few, Some(found.target));
                } else {
                    let (worst, found) =
                        (cut_bin(cut, largest), self.first_bin(stage, found.target, largest));
                    chosen = self.choose(found.index.min(worst), LIST, largest);
                    target = Some(match () {
                        // Roundings differ between the sums: the border is that of the stage before.
                        () if found.index > worst => u64::MAX,
                        () if chosen.with_better && chosen.n_few.is_none() => found.target,
                        () => found.target - found.before,
                    });
                }
            }
            let measure = |item: Item| {
                let weight = weight(item.logit, largest, stage.exponent_scale);
                // A token that weighs nothing still has its place in the ranking.
                let weight = if is_draw { weight } else { weight.max(1) };
                if rank(item.logit, item.id) >= cut { weight } else { 0 }
            };
            let target = |total: u64| match target {
                Some(target) => target,
                None => stage.target(total, chain, unit),
            };
            let place = |item: Item| if is_draw { id_rank(item.id) } else { rank(item.logit, item.id) };
            let found = match chosen {
                Chosen { n_few: Some(n), .. } => {
                    let item = |i: usize| self.listed(self.few.get(i) as usize);
                    self.search.select_few(n as usize, |i| (place(item(i)), measure(item(i))), target)
                }
                Chosen { n_listed: Some(n), .. } if n as usize <= FEW => {
                    let item = |i| (place(self.listed(i)), measure(self.listed(i)));
                    self.search.select_few(n as usize, item, target)
                }
                _ if is_draw => {
                    let candidates = Candidates(self, chosen);
                    let found =
                        self.search.first_of(&candidates, |item| item.id as usize / SLICE, measure, target);
                    let slice = found.index as usize;
                    self.begin_order();
                    candidates.each(|item| {
                        if measure(item) > 0 && item.id as usize / SLICE == slice {
                            self.in_order.set(item.id as usize % SLICE, item.logit);
                        }
                    });
                    let target = found.target - found.before;
                    return self.first_in_order(slice, |_| target, stage, largest);
                }
                _ => {
                    let target = target(self.sum(chosen, measure));
                    self.search.select(&Candidates(self, chosen), RANK_BYTES, target, place, measure)
                }
            };
            if is_draw {
                return (1 << ID_BITS) - 1 - found as u32;
            }
            cut = cut.max(found);
            chosen.n_few = None;
            if chain.fits_list() && !chosen.with_better {
                chosen = self.choose_down_to(cut, largest);
            }
            stage = stage.next(chain);
        }
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
