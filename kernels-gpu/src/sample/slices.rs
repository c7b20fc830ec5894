//! The chain's first launch: each slice of the vocabulary by itself.

use super::chain::{BINS, Chain, UNSCALED, absolute_bin, bin, weight};
use super::search::FEW;
use super::sums::{SUM_LEN, running_sum, running_sums};
use crate::simt::prelude::*;
use crate::simt::shared::tile_bytes;

/// Tokens of a slice.
pub const SLICE: usize = 2048;
/// Slices of a vocabulary at most: fewer than 2¹⁹ tokens.
const MAX_SLICES: usize = 255;
/// Largest vocabulary of the chain.
pub const MAX_VOCAB: usize = SLICE * MAX_SLICES;

const TOKENS_PER_THREAD: usize = 4;
const THREADS: usize = SLICE / TOKENS_PER_THREAD;
const WARPS: usize = THREADS / 32;
const _: () = assert!(THREADS == 2 * BINS && DRAW_WEIGHTS == WEIGHTS + BINS);

/// What is written of a slice, in words: its largest logit (+∞: one is NaN or +∞; −∞: none is above −∞); for each bin,
/// summed over that bin and all better ones, the number of tokens, their weights at temperature 1 and those at the
/// chain's, relative to the slice's largest logit; the tokens from the best bin to the worst, each its logit and its id.
pub const RECORD_WORDS: usize = TOKENS + 2 * SLICE;
pub(super) const LARGEST: usize = 0;
pub(super) const COUNTS: usize = 4;
pub(super) const WEIGHTS: usize = COUNTS + BINS;
pub(super) const DRAW_WEIGHTS: usize = WEIGHTS + BINS;
pub(super) const TOKENS: usize = DRAW_WEIGHTS + BINS;

/// Tokens of a record that can be read in any case: of slices that have fewer, the others' logits are −∞.
pub(super) const HEAD: usize = 8;
const _: () = assert!(HEAD <= FEW && TOKENS.is_multiple_of(2) && RECORD_WORDS.is_multiple_of(2));

const SHARED_BYTES: usize = tile_bytes::<f32>(block::REDUCE_LEN)
    + tile_bytes::<u64>(2 * SUM_LEN)
    + 2 * tile_bytes::<u32>(BINS)
    + tile_bytes::<u32>(SLICE)
    + tile_bytes::<f32>(SLICE)
    + tile_bytes::<u32>(SLICE)
    + 2 * tile_bytes::<f32>(SLICE);

/// Penalises the recent tokens and sorts each slice of the vocabulary into bins of equal width, best first.
///
/// `slices [n_sequences, n_slices, RECORD_WORDS]`, `logits [n_sequences, n_vocab]`, `chains [n_sequences, CHAIN_WORDS]`
/// ([`Chain::words`]), `history [n_sequences, n_ctx]` (the tokens of the sequence by position), `positions
/// [n_sequences]` (that of the sequence's last token).
///
/// If `top_k` is no more than [`SLICE`], no weights are written, and of the list only the bins that can hold one of the
/// `top_k`, or of a few hundred, best.
///
/// Grid: one block for each slice ([`slices_blocks`]), sequences along y. Requires: 1 ≤ n_vocab ≤ [`MAX_VOCAB`]; logits
/// and chains on 16 bytes; recent tokens below n_vocab.
/// Fast because: one reading of the logits, four to a thread in one access, by more blocks than there are
/// multiprocessors; the place of a token in its bin is what counting the bin returns, so sorting is two steps.
#[kernel(threads = THREADS, shared = SHARED_BYTES, pdl)]
pub fn sample_slices_f32(
    slices: Out<u32>,
    logits: In<f32>,
    chains: In<u32>,
    history: In<u32>,
    positions: In<u32>,
    n_vocab: u32,
    n_ctx: u32,
) {
    let mut shared = Shared::new();
    let reduce = shared.tile::<f32>(block::REDUCE_LEN);
    let sums = shared.tile::<u64>(2 * SUM_LEN);
    let in_bin = shared.tile::<u32>(BINS);
    let through_bin = shared.tile::<u32>(BINS);
    let occurrences = shared.tile::<u32>(SLICE);
    let sorted_logits = shared.tile::<f32>(SLICE);
    let sorted_ids = shared.tile::<u32>(SLICE);
    let running = [shared.tile::<f32>(SLICE), shared.tile::<f32>(SLICE)];
    pdl::launch_dependents();
    pdl::wait();

    let (slice, sequence) = (thread::block_idx_x() as usize, thread::block_idx_y() as usize);
    let (n_vocab, t) = (n_vocab as usize, thread::thread_idx_x() as usize);
    let record = (sequence * thread::grid_dim_x() as usize + slice) * RECORD_WORDS;
    let chain = Chain::load(chains, sequence);
    let first = slice * SLICE + t * TOKENS_PER_THREAD;
    let mut logit = load_logits(logits, sequence * n_vocab, first, n_vocab);
    let largest = largest(&logit);
    if chain.has_penalty() {
        let end = positions.get(sequence) as usize + 1;
        let start = end - (chain.n_recent as usize).min(end);
        let tokens = sequence * n_ctx as usize;
        count_recent(occurrences, history, tokens + start..tokens + end, (slice * SLICE) as u32);
        penalise(&mut logit, occurrences, &chain);
    }
    // What was no number before the penalties is none after them.
    let largest = if largest == f32::INFINITY { largest } else { self::largest(&logit) };
    if t < BINS {
        in_bin.set(t, 0);
    }
    let largest = block::max_f32(largest, reduce);
    if t == 0 {
        slices.set(record + LARGEST, largest.to_bits());
    }

    // A token's place in its bin is the number of those counted before it: any order will do.
    let top = absolute_bin(largest);
    let is_short = chain.fits_list();
    let (mut of, mut place) = ([0; TOKENS_PER_THREAD], [0; TOKENS_PER_THREAD]);
    let mut j = 0;
    while j < TOKENS_PER_THREAD {
        if logit[j] > f32::NEG_INFINITY {
            of[j] = bin(logit[j], top);
            place[j] = atomic::add_u32(in_bin, of[j] as usize, 1);
        }
        j += 1;
    }
    thread::sync_threads();
    let count = if t < BINS { in_bin.get(t) } else { 0 };
    let (before, n_tokens) = running_sum(count as u64, WARPS, sums);
    let through = before as u32 + count;
    if t < BINS {
        through_bin.set(t, through);
        slices.set(record + COUNTS + t, through);
    }
    thread::sync_threads();
    let n_tokens = n_tokens as usize;
    if t >= n_tokens && t < HEAD {
        slices.store::<2>(record + TOKENS + 2 * t, [f32::NEG_INFINITY.to_bits(), 0]);
    }
    let mut j = 0;
    while j < TOKENS_PER_THREAD {
        if logit[j] > f32::NEG_INFINITY {
            let bin = of[j] as usize;
            let n_better = through_bin.get(bin) - in_bin.get(bin);
            let at = (n_better + place[j]) as usize;
            sorted_logits.set(at, logit[j]);
            sorted_ids.set(at, (first + j) as u32);
            // All that the second launch reads where it looks for few.
            if is_short && n_better < chain.top_k.max(FEW as u32) {
                slices.store::<2>(record + TOKENS + 2 * at, [logit[j].to_bits(), (first + j) as u32]);
            }
        }
        j += 1;
    }
    if is_short {
        return;
    }
    thread::sync_threads();

    let mut i = t;
    while i < n_tokens {
        let token = [sorted_logits.get(i).to_bits(), sorted_ids.get(i)];
        slices.store::<2>(record + TOKENS + 2 * i, token);
        i += THREADS;
    }
    weigh(sorted_logits, n_tokens, largest, [UNSCALED, chain.exponent_scale], running, sums);
    // The first half of the block has the one row, the second the other.
    let (row, bin) = (t / BINS, t % BINS);
    let through = through_bin.get(bin) as usize;
    let running = if row == 0 { running[0] } else { running[1] };
    let sum = if through == 0 { 0.0 } else { running.get(through - 1) };
    slices.set(record + WEIGHTS + row * BINS + bin, sum.to_bits());
}

/// A thread's logits, from token `first` on; −∞ past the vocabulary.
#[inline(always)]
fn load_logits(logits: In<f32>, row: usize, first: usize, n_vocab: usize) -> [f32; TOKENS_PER_THREAD] {
    let mut logit = [f32::NEG_INFINITY; TOKENS_PER_THREAD];
    if n_vocab.is_multiple_of(TOKENS_PER_THREAD) {
        if first < n_vocab {
            logit = logits.load::<TOKENS_PER_THREAD>(row + first);
        }
    } else {
        let mut j = 0;
        while j < TOKENS_PER_THREAD {
            if first + j < n_vocab {
                logit[j] = logits.get(row + first + j);
            }
            j += 1;
        }
    }
    // The sum turns -0 into 0, which must be its equal.
    [logit[0] + 0.0, logit[1] + 0.0, logit[2] + 0.0, logit[3] + 0.0]
}

/// The largest of a thread's logits; +∞ if one is NaN.
#[inline(always)]
fn largest(logit: &[f32; TOKENS_PER_THREAD]) -> f32 {
    let mut largest = f32::NEG_INFINITY;
    let mut j = 0;
    while j < TOKENS_PER_THREAD {
        largest = if logit[j].is_nan() { f32::INFINITY } else { math::max(largest, logit[j]) };
        j += 1;
    }
    largest
}

/// How often each token of the slice is among the recent ones. Ends before a barrier.
#[inline(always)]
fn count_recent(occurrences: Tile<u32>, history: In<u32>, recent: core::ops::Range<usize>, first: u32) {
    let t = thread::thread_idx_x() as usize;
    occurrences.store::<TOKENS_PER_THREAD>(t * TOKENS_PER_THREAD, [0; TOKENS_PER_THREAD]);
    thread::sync_threads();
    let mut i = recent.start + t;
    while i < recent.end {
        let in_slice = history.get(i).wrapping_sub(first) as usize;
        if in_slice < SLICE {
            atomic::add_u32(occurrences, in_slice, 1);
        }
        i += THREADS;
    }
    thread::sync_threads();
}

#[inline(always)]
fn penalise(logit: &mut [f32; TOKENS_PER_THREAD], occurrences: Tile<u32>, chain: &Chain) {
    let t = thread::thread_idx_x() as usize;
    let count = occurrences.load::<TOKENS_PER_THREAD>(t * TOKENS_PER_THREAD);
    let mut j = 0;
    while j < TOKENS_PER_THREAD {
        if count[j] > 0 {
            logit[j] = chain.penalised(logit[j], count[j]) + 0.0;
        }
        j += 1;
    }
}

/// The sums of the weights of each token and those before it, rounded to f32, for two scales of exponents. Ends with a
/// barrier.
#[inline(always)]
fn weigh(
    sorted_logits: Tile<f32>,
    n_tokens: usize,
    largest: f32,
    exponent_scales: [f32; 2],
    running: [Tile<f32>; 2],
    sums: Tile<u64>,
) {
    let first = thread::thread_idx_x() as usize * TOKENS_PER_THREAD;
    let mut sum = [[0; TOKENS_PER_THREAD]; 2];
    let mut total = [0; 2];
    let mut j = 0;
    while j < TOKENS_PER_THREAD {
        let mut row = 0;
        while row < 2 {
            if first + j < n_tokens {
                total[row] += weight(sorted_logits.get(first + j), largest, exponent_scales[row]);
            }
            sum[row][j] = total[row];
            row += 1;
        }
        j += 1;
    }
    let (before, _) = running_sums(total, WARPS, sums);
    let mut row = 0;
    while row < 2 {
        let [a, b, c, d] = sum[row];
        let through = |sum: u64| (before[row] + sum) as f32;
        running[row].store::<TOKENS_PER_THREAD>(first, [through(a), through(b), through(c), through(d)]);
        row += 1;
    }
    thread::sync_threads();
}

/// Blocks along x of [`sample_slices_f32`].
pub const fn slices_blocks(n_vocab: usize) -> usize {
    n_vocab.div_ceil(SLICE)
}

/// Words of the records of so many sequences.
pub const fn slices_words(n_vocab: usize, n_sequences: usize) -> usize {
    n_sequences * slices_blocks(n_vocab) * RECORD_WORDS
}

/// Bytes that [`sample_slices_f32`] must move: the logits, and the records' rows of sums. (Their lists are 8 bytes for each
/// token that can be among the `top_k` best: few, or all.)
pub const fn sample_slices_bytes(n_vocab: usize, n_sequences: usize) -> usize {
    n_sequences * (n_vocab * 4 + slices_blocks(n_vocab) * TOKENS * 4)
}

/// Arithmetic of [`sample_slices_f32`]: for each logit a comparison, its bin, and two weights of a difference, a product,
/// an exponential, a product and a sum.
pub const fn sample_slices_flops(n_vocab: usize, n_sequences: usize) -> usize {
    n_sequences * n_vocab * 12
}
