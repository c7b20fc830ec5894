//! Rotary position embedding (Su et al. 2021, <https://arxiv.org/abs/2104.09864>), in place.

use crate::simt::prelude::*;

/// Threads of a block; one thread turns one pair.
pub const THREADS: u32 = 128;

/// Rotates adjacent pairs (2i, 2i+1), as files of architecture `llama` hold q and k.
///
/// (x₂ᵢ, x₂ᵢ₊₁) ← (x₂ᵢ·cos − x₂ᵢ₊₁·sin, x₂ᵢ·sin + x₂ᵢ₊₁·cos) for i < rope_dim / 2; the rest of a head is left alone.
///
/// `x [n_tokens, n_heads, head_dim]`; `table [n_ctx, rope_dim / 2, 2]` holds (cos, sin), made on the host in f64, so
/// base, partial dimensions, frequency factors and every kind of scaling are data; `positions [n_tokens]`.
///
/// Grid: [`rope_blocks`] × n_tokens. Requires: even `head_dim` and `rope_dim`, rope_dim ≤ head_dim, positions < n_ctx.
/// Fast because: (1) a warp reads and writes 256 consecutive bytes; (2) no sine is computed on the device.
#[kernel(threads = 128, pdl)]
pub fn rope_adjacent_f32(
    x: InOut<f32>,
    table: In<f32>,
    positions: In<u32>,
    n_heads: u32,
    head_dim: u32,
    rope_dim: u32,
) {
    pdl::launch_dependents();
    pdl::wait();
    if let Some(p) = pair(positions, n_heads, head_dim, rope_dim) {
        let first = p.head_start + 2 * p.pair_idx;
        let [cos, sin] = table.load::<2>(p.table_idx);
        let [a, b] = x.load::<2>(first);
        x.store::<2>(first, [a * cos - b * sin, a * sin + b * cos]);
    }
}

/// Rotates half-split pairs (i, i + rope_dim/2), as files of `qwen2` and most other architectures hold q and k.
///
/// Everything else is as in [`rope_adjacent_f32`].
///
/// Grid: [`rope_blocks`] × n_tokens. Requires: the same. Fast because: a warp touches two runs of 128 bytes.
#[kernel(threads = 128, pdl)]
pub fn rope_half_f32(
    x: InOut<f32>,
    table: In<f32>,
    positions: In<u32>,
    n_heads: u32,
    head_dim: u32,
    rope_dim: u32,
) {
    pdl::launch_dependents();
    pdl::wait();
    if let Some(p) = pair(positions, n_heads, head_dim, rope_dim) {
        let first = p.head_start + p.pair_idx;
        let second = first + rope_dim as usize / 2;
        let [cos, sin] = table.load::<2>(p.table_idx);
        let (a, b) = (x.get(first), x.get(second));
        x.set(first, a * cos - b * sin);
        x.set(second, a * sin + b * cos);
    }
}

/// The pair that a thread turns.
struct Pair {
    head_start: usize, // index in x of the head's first element
    pair_idx: usize,   // 0 .. rope_dim / 2
    table_idx: usize,  // index in the table of this pair's cosine
}

#[inline(always)]
fn pair(positions: In<u32>, n_heads: u32, head_dim: u32, rope_dim: u32) -> Option<Pair> {
    let half = rope_dim / 2;
    let idx = thread::block_idx_x() * THREADS + thread::thread_idx_x();
    if idx >= n_heads * half {
        return None;
    }
    let (head, pair_idx) = (idx / half, idx % half);
    let token = thread::block_idx_y() as usize;
    let head_start = (token * n_heads as usize + head as usize) * head_dim as usize;
    let position = positions.get(token) as usize;
    let table_idx = (position * half as usize + pair_idx as usize) * 2;
    Some(Pair { head_start, pair_idx: pair_idx as usize, table_idx })
}

/// Blocks in x that a launch needs.
pub const fn rope_blocks(n_heads: usize, rope_dim: usize) -> usize {
    (n_heads * rope_dim / 2).div_ceil(THREADS as usize)
}

/// Bytes that a launch must move: q or k read and written once, and the table's rows.
pub const fn rope_bytes(n_tokens: usize, n_heads: usize, rope_dim: usize) -> usize {
    n_tokens * (2 * 4 * n_heads * rope_dim + 4 * rope_dim + 4)
}

/// Floating-point operations of a launch: four products and two sums a pair.
pub const fn rope_flops(n_tokens: usize, n_heads: usize, rope_dim: usize) -> usize {
    n_tokens * n_heads * rope_dim / 2 * 6
}
