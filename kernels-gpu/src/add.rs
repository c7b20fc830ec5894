//! Residual addition.

use crate::simt::prelude::*;

/// Threads of a block; each adds four elements.
pub const THREADS: u32 = 256;

/// x += branch, for `n` elements.
///
/// Grid: [`add_blocks`]. Requires: x and branch on 16 bytes. Fast because: 16-byte accesses.
#[kernel(threads = THREADS, pdl)]
pub fn add_f32(x: InOut<f32>, branch: In<f32>, n: u32) {
    pdl::launch_dependents();
    pdl::wait();
    let n = n as usize;
    let first = thread::index_1d() * 4;
    if first + 4 <= n {
        let (a, b) = (x.load::<4>(first), branch.load::<4>(first));
        x.store::<4>(first, [a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]]);
    } else {
        let mut i = first;
        while i < n {
            x.set(i, x.get(i) + branch.get(i));
            i += 1;
        }
    }
}

/// Blocks of a launch.
pub const fn add_blocks(n: usize) -> usize {
    n.div_ceil(4 * THREADS as usize)
}

/// Bytes that a launch must move: x read and written, branch read.
pub const fn add_bytes(n: usize) -> usize {
    12 * n
}
