//! Where a thread is, and the barrier of its block. Blocks are one-dimensional.

use super::target;

/// Index of the thread in its block.
#[inline(always)]
pub fn thread_idx_x() -> u32 {
    target::thread_idx_x()
}

/// Threads of a block: the kernel's `threads`.
#[inline(always)]
pub fn block_dim_x() -> u32 {
    target::block_dim_x()
}

/// Index of the block along x.
#[inline(always)]
pub fn block_idx_x() -> u32 {
    target::block_idx_x()
}

/// Index of the block along y.
#[inline(always)]
pub fn block_idx_y() -> u32 {
    target::block_idx_y()
}

/// Index of the block along z.
#[inline(always)]
pub fn block_idx_z() -> u32 {
    target::block_idx_z()
}

/// Blocks along x.
#[inline(always)]
pub fn grid_dim_x() -> u32 {
    target::grid_dim_x()
}

/// Blocks along y.
#[inline(always)]
pub fn grid_dim_y() -> u32 {
    target::grid_dim_y()
}

/// Blocks along z.
#[inline(always)]
pub fn grid_dim_z() -> u32 {
    target::grid_dim_z()
}

/// Index of the thread among all threads of the row of blocks:
/// `block_idx_x · block_dim_x + thread_idx_x`.
#[inline(always)]
pub fn index_1d() -> usize {
    block_idx_x() as usize * block_dim_x() as usize + thread_idx_x() as usize
}

/// Waits for every thread of the block; what they wrote before, all can read afterwards. Every thread of
/// the block must come here: none may have returned, or wait elsewhere.
#[inline(always)]
#[track_caller]
pub fn sync_threads() {
    target::sync_threads();
}

/// Waits at barrier `id`, 1 to 15, for this many threads of the block, whole warps.
#[inline(always)]
#[track_caller]
pub fn sync_named(id: u32, n_threads: u32) {
    target::sync_named(id, n_threads);
}
