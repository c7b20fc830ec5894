//! Products of weights in 16-bit floats and one vector, on the tensor cores.
//!
//! Each element of x is the sum of two floats of the weights' type, hi = x rounded and lo = the rest rounded: two columns
//! of matrix b. With f16 they keep 22 bits, and the 64 columns of a tile are first scaled by a power of two so that no
//! element is too large and none that matters too small; with bf16 they keep 17, and need no scale.

use super::one::XTile;
use super::parts::PartFloat;
use super::{Product, XOrder};
use crate::quant::fragments::{Fragments, SharedTile};
use crate::quant::{BF16, F16};
use crate::simt::prelude::*;

/// Steps of a tile, and its columns.
const STEPS: usize = 4;
pub const TILE_COLS: usize = 16 * STEPS;

/// Relative errors of rounding to f16 and to bf16.
pub const F16_ROUNDING: f64 = 1.0 / (1 << 11) as f64;
pub const BF16_ROUNDING: f64 = 1.0 / (1 << 8) as f64;
/// The error of a rest that is subnormal, 2⁻²⁵, as a part of the largest element, at least 2¹⁴.
pub const F16_REST: f64 = 1.0 / (1u64 << 39) as f64;

/// What differs between f16 and bf16.
pub trait Float: Fragments {
    /// The elements.
    type Half: PartFloat;
    /// Whether x is scaled.
    const SCALES_X: bool;
}

macro_rules! float_product {
    ($format:ty, $order:ident, $half:ty, scales_x: $scales_x:literal, error: $error:expr) => {
        impl Float for $format {
            type Half = $half;
            const SCALES_X: bool = $scales_x;
        }

        impl Product for $format {
            const X_ERROR: [f64; 2] = $error;
            const X_ELEMENT_BYTES: usize = 4;
            const X_SCALE_COLS: usize = TILE_COLS;
            const X_GROUP_COLS: usize = TILE_COLS;
            const X_GROUP_NUMBERS: usize = 1;
            const X_NUMBERS: usize = 1;
            const LANES_SHARE: bool = false;
            // The sums of a tile's products with hi and with lo, and the sum of these two.
            const PRODUCT_CHAIN: usize = Self::TILE_COLS + 1;
            const TILE_CHAIN: usize = 1;

            const X_ORDER: XOrder = XOrder::$order;

            #[inline(always)]
            fn add_tile(sums: &mut [f32; 2], tile: SharedTile, x_tile: XTile, x_place: usize) {
                add_products::<Self>(sums, tile, x_tile, x_place);
            }
        }
    };
}

float_product!(F16, F16, f16, scales_x: true, error: [F16_ROUNDING * F16_ROUNDING, F16_REST]);
float_product!(BF16, BF16, bf16, scales_x: false, error: [BF16_ROUNDING * BF16_ROUNDING, 0.0]);

/// Where the words of columns 4 c to 4 c + 3 of a step, counted from the first column, begin, in part p of x.
#[inline(always)]
fn b_place(step: usize, p: usize, c: usize) -> usize {
    (2 * step + p) * 8 + 2 * c
}

/// What a lane has of a tile of columns.
#[derive(Clone, Copy)]
pub struct Converted {
    /// Of the high parts, and of the low ones.
    words: [[u32; 2]; 2],
    scale: f32,
}

/// Converts four columns. Neighbouring lanes of a whole warp have neighbouring ones; sixteen lanes have a tile's columns.
#[inline(always)]
pub fn convert<Q: Float>(values: [f32; 4]) -> Converted {
    let (scale, inverse) = if Q::SCALES_X { scale_of(values) } else { (1.0, 1.0) };
    let [near, far] = [
        Q::Half::split(values[0] * inverse, values[1] * inverse),
        Q::Half::split(values[2] * inverse, values[3] * inverse),
    ];
    Converted { words: [[near[0], far[0]], [near[1], far[1]]], scale }
}

/// Stores columns 4 i to 4 i + 3; the scale of a tile is its number.
#[inline(always)]
#[track_caller]
pub fn store((words, numbers): (Out<u32>, Out<f32>), i: usize, converted: Converted) {
    let (c, step) = (i % 4, i / 4);
    words.store::<2>(b_place(step, 0, c), converted.words[0]);
    words.store::<2>(b_place(step, 1, c), converted.words[1]);
    if i.is_multiple_of(16) {
        numbers.set(i / 16, converted.scale);
    }
}

/// The power of two that brings the largest of the values of sixteen lanes to 2¹⁴ at least and below 2¹⁵, and its
/// reciprocal; zeros where all are below 2⁻¹¹² and count as zero.
#[inline(always)]
fn scale_of(values: [f32; 4]) -> (f32, f32) {
    let larger = |a: u32, b: u32| if a > b { a } else { b };
    let bits = |i: usize| math::abs(values[i]).to_bits();
    let mut largest = larger(larger(bits(0), bits(1)), larger(bits(2), bits(3)));
    largest = larger(largest, warp::shuffle_xor(largest, 1));
    largest = larger(largest, warp::shuffle_xor(largest, 2));
    largest = larger(largest, warp::shuffle_xor(largest, 4));
    largest = larger(largest, warp::shuffle_xor(largest, 8));
    let exponent = largest >> 23; // 127 more than that of the power below the largest
    let power = |exponent: u32| f32::from_bits(exponent.wrapping_shl(23));
    let scales = (power(exponent.wrapping_sub(14)), power((2 * 127 + 14u32).wrapping_sub(exponent)));
    if exponent <= 14 { (0.0, 0.0) } else { scales }
}

#[inline(always)]
fn add_products<Q: Float>(sums: &mut [f32; 2], tile: SharedTile, x_tile: XTile, x_place: usize) {
    let lane = warp::lane_id() as usize;
    let (g, c) = (lane / 4, lane % 4);
    let mut products = [0.0; 4];
    let mut step = 0;
    while step < STEPS {
        let quants = Q::quants(tile, lane, step / Q::GROUP_STEPS);
        let a = Q::words(&quants, step % Q::GROUP_STEPS);
        // The two columns come four times.
        let b = x_tile.words.load::<2>(b_place(x_place * STEPS + step, g % 2, c));
        products = Q::Half::mma(a, b, products);
        step += 1;
    }
    let scale = if Q::SCALES_X { x_tile.numbers.get(x_place) } else { 1.0 };
    let mut half = 0;
    while half < 2 {
        let product = products[2 * half] + products[2 * half + 1];
        sums[half] = math::fma(scale, product, sums[half]);
        half += 1;
    }
}
