//! Matrix products of a warpgroup, as inline assembly with side effects (see `hopper.rs`).

use core::arch::asm;
use core::mem::MaybeUninit;

use super::hopper::Rows;
use crate::simt::wgmma::Operand;

/// Nothing but a place in the order of things: the operands are made before it.
#[inline(always)]
pub fn fence_operands<const N: usize>(operands: &mut [[u32; 4]; N]) {
    for [a, b, c, d] in operands {
        // SAFETY: no instruction.
        unsafe {
            asm!(
                "// {a} {b} {c} {d}",
                a = inout(reg32) * a,
                b = inout(reg32) * b,
                c = inout(reg32) * c,
                d = inout(reg32) * d,
                options(nostack),
            );
        }
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
    ($name:ident, $registers:ident, $rows:ident, $fence:ident, $wait:ident, $len:literal, $shape:literal, $first:ident = $first_i:literal $(, $d:ident = $i:literal)*) => {
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

        /// One product of 64 x 16 in registers by 16 x N in shared memory, K-major.
        ///
        /// # Safety
        /// As above.
        #[inline(always)]
        unsafe fn $rows<T: Operand>(acc: &mut [f32; $len], a: [u32; 4], b: u64, add: u32) {
            macro_rules! say {
                ($types:literal) => {
                    asm!(
                        concat!(
                            "{{ .reg .pred add; setp.ne.b32 add, {add}, 0; wgmma.mma_async.sync.aligned.", $shape, $types,
                            " {{{", stringify!($first), "}", $(", {", stringify!($d), "}",)*
                            "}}, {{{a0}, {a1}, {a2}, {a3}}}, {b}, add, 1, 1, 0; }}"
                        ),
                        a0 = in(reg32) a[0],
                        a1 = in(reg32) a[1],
                        a2 = in(reg32) a[2],
                        a3 = in(reg32) a[3],
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
    wgmma_n16, registers_n16, rows_n16, fence_n16, wait_n16, 8, "m64n16k16",
    d0 = 0, d1 = 1, d2 = 2, d3 = 3, d4 = 4, d5 = 5, d6 = 6, d7 = 7
);

#[rustfmt::skip]
wgmma!(
    wgmma_n64, registers_n64, rows_n64, fence_n64, wait_n64, 32, "m64n64k16",
    d0 = 0, d1 = 1, d2 = 2, d3 = 3, d4 = 4, d5 = 5, d6 = 6, d7 = 7, d8 = 8, d9 = 9, d10 = 10, d11 = 11,
    d12 = 12, d13 = 13, d14 = 14, d15 = 15, d16 = 16, d17 = 17, d18 = 18, d19 = 19, d20 = 20, d21 = 21,
    d22 = 22, d23 = 23, d24 = 24, d25 = 25, d26 = 26, d27 = 27, d28 = 28, d29 = 29, d30 = 30, d31 = 31
);

#[rustfmt::skip]
wgmma!(
    wgmma_n96, registers_n96, rows_n96, fence_n96, wait_n96, 48, "m64n96k16",
    d0 = 0, d1 = 1, d2 = 2, d3 = 3, d4 = 4, d5 = 5, d6 = 6, d7 = 7, d8 = 8, d9 = 9, d10 = 10, d11 = 11,
    d12 = 12, d13 = 13, d14 = 14, d15 = 15, d16 = 16, d17 = 17, d18 = 18, d19 = 19, d20 = 20, d21 = 21,
    d22 = 22, d23 = 23, d24 = 24, d25 = 25, d26 = 26, d27 = 27, d28 = 28, d29 = 29, d30 = 30, d31 = 31,
    d32 = 32, d33 = 33, d34 = 34, d35 = 35, d36 = 36, d37 = 37, d38 = 38, d39 = 39, d40 = 40, d41 = 41,
    d42 = 42, d43 = 43, d44 = 44, d45 = 45, d46 = 46, d47 = 47
);

#[rustfmt::skip]
wgmma!(
    wgmma_n128, registers_n128, rows_n128, fence_n128, wait_n128, 64, "m64n128k16",
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
    wgmma_n192, registers_n192, rows_n192, fence_n192, wait_n192, 96, "m64n192k16",
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
    wgmma_n224, registers_n224, rows_n224, fence_n224, wait_n224, 112, "m64n224k16",
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
    wgmma_n256, registers_n256, rows_n256, fence_n256, wait_n256, 128, "m64n256k16",
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
                8 => fence_n16(&mut *(&raw mut self.0).cast()),
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
                8 => wgmma_n16::<T>(&mut *(&raw mut self.0).cast(), a, b, add),
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
                8 => registers_n16::<T>(&mut *(&raw mut self.0).cast(), a, b),
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
    pub fn mma_registers_rows<T: Operand>(&mut self, a: [u32; 4], b: Rows<T>, k: usize, add: bool) {
        let (b, add) = (b.descriptor(k), u32::from(add));
        // SAFETY: as in `mma`.
        unsafe {
            match LEN {
                8 => rows_n16::<T>(&mut *(&raw mut self.0).cast(), a, b, add),
                32 => rows_n64::<T>(&mut *(&raw mut self.0).cast(), a, b, add),
                48 => rows_n96::<T>(&mut *(&raw mut self.0).cast(), a, b, add),
                64 => rows_n128::<T>(&mut *(&raw mut self.0).cast(), a, b, add),
                96 => rows_n192::<T>(&mut *(&raw mut self.0).cast(), a, b, add),
                112 => rows_n224::<T>(&mut *(&raw mut self.0).cast(), a, b, add),
                _ => rows_n256::<T>(&mut *(&raw mut self.0).cast(), a, b, add),
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
                8 => wait_n16::<PENDING>(&mut *(&raw mut self.0).cast()),
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
