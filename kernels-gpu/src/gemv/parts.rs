//! Vectors as parts of 16 bits, for the products of several.
//!
//! An element of x is one float or the sum of two: x rounded, and the rest rounded. These **parts** are neighbouring columns
//! of matrix b. f16 holds x times a power of two that brings the largest of [`CHUNK_COLS`] columns to 2¹⁴ at least and below
//! 2¹⁵; bf16 holds it as it is.

use super::Vectors;
use crate::simt::prelude::*;

/// Columns of x that share a scale: a chunk.
pub const CHUNK_COLS: usize = 256;
/// Pairs of steps of a chunk, of 32 columns.
const CHUNK_PAIRS: usize = CHUNK_COLS / 32;
/// Sums are stored as parts of this.
pub const SUM_UNIT: f32 = 32.0;

/// f16 or bf16 as parts of x.
pub trait PartFloat {
    /// Whether x needs no scale.
    const IS_BF16: bool;
    /// Two numbers rounded, and the rests.
    fn split(a: f32, b: f32) -> [u32; 2];
    /// The values of a pair.
    fn values(pair: u32) -> [f32; 2];
    fn mma(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4];
}

macro_rules! part_float {
    ($half:ident, $pair:ident, $mma:ident, $is_bf16:literal) => {
        impl PartFloat for $half {
            const IS_BF16: bool = $is_bf16;

            #[inline(always)]
            fn split(a: f32, b: f32) -> [u32; 2] {
                let rounded = $pair::from_f32(a, b);
                let (a_rounded, b_rounded) = rounded.to_f32();
                [rounded.to_bits(), $pair::from_f32(a - a_rounded, b - b_rounded).to_bits()]
            }

            #[inline(always)]
            fn values(pair: u32) -> [f32; 2] {
                let (a, b) = $pair::from_bits(pair).to_f32();
                [a, b]
            }

            #[inline(always)]
            #[track_caller]
            fn mma(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4] {
                matrix::$mma(a, b, c)
            }
        }
    };
}

part_float!(f16, f16x2, mma_m16n8k16_f16, false);
part_float!(bf16, bf16x2, mma_m16n8k16_bf16, true);

/// Words of a chunk before those of the sums, and words of the sums.
pub const fn chunk_words(n_matrices: usize, sum_cols: usize) -> [usize; 2] {
    let sums = match sum_cols {
        0 => 0,
        _ => n_matrices * 64 * (32 / sum_cols),
    };
    [CHUNK_PAIRS * n_matrices * 128, sums]
}

/// Words, and numbers, of `n_matrices` matrices b of columns that are parts of vectors.
pub const fn len(n_matrices: usize, n_parts: usize, sum_cols: usize, n_cols: usize) -> [usize; 2] {
    let [words, sums] = chunk_words(n_matrices, sum_cols);
    let n_chunks = n_cols.div_ceil(CHUNK_COLS);
    [n_chunks * (words + sums), n_chunks * n_matrices * 8 / n_parts]
}

/// Converts eight columns, those of a lane of the warp that has a chunk of a vector; zeros where there are none.
#[inline(always)]
pub fn convert<F: PartFloat, const PARTS: usize, const SUM_COLS: usize>(
    to: (Out<u32>, Out<f32>),
    x: Vectors,
    n_matrices: usize,
    i: usize,
) {
    let (words, numbers) = to;
    let n_vectors = n_matrices * 8 / PARTS;
    let (lane, vector, chunk) = (i % 32, i / 32 % n_vectors, i / 32 / n_vectors);
    let (matrix, column) = (vector / (8 / PARTS), vector % (8 / PARTS) * PARTS);
    let first_col = chunk * CHUNK_COLS + 8 * lane;
    let values = [x.quad(vector, first_col), x.quad(vector, first_col + 4)];
    let (scale, inverse) = if F::IS_BF16 { (1.0, 1.0) } else { scale_of(values) };
    if lane == 0 {
        numbers.set(chunk * n_vectors + vector, scale);
    }
    let [n_words, n_sums] = chunk_words(n_matrices, SUM_COLS);
    let start = chunk * (n_words + n_sums);
    let mut sums = [0.0; 2];
    let mut k = 0;
    while k < 2 {
        let [a, b, c, d] = values[k];
        let [near, far] = [F::split(a * inverse, b * inverse), F::split(c * inverse, d * inverse)];
        // Of the eight quads of 32 columns: four lanes of each of two steps.
        let quad = lane % 4 * 2 + k;
        let mut part = 0;
        while part < PARTS {
            let place =
                (lane / 4 * n_matrices + matrix) * 128 + (4 * (column + part) + quad % 4) * 4 + quad / 4 * 2;
            words.store::<2>(start + place, [near[part], far[part]]);
            if SUM_COLS > 0 {
                let ([a, b], [c, d]) = (F::values(near[part]), F::values(far[part]));
                sums[part] += (a + b) + (c + d);
            }
            part += 1;
        }
        k += 1;
    }
    if SUM_COLS > 0 {
        let mut part = 0;
        while part < PARTS {
            let mut sum = sums[part];
            sum += warp::shuffle_xor(sum, 1);
            if SUM_COLS == 32 {
                sum += warp::shuffle_xor(sum, 2);
            }
            // With the sum of the sub-block that is four further.
            let lanes = SUM_COLS / 8;
            let other = warp::shuffle_xor(sum, 4 * lanes as u32);
            let sub = lane / lanes;
            if lane % lanes == 0 && sub % 8 < 4 {
                let pair = F::split(sum * (1.0 / SUM_UNIT), other * (1.0 / SUM_UNIT));
                let place =
                    n_words + (matrix * (32 / SUM_COLS) + sub / 8) * 64 + (4 * (column + part) + sub % 4) * 2;
                words.store::<2>(start + place, pair);
            }
            part += 1;
        }
    }
}

/// The power of two that brings the largest of a warp's values to 2¹⁴ at least and below 2¹⁵, and its
/// reciprocal; zeros where all are below 2⁻¹¹² and count as zero.
#[inline(always)]
fn scale_of(values: [[f32; 4]; 2]) -> (f32, f32) {
    let larger = |a: u32, b: u32| if a > b { a } else { b };
    let bits = |i: usize| math::abs(values[i / 4][i % 4]).to_bits();
    let near = larger(larger(bits(0), bits(1)), larger(bits(2), bits(3)));
    let far = larger(larger(bits(4), bits(5)), larger(bits(6), bits(7)));
    let mut largest = larger(near, far);
    let mut mask = 1;
    while mask < 32 {
        largest = larger(largest, warp::shuffle_xor(largest, mask));
        mask *= 2;
    }
    let exponent = largest >> 23; // 127 more than that of the power below the largest
    if exponent <= 14 {
        return (0.0, 0.0);
    }
    (f32::from_bits((exponent - 14) << 23), f32::from_bits((2 * 127 + 14 - exponent) << 23))
}
