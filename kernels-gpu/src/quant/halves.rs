//! Packed weights as matrix a of products of halves, decoded by the lanes that need them.
//!
//! A warp fetches units of 16 rows by [`UNIT_COLS`] columns and decodes them chunk by chunk. A weight is scale · (q − m) + value
//! of m, with m the middle of the quants. In blocks of 256 scale and value are rounded to f16, and the sum is: errors of at most
//! 2^-11 |w − value|, 2^-11 |value| and 2^-11 |w|. Weights lie around zero, so the value of the middle quant is small; the
//! offset, that of quant 0, is not. In the other formats scales and offsets are halves: m is 0, and a weight is rounded once.
//! Weights are multiplied by [`WEIGHT_FACTOR`] so that small ones are no subnormal halves. A weight of 1023 or more, or such a
//! scale or offset, becomes infinite, and so do results or NaN: models have weights below 100.

#![allow(clippy::needless_range_loop, reason = "constant indices keep arrays in registers")]

use super::fragments::{self, QuantFragments};
use crate::simt::prelude::*;

/// Columns that a warp fetches at a time: a group of four-bit quants.
pub const UNIT_COLS: u32 = 128;
/// Columns of a product.
pub const CHUNK_COLS: usize = 16;
/// Weights are multiplied by this, and results divided.
pub const WEIGHT_FACTOR: f32 = 64.0;

/// What a lane holds of a unit as it lies in memory.
pub struct Fetched<Q: QuantFragments, const GROUPS: usize> {
    quants: [Q::Quants; GROUPS],
    scales: Q::Scales,
    /// Which unit of its tile it is.
    in_tile: u32,
}

impl<Q: QuantFragments, const GROUPS: usize> Clone for Fetched<Q, GROUPS> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<Q: QuantFragments, const GROUPS: usize> Copy for Fetched<Q, GROUPS> {}

/// Scales of a unit, or its offsets: pairs for rows g and g + 8, in sub-blocks c and c + 4 of the unit (if a sub-block has
/// 32 elements there is no second one).
#[derive(Clone, Copy)]
pub struct Factors {
    scales: [f16x2; 2],
    offsets: [f16x2; 2],
}

/// Those of one sub-block: of row g in both halves, and of row g + 8.
pub type OfRows = [[f16x2; 2]; 2];

/// Constants of decoding, in registers. An instruction has room for one constant, and if it takes two the compiler copies
/// the other one to a register, before each use. So they are made of something that it cannot know.
#[derive(Clone, Copy)]
pub struct Constants {
    /// The upper byte of the halves from 1024 to 1279, four times.
    upper: u32,
    /// The highest bit of each byte.
    signs: u32,
    zero: u32,
}

impl Constants {
    #[inline(always)]
    pub fn new(n_cols: u32) -> Self {
        // Zero, since there are not that many columns; and each lane's own, so not kept among the numbers of the warp.
        let zero = warp::lane_id() & (n_cols >> 31);
        Self { upper: 0x6464_6464 | zero, signs: 0x8080_8080 | zero, zero }
    }

    /// Four bytes, less the middle quant, as two pairs.
    #[inline(always)]
    fn to_f16<Q: QuantFragments>(self, word: u32) -> [f16x2; 2] {
        if Q::UPPER_BYTES {
            return [0x1404, 0x3424].map(|places| f16x2::from_bits(math::byte_perm(word, 0, places)));
        }
        // Formats with offsets have no negative bytes.
        let (biased, bias) = if Q::HAS_OFFSET { (word, 1024) } else { (word ^ self.signs, 1024 + 128) };
        let bias = -((bias + Q::MIDDLE) as f32);
        let bias = f16x2::from_f32(bias, bias);
        [0x4140, 0x4342].map(|places| f16x2::from_bits(math::byte_perm(biased, self.upper, places)) + bias)
    }
}

/// Matrix a for the columns of a chunk.
pub type Decoded = [u32; 4];

impl<Q: QuantFragments, const GROUPS: usize> Fetched<Q, GROUPS> {
    /// Sub-blocks of a unit that a lane holds scales of.
    const SCALES: usize = UNIT_COLS as usize / Q::SUB / 4;
    /// Chunks of a sub-block.
    const SUB_CHUNKS: usize = Q::SUB / CHUNK_COLS;
    /// Units of a tile.
    pub const TILE_UNITS: u32 = Q::TILE_COLS as u32 / UNIT_COLS;

    /// Starts to load a unit of a tile of rows.
    #[inline(always)]
    #[track_caller]
    pub fn load(w: In<u8>, n_cols: u32, row_tile: usize, unit: u32) -> Self {
        let (col_tile, in_tile) = ((unit / Self::TILE_UNITS) as usize, unit % Self::TILE_UNITS);
        let tile = fragments::global_tile::<Q>(w, n_cols as usize, row_tile, col_tile);
        let lane = warp::lane_id() as usize;
        let quants = if Q::GROUP_COLS > UNIT_COLS as usize {
            const { assert!(Q::GROUP_COLS <= UNIT_COLS as usize || Q::GROUPS == 1 && Self::TILE_UNITS == 2) };
            let both = Q::quants(tile, lane, 0);
            [if in_tile == 0 { both } else { Q::second_half(both) }; GROUPS]
        } else {
            core::array::from_fn(|i| Q::quants(tile, lane, in_tile as usize * GROUPS + i))
        };
        Fetched { quants, scales: Q::scales(tile, lane / 4, lane % 4), in_tile }
    }

    /// The unit's scales and offsets, times [`WEIGHT_FACTOR`].
    #[inline(always)]
    pub fn factors(&self) -> Factors {
        let zero = f16x2::from_bits(0);
        let mut factors = Factors { scales: [zero; 2], offsets: [zero; 2] };
        for i in 0..Self::SCALES {
            let t = self.in_tile as usize * Self::SCALES + i;
            let scales = [0, 1].map(|half| Q::scale(&self.scales, t, half) * WEIGHT_FACTOR);
            factors.scales[i] = f16x2::from_f32(scales[0], scales[1]);
            if Q::HAS_OFFSET {
                let offset = |half| Q::offset(&self.scales, t, half) * WEIGHT_FACTOR;
                let [near, far] = [0, 1].map(|half| math::fma(scales[half], Q::MIDDLE as f32, offset(half)));
                factors.offsets[i] = f16x2::from_f32(near, far);
            }
        }
        factors
    }

    /// The scales and offsets of a chunk; `before` are those of the chunk before it, unless it is the first.
    #[inline(always)]
    #[track_caller]
    pub fn of_rows(factors: &Factors, chunk: usize, before: OfRows) -> OfRows {
        if !chunk.is_multiple_of(Self::SUB_CHUNKS) {
            return before;
        }
        let sub = chunk / Self::SUB_CHUNKS;
        // The lane of these rows that has the sub-block's scales.
        let owner = warp::lane_id() & !3 | (sub % 4) as u32;
        let of_rows = |pairs: [f16x2; 2]| {
            let pair = warp::shuffle_idx(pairs[sub / 4].to_bits(), owner);
            [0x1010, 0x3232].map(|twice| f16x2::from_bits(math::byte_perm(pair, pair, twice)))
        };
        let scales = of_rows(factors.scales);
        [scales, if Q::HAS_OFFSET { of_rows(factors.offsets) } else { scales }]
    }

    /// Chunk `chunk` of a unit as matrix a.
    #[inline(always)]
    pub fn decode(&self, constants: Constants, [scales, offsets]: OfRows, chunk: usize) -> Decoded {
        let (step, k) = (chunk * CHUNK_COLS / Q::STEP_COLS, chunk * CHUNK_COLS % Q::STEP_COLS / CHUNK_COLS);
        let quants = &self.quants[step / Q::GROUP_STEPS];
        let words = Q::half_words(quants, step % Q::GROUP_STEPS, constants.zero);
        let mut decoded = [0u32; 4];
        for half in 0..2 {
            let pairs = constants.to_f16::<Q>(words[2 * k + half]);
            for i in 0..2 {
                let weight = if Q::HAS_OFFSET {
                    pairs[i].fma(scales[half], offsets[half])
                } else {
                    pairs[i] * scales[half]
                };
                decoded[2 * i + half] = weight.to_bits();
            }
        }
        decoded
    }
}
