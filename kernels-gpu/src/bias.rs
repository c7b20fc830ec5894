//! Adding a bias to each row.

use crate::simt::prelude::*;

/// Threads of a block; one thread adds four elements to each of [`ROWS`] rows.
pub const THREADS: u32 = 128;

/// Rows of a block.
pub const ROWS: usize = 4;

/// `y[token, i] += b[i]`.
///
/// `y [n_tokens, dim]`, `b [dim]`.
///
/// Grid: [`bias_blocks`] × ⌈n_tokens / [`ROWS`]⌉. Requires: nothing of `dim`; a multiple of 4 takes the wide path.
/// Fast because: 16-byte loads and stores wherever rows begin on 16 bytes, four rows of a thread in flight.
#[kernel(threads = 128, pdl)]
pub fn bias_add_f32(y: InOut<f32>, b: In<f32>, n_tokens: u32, dim: u32) {
    pdl::launch_dependents();
    pdl::wait();
    let dim = dim as usize;
    let i = (thread::block_idx_x() * THREADS + thread::thread_idx_x()) as usize * 4;
    let first_row = thread::block_idx_y() as usize * ROWS;
    let n_rows = (n_tokens as usize - first_row).min(ROWS);
    if dim.is_multiple_of(4) {
        if i < dim {
            let bias = b.load::<4>(i);
            let mut rows = [[0.0; 4]; ROWS];
            let mut r = 0;
            while r < ROWS {
                if r < n_rows {
                    rows[r] = y.load::<4>((first_row + r) * dim + i);
                }
                r += 1;
            }
            let mut r = 0;
            while r < ROWS {
                let [a, b, c, d] = rows[r];
                if r < n_rows {
                    let sum = [a + bias[0], b + bias[1], c + bias[2], d + bias[3]];
                    y.store::<4>((first_row + r) * dim + i, sum);
                }
                r += 1;
            }
        }
    } else {
        let mut r = 0;
        while r < n_rows {
            let row = (first_row + r) * dim;
            let mut j = i;
            while j < dim && j < i + 4 {
                y.set(row + j, y.get(row + j) + b.get(j));
                j += 1;
            }
            r += 1;
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
