//! The words on the CPU: blocks run in parallel, the threads of a block are coroutines that switch at
//! barriers and warp words.

mod block;
mod heap;
mod run;
mod view;
mod violation;
pub(super) mod words;

use std::sync::{Arc, Mutex, PoisonError};

use crate::launch::{Device, DeviceBuffer, DeviceSlice, Grid, Launch, Purpose};
use crate::simt::Element;

pub use block::Word;
use block::Worker;
use heap::Heap;
pub use run::{Bound, Run};
pub use violation::{Access, Block, Fault, Other, Site, State, View, Violation};

/// A device that runs kernels on the CPU.
pub struct Emulator {
    heap: Arc<Heap>,
    seed: u64,
    n_workers: usize,
    idle: Mutex<Vec<Worker>>,
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
    /// An emulator that checks bounds, alignment, barriers and warp words.
    pub fn checked() -> Self {
        let n_workers = rayon::current_num_threads();
        Self { heap: Arc::default(), seed: 0, n_workers, idle: Mutex::default() }
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

    fn take_worker(&self) -> Worker {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn put_worker(&self, worker: Worker) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
    }

    /// First byte of a span of this emulator's memory.
    ///
    /// # Panics
    /// If it is none.
    fn memory<T: Element>(&self, span: &DeviceSlice<T>) -> *mut u8 {
        let allocation = self.heap.find(span.address(), span.size_bytes());
        let allocation = allocation.unwrap_or_else(|| panic!("{span:?} is not in this emulator's memory"));
        allocation.base().wrapping_add((span.address() - allocation.address()) as usize)
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
        assert_eq!(dst.len(), src.len(), "elements of the device slice and of the source");
        // SAFETY: `memory` found the span; it is borrowed exclusively, so no kernel or copy uses it now.
        unsafe { self.memory(dst).copy_from_nonoverlapping(src.as_ptr().cast(), dst.size_bytes()) };
        Ok(())
    }

    fn copy_out<T: Element>(&self, src: &DeviceSlice<T>, dst: &mut [T]) -> Result<(), Error> {
        assert_eq!(src.len(), dst.len(), "elements of the device slice and of the destination");
        // SAFETY: `memory` found the span; while it is borrowed, no kernel or copy writes it.
        unsafe { self.memory(src).copy_to_nonoverlapping(dst.as_mut_ptr().cast(), src.size_bytes()) };
        Ok(())
    }

    fn zero<T: Element>(&self, dst: &mut DeviceSlice<T>) -> Result<(), Error> {
        // SAFETY: as in `copy_in`.
        unsafe { self.memory(dst).write_bytes(0, dst.size_bytes()) };
        Ok(())
    }

    fn launch<K: Launch>(&self, kernel: K, grid: Grid) -> Result<(), Error> {
        kernel.run_emulated(&mut Run::new(self, K::META, grid))
    }
}
