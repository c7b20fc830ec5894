//! Copies from global into shared memory in the background.

use core::arch::asm;

use super::memory::{Global, Local};
use crate::simt::Element;

unsafe extern "unadjusted" {
    // shim.ll: the address spaces of these are found by inlining. Of the source the last argument's bytes are read, and
    // the rest of the destination gets zeros.
    fn oxwarp_cp_async_4(destination: *mut u8, source: *const u8, source_bytes: u32);
    fn oxwarp_cp_async_8(destination: *mut u8, source: *const u8, source_bytes: u32);
    fn oxwarp_cp_async_16(destination: *mut u8, source: *const u8, source_bytes: u32);
}

impl<T: Element> Local<T> {
    #[inline(always)]
    pub fn copy_async<const N: usize>(self, i: usize, source: Global<T>, j: usize) {
        self.copy_async_or_zero::<N>(i, source, j, true);
    }

    #[inline(always)]
    pub fn copy_async_or_zero<const N: usize>(self, i: usize, source: Global<T>, j: usize, exists: bool) {
        let bytes = const {
            let bytes = N * size_of::<T>();
            assert!(matches!(bytes, 4 | 8 | 16), "a copy has 4, 8 or 16 bytes");
            bytes as u32
        };
        let (to, from) = (self.element(i).cast::<u8>(), source.element(j).cast::<u8>());
        let source_bytes = if exists { bytes } else { 0 };
        // SAFETY: the kernel's promise that both places lie in their arrays and are aligned for the access (the
        // source only if it exists), and that nothing touches the destination before the wait, which the emulator
        // checks.
        unsafe {
            match bytes {
                4 => oxwarp_cp_async_4(to, from, source_bytes),
                8 => oxwarp_cp_async_8(to, from, source_bytes),
                _ => oxwarp_cp_async_16(to, from, source_bytes),
            }
        }
    }
}

#[inline(always)]
pub fn async_copy_commit() {
    // SAFETY: touches no memory by itself.
    unsafe { asm!("cp.async.commit_group;", options(nostack, preserves_flags)) }
}

/// Assembly, since the compiler must take it to write memory: no read of what arrives may come before it.
#[inline(always)]
pub fn async_copy_wait<const N: usize>() {
    // SAFETY: waits; what it lets arrive is memory that the kernel does not touch before, which the emulator checks.
    unsafe { asm!("cp.async.wait_group {n};", n = const N, options(nostack, preserves_flags)) }
}
