//! The time of a block, per warp.

use std::cell::Cell;

/// Warps of a block at most.
const MAX_WARPS: usize = 32;
/// Times that a cell can tell apart.
pub const TIME_BITS: u32 = 20;

/// Counts what orders the accesses of a block's threads.
#[derive(Default)]
pub struct Clock {
    /// The time of each warp.
    now: [Cell<u32>; MAX_WARPS],
    /// The time of each warp when the last barrier of the block opened.
    opened: [Cell<u32>; MAX_WARPS],
}

impl Clock {
    /// Starts a block.
    pub fn reset(&self) {
        for warp in 0..MAX_WARPS {
            self.now[warp].set(0);
            self.opened[warp].set(0);
        }
    }

    /// A barrier of the whole block opens.
    pub fn barrier(&self) {
        for warp in 0..MAX_WARPS {
            self.warp_sync(warp);
            self.opened[warp].set(self.now[warp].get());
        }
    }

    /// The lanes of a warp synchronise.
    pub fn warp_sync(&self, warp: usize) {
        let time = self.now[warp].get() + 1;
        assert!(time < 1 << TIME_BITS, "a block synchronised {time} times, more than checked mode can count");
        self.now[warp].set(time);
    }

    /// The time of a warp.
    pub fn now(&self, warp: usize) -> u32 {
        self.now[warp].get()
    }

    /// Whether what a warp did at `time` came before the last barrier of the block.
    pub fn before_barrier(&self, warp: usize, time: u32) -> bool {
        time < self.opened[warp].get()
    }
}
