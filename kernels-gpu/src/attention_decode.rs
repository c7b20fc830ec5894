//! Attention of single tokens over a long cache: split over the keys, then merged.
//!
//! softmax(q·Kᵀ / √d)·V is an average of values with weights exp(score). An average over all keys is the average of
//! averages over parts of them, weighted by each part's sum of weights. So the keys are dealt to several blocks
//! (Flash-Decoding), and each leaves three things: the largest score `m`, the sum `l` of exp(score − m), and its own
//! average. [`attention_merge_f32`] then joins the parts. No array of scores exists anywhere, so no context is too long.

#![allow(clippy::needless_range_loop, reason = "constant indices keep arrays in registers")]

mod merge;

pub use self::merge::*;
use crate::kv_cache::{Cache, Q8_0Cache, q8_0_blocks};
use crate::simt::prelude::*;

/// Threads of a block of [`attention_decode_f16`] and its variants.
pub const THREADS: u32 = 128;
const WARPS: u32 = THREADS / 32;

/// Keys that a group of lanes reads ahead before it uses them.
const UNROLL: usize = 4;

/// Most elements of a head: 32 lanes with eight elements each.
pub const MAX_HEAD_DIM: usize = 256;

/// Shared memory of a block: what each warp knows of its keys.
const SHARED_BYTES: usize = WARPS as usize * (2 + MAX_HEAD_DIM) * 4;

/// The score of a key that is not there: smaller than any real one, yet its difference from itself is a number.
const NO_SCORE: f32 = -1.0e30;

macro_rules! f16_entry {
    ($name:ident, $capped:literal, [$($softcap:ident)?], $doc:literal) => {
        #[doc = $doc]
        ///
        /// `part_out [n_tokens, n_heads, n_splits, head_dim]` receives Σ p·v / l and
        /// `part_ml [n_tokens, n_heads, n_splits, 2]` receives (m, l), with p = exp(score − m) over the part's keys.
        /// `q [n_tokens, n_heads, head_dim]`; `k_cache`, `v_cache [n_kv_heads, n_ctx, head_dim]`; `positions [n_tokens]`.
        /// Query head h reads the keys of head h · n_kv_heads / n_heads. A query sees the last `window` keys up to its
        /// own position; a window of n_ctx or more is none.
        ///
        /// Grid: n_heads × n_splits × n_tokens. The number of parts does not depend on the position, so that one
        /// captured graph serves every step; parts beyond the keys leave l = 0.
        /// Requires: head_dim a multiple of 8, at most 256; n_heads a multiple of n_kv_heads; positions < n_ctx; window
        /// at least 1.
        /// Fast because: (1) lanes read 16 bytes of a key each, so a warp reads whole keys side by side; (2) four keys a
        /// lane group are in flight; (3) the heads of a group that share keys run at the same time and find them in the
        /// L2 cache.
        #[kernel(threads = THREADS, shared = SHARED_BYTES, pdl)]
        pub fn $name(
            part_out: Out<f32>,
            part_ml: Out<f32>,
            q: In<f32>,
            k_cache: In<f16>,
            v_cache: In<f16>,
            positions: In<u32>,
            n_heads: u32,
            n_kv_heads: u32,
            head_dim: u32,
            n_ctx: u32,
            scale: f32,
            window: u32,
            $($softcap: f32,)?
        ) {
            let softcap = [$($softcap,)? 0.0][0];
            let shape = Shape { n_heads, n_kv_heads, head_dim, n_ctx, scale, window, softcap };
            attention_decode::<_, $capped>(part_out, part_ml, q, k_cache, v_cache, positions, shape);
        }
    };
}

macro_rules! q8_0_entry {
    ($name:ident, $capped:literal, [$($softcap:ident)?], $doc:literal) => {
        #[doc = $doc]
        ///
        /// `k_quants`, `k_scales`, `v_quants`, `v_scales` as [`kv_write_q8_0`](crate::kv_cache::kv_write_q8_0) has them;
        /// everything else is as in [`attention_decode_f16`].
        ///
        /// Grid: the same. Requires: the same; head_dim a multiple of 16.
        /// Fast because: as there, with 8 bytes of quants a lane; a quant becomes a float by a byte permutation and a
        /// subtraction, and the scale counts once for eight.
        #[kernel(threads = THREADS, shared = SHARED_BYTES, pdl)]
        pub fn $name(
            part_out: Out<f32>,
            part_ml: Out<f32>,
            q: In<f32>,
            k_quants: In<u32>,
            k_scales: In<f16>,
            v_quants: In<u32>,
            v_scales: In<f16>,
            positions: In<u32>,
            n_heads: u32,
            n_kv_heads: u32,
            head_dim: u32,
            n_ctx: u32,
            scale: f32,
            window: u32,
            $($softcap: f32,)?
        ) {
            let softcap = [$($softcap,)? 0.0][0];
            let shape = Shape { n_heads, n_kv_heads, head_dim, n_ctx, scale, window, softcap };
            let k_cache = Q8_0Cache { quants: k_quants, scales: k_scales };
            let v_cache = Q8_0Cache { quants: v_quants, scales: v_scales };
            attention_decode::<_, $capped>(part_out, part_ml, q, k_cache, v_cache, positions, shape);
        }
    };
}

f16_entry!(
    attention_decode_f16,
    false,
    [],
    "One part of the attention of one head of one token over its keys, with score = q·k · scale."
);
f16_entry!(
    attention_decode_softcap_f16,
    true,
    [softcap],
    "As [`attention_decode_f16`], with score = softcap · tanh(q·k · scale / softcap)."
);
q8_0_entry!(attention_decode_q8_0, false, [], "As [`attention_decode_f16`], over caches in Q8_0.");
q8_0_entry!(
    attention_decode_softcap_q8_0,
    true,
    [softcap],
    "As [`attention_decode_softcap_f16`], over caches in Q8_0."
);

struct Shape {
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,
    n_ctx: u32,
    scale: f32,
    window: u32,
    softcap: f32,
}

#[inline(always)]
fn attention_decode<C: Cache, const CAPPED: bool>(
    part_out: Out<f32>,
    part_ml: Out<f32>,
    q: In<f32>,
    k_cache: C,
    v_cache: C,
    positions: In<u32>,
    shape: Shape,
) {
    pdl::launch_dependents();
    pdl::wait();
    let Shape { n_heads, n_kv_heads, head_dim, n_ctx, scale, window, softcap } = shape;
    let inverse_cap = if CAPPED { math::rcp(softcap) } else { 0.0 };
    let (head, split, token) = (thread::block_idx_x(), thread::block_idx_y(), thread::block_idx_z());
    let row = (token * n_heads + head) as usize;
    let dim = head_dim as usize;

    // Eight elements of a head a lane: a key takes `lanes_per_key` lanes, a power of two, the last of them perhaps idle.
    let lanes_per_key = (head_dim / 8).next_power_of_two();
    let keys_per_warp = 32 / lanes_per_key;
    let (group, sub) = (warp::lane_id() / lanes_per_key, warp::lane_id() % lanes_per_key);
    let first_dim = sub as usize * 8;
    let active = first_dim < dim;

    let mut query = [0.0f32; 8];
    if active {
        let at = row * dim + first_dim;
        let ([a, b, c, d], [e, f, g, h]) = (q.load::<4>(at), q.load::<4>(at + 4));
        query = [a * scale, b * scale, c * scale, d * scale, e * scale, f * scale, g * scale, h * scale];
    }

    let n_keys = positions.get(token as usize) + 1;
    let first_key = n_keys.saturating_sub(window);
    let keys_per_split = (n_keys - first_key).div_ceil(thread::grid_dim_y());
    let begin = first_key + split * keys_per_split;
    let end = (begin + keys_per_split).min(n_keys);
    let first_place = (head * n_kv_heads / n_heads) as usize * n_ctx as usize;

    let mut part = Part { m: NO_SCORE, l: 0.0, acc: [0.0; 8] };
    let stride = WARPS * keys_per_warp;
    let mut base = begin + warp::warp_id() * keys_per_warp;
    while base < end {
        // Every lane of the warp makes the same rounds, since the score is summed over lanes; keys past the end
        // read the part's first key again and count nothing.
        let (mut keys, mut values) = ([C::ZEROS; UNROLL], [C::ZEROS; UNROLL]);
        let mut u = 0;
        while u < UNROLL {
            let key = base + group + u as u32 * stride;
            let existing = if key < end { key } else { begin };
            if active {
                keys[u] = k_cache.load(first_place, existing, dim, first_dim);
                values[u] = v_cache.load(first_place, existing, dim, first_dim);
            }
            u += 1;
        }
        let mut score = [NO_SCORE; UNROLL];
        let mut u = 0;
        while u < UNROLL {
            let dot = sum_over(C::dot(&query, keys[u]), lanes_per_key);
            if base + group + u as u32 * stride < end {
                score[u] = if CAPPED { softcap * math::tanh(dot * inverse_cap) } else { dot };
            }
            u += 1;
        }
        part.add::<C>(score, &values);
        base += stride * UNROLL as u32;
    }

    // Join the lane groups of a warp, then the warps of the block.
    let mut offset = lanes_per_key;
    while offset < 32 {
        part.join_lanes(offset);
        offset *= 2;
    }
    let mut shared = Shared::new();
    let ml = shared.tile::<f32>(2 * WARPS as usize);
    let acc = shared.tile::<f32>(WARPS as usize * MAX_HEAD_DIM);
    let warp = warp::warp_id() as usize;
    if group == 0 {
        if sub == 0 {
            ml.set(2 * warp, part.m);
            ml.set(2 * warp + 1, part.l);
        }
        if active {
            let [a, b, c, d, e, f, g, h] = part.acc;
            acc.store::<4>(warp * MAX_HEAD_DIM + first_dim, [a, b, c, d]);
            acc.store::<4>(warp * MAX_HEAD_DIM + first_dim + 4, [e, f, g, h]);
        }
    }
    thread::sync_threads();

    let mut m = NO_SCORE;
    let mut w = 0;
    while w < WARPS as usize {
        m = math::max(m, ml.get(2 * w));
        w += 1;
    }
    let out_row = row * thread::grid_dim_y() as usize + split as usize;
    let mut dim_idx = thread::thread_idx_x() as usize;
    while dim_idx < dim {
        let (mut l, mut sum) = (0.0, 0.0);
        let mut w = 0;
        while w < WARPS as usize {
            let weight = math::exp(ml.get(2 * w) - m);
            l += ml.get(2 * w + 1) * weight;
            sum += acc.get(w * MAX_HEAD_DIM + dim_idx) * weight;
            w += 1;
        }
        part_out.set(out_row * dim + dim_idx, if l > 0.0 { math::div(sum, l) } else { 0.0 });
        if dim_idx == 0 {
            part_ml.store::<2>(out_row * 2, [m, l]);
        }
        dim_idx += THREADS as usize;
    }
}

/// What a lane knows of its keys: largest score, sum of weights, and its eight dimensions of Σ weight · value.
struct Part {
    m: f32,
    l: f32,
    acc: [f32; 8],
}

impl Part {
    /// Takes in [`UNROLL`] keys with their scores; a score of [`NO_SCORE`] marks a key that is not there.
    #[inline(always)]
    fn add<C: Cache>(&mut self, score: [f32; UNROLL], values: &[C::Eight; UNROLL]) {
        let mut m = self.m;
        let mut u = 0;
        while u < UNROLL {
            m = math::max(m, score[u]);
            u += 1;
        }
        self.rescale(m);
        let mut u = 0;
        while u < UNROLL {
            let weight = if score[u] > NO_SCORE { math::exp(score[u] - m) } else { 0.0 };
            self.l += weight;
            C::add(&mut self.acc, weight, values[u]);
            u += 1;
        }
    }

    /// Adds the part of the lane `offset` away, which holds the same dimensions of other keys.
    #[inline(always)]
    fn join_lanes(&mut self, offset: u32) {
        let m = math::max(self.m, warp::shuffle_xor(self.m, offset));
        self.rescale(m);
        self.l += warp::shuffle_xor(self.l, offset);
        let mut i = 0;
        while i < 8 {
            self.acc[i] += warp::shuffle_xor(self.acc[i], offset);
            i += 1;
        }
    }

    /// Makes the weights relative to a new largest score.
    #[inline(always)]
    fn rescale(&mut self, m: f32) {
        let factor = math::exp(self.m - m);
        self.m = m;
        self.l *= factor;
        let mut i = 0;
        while i < 8 {
            self.acc[i] *= factor;
            i += 1;
        }
    }
}

/// Sum over `n_lanes` neighbouring lanes, a power of two; every one of them gets it.
#[inline(always)]
fn sum_over(value: f32, n_lanes: u32) -> f32 {
    let mut sum = value;
    let mut offset = n_lanes / 2;
    while offset > 0 {
        sum += warp::shuffle_xor(sum, offset);
        offset /= 2;
    }
    sum
}

/// Bytes that [`attention_decode_f16`] must move for one token: the keys and values of its context, read once.
pub const fn attention_decode_bytes(n_keys: usize, n_kv_heads: usize, head_dim: usize) -> usize {
    2 * 2 * n_keys * n_kv_heads * head_dim
}

/// The same of [`attention_decode_q8_0`].
pub const fn attention_decode_q8_0_bytes(n_keys: usize, n_kv_heads: usize, head_dim: usize) -> usize {
    2 * n_keys * n_kv_heads * (head_dim + 2 * q8_0_blocks(head_dim))
}

/// Floating-point operations of attention of one token over `n_keys` keys: two products of length head_dim a key.
pub const fn attention_decode_flops(n_keys: usize, n_heads: usize, head_dim: usize) -> usize {
    4 * n_keys * n_heads * head_dim
}
