//! The time of a block, or of the blocks of a cluster, per warp, and what each warp knows of the others' time.
//!
//! The copy engine and the tensor cores work beside the threads. They take the places of warps that the block does not
//! have, so that what they access is ordered like everything else: whoever has waited for them knows their time.

use std::cell::Cell;

use crate::launch::MAX_CLUSTER;

/// Warps of a block, or agents in their places, at most.
pub const MAX_WARPS: usize = 32;
/// Places for warps and agents of all blocks of a cluster: those of the block of rank r begin at `r * MAX_WARPS`.
const PLACES: usize = MAX_CLUSTER as usize * MAX_WARPS;
/// Times that a cell can tell apart.
pub const TIME_BITS: u32 = 19;

/// The agent that copies boxes.
pub const COPY_ENGINE: usize = MAX_WARPS - 1;
/// Warpgroups whose products have an agent each.
const N_TENSOR_AGENTS: usize = 4;
/// The agent that multiplies for warpgroup 0; the others follow.
pub const TENSOR_CORES: usize = COPY_ENGINE - N_TENSOR_AGENTS;

/// Times of all warps: what happened before them is known.
pub type Times = [u32; PLACES];

/// Times of which nothing is known.
pub const NO_TIMES: Times = [0; PLACES];

/// The rank of the block that a warp is of.
pub fn rank_of(warp: usize) -> usize {
    warp / MAX_WARPS
}

/// The place of an agent of the block of this rank.
pub fn place(rank: usize, agent: usize) -> usize {
    rank * MAX_WARPS + agent
}

/// Counts what orders the accesses of a block's threads, or a cluster's. A warp is known by its place.
pub struct Clock {
    /// The time of each warp.
    now: [Cell<u32>; PLACES],
    /// For each warp: the times before which it knows what every warp did.
    known: [Cell<Times>; PLACES],
    /// The time of each warp when the last barrier of its block opened.
    opened: [Cell<u32>; PLACES],
    /// The time of each warp when the last barrier of the cluster opened.
    cluster_opened: [Cell<u32>; PLACES],
    /// For each warp: the time before which its writes are visible to the copy engine and the tensor cores.
    fenced: [Cell<u32>; PLACES],
    /// The time of each warp before which a barrier of the cluster that releases nothing makes its writes visible.
    published: [Cell<u32>; PLACES],
    /// Whether each warp has been at a barrier of the cluster.
    met_cluster: [Cell<bool>; PLACES],
    /// Warps of a block.
    n_warps: Cell<usize>,
}

impl Default for Clock {
    fn default() -> Self {
        let zeros = || [const { Cell::new(0) }; PLACES];
        Self {
            now: zeros(),
            known: [const { Cell::new(NO_TIMES) }; PLACES],
            opened: zeros(),
            cluster_opened: zeros(),
            fenced: zeros(),
            published: zeros(),
            met_cluster: [const { Cell::new(false) }; PLACES],
            n_warps: Cell::new(0),
        }
    }
}

impl Clock {
    /// Starts a cluster of this many blocks, each of this many warps.
    pub fn reset(&self, n_blocks: usize, n_warps: usize) {
        self.n_warps.set(n_warps);
        for warp in 0..n_blocks * MAX_WARPS {
            self.now[warp].set(0);
            self.known[warp].set(NO_TIMES);
            self.opened[warp].set(0);
            self.cluster_opened[warp].set(0);
            self.fenced[warp].set(0);
            self.published[warp].set(0);
            self.met_cluster[warp].set(false);
        }
    }

    /// A barrier of the whole block opens.
    pub fn barrier(&self, rank: usize) {
        let first = rank * MAX_WARPS;
        self.meet(first..first + self.n_warps.get());
        for warp in first..first + MAX_WARPS {
            self.opened[warp].set(self.now[warp].get());
        }
    }

    /// Warps of all blocks of the cluster meet at its barrier, each of which releases what it did and knew, or no more than
    /// it published.
    pub fn cluster_barrier(&self, warps: impl Iterator<Item = (usize, bool)> + Clone) {
        let mut all = NO_TIMES;
        for (warp, releases) in warps.clone() {
            self.warp_sync(warp);
            if releases {
                join(&mut all, &self.known[warp].get());
                self.opened[warp].set(self.now[warp].get());
                self.cluster_opened[warp].set(self.now[warp].get());
            } else {
                all[warp] = self.published[warp].get();
            }
        }
        for (warp, _) in warps {
            self.learn(warp, &all);
            self.met_cluster[warp].set(true);
        }
    }

    /// A warp publishes what it did.
    pub fn publish(&self, warp: usize) {
        self.warp_sync(warp);
        self.published[warp].set(self.now[warp].get());
    }

    /// Whether a warp has met the cluster at its barrier, so that all its blocks run.
    pub fn has_met_cluster(&self, warp: usize) -> bool {
        self.met_cluster[warp].get()
    }

    /// Some warps meet at a barrier.
    pub fn meet(&self, warps: impl Iterator<Item = usize> + Clone) {
        let mut all = NO_TIMES;
        for warp in warps.clone() {
            self.warp_sync(warp);
            join(&mut all, &self.known[warp].get());
        }
        warps.for_each(|warp| self.known[warp].set(all));
    }

    /// The lanes of a warp synchronise.
    pub fn warp_sync(&self, warp: usize) {
        let time = self.now[warp].get() + 1;
        assert!(time < 1 << TIME_BITS, "a block synchronised {time} times, more than checked mode can count");
        self.now[warp].set(time);
        self.learn_time(warp, warp, time);
    }

    /// The time of a warp.
    pub fn now(&self, warp: usize) -> u32 {
        self.now[warp].get()
    }

    /// All that a warp knows from here on of what it did and knew: what an arrival at a barrier hands on.
    pub fn hand_on(&self, warp: usize) -> Times {
        self.warp_sync(warp);
        self.known[warp].get()
    }

    /// A warp learns what was handed on.
    pub fn learn(&self, warp: usize, times: &Times) {
        let mut known = self.known[warp].get();
        join(&mut known, times);
        self.known[warp].set(known);
    }

    /// A warp learns what another did before a time.
    pub fn learn_time(&self, warp: usize, other: usize, time: u32) {
        let mut known = self.known[warp].get();
        known[other] = known[other].max(time);
        self.known[warp].set(known);
    }

    /// A warp makes what it wrote visible to the copy engine and the tensor cores.
    pub fn fence(&self, warp: usize) {
        self.warp_sync(warp);
        self.fenced[warp].set(self.now[warp].get());
    }

    /// Whether what a warp wrote at a time is visible to the copy engine and the tensor cores. (What they themselves
    /// wrote is.)
    pub fn is_fenced(&self, warp: usize, time: u32) -> bool {
        self.is_agent(warp) || time < self.fenced[warp].get()
    }

    /// An agent begins something new, which nobody knows yet; gives its time.
    ///
    /// # Panics
    /// If the block's own warps take the agents' places.
    pub fn agent_acts(&self, agent: usize) -> u32 {
        let n_warps = self.n_warps.get();
        assert!(
            n_warps <= TENSOR_CORES,
            "a block of {n_warps} warps cannot use the copy engine in checked mode"
        );
        self.warp_sync(agent);
        self.now[agent].get()
    }

    /// Whether the place of this warp is an agent's.
    pub fn is_agent(&self, warp: usize) -> bool {
        warp % MAX_WARPS >= TENSOR_CORES && self.n_warps.get() <= TENSOR_CORES
    }

    /// Whether some warp of the block of this rank knows what another did at a time.
    pub fn block_knows(&self, rank: usize, other: usize, time: u32) -> bool {
        self.known[rank * MAX_WARPS..][..self.n_warps.get()].iter().any(|known| time < known.get()[other])
    }

    /// What a warp sees.
    pub fn seen_by(&self, warp: usize) -> Viewpoint<'_> {
        Viewpoint { clock: self, warp }
    }

    /// What is not ordered for some warp of a warpgroup counts: the knowledge that all of them have.
    pub fn known_to_all(&self, warps: impl Iterator<Item = usize>) -> Times {
        warps.fold([u32::MAX; PLACES], |mut common, warp| {
            common
                .iter_mut()
                .zip(self.known[warp].get())
                .for_each(|(common, known)| *common = (*common).min(known));
            common
        })
    }

    /// What a warp knows.
    pub fn known_to(&self, warp: usize) -> Times {
        self.known[warp].get()
    }
}

/// Takes the later of each two times.
pub fn join(times: &mut Times, others: &Times) {
    times.iter_mut().zip(others).for_each(|(time, other)| *time = (*time).max(*other));
}

/// A clock as one warp sees it.
#[derive(Clone, Copy)]
pub struct Viewpoint<'a> {
    pub clock: &'a Clock,
    warp: usize,
}

impl Viewpoint<'_> {
    /// Whether what a warp did at a time is known to be done.
    pub fn knows(self, warp: usize, time: u32) -> bool {
        time < self.clock.known[self.warp].get()[warp]
    }

    /// Whether what a warp did at a time came before the last barrier at which all warps of its block met this one.
    pub fn before_barrier(self, warp: usize, time: u32) -> bool {
        if rank_of(warp) == self.rank() {
            time < self.clock.opened[warp].get()
        } else {
            self.before_cluster_barrier(warp, time)
        }
    }

    /// Whether what a warp did at a time came before the last barrier of the cluster.
    pub fn before_cluster_barrier(self, warp: usize, time: u32) -> bool {
        time < self.clock.cluster_opened[warp].get()
    }

    /// The rank of the block whose warp this is.
    pub fn rank(self) -> usize {
        rank_of(self.warp)
    }
}
