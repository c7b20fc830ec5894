//! Words that reach the other blocks of a cluster.

use core::arch::asm;
use core::mem::transmute_copy;

use super::hopper::{Barriers, Rows, TensorMap};
use super::memory::{Local, shared_address};
use crate::simt::Element;

#[inline(always)]
pub fn cluster_block_rank() -> u32 {
    let rank: u32;
    // SAFETY: reads a special register.
    unsafe {
        asm!("mov.u32 {rank}, %cluster_ctarank;", rank = out(reg32) rank, options(pure, nomem, nostack))
    };
    rank
}

#[inline(always)]
pub fn cluster_start() {
    // SAFETY: a barrier of the cluster; that its threads come to it is the kernel's promise, which the emulator checks.
    unsafe { asm!("barrier.cluster.arrive.relaxed;", "barrier.cluster.wait.acquire;", options(nostack)) }
}

#[inline(always)]
pub fn cluster_sync() {
    // SAFETY: a barrier of the cluster; that its threads come to it is the kernel's promise, which the emulator checks.
    unsafe { asm!("barrier.cluster.arrive.release;", "barrier.cluster.wait.acquire;", options(nostack)) }
}

/// Where the block of this rank has what lies at an address of one's own.
#[inline(always)]
fn address_in(rank: u32, address: u32) -> u32 {
    let there: u32;
    // SAFETY: computes an address; that the cluster has the block is the kernel's promise, which the emulator checks.
    unsafe {
        asm!(
            "mapa.shared::cluster.u32 {there}, {address}, {rank};",
            there = out(reg32) there,
            address = in(reg32) address,
            rank = in(reg32) rank,
            options(pure, nomem, nostack),
        );
    }
    there
}

impl Barriers {
    #[inline(always)]
    pub fn arrive_remote(self, i: usize, rank: u32) {
        // Not `.release.cluster`, which waits for all of the thread's accesses to memory: no word lets another block read what
        // this one wrote to its own shared memory, and what it read, it has.
        // SAFETY: an initialised barrier of a block that runs, which the emulator checks.
        unsafe {
            asm!(
                "mbarrier.arrive.shared::cluster.b64 _, [{barrier}];",
                barrier = in(reg32) address_in(rank, self.address(i)),
                options(nostack),
            );
        }
    }

    #[inline(always)]
    #[allow(named_asm_labels)] // Local to the braces in PTX.
    pub fn wait_remote(self, i: usize, parity: u32) {
        // SAFETY: as in `wait`.
        unsafe {
            asm!(
                "{{",
                ".reg .pred done;",
                "again:",
                "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [{barrier}], {parity};",
                "@!done bra again;",
                "}}",
                barrier = in(reg32) self.address(i),
                parity = in(reg32) parity,
                options(nostack),
            );
        }
    }
}

impl<T: Element> Local<T> {
    #[inline(always)]
    pub fn store_async<const N: usize>(
        self,
        rank: u32,
        i: usize,
        values: [T; N],
        barriers: Barriers,
        at: usize,
    ) {
        const { assert!(N * size_of::<T>() == 16, "such a store has 16 bytes") };
        // SAFETY: as many plain bits.
        let [a, b, c, d]: [u32; 4] = unsafe { transmute_copy(&values) };
        // SAFETY: a tile and a barrier of a block that runs, which the emulator checks.
        unsafe {
            asm!(
                "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [{to}], {{{a}, {b}, {c}, {d}}}, [{barrier}];",
                to = in(reg32) address_in(rank, shared_address(self.element(i))),
                a = in(reg32) a,
                b = in(reg32) b,
                c = in(reg32) c,
                d = in(reg32) d,
                barrier = in(reg32) address_in(rank, barriers.address(at)),
                options(nostack),
            );
        }
    }
}

impl TensorMap {
    #[inline(always)]
    pub fn load_multicast<T: Element>(
        self,
        dst: Rows<T>,
        barriers: Barriers,
        i: usize,
        (row, col): (u32, u32),
        mask: u16,
    ) {
        // SAFETY: as in `load`, and that the blocks of the mask run, which the emulator checks.
        unsafe {
            asm!(
                "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [{dst}], [{map}, {{{col}, {row}}}], [{barrier}], {mask};",
                dst = in(reg32) dst.address(),
                map = in(reg64) self.address(),
                col = in(reg32) col,
                row = in(reg32) row,
                barrier = in(reg32) barriers.address(i),
                mask = in(reg16) mask,
                options(nostack),
            );
        }
    }
}
