//! How a weight matrix lies in GPU memory: f32 as in the file, everything else in [`fragments`](super::fragments).
//!
//! Host, kernels and tests all take sizes and places from here.

use super::fragments::{Fragments, TILE_ROWS, global_tile};
use super::{
    BF16, F16, F32, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
    QuantBlock,
};
use crate::simt::prelude::*;

/// Matrices begin at multiples of this many bytes: two cache lines.
pub const MATRIX_ALIGN: usize = 256;

/// A format's place in GPU memory.
pub trait GpuLayout: QuantBlock {
    /// Whether a file's bytes are already in the GPU's layout.
    const AS_IN_FILE: bool;
    /// Columns of a stretch: a matrix goes to the GPU in pieces of whole stretches; a row's last one may be shorter.
    const STRETCH_COLS: usize;

    /// Bytes that a matrix takes in GPU memory, the padding included.
    fn matrix_bytes(n_rows: usize, n_cols: usize) -> usize;

    /// Puts a matrix as it lies in a file into the GPU's layout, on the host.
    ///
    /// # Panics
    /// If the lengths do not fit the shape.
    fn pack(gpu: &mut [u8], file: &[u8], n_rows: usize, n_cols: usize);

    /// The values of columns `col` to `col + 3` of a row, bit for bit those of [`QuantBlock::decode`]; `col` is a multiple of
    /// four, and past the last column there are zeros.
    fn values(matrix: In<u8>, n_cols: usize, row: usize, col: usize) -> [f32; 4];
}

impl GpuLayout for F32 {
    const AS_IN_FILE: bool = true;
    const STRETCH_COLS: usize = 1024;

    fn matrix_bytes(n_rows: usize, n_cols: usize) -> usize {
        n_rows * n_cols * Self::BYTES
    }

    fn pack(gpu: &mut [u8], file: &[u8], _: usize, _: usize) {
        gpu.copy_from_slice(file);
    }

    #[inline(always)]
    fn values(matrix: In<u8>, n_cols: usize, row: usize, col: usize) -> [f32; 4] {
        let first = row * n_cols + col;
        if n_cols.is_multiple_of(4) {
            let words = matrix.u32x4_at(4 * first);
            [
                f32::from_bits(words[0]),
                f32::from_bits(words[1]),
                f32::from_bits(words[2]),
                f32::from_bits(words[3]),
            ]
        } else {
            let value = |i: usize| {
                if col + i < n_cols { f32::from_bits(matrix.u32_at(4 * (first + i))) } else { 0.0 }
            };
            [value(0), value(1), value(2), value(3)]
        }
    }
}

macro_rules! fragment_layouts {
    ($($format:ty),+) => {$(
        impl GpuLayout for $format {
            const AS_IN_FILE: bool = false;
            const STRETCH_COLS: usize = Self::TILE_COLS;

            fn matrix_bytes(n_rows: usize, n_cols: usize) -> usize {
                <Self as Fragments>::matrix_bytes(n_rows, n_cols)
            }

            fn pack(gpu: &mut [u8], file: &[u8], n_rows: usize, n_cols: usize) {
                <Self as Fragments>::pack(gpu, file, n_rows, n_cols);
            }

            #[inline(always)]
            fn values(matrix: In<u8>, n_cols: usize, row: usize, col: usize) -> [f32; 4] {
                let tile = global_tile::<Self>(matrix, n_cols, row / TILE_ROWS, col / Self::TILE_COLS);
                <Self as Fragments>::values(tile, row % TILE_ROWS, col % Self::TILE_COLS)
            }
        }
    )+};
}

fragment_layouts!(
    F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, Q2_K, Q3_K, IQ4_NL, IQ4_XS, MXFP4
);
