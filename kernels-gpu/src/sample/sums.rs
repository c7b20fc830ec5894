//! Exact sums over a block.

use crate::simt::prelude::*;

/// Elements of the tile that a sum needs: one for each warp.
pub(super) const SUM_LEN: usize = 32;

/// The value of lane `lane_id − delta`; past the first lane, zero.
#[inline(always)]
fn lanes_before(value: u64, delta: u32) -> u64 {
    let low = warp::shuffle_up(value as u32, delta);
    let high = warp::shuffle_up((value >> 32) as u32, delta);
    if warp::lane_id() >= delta { low as u64 | (high as u64) << 32 } else { 0 }
}

/// The sum over this lane and those before it.
#[inline(always)]
fn warp_running_sum(value: u64) -> u64 {
    let mut sum = value;
    let mut delta = 1;
    while delta < 32 {
        sum += lanes_before(sum, delta);
        delta *= 2;
    }
    sum
}

/// The sums of all threads before this one, and of all threads, for the block's first `n_warps` warps; what other
/// warps get and give does not count. `tile` has [`SUM_LEN`] elements that no thread is still reading; they may be
/// written again after a barrier.
#[inline(always)]
#[track_caller]
pub(super) fn running_sum(value: u64, n_warps: usize, tile: Tile<u64>) -> (u64, u64) {
    let ([before], [total]) = running_sums([value], n_warps, tile);
    (before, total)
}

/// [`running_sum`] of several values at once. `tile` has [`SUM_LEN`] elements for each.
#[inline(always)]
#[track_caller]
pub(super) fn running_sums<const N: usize>(
    values: [u64; N],
    n_warps: usize,
    tile: Tile<u64>,
) -> ([u64; N], [u64; N]) {
    let warp = warp::warp_id() as usize;
    let (mut before, mut total) = ([0; N], [0; N]);
    let mut n = 0;
    while n < N {
        let sum = warp_running_sum(values[n]);
        before[n] = sum - values[n];
        if warp::lane_id() == 31 {
            tile.set(n * SUM_LEN + warp, sum);
        }
        n += 1;
    }
    thread::sync_threads();
    if warp < n_warps {
        let mut other = 0;
        while other < n_warps {
            let mut n = 0;
            while n < N {
                let of_other = tile.get(n * SUM_LEN + other);
                total[n] += of_other;
                if other < warp {
                    before[n] += of_other;
                }
                n += 1;
            }
            other += 1;
        }
    }
    (before, total)
}

/// The sum over each `n` neighbouring lanes, a power of 2, in all of them.
#[inline(always)]
#[track_caller]
pub(super) fn lanes_sum(value: u64, n: usize) -> u64 {
    let mut sum = value;
    let mut mask = 1;
    while mask < n as u32 {
        let low = warp::shuffle_xor(sum as u32, mask);
        let high = warp::shuffle_xor((sum >> 32) as u32, mask);
        sum += low as u64 | (high as u64) << 32;
        mask *= 2;
    }
    sum
}
