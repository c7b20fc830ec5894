//! Kernels that each break one rule of the linter of `cargo xtask build-ptx` on purpose, and one that breaks none. A test
//! of xtask (src/ptx/lint/planted.rs) compiles them.
//!
//! They are written without the words of kernels-gpu, which do not let most of these mistakes happen. They are never
//! run, so what their pointers point to is nobody's promise.

#![no_std]
#![allow(internal_features)]
#![feature(abi_ptx, abi_unadjusted, asm_experimental_arch, link_llvm_intrinsics)]

use core::arch::asm;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

unsafe extern "unadjusted" {
    #[link_name = "llvm.nvvm.read.ptx.sreg.tid.x"]
    fn thread() -> u32;
    #[link_name = "llvm.nvvm.barrier.cta.sync.aligned.all"]
    fn barrier(id: u32);
    #[link_name = "llvm.nvvm.shfl.sync.bfly.f32"]
    fn shuffle_xor(mask: u32, value: f32, xor: u32, clamp: u32) -> f32;
}

unsafe extern "C" {
    fn defined_nowhere(x: f32) -> f32;
}

/// Breaks nothing, though unrolling makes five copies of the shuffle and the barrier is in a loop.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn innocent(y: *mut f32, bytes: *const u8, n: u32) {
    unsafe {
        let i = thread() as usize;
        let mut value = 0.0;
        for k in 0..n as usize {
            value += f32::from(*bytes.add(k * 256 + i));
            barrier(0);
        }
        for xor in [16, 8, 4, 2, 1] {
            value += shuffle_xor(u32::MAX, value, xor, 31);
        }
        *y.add(i) = value;
    }
}

/// One barrier, written once, between setting and testing a flag: where the compiler copies it into both arms, half of
/// the threads wait at another barrier than the rest.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn barrier_between_tests(y: *mut f32, x: *const f32, n: u32) {
    unsafe {
        let i = thread();
        let (mut in_range, mut value) = (false, 0.0);
        if i < n {
            in_range = true;
            value = *x.add(i as usize);
        }
        barrier(0);
        if in_range {
            *y.add(i as usize) = value;
        }
    }
}

/// The same with a barrier in assembly, which says nothing of its nature to the compiler.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn asm_barrier_between_tests(y: *mut f32, x: *const f32, n: u32) {
    unsafe {
        let i = thread();
        let (mut in_range, mut value) = (false, 0.0);
        if i < n {
            in_range = true;
            value = *x.add(i as usize);
        }
        asm!("bar.sync 0;");
        if in_range {
            *y.add(i as usize) = value;
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Slices {
    y: *mut f32,
    x: *const f32,
}

/// Pointers inside a struct come without their memory's name.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn generic_pointers(views: Slices) {
    unsafe {
        let i = thread() as usize;
        *views.y.add(i) = *views.x.add(i);
    }
}

/// An array indexed at run time cannot be in registers.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn local_array(y: *mut f32, x: *const f32, index: u32) {
    unsafe {
        let i = thread() as usize;
        let mut values = [0.0f32; 16];
        for k in 0..16 {
            values[k] = *x.add(i * 16 + k);
        }
        *y.add(i) = values[(index % 16) as usize];
    }
}

#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct Packed {
    scale: u16,
    quants: [u32; 4],
}

/// A field of a packed struct is loaded byte by byte.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn packed_loads(y: *mut u32, blocks: *const Packed) {
    unsafe {
        let i = thread() as usize;
        *y.add(i) = (*blocks.add(i)).quants[1];
    }
}

/// A large copy becomes a loop over bytes.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn large_copy(to: *mut [u8; 4096], from: *const [u8; 4096]) {
    unsafe { *to = *from }
}

#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn calls_nothing_known(y: *mut f32) {
    unsafe { *y = defined_nowhere(*y) }
}

#[inline(never)]
fn not_inlined(x: f32) -> f32 {
    x * x + 1.0
}

#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn calls_a_function(y: *mut f32) {
    unsafe { *y = not_inlined(*y) }
}

/// An accumulator that is read before the matrix instructions are waited for makes ptxas run them one by one.
#[cfg(oxwarp_sm = "90a")]
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn serialised_wgmma(y: *mut u32, a: u64, b: u64) {
    unsafe {
        let mut d = [0u32; 4];
        asm!("wgmma.fence.sync.aligned;");
        for k in 0..2 {
            let [d0, d1, d2, d3] = &mut d;
            asm!(
                "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{{0}, {1}, {2}, {3}}}, {4}, {5}, 1, 1, 1, 0, 0;",
                inout(reg32) *d0,
                inout(reg32) *d1,
                inout(reg32) *d2,
                inout(reg32) *d3,
                in(reg64) a + k,
                in(reg64) b + k,
            );
            d[0] ^= 1;
        }
        asm!("wgmma.commit_group.sync.aligned;", "wgmma.wait_group.sync.aligned 0;");
        *y.add(thread() as usize) = d[0] ^ d[1] ^ d[2] ^ d[3];
    }
}
