//! Attention of single tokens over a long cache on the tensor cores: the query heads that share keys are the rows of one
//! product, so that the cache is read once.
//!
//! As in [`attention_decode`](crate::attention_decode) the keys are dealt to blocks, and
//! [`attention_merge_f32`](crate::attention_decode::attention_merge_f32) joins the parts. A block serves all query heads
//! of one head of keys. Its warps take tiles of keys in turn, each with a ring of its own in shared memory and a running
//! softmax of its own, so that none waits for another before the end.
//!
//! Products of f16 are exact, but queries and weights have more bits than f16. So each is the sum of two f16, a high and a low
//! part, which leaves errors near those of f32. The 16 rows of a product have room for both parts of 8 heads, and the
//! low parts cost nothing; for up to 16 heads there are two products.

#![allow(clippy::needless_range_loop, reason = "constant indices keep arrays in registers")]

mod joint;
mod softmax;

use crate::simt::matrix::mma_m16n8k16_f16;
use crate::simt::prelude::*;
use crate::simt::shared;

use joint::Joint;
use softmax::Softmax;

/// Warps of a block: as many as two blocks a multiprocessor have room for the rings of.
const fn warps(dim: usize) -> usize {
    if dim > 128 { 2 } else { 4 }
}
/// Keys of a tile: one step of the second product.
pub const TILE_KEYS: usize = 16;
/// Tiles of keys and of values in a warp's ring: one is used while the others fill.
const STAGES: usize = 3;
/// Heads of a group for one product; see the top of the file.
pub const NARROW_HEADS: usize = 8;
/// Heads of a group for two products.
pub const WIDE_HEADS: usize = 16;
/// Blocks that a multiprocessor holds at a time.
pub const BLOCKS_PER_MULTIPROCESSOR: usize = 2;

/// Elements of 16 bytes.
const CHUNK: usize = 8;
/// Elements that a step of the first product takes, and dimensions of a step of the second.
const STEP: usize = 16;

/// The score of a key that is not there; see `attention_decode.rs`.
const NO_SCORE: f32 = -1.0e30;
/// Weights are exp2(score − largest + this), so that small ones too have all bits in f16, of which the largest is below 2¹⁶.
const WEIGHT_EXPONENT: f32 = 15.0;

/// Elements of a tile of keys or of values.
const fn tile_len(dim: usize) -> usize {
    TILE_KEYS * dim
}

/// Elements from one row of sums to the next: each quarter of eight rows begins eight banks further.
const fn sums_stride(dim: usize) -> usize {
    dim + 8
}

/// Shared memory of a block: the rings, and later in their place the warps' sums; the warps' (m, l).
const fn shared_bytes(dim: usize, passes: usize) -> usize {
    let warps = warps(dim);
    let rings = shared::tile_bytes::<f16>(warps * STAGES * 2 * tile_len(dim));
    let sums = shared::tile_bytes::<f32>(warps * 8 * passes * sums_stride(dim));
    let ml = shared::tile_bytes::<f32>(warps * 8 * passes * 2);
    (if rings > sums { rings } else { sums }) + ml
}

macro_rules! entry {
    ($name:ident, $dim:literal, $passes:literal, [$($softcap:ident)?], $doc:literal) => {
        #[doc = $doc]
        ///
        /// Parts of attention as [`attention_decode_f16`](crate::attention_decode::attention_decode_f16) makes them, of all
        /// query heads of a head of keys at once.
        ///
        /// `part_out [n_tokens, n_heads, n_splits, head_dim]` receives Σ p·v / l and
        /// `part_ml [n_tokens, n_heads, n_splits, 2]` receives (m, l), with p = exp(score − m) over the part's keys.
        /// `q [n_tokens, n_heads, head_dim]`; `k_cache`, `v_cache [n_kv_heads, n_ctx, head_dim]`; `positions [n_tokens]`.
        /// Query head h reads the keys of head h · n_kv_heads / n_heads. A query sees the last `window` keys up to its
        /// own position; a window of n_ctx or more is none.
        $(
            #[doc = concat!("A score s becomes ", stringify!($softcap), " · tanh(s / ", stringify!($softcap), ").")]
        )?
        ///
        /// Grid: n_kv_heads × n_splits × n_tokens; [`n_splits`] tells how many. The number of parts does not depend on the
        /// position, so that one captured graph serves every step; parts beyond the keys leave l = 0.
        #[doc = concat!("Requires: n_heads a multiple of n_kv_heads, at most 8 · ", $passes, " times as many;")]
        /// positions < n_ctx; window at least 1; scale above 0; elements of q within ±65504.
        /// Fast because: (1) keys and values come from memory once for all heads that share them, in runs of 512 bytes a
        /// warp; (2) a warp has two tiles of keys and values in flight while it works on a third, 64 to 128 KB a
        /// multiprocessor, and waits for no other warp; (3) the tensor cores multiply; (4) chunks of 16 bytes lie
        /// swizzled, so that neither filling nor reading has a bank conflict.
        #[kernel(threads = 32 * warps($dim) as u32, shared = shared_bytes($dim, $passes), min_blocks = 2, pdl)]
        pub fn $name(
            part_out: Out<f32>,
            part_ml: Out<f32>,
            q: In<f32>,
            k_cache: In<f16>,
            v_cache: In<f16>,
            positions: In<u32>,
            n_heads: u32,
            n_kv_heads: u32,
            n_ctx: u32,
            scale: f32,
            window: u32,
            $($softcap: f32,)?
        ) {
            const CAPPED: bool = !matches!(stringify!($($softcap)?).as_bytes(), b"");
            let softcap = [$($softcap,)? 0.0][0];
            let shape = Shape { n_heads, n_kv_heads, n_ctx, scale, window, softcap };
            attention::<$dim, { $dim / STEP }, $passes, { warps($dim) }, CAPPED>(
                part_out, part_ml, q, k_cache, v_cache, positions, shape,
            );
        }
    };
}

entry!(attention_decode_mma_f16_d64, 64, 1, [], "Heads of 64 elements, up to 8 a head of keys.");
entry!(attention_decode_mma_f16_d80, 80, 1, [], "Heads of 80 elements, up to 8 a head of keys.");
entry!(attention_decode_mma_f16_d96, 96, 1, [], "Heads of 96 elements, up to 8 a head of keys.");
entry!(attention_decode_mma_f16_d128, 128, 1, [], "Heads of 128 elements, up to 8 a head of keys.");
entry!(attention_decode_mma_f16_d256, 256, 1, [], "Heads of 256 elements, up to 8 a head of keys.");
entry!(attention_decode_mma_wide_f16_d64, 64, 2, [], "Heads of 64 elements, up to 16 a head of keys.");
entry!(attention_decode_mma_wide_f16_d80, 80, 2, [], "Heads of 80 elements, up to 16 a head of keys.");
entry!(attention_decode_mma_wide_f16_d96, 96, 2, [], "Heads of 96 elements, up to 16 a head of keys.");
entry!(attention_decode_mma_wide_f16_d128, 128, 2, [], "Heads of 128 elements, up to 16 a head of keys.");
entry!(attention_decode_mma_softcap_f16_d64, 64, 1, [softcap], "Soft-capped scores, heads of 64 elements.");
entry!(attention_decode_mma_softcap_f16_d80, 80, 1, [softcap], "Soft-capped scores, heads of 80 elements.");
entry!(attention_decode_mma_softcap_f16_d96, 96, 1, [softcap], "Soft-capped scores, heads of 96 elements.");
entry!(
    attention_decode_mma_softcap_f16_d128,
    128,
    1,
    [softcap],
    "Soft-capped scores, heads of 128 elements."
);
entry!(
    attention_decode_mma_softcap_f16_d256,
    256,
    1,
    [softcap],
    "Soft-capped scores, heads of 256 elements."
);

#[derive(Clone, Copy)]
struct Shape {
    n_heads: u32,
    n_kv_heads: u32,
    n_ctx: u32,
    scale: f32,
    window: u32,
    softcap: f32,
}

/// `PASSES` is the number of products that multiply one step, and of rows of them that a lane has: heads `lane / 4 + 8r`.
#[inline(always)]
#[track_caller]
fn attention<
    const DIM: usize,
    const STEPS: usize,
    const PASSES: usize,
    const WARPS: usize,
    const CAPPED: bool,
>(
    part_out: Out<f32>,
    part_ml: Out<f32>,
    q: In<f32>,
    k_cache: In<f16>,
    v_cache: In<f16>,
    positions: In<u32>,
    shape: Shape,
) {
    let (warp, lane) = (warp::warp_id() as usize, warp::lane_id() as usize);
    let (kv_head, split, token) = (thread::block_idx_x(), thread::block_idx_y(), thread::block_idx_z());
    let n_splits = thread::grid_dim_y();
    let group = (shape.n_heads / shape.n_kv_heads) as usize;
    let first_row = (token * shape.n_heads) as usize + kv_head as usize * group;
    let ring = Shared::new().tile::<f16>(WARPS * STAGES * 2 * tile_len(DIM));
    let place = |stage: usize| (warp * STAGES + stage) * 2 * tile_len(DIM);
    pdl::launch_dependents();
    pdl::wait();

    let n_keys = positions.get(token as usize) + 1;
    let first_key = n_keys.saturating_sub(shape.window);
    let keys_per_split = (n_keys - first_key).div_ceil(n_splits).next_multiple_of(TILE_KEYS as u32);
    let begin = (first_key + split * keys_per_split).min(n_keys);
    let end = (begin + keys_per_split).min(n_keys);
    let cache_start = (kv_head * shape.n_ctx) as usize * DIM;
    let fill = |key: u32, stage: usize| {
        if key < end {
            let (first, n) = (cache_start + key as usize * DIM, (end - key) * (DIM / CHUNK) as u32);
            fill_tile::<DIM>(ring, place(stage), k_cache, first, n);
            fill_tile::<DIM>(ring, place(stage) + tile_len(DIM), v_cache, first, n);
        }
        // A group of nothing at the end, so that the groups stay as many as the stages.
        async_copy::commit();
    };
    let stride = (WARPS * TILE_KEYS) as u32;
    let mut key = begin + (warp * TILE_KEYS) as u32;
    for stage in 0..STAGES - 1 {
        fill(key + stage as u32 * stride, stage);
    }

    let queries = load_queries::<DIM, STEPS, PASSES>(q, first_row, group, lane);
    let mut softmax = Softmax::<PASSES, CAPPED>::new(&shape);
    let mut sums = [[[0.0f32; 4]; 2]; STEPS];
    let mut stage = 0;
    while key < end {
        async_copy::wait::<{ STAGES - 2 }>();
        // All lanes have their copies of this tile, and have used the one before, whose place is filled now.
        warp::sync();
        fill(key + (STAGES - 1) as u32 * stride, if stage == 0 { STAGES - 1 } else { stage - 1 });
        let scores = multiply_keys::<DIM, STEPS, PASSES>(&queries, ring, place(stage), lane);
        let (weights, shrink) = softmax.take(scores, end - key, lane as u32);
        for step in 0..STEPS {
            for half in 0..2 {
                for i in 0..4 {
                    sums[step][half][i] *= shrink[i / 2 * (PASSES - 1)];
                }
            }
        }
        add_values::<DIM, STEPS, PASSES>(&mut sums, &weights, ring, place(stage) + tile_len(DIM), lane);
        key += stride;
        stage = if stage == STAGES - 1 { 0 } else { stage + 1 };
    }
    async_copy::wait::<0>();
    thread::sync_threads();

    // The rings are used up: the warps' sums take their place.
    let joint = Joint::<DIM, PASSES, WARPS>::new();
    joint.put::<STEPS>(&sums, softmax.finish(), warp, lane);
    thread::sync_threads();
    let mut row = warp;
    while row < group {
        let out_row = (first_row + row) * n_splits as usize + split as usize;
        joint.store(part_out, part_ml, out_row, row, lane);
        row += WARPS;
    }
}

/// Where chunk `chunk` of key `key` of a tile begins. The chunks of a key keep their places but for an exclusive or, by
/// which the same chunk of eight keys, which `ldmatrix` reads at once, falls into all 32 banks.
#[inline(always)]
fn chunk_index<const DIM: usize>(key: usize, chunk: usize) -> usize {
    let chunks = DIM / CHUNK;
    // The power of two in the number of chunks, at most 8: eight keys begin at 8 / period different groups of banks.
    let period =
        const { 1 << if (DIM / CHUNK).trailing_zeros() < 3 { (DIM / CHUNK).trailing_zeros() } else { 3 } };
    (key * chunks + (chunk ^ (key / (8 / period) % period))) * CHUNK
}

/// Begins to copy a tile from element `first` of a cache on, of which `n_chunks` chunks exist; zeros for the others, whose
/// weights of zero make nothing of a number, but would of a NaN.
#[inline(always)]
#[track_caller]
fn fill_tile<const DIM: usize>(ring: Tile<f16>, place: usize, cache: In<f16>, first: usize, n_chunks: u32) {
    let lane = warp::lane_id() as usize;
    for turn in 0..tile_len(DIM) / CHUNK / 32 {
        let i = 32 * turn + lane;
        let to = place + chunk_index::<DIM>(i / (DIM / CHUNK), i % (DIM / CHUNK));
        ring.copy_async_or_zero::<CHUNK>(to, cache, first + i * CHUNK, (i as u32) < n_chunks);
    }
}

/// A left operand of products for each pass, from a lane's elements: of row r, the pairs in the first and in the second half
/// of the columns. High parts of the heads are above low parts in one operand, or in the first of two.
#[inline(always)]
fn operands<const PASSES: usize>(rows: [[[f32; 2]; 2]; PASSES]) -> [[u32; 4]; PASSES] {
    let mut operands = [[0; 4]; PASSES];
    for row in 0..PASSES {
        for half in 0..2 {
            let [a, b] = rows[row][half];
            let high = f16x2::from_f32(a, b);
            let (high_a, high_b) = high.to_f32();
            let low = f16x2::from_f32(a - high_a, b - high_b);
            operands[0][2 * half + row] = high.to_bits();
            if PASSES == 1 {
                operands[0][2 * half + 1] = low.to_bits();
            } else {
                operands[1 % PASSES][2 * half + row] = low.to_bits();
            }
        }
    }
    operands
}

/// What a lane has of its rows of a product: the two columns of each.
#[inline(always)]
fn rows_of<const PASSES: usize>(product: [f32; 4]) -> [[f32; 2]; PASSES] {
    let [a, b, c, d] = product;
    let mut rows = [[a + c, b + d]; PASSES];
    if PASSES == 2 {
        rows[0] = [a, b];
        rows[PASSES - 1] = [c, d];
    }
    rows
}

/// The group's queries as operands; rows without a head are zero.
#[inline(always)]
#[track_caller]
fn load_queries<const DIM: usize, const STEPS: usize, const PASSES: usize>(
    q: In<f32>,
    first_row: usize,
    group: usize,
    lane: usize,
) -> [[[u32; 4]; PASSES]; STEPS] {
    let mut queries = [[[0; 4]; PASSES]; STEPS];
    for step in 0..STEPS {
        let mut rows = [[[0.0; 2]; 2]; PASSES];
        for row in 0..PASSES {
            let head = lane / 4 + 8 * row;
            if head < group {
                let at = (first_row + head) * DIM + STEP * step + 2 * (lane % 4);
                rows[row] = [q.load::<2>(at), q.load::<2>(at + 8)];
            }
        }
        queries[step] = operands(rows);
    }
    queries
}

/// q · k of a lane's rows, each with keys 2p and 2p + 1, and 8 further, p = lane % 4.
#[inline(always)]
#[track_caller]
fn multiply_keys<const DIM: usize, const STEPS: usize, const PASSES: usize>(
    queries: &[[[u32; 4]; PASSES]; STEPS],
    ring: Tile<f16>,
    place: usize,
    lane: usize,
) -> [[[f32; 2]; 2]; PASSES] {
    // Four matrices of 8 × 8: eight keys by 16 elements, then eight more keys.
    let (key, chunk) = (lane / 16 * 8 + lane % 8, lane / 8 % 2);
    let mut products = [[0.0f32; 4]; 2];
    for step in 0..STEPS {
        let [b0, b1, b2, b3] = ring.ldmatrix_x4(place + chunk_index::<DIM>(key, 2 * step + chunk));
        for pass in 0..PASSES {
            products[0] = mma_m16n8k16_f16(queries[step][pass], [b0, b1], products[0]);
            products[1] = mma_m16n8k16_f16(queries[step][pass], [b2, b3], products[1]);
        }
    }
    let (first, second) = (rows_of::<PASSES>(products[0]), rows_of::<PASSES>(products[1]));
    let mut scores = [[[0.0; 2]; 2]; PASSES];
    for row in 0..PASSES {
        scores[row] = [first[row], second[row]];
    }
    scores
}

/// Adds weight · value of a tile.
#[inline(always)]
#[track_caller]
fn add_values<const DIM: usize, const STEPS: usize, const PASSES: usize>(
    sums: &mut [[[f32; 4]; 2]; STEPS],
    weights: &[[u32; 4]; PASSES],
    ring: Tile<f16>,
    place: usize,
    lane: usize,
) {
    // Four matrices of 8 × 8: 16 keys by eight dimensions, then eight more dimensions.
    let (key, chunk) = (lane % 16, lane / 16);
    for step in 0..STEPS {
        let [b0, b1, b2, b3] = ring.ldmatrix_x4_trans(place + chunk_index::<DIM>(key, 2 * step + chunk));
        for pass in 0..PASSES {
            sums[step][0] = mma_m16n8k16_f16(weights[pass], [b0, b1], sums[step][0]);
            sums[step][1] = mma_m16n8k16_f16(weights[pass], [b2, b3], sums[step][1]);
        }
    }
}

/// Heads that a head of keys may have at most, for heads of this many elements; none if there is no kernel.
pub const fn max_group(head_dim: usize) -> usize {
    match head_dim {
        64 | 80 | 96 | 128 => WIDE_HEADS,
        256 => NARROW_HEADS,
        _ => 0,
    }
}

/// Parts of the keys: as many as the multiprocessors hold blocks at a time, of four tiles
/// at least.
pub const fn n_splits(n_multiprocessors: usize, n_kv_heads: usize, n_tokens: usize, n_ctx: usize) -> usize {
    let at_once = BLOCKS_PER_MULTIPROCESSOR * n_multiprocessors / (n_kv_heads * n_tokens);
    let most = n_ctx.div_ceil(4 * TILE_KEYS);
    let n = if at_once < most { at_once } else { most };
    if n > 1 { n } else { 1 }
}
