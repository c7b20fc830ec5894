//! Attention of many new tokens at once: tiles of queries pass over tiles of keys with a running softmax
//! (FlashAttention, Dao et al. 2022, <https://arxiv.org/abs/2205.14135>).

use crate::simt::prelude::*;

/// Threads of a block: eight warps.
pub const THREADS: u32 = 256;

/// Queries that a warp holds.
const QUERIES_PER_WARP: usize = 4;

/// Queries that a block holds.
pub const TILE_QUERIES: usize = QUERIES_PER_WARP * THREADS as usize / 32;

/// Keys of a tile: one a lane while scores are computed.
const TILE_KEYS: usize = 32;

/// The score of a key that is not there; see `attention_decode.rs`.
const NO_SCORE: f32 = -1.0e30;

/// Bytes of shared memory for heads of up to `dim` elements: the block's queries, a tile of keys whose rows are an odd
/// number of 16-byte units apart, a tile of values, and the weights of each warp.
const fn shared_bytes(dim: usize) -> usize {
    let queries = TILE_QUERIES * dim * 4;
    let keys = TILE_KEYS * (dim / 8 + 1) * 16;
    let values = TILE_KEYS * dim * 2;
    let weights = TILE_QUERIES * TILE_KEYS * 4;
    queries + keys + values + weights
}

macro_rules! entry {
    ($name:ident, $max_dim:literal, [$($limits:tt)*], $variant:expr, [$($sinks:ident)?], [$($window:ident)?], [$($softcap:ident)?], $doc:literal) => {
        #[doc = $doc]
        ///
        /// y = softmax(q·Kᵀ · scale, keys up to each query's own position)·V. `y`, `q [n_tokens, n_heads, head_dim]`;
        /// `k_cache`, `v_cache [n_kv_heads, n_ctx, head_dim]`, already holding the new tokens; `positions [n_tokens]`.
        /// Query head h reads the keys of head h · n_kv_heads / n_heads.
        $(
            ///
            #[doc = concat!("A query sees the last `", stringify!($window), "` keys up to its own position, at least 1.")]
        )?
        $(
            #[doc = concat!("`", stringify!($sinks), " [n_heads]`: exp(sink) counts in the softmax's denominator; −∞ is none.")]
        )?
        $(
            #[doc = concat!("A score s becomes ", stringify!($softcap), " · tanh(s / ", stringify!($softcap), ").")]
        )?
        ///
        /// Grid: ⌈n_tokens / 32⌉ × n_heads. Requires: head_dim a multiple of 8; n_heads a multiple of n_kv_heads;
        /// positions ascending and < n_ctx.
        /// Fast because: (1) a tile of keys is read from the cache once for 32 queries, by 16-byte loads; (2) a lane
        /// scores one key against four queries, so a key's element is read from shared memory once for four products;
        /// (3) rows of keys are an odd number of 16-byte units apart, so eight lanes read eight different banks' groups.
        #[kernel(threads = 256, shared = shared_bytes($max_dim), $($limits)* pdl)]
        pub fn $name(
            y: Out<f32>,
            q: In<f32>,
            k_cache: In<f16>,
            v_cache: In<f16>,
            positions: In<u32>,
            $($sinks: In<f32>,)?
            n_tokens: u32,
            n_heads: u32,
            n_kv_heads: u32,
            head_dim: u32,
            n_ctx: u32,
            scale: f32,
            $($window: u32,)?
            $($softcap: f32,)?
        ) {
            let shape = Shape {
                n_tokens,
                n_heads,
                n_kv_heads,
                head_dim,
                n_ctx,
                scale,
                window: [$($window,)? u32::MAX][0],
                softcap: [$($softcap,)? 0.0][0],
                sink: [$($sinks.get(thread::block_idx_y() as usize),)? NO_SCORE][0],
            };
            attention_prefill::<{ $max_dim / 64 }, { $variant }>(y, q, k_cache, v_cache, positions, shape);
        }
    };
}

/// All keys up to the query's own.
const PLAIN: u32 = 0;
/// The last keys only, and a sink.
const WINDOW_SINK: u32 = 1;
/// The last keys only, and scores that are soft-capped.
const WINDOW_SOFTCAP: u32 = 2;

entry!(
    attention_prefill_f16_d64,
    64,
    [],
    PLAIN,
    [],
    [],
    [],
    "Prefill attention for heads of up to 64 elements."
);
entry!(
    attention_prefill_f16_d128,
    128,
    [],
    PLAIN,
    [],
    [],
    [],
    "Prefill attention for heads of up to 128 elements."
);
entry!(
    attention_prefill_f16_d256,
    256,
    [],
    PLAIN,
    [],
    [],
    [],
    "Prefill attention for heads of up to 256 elements."
);
entry!(
    attention_prefill_sink_f16_d64,
    64,
    [],
    WINDOW_SINK,
    [sinks],
    [window],
    [],
    "Prefill attention over a window, with sinks, for heads of up to 64 elements."
);
entry!(
    attention_prefill_sink_f16_d128,
    128,
    [],
    WINDOW_SINK,
    [sinks],
    [window],
    [],
    "Prefill attention over a window, with sinks, for heads of up to 128 elements."
);
entry!(
    attention_prefill_sink_f16_d256,
    256,
    [max_regs = 168,],
    WINDOW_SINK,
    [sinks],
    [window],
    [],
    "Prefill attention over a window, with sinks, for heads of up to 256 elements."
);
entry!(
    attention_prefill_softcap_f16_d64,
    64,
    [],
    WINDOW_SOFTCAP,
    [],
    [window],
    [softcap],
    "Prefill attention over a window, soft-capped, for heads of up to 64 elements."
);
entry!(
    attention_prefill_softcap_f16_d128,
    128,
    [],
    WINDOW_SOFTCAP,
    [],
    [window],
    [softcap],
    "Prefill attention over a window, soft-capped, for heads of up to 128 elements."
);
entry!(
    attention_prefill_softcap_f16_d256,
    256,
    [max_regs = 168,],
    WINDOW_SOFTCAP,
    [],
    [window],
    [softcap],
    "Prefill attention over a window, soft-capped, for heads of up to 256 elements."
);

struct Shape {
    n_tokens: u32,
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,
    n_ctx: u32,
    scale: f32,
    /// Keys that a query sees at most.
    window: u32,
    softcap: f32,
    /// The head's logit without a value; [`NO_SCORE`] counts nothing.
    sink: f32,
}

/// What a warp knows of one query: largest score, sum of weights, and Σ weight · value; lane `l` holds the dimensions
/// 64c + 2l and 64c + 2l + 1 for each c < PAIRS.
#[derive(Clone, Copy)]
struct Query<const PAIRS: usize> {
    m: f32,
    l: f32,
    acc: [[f32; 2]; PAIRS],
}

impl<const PAIRS: usize> Query<PAIRS> {
    /// Takes in a key with this score and no value.
    #[inline(always)]
    fn add_sink(&mut self, sink: f32) {
        let m = math::max(self.m, sink);
        let factor = math::exp(self.m - m);
        self.m = m;
        self.l = self.l * factor + math::exp(sink - m);
        let mut c = 0;
        while c < PAIRS {
            self.acc[c][0] *= factor;
            self.acc[c][1] *= factor;
            c += 1;
        }
    }
}

#[inline(always)]
fn attention_prefill<const PAIRS: usize, const VARIANT: u32>(
    y: Out<f32>,
    q: In<f32>,
    k_cache: In<f16>,
    v_cache: In<f16>,
    positions: In<u32>,
    shape: Shape,
) {
    pdl::launch_dependents();
    pdl::wait();
    let dim = shape.head_dim as usize;
    let max_dim = PAIRS * 64;
    let key_stride = ((dim / 8) | 1) * 8; // in elements; odd in units of 16 bytes
    let mut shared = Shared::new();
    let queries = shared.tile::<f32>(TILE_QUERIES * max_dim);
    let keys = shared.tile::<f16>(TILE_KEYS * (max_dim + 8));
    let values = shared.tile::<f16>(TILE_KEYS * max_dim);
    let weights = shared.tile::<f32>(TILE_QUERIES * TILE_KEYS);

    let tid = thread::thread_idx_x() as usize;
    let (warp, lane) = (warp::warp_id() as usize, warp::lane_id() as usize);
    let head = thread::block_idx_y();
    let n_tokens = shape.n_tokens as usize;
    let first_token = thread::block_idx_x() as usize * TILE_QUERIES;
    let n_queries = (n_tokens - first_token).min(TILE_QUERIES);
    let head_start = (head * shape.n_kv_heads / shape.n_heads) as usize * shape.n_ctx as usize * dim;

    // The block's queries, scaled; rows past the last token are zero and never written out.
    let mut i = tid * 4;
    while i < TILE_QUERIES * dim {
        let (row, d) = (i / dim, i % dim);
        let mut four = [0.0; 4];
        if row < n_queries {
            let token = first_token + row;
            let [a, b, c, e] = q.load::<4>((token * shape.n_heads as usize + head as usize) * dim + d);
            four = [a * shape.scale, b * shape.scale, c * shape.scale, e * shape.scale];
        }
        queries.store::<4>(row * dim + d, four);
        i += THREADS as usize * 4;
    }

    let first_query = warp * QUERIES_PER_WARP;
    let mut last_key = [0u32; QUERIES_PER_WARP];
    let mut state = [Query::<PAIRS> { m: NO_SCORE, l: 0.0, acc: [[0.0; 2]; PAIRS] }; QUERIES_PER_WARP];
    let mut j = 0;
    while j < QUERIES_PER_WARP {
        let row = (first_query + j).min(n_queries - 1);
        last_key[j] = positions.get(first_token + row);
        j += 1;
    }
    let n_keys = positions.get(first_token + n_queries - 1) as usize + 1;

    // The first query sees the oldest keys.
    let mut first_key = match VARIANT {
        PLAIN => 0,
        _ => (positions.get(first_token) + 1).saturating_sub(shape.window) as usize,
    };
    let inverse_cap = if VARIANT == WINDOW_SOFTCAP { math::rcp(shape.softcap) } else { 0.0 };
    while first_key < n_keys {
        thread::sync_threads(); // the tile before is used up (and, the first time, the queries are there)
        let mut i = tid * 8;
        while i < TILE_KEYS * dim {
            let (row, d) = (i / dim, i % dim);
            let key = (first_key + row).min(n_keys - 1); // past the end: any written key, masked below
            let at = head_start + key * dim + d;
            keys.store::<8>(row * key_stride + d, k_cache.load::<8>(at));
            values.store::<8>(row * dim + d, v_cache.load::<8>(at));
            i += THREADS as usize * 8;
        }
        thread::sync_threads();

        let mut score = scores(queries, keys, first_query, lane, dim, key_stride);
        let mut j = 0;
        while j < QUERIES_PER_WARP {
            let key = (first_key + lane) as u32;
            let mut visible = key <= last_key[j];
            if VARIANT != PLAIN {
                visible = visible && last_key[j] - key < shape.window;
            }
            if VARIANT == WINDOW_SOFTCAP {
                score[j] = shape.softcap * math::tanh(score[j] * inverse_cap);
            }
            if !visible {
                score[j] = NO_SCORE;
            }
            let m = math::max(state[j].m, warp::max_f32(score[j]));
            let weight = if visible { math::exp(score[j] - m) } else { 0.0 };
            let factor = math::exp(state[j].m - m);
            state[j].l = state[j].l * factor + warp::sum_f32(weight);
            state[j].m = m;
            let mut c = 0;
            while c < PAIRS {
                state[j].acc[c][0] *= factor;
                state[j].acc[c][1] *= factor;
                c += 1;
            }
            score[j] = weight;
            j += 1;
        }
        weights.store::<4>((warp * TILE_KEYS + lane) * QUERIES_PER_WARP, score);
        warp::sync();
        add_values(&mut state, weights, values, warp, lane, dim);
        first_key += TILE_KEYS;
    }

    let mut j = 0;
    while j < QUERIES_PER_WARP {
        let row = first_query + j;
        if row < n_queries {
            let at = ((first_token + row) * shape.n_heads as usize + head as usize) * dim;
            if VARIANT == WINDOW_SINK {
                state[j].add_sink(shape.sink);
            }
            let mut c = 0;
            while c < PAIRS {
                let d = 64 * c + 2 * lane;
                if d < dim {
                    let [a, b] = state[j].acc[c];
                    y.store::<2>(at + d, [math::div(a, state[j].l), math::div(b, state[j].l)]);
                }
                c += 1;
            }
        }
        j += 1;
    }
}

/// Scores of the lane's key against the warp's queries.
#[inline(always)]
fn scores(
    queries: Tile<f32>,
    keys: Tile<f16>,
    first_query: usize,
    lane: usize,
    dim: usize,
    key_stride: usize,
) -> [f32; QUERIES_PER_WARP] {
    let mut score = [0.0; QUERIES_PER_WARP];
    let mut d = 0;
    while d < dim {
        let key = keys.load::<8>(lane * key_stride + d);
        let mut j = 0;
        while j < QUERIES_PER_WARP {
            let at = (first_query + j) * dim + d;
            let (low, high) = (queries.load::<4>(at), queries.load::<4>(at + 4));
            let mut i = 0;
            while i < 4 {
                score[j] = math::fma(low[i], key[i].to_f32(), score[j]);
                i += 1;
            }
            let mut i = 0;
            while i < 4 {
                score[j] = math::fma(high[i], key[i + 4].to_f32(), score[j]);
                i += 1;
            }
            j += 1;
        }
        d += 8;
    }
    score
}

/// Adds weight · value of a tile's keys to each query of the warp.
#[inline(always)]
fn add_values<const PAIRS: usize>(
    state: &mut [Query<PAIRS>; QUERIES_PER_WARP],
    weights: Tile<f32>,
    values: Tile<f16>,
    warp: usize,
    lane: usize,
    dim: usize,
) {
    let mut key = 0;
    while key < TILE_KEYS {
        let weight = weights.load::<4>((warp * TILE_KEYS + key) * QUERIES_PER_WARP);
        let mut c = 0;
        while c < PAIRS {
            let d = 64 * c + 2 * lane;
            if d < dim {
                let [a, b] = values.load::<2>(key * dim + d);
                let (a, b) = (a.to_f32(), b.to_f32());
                let mut j = 0;
                while j < QUERIES_PER_WARP {
                    state[j].acc[c][0] = math::fma(weight[j], a, state[j].acc[c][0]);
                    state[j].acc[c][1] = math::fma(weight[j], b, state[j].acc[c][1]);
                    j += 1;
                }
            }
            c += 1;
        }
        key += 1;
    }
}

/// Bytes that a launch must move at least: queries and results once, the keys and values of the context once.
pub const fn attention_prefill_bytes(
    n_tokens: usize,
    n_keys: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
) -> usize {
    2 * 4 * n_tokens * n_heads * head_dim + 2 * 2 * n_keys * n_kv_heads * head_dim
}

/// Floating-point operations of a launch with `n_keys` keys before and including the last token: two products of
/// length head_dim for each visible pair of query and key.
pub const fn attention_prefill_flops(
    n_tokens: usize,
    n_keys: usize,
    n_heads: usize,
    head_dim: usize,
) -> usize {
    let visible = n_tokens * (n_keys - n_tokens) + n_tokens * (n_tokens + 1) / 2;
    4 * visible * n_heads * head_dim
}
