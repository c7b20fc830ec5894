//! Clusters: blocks that run at the same time, near each other, and reach each other's shared memory (Hopper).
//!
//! `#[kernel(cluster = N)]` makes N neighbours along x one cluster. Every block carves the same tiles at the same
//! places; a word that reaches into another block names its own tile or barrier, and the other block's rank.
//!
//! A block's shared memory is there while the block runs. So the blocks say [`start`] or [`sync`] before the first word that
//! reaches another, and a block returns only when it knows that no other reaches it any more.

use super::boxes::{InBoxes, Rows};
use super::mbarrier::Barriers;
use super::{Element, Tile, target};

/// The number of this block in its cluster, from 0.
#[inline(always)]
pub fn block_rank() -> u32 {
    target::cluster_block_rank()
}

/// Waits for all threads of all blocks of the cluster that have not returned. Unlike [`sync`] it makes nothing visible but
/// barriers that were initialised before [`fence_init`](super::mbarrier::fence_init), and does not wait for memory.
#[inline(always)]
#[track_caller]
pub fn start() {
    target::cluster_start();
}

/// Waits for all threads of all blocks of the cluster that have not returned; what they wrote before, also to each other's
/// shared memory, is visible after it.
#[inline(always)]
#[track_caller]
pub fn sync() {
    target::cluster_sync();
}

impl Barriers {
    /// Arrives at barrier `i` of the block of this rank, which may be one's own. Whoever waits for the phase may overwrite what
    /// this thread has read.
    #[inline(always)]
    #[track_caller]
    pub fn arrive_remote(self, i: usize, rank: u32) {
        self.0.arrive_remote(i, rank);
    }

    /// As [`Barriers::wait`], for what other blocks of the cluster wrote.
    #[inline(always)]
    #[track_caller]
    pub fn wait_remote(self, i: usize, parity: u32) {
        self.0.wait_remote(i, parity);
    }
}

impl<T: Element> Tile<T> {
    /// Starts to set elements `i` to `i + N − 1`, 16 bytes, of the tile of the block of this rank, which may be one's own. The
    /// bytes are counted at barrier `at` of the same block; who waits for it sees them.
    #[inline(always)]
    #[track_caller]
    pub fn store_async<const N: usize>(
        self,
        rank: u32,
        i: usize,
        values: [T; N],
        barriers: Barriers,
        at: usize,
    ) {
        self.0.store_async::<N>(rank, i, values, barriers.0, at);
    }
}

impl<T: Element, const ROWS: u32> InBoxes<T, ROWS> {
    /// As [`InBoxes::load`], to every block whose rank is a bit of `mask`: to the same rows there, and the bytes are counted
    /// at the same barrier there.
    #[inline(always)]
    #[track_caller]
    pub fn load_multicast(
        self,
        dst: Rows<T>,
        barriers: Barriers,
        i: usize,
        (row, col): (u32, u32),
        mask: u16,
    ) {
        self.0.load_multicast(dst.0, barriers.0, i, (row, col), mask);
    }
}
