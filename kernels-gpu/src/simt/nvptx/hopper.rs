//! Words of Hopper alone: barriers in shared memory, the copy engine, matrix products of a warpgroup.
//!
//! All of it is inline assembly with side effects, so that LLVM neither moves nor copies it (the build marks it
//! `convergent`).

use core::arch::asm;
use core::mem::MaybeUninit;

use super::memory::{Carver, Local, shared_address};
use crate::simt::wgmma::Operand;
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
    fn address(self) -> u32 {
        shared_address(self.0.element(0))
    }

    /// The descriptor of a K-major operand from K-element `k` on: 128-byte swizzle (1 at bit 62), 1024 bytes from one
    /// group of 8 rows to the next (bit 32); the leading offset (bit 16) does not count for swizzled operands.
    #[inline(always)]
    fn descriptor(self, k: usize) -> u64 {
        const CONSTANT: u64 = 1 << 62 | (1024 >> 4) << 32 | 1 << 16;
        let address = self.address() + (k * size_of::<T>()) as u32;
        CONSTANT | u64::from(address >> 4 & 0x3fff)
    }
}

impl<T: Element> Rows<T> {
    /// The descriptor of an operand whose rows are K-elements, from row `k` on: 1024 bytes from one group of 8 rows to the
    /// next (bit 32), `tile_rows` rows from one 64 columns to the next (bit 16).
    #[inline(always)]
    fn transposed_descriptor(self, tile_rows: usize, k: usize) -> u64 {
        let tiles_apart = (tile_rows as u64 * u64::from(ROW_BYTES)) >> 4;
        let address = self.address() + k as u32 * ROW_BYTES;
        1 << 62 | (1024 >> 4) << 32 | tiles_apart << 16 | u64::from(address >> 4 & 0x3fff)
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
    fn address(self, i: usize) -> u32 {
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

/// Nothing but a place in the order of things: the operands are made before it.
#[rustfmt::skip]
#[inline(always)]
pub fn fence_operands(operands: &mut [[u32; 4]; 8]) {
    // SAFETY: no instruction.
    unsafe {
        asm!(
            "// {o0} {o1} {o2} {o3} {o4} {o5} {o6} {o7} {o8} {o9} {o10} {o11} {o12} {o13} {o14} {o15} {o16} {o17} {o18} {o19} {o20} {o21} {o22} {o23} {o24} {o25} {o26} {o27} {o28} {o29} {o30} {o31}",
            o0 = inout(reg32) operands[0][0],
            o1 = inout(reg32) operands[0][1],
            o2 = inout(reg32) operands[0][2],
            o3 = inout(reg32) operands[0][3],
            o4 = inout(reg32) operands[1][0],
            o5 = inout(reg32) operands[1][1],
            o6 = inout(reg32) operands[1][2],
            o7 = inout(reg32) operands[1][3],
            o8 = inout(reg32) operands[2][0],
            o9 = inout(reg32) operands[2][1],
            o10 = inout(reg32) operands[2][2],
            o11 = inout(reg32) operands[2][3],
            o12 = inout(reg32) operands[3][0],
            o13 = inout(reg32) operands[3][1],
            o14 = inout(reg32) operands[3][2],
            o15 = inout(reg32) operands[3][3],
            o16 = inout(reg32) operands[4][0],
            o17 = inout(reg32) operands[4][1],
            o18 = inout(reg32) operands[4][2],
            o19 = inout(reg32) operands[4][3],
            o20 = inout(reg32) operands[5][0],
            o21 = inout(reg32) operands[5][1],
            o22 = inout(reg32) operands[5][2],
            o23 = inout(reg32) operands[5][3],
            o24 = inout(reg32) operands[6][0],
            o25 = inout(reg32) operands[6][1],
            o26 = inout(reg32) operands[6][2],
            o27 = inout(reg32) operands[6][3],
            o28 = inout(reg32) operands[7][0],
            o29 = inout(reg32) operands[7][1],
            o30 = inout(reg32) operands[7][2],
            o31 = inout(reg32) operands[7][3],
            options(nostack),
        );
    }
}

#[inline(always)]
pub fn release_registers<const N: u32>() {
    // SAFETY: the compiler of the PTX checks that the warpgroup's code needs no more.
    unsafe { asm!("setmaxnreg.dec.sync.aligned.u32 {n};", n = const N, options(nostack)) }
}

#[inline(always)]
pub fn take_registers<const N: u32>() {
    // SAFETY: as in `release_registers`; waits until they are free.
    unsafe { asm!("setmaxnreg.inc.sync.aligned.u32 {n};", n = const N, options(nostack)) }
}

/// Results of a warpgroup's matrix product, 64 rows by `2 * LEN` columns: `LEN` of them in each thread.
pub struct Accumulators<const LEN: usize>([f32; LEN]);

macro_rules! wgmma {
    ($name:ident, $registers:ident, $fence:ident, $wait:ident, $len:literal, $shape:literal, $first:ident = $first_i:literal $(, $d:ident = $i:literal)*) => {
        /// One product of 64 x 16 by 16 x N.
        ///
        /// # Safety
        /// All threads of the warpgroup come here; the descriptors are those of operands in shared memory.
        #[inline(always)]
        unsafe fn $name<T: Operand>(acc: &mut [f32; $len], a: u64, b: u64, add: u32) {
            macro_rules! say {
                ($types:literal) => {
                    asm!(
                        concat!(
                            "{{ .reg .pred add; setp.ne.b32 add, {add}, 0; wgmma.mma_async.sync.aligned.", $shape, $types,
                            " {{{", stringify!($first), "}", $(", {", stringify!($d), "}",)*
                            "}}, {a}, {b}, add, 1, 1, 0, 0; }}"
                        ),
                        a = in(reg64) a,
                        b = in(reg64) b,
                        add = in(reg32) add,
                        $first = inout(reg32) acc[$first_i],
                        $($d = inout(reg32) acc[$i],)*
                        options(nostack),
                    )
                };
            }
            // SAFETY: the caller's promise.
            unsafe {
                if T::IS_BF16 {
                    say!(".f32.bf16.bf16");
                } else {
                    say!(".f32.f16.f16");
                }
            }
        }

        /// One product of 64 x 16 in registers by 16 x N in shared memory, whose rows are K-elements; it is added.
        ///
        /// # Safety
        /// As above.
        #[inline(always)]
        unsafe fn $registers<T: Operand>(acc: &mut [f32; $len], a: [u32; 4], b: u64) {
            macro_rules! say {
                ($types:literal) => {
                    asm!(
                        concat!(
                            "wgmma.mma_async.sync.aligned.", $shape, $types,
                            " {{{", stringify!($first), "}", $(", {", stringify!($d), "}",)*
                            "}}, {{{a0}, {a1}, {a2}, {a3}}}, {b}, 1, 1, 1, 1;"
                        ),
                        a0 = in(reg32) a[0],
                        a1 = in(reg32) a[1],
                        a2 = in(reg32) a[2],
                        a3 = in(reg32) a[3],
                        b = in(reg64) b,
                        $first = inout(reg32) acc[$first_i],
                        $($d = inout(reg32) acc[$i],)*
                        options(nostack),
                    )
                };
            }
            // SAFETY: the caller's promise.
            unsafe {
                if T::IS_BF16 {
                    say!(".f32.bf16.bf16");
                } else {
                    say!(".f32.f16.f16");
                }
            }
        }

        /// Orders register accesses before products; the operands keep every use before it.
        #[inline(always)]
        fn $fence(acc: &mut [f32; $len]) {
            // SAFETY: orders; touches no memory.
            unsafe {
                asm!(
                    concat!("wgmma.fence.sync.aligned; // {", stringify!($first), "}", $(" {", stringify!($d), "}",)*),
                    $first = inout(reg32) acc[$first_i],
                    $($d = inout(reg32) acc[$i],)*
                    options(nostack),
                );
            }
        }

        /// Waits for products; the operands keep every use of the results behind it.
        #[inline(always)]
        fn $wait<const PENDING: u32>(acc: &mut [f32; $len]) {
            // SAFETY: waits; touches no memory.
            unsafe {
                asm!(
                    concat!("wgmma.wait_group.sync.aligned {pending}; // {", stringify!($first), "}", $(" {", stringify!($d), "}",)*),
                    pending = const PENDING,
                    $first = inout(reg32) acc[$first_i],
                    $($d = inout(reg32) acc[$i],)*
                    options(nostack),
                );
            }
        }
    };
}

#[rustfmt::skip]
wgmma!(
    wgmma_n64, registers_n64, fence_n64, wait_n64, 32, "m64n64k16",
    d0 = 0, d1 = 1, d2 = 2, d3 = 3, d4 = 4, d5 = 5, d6 = 6, d7 = 7, d8 = 8, d9 = 9, d10 = 10, d11 = 11,
    d12 = 12, d13 = 13, d14 = 14, d15 = 15, d16 = 16, d17 = 17, d18 = 18, d19 = 19, d20 = 20, d21 = 21,
    d22 = 22, d23 = 23, d24 = 24, d25 = 25, d26 = 26, d27 = 27, d28 = 28, d29 = 29, d30 = 30, d31 = 31
);

#[rustfmt::skip]
wgmma!(
    wgmma_n96, registers_n96, fence_n96, wait_n96, 48, "m64n96k16",
    d0 = 0, d1 = 1, d2 = 2, d3 = 3, d4 = 4, d5 = 5, d6 = 6, d7 = 7, d8 = 8, d9 = 9, d10 = 10, d11 = 11,
    d12 = 12, d13 = 13, d14 = 14, d15 = 15, d16 = 16, d17 = 17, d18 = 18, d19 = 19, d20 = 20, d21 = 21,
    d22 = 22, d23 = 23, d24 = 24, d25 = 25, d26 = 26, d27 = 27, d28 = 28, d29 = 29, d30 = 30, d31 = 31,
    d32 = 32, d33 = 33, d34 = 34, d35 = 35, d36 = 36, d37 = 37, d38 = 38, d39 = 39, d40 = 40, d41 = 41,
    d42 = 42, d43 = 43, d44 = 44, d45 = 45, d46 = 46, d47 = 47
);

#[rustfmt::skip]
wgmma!(
    wgmma_n128, registers_n128, fence_n128, wait_n128, 64, "m64n128k16",
    d0 = 0, d1 = 1, d2 = 2, d3 = 3, d4 = 4, d5 = 5, d6 = 6, d7 = 7, d8 = 8, d9 = 9, d10 = 10, d11 = 11,
    d12 = 12, d13 = 13, d14 = 14, d15 = 15, d16 = 16, d17 = 17, d18 = 18, d19 = 19, d20 = 20, d21 = 21,
    d22 = 22, d23 = 23, d24 = 24, d25 = 25, d26 = 26, d27 = 27, d28 = 28, d29 = 29, d30 = 30, d31 = 31,
    d32 = 32, d33 = 33, d34 = 34, d35 = 35, d36 = 36, d37 = 37, d38 = 38, d39 = 39, d40 = 40, d41 = 41,
    d42 = 42, d43 = 43, d44 = 44, d45 = 45, d46 = 46, d47 = 47, d48 = 48, d49 = 49, d50 = 50, d51 = 51,
    d52 = 52, d53 = 53, d54 = 54, d55 = 55, d56 = 56, d57 = 57, d58 = 58, d59 = 59, d60 = 60, d61 = 61,
    d62 = 62, d63 = 63
);

#[rustfmt::skip]
wgmma!(
    wgmma_n192, registers_n192, fence_n192, wait_n192, 96, "m64n192k16",
    d0 = 0, d1 = 1, d2 = 2, d3 = 3, d4 = 4, d5 = 5, d6 = 6, d7 = 7, d8 = 8, d9 = 9, d10 = 10, d11 = 11,
    d12 = 12, d13 = 13, d14 = 14, d15 = 15, d16 = 16, d17 = 17, d18 = 18, d19 = 19, d20 = 20, d21 = 21,
    d22 = 22, d23 = 23, d24 = 24, d25 = 25, d26 = 26, d27 = 27, d28 = 28, d29 = 29, d30 = 30, d31 = 31,
    d32 = 32, d33 = 33, d34 = 34, d35 = 35, d36 = 36, d37 = 37, d38 = 38, d39 = 39, d40 = 40, d41 = 41,
    d42 = 42, d43 = 43, d44 = 44, d45 = 45, d46 = 46, d47 = 47, d48 = 48, d49 = 49, d50 = 50, d51 = 51,
    d52 = 52, d53 = 53, d54 = 54, d55 = 55, d56 = 56, d57 = 57, d58 = 58, d59 = 59, d60 = 60, d61 = 61,
    d62 = 62, d63 = 63, d64 = 64, d65 = 65, d66 = 66, d67 = 67, d68 = 68, d69 = 69, d70 = 70, d71 = 71,
    d72 = 72, d73 = 73, d74 = 74, d75 = 75, d76 = 76, d77 = 77, d78 = 78, d79 = 79, d80 = 80, d81 = 81,
    d82 = 82, d83 = 83, d84 = 84, d85 = 85, d86 = 86, d87 = 87, d88 = 88, d89 = 89, d90 = 90, d91 = 91,
    d92 = 92, d93 = 93, d94 = 94, d95 = 95
);

#[rustfmt::skip]
wgmma!(
    wgmma_n224, registers_n224, fence_n224, wait_n224, 112, "m64n224k16",
    d0 = 0, d1 = 1, d2 = 2, d3 = 3, d4 = 4, d5 = 5, d6 = 6, d7 = 7, d8 = 8, d9 = 9, d10 = 10, d11 = 11,
    d12 = 12, d13 = 13, d14 = 14, d15 = 15, d16 = 16, d17 = 17, d18 = 18, d19 = 19, d20 = 20, d21 = 21,
    d22 = 22, d23 = 23, d24 = 24, d25 = 25, d26 = 26, d27 = 27, d28 = 28, d29 = 29, d30 = 30, d31 = 31,
    d32 = 32, d33 = 33, d34 = 34, d35 = 35, d36 = 36, d37 = 37, d38 = 38, d39 = 39, d40 = 40, d41 = 41,
    d42 = 42, d43 = 43, d44 = 44, d45 = 45, d46 = 46, d47 = 47, d48 = 48, d49 = 49, d50 = 50, d51 = 51,
    d52 = 52, d53 = 53, d54 = 54, d55 = 55, d56 = 56, d57 = 57, d58 = 58, d59 = 59, d60 = 60, d61 = 61,
    d62 = 62, d63 = 63, d64 = 64, d65 = 65, d66 = 66, d67 = 67, d68 = 68, d69 = 69, d70 = 70, d71 = 71,
    d72 = 72, d73 = 73, d74 = 74, d75 = 75, d76 = 76, d77 = 77, d78 = 78, d79 = 79, d80 = 80, d81 = 81,
    d82 = 82, d83 = 83, d84 = 84, d85 = 85, d86 = 86, d87 = 87, d88 = 88, d89 = 89, d90 = 90, d91 = 91,
    d92 = 92, d93 = 93, d94 = 94, d95 = 95, d96 = 96, d97 = 97, d98 = 98, d99 = 99, d100 = 100, d101 = 101,
    d102 = 102, d103 = 103, d104 = 104, d105 = 105, d106 = 106, d107 = 107, d108 = 108, d109 = 109,
    d110 = 110, d111 = 111
);

#[rustfmt::skip]
wgmma!(
    wgmma_n256, registers_n256, fence_n256, wait_n256, 128, "m64n256k16",
    d0 = 0, d1 = 1, d2 = 2, d3 = 3, d4 = 4, d5 = 5, d6 = 6, d7 = 7, d8 = 8, d9 = 9, d10 = 10, d11 = 11,
    d12 = 12, d13 = 13, d14 = 14, d15 = 15, d16 = 16, d17 = 17, d18 = 18, d19 = 19, d20 = 20, d21 = 21,
    d22 = 22, d23 = 23, d24 = 24, d25 = 25, d26 = 26, d27 = 27, d28 = 28, d29 = 29, d30 = 30, d31 = 31,
    d32 = 32, d33 = 33, d34 = 34, d35 = 35, d36 = 36, d37 = 37, d38 = 38, d39 = 39, d40 = 40, d41 = 41,
    d42 = 42, d43 = 43, d44 = 44, d45 = 45, d46 = 46, d47 = 47, d48 = 48, d49 = 49, d50 = 50, d51 = 51,
    d52 = 52, d53 = 53, d54 = 54, d55 = 55, d56 = 56, d57 = 57, d58 = 58, d59 = 59, d60 = 60, d61 = 61,
    d62 = 62, d63 = 63, d64 = 64, d65 = 65, d66 = 66, d67 = 67, d68 = 68, d69 = 69, d70 = 70, d71 = 71,
    d72 = 72, d73 = 73, d74 = 74, d75 = 75, d76 = 76, d77 = 77, d78 = 78, d79 = 79, d80 = 80, d81 = 81,
    d82 = 82, d83 = 83, d84 = 84, d85 = 85, d86 = 86, d87 = 87, d88 = 88, d89 = 89, d90 = 90, d91 = 91,
    d92 = 92, d93 = 93, d94 = 94, d95 = 95, d96 = 96, d97 = 97, d98 = 98, d99 = 99, d100 = 100, d101 = 101,
    d102 = 102, d103 = 103, d104 = 104, d105 = 105, d106 = 106, d107 = 107, d108 = 108, d109 = 109,
    d110 = 110, d111 = 111, d112 = 112, d113 = 113, d114 = 114, d115 = 115, d116 = 116, d117 = 117,
    d118 = 118, d119 = 119, d120 = 120, d121 = 121, d122 = 122, d123 = 123, d124 = 124, d125 = 125,
    d126 = 126, d127 = 127
);

impl<const LEN: usize> Accumulators<LEN> {
    #[inline(always)]
    pub fn zero() -> Self {
        // Not `[0.0; LEN]`: that is a loop over memory until LLVM unrolls it.
        // SAFETY: zero is a number.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }

    #[inline(always)]
    pub fn get(&self, i: usize) -> f32 {
        self.0[i]
    }

    #[inline(always)]
    pub fn fence(&mut self) {
        // SAFETY: the array has this length.
        unsafe {
            match LEN {
                32 => fence_n64(&mut *(&raw mut self.0).cast()),
                48 => fence_n96(&mut *(&raw mut self.0).cast()),
                64 => fence_n128(&mut *(&raw mut self.0).cast()),
                96 => fence_n192(&mut *(&raw mut self.0).cast()),
                112 => fence_n224(&mut *(&raw mut self.0).cast()),
                _ => fence_n256(&mut *(&raw mut self.0).cast()),
            }
        }
    }

    #[inline(always)]
    pub fn mma<T: Operand>(&mut self, a: Rows<T>, b: Rows<T>, k: usize, add: bool) {
        let (a, b, add) = (a.descriptor(k), b.descriptor(k), u32::from(add));
        // SAFETY: that the warpgroup comes here together, with operands that lie in the tiles, is the kernel's promise,
        // which the emulator checks.
        unsafe {
            match LEN {
                32 => wgmma_n64::<T>(&mut *(&raw mut self.0).cast(), a, b, add),
                48 => wgmma_n96::<T>(&mut *(&raw mut self.0).cast(), a, b, add),
                64 => wgmma_n128::<T>(&mut *(&raw mut self.0).cast(), a, b, add),
                96 => wgmma_n192::<T>(&mut *(&raw mut self.0).cast(), a, b, add),
                112 => wgmma_n224::<T>(&mut *(&raw mut self.0).cast(), a, b, add),
                _ => wgmma_n256::<T>(&mut *(&raw mut self.0).cast(), a, b, add),
            }
        }
    }

    #[inline(always)]
    pub fn mma_registers<T: Operand>(&mut self, a: [u32; 4], b: Rows<T>, tile_rows: usize, k: usize) {
        let b = b.transposed_descriptor(tile_rows, k);
        // SAFETY: as in `mma`.
        unsafe {
            match LEN {
                32 => registers_n64::<T>(&mut *(&raw mut self.0).cast(), a, b),
                48 => registers_n96::<T>(&mut *(&raw mut self.0).cast(), a, b),
                64 => registers_n128::<T>(&mut *(&raw mut self.0).cast(), a, b),
                96 => registers_n192::<T>(&mut *(&raw mut self.0).cast(), a, b),
                112 => registers_n224::<T>(&mut *(&raw mut self.0).cast(), a, b),
                _ => registers_n256::<T>(&mut *(&raw mut self.0).cast(), a, b),
            }
        }
    }

    #[inline(always)]
    pub fn set(&mut self, i: usize, value: f32) {
        self.0[i] = value;
    }

    #[inline(always)]
    pub fn commit(&mut self) {
        // SAFETY: closes the group of products; touches no memory.
        unsafe { asm!("wgmma.commit_group.sync.aligned;", options(nostack)) }
    }

    #[inline(always)]
    pub fn wait_but<const PENDING: u32>(&mut self) {
        // SAFETY: waits; touches no memory.
        unsafe { asm!("wgmma.wait_group.sync.aligned {n};", n = const PENDING, options(nostack)) }
    }

    #[inline(always)]
    pub fn finish_but<const PENDING: u32>(&mut self) {
        // SAFETY: the array has this length.
        unsafe {
            match LEN {
                32 => wait_n64::<PENDING>(&mut *(&raw mut self.0).cast()),
                48 => wait_n96::<PENDING>(&mut *(&raw mut self.0).cast()),
                64 => wait_n128::<PENDING>(&mut *(&raw mut self.0).cast()),
                96 => wait_n192::<PENDING>(&mut *(&raw mut self.0).cast()),
                112 => wait_n224::<PENDING>(&mut *(&raw mut self.0).cast()),
                _ => wait_n256::<PENDING>(&mut *(&raw mut self.0).cast()),
            }
        }
    }
}
