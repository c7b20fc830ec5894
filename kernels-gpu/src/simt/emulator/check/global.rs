//! Races and unwritten reads in global memory, whose cells several threads of the machine share.

use std::panic::Location;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use super::cell::{MAX_LAUNCHES, Record, touch};
use super::clock::{COPY_ENGINE, place};
use super::count::Space;
use crate::simt::emulator::block::{LANES, Thread};
use crate::simt::emulator::run::Param;
use crate::simt::emulator::violation::{Access, Fault, View};

/// The cells of an allocation: last write and last read of every granule, a fixed number of bytes.
pub struct Cells {
    /// Logarithm to base 2 of the granule.
    granule_log2: u32,
    /// Launch identifiers repeat; cells of an earlier round are started anew.
    round: u64,
    cells: Box<[[AtomicU64; 2]]>,
}

/// The cells of an allocation, made when a checked launch first may write it.
#[derive(Default)]
pub struct CellStore(Mutex<Option<Arc<Cells>>>);

impl CellStore {
    /// Cells for accesses of multiples of `granule` bytes in this launch.
    pub fn get(&self, launch: u64, granule: usize, bytes: usize) -> Arc<Cells> {
        let (round, granule_log2) = (launch / MAX_LAUNCHES, granule.ilog2());
        let mut store = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*store {
            // Launches have no records in common, so cells of another granule can simply be replaced.
            Some(cells) if cells.round == round && cells.granule_log2 == granule_log2 => Arc::clone(cells),
            _ => {
                // Zeroed memory comes from the system untouched: cells that nothing accesses cost nothing.
                // SAFETY: zero is a valid AtomicU64.
                let cells = unsafe { Box::new_zeroed_slice(bytes.div_ceil(granule)).assume_init() };
                Arc::clone(store.insert(Arc::new(Cells { granule_log2, round, cells })))
            }
        }
    }
}

/// An access to global memory.
#[derive(Clone, Copy)]
pub struct GlobalAccess {
    pub access: Access,
    /// First element, of the view.
    pub index: usize,
    pub count: usize,
    pub element_bytes: usize,
}

/// Checks and records an access by the running thread.
pub fn check_global(
    thread: &Thread,
    param: &Param,
    access: GlobalAccess,
    location: &'static Location<'static>,
) {
    let GlobalAccess { access: kind, index, count, element_bytes } = access;
    let block = thread.block();
    let place =
        (param.base.addr() + index * element_bytes, count * element_bytes, thread.index % LANES as u32);
    block.counter.count(Space::Global, || View::Param(param.name), kind, place, location);
    check_global_as(
        thread,
        Record::new(block.tag, thread.warp(), thread.index, &block.clock),
        param,
        access,
        location,
    );
}

/// Checks and records what the copy engine does at a time for the running thread. A box may be of more bytes than an
/// access; it is not counted.
pub fn check_copied(
    thread: &Thread,
    time: u32,
    param: &Param,
    access: GlobalAccess,
    location: &'static Location<'static>,
) {
    let agent = place(thread.rank, COPY_ENGINE);
    let me = Record::of_agent(thread.block().tag, agent, thread.warp(), time);
    check_global_as(thread, me, param, access, location);
}

fn check_global_as(
    thread: &Thread,
    me: Record,
    param: &Param,
    access: GlobalAccess,
    location: &'static Location<'static>,
) {
    let GlobalAccess { access: kind, index, count, element_bytes } = access;
    let view = View::Param(param.name);
    let start = param.offset + index * element_bytes;
    let range = start..start + count * element_bytes;
    let index_of = |byte: usize| (byte - param.offset) / element_bytes;
    let launched = thread.launched();
    if launched.meta.pdl && !thread.waited.get() && (kind != Access::Read || param.written_before_wait) {
        thread.violate(Fault::BeforeWait { view, index, access: kind }, location);
    }
    if let Some(cells) = &param.cells {
        let seen = thread.block().clock.seen_by(thread.warp());
        for byte in range.clone().step_by(1 << cells.granule_log2) {
            if let Some((other, by)) = touch(cells.at(byte), me, kind, false, seen) {
                thread
                    .violate(Fault::Race { view, index: index_of(byte), access: kind, other, by }, location);
            }
        }
    }
    let written = &param.allocation.written;
    if kind != Access::Write
        && !param.all_written
        && let Some(byte) = written.first_unwritten(range.clone())
    {
        thread.violate(Fault::Unwritten { view, index: index_of(byte) }, location);
    }
    if kind != Access::Read {
        written.mark(range);
    }
}

impl Cells {
    /// The two words for the granule at a byte of the allocation.
    fn at(&self, byte: usize) -> &[AtomicU64; 2] {
        &self.cells[byte >> self.granule_log2]
    }
}
