//! Words of Hopper alone: barriers in shared memory, and the copy engine.
//!
//! All of it is inline assembly with side effects, so that LLVM neither moves nor copies it (the build marks it
//! `convergent`).

use core::arch::asm;

use super::memory::{Carver, Local, shared_address};
use crate::simt::{Bits16, Element};

/// Bytes at a multiple of which the swizzle of a tile starts.
const SWIZZLE_BYTES: usize = 1024;
/// Bytes of a tile's row.
const ROW_BYTES: u32 = 128;

/// Rows of 128 bytes in shared memory.
#[derive(Clone, Copy)]
pub struct Rows<T>(Local<T>);

/// `mbarrier` objects in shared memory.
#[derive(Clone, Copy)]
pub struct Barriers(Local<u64>);

/// A kernel's parameter: a `CUtensorMap`, which the build makes a parameter by value.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct TensorMap(*const u8);

impl Carver {
    #[inline(always)]
    pub fn rows<T: Element>(&mut self, n: usize) -> Rows<T> {
        self.align(SWIZZLE_BYTES);
        Rows(self.tile(n * ROW_BYTES as usize / size_of::<T>()))
    }

    #[inline(always)]
    pub fn barriers(&mut self, n: usize) -> Barriers {
        Barriers(self.tile(n))
    }
}

impl<T: Element> Rows<T> {
    #[inline(always)]
    pub fn at_row(self, row: usize) -> Self {
        Rows(self.0.skip(row * ROW_BYTES as usize / size_of::<T>()))
    }

    #[inline(always)]
    pub(super) fn address(self) -> u32 {
        shared_address(self.0.element(0))
    }

    /// The descriptor of a K-major operand from K-element `k` on: 128-byte swizzle (1 at bit 62), 1024 bytes from one
    /// group of 8 rows to the next (bit 32); the leading offset (bit 16) does not count for swizzled operands. Shared memory
    /// ends long before the address would carry into it, so neighbours differ by an addition to the lower word.
    #[inline(always)]
    pub(super) fn descriptor(self, k: usize) -> u64 {
        const UPPER: u64 = (1 << 30 | 1024 >> 4) << 32;
        let first = (self.address() >> 4 & 0x3fff) | 1 << 16;
        UPPER | u64::from(first + ((k * size_of::<T>()) >> 4) as u32)
    }
}

impl<T: Element> Rows<T> {
    /// The descriptor of an operand whose rows are K-elements, from row `k` on: 1024 bytes from one group of 8 rows to the
    /// next (bit 32), `tile_rows` rows from one 64 columns to the next (bit 16).
    #[inline(always)]
    pub(super) fn transposed_descriptor(self, tile_rows: usize, k: usize) -> u64 {
        let tiles_apart = (tile_rows as u64 * u64::from(ROW_BYTES)) >> 4;
        let address = self.address() + k as u32 * ROW_BYTES;
        1 << 62 | (1024 >> 4) << 32 | tiles_apart << 16 | u64::from(address >> 4 & 0x3fff)
    }
}

impl<T: Element> Rows<T> {
    #[inline(always)]
    pub fn set(self, row: usize, col: usize, value: T) {
        let (cols, per_piece) = (ROW_BYTES as usize / size_of::<T>(), 16 / size_of::<T>());
        let place = (col / per_piece ^ row % 8) * per_piece + col % per_piece;
        self.0.store::<1>(row * cols + place, [value]);
    }
}

impl<T: Bits16> Rows<T> {
    #[inline(always)]
    pub fn stmatrix_x4(self, row: usize, piece: usize, values: [u32; 4]) {
        let start = row * ROW_BYTES as usize / 2 + ((piece ^ row) & 7) * 8;
        self.0.stmatrix::<4>(start, values, false);
    }
}

impl Barriers {
    #[inline(always)]
    pub(super) fn address(self, i: usize) -> u32 {
        shared_address(self.0.element(i))
    }

    #[inline(always)]
    pub fn init(self, i: usize, arrivals: u32) {
        // SAFETY: a barrier of the kernel's own; the emulator checks that nobody uses it yet.
        unsafe {
            asm!(
                "mbarrier.init.shared::cta.b64 [{barrier}], {arrivals};",
                barrier = in(reg32) self.address(i),
                arrivals = in(reg32) arrivals,
                options(nostack),
            );
        }
    }

    #[inline(always)]
    pub fn arrive(self, i: usize) {
        // SAFETY: an initialised barrier, which the emulator checks.
        unsafe {
            asm!(
                "mbarrier.arrive.shared::cta.b64 _, [{barrier}];",
                barrier = in(reg32) self.address(i),
                options(nostack),
            );
        }
    }

    #[inline(always)]
    pub fn arrive_expect(self, i: usize, bytes: u32) {
        // SAFETY: as in `arrive`.
        unsafe {
            asm!(
                "mbarrier.arrive.expect_tx.shared::cta.b64 _, [{barrier}], {bytes};",
                barrier = in(reg32) self.address(i),
                bytes = in(reg32) bytes,
                options(nostack),
            );
        }
    }

    #[inline(always)]
    #[allow(named_asm_labels)] // Local to the braces in PTX.
    pub fn wait(self, i: usize, parity: u32) {
        // SAFETY: as in `arrive`. The instruction waits for some time; the loop, for as long as it takes.
        unsafe {
            asm!(
                "{{",
                ".reg .pred done;",
                "again:",
                "mbarrier.try_wait.parity.shared::cta.b64 done, [{barrier}], {parity};",
                "@!done bra again;",
                "}}",
                barrier = in(reg32) self.address(i),
                parity = in(reg32) parity,
                options(nostack),
            );
        }
    }
}

#[inline(always)]
pub fn fence_barrier_init() {
    // SAFETY: orders this thread's initialisations before what the copy engine does; touches no memory.
    unsafe { asm!("fence.mbarrier_init.release.cluster;", options(nostack)) }
}

#[inline(always)]
pub fn fence_proxy_async() {
    // SAFETY: orders this thread's accesses before those of the copy engine and of wgmma.
    unsafe { asm!("fence.proxy.async.shared::cta;", options(nostack)) }
}

impl TensorMap {
    #[inline(always)]
    pub(super) fn address(self) -> u64 {
        self.0 as u64
    }

    #[inline(always)]
    pub fn prefetch(self) {
        // SAFETY: a parameter of the kernel; a hint.
        unsafe { asm!("prefetch.tensormap [{map}];", map = in(reg64) self.0 as u64, options(nostack)) }
    }

    #[inline(always)]
    pub fn load<T: Element>(self, dst: Rows<T>, barriers: Barriers, i: usize, row: u32, col: u32) {
        // SAFETY: the map describes live memory (the host's promise); that the box fits into the tile and that the
        // barrier is initialised is the kernel's promise, which the emulator checks.
        unsafe {
            asm!(
                "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [{dst}], [{map}, {{{col}, {row}}}], [{barrier}];",
                dst = in(reg32) dst.address(),
                map = in(reg64) self.0 as u64,
                col = in(reg32) col,
                row = in(reg32) row,
                barrier = in(reg32) barriers.address(i),
                options(nostack),
            );
        }
    }

    #[inline(always)]
    pub fn store<T: Element>(self, src: Rows<T>, row: u32, col: u32) {
        // SAFETY: as in `load`.
        unsafe {
            asm!(
                "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [{map}, {{{col}, {row}}}], [{src}];",
                map = in(reg64) self.0 as u64,
                col = in(reg32) col,
                row = in(reg32) row,
                src = in(reg32) src.address(),
                options(nostack),
            );
        }
    }
}

#[inline(always)]
pub fn commit_stores() {
    // SAFETY: closes the group of this thread's stores; touches no memory.
    unsafe { asm!("cp.async.bulk.commit_group;", options(nostack)) }
}

#[inline(always)]
pub fn wait_stores_read<const PENDING: u32>() {
    // SAFETY: waits; touches no memory.
    unsafe { asm!("cp.async.bulk.wait_group.read {n};", n = const PENDING, options(nostack)) }
}
