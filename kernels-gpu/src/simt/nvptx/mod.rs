//! The words as PTX: LLVM intrinsics where they exist (LLVM knows that they must not be moved into or out
//! of branches), functions of `shim.ll` where an address space or a type is missing in Rust.
//!
//! `shim.ll` is linked to the crate's bitcode before LLVM's passes, so that its functions are inlined and
//! address spaces are inferred. Without it, shared memory would be reached by generic accesses.
//!
//! Needs PTX 7.4 (cache hints of loads) on compute capability 8.0, PTX 8.1 on 9.0 (`st.async`).

mod async_copy;
#[cfg(oxwarp_sm = "90a")]
mod cluster;
#[cfg(oxwarp_sm = "90a")]
mod hopper;
mod math;
mod matrix;
mod memory;
mod warp;
#[cfg(oxwarp_sm = "90a")]
mod wgmma;

pub use async_copy::*;
#[cfg(oxwarp_sm = "90a")]
pub use cluster::*;
#[cfg(oxwarp_sm = "90a")]
pub use hopper::*;
pub use math::*;
pub use matrix::*;
pub use memory::*;
pub use warp::*;
#[cfg(oxwarp_sm = "90a")]
pub use wgmma::*;

use core::arch::nvptx;

pub fn trap() -> ! {
    // SAFETY: ends the launch; touches no memory.
    unsafe { nvptx::trap() }
}

macro_rules! special_registers {
    ($($name:ident = $intrinsic:ident;)*) => {$(
        #[inline(always)]
        pub fn $name() -> u32 {
            // SAFETY: reads a special register.
            unsafe { nvptx::$intrinsic() as u32 }
        }
    )*};
}

special_registers! {
    thread_idx_x = _thread_idx_x;
    block_dim_x = _block_dim_x;
    block_idx_x = _block_idx_x;
    block_idx_y = _block_idx_y;
    block_idx_z = _block_idx_z;
    grid_dim_x = _grid_dim_x;
    grid_dim_y = _grid_dim_y;
    grid_dim_z = _grid_dim_z;
}

#[inline(always)]
pub fn sync_threads() {
    // SAFETY: a barrier of the whole block; that all threads reach it is the kernel's promise, which the
    // emulator checks.
    unsafe { nvptx::_syncthreads() }
}

#[inline(always)]
pub fn sync_named(id: u32, n_threads: u32) {
    // SAFETY: a barrier of the block; that its threads come to it is the kernel's promise, which the emulator checks.
    unsafe {
        core::arch::asm!("bar.sync {id}, {n};", id = in(reg32) id, n = in(reg32) n_threads, options(nostack))
    }
}

#[cfg(oxwarp_sm = "90a")]
unsafe extern "unadjusted" {
    #[link_name = "llvm.nvvm.griddepcontrol.wait"]
    fn griddepcontrol_wait();
    #[link_name = "llvm.nvvm.griddepcontrol.launch.dependents"]
    fn griddepcontrol_launch_dependents();
}

#[inline(always)]
pub fn pdl_wait() {
    #[cfg(oxwarp_sm = "90a")]
    // SAFETY: waits; touches no memory.
    unsafe {
        griddepcontrol_wait();
    }
}

#[inline(always)]
pub fn pdl_launch_dependents() {
    #[cfg(oxwarp_sm = "90a")]
    // SAFETY: a hint to the scheduler; touches no memory.
    unsafe {
        griddepcontrol_launch_dependents();
    }
}
