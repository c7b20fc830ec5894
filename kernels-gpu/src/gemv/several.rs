//! Products with several vectors, in 16-bit floats on the tensor cores.
//!
//! Quants become f16 without an error; the scale of a sub-block multiplies the results of its columns, in f32. So what is done for
//! a weight hardly depends on the number of vectors. Where quants are not negative, a byte taken as the bits of an f16
//! is that number, times 2⁻²⁴: no instruction converts it. Offsets are one more matrix a, multiplied with the sums of x over
//! sub-blocks.

use core::marker::PhantomData;

use super::parts::{CHUNK_COLS, PartFloat, SUM_UNIT, chunk_words};
use super::{MAX_VECTORS, WARPS, X};
use crate::quant::fragments::{FROM_BITS, Fragments, QuantFragments, SharedTile};
use crate::quant::{
    BF16, F16, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};
use crate::simt::prelude::*;

/// A format of weights that several vectors are multiplied with.
pub trait Several: Fragments {
    /// Which floats x becomes.
    type Float: PartFloat;
    /// Columns over which sums of x are wanted; 0 if none are.
    const SUM_COLS: usize;
    /// Up to so many vectors an element of x is two parts.
    const TWO_PARTS_VECTORS: usize;
    /// Blocks of the kernel for sixteen vectors that fit on a multiprocessor. Two of 128 registers would make ptxas spill in some
    /// formats.
    const BLOCKS_OF_SIXTEEN: usize = 2;
    /// For an error bound: roundings of a product before it comes to a running sum, and additions to that for each tile.
    const PRODUCT_CHAIN: usize;
    const TILE_CHAIN: usize;

    /// Adds the products of a tile and x to `sums`, matrices c.
    fn add_tile<const PARTS: usize, const NT: usize>(
        sums: &mut [[f32; 4]; NT],
        tile: SharedTile,
        x: VectorWords<PARTS, NT>,
        at: At<Self>,
    );
}

/// Parts of x, in a kernel for up to `max_vectors` vectors.
pub const fn n_parts<Q: Several>(max_vectors: usize) -> usize {
    if max_vectors <= Q::TWO_PARTS_VECTORS { 2 } else { 1 }
}

/// Matrices b whose columns they are.
pub const fn n_matrices(max_vectors: usize, n_parts: usize) -> usize {
    max_vectors * n_parts / 8
}

/// Matrices b for two steps.
type Pair<const NT: usize> = [[[u32; 2]; 2]; NT];

/// Pairs of steps of a tile.
const fn pairs<Q: Fragments>() -> usize {
    Q::TILE_COLS / 32
}

/// Where a tile lies in x.
#[derive(Clone, Copy)]
pub struct At<Q> {
    format: PhantomData<Q>,
    chunk: usize,
    /// The first of its pairs of steps.
    first_pair: usize,
    /// Which tile of its chunk it is.
    in_chunk: usize,
}

impl<Q: Fragments> At<Q> {
    #[inline(always)]
    pub fn new(col_tile: usize) -> Self {
        let tiles = CHUNK_COLS / Q::TILE_COLS;
        let in_chunk = col_tile % tiles;
        Self { format: PhantomData, chunk: col_tile / tiles, first_pair: in_chunk * pairs::<Q>(), in_chunk }
    }
}

/// The converted vectors: for each chunk, `[32 columns][matrix b][lane]` four words, b of two steps; then the sums of sub-blocks,
/// `[matrix b][mma][lane]` two words, b of each `mma` with offsets. Numbers are scales, `[chunk][vector]`.
#[derive(Clone, Copy)]
pub struct VectorWords<const PARTS: usize, const NT: usize> {
    words: In<u32>,
    scales: In<f32>,
    sum_cols: usize,
}

impl<const PARTS: usize, const NT: usize> VectorWords<PARTS, NT> {
    #[inline(always)]
    pub(super) fn new<Q: Several>(x: X) -> Self {
        Self { words: x.words, scales: x.numbers, sum_cols: Q::SUM_COLS }
    }

    #[inline(always)]
    fn chunk(self, chunk: usize) -> usize {
        let [words, sums] = chunk_words(NT, self.sum_cols);
        chunk * (words + sums)
    }

    /// The matrices b for two steps, the `pair`-th of the chunk.
    #[inline(always)]
    #[track_caller]
    fn pair(self, chunk: usize, pair: usize) -> Pair<NT> {
        let lane = warp::lane_id() as usize;
        let mut b = [[[0; 2]; 2]; NT];
        let mut nt = 0;
        while nt < NT {
            let words = self.words.load::<4>(self.chunk(chunk) + (pair * NT + nt) * 128 + 4 * lane);
            b[nt] = [[words[0], words[1]], [words[2], words[3]]];
            nt += 1;
        }
        b
    }

    /// Matrix b `nt` of sums, for the `i`-th `mma`.
    #[inline(always)]
    #[track_caller]
    fn sums(self, chunk: usize, nt: usize, i: usize) -> [u32; 2] {
        let lane = warp::lane_id() as usize;
        let [words, _] = chunk_words(NT, self.sum_cols);
        self.words.load::<2>(self.chunk(chunk) + words + (nt * (32 / self.sum_cols) + i) * 64 + 2 * lane)
    }

    /// The scales of the columns of c that a lane has.
    #[inline(always)]
    #[track_caller]
    fn scales(self, chunk: usize, nt: usize) -> [f32; 2] {
        let c = warp::lane_id() as usize % 4;
        if PARTS == 2 {
            let scale = self.scales.get((chunk * NT + nt) * 4 + c);
            [scale, scale]
        } else {
            self.scales.load::<2>((chunk * NT + nt) * 8 + 2 * c)
        }
    }
}

/// What a lane has of the sums, as (row, place among the vectors, sum).
#[inline(always)]
pub fn each_sum<const PARTS: usize, const NT: usize>(
    sums: [[f32; 4]; NT],
    mut f: impl FnMut(usize, usize, f32),
) {
    let lane = warp::lane_id() as usize;
    let (g, c) = (lane / 4, lane % 4);
    let mut nt = 0;
    while nt < NT {
        let mut half = 0;
        while half < 2 {
            let [a, b] = [sums[nt][2 * half], sums[nt][2 * half + 1]];
            let row = g + 8 * half;
            if PARTS == 2 {
                f(row, 4 * nt + c, a + b);
            } else {
                f(row, 8 * nt + c, a);
                f(row, 8 * nt + 4 + c, b);
            }
            half += 1;
        }
        nt += 1;
    }
}

/// The vector at a place: without parts, column 2 c + k of a matrix b comes at place 4 k + c.
#[inline(always)]
pub fn vector_at<const PARTS: usize>(place: usize) -> usize {
    if PARTS == 2 { place } else { place / 8 * 8 + place % 4 * 2 + place / 4 % 2 }
}

/// For an error bound, the longest chain: the tiles of a row, the warps, the parts.
pub const fn chain<Q: Several>(n_cols: usize) -> usize {
    let n_tiles = n_cols.div_ceil(Q::TILE_COLS);
    Q::PRODUCT_CHAIN + n_tiles * Q::TILE_CHAIN + WARPS + 1
}

macro_rules! floats {
    ($format:ty, $float:ty) => {
        impl Several for $format {
            type Float = $float;
            const SUM_COLS: usize = 0;
            const TWO_PARTS_VECTORS: usize = MAX_VECTORS;
            // The sums of a tile's products with a part of x; and that of the parts, which comes last.
            const PRODUCT_CHAIN: usize = Self::TILE_COLS + 1;
            const TILE_CHAIN: usize = 1;

            #[inline(always)]
            fn add_tile<const PARTS: usize, const NT: usize>(
                sums: &mut [[f32; 4]; NT],
                tile: SharedTile,
                x: VectorWords<PARTS, NT>,
                at: At<Self>,
            ) {
                let lane = warp::lane_id() as usize;
                let mut products = [[0.0; 4]; NT];
                let mut pair = 0;
                while pair < 2 {
                    let mut a = [[0; 4]; 2];
                    let mut k = 0;
                    while k < 2 {
                        let step = 2 * pair + k;
                        let quants = Self::quants(tile, lane, step / Self::GROUP_STEPS);
                        a[k] = Self::words(&quants, step % Self::GROUP_STEPS);
                        k += 1;
                    }
                    let b = x.pair(at.chunk, at.first_pair + pair);
                    let mut nt = 0;
                    while nt < NT {
                        products[nt] = <$float>::mma(a[0], b[nt][0], products[nt]);
                        products[nt] = <$float>::mma(a[1], b[nt][1], products[nt]);
                        nt += 1;
                    }
                    pair += 1;
                }
                add_scaled(sums, products, |nt| x.scales(at.chunk, nt), [1.0; 2]);
            }
        }
    };
}

floats!(F16, f16);
floats!(BF16, bf16);

/// `sums += scale of the column · factor of the row · products`.
#[inline(always)]
fn add_scaled<const NT: usize>(
    sums: &mut [[f32; 4]; NT],
    products: [[f32; 4]; NT],
    scales: impl Fn(usize) -> [f32; 2],
    factors: [f32; 2],
) {
    let mut nt = 0;
    while nt < NT {
        let scales = scales(nt);
        let mut i = 0;
        while i < 4 {
            sums[nt][i] = math::fma(scales[i % 2], products[nt][i] * factors[i / 2], sums[nt][i]);
            i += 1;
        }
        nt += 1;
    }
}

macro_rules! quants {
    ($($format:ty: $blocks:literal),+) => {$(
        impl Several for $format {
            type Float = f16;
            const SUM_COLS: usize = if Self::HAS_OFFSET { Self::SUB } else { 0 };
            const TWO_PARTS_VECTORS: usize = 4;
            const BLOCKS_OF_SIXTEEN: usize = $blocks;
            // The sums of a sub-block's products, its scale and the scale of x. With offsets, the additions and the parts of
            // the sums of x: 2⁻²² are four roundings.
            const PRODUCT_CHAIN: usize = 64;
            const TILE_CHAIN: usize = Self::TILE_COLS / Self::SUB + 2;

            #[inline(always)]
            fn add_tile<const PARTS: usize, const NT: usize>(
                sums: &mut [[f32; 4]; NT],
                tile: SharedTile,
                x: VectorWords<PARTS, NT>,
                at: At<Self>,
            ) {
                add_products::<Self, PARTS, NT>(sums, tile, x, at);
            }
        }
    )+};
}

quants!(
    Q2_K: 2, Q3_K: 2, IQ4_NL: 2, IQ4_XS: 1, MXFP4: 2, Q4_0: 2, Q4_1: 2, Q5_0: 2, Q5_1: 2, Q8_0: 2, Q4_K: 1, Q5_K: 1, Q6_K: 1
);

/// Four quants as two pairs: times 2⁻²⁴ if they are not negative, as they are if they can be.
#[inline(always)]
fn to_f16<const IS_SIGNED: bool>(word: u32) -> [u32; 2] {
    if IS_SIGNED {
        let bias = f16x2::from_f32(-(1024.0 + 128.0), -(1024.0 + 128.0));
        [0x4140, 0x4342].map(|places| {
            let biased = f16x2::from_bits(math::byte_perm(word ^ 0x8080_8080, 0x6464_6464, places));
            (biased + bias).to_bits()
        })
    } else {
        [0x4140, 0x4342].map(|places| math::byte_perm(word, 0, places))
    }
}

#[inline(always)]
fn add_products<Q: QuantFragments, const PARTS: usize, const NT: usize>(
    sums: &mut [[f32; 4]; NT],
    tile: SharedTile,
    x: VectorWords<PARTS, NT>,
    at: At<Q>,
) {
    let lane = warp::lane_id() as usize;
    let chunk = at.chunk;
    let factor = if Q::HAS_OFFSET { FROM_BITS } else { 1.0 };

    let own = Q::scales(tile, lane / 4, lane % 4);
    if Q::HAS_OFFSET {
        let mut nt = 0;
        while nt < NT {
            let mut products = [0.0; 4];
            let mut i = 0;
            while i < 32 / Q::SUB {
                let pair = |half: usize| {
                    if Q::TILE_COLS == CHUNK_COLS {
                        Q::offset_bits(&own, 2 * i, half) | Q::offset_bits(&own, 2 * i + 1, half) << 16
                    } else {
                        Q::offset_bits(&own, 0, half) << (16 * at.in_chunk)
                    }
                };
                let [near, far] = [pair(0), pair(1)];
                products = matrix::mma_m16n8k16_f16([near, far, near, far], x.sums(chunk, nt, i), products);
                i += 1;
            }
            let scales = x.scales(chunk, nt);
            let mut i = 0;
            while i < 4 {
                let offset = Q::offset_factor(&own, i / 2) * SUM_UNIT * products[i];
                sums[nt][i] = math::fma(scales[i % 2], offset, sums[nt][i]);
                i += 1;
            }
            nt += 1;
        }
    }
    let mut quants = Q::quants(tile, lane, 0);
    let mut totals = [[0.0; 4]; NT];
    let mut pair = 0;
    while pair < pairs::<Q>() {
        let col = pair * 32;
        if col > 0 && col.is_multiple_of(Q::GROUP_COLS) {
            quants = Q::quants(tile, lane, col / Q::GROUP_COLS);
        }
        let words = Q::words(&quants, col % Q::GROUP_COLS / Q::STEP_COLS);
        let mut a = [[0; 4]; 2];
        let mut k = 0;
        while k < 2 {
            let near =
                if Q::HAS_OFFSET { to_f16::<false>(words[2 * k]) } else { to_f16::<true>(words[2 * k]) };
            let far = if Q::HAS_OFFSET {
                to_f16::<false>(words[2 * k + 1])
            } else {
                to_f16::<true>(words[2 * k + 1])
            };
            a[k] = [near[0], far[0], near[1], far[1]];
            k += 1;
        }
        let b = x.pair(at.chunk, at.first_pair + pair);
        let mut nt = 0;
        while nt < NT {
            let near = matrix::mma_m16n8k16_f16(a[0], b[nt][0], [0.0; 4]);
            if Q::SUB == 32 {
                let products = matrix::mma_m16n8k16_f16(a[1], b[nt][1], near);
                add_levels::<Q>(&mut totals[nt], products, tile, pair);
            } else {
                let far = matrix::mma_m16n8k16_f16(a[1], b[nt][1], [0.0; 4]);
                add_levels::<Q>(&mut totals[nt], near, tile, 2 * pair);
                add_levels::<Q>(&mut totals[nt], far, tile, 2 * pair + 1);
            }
            nt += 1;
        }
        pair += 1;
    }
    let factors = [0, 1].map(|half| Q::factor(&own, half) * factor);
    add_scaled(sums, totals, |nt| x.scales(chunk, nt), factors);
}

/// `totals += level of the row and sub-block · products`.
#[inline(always)]
fn add_levels<Q: QuantFragments>(totals: &mut [f32; 4], products: [f32; 4], tile: SharedTile, sub: usize) {
    let scales = Q::scales(tile, warp::lane_id() as usize / 4, sub % 4);
    let mut i = 0;
    while i < 4 {
        totals[i] = math::fma(Q::level(&scales, sub / 4, i / 2), products[i], totals[i]);
        i += 1;
    }
}
