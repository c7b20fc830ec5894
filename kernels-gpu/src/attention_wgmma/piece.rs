//! The pieces of work, and who gets them.

use super::{TILE_KEYS, TILE_QUERIES};
use crate::simt::prelude::*;

#[derive(Clone, Copy)]
pub struct Shape {
    pub n_tokens: u32,
    pub n_heads: u32,
    pub n_kv_heads: u32,
    pub n_ctx: u32,
    pub heads_at_once: u32,
    pub scale: f32,
}

/// A piece of work: one tile of queries of one head.
#[derive(Clone, Copy)]
pub struct Piece {
    pub head: u32,
    pub first_token: u32,
    /// First row of the caches' matrices.
    pub first_key: u32,
    pub n_key_tiles: u32,
}

impl Shape {
    pub fn n_pieces(self) -> u32 {
        self.n_tokens.div_ceil(TILE_QUERIES) * self.n_heads
    }

    /// Piece `i`.
    #[inline(always)]
    pub fn piece(self, positions: In<u32>, i: u32) -> Piece {
        let n_tiles = self.n_tokens.div_ceil(TILE_QUERIES);
        // The last queries see most: they come first.
        let first_head = i / (self.heads_at_once * n_tiles) * self.heads_at_once;
        let i = i - first_head * n_tiles;
        let n_heads = self.heads_at_once.min(self.n_heads - first_head);
        let first_token = (n_tiles - 1 - i / n_heads) * TILE_QUERIES;
        let head = first_head + i % n_heads;
        let last_token = (first_token + TILE_QUERIES).min(self.n_tokens) - 1;
        Piece {
            head,
            first_token,
            first_key: head * self.n_kv_heads / self.n_heads * self.n_ctx,
            n_key_tiles: positions.get(last_token as usize) / TILE_KEYS + 1,
        }
    }
}

/// The number of the block's next piece, one that there is not after the last. Each of the blocks comes here until it gets
/// such a number, so the last one knows that it is, and leaves the counter as it was found.
#[inline(always)]
pub fn take_piece(next: InOut<u32>, n_pieces: u32) -> u32 {
    let n_taken = atomic::add_u32(next, 0, 1);
    if n_taken == n_pieces - 1 {
        atomic::cas_u32(next, 0, n_pieces, 0);
    }
    thread::grid_dim_x() + n_taken
}
