//! One launch: its parameters, and its blocks on the threads of the machine.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::check::{Cells, LaunchReport, MAX_BLOCKS};
use super::copy_engine::TensorMap;
use super::heap::Allocation;
use super::order::mix;
use super::view::Global;
use super::violation::{Block, Fault, Site, Violation};
use super::{Emulator, Error};
use crate::launch::{DeviceSlice, Grid, KernelMeta, Matrix, MatrixArg, MatrixMut, ParamKind};
use crate::simt::boxes::{InBoxes, OutBoxes};
use crate::simt::{Element, In, InOut, Out};

/// Workers of a launch at most: each keeps a stack, that is two memory maps, for each thread of a block, and
/// Linux grants a process 65 530 maps.
const MAX_WORKERS: usize = 16;

/// A view among the parameters of a launch.
pub struct Param {
    pub name: &'static str,
    pub base: *mut u8,
    pub bytes: usize,
    pub allocation: Arc<Allocation>,
    /// First byte of the view in its allocation.
    pub offset: usize,
    /// Whether accesses are checked beyond bounds and alignment, or counted.
    pub watched: bool,
    /// Whether nothing of it was unwritten when the launch began.
    pub all_written: bool,
    /// Whether a parameter of the launch that may be written overlaps it.
    pub may_be_written: bool,
    /// Whether a launch that need not have ended before this one may have written it.
    pub written_before_wait: bool,
    /// Records of accesses, if the launch may write it.
    pub cells: Option<Arc<Cells>>,
    /// What it is as a matrix that is moved in boxes.
    pub matrix: Option<MatrixArg>,
    kind: ParamKind,
    element_bytes: usize,
}

// SAFETY: of a launch, which only reads it; the memory at `base` is accessed by atomic operations.
unsafe impl Sync for Param {}

impl Param {
    fn writes(&self) -> bool {
        !matches!(self.kind, ParamKind::In | ParamKind::InBoxes)
    }

    fn overlaps(&self, other: &Param) -> bool {
        let (start, other_start) = (self.base.addr(), other.base.addr());
        start < other_start + other.bytes && other_start < start + self.bytes
    }
}

/// A launch in preparation; `#[kernel]` binds the parameters and executes it.
pub struct Run<'a> {
    emulator: &'a Emulator,
    meta: &'static KernelMeta,
    grid: Grid,
    params: Vec<Param>,
}

/// A parameter that has been bound; gives the view that the kernel's body takes.
pub struct Bound<T, V> {
    index: usize,
    wrap: fn(Global<T>) -> V,
    marker: PhantomData<fn() -> T>,
}

impl<T: Element, V> Bound<T, V> {
    /// The view, for the emulated thread that is running.
    pub fn view(&self) -> V {
        (self.wrap)(Global::of_param(self.index))
    }
}

/// A matrix that has been bound; gives the parameter that the kernel's body takes.
pub struct BoundBoxes<V> {
    index: usize,
    wrap: fn(TensorMap) -> V,
}

impl<V> BoundBoxes<V> {
    /// The parameter, for the emulated thread that is running.
    pub fn view(&self) -> V {
        (self.wrap)(TensorMap::of_param(self.index))
    }
}

/// A launch while its blocks run.
pub struct Launched<'a> {
    pub meta: &'static KernelMeta,
    pub grid: Grid,
    /// Counts the launches of the emulator, from 1.
    pub number: u64,
    pub checked: bool,
    pub seed: u64,
    pub body: &'a (dyn Fn() + Sync),
    params: &'a [Param],
    /// Whether a thread has said `pdl::wait`.
    waited: AtomicBool,
}

impl Launched<'_> {
    /// Indices of the block with this linear index.
    pub fn block_index(&self, linear: u64) -> Block {
        let (x, y) = (u64::from(self.grid.x), u64::from(self.grid.y));
        Block { x: (linear % x) as u32, y: (linear / x % y) as u32, z: (linear / x / y) as u32 }
    }

    /// The view that was bound as number `index`.
    pub fn param(&self, index: usize) -> &Param {
        &self.params[index]
    }

    /// A thread says `pdl::wait`.
    pub fn note_wait(&self) {
        if !self.waited.load(Relaxed) {
            self.waited.store(true, Relaxed);
        }
    }
}

impl<'a> Run<'a> {
    pub(super) fn new(emulator: &'a Emulator, meta: &'static KernelMeta, grid: Grid) -> Self {
        Self { emulator, meta, grid, params: Vec::new() }
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
        Ok(Bound { index: self.bind(index, span)?, wrap: In, marker: PhantomData })
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
        Ok(Bound { index: self.bind(index, span)?, wrap: Out, marker: PhantomData })
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
        Ok(Bound { index: self.bind(index, span)?, wrap: InOut, marker: PhantomData })
    }

    /// Binds parameter `index`.
    ///
    /// # Errors
    /// If the matrix is not in this emulator's memory.
    pub fn bind_in_boxes<T: Element, const ROWS: u32>(
        &mut self,
        index: usize,
        matrix: &Matrix<'_, T>,
    ) -> Result<BoundBoxes<InBoxes<T, ROWS>>, Error> {
        let bound = self.bind(index, matrix.span())?;
        self.params[bound].matrix = Some(matrix.boxes(InBoxes::<T, ROWS>::BOX));
        Ok(BoundBoxes { index: bound, wrap: InBoxes::new })
    }

    /// Binds parameter `index`.
    ///
    /// # Errors
    /// If the matrix is not in this emulator's memory.
    pub fn bind_out_boxes<T: Element, const ROWS: u32>(
        &mut self,
        index: usize,
        matrix: &MatrixMut<'_, T>,
    ) -> Result<BoundBoxes<OutBoxes<T, ROWS>>, Error> {
        let bound = self.bind(index, matrix.span())?;
        self.params[bound].matrix = Some(matrix.boxes(OutBoxes::<T, ROWS>::BOX));
        Ok(BoundBoxes { index: bound, wrap: OutBoxes::new })
    }

    fn bind<T: Element>(&mut self, index: usize, span: &DeviceSlice<T>) -> Result<usize, Error> {
        let meta = &self.meta.params[index];
        let (address, bytes) = (span.address(), span.size_bytes());
        let allocation = self.emulator.heap.find(address, bytes).ok_or(Error::ForeignMemory {
            kernel: self.meta.name,
            param: meta.name,
            address,
        })?;
        let offset = (address - allocation.address()) as usize;
        self.params.push(Param {
            name: meta.name,
            base: allocation.base().wrapping_add(offset),
            bytes,
            offset,
            watched: false,
            all_written: true,
            may_be_written: false,
            written_before_wait: false,
            cells: None,
            matrix: None,
            kind: meta.kind,
            element_bytes: size_of::<T>(),
            allocation,
        });
        Ok(self.params.len() - 1)
    }

    /// Runs `body`, the kernel with its arguments, for every thread of every block.
    ///
    /// # Errors
    /// A violation; of several, one of those that occurred first. In checked mode also a grid of more blocks than it
    /// can tell apart.
    pub fn execute(&mut self, body: &(dyn Fn() + Sync)) -> Result<(), Error> {
        let (emulator, meta, grid) = (self.emulator, self.meta, self.grid);
        if emulator.checked && grid.n_blocks() > MAX_BLOCKS {
            return Err(Error::GridTooLarge {
                kernel: meta.name,
                n_blocks: grid.n_blocks(),
                max: MAX_BLOCKS,
            });
        }
        let number = emulator.start_launch(meta.pdl);
        self.prepare_checks(number);
        let launched = Launched {
            meta,
            grid,
            number,
            checked: emulator.checked,
            seed: emulator.seed,
            body,
            params: &self.params,
            waited: AtomicBool::new(false),
        };
        run_blocks(emulator, &launched)?;
        if emulator.checked && meta.pdl && !launched.waited.load(Relaxed) {
            let site = Site { file: meta.file, line: meta.line, column: 1 };
            let (kernel, block) = (meta.name, Block::default());
            return Err(Violation { kernel, block, thread: 0, fault: Fault::NoWait, site }.into());
        }
        Ok(())
    }

    /// Decides what is to be checked and recorded of each view.
    fn prepare_checks(&mut self, number: u64) {
        let (checked, counted) = (self.emulator.checked, self.emulator.counted);
        let ended = self.emulator.ended_launch.load(Relaxed);
        for i in 0..self.params.len() {
            let param = &self.params[i];
            let may_be_written = self.params.iter().any(|other| other.writes() && other.overlaps(param));
            let all_written = {
                let range = param.offset..param.offset + param.bytes;
                !checked || param.allocation.written.first_unwritten(range).is_none()
            };
            let written_before_wait = param.allocation.last_writer.load(Relaxed) > ended;
            let cells = (checked && may_be_written).then(|| {
                let of_same_memory = |other: &&Param| Arc::ptr_eq(&other.allocation, &param.allocation);
                let users = self.params.iter().filter(of_same_memory);
                let granule = users.map(|user| user.element_bytes).min().unwrap_or(1);
                param.allocation.cells.get(number, granule, param.allocation.size_bytes())
            });
            let param = &mut self.params[i];
            param.watched =
                counted || checked && (may_be_written || !all_written || self.meta.pdl || param.writes());
            param.may_be_written = may_be_written;
            param.all_written = all_written;
            param.written_before_wait = written_before_wait;
            param.cells = cells;
        }
        for param in self.params.iter().filter(|param| param.writes()) {
            param.allocation.last_writer.store(number, Relaxed);
        }
    }
}

/// Runs all blocks; ends early at a violation.
fn run_blocks(emulator: &Emulator, launched: &Launched<'_>) -> Result<(), Violation> {
    launched.meta.check_grid(launched.grid);
    let n_clusters = launched.grid.n_blocks() / u64::from(launched.meta.cluster.unwrap_or(1));
    let clusters = Clusters::new(n_clusters, launched.seed);
    let report = LaunchReport { kernel: launched.meta.name, grid: launched.grid, sites: Vec::new() };
    let outcome = Mutex::new((None, report));
    let work = || {
        let mut worker = emulator.take_worker();
        worker.counter().start(emulator.counted);
        while let Some(number) = clusters.next() {
            if let Err(violation) = worker.run_cluster(launched, number) {
                clusters.stop();
                outcome.lock().unwrap_or_else(PoisonError::into_inner).0.get_or_insert(violation);
            }
        }
        worker.counter().add_to(&mut outcome.lock().unwrap_or_else(PoisonError::into_inner).1);
        emulator.put_worker(worker);
    };
    let n_workers = emulator.n_workers.min(MAX_WORKERS).min(n_clusters as usize);
    if n_workers <= 1 {
        work();
    } else {
        rayon::scope(|scope| (0..n_workers).for_each(|_| scope.spawn(|_| work())));
    }
    let (violation, report) = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    if emulator.counted {
        *emulator.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }
    violation.map_or(Ok(()), Err)
}

/// The clusters, or single blocks, that are still to run, in an order drawn from the seed (that of their index for seed 0).
struct Clusters {
    n: u64,
    next: AtomicU64,
    stopped: AtomicBool,
    stride: u64,
    offset: u64,
}

impl Clusters {
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
