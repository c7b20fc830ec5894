//! Residual addition.

use crate::elementwise::{self, in_fours};
use crate::simt::prelude::*;

/// Threads of a block; each adds eight elements.
pub const THREADS: u32 = elementwise::THREADS;

const UNITS: usize = 2;

/// x += branch, for `n` elements.
///
/// Grid: [`add_blocks`]. Requires: x and branch on 16 bytes.
/// Fast because: 16-byte accesses, four loads of a thread in flight.
#[kernel(threads = THREADS, pdl)]
pub fn add_f32(x: InOut<f32>, branch: In<f32>, n: u32) {
    pdl::launch_dependents();
    pdl::wait();
    in_fours::<UNITS, _>(
        n as usize,
        |i| (x.load::<4>(i), branch.load::<4>(i)),
        |i, (a, b)| x.store::<4>(i, [a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]]),
        |i| x.set(i, x.get(i) + branch.get(i)),
    );
}

/// Blocks of a launch.
pub const fn add_blocks(n: usize) -> usize {
    elementwise::blocks(n, UNITS)
}

/// Bytes that a launch must move: x read and written, branch read.
pub const fn add_bytes(n: usize) -> usize {
    12 * n
}
