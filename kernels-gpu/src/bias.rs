//! Adding a bias to each row.

use crate::simt::prelude::*;

/// Threads of a block; one thread adds four elements.
pub const THREADS: u32 = 128;

/// `y[token, i] += b[i]`.
///
/// `y [n_tokens, dim]`, `b [dim]`.
///
/// Grid: [`bias_blocks`] × n_tokens. Requires: nothing of `dim`; a multiple of 4 takes the wide path.
/// Fast because: 16-byte loads and stores wherever rows begin on 16 bytes.
#[kernel(threads = 128, pdl)]
pub fn bias_add_f32(y: InOut<f32>, b: In<f32>, dim: u32) {
    pdl::launch_dependents();
    pdl::wait();
    let dim = dim as usize;
    let i = (thread::block_idx_x() * THREADS + thread::thread_idx_x()) as usize * 4;
    let row = thread::block_idx_y() as usize * dim;
    if dim.is_multiple_of(4) {
        if i < dim {
            let (a, c) = (y.load::<4>(row + i), b.load::<4>(i));
            y.store::<4>(row + i, [a[0] + c[0], a[1] + c[1], a[2] + c[2], a[3] + c[3]]);
        }
    } else {
        let mut j = i;
        while j < dim && j < i + 4 {
            y.set(row + j, y.get(row + j) + b.get(j));
            j += 1;
        }
    }
}

/// Blocks in x that a launch needs.
pub const fn bias_blocks(dim: usize) -> usize {
    dim.div_ceil(4 * THREADS as usize)
}

/// Bytes that a launch must move: y read and written, b read once.
pub const fn bias_bytes(n_tokens: usize, dim: usize) -> usize {
    4 * dim * (2 * n_tokens + 1)
}
