//! From the token chosen to the input of the next step.

use crate::simt::prelude::*;

/// `tokens[0] = sampled[0]` and `positions[0] += 1`: the input of the next decode step.
///
/// Grid: one block. Requires: nothing. Fast because: it replaces a round trip to the host.
#[kernel(threads = 32, pdl)]
pub fn advance(tokens: Out<u32>, positions: InOut<u32>, sampled: In<u32>) {
    pdl::launch_dependents();
    pdl::wait();
    if thread::thread_idx_x() == 0 {
        tokens.set(0, sampled.get(0));
        positions.set(0, positions.get(0) + 1);
    }
}
