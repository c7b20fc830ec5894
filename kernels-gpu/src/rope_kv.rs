//! Rotary position embedding and the write to the cache in one launch.

use crate::rope::{self, Shape, turn};
use crate::simt::prelude::*;

/// Threads of a block.
pub const THREADS: u32 = rope::THREADS;

/// Heads of a thread.
const HEADS: usize = 3;

macro_rules! entry {
    ($name:ident, $adjacent:literal, $x:ty, $doc:literal) => {
        #[doc = $doc]
        ///
        /// y = q turned, cache[kv_head, position, :] = k turned, and the same of v as it is, all rounded to f16.
        ///
        /// `y`, `q [n_tokens, n_heads, head_dim]`; `k`, `v [n_tokens, n_kv_heads, head_dim]`; `k_cache`,
        /// `v_cache [n_kv_heads, n_ctx, head_dim]`; `table` as in [`rope::rope_adjacent_f32`]; `positions [n_tokens]`.
        ///
        /// Grid: [`rope_kv_blocks`] × n_tokens. Requires: all on 16 bytes; head_dim and `rope_dim` multiples of 8,
        /// rope_dim ≤ head_dim ≤ 1024; positions < n_ctx, all different.
        /// Fast because: as [`rope::rope_adjacent_f32`], with three heads a thread; one launch for what takes three.
        #[kernel(threads = THREADS, pdl)]
        pub fn $name(
            y: Out<f16>,
            k_cache: Out<f16>,
            v_cache: Out<f16>,
            q: In<$x>,
            k: In<$x>,
            v: In<$x>,
            table: In<f32>,
            positions: In<u32>,
            n_heads: u32,
            n_kv_heads: u32,
            head_dim: u32,
            rope_dim: u32,
            n_ctx: u32,
        ) {
            pdl::launch_dependents();
            pdl::wait();
            let token = thread::block_idx_y() as usize;
            let position = positions.get(token) as usize;
            let dim = head_dim as usize;
            // The heads of q, then those of k, then those of v.
            let (n_q, n_kv) = (n_heads as usize, n_kv_heads as usize);
            let load = |head: u32, i: usize| {
                let head = head as usize;
                if head < n_q {
                    widen(q.load::<4>((token * n_q + head) * dim + i))
                } else if head < n_q + n_kv {
                    widen(k.load::<4>((token * n_kv + head - n_q) * dim + i))
                } else {
                    widen(v.load::<4>((token * n_kv + head - n_q - n_kv) * dim + i))
                }
            };
            let store = |head: u32, i: usize, values: [f32; 4]| {
                let head = head as usize;
                let place = |kv_head: usize| (kv_head * n_ctx as usize + position) * dim + i;
                if head < n_q {
                    y.store::<4>((token * n_q + head) * dim + i, narrow(values));
                } else if head < n_q + n_kv {
                    k_cache.store::<4>(place(head - n_q), narrow(values));
                } else {
                    v_cache.store::<4>(place(head - n_q - n_kv), narrow(values));
                }
            };
            let shape = Shape {
                n_heads: n_heads + 2 * n_kv_heads,
                n_turning: n_heads + n_kv_heads,
                n_elements: head_dim,
                rope_dim,
            };
            turn::<$adjacent, 4, HEADS, false>(table, positions, shape, load, store);
        }
    };
}

entry!(
    rope_kv_adjacent_f32,
    true,
    f32,
    "Turns adjacent pairs of q and k in f32, and writes k and v into the cache."
);
entry!(
    rope_kv_half_f32,
    false,
    f32,
    "Turns half-split pairs of q and k in f32, and writes k and v into the cache."
);
entry!(
    rope_kv_adjacent_f16,
    true,
    f16,
    "Turns adjacent pairs of q and k in f16, and writes k and v into the cache."
);
entry!(
    rope_kv_half_f16,
    false,
    f16,
    "Turns half-split pairs of q and k in f16, and writes k and v into the cache."
);

/// Blocks in x that a launch needs.
pub const fn rope_kv_blocks(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> usize {
    rope::turn_blocks(n_heads + 2 * n_kv_heads, HEADS, head_dim, 4)
}

/// Bytes that a launch must move: q, k and v with `x_bytes` an element, the same in f16, and the table's rows.
pub const fn rope_kv_bytes(
    n_tokens: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    rope_dim: usize,
    x_bytes: usize,
) -> usize {
    n_tokens * ((x_bytes + 2) * (n_heads + 2 * n_kv_heads) * head_dim + 4 * rope_dim + 4)
}
