//! Reading memory and doing next to nothing with it: how fast a GPU can read at all.

use crate::simt::prelude::*;

/// Threads of a block.
pub const THREADS: u32 = 512;
/// Loads of 16 bytes of a thread in a round.
const LOADS: usize = 8;
/// Words that a block reads in a round.
const ROUND_WORDS: usize = THREADS as usize * LOADS * 4;

/// `y[i]` = the exclusive or of the words of x that thread i of the grid has read.
///
/// `y [gridDim · 512]`, `x [n]`. The exclusive or of all y is that of all x, whatever the grid.
///
/// Grid: any number of blocks, best two to four a multiprocessor. Requires: x on 16 bytes; n a multiple of 4.
/// Fast because: four to eight loads of 16 bytes a thread are in flight, and no thread waits for another.
#[kernel(threads = THREADS, pdl)]
pub fn read_u32(y: Out<u32>, x: In<u32>, n: u32) {
    pdl::launch_dependents();
    pdl::wait();
    let n = n as usize;
    let mut sum = [0u32; 4];
    let mut first = thread::block_idx_x() as usize * ROUND_WORDS + thread::thread_idx_x() as usize * 4;
    while first < n {
        let mut words = [[0u32; 4]; LOADS];
        let mut i = 0;
        while i < LOADS {
            let at = first + i * THREADS as usize * 4;
            if at < n {
                words[i] = x.load_stream::<4>(at);
            }
            i += 1;
        }
        let mut i = 0;
        while i < LOADS {
            let mut j = 0;
            while j < 4 {
                sum[j] ^= words[i][j];
                j += 1;
            }
            i += 1;
        }
        first += thread::grid_dim_x() as usize * ROUND_WORDS;
    }
    y.set(thread::index_1d(), sum[0] ^ sum[1] ^ sum[2] ^ sum[3]);
}

/// Bytes that a launch must move: x read, a word a thread written.
pub const fn read_bytes(n: usize, n_blocks: usize) -> usize {
    4 * (n + n_blocks * THREADS as usize)
}
