//! Clusters: what the blocks of one do to each other.

use std::cell::{Cell, RefCell};
use std::panic::Location;

use super::block::{BlockState, Thread, current};
use super::check::rank_of;
use super::violation::{Fault, Violation};

/// A block's part in its cluster.
#[derive(Default)]
pub struct Cluster {
    /// The block's rank.
    rank: Cell<usize>,
    /// All blocks of the cluster.
    blocks: Cell<Option<*const [BlockState]>>,
    /// Threads that have not returned.
    n_threads: Cell<u32>,
    /// Which warps and agents of other blocks, by place, touched the block's shared memory, and when they last did.
    touched: RefCell<Vec<(usize, u32)>>,
}

impl Cluster {
    /// The block starts.
    pub fn start(&self, rank: usize, blocks: &[BlockState], n_threads: u32) {
        self.rank.set(rank);
        self.blocks.set(Some(blocks));
        self.n_threads.set(n_threads);
        self.touched.borrow_mut().clear();
    }

    fn blocks(&self) -> &[BlockState] {
        let blocks = self.blocks.get().expect("the block has started");
        // SAFETY: the worker's, which neither adds nor moves any while the cluster runs.
        unsafe { &*blocks }
    }

    /// A warp or agent touches the block's shared memory at a time.
    pub fn touch(&self, by: usize, time: u32) {
        if rank_of(by) == self.rank.get() {
            return;
        }
        let mut touched = self.touched.borrow_mut();
        match touched.iter_mut().find(|(other, _)| *other == by) {
            Some((_, last)) => *last = time,
            None => touched.push((by, time)),
        }
    }

    /// A thread of the block returns. With the last one the block's shared memory goes, which others must know not to touch.
    pub fn thread_ends(&self, thread: &Thread) -> Result<(), Violation> {
        self.n_threads.update(|n| n - 1);
        if self.n_threads.get() > 0 || !thread.launched().checked {
            return Ok(());
        }
        let clock = &thread.block().clock;
        match self.touched.borrow().iter().find(|(by, time)| !clock.block_knows(self.rank.get(), *by, *time))
        {
            Some((by, _)) => Err(thread.at_kernel(Fault::TouchedAtExit { rank: rank_of(*by) as u32 })),
            None => Ok(()),
        }
    }
}

impl Thread {
    /// The block of this rank in the cluster, whose shared memory the thread is about to touch.
    pub fn peer(&self, rank: u32, location: &'static Location<'static>) -> &BlockState {
        let own = &self.block().cluster;
        let Some(peer) = own.blocks().get(rank as usize) else {
            self.violate(Fault::NoSuchBlock { rank, n_blocks: own.blocks().len() as u32 }, location)
        };
        if rank as usize == own.rank.get() {
            return peer;
        }
        if peer.cluster.n_threads.get() == 0 {
            self.violate(Fault::BlockExited { rank }, location);
        }
        if self.launched().checked && !peer.clock.has_met_cluster(self.warp()) {
            self.violate(Fault::BlockNotStarted { rank }, location);
        }
        peer
    }
}

pub fn cluster_block_rank() -> u32 {
    current().rank as u32
}

#[track_caller]
pub fn cluster_start() {
    current().cluster_barrier(false, Location::caller());
}

#[track_caller]
pub fn cluster_sync() {
    current().cluster_barrier(true, Location::caller());
}
