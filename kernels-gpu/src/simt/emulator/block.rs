//! One block, or the blocks of one cluster: their threads as coroutines, which switch at barriers and warp words.
//!
//! A warp runs until all its lanes wait at a barrier or have returned; its warp words are carried out on
//! the way, each when all 32 lanes have come to it. When every warp waits, the barrier opens. So a thread
//! that does not come along is noticed at once, and by name. The blocks of a cluster take turns in the same way.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::rc::Rc;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, Yielder};

use super::agents::Agents;
use super::async_copy::AsyncCopies;
use super::check::{Clock, Counter, MAX_WARPS, SharedShadow, global_tag};
use super::cluster::Cluster;
use super::collective::{Word, carry_out};
use super::meet::{
    find_divergent, find_stuck, gather, open_barrier, open_cluster_barrier, open_named_barriers,
};
use super::order::{Order, mix};
use super::phase::{PhaseWait, Phases};
use super::run::Launched;
use super::shared_memory::SharedMemory;
use super::tensor_cores;
use super::violation::{Block, Fault, Site, State, Violation};

/// Lanes of a warp.
pub const LANES: usize = 32;

/// Threads of a warpgroup.
pub const GROUP: usize = 4 * LANES;

/// Stack of one thread: ample for kernels, and for the message of one that panics. Untouched pages cost nothing.
const STACK_BYTES: usize = 256 * 1024;

/// What a thread waits for.
#[derive(Clone, Copy)]
pub enum Stop {
    /// For its turn.
    Turn,
    /// For the block, at a barrier.
    Barrier(&'static Location<'static>),
    /// For some threads of the block, at a barrier with a number.
    Named { id: u32, n_threads: u32, location: &'static Location<'static> },
    /// For the lanes with which it says a word.
    Word(WordCall),
    /// For its warpgroup, with which it says a word.
    GroupWord(WordCall),
    /// For a barrier in shared memory.
    Phase(PhaseWait),
    /// For the cluster, at its barrier; whether what the thread wrote becomes visible.
    Cluster { releases: bool, location: &'static Location<'static> },
    /// For nothing: it has returned.
    Exit,
}

/// One lane's part of a word.
#[derive(Clone, Copy)]
pub struct WordCall {
    pub word: Word,
    /// On the stack of the lane, which waits: its operands, and then its results.
    pub registers: *const [Cell<u32>],
    pub location: &'static Location<'static>,
}

/// A thread of the block that is running.
pub struct Thread {
    /// Index in the block.
    pub index: u32,
    /// Rank of the block in its cluster.
    pub rank: usize,
    stop: Cell<Stop>,
    /// Tiles that the thread has carved.
    pub n_tiles: Cell<u32>,
    /// Whether the thread has said `pdl::wait`.
    pub waited: Cell<bool>,
    /// What the thread asked of the copy engine and the tensor cores.
    pub agents: Agents,
    pub copies: AsyncCopies,
    yielder: Cell<*const Yielder<(), ()>>,
    block: Cell<*const BlockState>,
}

/// What the threads of the running block have in common.
pub struct BlockState {
    launched: *const Launched<'static>,
    pub index: Block,
    /// First byte of shared memory.
    pub shared: *mut u8,
    /// What tells this launch and block from others in the cells of global memory.
    pub tag: u64,
    pub clock: Rc<Clock>,
    pub shadow: SharedShadow,
    pub counter: Rc<Counter>,
    pub phases: Phases,
    pub cluster: Cluster,
}

impl BlockState {
    fn new(clock: &Rc<Clock>, counter: &Rc<Counter>) -> Self {
        Self {
            launched: std::ptr::null(),
            index: Block::default(),
            shared: std::ptr::null_mut(),
            tag: 0,
            clock: Rc::clone(clock),
            shadow: SharedShadow::default(),
            counter: Rc::clone(counter),
            phases: Phases::default(),
            cluster: Cluster::default(),
        }
    }
}

thread_local! {
    /// The emulated thread that runs on this thread of the machine.
    static CURRENT: Cell<*const Thread> = const { Cell::new(std::ptr::null()) };
}

/// The emulated thread that is running.
///
/// # Panics
/// Outside of a kernel.
#[inline(always)]
pub fn current() -> &'static Thread {
    let thread = CURRENT.get();
    assert!(!thread.is_null(), "a word of a GPU thread was said outside of a kernel");
    // SAFETY: set by `Worker::resume` for the time of the call; the threads of a worker live until the
    // worker is dropped, and no reference outlives the word that asked for it.
    unsafe { &*thread }
}

impl Thread {
    #[inline(always)]
    pub fn block(&self) -> &BlockState {
        // SAFETY: set by `Worker::run_block` before any thread of the block runs.
        unsafe { &*self.block.get() }
    }

    #[inline(always)]
    pub fn launched(&self) -> &Launched<'static> {
        // SAFETY: the launch outlives its blocks.
        unsafe { &*self.block().launched }
    }

    /// Waits for the block.
    #[inline(always)]
    pub fn barrier(&self, location: &'static Location<'static>) {
        self.wait(Stop::Barrier(location));
    }

    /// Says a word together with other lanes. `registers` are this one's operands, and then its results.
    #[inline(always)]
    pub fn say(&self, word: Word, registers: &[Cell<u32>], location: &'static Location<'static>) {
        self.wait(Stop::Word(WordCall { word, registers, location }));
    }

    /// Says a word together with the other threads of the warpgroup, as [`Thread::say`].
    pub fn say_with_group(&self, word: Word, registers: &[Cell<u32>], location: &'static Location<'static>) {
        self.wait(Stop::GroupWord(WordCall { word, registers, location }));
    }

    /// Waits for this many threads at barrier `id`.
    pub fn named_barrier(&self, id: u32, n_threads: u32, location: &'static Location<'static>) {
        self.wait(Stop::Named { id, n_threads, location });
    }

    /// Waits for the cluster.
    pub fn cluster_barrier(&self, releases: bool, location: &'static Location<'static>) {
        self.wait(Stop::Cluster { releases, location });
    }

    /// Waits for a barrier in shared memory.
    pub fn await_phase(&self, wait: PhaseWait) {
        self.wait(Stop::Phase(wait));
    }

    /// What the thread waits for.
    pub fn stop(&self) -> Stop {
        self.stop.get()
    }

    /// Lets the thread go on.
    pub fn give_turn(&self) {
        self.stop.set(Stop::Turn);
    }

    /// The place of the thread's warp among those of the cluster.
    pub fn warp(&self) -> usize {
        self.rank * MAX_WARPS + self.index as usize / LANES
    }

    /// Inlined like its callers, since the processor mispredicts every return after a switch of stacks.
    #[inline(always)]
    fn wait(&self, stop: Stop) {
        self.stop.set(stop);
        // SAFETY: set when the coroutine started; it lives on the coroutine's stack, where we are.
        unsafe { (*self.yielder.get()).suspend(()) }
    }

    /// Ends the launch with a violation by this thread.
    #[cold]
    pub fn violate(&self, fault: Fault, location: &'static Location<'static>) -> ! {
        resume_unwind(Box::new(self.violation(fault, location.into())))
    }

    pub fn violation(&self, fault: Fault, site: Site) -> Violation {
        let kernel = self.launched().meta.name;
        Violation { kernel, block: self.block().index, thread: self.index, fault, site }
    }

    pub fn state(&self) -> State {
        match self.stop.get() {
            Stop::Exit => State::Exited,
            Stop::Barrier(location) | Stop::Named { location, .. } | Stop::Cluster { location, .. } => {
                State::AtBarrier(location.into())
            }
            Stop::Phase(wait) => State::AtPhase(wait.location.into()),
            Stop::Word(call) | Stop::GroupWord(call) => State::InWarpWord(call.word, call.location.into()),
            Stop::Turn => unreachable!("all threads of a warp have stopped before their states are compared"),
        }
    }
}

type ThreadCoroutine = Coroutine<(), (), (), DefaultStack>;

/// Runs blocks, or clusters of blocks, one after the other, on one thread of the machine. Reused by later launches.
#[derive(Default)]
pub struct Worker {
    /// Those of all blocks of a cluster.
    threads: Box<[Thread]>,
    /// Threads of a block for which they were made, if there are several blocks.
    block_threads: Option<usize>,
    running: Vec<Option<ThreadCoroutine>>,
    free_stacks: Vec<DefaultStack>,
    /// Each block's, by rank, as everything that follows.
    shared: Vec<SharedMemory>,
    blocks: Vec<BlockState>,
    clock: Rc<Clock>,
    counter: Rc<Counter>,
}

// SAFETY: between launches a worker holds free stacks and plain memory only; during one it stays on its thread.
unsafe impl Send for Worker {}

impl Worker {
    /// What its blocks count.
    pub fn counter(&self) -> &Counter {
        &self.counter
    }

    /// Runs one cluster to its end, or to its first violation. (A block that is in no cluster is one by itself.)
    pub fn run_cluster(&mut self, launched: &Launched<'_>, number: u64) -> Result<(), Violation> {
        let n_blocks = launched.meta.cluster.unwrap_or(1) as usize;
        let n_threads = launched.meta.threads as usize;
        self.prepare_threads(n_blocks, n_threads);
        if launched.checked {
            self.clock.reset(n_blocks, n_threads / LANES);
        }
        let first = number * n_blocks as u64;
        self.prepare_blocks(launched, first, n_blocks);
        for (threads, block) in self.threads.chunks_exact(n_threads).zip(&self.blocks[..n_blocks]) {
            threads.iter().for_each(|thread| thread.start(block));
        }
        let order = |rank| Order::new(launched.seed, first + rank as u64, n_threads / LANES);
        let mut orders: Vec<_> = (0..n_blocks).map(|rank| (rank, order(rank))).collect();
        orders
            .rotate_left((mix(launched.seed ^ first) as usize % n_blocks) * usize::from(launched.seed != 0));
        let result = self.run_warps(launched, &orders);
        for coroutine in &mut self.running {
            // Threads of a block that failed are unwound here.
            if let Some(mut coroutine) = coroutine.take() {
                coroutine.force_unwind();
                self.free_stacks.push(coroutine.into_stack());
            }
        }
        result
    }

    fn prepare_threads(&mut self, n_blocks: usize, n_threads: usize) {
        let block_threads = (n_blocks > 1).then_some(n_threads);
        if self.threads.len() < n_blocks * n_threads || self.block_threads != block_threads {
            let make = |i: usize| Thread::new((i % n_threads) as u32, i / n_threads);
            self.threads = (0..n_blocks * n_threads).map(make).collect();
            self.block_threads = block_threads;
        }
        self.running.resize_with(n_blocks * n_threads, || None);
    }

    fn prepare_blocks(&mut self, launched: &Launched<'_>, first: u64, n_blocks: usize) {
        let shared_bytes = launched.meta.shared_bytes as usize;
        while self.blocks.len() < n_blocks {
            self.blocks.push(BlockState::new(&self.clock, &self.counter));
            self.shared.push(SharedMemory::default());
        }
        for (rank, (block, shared)) in self.blocks[..n_blocks].iter_mut().zip(&mut self.shared).enumerate() {
            let linear = first + rank as u64;
            block.launched = std::ptr::from_ref(launched).cast();
            block.index = launched.block_index(linear);
            block.shared = shared.fresh(shared_bytes);
            if launched.checked {
                block.tag = global_tag(launched.number, linear);
                block.shadow.reset(rank, shared_bytes);
            }
            block.phases.reset();
        }
        let blocks = &self.blocks[..n_blocks];
        for (rank, block) in blocks.iter().enumerate() {
            block.cluster.start(rank, blocks, launched.meta.threads);
        }
    }

    fn run_warps(&mut self, launched: &Launched<'_>, orders: &[(usize, Order)]) -> Result<(), Violation> {
        let n_threads = launched.meta.threads as usize;
        loop {
            for &(rank, order) in orders {
                for warp in order.warps() {
                    self.run_warp(launched, rank * n_threads + warp * LANES, order)?;
                }
            }
            let mut goes_on = false;
            let threads = &self.threads[..orders.len() * n_threads];
            let blocks = || threads.chunks_exact(n_threads).zip(&self.blocks);
            for (threads, block) in blocks() {
                goes_on |= block.phases.wake(threads);
                goes_on |= say_group_words(threads, block)?;
                goes_on |= open_named_barriers(threads, launched, block)?;
            }
            if goes_on {
                continue;
            }
            for (rank, (threads, _)) in blocks().enumerate() {
                if open_barrier(threads) {
                    goes_on = true;
                    if launched.checked {
                        self.clock.barrier(rank);
                    }
                }
            }
            if goes_on || open_cluster_barrier(threads, launched, &self.clock) {
                continue;
            }
            for (threads, block) in blocks() {
                find_stuck(threads, block)?;
                find_divergent(threads)?;
            }
            for (threads, block) in blocks() {
                block.phases.check_end(&threads[0])?;
            }
            return Ok(());
        }
    }

    /// Runs the 32 threads from `first` on until each waits at a barrier or has returned.
    fn run_warp(&mut self, launched: &Launched<'_>, first: usize, order: Order) -> Result<(), Violation> {
        loop {
            for lane in order.lanes() {
                if matches!(self.threads[first + lane].stop.get(), Stop::Turn) {
                    self.resume(launched, first + lane)?;
                }
            }
            self.counter.warp_stops();
            // Words of the warpgroup wait for the others.
            let warp = &self.threads[first..first + LANES];
            if warp.iter().all(|thread| !matches!(thread.stop.get(), Stop::Word(_))) {
                return Ok(());
            }
            match gather::<LANES>(warp)? {
                Some((call, _)) if call.word == Word::Sync && launched.checked => {
                    self.clock.warp_sync(self.threads[first].warp())
                }
                Some((call, lanes)) => carry_out(call.word, &lanes),
                None => return Ok(()),
            }
        }
    }

    fn resume(&mut self, launched: &Launched<'_>, index: usize) -> Result<(), Violation> {
        let thread: *const Thread = &self.threads[index];
        let slot = &mut self.running[index];
        if slot.is_none() {
            let stack = match self.free_stacks.pop() {
                Some(stack) => stack,
                None => DefaultStack::new(STACK_BYTES).expect("no memory for a thread's stack"),
            };
            let body = launched.body;
            // SAFETY: what the closure borrows, the thread's state and the kernel's arguments, outlives
            // the block, and `run_block` ends every coroutine before it returns.
            *slot = Some(unsafe {
                Coroutine::with_stack_unchecked(stack, move |yielder, ()| {
                    (*thread).yielder.set(yielder);
                    body();
                })
            });
        }
        let coroutine = slot.as_mut().expect("filled above");
        CURRENT.set(thread);
        let outcome = catch_unwind(AssertUnwindSafe(|| coroutine.resume(())));
        CURRENT.set(std::ptr::null());
        if coroutine.done() {
            self.free_stacks.extend(slot.take().map(Coroutine::into_stack));
            self.threads[index].stop.set(Stop::Exit);
            if launched.checked && outcome.is_ok() && self.threads[index].agents.has_unread_stores() {
                return Err(self.threads[index].at_kernel(Fault::StoresUnread));
            }
            if outcome.is_ok() {
                self.threads[index].block().cluster.thread_ends(&self.threads[index])?;
            }
        }
        let thread = &self.threads[index];
        if let Err(payload) = outcome {
            return Err(payload
                .downcast::<Violation>()
                .map_or_else(|payload| thread.panicked(payload.as_ref()), |violation| *violation));
        }
        match thread.stop.get() {
            Stop::Exit => thread
                .copies
                .fault_at_exit()
                .map_or(Ok(()), |(fault, location)| Err(thread.violation(fault, location.into()))),
            _ => Ok(()),
        }
    }
}

/// Carries out the words that whole warpgroups wait to say.
fn say_group_words(threads: &[Thread], block: &BlockState) -> Result<bool, Violation> {
    let mut said = false;
    for group in threads.chunks_exact(GROUP) {
        if !group.iter().all(|thread| matches!(thread.stop.get(), Stop::GroupWord(_))) {
            continue;
        }
        if let Some((call, lanes)) = gather::<GROUP>(group)? {
            tensor_cores::carry_out(call.word, &lanes, group, block)
                .map_err(|(thread, fault)| thread.violation(fault, call.location.into()))?;
            said = true;
        }
    }
    Ok(said)
}

impl Thread {
    fn new(index: u32, rank: usize) -> Self {
        Self {
            index,
            rank,
            stop: Cell::new(Stop::Turn),
            n_tiles: Cell::new(0),
            waited: Cell::new(false),
            agents: Agents::default(),
            copies: AsyncCopies::default(),
            yielder: Cell::new(std::ptr::null()),
            block: Cell::new(std::ptr::null()),
        }
    }

    fn start(&self, block: &BlockState) {
        self.stop.set(Stop::Turn);
        self.n_tiles.set(0);
        self.waited.set(false);
        self.agents.reset();
        self.copies.clear();
        self.block.set(block);
    }

    /// A panic of the kernel itself. Its place is in the message that the panic hook prints.
    fn panicked(&self, payload: &(dyn std::any::Any + Send)) -> Violation {
        let message = payload
            .downcast_ref::<&str>()
            .map(|message| (*message).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "without a message".to_owned());
        self.at_kernel(Fault::Panic { message })
    }

    /// A violation of which no place but the kernel itself is known.
    pub fn at_kernel(&self, fault: Fault) -> Violation {
        let meta = self.launched().meta;
        self.violation(fault, Site { file: meta.file, line: meta.line, column: 1 })
    }
}
