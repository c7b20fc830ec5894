//! The largest logit.

use super::{STATUS_NAN, STATUS_NO_CANDIDATE};
use crate::simt::prelude::*;

/// Threads of the one block.
const THREADS: u32 = 1024;
const WARPS: usize = THREADS as usize / 32;

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

/// Bytes that [`argmax_f32`] must move.
pub const fn argmax_bytes(n_vocab: usize) -> usize {
    4 * n_vocab
}
