//! Shuffles and votes over all 32 lanes.

const ALL_LANES: u32 = u32::MAX;
/// Clamp and segment mask of `shfl`: the whole warp, last lane 31 (for `up`: first lane 0).
const WHOLE_WARP: u32 = 31;
const WHOLE_WARP_UP: u32 = 0;

unsafe extern "unadjusted" {
    #[link_name = "llvm.nvvm.shfl.sync.bfly.i32"]
    fn shfl_sync_bfly(mask: u32, value: u32, lane_mask: u32, clamp: u32) -> u32;
    #[link_name = "llvm.nvvm.shfl.sync.down.i32"]
    fn shfl_sync_down(mask: u32, value: u32, delta: u32, clamp: u32) -> u32;
    #[link_name = "llvm.nvvm.shfl.sync.up.i32"]
    fn shfl_sync_up(mask: u32, value: u32, delta: u32, clamp: u32) -> u32;
    #[link_name = "llvm.nvvm.shfl.sync.idx.i32"]
    fn shfl_sync_idx(mask: u32, value: u32, lane: u32, clamp: u32) -> u32;
    #[link_name = "llvm.nvvm.vote.ballot.sync"]
    fn vote_ballot_sync(mask: u32, predicate: bool) -> u32;
    #[link_name = "llvm.nvvm.vote.all.sync"]
    fn vote_all_sync(mask: u32, predicate: bool) -> bool;
    #[link_name = "llvm.nvvm.vote.any.sync"]
    fn vote_any_sync(mask: u32, predicate: bool) -> bool;
    #[link_name = "llvm.nvvm.bar.warp.sync"]
    fn bar_warp_sync(mask: u32);
}

// SAFETY of all: register exchange over the whole warp; that all lanes reach it is the kernel's promise,
// which the emulator checks.

#[inline(always)]
pub fn shuffle_xor(value: u32, mask: u32) -> u32 {
    // SAFETY: see above.
    unsafe { shfl_sync_bfly(ALL_LANES, value, mask, WHOLE_WARP) }
}

#[inline(always)]
pub fn shuffle_down(value: u32, delta: u32) -> u32 {
    // SAFETY: see above.
    unsafe { shfl_sync_down(ALL_LANES, value, delta, WHOLE_WARP) }
}

#[inline(always)]
pub fn shuffle_up(value: u32, delta: u32) -> u32 {
    // SAFETY: see above.
    unsafe { shfl_sync_up(ALL_LANES, value, delta, WHOLE_WARP_UP) }
}

#[inline(always)]
pub fn shuffle_idx(value: u32, lane: u32) -> u32 {
    // SAFETY: see above.
    unsafe { shfl_sync_idx(ALL_LANES, value, lane, WHOLE_WARP) }
}

#[inline(always)]
pub fn ballot(predicate: bool) -> u32 {
    // SAFETY: see above.
    unsafe { vote_ballot_sync(ALL_LANES, predicate) }
}

#[inline(always)]
pub fn all(predicate: bool) -> bool {
    // SAFETY: see above.
    unsafe { vote_all_sync(ALL_LANES, predicate) }
}

#[inline(always)]
pub fn any(predicate: bool) -> bool {
    // SAFETY: see above.
    unsafe { vote_any_sync(ALL_LANES, predicate) }
}

#[inline(always)]
pub fn sync_warp() {
    // SAFETY: see above.
    unsafe { bar_warp_sync(ALL_LANES) }
}

#[inline(always)]
pub fn warp_sum_f32(value: f32) -> f32 {
    butterfly(value, |a, b| a + b)
}

#[inline(always)]
pub fn warp_max_f32(value: f32) -> f32 {
    butterfly(value, f32::max)
}

#[inline(always)]
fn butterfly(value: f32, combine: impl Fn(f32, f32) -> f32) -> f32 {
    let step = |value: f32, mask| combine(value, f32::from_bits(shuffle_xor(value.to_bits(), mask)));
    step(step(step(step(step(value, 16), 8), 4), 2), 1)
}
