//! Learned positions: adding the row of a token's position to its embedding.

use crate::simt::prelude::*;

/// Threads of a block; one thread adds eight elements of a row.
pub const THREADS: u32 = 128;

/// Elements of a block.
const TILE: usize = 2 * 4 * THREADS as usize;

/// `x[t, i] += table[positions[t], i]`.
///
/// `x [n_tokens, dim]`, `table [n_positions, dim]`, `positions [n_tokens]`. A position that the table does not have gives
/// NaN, which sampling reports.
///
/// Grid: [`position_add_blocks`] × n_tokens. Requires: x and table on 16 bytes; a `dim` that is a multiple of 4 takes the
/// wide path. Fast because: 16-byte accesses, four loads of a thread in flight.
#[kernel(threads = THREADS, pdl)]
pub fn position_add_f32(x: InOut<f32>, table: In<f32>, positions: In<u32>, dim: u32, n_positions: u32) {
    pdl::launch_dependents();
    pdl::wait();
    let dim = dim as usize;
    let token = thread::block_idx_y() as usize;
    let position = positions.get(token);
    let known = position < n_positions;
    let (row, table_row) = (token * dim, position as usize * dim);
    let begin = thread::block_idx_x() as usize * TILE;
    if dim.is_multiple_of(4) {
        let (first, second) = (begin + thread::thread_idx_x() as usize * 4, TILE / 2);
        let mut sums = [[f32::NAN; 4]; 2];
        let mut u = 0;
        while u < 2 {
            let i = first + u * second;
            if known && i < dim {
                let (a, b) = (x.load::<4>(row + i), table.load::<4>(table_row + i));
                sums[u] = [a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]];
            }
            u += 1;
        }
        let mut u = 0;
        while u < 2 {
            let i = first + u * second;
            if i < dim {
                x.store::<4>(row + i, sums[u]);
            }
            u += 1;
        }
    } else {
        let mut i = begin + thread::thread_idx_x() as usize;
        while i < dim && i < begin + TILE {
            x.set(row + i, if known { x.get(row + i) + table.get(table_row + i) } else { f32::NAN });
            i += THREADS as usize;
        }
    }
}

/// Blocks in x that a launch needs.
pub const fn position_add_blocks(dim: usize) -> usize {
    dim.div_ceil(TILE)
}

/// Bytes that a launch must move: x read and written, the positions' rows read.
pub const fn position_add_bytes(n_tokens: usize, dim: usize) -> usize {
    n_tokens * (3 * 4 * dim + 4)
}
