//! What blocks work on, and in which order.

use super::{CLUSTER, GROUP_TOKENS};
use crate::gemm_wgmma::Tiles;
use crate::quant::halves::UNIT_COLS;
use crate::simt::cluster;

/// Sizes of a product, and units of columns in a part.
#[derive(Clone, Copy)]
pub struct Shape {
    pub n_tokens: u32,
    pub n_rows: u32,
    pub n_cols: u32,
    pub part_units: u32,
}

/// What a cluster works on at a time: some units of columns of a tile, whose rows its blocks divide.
#[derive(Clone, Copy)]
pub struct Item {
    pub token: u32,
    /// The block's first row.
    pub row: u32,
    pub part: u32,
    pub first_unit: u32,
    pub n_units: u32,
}

/// The items of a launch.
pub trait Source: Copy {
    /// How many there are.
    fn n(self) -> u32;
    /// Item `i`.
    fn at(self, i: u32) -> Item;
    /// Where the results of the block's part of item `i` go.
    fn place(self, i: u32, item: Item) -> Place;
}

/// Where results go.
#[derive(Clone, Copy)]
pub struct Place {
    /// The first token's row of the results' matrix, and the one where they end at the latest.
    pub row: u32,
    pub end: u32,
    /// The column of the block's first row.
    pub col: u32,
}

/// All items of one product, in the order in which clusters take them.
#[derive(Clone, Copy)]
pub struct Items {
    pub tiles: Tiles,
    pub n: u32,
    pub n_units: u32,
    pub part_units: u32,
    pub tile_tokens: u32,
    pub tile_rows: u32,
}

impl Items {
    #[inline(always)]
    pub fn new(shape: Shape, tile_tokens: u32, tile_rows: u32) -> Self {
        let tiles = Tiles {
            tokens: shape.n_tokens.div_ceil(tile_tokens),
            rows: shape.n_rows.div_ceil(CLUSTER * tile_rows),
            group: GROUP_TOKENS / tile_tokens,
        };
        let n_units = shape.n_cols.div_ceil(UNIT_COLS);
        let n = tiles.tokens * tiles.rows * n_units.div_ceil(shape.part_units);
        Self { tiles, n, n_units, part_units: shape.part_units, tile_tokens, tile_rows }
    }
}

impl Source for Items {
    #[inline(always)]
    fn n(self) -> u32 {
        self.n
    }

    #[inline(always)]
    fn at(self, i: u32) -> Item {
        let n_tiles = self.tiles.tokens * self.tiles.rows;
        let part = i / n_tiles;
        let (token_tile, row_tile) = self.tiles.at(i - part * n_tiles);
        let first_unit = part * self.part_units;
        Item {
            token: token_tile * self.tile_tokens,
            row: (row_tile * CLUSTER + cluster::block_rank()) * self.tile_rows,
            part,
            first_unit,
            n_units: self.part_units.min(self.n_units - first_unit),
        }
    }

    /// Parts lie below each other, padded to whole tiles.
    #[inline(always)]
    fn place(self, _: u32, item: Item) -> Place {
        let row = item.part * self.tiles.tokens * self.tile_tokens + item.token;
        Place { row, end: u32::MAX, col: item.row }
    }
}
