//! Products of quantised weights and one vector: integers on the tensor cores.
//!
//! x is put into fixed point, with a scale for each stretch of 32 columns: x ≈ s · (256 · hi + lo), hi and lo signed bytes,
//! which leaves 16 bits of the largest element. It is the same for all formats, so that whoever makes x need not know who
//! reads it. Both are columns of one matrix b, so one `mma` makes Σ q · hi and Σ q · lo; 256 times the one plus the other
//! is Σ q · x / s exactly, in 32 bits. Eight columns hold four sub-blocks of the weights, 16 or 32 columns that share a scale
//! of theirs, each with zeros in the `mma` of the others: so the four lanes of a row have one sub-block each to scale. An
//! offset is multiplied with Σ x of the sub-block, as exact.

use super::one::XTile;
use super::{Product, XOrder};
use crate::quant::fragments::{Fragments, QuantFragments, SharedTile};
use crate::quant::{IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
use crate::simt::prelude::*;

/// Columns of a stretch of x.
pub const STRETCH: usize = 32;
/// Columns of four stretches, which are one matrix b for sub-blocks of 32 columns; and their numbers: for each of them its
/// scale and the scale times its sum; then for each the scale times the sums of its halves.
pub const GROUP_COLS: usize = 4 * STRETCH;
pub const GROUP_NUMBERS: usize = 16;
/// Numbers of a group without the sums of halves.
const NUMBERS_WITHOUT_HALVES: usize = 8;
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
            const X_SCALE_COLS: usize = STRETCH;
            const X_GROUP_COLS: usize = GROUP_COLS;
            const X_GROUP_NUMBERS: usize = GROUP_NUMBERS;
            const X_NUMBERS: usize =
                if Self::HAS_OFFSET && Self::SUB < STRETCH { GROUP_NUMBERS } else { NUMBERS_WITHOUT_HALVES };
            const LANES_SHARE: bool = true;
            // The conversion of a sum to f32, and its product with the scale of x.
            const PRODUCT_CHAIN: usize = 2;
            // A lane has a fourth of them.
            const TILE_CHAIN: usize = Self::TILE_COLS / Self::SUB * if Self::HAS_OFFSET { 2 } else { 1 };

            const X_ORDER: XOrder = XOrder::Fixed;

            #[inline(always)]
            fn add_tile(sums: &mut [f32; 2], tile: SharedTile, x_tile: XTile, x_place: usize) {
                add_products::<Self>(sums, tile, x_tile, x_place);
            }
        }
    )+};
}

quant_product!(Q2_K, Q3_K, IQ4_NL, IQ4_XS, MXFP4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K);

/// What a lane has of a stretch.
#[derive(Clone, Copy)]
pub struct Converted {
    words: [u32; 2],
    /// The scale, and the scale times the sum.
    numbers: [f32; 2],
    /// The scale times the sums of the halves: the lane's own, and the other.
    halves: [f32; 2],
}

/// Converts columns 4 i to 4 i + 3. Neighbouring lanes of a whole warp have neighbouring i, the first lane a multiple of eight.
#[inline(always)]
pub fn convert(values: [f32; 4], i: usize) -> Converted {
    let (scale, inverse) = scale_of(values);
    let biased = values.map_words(|value| math::fma(value, inverse, ROUNDER).to_bits());
    let parts = [biased.map_words(|bits| bits.wrapping_add(128)).bytes(1), biased.bytes(0)];
    // The other lane with words of the same lane of b: one has both of hi, one both of lo.
    let is_high = i % 8 < 4;
    let other = warp::shuffle_xor(if is_high { parts[1] } else { parts[0] }, 4);
    let words = if is_high { [parts[0], other] } else { [other, parts[1]] };
    let near = sum_of_half(parts);
    let far = warp::shuffle_xor(near, 4);
    let scaled = |sum: i32| scale * sum as f32;
    Converted { words, numbers: [scale, scaled(near + far)], halves: [scaled(near), scaled(far)] }
}

/// Stores what [`convert`] has made. Matrix b of four stretches: two words for each lane, in order. Column 2 k + p of it is part
/// p (hi, lo) of x in stretch k.
#[inline(always)]
#[track_caller]
pub fn store((words, numbers): (Out<u32>, Out<f32>), i: usize, converted: Converted) {
    let (quad, stretch) = (i % 8, i / 8);
    words.store::<2>(2 * (8 * stretch + 4 * (quad / 4) + quad % 4), converted.words);
    if quad == 0 {
        let place = GROUP_NUMBERS * (stretch / 4) + 2 * (stretch % 4);
        numbers.store::<2>(place, converted.numbers);
        numbers.store::<2>(place + NUMBERS_WITHOUT_HALVES, converted.halves);
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

/// The scale of the stretch that eight neighbouring lanes hold, and its reciprocal. If an element is infinite or no number,
/// so is the scale.
#[inline(always)]
fn scale_of(values: [f32; 4]) -> (f32, f32) {
    // Magnitudes order like their bits, and no number comes last.
    let larger = |a: u32, b: u32| if a > b { a } else { b };
    let [a, b, c, d] = values.map_words(|value| math::abs(value).to_bits());
    let mut largest = larger(larger(a, b), larger(c, d));
    largest = larger(largest, warp::shuffle_xor(largest, 1));
    largest = larger(largest, warp::shuffle_xor(largest, 2));
    largest = larger(largest, warp::shuffle_xor(largest, 4));
    let largest = f32::from_bits(largest);
    let scale = largest * (1.0 / LARGEST);
    let inverse = math::rcp(scale);
    if largest < SMALLEST { (0.0, 0.0) } else { (scale, inverse) }
}

/// Σ (256 · hi + lo) over the 16 columns that four neighbouring lanes hold; below 2²⁴, as is that of a stretch, so exact as a float.
#[inline(always)]
fn sum_of_half(parts: [u32; 2]) -> i32 {
    const ONES: u32 = 0x0101_0101;
    let mut sum = 256 * math::dp4a(parts[0], ONES, 0) + math::dp4a(parts[1], ONES, 0);
    sum += warp::shuffle_xor(sum, 1);
    sum + warp::shuffle_xor(sum, 2)
}

#[inline(always)]
fn add_products<Q: Product + QuantFragments>(
    sums: &mut [f32; 2],
    tile: SharedTile,
    x_tile: XTile,
    x_place: usize,
) {
    let lane = warp::lane_id() as usize;
    let (g, c) = (lane / 4, lane % 4);
    // The sub-block of a fragment to whose column the lane's words of b belong; its results belong to the c-th.
    let b_sub = warp::lane_id() / 8;
    let fragments = Q::TILE_COLS / Q::SUB / 4;

    let scales = Q::scales(tile, g, c);
    let mut quants = Q::quants(tile, lane, 0);
    let mut f = 0;
    while f < fragments {
        let fragment = x_place * fragments + f;
        let mut products = [0; 4];
        let mut s = 0;
        while s < 4 {
            let col = (f * 4 + s) * Q::SUB;
            if col > 0 && col.is_multiple_of(Q::GROUP_COLS) {
                quants = Q::quants(tile, lane, col / Q::GROUP_COLS);
            }
            let [a, rest] = Q::terms(&quants, col % Q::GROUP_COLS / Q::STEP_COLS);
            let keep = |word: u32| if s as u32 == b_sub { word } else { 0 };
            let b = if Q::SUB == 32 {
                let [near, far] = x_tile.words.load::<2>((fragment * 32 + lane) * 2);
                [keep(near), keep(far)]
            } else {
                // Half of a stretch: one of the two words that the stretch has for a lane.
                let place = 16 * (lane / 16) + 2 * (lane % 8) + lane / 8 % 2;
                let word = keep(x_tile.words.get(fragment * 32 + place));
                if col.is_multiple_of(32) { [word, 0] } else { [0, word] }
            };
            products = matrix::mma_m16n8k32_s8(a, b, products);
            if Q::TWO_TERMS {
                products = matrix::mma_m16n8k32_s8(rest, b, products);
            }
            s += 1;
        }
        let [x_scale, x_sum] = numbers_of::<Q>(x_tile, fragment * 4 + c);
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

/// The scale of x and, where offsets need it, its sum in a sub-block.
#[inline(always)]
fn numbers_of<Q: Product + QuantFragments>(x_tile: XTile, sub: usize) -> [f32; 2] {
    let stretch = sub * Q::SUB / STRETCH;
    let place = Q::X_NUMBERS * (stretch / 4) + 2 * (stretch % 4);
    if !Q::HAS_OFFSET {
        [x_tile.numbers.get(place), 0.0]
    } else if Q::SUB == STRETCH {
        x_tile.numbers.load::<2>(place)
    } else {
        [x_tile.numbers.get(place), x_tile.numbers.get(place + NUMBERS_WITHOUT_HALVES + sub % 2)]
    }
}
