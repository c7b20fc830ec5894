//! The copy engine: boxes between global and shared memory.
//!
//! A copy takes place when it is asked for, but as an agent of its own: nobody knows that it is done who has not
//! waited for it.

use std::panic::Location;

use super::block::{BlockState, current};
use super::check::{COPY_ENGINE, GlobalAccess, Piece, check_copied, place};
use super::phase::Barriers;
use super::run::Param;
use super::view::{Carver, Local, read_shared_between_threads, write_shared_between_threads};
use super::violation::{Access, Fault, View};
use crate::launch::{BOX_ROW_BYTES, MatrixArg};
use crate::simt::wgmma::Operand;
use crate::simt::{Bits16, Element};

/// Bytes at a multiple of which the swizzle starts, and the rows in them.
const SWIZZLE_BYTES: usize = 1024;
const SWIZZLE_ROWS: usize = SWIZZLE_BYTES / BOX_ROW_BYTES;
/// Bytes that the swizzle moves together.
const PIECE_BYTES: usize = 16;
const PIECES: usize = BOX_ROW_BYTES / PIECE_BYTES;

/// Rows of 128 bytes in shared memory.
pub struct Rows<T> {
    tile: Local<T>,
    /// The first of the tile's rows.
    first: usize,
}

impl<T> Clone for Rows<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Rows<T> {}

/// A kernel's parameter that is moved in boxes.
#[derive(Clone, Copy)]
pub struct TensorMap {
    param: *const Param,
    matrix: MatrixArg,
}

impl Carver {
    #[track_caller]
    pub fn rows<T: Element>(&mut self, n: usize) -> Rows<T> {
        self.align(SWIZZLE_BYTES);
        Rows { tile: self.tile(n * BOX_ROW_BYTES / size_of::<T>()), first: 0 }
    }
}

impl<T: Element> Rows<T> {
    const COLS: usize = BOX_ROW_BYTES / size_of::<T>();
    const PER_PIECE: usize = PIECE_BYTES / size_of::<T>();

    #[track_caller]
    pub fn at_row(self, row: usize) -> Self {
        let first = self.first + row;
        if !first.is_multiple_of(SWIZZLE_ROWS) {
            let (view, index) = (self.tile.view(), first * Self::COLS);
            let fault = Fault::Misaligned { view, index, access_bytes: SWIZZLE_BYTES };
            current().violate(fault, Location::caller());
        }
        Rows { first, ..self }
    }

    /// Checks that so many rows are there.
    #[track_caller]
    pub fn check_rows(self, n: usize) {
        let (index, count, len) = (self.first * Self::COLS, n * Self::COLS, self.tile.len());
        if index + count > len {
            let fault = Fault::OutOfBounds { view: self.tile.view(), index, count, len };
            current().violate(fault, Location::caller());
        }
    }

    /// Element of the tile at which a piece of a row lies.
    fn element_of(self, row: usize, piece: usize) -> usize {
        let row = self.first + row;
        row * Self::COLS + (piece ^ (row % SWIZZLE_ROWS)) * Self::PER_PIECE
    }

    /// Where a piece of a row lies.
    pub fn piece(self, row: usize, piece: usize) -> Piece {
        let index = self.element_of(row, piece);
        Piece { view: self.tile.view(), index, start: self.tile.start(index) }
    }

    fn bytes_of(piece: Piece) -> *mut [u8; PIECE_BYTES] {
        current().block().shared.wrapping_add(piece.start).cast()
    }
}

impl<T: Element> Rows<T> {
    #[inline(always)]
    #[track_caller]
    pub fn set(self, row: usize, col: usize, value: T) {
        let (piece, place) = (col / Self::PER_PIECE % PIECES, col % Self::PER_PIECE);
        self.tile.store::<1>(self.element_of(row, piece) + place, [value]);
    }
}

/// Bits of a handle: the KiB at which the tile starts, the first row, the tile's number.
const FIRST_SHIFT: u32 = 8;
const NUMBER_SHIFT: u32 = 20;

impl<T: Operand> Rows<T> {
    /// The rows as a register holds them.
    pub fn handle(self) -> u32 {
        let View::Tile(number) = self.tile.view() else { unreachable!("rows lie in a tile") };
        let start = (self.tile.start(0) / SWIZZLE_BYTES) as u32;
        start | (self.first as u32) << FIRST_SHIFT | number << NUMBER_SHIFT
    }
}

/// Where a piece of a row of 16-bit elements lies, by the rows' handle.
pub fn piece_of(handle: u32, row: usize, piece: usize) -> Piece {
    let first = (handle >> FIRST_SHIFT) as usize % (1 << (NUMBER_SHIFT - FIRST_SHIFT));
    let row = first + row;
    let byte = row * BOX_ROW_BYTES + (piece ^ (row % SWIZZLE_ROWS)) * PIECE_BYTES;
    let start = handle as usize % (1 << FIRST_SHIFT) * SWIZZLE_BYTES + byte;
    Piece { view: View::Tile(handle >> NUMBER_SHIFT), index: byte / 2, start }
}

impl<T: Bits16> Rows<T> {
    #[track_caller]
    pub fn stmatrix_x4(self, row: usize, piece: usize, values: [u32; 4]) {
        self.tile.stmatrix::<4>(self.element_of(row, piece % PIECES), values, false);
    }
}

impl TensorMap {
    /// Parameter `index` of the running launch.
    pub fn of_param(index: usize) -> Self {
        let param = current().launched().param(index);
        let matrix = param.matrix.expect("bound as a matrix");
        Self { param, matrix }
    }

    fn param(&self) -> &Param {
        // SAFETY: the parameters live as long as the launch, for which alone maps are made.
        unsafe { &*self.param }
    }

    pub fn prefetch(self) {}

    #[track_caller]
    pub fn load<T: Element>(self, dst: Rows<T>, barriers: Barriers, i: usize, row: u32, col: u32) {
        self.load_to(&[current().block()], dst, (barriers, i), (row, col), Location::caller());
    }

    #[track_caller]
    pub fn load_multicast<T: Element>(
        self,
        dst: Rows<T>,
        barriers: Barriers,
        i: usize,
        (row, col): (u32, u32),
        mask: u16,
    ) {
        let (thread, location) = (current(), Location::caller());
        let ranks = (0..u16::BITS).filter(|rank| mask >> rank & 1 == 1);
        let blocks: Vec<&BlockState> = ranks.map(|rank| thread.peer(rank, location)).collect();
        self.load_to(&blocks, dst, (barriers, i), (row, col), location);
    }

    /// Loads a box to the same place in the shared memory of each of these blocks.
    #[track_caller]
    fn load_to<T: Element>(
        self,
        blocks: &[&BlockState],
        dst: Rows<T>,
        (barriers, i): (Barriers, usize),
        (row, col): (u32, u32),
        location: &'static Location<'static>,
    ) {
        let n_rows = self.matrix.box_rows as usize;
        dst.check_rows(n_rows);
        let thread = current();
        let checked = thread.launched().checked;
        let agent = place(thread.rank, COPY_ENGINE);
        let time = if checked { thread.block().clock.agent_acts(agent) } else { 0 };
        for r in 0..n_rows {
            let mut values = vec![T::ZERO; Rows::<T>::COLS];
            let n = self.in_matrix::<T>(row as usize + r, col as usize);
            if n > 0 {
                let first = self.element::<T>(row as usize + r, col as usize);
                self.check::<T>(time, Access::Read, first, n, location);
                for (j, value) in values[..n].iter_mut().enumerate() {
                    // SAFETY: an element of the matrix, which lies in the parameter's span.
                    *value = unsafe { read_shared_between_threads::<T, 1>(self.address::<T>(first + j)) }[0];
                }
            }
            for (p, values) in values.chunks_exact(Rows::<T>::PER_PIECE).enumerate() {
                let piece = dst.piece(r, p);
                for block in blocks {
                    if checked {
                        block.shadow.engine_writes(thread, time, piece, location);
                    }
                    let bytes: *mut T = block.shared.wrapping_add(piece.start).cast();
                    // SAFETY: 16 bytes of the tile (`check_rows`), which lies at the same place in every block; all
                    // blocks of the cluster run on this thread of the machine.
                    unsafe { bytes.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
                }
            }
        }
        for block in blocks {
            if checked {
                block.cluster.touch(agent, time);
            }
            barriers.copied(block, i, (n_rows * BOX_ROW_BYTES) as u32, (agent, time + 1));
        }
    }

    #[track_caller]
    pub fn store<T: Element>(self, src: Rows<T>, row: u32, col: u32) {
        let n_rows = self.matrix.box_rows as usize;
        src.check_rows(n_rows);
        let (thread, location) = (current(), Location::caller());
        let checked = thread.launched().checked;
        let clock = &thread.block().clock;
        let time = if checked { clock.agent_acts(place(thread.rank, COPY_ENGINE)) } else { 0 };
        let known = clock.known_to(thread.warp());
        for r in 0..n_rows {
            let mut values = Vec::with_capacity(Rows::<T>::COLS);
            for p in 0..PIECES {
                let piece = src.piece(r, p);
                if checked
                    && let Err(fault) =
                        thread.block().shadow.agent_reads(thread, (COPY_ENGINE, time), &known, piece)
                {
                    thread.violate(fault, location);
                }
                let place = Rows::<T>::bytes_of(piece).cast::<T>();
                // SAFETY: 16 bytes of the tile (`check_rows`), whose block runs on this thread of the machine.
                values.extend((0..Rows::<T>::PER_PIECE).map(|j| unsafe { place.add(j).read() }));
            }
            let n = self.in_matrix::<T>(row as usize + r, col as usize);
            if n > 0 {
                let first = self.element::<T>(row as usize + r, col as usize);
                self.check::<T>(time, Access::Write, first, n, location);
                for (j, value) in values[..n].iter().enumerate() {
                    // SAFETY: an element of the matrix, which lies in the parameter's span.
                    unsafe { write_shared_between_threads(self.address::<T>(first + j), [*value]) };
                }
            }
        }
        thread.agents.stores.add(time + 1);
    }

    /// Elements of a box's row, from a column on, that lie in the matrix.
    fn in_matrix<T: Element>(self, row: usize, col: usize) -> usize {
        let cols = (self.matrix.cols as usize).saturating_sub(col).min(Rows::<T>::COLS);
        if row < self.matrix.rows as usize { cols } else { 0 }
    }

    /// An element's index in the parameter's span.
    fn element<T: Element>(self, row: usize, col: usize) -> usize {
        row * (self.matrix.stride_bytes as usize / size_of::<T>()) + col
    }

    fn address<T: Element>(self, index: usize) -> *mut u8 {
        self.param().base.wrapping_add(index * size_of::<T>())
    }

    fn check<T: Element>(
        self,
        time: u32,
        access: Access,
        index: usize,
        count: usize,
        location: &'static Location<'static>,
    ) {
        if self.param().watched {
            let access = GlobalAccess { access, index, count, element_bytes: size_of::<T>() };
            check_copied(current(), time, self.param(), access, location);
        }
    }
}

pub fn fence_barrier_init() {
    let thread = current();
    if thread.launched().checked {
        thread.block().clock.publish(thread.warp());
    }
}

pub fn fence_proxy_async() {
    let thread = current();
    if thread.launched().checked {
        thread.block().clock.fence(thread.warp());
    }
}

pub fn commit_stores() {
    current().agents.stores.commit();
}

pub fn wait_stores_read<const PENDING: u32>() {
    let thread = current();
    let done = thread.agents.stores.wait(PENDING as usize);
    if thread.launched().checked {
        thread.block().clock.learn_time(thread.warp(), place(thread.rank, COPY_ENGINE), done);
    }
}
