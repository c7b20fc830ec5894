//! Products with few tokens: the columns are divided among the blocks, too.
//!
//! Such a product has fewer tiles than the GPU has multiprocessors, and is bound by reading w. So all stages of all tiles
//! are one long row, and every block takes an equal stretch of it, whichever tiles that touches. What it has of
//! a tile, a piece, goes to the workspace in f32; [`gemm_pieces_bf16`] adds the pieces of each tile in the order of
//! their columns, so that the result does not depend on which block was first.

use super::ring::{CONSUMER_TOKENS, Ring, STAGE_COLS, Stretch, THREADS, ring_bytes};
use crate::simt::boxes::InBoxes;
use crate::simt::mbarrier::Place;
use crate::simt::prelude::*;
use crate::simt::wgmma::{self, Accumulators, Operand};

/// Stages of the ring with tiles of 64 tokens by 128 rows.
const STAGES_64: usize = 9;
/// Stages of the ring with tiles of 128 tokens by 128 rows.
const STAGES_128: usize = 7;
/// Threads of a block of [`gemm_pieces_bf16`].
pub const PIECES_THREADS: u32 = 256;
/// Elements of y that a thread of [`gemm_pieces_bf16`] owns.
pub const PIECES_VECTOR: u32 = 4;

/// How the stages of all tiles are divided; the same for a product and for the adding of its pieces.
#[derive(Clone, Copy)]
struct Division {
    /// Stages of a tile, rounded up so that blocks divide it evenly if they are to.
    per_tile: u32,
    /// Stages of a block.
    per_block: u32,
}

impl Division {
    /// The block that has the first stage of a tile.
    #[inline(always)]
    fn first_block(self, tile: u32) -> u32 {
        tile * self.per_tile / self.per_block
    }

    /// Blocks that have stages of a tile.
    #[inline(always)]
    fn n_pieces(self, tile: u32) -> u32 {
        ((tile + 1) * self.per_tile - 1) / self.per_block - self.first_block(tile) + 1
    }
}

/// Pieces of y [n_tokens, n_rows]: element `[p, t, o]` of the workspace is Σ w[o, k] · x[t, k] over the columns of
/// piece p, in bf16 with sums in f32; tiles of 64 tokens by 128 rows, of which each consumer multiplies half of the rows.
///
/// `pieces [n_slots, n_tokens, n_rows]`, `w [n_rows, n_cols]`, `x [n_tokens, n_cols]`.
///
/// Grid: as many blocks as `stages_per_block` divides all tiles' stages into (`stages_per_tile` of each tile, which may
/// count some past the last column), best at most one a multiprocessor.
/// Requires: compute capability 9.0; `n_rows` even.
/// Fast because: every multiprocessor reads an equal part of w, through the copy engine, 144 KiB ahead.
#[kernel(threads = THREADS, shared = ring_bytes(64, 128, STAGES_64), min_blocks = 1, max_regs = 128, pdl, sm_90a)]
pub fn gemm_stream_bf16_t64(
    pieces: Out<f32>,
    w: InBoxes<bf16, 128>,
    x: InBoxes<bf16, 64>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
    stages_per_tile: u32,
    stages_per_block: u32,
) {
    stream::<bf16, 64, 128, 32, STAGES_64>(
        pieces,
        w,
        x,
        n_tokens,
        n_rows,
        n_cols,
        (stages_per_tile, stages_per_block),
    );
}

/// As [`gemm_stream_bf16_t64`] in f16.
#[kernel(threads = THREADS, shared = ring_bytes(64, 128, STAGES_64), min_blocks = 1, max_regs = 128, pdl, sm_90a)]
pub fn gemm_stream_f16_t64(
    pieces: Out<f32>,
    w: InBoxes<f16, 128>,
    x: InBoxes<f16, 64>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
    stages_per_tile: u32,
    stages_per_block: u32,
) {
    stream::<f16, 64, 128, 32, STAGES_64>(
        pieces,
        w,
        x,
        n_tokens,
        n_rows,
        n_cols,
        (stages_per_tile, stages_per_block),
    );
}

/// As [`gemm_stream_bf16_t64`], with tiles of 128 tokens by 128 rows, of which each consumer multiplies half of the tokens.
#[kernel(threads = THREADS, shared = ring_bytes(128, 128, STAGES_128), min_blocks = 1, max_regs = 128, pdl, sm_90a)]
pub fn gemm_stream_bf16_t128(
    pieces: Out<f32>,
    w: InBoxes<bf16, 128>,
    x: InBoxes<bf16, 128>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
    stages_per_tile: u32,
    stages_per_block: u32,
) {
    stream::<bf16, 128, 128, 64, STAGES_128>(
        pieces,
        w,
        x,
        n_tokens,
        n_rows,
        n_cols,
        (stages_per_tile, stages_per_block),
    );
}

/// As [`gemm_stream_bf16_t128`] in f16.
#[kernel(threads = THREADS, shared = ring_bytes(128, 128, STAGES_128), min_blocks = 1, max_regs = 128, pdl, sm_90a)]
pub fn gemm_stream_f16_t128(
    pieces: Out<f32>,
    w: InBoxes<f16, 128>,
    x: InBoxes<f16, 128>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
    stages_per_tile: u32,
    stages_per_block: u32,
) {
    stream::<f16, 128, 128, 64, STAGES_128>(
        pieces,
        w,
        x,
        n_tokens,
        n_rows,
        n_cols,
        (stages_per_tile, stages_per_block),
    );
}

#[inline(always)]
#[track_caller]
fn stream<T: Operand, const TOKENS: u32, const ROWS: u32, const LEN: usize, const STAGES: usize>(
    pieces: Out<f32>,
    w: InBoxes<T, ROWS>,
    x: InBoxes<T, TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
    (per_tile, per_block): (u32, u32),
) {
    let mut shared = Shared::new();
    let ring = Ring::<T, TOKENS, ROWS, ROWS, STAGES>::new(&mut shared);
    pdl::launch_dependents();
    let division = Division { per_tile, per_block };
    let n_row_tiles = n_rows.div_ceil(ROWS);
    let tile_stages = n_cols.div_ceil(STAGE_COLS);
    let first = thread::block_idx_x() * per_block;
    let end = (first + per_block).min(n_tokens.div_ceil(TOKENS) * n_row_tiles * per_tile);
    // The part of a tile from stage `at` of the long row on, and where the next part begins.
    let stretch = |at: u32| {
        let (tile, first_stage) = (at / per_tile, at % per_tile);
        let next = end.min((tile + 1) * per_tile);
        let stretch = Stretch {
            token: tile / n_row_tiles * TOKENS,
            row: tile % n_row_tiles * ROWS,
            first_stage,
            n_stages: (next - at).min(tile_stages - first_stage),
        };
        (stretch, next)
    };
    wgmma::specialise::<56, 160>(
        || {
            let (mut at, mut place) = (first, Place::START);
            let mut n_preloaded = ring.preload(w, stretch(at).0);
            pdl::wait();
            while at < end {
                let (stretch, next) = stretch(at);
                place = ring.fill(x, w, stretch, place, n_preloaded);
                n_preloaded = 0;
                at = next;
            }
        },
        |consumer| {
            pdl::wait();
            let (mut at, mut place) = (first, Place::START);
            // Tiles of 64 tokens are divided by rows, those of 128 by tokens.
            let corner = if TOKENS == CONSUMER_TOKENS {
                (0, consumer * 2 * LEN as u32)
            } else {
                (consumer * CONSUMER_TOKENS, 0)
            };
            while at < end {
                let (stretch, next) = stretch(at);
                let mut results = Accumulators::<LEN>::zero();
                place = ring.multiply(&mut results, corner, stretch.n_stages, place);
                let piece = thread::block_idx_x() - division.first_block(at / per_tile);
                let slot = piece as usize * n_tokens as usize * n_rows as usize;
                let (token, row) = (stretch.token + corner.0, stretch.row + corner.1);
                store_piece(pieces, slot, &results, (token, n_tokens), (row, n_rows));
                at = next;
            }
        },
    );
}

/// Stores a consumer's results, two neighbours at a time: the four lanes of a row fill a sector.
#[inline(always)]
#[track_caller]
fn store_piece<const LEN: usize>(
    pieces: Out<f32>,
    slot: usize,
    results: &Accumulators<LEN>,
    (token, n_tokens): (u32, u32),
    (row, n_rows): (u32, u32),
) {
    let lane = warp::lane_id();
    let token = token + warp::warp_id() % 4 * 16 + lane / 4;
    let row = row + lane % 4 * 2;
    for half in 0..2 {
        let token = token + 8 * half as u32;
        let start = slot + token as usize * n_rows as usize;
        for group in 0..LEN / 4 {
            let row = row + 8 * group as u32;
            if token < n_tokens && row < n_rows {
                let i = 4 * group + 2 * half;
                pieces.store(start + row as usize, [results.get(i), results.get(i + 1)]);
            }
        }
    }
}

/// y[t, o] = Σ over the pieces p of pieces[p, t, o], in the order of p, rounded to bf16.
///
/// `tile_tokens`, `tile_rows`, `stages_per_tile` and `stages_per_block` are those of the product.
///
/// Grid: [`PIECES_THREADS`] · [`PIECES_VECTOR`] elements of y a block.
/// Requires: `n_rows` a multiple of 4.
/// Fast because: 16-byte loads, and the pieces are still in the second-level cache.
#[kernel(threads = PIECES_THREADS, pdl, sm_90a)]
pub fn gemm_pieces_bf16(
    y: Out<bf16>,
    pieces: In<f32>,
    n_tokens: u32,
    n_rows: u32,
    tile_tokens: u32,
    tile_rows: u32,
    stages_per_tile: u32,
    stages_per_block: u32,
) {
    let tile = (tile_tokens, tile_rows);
    let division = Division { per_tile: stages_per_tile, per_block: stages_per_block };
    add_pieces(pieces, (n_tokens, n_rows), tile, division, |i, sum| {
        y.store(i, sum.map(bf16::from_f32));
    });
}

/// As [`gemm_pieces_bf16`], rounded to f16.
#[kernel(threads = PIECES_THREADS, pdl, sm_90a)]
pub fn gemm_pieces_f16(
    y: Out<f16>,
    pieces: In<f32>,
    n_tokens: u32,
    n_rows: u32,
    tile_tokens: u32,
    tile_rows: u32,
    stages_per_tile: u32,
    stages_per_block: u32,
) {
    let tile = (tile_tokens, tile_rows);
    let division = Division { per_tile: stages_per_tile, per_block: stages_per_block };
    add_pieces(pieces, (n_tokens, n_rows), tile, division, |i, sum| {
        y.store(i, sum.map(f16::from_f32));
    });
}

#[inline(always)]
#[track_caller]
fn add_pieces(
    pieces: In<f32>,
    (n_tokens, n_rows): (u32, u32),
    (tile_tokens, tile_rows): (u32, u32),
    division: Division,
    store: impl Fn(usize, [f32; 4]),
) {
    pdl::launch_dependents();
    pdl::wait();
    let i = thread::index_1d() * PIECES_VECTOR as usize;
    if i >= n_tokens as usize * n_rows as usize {
        return;
    }
    let (token, row) = ((i / n_rows as usize) as u32, (i % n_rows as usize) as u32);
    let tile = token / tile_tokens * n_rows.div_ceil(tile_rows) + row / tile_rows;
    let mut sum = [0.0f32; 4];
    let mut piece = 0;
    while piece < division.n_pieces(tile) {
        let part = pieces.load::<4>(piece as usize * n_tokens as usize * n_rows as usize + i);
        sum = [sum[0] + part[0], sum[1] + part[1], sum[2] + part[2], sum[3] + part[3]];
        piece += 1;
    }
    store(i, sum);
}
