//! Cells: who accessed an element last, when, and who else did in the same interval.

use std::cell::Cell as PlainCell;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::clock::{COPY_ENGINE, Clock, MAX_WARPS, TIME_BITS, Viewpoint, rank_of};
use crate::simt::emulator::block::LANES;
use crate::simt::emulator::violation::{Access, Other};

const SPREAD_BITS: u32 = 2;
const ATOMIC_BITS: u32 = 1;
const THREAD_BITS: u32 = 12;
const BLOCK_BITS: u32 = 20;

const ATOMIC_SHIFT: u32 = SPREAD_BITS;
const TIME_SHIFT: u32 = ATOMIC_SHIFT + ATOMIC_BITS;
const THREAD_SHIFT: u32 = TIME_SHIFT + TIME_BITS;
const TAG_SHIFT: u32 = THREAD_SHIFT + THREAD_BITS;

/// Blocks that a tag can tell apart.
pub const MAX_BLOCKS: u64 = 1 << BLOCK_BITS;
/// Launches that a tag can tell apart, from 1: an untouched cell is zero.
pub const MAX_LAUNCHES: u64 = (1 << (64 - TAG_SHIFT - BLOCK_BITS)) - 1;
/// Runs of blocks that the tag of shared memory can tell apart, from 1.
pub const MAX_RUNS: u64 = (1 << (64 - TAG_SHIFT)) - 1;

/// Threads of a block at most.
const BLOCK_THREADS: u32 = (MAX_WARPS * LANES) as u32;

/// Who accesses: a thread at a time, counted through all blocks of a cluster: [`BLOCK_THREADS`] of each. The tag tells launch and block (global memory), or the run of a block
/// (shared memory) from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record(pub u64);

/// Who else made the accesses that a record stands for.
const ONE: u64 = 0;
/// Several lanes of the warp, all at the time of the record.
const SEVERAL_LANES: u64 = 1;
/// Threads of several warps, all since the last barrier.
const SEVERAL_WARPS: u64 = 2;
/// Several blocks: of a cluster, since its last barrier, if it is shared memory.
const SEVERAL_BLOCKS: u64 = 3;

/// The tag of a block of a launch.
pub fn global_tag(launch: u64, block: u64) -> u64 {
    (1 + launch % MAX_LAUNCHES) << BLOCK_BITS | block
}

impl Record {
    /// Of the thread with this index in its block, in a warp that has this place.
    pub fn new(tag: u64, warp: usize, thread: u32, clock: &Clock) -> Self {
        let time = clock.now(warp);
        let thread = (warp * LANES) as u32 + thread % LANES as u32;
        Self(tag << TAG_SHIFT | u64::from(thread) << THREAD_SHIFT | u64::from(time) << TIME_SHIFT)
    }

    /// The same as an atomic operation.
    pub fn atomic(self) -> Self {
        Self(self.0 | 1 << ATOMIC_SHIFT)
    }

    pub fn is_atomic(self) -> bool {
        self.0 >> ATOMIC_SHIFT & 1 == 1
    }

    pub fn tag(self) -> u64 {
        self.0 >> TAG_SHIFT
    }

    fn launch(self) -> u64 {
        self.tag() >> BLOCK_BITS
    }

    fn thread(self) -> u32 {
        (self.0 >> THREAD_SHIFT) as u32 & ((1 << THREAD_BITS) - 1)
    }

    fn warp(self) -> usize {
        self.thread() as usize / LANES
    }

    /// Whether this happened before the times that are known.
    pub fn is_before(self, known: &super::clock::Times) -> bool {
        self.time() < known[self.warp()]
    }

    pub fn time(self) -> u32 {
        (self.0 >> TIME_SHIFT) as u32 & ((1 << TIME_BITS) - 1)
    }

    fn spread(self) -> u64 {
        self.0 & ((1 << SPREAD_BITS) - 1)
    }

    fn with_spread(self, spread: u64) -> Self {
        Self(self.0 & !((1 << SPREAD_BITS) - 1) | spread)
    }

    /// Whether the record is of the launch (global memory) or run (shared memory) of `me`.
    fn concerns(self, me: Record, shared: bool) -> bool {
        if shared { self.tag() == me.tag() } else { self.launch() == me.launch() }
    }

    /// The record of what an agent, known by its place, does at a time, asked for by a warp.
    pub fn of_agent(tag: u64, agent: usize, warp: usize, time: u32) -> Self {
        let thread = (agent * LANES + warp % MAX_WARPS) as u64;
        Self(tag << TAG_SHIFT | thread << THREAD_SHIFT | u64::from(time) << TIME_SHIFT)
    }

    /// Whether the thread or agent made what it wrote visible to the copy engine and the tensor cores.
    pub fn is_fenced(self, clock: &Clock) -> bool {
        clock.is_fenced(self.warp(), self.time())
    }

    /// The thread or agent, as a violation in the block of this rank names it.
    pub fn who(self, clock: &Clock, rank: usize) -> Other {
        match clock.is_agent(self.warp()) {
            true if self.warp() % MAX_WARPS == COPY_ENGINE => Other::CopyEngine,
            true => Other::TensorCores,
            false if rank_of(self.warp()) == rank => Other::Thread(self.thread() % BLOCK_THREADS),
            false => {
                let (rank, thread) = (rank_of(self.warp()) as u32, self.thread() % BLOCK_THREADS);
                Other::Peer { rank, thread }
            }
        }
    }

    /// With whose access, of those that the record stands for, one by `me` now is not ordered.
    #[inline]
    pub fn unordered(self, me: Record, shared: bool, view: Viewpoint<'_>) -> Option<Other> {
        // By far the most frequent: untouched in this launch, or touched by the same thread alone.
        if !self.concerns(me, shared) || self.is_same_thread(me) && self.spread() == ONE {
            return None;
        }
        if self.tag() != me.tag() {
            let block = self.tag() & (MAX_BLOCKS - 1);
            return Some(Other::Block { block, thread: self.thread() % BLOCK_THREADS });
        }
        let ordered = match self.spread() {
            SEVERAL_BLOCKS if shared && view.before_cluster_barrier(self.warp(), self.time()) => true,
            SEVERAL_BLOCKS => return Some(Other::SeveralBlocks),
            SEVERAL_WARPS => view.before_barrier(self.warp(), self.time()),
            _ => view.knows(self.warp(), self.time()),
        };
        match (ordered, self.is_same_thread(me)) {
            (true, _) => None,
            (false, true) => Some(Other::SeveralThreads),
            (false, false) => Some(self.who(view.clock, view.rank())),
        }
    }

    fn is_same_thread(self, me: Record) -> bool {
        (self.0 ^ me.0) >> THREAD_SHIFT == 0
    }

    /// The record that stands for one access more, by `me` now.
    #[inline]
    pub fn and(self, me: Record, shared: bool, view: Viewpoint<'_>) -> Record {
        if !self.concerns(me, shared) {
            return me;
        }
        if self.tag() != me.tag() || !shared && self.spread() == SEVERAL_BLOCKS {
            return me.with_spread(SEVERAL_BLOCKS);
        }
        if view.before_cluster_barrier(self.warp(), self.time()) {
            return me;
        }
        if self.spread() == SEVERAL_BLOCKS || rank_of(self.warp()) != rank_of(me.warp()) {
            return me.with_spread(SEVERAL_BLOCKS);
        }
        if view.before_barrier(self.warp(), self.time()) {
            return me;
        }
        if self.warp() != me.warp() || self.spread() == SEVERAL_WARPS {
            return me.with_spread(SEVERAL_WARPS);
        }
        if self.time() < me.time() {
            return me;
        }
        let spread = if self.thread() == me.thread() { self.spread() } else { SEVERAL_LANES };
        me.with_spread(spread)
    }
}

/// One of the two words of a cell.
pub trait Word {
    fn load(&self) -> Record;
    /// Replaces `old` by `new`; fails, with the word that is there, if it is not `old`.
    fn replace(&self, old: Record, new: Record) -> Result<(), Record>;
}

/// A word that one thread of the machine uses.
impl Word for PlainCell<u64> {
    #[inline(always)]
    fn load(&self) -> Record {
        Record(self.get())
    }

    #[inline(always)]
    fn replace(&self, _old: Record, new: Record) -> Result<(), Record> {
        self.set(new.0);
        Ok(())
    }
}

/// A word that several threads of the machine use. Sequential consistency: of two that record themselves and
/// then look for the other, one sees the other.
impl Word for AtomicU64 {
    #[inline(always)]
    fn load(&self) -> Record {
        Record(AtomicU64::load(self, SeqCst))
    }

    #[inline(always)]
    fn replace(&self, old: Record, new: Record) -> Result<(), Record> {
        self.compare_exchange(old.0, new.0, SeqCst, SeqCst).map(drop).map_err(Record)
    }
}

/// Sets a word to what `next` makes of it; gives the word that was there.
#[inline(always)]
fn update(word: &impl Word, next: impl Fn(Record) -> Record) -> Record {
    let mut old = word.load();
    loop {
        let new = next(old);
        if new == old {
            return old;
        }
        match word.replace(old, new) {
            Ok(()) => return old,
            Err(now) => old = now,
        }
    }
}

/// Records an access in a cell; gives the access, and by whom, that it races with.
#[inline]
pub fn touch<W: Word>(
    [write, read]: &[W; 2],
    me: Record,
    access: Access,
    shared: bool,
    view: Viewpoint<'_>,
) -> Option<(Access, Other)> {
    let kind = |written: Record| if written.is_atomic() { Access::Atomic } else { Access::Write };
    let race_with_write =
        |written: Record| written.unordered(me, shared, view).map(|other| (kind(written), other));
    let race_with_read = || read.load().unordered(me, shared, view).map(|other| (Access::Read, other));
    match access {
        Access::Read => {
            update(read, |old| old.and(me, shared, view));
            race_with_write(write.load())
        }
        Access::Write => {
            let old = update(write, |_| me);
            race_with_write(old).or_else(race_with_read)
        }
        Access::Atomic => {
            let me_atomic = me.atomic();
            let old =
                update(
                    write,
                    |old| {
                        if old.is_atomic() { old.and(me_atomic, shared, view) } else { me_atomic }
                    },
                );
            let race = if old.is_atomic() { None } else { race_with_write(old) };
            race.or_else(race_with_read)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Threads of one block that touch one element of shared memory.
    struct Block {
        clock: Clock,
        cell: [PlainCell<u64>; 2],
    }

    impl Block {
        fn new() -> Self {
            let clock = Clock::default();
            clock.reset(1, 32);
            Self { clock, cell: Default::default() }
        }

        fn touch(&self, thread: u32, access: Access) -> Option<(Access, Other)> {
            touch(
                &self.cell,
                Record::new(1, thread as usize / LANES, thread, &self.clock),
                access,
                true,
                self.clock.seen_by(thread as usize / LANES),
            )
        }

        fn ok(&self, thread: u32, access: Access) {
            assert_eq!(self.touch(thread, access), None, "{access} by {thread}");
        }
    }

    use Access::{Atomic, Read, Write};

    #[test]
    fn one_thread_is_ordered_with_itself() {
        let block = Block::new();
        for access in [Write, Read, Atomic, Read, Write] {
            block.ok(1023, access);
        }
    }

    #[test]
    fn barrier_orders_all_threads() {
        let block = Block::new();
        block.ok(0, Write);
        block.clock.barrier(0);
        (0..1024).for_each(|thread| block.ok(thread, Read));
        block.clock.barrier(0);
        block.ok(77, Write);
        assert_eq!(block.touch(5, Read), Some((Write, Other::Thread(77))));
    }

    #[test]
    fn warp_sync_orders_its_own_warp_only() {
        let block = Block::new();
        block.ok(3, Write);
        block.clock.warp_sync(0);
        block.ok(31, Read);
        block.clock.warp_sync(1);
        assert_eq!(block.touch(32, Read), Some((Write, Other::Thread(3))));
    }

    #[test]
    fn warp_sync_after_reads_of_several_lanes() {
        let block = Block::new();
        block.ok(0, Write);
        block.clock.warp_sync(0);
        (0..32).for_each(|thread| block.ok(thread, Read));
        block.clock.warp_sync(0);
        block.ok(0, Write);
    }

    #[test]
    fn write_races_with_any_of_several_readers() {
        let block = Block::new();
        block.ok(40, Read);
        block.ok(5, Read);
        // The last reader is the writer itself, but not the only one.
        assert_eq!(block.touch(5, Write), Some((Read, Other::SeveralThreads)));
        let block = Block::new();
        block.ok(4, Read);
        block.ok(5, Read);
        assert_eq!(block.touch(5, Write), Some((Read, Other::SeveralThreads)));
    }

    #[test]
    fn warp_sync_does_not_hide_readers_of_other_warps() {
        let block = Block::new();
        block.ok(40, Read);
        block.ok(5, Read);
        block.clock.warp_sync(0);
        block.ok(5, Read);
        assert_eq!(block.touch(5, Write), Some((Read, Other::SeveralThreads)));
    }

    #[test]
    fn atomics_race_with_plain_accesses_only() {
        let block = Block::new();
        block.ok(0, Atomic);
        block.ok(999, Atomic);
        assert_eq!(block.touch(999, Read), Some((Atomic, Other::SeveralThreads)));
        let block = Block::new();
        block.ok(0, Write);
        assert_eq!(block.touch(1, Atomic), Some((Write, Other::Thread(0))));
    }

    #[test]
    fn blocks_race_however_many_barriers() {
        let clock = Clock::default();
        clock.reset(1, 1);
        let cell: [AtomicU64; 2] = Default::default();
        let record = |launch, block| Record::new(global_tag(launch, block), 0, 7, &clock);
        assert_eq!(touch(&cell, record(0, 3), Read, false, clock.seen_by(0)), None);
        assert_eq!(touch(&cell, record(0, 4), Read, false, clock.seen_by(0)), None);
        clock.barrier(0);
        assert_eq!(
            touch(&cell, record(0, 4), Write, false, clock.seen_by(0)),
            Some((Read, Other::SeveralBlocks))
        );
        let by_block_4 = Some((Write, Other::Block { block: 4, thread: 7 }));
        assert_eq!(touch(&cell, record(0, 5), Read, false, clock.seen_by(0)), by_block_4);
        // The next launch starts when this one has ended.
        assert_eq!(touch(&cell, record(1, 9), Write, false, clock.seen_by(0)), None);
    }
}
