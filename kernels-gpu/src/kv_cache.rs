//! Writing new keys and values into the cache of one layer.

use crate::simt::prelude::*;

/// Threads of a block; one thread writes [`ELEMENTS`] elements of k and of v.
pub const THREADS: u32 = 128;

/// Elements of a head that one thread converts: eight halves are one 16-byte store.
pub const ELEMENTS: usize = 8;

/// cache[kv_head, position, :] = f16(new[token, kv_head, :]), for k and for v, rounded to nearest even.
///
/// `k_cache`, `v_cache [n_kv_heads, n_ctx, head_dim]`; `k`, `v [n_tokens, n_kv_heads, head_dim]`;
/// `positions [n_tokens]`.
///
/// Grid: [`kv_write_blocks`] × n_tokens. Requires: head_dim a multiple of 8; positions < n_ctx, all different.
/// Fast because: 16-byte loads and stores, neighbours in a head by neighbouring lanes.
#[kernel(threads = 128, pdl)]
pub fn kv_write_f16(
    k_cache: Out<f16>,
    v_cache: Out<f16>,
    k: In<f32>,
    v: In<f32>,
    positions: In<u32>,
    n_kv_heads: u32,
    head_dim: u32,
    n_ctx: u32,
) {
    pdl::launch_dependents();
    pdl::wait();
    let width = (n_kv_heads * head_dim) as usize;
    let idx = (thread::block_idx_x() * THREADS + thread::thread_idx_x()) as usize * ELEMENTS;
    if idx < width {
        let token = thread::block_idx_y() as usize;
        let (head, dim) = (idx / head_dim as usize, idx % head_dim as usize);
        let position = positions.get(token) as usize;
        let target = (head * n_ctx as usize + position) * head_dim as usize + dim;
        k_cache.store::<8>(target, eight_halves(k, token * width + idx));
        v_cache.store::<8>(target, eight_halves(v, token * width + idx));
    }
}

#[inline(always)]
fn eight_halves(source: In<f32>, i: usize) -> [f16; 8] {
    let [a, b, c, d] = source.load::<4>(i);
    let [e, f, g, h] = source.load::<4>(i + 4);
    [
        f16::from_f32(a),
        f16::from_f32(b),
        f16::from_f32(c),
        f16::from_f32(d),
        f16::from_f32(e),
        f16::from_f32(f),
        f16::from_f32(g),
        f16::from_f32(h),
    ]
}

/// Blocks in x that a launch needs.
pub const fn kv_write_blocks(n_kv_heads: usize, head_dim: usize) -> usize {
    (n_kv_heads * head_dim / ELEMENTS).div_ceil(THREADS as usize)
}

/// Bytes that a launch must move: k and v read as f32 and written as f16.
pub const fn kv_write_bytes(n_tokens: usize, n_kv_heads: usize, head_dim: usize) -> usize {
    n_tokens * (2 * (4 + 2) * n_kv_heads * head_dim + 4)
}
