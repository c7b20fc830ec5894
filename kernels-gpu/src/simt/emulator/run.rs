//! One launch: its parameters, and its blocks on the threads of the machine.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::block::mix;
use super::heap::Allocation;
use super::view::Global;
use super::violation::Block;
use super::{Emulator, Error};
use crate::launch::{DeviceSlice, Grid, KernelMeta, MAX_PARAMS};
use crate::simt::{Element, In, InOut, Out};

/// Workers of a launch at most: each keeps a stack, that is two memory maps, for each thread of a block, and
/// Linux grants a process 65 530 maps.
const MAX_WORKERS: usize = 16;

/// A view among the parameters of a launch.
pub struct Param {
    pub name: &'static str,
    #[allow(dead_code)]
    allocation: Arc<Allocation>,
}

/// A launch in preparation; `#[kernel]` binds the parameters and executes it.
pub struct Run<'a> {
    emulator: &'a Emulator,
    meta: &'static KernelMeta,
    grid: Grid,
    // Views point into it: allocated once, never moved.
    params: Vec<Param>,
}

/// A parameter that has been bound; gives the view that the kernel's body takes.
pub struct Bound<T, V> {
    global: Global<T>,
    wrap: fn(Global<T>) -> V,
}

impl<T: Element, V> Bound<T, V> {
    /// The view.
    pub fn view(&self) -> V {
        (self.wrap)(self.global)
    }
}

/// A launch while its blocks run.
pub struct Launched<'a> {
    pub meta: &'static KernelMeta,
    pub grid: Grid,
    pub seed: u64,
    pub body: &'a (dyn Fn() + Sync),
}

impl Launched<'_> {
    /// Indices of the block with this linear index.
    pub fn block_index(&self, linear: u64) -> Block {
        let (x, y) = (u64::from(self.grid.x), u64::from(self.grid.y));
        Block { x: (linear % x) as u32, y: (linear / x % y) as u32, z: (linear / x / y) as u32 }
    }
}

impl<'a> Run<'a> {
    pub(super) fn new(emulator: &'a Emulator, meta: &'static KernelMeta, grid: Grid) -> Self {
        Self { emulator, meta, grid, params: Vec::with_capacity(MAX_PARAMS) }
    }

    /// Binds parameter `index`.
    ///
    /// # Errors
    /// If the span is not in this emulator's memory.
    pub fn bind_in<T: Element>(
        &mut self,
        index: usize,
        span: &DeviceSlice<T>,
    ) -> Result<Bound<T, In<T>>, Error> {
        Ok(Bound { global: self.bind(index, span)?, wrap: In })
    }

    /// Binds parameter `index`.
    ///
    /// # Errors
    /// If the span is not in this emulator's memory.
    pub fn bind_out<T: Element>(
        &mut self,
        index: usize,
        span: &DeviceSlice<T>,
    ) -> Result<Bound<T, Out<T>>, Error> {
        Ok(Bound { global: self.bind(index, span)?, wrap: Out })
    }

    /// Binds parameter `index`.
    ///
    /// # Errors
    /// If the span is not in this emulator's memory.
    pub fn bind_in_out<T: Element>(
        &mut self,
        index: usize,
        span: &DeviceSlice<T>,
    ) -> Result<Bound<T, InOut<T>>, Error> {
        Ok(Bound { global: self.bind(index, span)?, wrap: InOut })
    }

    fn bind<T: Element>(&mut self, index: usize, span: &DeviceSlice<T>) -> Result<Global<T>, Error> {
        let name = self.meta.params[index].name;
        let allocation = self.emulator.heap.find(span.address(), span.size_bytes()).ok_or_else(|| {
            Error::ForeignMemory { kernel: self.meta.name, param: name, address: span.address() }
        })?;
        let base = allocation.base().wrapping_add((span.address() - allocation.address()) as usize);
        assert!(self.params.len() < self.params.capacity(), "a kernel has at most {MAX_PARAMS} parameters");
        self.params.push(Param { name, allocation });
        let param = &raw const self.params[self.params.len() - 1];
        Ok(Global::new(base, span.len(), param))
    }

    /// Runs `body`, the kernel with its arguments, for every thread of every block.
    ///
    /// # Errors
    /// A violation; of several, one of those that occurred first.
    pub fn execute(&mut self, body: &(dyn Fn() + Sync)) -> Result<(), Error> {
        let Emulator { seed, n_workers, .. } = *self.emulator;
        let launched = Launched { meta: self.meta, grid: self.grid, seed, body };
        let blocks = Blocks::new(self.grid.n_blocks(), seed);
        let n_workers = n_workers.min(MAX_WORKERS).min(self.grid.n_blocks() as usize);
        let violation = Mutex::new(None);
        let work = || {
            let mut worker = self.emulator.take_worker();
            while let Some(linear) = blocks.next() {
                if let Err(found) = worker.run_block(&launched, linear) {
                    blocks.stop();
                    violation.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(found);
                }
            }
            self.emulator.put_worker(worker);
        };
        if n_workers <= 1 {
            work();
        } else {
            rayon::scope(|scope| (0..n_workers).for_each(|_| scope.spawn(|_| work())));
        }
        match violation.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(violation) => Err(Error::from(violation)),
            None => Ok(()),
        }
    }
}

/// The blocks that are still to run, in an order drawn from the seed (that of their index for seed 0).
struct Blocks {
    n: u64,
    next: AtomicU64,
    stopped: AtomicBool,
    stride: u64,
    offset: u64,
}

impl Blocks {
    fn new(n: u64, seed: u64) -> Self {
        let (stride, offset) = if seed == 0 { (1, 0) } else { (coprime(mix(seed), n), mix(!seed) % n) };
        Self { n, next: AtomicU64::new(0), stopped: AtomicBool::new(false), stride, offset }
    }

    fn next(&self) -> Option<u64> {
        let turn = self.next.fetch_add(1, Relaxed);
        let linear =
            (u128::from(turn) * u128::from(self.stride) + u128::from(self.offset)) % u128::from(self.n);
        (turn < self.n && !self.stopped.load(Relaxed)).then_some(linear as u64)
    }

    fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }
}

/// A number below `n` (or 1) without a common divisor with it, so that its multiples meet every remainder.
fn coprime(draw: u64, n: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    (draw % n..n).find(|&stride| gcd(stride, n) == 1).unwrap_or(1)
}
