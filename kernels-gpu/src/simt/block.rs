//! Words that all threads of a block say together.

use super::shared::{self, Tile};
use super::{thread, warp};

/// Elements of the tile that a reduction over a block needs: one per warp, 32 at most.
pub const REDUCE_LEN: usize = 32;
/// Bytes of that tile, for `#[kernel(shared = …)]`.
pub const REDUCE_BYTES: usize = shared::tile_bytes::<f32>(REDUCE_LEN);

/// The sum over the block, in every thread. `tile` has at least [`REDUCE_LEN`] elements that no thread is
/// still reading; it may be reused at once, since the last thing that happens is a barrier. The order of additions
/// is fixed: a butterfly in each warp, then one over the warps.
#[inline(always)]
#[track_caller]
pub fn sum_f32(value: f32, tile: Tile<f32>) -> f32 {
    let all = exchange(warp::sum_f32(value), 0.0, tile);
    warp::sum_f32(all)
}

/// The largest value of the block, in every thread. `tile` as for [`sum_f32`].
#[inline(always)]
#[track_caller]
pub fn max_f32(value: f32, tile: Tile<f32>) -> f32 {
    let all = exchange(warp::max_f32(value), f32::NEG_INFINITY, tile);
    warp::max_f32(all)
}

/// Gives lane `w` of every warp the value of warp `w`, and lanes beyond the last warp the `neutral` one.
#[inline(always)]
#[track_caller]
fn exchange(warp_value: f32, neutral: f32, tile: Tile<f32>) -> f32 {
    let lane = warp::lane_id();
    if lane == 0 {
        tile.set(warp::warp_id() as usize, warp_value);
    }
    thread::sync_threads();
    let n_warps = thread::block_dim_x() / warp::SIZE;
    let value = if lane < n_warps { tile.get(lane as usize) } else { neutral };
    thread::sync_threads();
    value
}
