//! Copies within device memory, as a kernel so that they can be part of a list of launches.

use crate::simt::prelude::*;

/// Threads of a block; each copies one element.
pub const THREADS: u32 = 256;

/// y = x, for `n` elements.
///
/// Grid: [`copy_blocks`]. Requires: nothing. Fast because: a warp moves 128 consecutive bytes.
#[kernel(threads = THREADS, pdl)]
pub fn copy_f32(y: Out<f32>, x: In<f32>, n: u32) {
    pdl::launch_dependents();
    pdl::wait();
    let i = thread::index_1d();
    if i < n as usize {
        y.set(i, x.get(i));
    }
}

/// Blocks of a launch.
pub const fn copy_blocks(n: usize) -> usize {
    n.div_ceil(THREADS as usize)
}

/// Bytes that a launch must move: x read, y written.
pub const fn copy_bytes(n: usize) -> usize {
    8 * n
}
