//! Products of quantised weights and one vector: integers on the tensor cores.
//!
//! x is put into fixed point, with a scale for the stretch that shares a scale of the weights: x ≈ s · (256 · hi + lo), hi
//! and lo signed bytes, which leaves 16 bits of the largest element. Both are columns of one matrix b, so one `mma` makes
//! Σ q · hi and Σ q · lo; 256 times the one plus the other is Σ q · x / s exactly, in 32 bits. Eight columns hold four
//! stretches, each with zeros in the `mma` of the others: so the four lanes of a row have one stretch each to scale. An offset is multiplied with Σ x of the stretch, as exact.

use super::one::XTile;
use super::{Product, Vectors, XOrder};
use crate::quant::fragments::{Fragments, QuantFragments, SharedTile};
use crate::quant::{IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
use crate::simt::prelude::*;

/// The largest quant of x: 127 · 256, so that hi, rounded, fits a byte.
const LARGEST: f32 = 32512.0;
/// Where the largest magnitude of a stretch is below, all of it counts as zero.
const SMALLEST: f32 = 7.888_609e-31; // 2⁻¹⁰⁰
/// 1.5 · 2²³: the sum of this and a number up to 2²² has the rounded number in its low bits.
const ROUNDER: f32 = 12_582_912.0;

macro_rules! quant_product {
    ($($format:ty),+) => {$(
        impl Product for $format {
            // Half of one in LARGEST, and 1.5 % more for the roundings of the scale, its reciprocal and the product.
            const X_ERROR: [f64; 2] = [0.0, 1.0 / 64000.0];
            const X_ELEMENT_BYTES: usize = 2;
            const X_SCALE_COLS: usize = Self::SUB;
            const X_NUMBERS: usize = if Self::HAS_OFFSET { 2 } else { 1 };
            const LANES_SHARE: bool = true;
            // The conversion of a sum to f32, and its product with the scale of x.
            const PRODUCT_CHAIN: usize = 2;
            // A lane has a fourth of them.
            const TILE_CHAIN: usize = Self::TILE_COLS / Self::SUB * Self::X_NUMBERS;

            const X_ORDER: XOrder = XOrder::Fixed { stretch: Self::SUB, has_sums: Self::HAS_OFFSET };

            #[inline(always)]
            fn add_tile(sums: &mut [f32; 2], tile: SharedTile, x_tile: XTile, col_tile: usize) {
                add_products::<Self>(sums, tile, x_tile, col_tile);
            }
        }
    )+};
}

quant_product!(Q2_K, Q3_K, IQ4_NL, IQ4_XS, MXFP4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K);

/// Matrix b of fragment f, which covers four stretches, begins at word 2 f · SUB: those of each lane in order, one for a stretch
/// of 16 columns, two for one of 32. Column 2 k + p of it is part p (hi, lo) of x in stretch k. The numbers of k are at 4 f + k.
///
/// Converts four columns, those of thread i of as many as there are; zeros where there are none.
#[inline(always)]
pub fn convert<const SUB: usize, const HAS_SUMS: bool>(to: (Out<u32>, Out<f32>), x: Vectors, i: usize) {
    let quads = SUB / 4;
    let (quad, k, fragment) = (i % quads, i / quads % 4, i / quads / 4);
    let values = x.padded_quad((fragment * 4 + k) * SUB + 4 * quad);
    let (scale, inverse) = scale_of::<SUB>(values);
    let biased = values.map_words(|value| math::fma(value, inverse, ROUNDER).to_bits());
    let parts = [biased.map_words(|bits| bits.wrapping_add(128)).bytes(1), biased.bytes(0)];
    let (words, numbers) = to;
    let place = |part: usize| (fragment * 32 + 4 * (2 * k + part) + quad % 4) * (SUB / 16);
    if SUB == 32 {
        // The other lane with words of the same lane of b: one stores both of hi, one both of lo.
        let part = quad / 4;
        let other = warp::shuffle_xor(if part == 0 { parts[1] } else { parts[0] }, 4);
        words.store::<2>(place(part), if part == 0 { [parts[0], other] } else { [other, parts[1]] });
    } else {
        words.set(place(0), parts[0]);
        words.set(place(1), parts[1]);
    }
    let number = fragment * 4 + k;
    if HAS_SUMS {
        let sum = sum_of::<SUB>(parts);
        if quad == 0 {
            numbers.store::<2>(2 * number, [scale, scale * sum]);
        }
    } else if quad == 0 {
        numbers.set(number, scale);
    }
}

/// Four values of a lane.
trait Four<T> {
    fn map_words(self, f: impl Fn(T) -> u32) -> [u32; 4];
}

impl<T: Copy> Four<T> for [T; 4] {
    #[inline(always)]
    fn map_words(self, f: impl Fn(T) -> u32) -> [u32; 4] {
        [f(self[0]), f(self[1]), f(self[2]), f(self[3])]
    }
}

/// Words of which one byte each is wanted.
trait Bytes {
    fn bytes(self, i: u32) -> u32;
}

impl Bytes for [u32; 4] {
    /// Byte `i` of each.
    #[inline(always)]
    fn bytes(self, i: u32) -> u32 {
        let pair = |a, b| math::byte_perm(a, b, i | (4 + i) << 4);
        math::byte_perm(pair(self[0], self[1]), pair(self[2], self[3]), 0x5410)
    }
}

/// The scale of the stretch that neighbouring lanes hold, and its reciprocal. If an element is infinite or no number, so is
/// the scale.
#[inline(always)]
fn scale_of<const SUB: usize>(values: [f32; 4]) -> (f32, f32) {
    // Magnitudes order like their bits, and no number comes last.
    let larger = |a: u32, b: u32| if a > b { a } else { b };
    let [a, b, c, d] = values.map_words(|value| math::abs(value).to_bits());
    let mut largest = larger(larger(a, b), larger(c, d));
    largest = larger(largest, warp::shuffle_xor(largest, 1));
    largest = larger(largest, warp::shuffle_xor(largest, 2));
    if SUB == 32 {
        largest = larger(largest, warp::shuffle_xor(largest, 4));
    }
    let largest = f32::from_bits(largest);
    if largest < SMALLEST {
        return (0.0, 0.0);
    }
    let scale = largest * (1.0 / LARGEST);
    (scale, math::rcp(scale))
}

/// Σ (256 · hi + lo) over the stretch that neighbouring lanes hold; exact, below 2²⁴.
#[inline(always)]
fn sum_of<const SUB: usize>(parts: [u32; 2]) -> f32 {
    const ONES: u32 = 0x0101_0101;
    let mut sum = 256 * math::dp4a(parts[0], ONES, 0) + math::dp4a(parts[1], ONES, 0);
    sum += warp::shuffle_xor(sum, 1);
    sum += warp::shuffle_xor(sum, 2);
    if SUB == 32 {
        sum += warp::shuffle_xor(sum, 4);
    }
    sum as f32
}

#[inline(always)]
fn add_products<Q: Product + QuantFragments>(
    sums: &mut [f32; 2],
    tile: SharedTile,
    x_tile: XTile,
    col_tile: usize,
) {
    let lane = warp::lane_id() as usize;
    let (g, c) = (lane / 4, lane % 4);
    // The stretch of a fragment to whose column the lane's words of b belong; its results belong to the c-th.
    let b_stretch = warp::lane_id() / 8;
    let fragments = Q::TILE_COLS / Q::SUB / 4;

    let scales = Q::scales(tile, g, c);
    let mut quants = Q::quants(tile, lane, 0);
    let mut f = 0;
    while f < fragments {
        let fragment = col_tile * fragments + f;
        let mut products = [0; 4];
        let mut s = 0;
        while s < 4 {
            let col = (f * 4 + s) * Q::SUB;
            if col > 0 && col.is_multiple_of(Q::GROUP_COLS) {
                quants = Q::quants(tile, lane, col / Q::GROUP_COLS);
            }
            let [a, rest] = Q::terms(&quants, col % Q::GROUP_COLS / Q::STEP_COLS);
            let keep = |word: u32| if s as u32 == b_stretch { word } else { 0 };
            let b = if Q::SUB == 32 {
                let [near, far] = x_tile.words.load::<2>((fragment * 32 + lane) * 2);
                [keep(near), keep(far)]
            } else {
                let word = keep(x_tile.words.get(fragment * 32 + lane));
                if col.is_multiple_of(32) { [word, 0] } else { [0, word] }
            };
            products = matrix::mma_m16n8k32_s8(a, b, products);
            if Q::TWO_TERMS {
                products = matrix::mma_m16n8k32_s8(rest, b, products);
            }
            s += 1;
        }
        let number = fragment * 4 + c;
        let [x_scale, x_sum] = if Q::HAS_OFFSET {
            x_tile.numbers.load::<2>(2 * number)
        } else {
            [x_tile.numbers.get(number), 0.0]
        };
        let mut half = 0;
        while half < 2 {
            let product = 256 * products[2 * half] + products[2 * half + 1];
            let (scale, offset) = (Q::scale(&scales, f, half), Q::offset(&scales, f, half));
            let sum = math::fma(scale, x_scale * product as f32, sums[half]);
            sums[half] = if Q::HAS_OFFSET { math::fma(offset, x_sum, sum) } else { sum };
            half += 1;
        }
        f += 1;
    }
}
