//! Attention of many new tokens on Hopper's tensor cores: one pass over the keys with a running softmax
//! (FlashAttention-3, Shah et al. 2024, <https://arxiv.org/abs/2407.08608>).
//!
//! A block works on 128 queries of one head at a time. Its producer keeps tiles of keys and values coming; each of its two
//! consumers owns 64 queries. A consumer has the tensor cores work on two things at once: the scores of the next tile of
//! keys, and the sum of this tile's values; while the sum goes on, it turns the new scores into weights. The
//! consumers take turns at starting products, so that while one is busy with weights, the other's products fill
//! the tensor cores. Blocks stay, and whichever is free takes the next piece; its keys are on their way while the last
//! piece ends.

#![allow(clippy::needless_range_loop, reason = "constant indices keep arrays in registers")]

mod piece;
#[cfg(not(target_arch = "nvptx64"))]
pub mod prefill;
mod softmax;

use crate::simt::boxes::{InBoxes, Rows, rows_bytes};
use crate::simt::mbarrier::{self, Barriers, Place};
use crate::simt::prelude::*;
use crate::simt::shared;
use crate::simt::wgmma::{self, Accumulators};
use piece::{Shape, take_piece};
use softmax::{Packed, Softmax, pack};

/// Threads of a block: the producer's warpgroup and two consumers.
pub const THREADS: u32 = 3 * wgmma::SIZE;
/// Queries of a block.
pub const TILE_QUERIES: u32 = 128;
/// Queries of a consumer.
const CONSUMER_QUERIES: u32 = 64;
/// Warps of the two consumers.
const CONSUMER_WARPS: usize = (2 * wgmma::SIZE / warp::SIZE) as usize;
/// Keys of a tile.
pub const TILE_KEYS: u32 = 128;
/// Dimensions of a box.
const BOX_DIMS: u32 = 64;
/// Scores of a thread: 64 queries by [`TILE_KEYS`] keys in a warpgroup.
const SCORES: usize = 64;
/// Tiles of keys, and of values, in shared memory.
const STAGES: usize = 2;

const LOG2_E: f32 = core::f32::consts::LOG2_E;

/// Shared memory of a block: queries, and the stages of keys and values.
const fn shared_bytes(dim: u32) -> usize {
    let boxes = dim.div_ceil(BOX_DIMS) as usize;
    rows_bytes(boxes * (TILE_QUERIES as usize + 2 * STAGES * TILE_KEYS as usize))
        + shared::tile_bytes::<u32>(CONSUMER_WARPS)
        + 3 * mbarrier::bytes(2)
        + 4 * mbarrier::bytes(STAGES)
}

macro_rules! entry {
    ($name:ident, $dim:literal, $doc:literal) => {
        #[doc = $doc]
        ///
        /// y = softmax(q·Kᵀ · scale, keys up to each query's own position)·V. `y [n_tokens, n_heads, head_dim]`,
        /// `q [n_tokens, n_heads · head_dim]`; `k_cache`, `v_cache [n_kv_heads · n_ctx, head_dim]`, already holding the new
        /// tokens; `positions [n_tokens]`; `next [1]`, zero before and after. y is f32, the others f16. Query head h reads the keys of head h · n_kv_heads / n_heads. Scores and sums in
        /// f32, weights in f16.
        ///
        /// Grid: any number of blocks up to n_heads · ⌈n_tokens / 128⌉, best one a multiprocessor.
        /// Requires: compute capability 9.0; n_heads a multiple of n_kv_heads; positions ascending and < n_ctx; finite
        /// numbers in the whole caches, also where no token is yet.
        /// Fast because: (1) `wgmma` makes scores and sums, with the weights in registers; (2) the copy engine loads
        /// tiles two ahead; (3) the weights of one tile are made while the tensor cores work on the tile before, and on
        /// the other consumer's; (4) pieces with the longest pasts come first, and go to whichever block is free, so that
        /// blocks end together; (5) so many heads at a time as have room for their keys in the second-level cache.
        #[kernel(threads = THREADS, shared = shared_bytes($dim), min_blocks = 1, pdl, sm_90a)]
        pub fn $name(
            y: Out<f32>,
            q: InBoxes<f16, TILE_QUERIES>,
            k_cache: InBoxes<f16, TILE_KEYS>,
            v_cache: InBoxes<f16, TILE_KEYS>,
            positions: In<u32>,
            next: InOut<u32>,
            n_tokens: u32,
            n_heads: u32,
            n_kv_heads: u32,
            n_ctx: u32,
            heads_at_once: u32,
            scale: f32,
        ) {
            let shape = Shape { n_tokens, n_heads, n_kv_heads, n_ctx, heads_at_once, scale };
            attention::<$dim, { $dim / 2 }, { ($dim as usize).div_ceil(BOX_DIMS as usize) }>(
                y, q, k_cache, v_cache, positions, next, shape,
            );
        }
    };
}

entry!(attention_wgmma_f16_d64, 64, "Prefill attention for heads of 64 elements.");
entry!(attention_wgmma_f16_d96, 96, "Prefill attention for heads of 96 elements.");
entry!(attention_wgmma_f16_d128, 128, "Prefill attention for heads of 128 elements.");

/// Shared memory: boxes of 64 dimensions, one below the other.
#[derive(Clone, Copy)]
struct Tiles<const BOXES: usize> {
    q: Rows<f16>,
    k: Rows<f16>,
    v: Rows<f16>,
    /// The piece that the queries are of, told to each warp.
    piece: Tile<u32>,
    q_full: Barriers,
    q_empty: Barriers,
    /// Whose turn it is: one barrier a consumer.
    turns: Barriers,
    k_full: Barriers,
    k_empty: Barriers,
    v_full: Barriers,
    v_empty: Barriers,
}

impl<const BOXES: usize> Tiles<BOXES> {
    const STAGE_ROWS: usize = BOXES * TILE_KEYS as usize;

    #[inline(always)]
    #[track_caller]
    fn new() -> Self {
        let mut shared = Shared::new();
        let tiles = Tiles {
            q: shared.rows(BOXES * TILE_QUERIES as usize),
            k: shared.rows(STAGES * Self::STAGE_ROWS),
            v: shared.rows(STAGES * Self::STAGE_ROWS),
            piece: shared.tile(CONSUMER_WARPS),
            q_full: shared.barriers(1),
            q_empty: shared.barriers(1),
            turns: shared.barriers(2),
            k_full: shared.barriers(STAGES),
            k_empty: shared.barriers(STAGES),
            v_full: shared.barriers(STAGES),
            v_empty: shared.barriers(STAGES),
        };
        if thread::thread_idx_x() == 0 {
            // One arrival a warp of the consumers.
            const WARPS: u32 = CONSUMER_WARPS as u32;
            tiles.q_full.init(0, 1);
            tiles.q_empty.init(0, WARPS);
            tiles.turns.init(0, WARPS / 2);
            tiles.turns.init(1, WARPS / 2);
            for stage in 0..STAGES {
                tiles.k_full.init(stage, 1);
                tiles.v_full.init(stage, 1);
                tiles.k_empty.init(stage, WARPS);
                tiles.v_empty.init(stage, WARPS);
            }
            mbarrier::fence_init();
        }
        thread::sync_threads();
        tiles
    }

    #[inline(always)]
    fn k_stage(&self, place: Place) -> Rows<f16> {
        self.k.at_row(place.stage * Self::STAGE_ROWS)
    }

    #[inline(always)]
    fn v_stage(&self, place: Place) -> Rows<f16> {
        self.v.at_row(place.stage * Self::STAGE_ROWS)
    }
}

#[inline(always)]
#[track_caller]
fn attention<const DIM: usize, const SUMS: usize, const BOXES: usize>(
    y: Out<f32>,
    q: InBoxes<f16, TILE_QUERIES>,
    k_cache: InBoxes<f16, TILE_KEYS>,
    v_cache: InBoxes<f16, TILE_KEYS>,
    positions: In<u32>,
    next: InOut<u32>,
    shape: Shape,
) {
    let tiles = Tiles::<BOXES>::new();
    pdl::launch_dependents();
    pdl::wait();
    // (Said out loud for ptxas, so that it sees warps that stay together.)
    let warpgroup = warp::shuffle_idx(thread::thread_idx_x() / wgmma::SIZE, 0);
    if warpgroup == 0 {
        wgmma::release_registers::<24>();
        if thread::thread_idx_x() == 0 {
            produce::<DIM, BOXES>(q, k_cache, v_cache, positions, next, tiles, shape);
        }
    } else {
        wgmma::take_registers::<240>();
        consume::<DIM, SUMS, BOXES>(y, positions, tiles, shape, warpgroup - 1);
    }
}

/// Loads the queries of each piece, and then keys and values, the last tile first.
#[inline(always)]
#[track_caller]
fn produce<const DIM: usize, const BOXES: usize>(
    q: InBoxes<f16, TILE_QUERIES>,
    k_cache: InBoxes<f16, TILE_KEYS>,
    v_cache: InBoxes<f16, TILE_KEYS>,
    positions: In<u32>,
    next: InOut<u32>,
    tiles: Tiles<BOXES>,
    shape: Shape,
) {
    const BOX_BYTES: u32 = InBoxes::<f16, TILE_KEYS>::BYTES;
    let n_pieces = shape.n_pieces();
    let (mut i, mut parity, mut place) = (thread::block_idx_x(), 0, Place::START);
    loop {
        // The first round finds everything empty: the phase before the first counts as complete.
        tiles.q_empty.wait(0, parity ^ 1);
        tiles.piece.store::<4>(0, [i; 4]);
        tiles.piece.store::<4>(4, [i; 4]);
        if i >= n_pieces {
            tiles.q_full.arrive(0);
            return;
        }
        let piece = shape.piece(positions, i);
        tiles.q_full.arrive_expect(0, BOXES as u32 * InBoxes::<f16, TILE_QUERIES>::BYTES);
        for part in 0..BOXES {
            let col = piece.head * DIM as u32 + part as u32 * BOX_DIMS;
            q.load(tiles.q.at_row(part * TILE_QUERIES as usize), tiles.q_full, 0, piece.first_token, col);
        }
        let mut tile = piece.n_key_tiles;
        while tile > 0 {
            tile -= 1;
            let row = piece.first_key + tile * TILE_KEYS;
            tiles.k_empty.wait(place.stage, place.parity ^ 1);
            tiles.k_full.arrive_expect(place.stage, BOXES as u32 * BOX_BYTES);
            for part in 0..BOXES {
                let rows = tiles.k_stage(place).at_row(part * TILE_KEYS as usize);
                k_cache.load(rows, tiles.k_full, place.stage, row, part as u32 * BOX_DIMS);
            }
            tiles.v_empty.wait(place.stage, place.parity ^ 1);
            tiles.v_full.arrive_expect(place.stage, BOXES as u32 * BOX_BYTES);
            for part in 0..BOXES {
                let rows = tiles.v_stage(place).at_row(part * TILE_KEYS as usize);
                v_cache.load(rows, tiles.v_full, place.stage, row, part as u32 * BOX_DIMS);
            }
            place = place.next::<STAGES>();
        }
        i = take_piece(next, n_pieces);
        parity ^= 1;
    }
}

/// What a consumer is at.
struct Consumer<const BOXES: usize, const SUMS: usize> {
    number: u32,
    q: Rows<f16>,
    tiles: Tiles<BOXES>,
    /// Parity of the phase that its next turn begins with.
    turn: u32,
    softmax: Softmax,
    scores: Accumulators<SCORES>,
    sums: Accumulators<SUMS>,
    /// Of the tile whose values are to be added next.
    weights: Packed,
    k_place: Place,
    v_place: Place,
}

impl<const BOXES: usize, const SUMS: usize> Consumer<BOXES, SUMS> {
    #[inline(always)]
    #[track_caller]
    fn take_turn(&mut self) {
        self.tiles.turns.wait(self.number as usize, self.turn);
        self.turn ^= 1;
    }

    #[inline(always)]
    #[track_caller]
    fn pass_turn(&mut self) {
        if warp::lane_id() == 0 {
            self.tiles.turns.arrive(1 - self.number as usize);
        }
    }

    /// Starts scores = q · kᵀ for the next tile of keys.
    #[inline(always)]
    #[track_caller]
    fn score<const DIM: usize>(&mut self) {
        self.tiles.k_full.wait(self.k_place.stage, self.k_place.parity);
        let k = self.tiles.k_stage(self.k_place);
        self.scores.fence();
        for step in 0..DIM / wgmma::K {
            let (part, dim) = (step * wgmma::K / BOX_DIMS as usize, step * wgmma::K % BOX_DIMS as usize);
            let q = self.q.at_row(part * TILE_QUERIES as usize);
            self.scores.mma(q, k.at_row(part * TILE_KEYS as usize), dim, step > 0);
        }
        self.scores.commit();
    }

    /// Starts sums += weights · v for the tile before. Its operands have been fenced.
    #[inline(always)]
    #[track_caller]
    fn add_values(&mut self) {
        self.tiles.v_full.wait(self.v_place.stage, self.v_place.parity);
        let v = self.tiles.v_stage(self.v_place);
        for step in 0..SCORES / 8 {
            self.sums.mma_registers(self.weights[step], v, TILE_KEYS as usize, step * wgmma::K);
        }
        self.sums.commit();
    }

    #[inline(always)]
    #[track_caller]
    fn fence_sums(&mut self) {
        self.sums.fence();
        wgmma::fence_operands(&mut self.weights);
    }

    #[inline(always)]
    #[track_caller]
    fn release_keys(&mut self) {
        if warp::lane_id() == 0 {
            self.tiles.k_empty.arrive(self.k_place.stage);
        }
        self.k_place = self.k_place.next::<STAGES>();
    }

    #[inline(always)]
    #[track_caller]
    fn release_values(&mut self) {
        if warp::lane_id() == 0 {
            self.tiles.v_empty.arrive(self.v_place.stage);
        }
        self.v_place = self.v_place.next::<STAGES>();
    }

    /// Goes on to the tile of keys from `first_key` on, while the values of the tile before are added.
    #[inline(always)]
    #[track_caller]
    fn step<const DIM: usize, const MASKED: bool>(&mut self, first_key: u32) {
        self.fence_sums();
        self.take_turn();
        self.score::<DIM>();
        self.add_values();
        self.pass_turn();
        self.scores.finish_but::<1>();
        self.release_keys();
        let (weights, shrink) = self.softmax.take::<MASKED>(&self.scores, first_key);
        self.sums.finish();
        self.release_values();
        for i in 0..SUMS {
            let sum = self.sums.get(i);
            self.sums.set(i, sum * shrink[i / 2 % 2]);
        }
        self.weights = pack(&weights);
    }

    /// Stores the quotients of sums for tokens `token` and `token + 8`.
    #[inline(always)]
    #[track_caller]
    fn store<const DIM: usize>(&self, y: Out<f32>, head: u32, token: u32, shape: Shape) {
        for half in 0..2 {
            let token = token + 8 * half as u32;
            let sum = self.softmax.sum[half];
            let sum = sum + warp::shuffle_xor(sum, 1);
            let sum = sum + warp::shuffle_xor(sum, 2);
            let factor = math::rcp(sum);
            if token < shape.n_tokens {
                let row = token as usize * shape.n_heads as usize + head as usize;
                let start = row * DIM + 2 * (warp::lane_id() % 4) as usize;
                for group in 0..SUMS / 4 {
                    let i = 4 * group + 2 * half;
                    y.store(
                        start + 8 * group,
                        [self.sums.get(i), self.sums.get(i + 1)].map(|sum| sum * factor),
                    );
                }
            }
        }
    }
}

/// Scores, weights and sums of 64 queries of each piece.
#[inline(always)]
#[track_caller]
fn consume<const DIM: usize, const SUMS: usize, const BOXES: usize>(
    y: Out<f32>,
    positions: In<u32>,
    tiles: Tiles<BOXES>,
    shape: Shape,
    number: u32,
) {
    let lane = warp::lane_id();
    let row = number * CONSUMER_QUERIES + warp::warp_id() % 4 * 16 + lane / 4;
    // A query past the last token may see anything: nobody looks at it.
    let position = |token: u32| if token < shape.n_tokens { positions.get(token as usize) } else { u32::MAX };
    let mut this = Consumer::<BOXES, SUMS> {
        number,
        q: tiles.q.at_row((number * CONSUMER_QUERIES) as usize),
        tiles,
        // The first turn is consumer 0's: the phase before the first counts as complete.
        turn: 1 - number,
        softmax: Softmax::new(shape.scale * LOG2_E),
        scores: Accumulators::zero(),
        sums: Accumulators::zero(),
        weights: [[0; 4]; SCORES / 8],
        k_place: Place::START,
        v_place: Place::START,
    };
    let n_pieces = shape.n_pieces();
    let place = warp::warp_id() as usize % CONSUMER_WARPS;
    // Only the lane that arrives at `q_empty` reads, so that its arrival covers all reads.
    let told_piece = || warp::shuffle_idx(if lane == 0 { tiles.piece.get(place) } else { 0 }, 0);
    let mut parity = 0;
    tiles.q_full.wait(0, parity);
    let mut i = told_piece();
    while i < n_pieces {
        let piece = shape.piece(positions, i);
        let token = piece.first_token + row;
        this.softmax.begin([position(token), position(token + 8)]);
        this.sums = Accumulators::zero();
        // Tiles of which every query of the consumer sees every key.
        let first_token = piece.first_token + number * CONSUMER_QUERIES;
        let earliest = if first_token < shape.n_tokens { positions.get(first_token as usize) } else { 0 };
        let n_clear = warp::shuffle_idx((earliest + 1) / TILE_KEYS, 0);
        let n_key_tiles = warp::shuffle_idx(piece.n_key_tiles, 0);

        let mut tile = n_key_tiles - 1;
        this.take_turn();
        this.score::<DIM>();
        this.pass_turn();
        this.scores.finish();
        this.release_keys();
        let (weights, _) = this.softmax.take::<true>(&this.scores, tile * TILE_KEYS);
        this.weights = pack(&weights);
        while tile > n_clear {
            tile -= 1;
            this.step::<DIM, true>(tile * TILE_KEYS);
        }
        while tile > 0 {
            tile -= 1;
            this.step::<DIM, false>(tile * TILE_KEYS);
        }
        if lane == 0 {
            tiles.q_empty.arrive(0);
        }
        this.fence_sums();
        this.add_values();
        this.sums.finish();
        this.release_values();
        this.store::<DIM>(y, piece.head, token, shape);
        parity ^= 1;
        tiles.q_full.wait(0, parity);
        i = told_piece();
    }
}

/// Floating-point operations of causal attention over a prompt from an empty cache: each query times the keys up to its own.
pub const fn attention_flops(n_tokens: usize, n_heads: usize, head_dim: usize) -> u64 {
    4 * (n_tokens as u64 * (n_tokens as u64 + 1) / 2) * n_heads as u64 * head_dim as u64
}
