//! Choosing the next token on the device, so that a decode step needs no round trip to the host.

use crate::simt::prelude::*;

/// Threads of the one block of [`argmax_f32`] and [`softmax_sample_f32`].
pub const THREADS: u32 = 1024;
const WARPS: usize = THREADS as usize / 32;

/// The status word after a launch that met a NaN or +∞, which no softmax has an answer to: the token is not valid.
pub const STATUS_NAN: u32 = 1;
/// The status word after a launch in which no logit was above −∞: the token is not valid.
pub const STATUS_NO_CANDIDATE: u32 = 2;

/// Tokens that a warp sums at once in [`softmax_sample_f32`].
const SEGMENT: usize = 1024;
/// Largest vocabulary of [`softmax_sample_f32`]: one sum a segment is kept in shared memory.
pub const MAX_VOCAB: usize = SEGMENT * 1024;

/// token = the index of the largest logit, the lowest one of equals; status = 0, [`STATUS_NAN`] or
/// [`STATUS_NO_CANDIDATE`].
///
/// `token [1]`, `status [1]`, `logits [n_vocab]`.
///
/// Grid: one block. Requires: n_vocab ≥ 1.
/// Fast because: each round reads 4 KiB in one piece; the whole of a 152k vocabulary is 150 rounds of one block, about
/// the price of the launch of a second kernel.
#[kernel(threads = THREADS, shared = 3 * 32 * 4, pdl)]
pub fn argmax_f32(token: Out<u32>, status: Out<u32>, logits: In<f32>, n_vocab: u32) {
    pdl::launch_dependents();
    pdl::wait();
    let best = block_best(logits, n_vocab as usize, &mut Shared::new());
    if thread::thread_idx_x() == 0 {
        token.set(0, best.token);
        status.set(0, best.status());
    }
}

/// token = a draw from softmax(logits / temperature); status as in [`argmax_f32`].
///
/// The draw is the first token whose cumulated probability passes u, tokens in order of their ids; u in [0, 1) comes
/// from (`seed`, `positions[0]`) by [`uniform`], so the same seed gives the same token at the same place.
///
/// `token [1]`, `status [1]`, `logits [n_vocab]`, `positions [1]`.
///
/// Grid: one block. Requires: temperature > 0; 1 ≤ n_vocab ≤ [`MAX_VOCAB`].
/// Fast because: two passes over the logits and a third over 1024 of them; sums have a fixed order and no atomics.
#[kernel(threads = THREADS, shared = 3 * 32 * 4 + 1024 * 4, pdl)]
pub fn softmax_sample_f32(
    token: Out<u32>,
    status: Out<u32>,
    logits: In<f32>,
    positions: In<u32>,
    n_vocab: u32,
    temperature: f32,
    seed: u64,
) {
    pdl::launch_dependents();
    pdl::wait();
    let n_vocab = n_vocab as usize;
    let mut shared = Shared::new();
    let best = block_best(logits, n_vocab, &mut shared);
    let sums = shared.tile::<f32>(SEGMENT);
    let inverse_temperature = math::div(1.0, temperature);
    let lane = warp::lane_id() as usize;
    let n_segments = n_vocab.div_ceil(SEGMENT);

    let mut segment = warp::warp_id() as usize;
    while segment < n_segments {
        let mut sum = 0.0;
        let mut i = 0;
        while i < SEGMENT && segment * SEGMENT + i < n_vocab {
            sum += weight(logits, segment * SEGMENT + i + lane, n_vocab, best.logit, inverse_temperature);
            i += 32;
        }
        let sum = warp::sum_f32(sum);
        if lane == 0 {
            sums.set(segment, sum);
        }
        segment += WARPS;
    }
    thread::sync_threads();

    if warp::warp_id() == 0 {
        let mut total = 0.0;
        let mut segment = 0;
        while segment < n_segments {
            total += sums.get(segment);
            segment += 1;
        }
        let target = total * uniform(seed, positions.get(0));
        // The segment in which the running sum passes the target. Segments are summed in another order above than
        // below, so the last segment with any weight catches a target that rounding pushed past the end.
        let (mut before, mut chosen, mut chosen_before) = (0.0, 0, 0.0);
        let mut found = false;
        let mut segment = 0;
        while segment < n_segments {
            let sum = sums.get(segment);
            if !found && sum > 0.0 {
                chosen = segment;
                chosen_before = before;
                found = before + sum > target;
            }
            before += sum;
            segment += 1;
        }
        let drawn = draw_in_segment(
            logits,
            chosen * SEGMENT,
            n_vocab,
            best.logit,
            inverse_temperature,
            target - chosen_before,
        );
        if lane == 0 {
            token.set(0, if best.status() == 0 { drawn } else { best.token });
            status.set(0, best.status());
        }
    }
}

/// The first token of a segment at which the running sum of weights passes `target`; the last one with any weight when
/// rounding keeps the sum below it.
#[inline(always)]
fn draw_in_segment(
    logits: In<f32>,
    first: usize,
    n_vocab: usize,
    max: f32,
    inverse_temperature: f32,
    target: f32,
) -> u32 {
    let lane = warp::lane_id();
    let (mut before, mut last_with_weight) = (0.0, first as u32);
    let (mut drawn, mut found) = (0u32, false);
    let mut i = 0;
    while i < SEGMENT && first + i < n_vocab {
        let p = weight(logits, first + i + lane as usize, n_vocab, max, inverse_temperature);
        let mut sum = p;
        let mut offset = 1;
        while offset < 32 {
            let other = warp::shuffle_up(sum, offset);
            if lane >= offset {
                sum += other;
            }
            offset *= 2;
        }
        let passed = warp::ballot(p > 0.0 && before + sum > target);
        let with_weight = warp::ballot(p > 0.0);
        if with_weight != 0 {
            last_with_weight = (first + i) as u32 + 31 - with_weight.leading_zeros();
        }
        if !found && passed != 0 {
            drawn = (first + i) as u32 + passed.trailing_zeros();
            found = true;
        }
        before += warp::shuffle_idx(sum, 31);
        i += 32;
    }
    if found { drawn } else { last_with_weight }
}

/// exp((logit − max) / temperature); nothing past the vocabulary.
#[inline(always)]
fn weight(logits: In<f32>, i: usize, n_vocab: usize, max: f32, inverse_temperature: f32) -> f32 {
    if i < n_vocab { math::exp((logits.get(i) - max) * inverse_temperature) } else { 0.0 }
}

/// The largest logit seen, its lowest index, and whether any logit was NaN.
#[derive(Clone, Copy)]
struct Best {
    logit: f32,
    token: u32,
    nan: u32, // 0 or 1
}

impl Best {
    #[inline(always)]
    fn join(&mut self, other: Best) {
        if other.logit > self.logit || (other.logit == self.logit && other.token < self.token) {
            self.logit = other.logit;
            self.token = other.token;
        }
        self.nan |= other.nan;
    }

    #[inline(always)]
    fn join_warp(mut self) -> Best {
        let mut offset = 16;
        while offset > 0 {
            self.join(Best {
                logit: warp::shuffle_xor(self.logit, offset),
                token: warp::shuffle_xor(self.token, offset),
                nan: warp::shuffle_xor(self.nan, offset),
            });
            offset /= 2;
        }
        self
    }

    #[inline(always)]
    fn status(self) -> u32 {
        if self.nan != 0 || self.logit == f32::INFINITY {
            STATUS_NAN
        } else if self.logit == f32::NEG_INFINITY {
            STATUS_NO_CANDIDATE
        } else {
            0
        }
    }
}

/// The best logit of the vocabulary, in every thread of the block. Uses 3 · 32 words of shared memory.
#[inline(always)]
fn block_best(logits: In<f32>, n_vocab: usize, shared: &mut Shared) -> Best {
    let best_logit = shared.tile::<f32>(WARPS);
    let best_token = shared.tile::<u32>(WARPS);
    let any_nan = shared.tile::<u32>(WARPS);
    let mut best = Best { logit: f32::NEG_INFINITY, token: 0, nan: 0 };
    let mut i = thread::thread_idx_x() as usize;
    while i < n_vocab {
        let logit = logits.get(i);
        best.join(Best { logit, token: i as u32, nan: logit.is_nan() as u32 });
        i += THREADS as usize;
    }
    let best = best.join_warp();
    let warp = warp::warp_id() as usize;
    if warp::lane_id() == 0 {
        best_logit.set(warp, best.logit);
        best_token.set(warp, best.token);
        any_nan.set(warp, best.nan);
    }
    thread::sync_threads();
    let lane = warp::lane_id() as usize;
    let best = Best { logit: best_logit.get(lane), token: best_token.get(lane), nan: any_nan.get(lane) };
    best.join_warp()
}

/// A number in [0, 1) with 24 random bits, from a seed and a counter: the output function of SplitMix64 (Steele, Lea,
/// Flood 2014, <https://doi.org/10.1145/2660193.2660195>) at place `counter` of the stream of `seed`.
#[inline(always)]
pub fn uniform(seed: u64, counter: u32) -> f32 {
    let mut z = seed.wrapping_add((counter as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 40) as f32 * (1.0 / 16_777_216.0)
}

/// `tokens[0] = sampled[0]` and `positions[0] += 1`: the input of the next decode step.
///
/// Grid: one block. Requires: nothing. Fast because: it replaces a round trip to the host.
#[kernel(threads = 32, pdl)]
pub fn advance(tokens: Out<u32>, positions: InOut<u32>, sampled: In<u32>) {
    pdl::launch_dependents();
    pdl::wait();
    if thread::thread_idx_x() == 0 {
        tokens.set(0, sampled.get(0));
        positions.set(0, positions.get(0) + 1);
    }
}

/// Bytes that [`argmax_f32`] must move.
pub const fn argmax_bytes(n_vocab: usize) -> usize {
    4 * n_vocab
}

/// Bytes that [`softmax_sample_f32`] must move: the logits once; its second pass finds them in the L2 cache.
pub const fn softmax_sample_bytes(n_vocab: usize) -> usize {
    4 * n_vocab
}
