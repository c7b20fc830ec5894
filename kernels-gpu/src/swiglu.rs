//! The gated activation of llama-family feed-forward networks (Shazeer 2020, <https://arxiv.org/abs/2002.05202>).

use crate::simt::prelude::*;

/// Threads of a block; one thread computes four elements.
pub const THREADS: u32 = 256;

/// y = silu(gate) · up with silu(g) = g / (1 + e⁻ᵍ), element by element.
///
/// All three have n elements.
///
/// Grid: [`swiglu_blocks`]. Requires: nothing. Fast because: 16-byte loads and stores, one pass.
#[kernel(threads = 256, pdl)]
pub fn swiglu_f32(y: Out<f32>, gate: In<f32>, up: In<f32>, n: u32) {
    pdl::launch_dependents();
    pdl::wait();
    let n = n as usize;
    let i = (thread::block_idx_x() as usize * THREADS as usize + thread::thread_idx_x() as usize) * 4;
    if i + 4 <= n {
        let (g, u) = (gate.load::<4>(i), up.load::<4>(i));
        let gated = [silu(g[0]) * u[0], silu(g[1]) * u[1], silu(g[2]) * u[2], silu(g[3]) * u[3]];
        y.store::<4>(i, gated);
    } else {
        let mut j = i;
        while j < n {
            y.set(j, silu(gate.get(j)) * up.get(j));
            j += 1;
        }
    }
}

#[inline(always)]
fn silu(g: f32) -> f32 {
    math::div(g, 1.0 + math::exp(-g))
}

/// Blocks that a launch needs.
pub const fn swiglu_blocks(n: usize) -> usize {
    n.div_ceil(4 * THREADS as usize)
}

/// Bytes that a launch must move: two inputs and one output.
pub const fn swiglu_bytes(n: usize) -> usize {
    3 * 4 * n
}
