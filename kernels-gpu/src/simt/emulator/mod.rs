//! The words on the CPU: blocks run in parallel, the threads of a block are coroutines that switch at
//! barriers and warp words.

mod agents;
mod async_copy;
mod block;
mod check;
mod cluster;
mod collective;
mod copy_engine;
mod heap;
mod matrix;
mod meet;
mod order;
mod pairs;
mod phase;
mod run;
mod shared_memory;
mod tensor_cores;
mod view;
mod violation;
pub(super) mod words;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::launch::{Device, DeviceBuffer, DeviceSlice, Grid, Launch, Purpose};
use crate::simt::Element;

use block::Worker;
pub use check::{LaunchReport, SiteReport, Space};
pub use collective::Word;
use heap::{Allocation, Heap};
pub use run::{Bound, Run};
pub use violation::{Access, Block, Fault, Other, Site, State, View, Violation};

/// A device that runs kernels on the CPU.
///
/// Launches take place at once. Those of one emulator are meant to be made by one thread; memory that two threads
/// launch on at the same time is not checked for races between the launches.
pub struct Emulator {
    heap: Arc<Heap>,
    checked: bool,
    counted: bool,
    seed: u64,
    n_workers: usize,
    idle: Mutex<Vec<Worker>>,
    /// Launches so far.
    n_launches: AtomicU64,
    /// The last launch that on a GPU would have ended by now, given programmatic dependent launch.
    ended_launch: AtomicU64,
    report: Mutex<Option<LaunchReport>>,
    /// Whether only launches may come: see [`Emulator::begin_batch`].
    in_batch: AtomicBool,
}

/// What can go wrong on the emulator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kernel did what a kernel must not do.
    #[error(transparent)]
    Violation(Box<Violation>),
    /// A kernel's argument is not in this emulator's memory.
    #[error("{kernel}: parameter `{param}` at {address:#x} is not in this emulator's memory")]
    ForeignMemory {
        /// Name of the kernel.
        kernel: &'static str,
        /// Name of the parameter.
        param: &'static str,
        /// Address that was passed.
        address: u64,
    },
    /// A launch has more blocks than checked mode can tell apart.
    #[error("{kernel}: {n_blocks} blocks; checked mode can tell {max} apart")]
    GridTooLarge {
        /// Name of the kernel.
        kernel: &'static str,
        /// Blocks of the launch.
        n_blocks: u64,
        /// Blocks at most.
        max: u64,
    },
    /// Memory is copied to the host that nothing has written.
    #[error("element {index} of a span of {len} is copied to the host, but nothing has written it")]
    Unwritten {
        /// The first such element.
        index: usize,
        /// Elements of the span.
        len: usize,
    },
    /// The machine has no memory left.
    #[error("no memory for {bytes} bytes ({purpose:?})")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
        /// What for.
        purpose: Purpose,
    },
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        Error::Violation(Box::new(violation))
    }
}

impl Default for Emulator {
    fn default() -> Self {
        Self::checked()
    }
}

impl Emulator {
    /// An emulator that checks every access.
    pub fn checked() -> Self {
        Self::new(true)
    }

    /// An emulator for long runs: it checks bounds, alignment, barriers and warp words, but neither races nor
    /// reads of unwritten memory.
    pub fn fast() -> Self {
        Self::new(false)
    }

    fn new(checked: bool) -> Self {
        Self {
            heap: Arc::default(),
            checked,
            counted: false,
            seed: 0,
            n_workers: rayon::current_num_threads(),
            idle: Mutex::default(),
            n_launches: AtomicU64::new(0),
            ended_launch: AtomicU64::new(0),
            report: Mutex::default(),
            in_batch: AtomicBool::new(false),
        }
    }

    /// The same, checked, and counting memory transactions; see [`Emulator::report`]. Slow.
    #[must_use]
    pub fn counting(self) -> Self {
        Self { checked: true, counted: true, ..self }
    }

    /// What the last launch asked of memory, if this emulator is [`counting`](Emulator::counting).
    pub fn report(&self) -> Option<LaunchReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same with another order of blocks, warps and lanes. Zero, the default, is the order of their indices.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The same with blocks on `n` threads of the machine at most; 1 makes the order of blocks exact.
    #[must_use]
    pub fn with_workers(self, n: usize) -> Self {
        Self { n_workers: n.max(1), ..self }
    }

    /// From here on only launches may come, and allocations, as while a GPU's launches are recorded to be repeated.
    pub fn begin_batch(&self) {
        self.in_batch.store(true, Relaxed);
    }

    /// Copies and fills may come again.
    pub fn end_batch(&self) {
        self.in_batch.store(false, Relaxed);
    }

    fn assert_no_batch(&self, what: &str) {
        assert!(!self.in_batch.load(Relaxed), "{what} has no place in a batch of launches");
    }

    fn take_worker(&self) -> Worker {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn put_worker(&self, worker: Worker) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
    }

    /// Counts a launch. One without programmatic dependent launch begins when all before it have ended.
    fn start_launch(&self, pdl: bool) -> u64 {
        let number = 1 + self.n_launches.fetch_add(1, Relaxed);
        if !pdl {
            self.ended_launch.store(number - 1, Relaxed);
        }
        number
    }

    /// A span of this emulator's memory: its allocation, and its first byte in it. All launches have ended.
    ///
    /// # Panics
    /// If it is none.
    fn memory<T: Element>(&self, span: &DeviceSlice<T>) -> (Arc<Allocation>, usize) {
        self.ended_launch.store(self.n_launches.load(Relaxed), Relaxed);
        let allocation = self.heap.find(span.address(), span.size_bytes());
        let allocation = allocation.unwrap_or_else(|| panic!("{span:?} is not in this emulator's memory"));
        let offset = (span.address() - allocation.address()) as usize;
        (allocation, offset)
    }
}

impl Device for Emulator {
    type Error = Error;

    fn alloc<T: Element>(&self, n: usize, purpose: Purpose) -> Result<DeviceBuffer<T>, Error> {
        let bytes = n.saturating_mul(size_of::<T>());
        let allocation = self.heap.alloc(bytes).ok_or(Error::OutOfMemory { bytes, purpose })?;
        let memory = Arc::<Heap>::clone(&self.heap);
        // SAFETY: the heap keeps the allocation, aligned for every element, until the buffer frees it.
        Ok(unsafe { DeviceBuffer::from_raw(allocation.address(), n, memory) })
    }

    fn copy_in<T: Element>(&self, dst: &mut DeviceSlice<T>, src: &[T]) -> Result<(), Error> {
        self.assert_no_batch("a copy");
        assert_eq!(dst.len(), src.len(), "elements of the device slice and of the source");
        let (allocation, offset) = self.memory(dst);
        let first = allocation.base().wrapping_add(offset);
        // SAFETY: `memory` found the span; it is borrowed exclusively, so no kernel or copy uses it now.
        unsafe { first.copy_from_nonoverlapping(src.as_ptr().cast(), dst.size_bytes()) };
        if self.checked {
            allocation.written.mark(offset..offset + dst.size_bytes());
        }
        Ok(())
    }

    fn copy_out<T: Element>(&self, src: &DeviceSlice<T>, dst: &mut [T]) -> Result<(), Error> {
        self.assert_no_batch("a copy");
        assert_eq!(src.len(), dst.len(), "elements of the device slice and of the destination");
        let (allocation, offset) = self.memory(src);
        if self.checked
            && let Some(byte) = allocation.written.first_unwritten(offset..offset + src.size_bytes())
        {
            return Err(Error::Unwritten { index: (byte - offset) / size_of::<T>(), len: src.len() });
        }
        let first = allocation.base().wrapping_add(offset);
        // SAFETY: `memory` found the span; while it is borrowed, no kernel or copy writes it.
        unsafe { first.copy_to_nonoverlapping(dst.as_mut_ptr().cast(), src.size_bytes()) };
        Ok(())
    }

    fn zero<T: Element>(&self, dst: &mut DeviceSlice<T>) -> Result<(), Error> {
        self.assert_no_batch("a fill");
        let (allocation, offset) = self.memory(dst);
        // SAFETY: as in `copy_in`.
        unsafe { allocation.base().wrapping_add(offset).write_bytes(0, dst.size_bytes()) };
        if self.checked {
            allocation.written.mark(offset..offset + dst.size_bytes());
        }
        Ok(())
    }

    fn launch<K: Launch>(&self, kernel: K, grid: Grid) -> Result<(), Error> {
        kernel.run_emulated(&mut Run::new(self, K::META, grid))
    }
}
