//! Races, unwritten reads and tiles of shared memory. A block runs on one thread of the machine, so
//! nothing here is atomic.

use std::cell::{Cell, RefCell};
use std::panic::Location;

use super::cell::{MAX_RUNS, Record, touch};
use super::clock::{COPY_ENGINE, TENSOR_CORES, Times, Viewpoint, place};
use super::count::Space;
use crate::simt::emulator::block::{BlockState, LANES, Thread};
use crate::simt::emulator::violation::{Access, Fault, Other, View};
use crate::simt::shared::TILE_ALIGN;

/// The bytes of a copy in the background are a multiple of this, as is their place.
const COPY_BYTES: usize = 4;

/// What is known of the shared memory of the running block.
#[derive(Default)]
pub struct SharedShadow {
    /// Counts blocks, so that nothing is cleared between them: what another run recorded does not count.
    run: Cell<u64>,
    /// The rank of the block whose memory it is.
    rank: Cell<usize>,
    lines: RefCell<Vec<Line>>,
    /// The tiles carved so far, by number.
    tiles: RefCell<Vec<Carved>>,
}

/// The 16 bytes at which a tile may start: as many cells as elements of the smallest type that a tile there has.
struct Line {
    run: u64,
    /// Logarithm to base 2 of that type's size.
    granule_log2: u32,
    /// Into which of its bytes a copy is in flight, a bit each; and the thread that began it, for each four bytes.
    in_flight: Cell<u16>,
    copiers: [Cell<u32>; TILE_ALIGN / COPY_BYTES],
    cells: [[Cell<u64>; 2]; TILE_ALIGN],
    /// For each agent from [`TENSOR_CORES`] on: the record of its last read, which the cells do not hold.
    agent_reads: [Cell<u64>; N_AGENTS],
}

const N_AGENTS: usize = COPY_ENGINE - TENSOR_CORES + 1;

/// Where a tile lies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Carved {
    pub start: usize,
    pub end: usize,
    pub element_bytes: usize,
}

/// An access to shared memory.
#[derive(Clone, Copy)]
pub struct SharedAccess {
    pub access: Access,
    /// The tile's number.
    pub tile: u32,
    /// First byte of the access.
    pub start: usize,
    /// First element, of the tile.
    pub index: usize,
    pub count: usize,
    pub element_bytes: usize,
}

impl SharedShadow {
    /// Starts the block of this rank with that much shared memory.
    pub fn reset(&self, rank: usize, bytes: usize) {
        self.rank.set(rank);
        let run = self.run.get() + 1;
        assert!(run <= MAX_RUNS, "one worker ran {run} blocks, more than checked mode can tell apart");
        self.run.set(run);
        self.tiles.borrow_mut().clear();
        let mut lines = self.lines.borrow_mut();
        if lines.len() < bytes.div_ceil(TILE_ALIGN) {
            lines.resize_with(bytes.div_ceil(TILE_ALIGN), || Line {
                run: 0,
                granule_log2: 0,
                in_flight: Cell::new(0),
                copiers: Default::default(),
                cells: Default::default(),
                agent_reads: Default::default(),
            });
        }
    }

    /// The running thread carves a tile. The first thread to do so lays it out, the others must agree.
    pub fn carve(&self, thread: &Thread, number: u32, tile: Carved, location: &'static Location<'static>) {
        let mut tiles = self.tiles.borrow_mut();
        match tiles.get(number as usize) {
            Some(first) if *first == tile => {}
            Some(_) => thread.violate(Fault::TileMismatch { view: View::Tile(number) }, location),
            None => {
                tiles.push(tile);
                self.lay_out(tile);
            }
        }
    }

    fn lay_out(&self, tile: Carved) {
        let run = self.run.get();
        let mut lines = self.lines.borrow_mut();
        for line in &mut lines[tile.start / TILE_ALIGN..tile.end.div_ceil(TILE_ALIGN)] {
            let granule_log2 = tile.element_bytes.ilog2();
            if line.run != run {
                (line.run, line.granule_log2) = (run, granule_log2);
                line.in_flight.set(0);
            } else if granule_log2 < line.granule_log2 {
                // Reused for smaller elements: each starts with what is known of the larger one.
                let (larger, shift) = (line.cells.clone(), line.granule_log2 - granule_log2);
                for (i, cell) in line.cells.iter_mut().enumerate() {
                    *cell = larger[i >> shift].clone();
                }
                line.granule_log2 = granule_log2;
            }
        }
    }

    /// Checks and records an access by the running thread.
    pub fn check(&self, thread: &Thread, access: SharedAccess, location: &'static Location<'static>) {
        let SharedAccess { access: kind, tile, start, index, count, element_bytes } = access;
        let view = View::Tile(tile);
        let BlockState { clock, counter, .. } = thread.block();
        let place = (start, count * element_bytes, thread.index % LANES as u32);
        counter.count(Space::Shared, || view, kind, place, location);
        let me = Record::new(self.run.get(), thread.warp(), thread.index, clock);
        let seen = clock.seen_by(thread.warp());
        let lines = self.lines.borrow();
        let line = &lines[start / TILE_ALIGN];
        if kind != Access::Read
            && let Some(by) = line.agent_reading(me, seen, self.rank.get())
        {
            let (access, other) = (kind, Access::Read);
            thread.violate(Fault::Race { view, index, access, other, by }, location);
        }
        let in_flight = line.in_flight.get() & access.bytes_of_line();
        if in_flight != 0 {
            let byte = in_flight.trailing_zeros() as usize;
            let index = index + (byte - start % TILE_ALIGN) / element_bytes;
            let by = line.copiers[byte / COPY_BYTES].get();
            let fault = Fault::CopyInFlight { view, index, access: kind, by };
            thread.violate(fault, location);
        }
        for byte in (start..start + count * element_bytes).step_by(1 << line.granule_log2) {
            let cell = &line.cells[(byte % TILE_ALIGN) >> line.granule_log2];
            let was_written = Record(cell[0].get()).tag() == me.tag();
            let race = touch(cell, me, kind, true, seen);
            let index = index + (byte - start) / element_bytes;
            let fault = match race {
                Some((other, by)) => Fault::Race { view, index, access: kind, other, by },
                None if kind != Access::Write && !was_written => Fault::Unwritten { view, index },
                None => continue,
            };
            thread.violate(fault, location);
        }
    }

    /// The running thread has begun a copy there, and the access has been checked.
    pub fn begin_copy(&self, thread: &Thread, access: SharedAccess) {
        let line = &self.lines.borrow()[access.start / TILE_ALIGN];
        line.in_flight.update(|bytes| bytes | access.bytes_of_line());
        let first = access.start % TILE_ALIGN / COPY_BYTES;
        let n = access.count * access.element_bytes / COPY_BYTES;
        line.copiers[first..first + n].iter().for_each(|copier| copier.set(thread.index));
    }

    /// The running thread has waited for the copy: it wrote now, and nobody else since it began.
    pub fn end_copy(&self, thread: &Thread, access: SharedAccess) {
        let SharedAccess { start, count, element_bytes, .. } = access;
        let line = &self.lines.borrow()[start / TILE_ALIGN];
        line.in_flight.update(|bytes| bytes & !access.bytes_of_line());
        let clock = &thread.block().clock;
        let me = Record::new(self.run.get(), thread.warp(), thread.index, clock);
        for byte in (start..start + count * element_bytes).step_by(1 << line.granule_log2) {
            let cell = &line.cells[(byte % TILE_ALIGN) >> line.granule_log2];
            touch(cell, me, Access::Write, true, clock.seen_by(thread.warp()));
        }
    }

    /// The copy engine writes the 16 bytes from `start` on at a time, for the running thread.
    pub fn engine_writes(
        &self,
        thread: &Thread,
        time: u32,
        piece: Piece,
        location: &'static Location<'static>,
    ) {
        let BlockState { clock, .. } = thread.block();
        let agent = place(thread.rank, COPY_ENGINE);
        let me = Record::of_agent(self.run.get(), agent, thread.warp(), time);
        let seen = clock.seen_by(thread.warp());
        let lines = self.lines.borrow();
        let line = &lines[piece.start / TILE_ALIGN];
        let fault = |other, by| {
            let Piece { view, index, .. } = piece;
            thread.violate(Fault::Race { view, index, access: Access::Write, other, by }, location)
        };
        if let Some(by) = line.agent_reading(me, seen, self.rank.get()) {
            fault(Access::Read, by);
        }
        for cell in &line.cells[..TILE_ALIGN >> line.granule_log2] {
            if let Some((other, by)) = touch(cell, me, Access::Write, true, seen) {
                fault(other, by);
            }
        }
    }

    /// An agent reads the 16 bytes from `start` on at a time, for a thread or a warpgroup that knows so much.
    pub fn agent_reads(
        &self,
        thread: &Thread,
        (agent, time): (usize, u32),
        known: &Times,
        piece: Piece,
    ) -> Result<(), Fault> {
        let BlockState { clock, .. } = thread.block();
        let me = Record::of_agent(self.run.get(), place(thread.rank, agent), thread.warp(), time);
        let lines = self.lines.borrow();
        let line = &lines[piece.start / TILE_ALIGN];
        line.agent_reads[agent - TENSOR_CORES].set(me.0);
        let Piece { view, index, .. } = piece;
        if line.in_flight.get() != 0 {
            let by = line.copiers[line.in_flight.get().trailing_zeros() as usize / COPY_BYTES].get();
            return Err(Fault::CopyInFlight { view, index, access: Access::Read, by });
        }
        for cell in &line.cells[..TILE_ALIGN >> line.granule_log2] {
            let written = Record(cell[0].get());
            if written.tag() != me.tag() {
                return Err(Fault::Unwritten { view, index });
            }
            let by = written.who(clock, thread.rank);
            if !written.is_before(known) {
                return Err(Fault::Race { view, index, access: Access::Read, other: Access::Write, by });
            }
            if !written.is_fenced(clock) {
                return Err(Fault::Unfenced { view, index, by });
            }
        }
        Ok(())
    }
}

/// 16 bytes of shared memory that an agent moves.
#[derive(Clone, Copy)]
pub struct Piece {
    /// The tile.
    pub view: View,
    /// Its element there.
    pub index: usize,
    /// First byte, of shared memory.
    pub start: usize,
}

impl Line {
    /// The agent of the block of this rank, whose memory it is, whose last read is not known to be done.
    fn agent_reading(&self, me: Record, seen: Viewpoint<'_>, rank: usize) -> Option<Other> {
        (TENSOR_CORES..=COPY_ENGINE).find_map(|agent| {
            let read = Record(self.agent_reads[agent - TENSOR_CORES].get());
            let unordered = read.tag() == me.tag() && !seen.knows(place(rank, agent), read.time());
            unordered.then(|| read.who(seen.clock, rank))
        })
    }
}

impl SharedAccess {
    /// A bit for each byte of the line that is touched.
    fn bytes_of_line(self) -> u16 {
        let bits = (1u32 << (self.count * self.element_bytes)) - 1;
        (bits << (self.start % TILE_ALIGN)) as u16
    }
}
