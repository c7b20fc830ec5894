//! The tiles that a warp works on, fetched some steps ahead into shared memory.

use core::marker::PhantomData;

use super::WARPS;
use crate::quant::fragments::{Fragments, SharedTile};
use crate::simt::prelude::*;

/// Bytes from one tile in shared memory to the next: whole passes over the banks.
pub const fn place_bytes<Q: Fragments>() -> usize {
    Q::TILE_BYTES.next_multiple_of(128)
}

/// Tiles that a warp has on their way or in use, of so many bytes of a block.
pub const fn ring_depth<Q: Fragments>(bytes: usize) -> usize {
    match bytes / (WARPS * place_bytes::<Q>()) {
        0 | 1 => 2,
        depth @ 2..=8 => depth,
        _ => 8,
    }
}

/// The order in which a warp takes tiles.
pub trait Walk {
    /// The next step: the matrix and the tile's first byte in it, if there is a tile.
    fn next(&mut self) -> Option<(In<u8>, usize)>;
}

/// A warp's tiles in shared memory: one in use, the next on their way.
pub struct Ring<Q, W> {
    format: PhantomData<Q>,
    bytes: Tile<u8>,
    /// Where the warp's places begin, and the one that is in use.
    start: usize,
    place: usize,
    depth: usize,
    walk: W,
}

impl<Q: Fragments, W: Walk> Ring<Q, W> {
    /// Begins with the first tiles.
    #[inline(always)]
    pub fn new(bytes: Tile<u8>, depth: usize, walk: W) -> Self {
        let start = warp::warp_id() as usize * depth * place_bytes::<Q>();
        let mut ring = Self { format: PhantomData, bytes, start, place: 0, depth, walk };
        let mut i = 0;
        while i < depth {
            ring.fetch();
            ring.next_place();
            i += 1;
        }
        ring
    }

    /// Waits for the tile that comes next into use.
    #[inline(always)]
    pub fn wait(&self) {
        match self.depth {
            2 => async_copy::wait::<1>(),
            3 => async_copy::wait::<2>(),
            4 => async_copy::wait::<3>(),
            5 => async_copy::wait::<4>(),
            6 => async_copy::wait::<5>(),
            7 => async_copy::wait::<6>(),
            _ => async_copy::wait::<7>(),
        }
        warp::sync();
    }

    #[inline(always)]
    pub fn tile(&self) -> SharedTile {
        SharedTile { bytes: self.bytes, start: self.start + self.place * place_bytes::<Q>() }
    }

    /// The tile in use is done with: its place is for the next one to be fetched.
    #[inline(always)]
    pub fn advance(&mut self) {
        warp::sync();
        self.fetch();
        self.next_place();
    }

    #[inline(always)]
    fn next_place(&mut self) {
        self.place = if self.place + 1 == self.depth { 0 } else { self.place + 1 };
    }

    /// Begins to copy a tile, if there is one, and makes it a group of copies, if need be of none.
    #[inline(always)]
    fn fetch(&mut self) {
        if let Some((w, from)) = self.walk.next() {
            let to = self.start + self.place * place_bytes::<Q>();
            let lane_byte = warp::lane_id() as usize * 16;
            let mut turn = 0;
            // Counted, so that it unrolls; only the last turn is not for all lanes.
            while turn < Q::TILE_BYTES.div_ceil(512) {
                let byte = turn * 512 + lane_byte;
                if (turn + 1) * 512 <= Q::TILE_BYTES || byte < Q::TILE_BYTES {
                    self.bytes.copy_async::<16>(to + byte, w, from + byte);
                }
                turn += 1;
            }
        }
        async_copy::commit();
    }
}
