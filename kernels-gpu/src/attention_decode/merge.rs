//! The merge of the parts of a token's attention, alone and with the conversion for a product.

#![allow(clippy::needless_range_loop, reason = "constant indices keep arrays in registers")]

use super::{MAX_HEAD_DIM, NO_SCORE};
use crate::gemv::{PADDED_COLS, XPlace, padded_quads};
use crate::simt::prelude::*;

/// Threads of a block of [`attention_merge_f32`]: eight warps, among which the parts are dealt.
pub const MERGE_THREADS: u32 = 256;
const MERGE_WARPS: usize = MERGE_THREADS as usize / 32;

/// Parts that a warp reads ahead before it uses them.
const MERGE_UNROLL: usize = 4;

/// Elements of a part that the lanes of a warp read at once.
const MERGE_RUN: usize = 4 * 32;

/// Shared memory of a block: what each warp knows of its parts.
const MERGE_SHARED_BYTES: usize = MERGE_WARPS * (1 + MAX_HEAD_DIM) * 4;

/// y = Σ outᵢ · lᵢ · exp(mᵢ − m) / Σ lᵢ · exp(mᵢ − m) over the parts i of each head, m the largest mᵢ.
///
/// `y [n_tokens, n_heads, head_dim]`; `part_out [n_tokens, n_heads, n_splits, head_dim]`; `part_ml`
/// [n_tokens, n_heads, n_splits, 2].
///
/// Grid: n_heads × n_tokens. Requires: head_dim a multiple of 4, at most 256; the first part of a head has at least one
/// key (l > 0).
/// Fast because: (1) each lane reads 16 bytes of a part, and 32 parts are in flight, so that a hundred of them take a few
/// latencies of the L2 cache, where they still are; (2) a warp finds the largest m of 32 parts at once.
#[kernel(threads = MERGE_THREADS, shared = MERGE_SHARED_BYTES, pdl)]
pub fn attention_merge_f32(
    y: Out<f32>,
    part_out: In<f32>,
    part_ml: In<f32>,
    n_heads: u32,
    n_splits: u32,
    head_dim: u32,
) {
    merge(y, part_out, part_ml, n_heads, n_splits, head_dim, NO_SCORE, |_| ());
}

/// As [`attention_merge_f32`], with a sink: exp(sink − m) more in the denominator, m the largest of all mᵢ and the sink.
///
/// `sinks [n_heads]`, one more logit for each head, which has no value.
///
/// Grid, Fast because: as [`attention_merge_f32`]. Requires: the same.
#[kernel(threads = MERGE_THREADS, shared = MERGE_SHARED_BYTES, pdl)]
pub fn attention_merge_sink_f32(
    y: Out<f32>,
    part_out: In<f32>,
    part_ml: In<f32>,
    sinks: In<f32>,
    n_heads: u32,
    n_splits: u32,
    head_dim: u32,
) {
    // A weight, written before any launch of the step.
    let sink = sinks.get(thread::block_idx_x() as usize);
    merge(y, part_out, part_ml, n_heads, n_splits, head_dim, sink, |_| ());
}

/// As [`attention_merge_f32`] of one token, and y converted for a product, as [`gemv_x`](crate::gemv::gemv_x_fixed) does it.
///
/// `words`, `numbers`: as many as [`XOrder::len`](crate::gemv::XOrder::len) says; `order`: its
/// [`code`](crate::gemv::XOrder::code).
///
/// Grid: n_heads. Requires: the same; head_dim a multiple of [`XOrder::group_cols`](crate::gemv::XOrder::group_cols).
/// Fast because: the same; the conversion is worth some instructions, a launch of its own more than a microsecond.
#[kernel(threads = MERGE_THREADS, shared = MERGE_SHARED_BYTES, pdl)]
pub fn attention_merge_f32_converted(
    y: Out<f32>,
    words: Out<u32>,
    numbers: Out<f32>,
    part_out: In<f32>,
    part_ml: In<f32>,
    n_heads: u32,
    n_splits: u32,
    head_dim: u32,
    order: u32,
) {
    let head = thread::block_idx_x() as usize;
    let head_quads = head_dim as usize / 4;
    let first = head * head_quads;
    // The last head's block has the padding, too.
    let n_quads = if head + 1 < n_heads as usize {
        head_quads
    } else {
        padded_quads(n_heads as usize * head_dim as usize) - first
    };
    let x = XPlace { words, numbers, order };
    merge(y, part_out, part_ml, n_heads, n_splits, head_dim, NO_SCORE, |values| {
        let i = thread::thread_idx_x() as usize;
        // Whole warps, of which some lanes may have nothing.
        if i - i % 32 < n_quads {
            x.store(first + i, values, i < n_quads);
        }
    });
}

/// A sink of [`NO_SCORE`] counts nothing. `after` gets elements 4 t to 4 t + 3 of the head in thread t, zeros where there are none.
#[allow(clippy::too_many_arguments, reason = "a kernel's, and what follows it")]
#[inline(always)]
fn merge(
    y: Out<f32>,
    part_out: In<f32>,
    part_ml: In<f32>,
    n_heads: u32,
    n_splits: u32,
    head_dim: u32,
    sink: f32,
    after: impl Fn([f32; 4]),
) {
    pdl::launch_dependents();
    pdl::wait();
    let mut shared = Shared::new();
    let totals = shared.tile::<f32>(MERGE_WARPS);
    let sums = shared.tile::<f32>(MERGE_WARPS * MAX_HEAD_DIM);
    let (warp, lane) = (warp::warp_id() as usize, warp::lane_id() as usize);
    let row = (thread::block_idx_y() * n_heads + thread::block_idx_x()) as usize;
    let (n_splits, dim) = (n_splits as usize, head_dim as usize);
    let first_part = row * n_splits;

    // Every warp for itself.
    let mut m = sink;
    let mut split = lane;
    while split < n_splits {
        m = math::max(m, part_ml.get((first_part + split) * 2));
        split += 32;
    }
    let m = warp::max_f32(m);

    let (mut total, mut sum) = (0.0, [[0.0; 4]; MAX_HEAD_DIM / MERGE_RUN]);
    let mut first = warp;
    while first < n_splits {
        // A part that is not there has no weight.
        let mut ml = [[m, 0.0]; MERGE_UNROLL];
        let mut outs = [[[0.0; 4]; MAX_HEAD_DIM / MERGE_RUN]; MERGE_UNROLL];
        for u in 0..MERGE_UNROLL {
            let part = first_part + first + u * MERGE_WARPS;
            if first + u * MERGE_WARPS < n_splits {
                ml[u] = part_ml.load::<2>(part * 2);
                for run in 0..MAX_HEAD_DIM / MERGE_RUN {
                    let dim_idx = run * MERGE_RUN + 4 * lane;
                    if dim_idx < dim {
                        outs[u][run] = part_out.load::<4>(part * dim + dim_idx);
                    }
                }
            }
        }
        for u in 0..MERGE_UNROLL {
            let [part_m, part_l] = ml[u];
            let weight = part_l * math::exp(part_m - m);
            total += weight;
            for run in 0..MAX_HEAD_DIM / MERGE_RUN {
                for i in 0..4 {
                    sum[run][i] = math::fma(weight, outs[u][run][i], sum[run][i]);
                }
            }
        }
        first += MERGE_WARPS * MERGE_UNROLL;
    }
    if lane == 0 {
        totals.set(warp, total);
    }
    for run in 0..MAX_HEAD_DIM / MERGE_RUN {
        let dim_idx = run * MERGE_RUN + 4 * lane;
        if dim_idx < dim {
            sums.store::<4>(warp * MAX_HEAD_DIM + dim_idx, sum[run]);
        }
    }
    thread::sync_threads();

    let dim_idx = 4 * thread::thread_idx_x() as usize;
    let mut values = [0.0; 4];
    if dim_idx < dim {
        let mut total = math::exp(sink - m);
        for warp in 0..MERGE_WARPS {
            total += totals.get(warp);
            let part = sums.load::<4>(warp * MAX_HEAD_DIM + dim_idx);
            for i in 0..4 {
                values[i] += part[i];
            }
        }
        for i in 0..4 {
            values[i] = math::div(values[i], total);
        }
        y.store(row * dim + dim_idx, values);
    }
    after(values);
}

const _: () = assert!(4 * MERGE_THREADS as usize >= MAX_HEAD_DIM + PADDED_COLS);
