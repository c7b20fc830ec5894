//! The largest logit.

use super::{STATUS_NAN, STATUS_NO_CANDIDATE};
use crate::simt::prelude::*;
use crate::simt::shared::tile_bytes;

/// Threads of a block of both launches.
const THREADS: u32 = 256;
const WARPS: usize = THREADS as usize / 32;
const LOGITS_PER_THREAD: usize = 4;
/// Logits of a block of the first launch.
const BLOCK_LOGITS: usize = THREADS as usize * LOGITS_PER_THREAD;

const SHARED_BYTES: usize = tile_bytes::<f32>(WARPS) + tile_bytes::<u32>(WARPS);

/// The largest logit of each 1024, the lowest one of equals.
///
/// `bests [argmax_blocks, 2]`: the logit (+∞ if one is NaN) and its token. `logits [n_vocab]`.
///
/// Grid: [`argmax_blocks`]. Requires: n_vocab ≥ 1; logits on 16 bytes.
/// Fast because: more blocks than multiprocessors, a thread's logits in one access.
#[kernel(threads = THREADS, shared = SHARED_BYTES, pdl)]
pub fn argmax_slices_f32(bests: Out<u32>, logits: In<f32>, n_vocab: u32) {
    pdl::launch_dependents();
    pdl::wait();
    let n_vocab = n_vocab as usize;
    let first =
        thread::block_idx_x() as usize * BLOCK_LOGITS + thread::thread_idx_x() as usize * LOGITS_PER_THREAD;
    let mut own = [f32::NEG_INFINITY; LOGITS_PER_THREAD];
    if first + LOGITS_PER_THREAD <= n_vocab {
        own = logits.load::<LOGITS_PER_THREAD>(first);
    } else {
        let mut i = 0;
        while i < LOGITS_PER_THREAD {
            if first + i < n_vocab {
                own[i] = logits.get(first + i);
            }
            i += 1;
        }
    }
    let mut best = Best::NONE;
    let mut i = 0;
    while i < LOGITS_PER_THREAD {
        let logit = if own[i].is_nan() { f32::INFINITY } else { own[i] };
        best.join(Best { logit, token: (first + i) as u32 });
        i += 1;
    }
    let best = best.join_block();
    if thread::thread_idx_x() == 0 {
        bests.store::<2>(2 * thread::block_idx_x() as usize, [best.logit.to_bits(), best.token]);
    }
}

/// Chooses the largest logit and makes its token the input of the next step.
///
/// `chosen [2]`: the token and 0, or 0 and [`STATUS_NAN`] or [`STATUS_NO_CANDIDATE`]. `tokens [1]` gets the token,
/// `positions [1]` is advanced by 1. `bests [n_blocks, 2]` is what [`argmax_slices_f32`] wrote.
///
/// Grid: one block. Requires: n_blocks ≥ 1.
/// Fast because: one access a thread for vocabularies up to 262,144; it replaces a round trip to the host.
#[kernel(threads = THREADS, shared = SHARED_BYTES, pdl)]
pub fn argmax_f32(chosen: Out<u32>, tokens: Out<u32>, positions: InOut<u32>, bests: In<u32>, n_blocks: u32) {
    pdl::launch_dependents();
    pdl::wait();
    let is_first = thread::thread_idx_x() == 0;
    let position = if is_first { positions.get(0) } else { 0 };
    let mut best = Best::NONE;
    let mut i = thread::thread_idx_x();
    while i < n_blocks {
        let [logit, token] = bests.load::<2>(2 * i as usize);
        best.join(Best { logit: f32::from_bits(logit), token });
        i += THREADS;
    }
    let best = best.join_block();
    if is_first {
        let (token, status) = best.choice();
        chosen.store::<2>(0, [token, status]);
        tokens.set(0, token);
        positions.set(0, position + 1);
    }
}

/// The largest logit seen and its lowest index.
#[derive(Clone, Copy)]
struct Best {
    logit: f32,
    token: u32,
}

impl Best {
    /// Worse than any.
    const NONE: Best = Best { logit: f32::NEG_INFINITY, token: u32::MAX };

    #[inline(always)]
    fn join(&mut self, other: Best) {
        if other.logit > self.logit || (other.logit == self.logit && other.token < self.token) {
            *self = other;
        }
    }

    /// The best of the warp, in every lane.
    #[inline(always)]
    fn join_warp(mut self) -> Best {
        let mut offset = 16;
        while offset > 0 {
            self.join(Best {
                logit: warp::shuffle_xor(self.logit, offset),
                token: warp::shuffle_xor(self.token, offset),
            });
            offset /= 2;
        }
        self
    }

    /// The best of the block, in its first warp.
    #[inline(always)]
    fn join_block(self) -> Best {
        let mut shared = Shared::new();
        let (logits, tokens) = (shared.tile::<f32>(WARPS), shared.tile::<u32>(WARPS));
        let mut best = self.join_warp();
        if warp::lane_id() == 0 {
            logits.set(warp::warp_id() as usize, best.logit);
            tokens.set(warp::warp_id() as usize, best.token);
        }
        thread::sync_threads();
        if warp::warp_id() == 0 {
            let lane = warp::lane_id() as usize;
            best = Best::NONE;
            if lane < WARPS {
                best = Best { logit: logits.get(lane), token: tokens.get(lane) };
            }
            best = best.join_warp();
        }
        best
    }

    /// The token and the status.
    #[inline(always)]
    fn choice(self) -> (u32, u32) {
        if self.logit == f32::INFINITY {
            (0, STATUS_NAN)
        } else if self.logit == f32::NEG_INFINITY {
            (0, STATUS_NO_CANDIDATE)
        } else {
            (self.token, 0)
        }
    }
}

/// Blocks of [`argmax_slices_f32`].
pub const fn argmax_blocks(n_vocab: usize) -> usize {
    n_vocab.div_ceil(BLOCK_LOGITS)
}

/// Bytes that both launches must move.
pub const fn argmax_bytes(n_vocab: usize) -> usize {
    4 * n_vocab
}
