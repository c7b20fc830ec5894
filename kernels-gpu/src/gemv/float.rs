//! Products of weights in 16-bit floats, on the tensor cores.
//!
//! Each element of x is the sum of two floats of the weights' type, hi = x rounded and lo = the rest rounded: two columns
//! of matrix b. With f16 they keep 22 bits, and the 64 columns of a tile are first scaled by a power of two so that no
//! element is too large and none that matters too small; with bf16 they keep 17, and need no scale.

use super::{Product, Vectors, XOrder, XTile};
use crate::quant::fragments::{Fragments, SharedTile};
use crate::quant::{BF16, F16};
use crate::simt::prelude::*;

/// Steps of a tile.
const STEPS: usize = 4;

/// Relative errors of rounding to f16 and to bf16.
const F16_ROUNDING: f64 = 1.0 / (1 << 11) as f64;
const BF16_ROUNDING: f64 = 1.0 / (1 << 8) as f64;
/// The error of a rest that is subnormal, 2⁻²⁵, as a part of the largest element, at least 2¹⁴.
const F16_REST: f64 = 1.0 / (1u64 << 39) as f64;

/// What differs between f16 and bf16.
pub trait Float: Fragments {
    /// Whether x is scaled.
    const SCALES_X: bool;

    /// Two numbers rounded, and the rests.
    fn split(a: f32, b: f32) -> [u32; 2];

    fn mma(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4];
}

macro_rules! float_product {
    ($format:ty, $order:ident, $pair:ident, $mma:ident, scales_x: $scales_x:literal, error: $error:expr) => {
        impl Float for $format {
            const SCALES_X: bool = $scales_x;

            #[inline(always)]
            fn split(a: f32, b: f32) -> [u32; 2] {
                let rounded = $pair::from_f32(a, b);
                let (a_rounded, b_rounded) = rounded.to_f32();
                [rounded.to_bits(), $pair::from_f32(a - a_rounded, b - b_rounded).to_bits()]
            }

            #[inline(always)]
            #[track_caller]
            fn mma(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4] {
                matrix::$mma(a, b, c)
            }
        }

        impl Product for $format {
            const X_ERROR: [f64; 2] = $error;
            const X_ELEMENT_BYTES: usize = 4;
            const X_SCALE_COLS: usize = Self::TILE_COLS;
            const X_NUMBERS: usize = 1;
            const LANES_SHARE: bool = false;
            // The sums of a tile's products with hi and with lo, and the sum of these two.
            const PRODUCT_CHAIN: usize = Self::TILE_COLS + 1;
            const TILE_CHAIN: usize = 1;

            const X_ORDER: XOrder = XOrder::$order;

            #[inline(always)]
            fn add_tile<const V: usize, const NT: usize>(
                sums: &mut [[f32; 2]; NT],
                tile: SharedTile,
                x_tile: XTile,
                col_tile: usize,
            ) {
                add_products::<Self, V, NT>(sums, tile, x_tile, col_tile);
            }
        }
    };
}

float_product!(F16, F16, f16x2, mma_m16n8k16_f16, scales_x: true, error: [F16_ROUNDING * F16_ROUNDING, F16_REST]);
float_product!(BF16, BF16, bf16x2, mma_m16n8k16_bf16, scales_x: false, error: [BF16_ROUNDING * BF16_ROUNDING, 0.0]);

/// Where the words of columns 4 c to 4 c + 3 of a step, counted from the first column, begin, in column n = 2 v + p of matrix b
/// `nt`: part p (hi, lo) of vector v. The columns of four vectors are turned by the step.
#[inline(always)]
fn b_place<const V: usize>(step: usize, n_matrices: usize, nt: usize, n: usize, c: usize) -> usize {
    let n = if V == 1 { n } else { n ^ (step % STEPS) };
    (((step * n_matrices + nt) * 2 * V) + n) * 8 + 2 * c
}

/// Converts four columns, those of thread i of as many as there are. V · `n_matrices` vectors; zeros where there are none. The
/// scale of vector v for a tile of columns is number tile · V · `n_matrices` + v.
#[inline(always)]
pub fn convert<Q: Float, const V: usize>(to: (Out<u32>, Out<f32>), x: Vectors, n_matrices: usize, i: usize) {
    // Sixteen lanes have a tile's columns of a vector.
    let all = V * n_matrices;
    let (c, step, vector, tile) = (i % 4, i / 4 % STEPS, i / 16 % all, i / 16 / all);
    let values = load(x, vector, tile * Q::TILE_COLS + step * 16 + 4 * c);
    let (scale, inverse) = if Q::SCALES_X { scale_of(values) } else { (1.0, 1.0) };
    let [near, far] = [
        Q::split(values[0] * inverse, values[1] * inverse),
        Q::split(values[2] * inverse, values[3] * inverse),
    ];
    let (words, numbers) = to;
    let place = |part| b_place::<V>(tile * STEPS + step, n_matrices, vector / V, 2 * (vector % V) + part, c);
    words.store::<2>(place(0), [near[0], far[0]]);
    words.store::<2>(place(1), [near[1], far[1]]);
    if i.is_multiple_of(16) {
        numbers.set(tile * all + vector, scale);
    }
}

/// Columns `col` to `col + 3` of a vector; zeros where there are none.
#[inline(always)]
fn load(x: Vectors, vector: usize, col: usize) -> [f32; 4] {
    let start = vector * x.n_cols + col;
    if vector >= x.n_vectors || col >= x.n_cols {
        [0.0; 4]
    } else if x.n_cols.is_multiple_of(4) {
        x.x.load::<4>(start)
    } else {
        let get = |i| if col + i < x.n_cols { x.x.get(start + i) } else { 0.0 };
        [get(0), get(1), get(2), get(3)]
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
    if exponent <= 14 {
        return (0.0, 0.0);
    }
    (f32::from_bits((exponent - 14) << 23), f32::from_bits((2 * 127 + 14 - exponent) << 23))
}

#[inline(always)]
fn add_products<Q: Float, const V: usize, const NT: usize>(
    sums: &mut [[f32; 2]; NT],
    tile: SharedTile,
    x_tile: XTile,
    col_tile: usize,
) {
    let lane = warp::lane_id() as usize;
    let (g, c) = (lane / 4, lane % 4);
    let mut products = [[0.0; 4]; NT];
    let mut step = 0;
    while step < STEPS {
        let quants = Q::quants(tile, lane, step / Q::GROUP_STEPS);
        let a = Q::words(&quants, step % Q::GROUP_STEPS);
        let mut nt = 0;
        while nt < NT {
            // With one vector its two columns come four times.
            let place = b_place::<V>(col_tile * STEPS + step, NT, nt, g % (2 * V), c);
            let b = x_tile.words.load::<2>(place);
            products[nt] = Q::mma(a, b, products[nt]);
            nt += 1;
        }
        step += 1;
    }
    let mut nt = 0;
    while nt < NT {
        let vector = if V == 1 { 0 } else { nt * V + c };
        let scale = if Q::SCALES_X { x_tile.numbers.get(col_tile * V * NT + vector) } else { 1.0 };
        let mut half = 0;
        while half < 2 {
            let product = products[nt][2 * half] + products[nt][2 * half + 1];
            sums[nt][half] = math::fma(scale, product, sums[nt][half]);
            half += 1;
        }
        nt += 1;
    }
}
