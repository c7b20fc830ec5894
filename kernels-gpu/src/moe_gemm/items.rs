//! What blocks work on: tiles of the groups, found from where each begins.

use crate::gemm_quant::{CLUSTER, Item, Place, Source, TILE_ROWS};
use crate::moe::MAX_EXPERTS;
use crate::quant::fragments;
use crate::quant::halves::UNIT_COLS;
use crate::simt::cluster;
use crate::simt::prelude::*;

/// Experts of a lane: `lane`, `lane + 32` and so on.
const LANE_EXPERTS: usize = MAX_EXPERTS / warp::SIZE as usize;
/// Numbers of the table: one for each expert and one more, then so many that a warp always reads 32.
pub const TABLE_LEN: usize = MAX_EXPERTS + warp::SIZE as usize;

/// Makes the table: number e is how many tiles of `tile_tokens` tokens come before those of expert e, and from
/// `n_experts` on how many there are. For a barrier to make visible.
#[inline(always)]
#[track_caller]
pub fn table(table: Tile<u32>, offsets: In<u32>, n_experts: u32, tile_tokens: u32) {
    if warp::warp_id() > 0 {
        return;
    }
    let lane = warp::lane_id();
    let mut counts = [0; LANE_EXPERTS];
    let mut i = 0;
    while i < LANE_EXPERTS {
        let expert = i as u32 * warp::SIZE + lane;
        if expert < n_experts {
            let n = offsets.get(expert as usize + 1) - offsets.get(expert as usize);
            counts[i] = n.div_ceil(tile_tokens);
        }
        i += 1;
    }
    let mut before = 0;
    let mut i = 0;
    while i < LANE_EXPERTS {
        let mut sum = counts[i];
        let mut distance = 1;
        while distance < warp::SIZE {
            let other = warp::shuffle_up(sum, distance);
            sum += if lane >= distance { other } else { 0 };
            distance *= 2;
        }
        table.set(i * warp::SIZE as usize + lane as usize, before + sum - counts[i]);
        before += warp::shuffle_idx(sum, warp::SIZE - 1);
        i += 1;
    }
    table.set(MAX_EXPERTS + lane as usize, before);
}

/// Sizes of the experts' matrices.
#[derive(Clone, Copy)]
pub struct Shape {
    pub n_experts: u32,
    pub n_rows: u32,
    pub n_cols: u32,
}

/// All items, in the order in which clusters take them: of an expert all tiles of tokens of one pair of tiles of rows before
/// the next.
#[derive(Clone, Copy)]
pub struct Grouped {
    table: Tile<u32>,
    offsets: In<u32>,
    shape: Shape,
    n: u32,
    tile_tokens: u32,
}

impl Grouped {
    /// The items of a table that all threads can read.
    #[inline(always)]
    #[track_caller]
    pub fn new(table: Tile<u32>, offsets: In<u32>, shape: Shape, tile_tokens: u32) -> Self {
        let n_tiles = warp::shuffle_idx(table.get(MAX_EXPERTS), 0);
        Self { table, offsets, shape, n: n_tiles * shape.n_rows.div_ceil(CLUSTER * TILE_ROWS), tile_tokens }
    }

    /// Rows of an expert's matrix with their padding.
    #[inline(always)]
    fn padded_rows(self) -> u32 {
        self.shape.n_rows.next_multiple_of(fragments::TILE_ROWS as u32)
    }

    /// Rows of the experts' matrices, one below the other.
    #[inline(always)]
    pub fn w_rows(self) -> u32 {
        self.shape.n_experts * self.padded_rows()
    }

    /// The expert of an item, its tile of tokens and its pair of tiles of rows.
    #[inline(always)]
    #[track_caller]
    fn find(self, i: u32) -> (u32, u32, u32) {
        let row_tiles = self.shape.n_rows.div_ceil(CLUSTER * TILE_ROWS);
        let tile = i / row_tiles;
        // The last expert with no more tiles before it; those without tokens have as many as the next one.
        let (mut n, mut first) = (0, 0);
        while first < self.shape.n_experts {
            let before = self.table.get((first + warp::lane_id()) as usize);
            n += warp::ballot(before <= tile).count_ones();
            first += warp::SIZE;
        }
        let expert = n - 1;
        let before = self.table.get(expert as usize);
        let n_tiles = self.table.get(expert as usize + 1) - before;
        let of_expert = i - before * row_tiles;
        (expert, of_expert % n_tiles, of_expert / n_tiles)
    }
}

impl Source for Grouped {
    #[inline(always)]
    fn n(self) -> u32 {
        self.n
    }

    #[inline(always)]
    #[track_caller]
    fn at(self, i: u32) -> Item {
        let (expert, token_tile, row_tile) = self.find(i);
        Item {
            token: self.offsets.get(expert as usize) + token_tile * self.tile_tokens,
            row: expert * self.padded_rows() + (row_tile * CLUSTER + cluster::block_rank()) * TILE_ROWS,
            part: 0,
            first_unit: 0,
            n_units: self.shape.n_cols.div_ceil(UNIT_COLS),
        }
    }

    #[inline(always)]
    #[track_caller]
    fn place(self, i: u32, item: Item) -> Place {
        let (expert, ..) = self.find(i);
        let end = self.offsets.get(expert as usize + 1);
        Place { row: item.token, col: item.row - expert * self.padded_rows(), end }
    }
}
