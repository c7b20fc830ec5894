//! Vectors in the form in which they are multiplied, and in the order in which blocks copy them to shared memory: made once
//! for all blocks of a launch, and for all matrices whose formats share an [`XOrder`].

use super::{MAX_VECTORS, Product, float, quant};
use crate::quant::{BF16, F16};
use crate::simt::prelude::*;

/// Threads of a block.
pub const X_THREADS: u32 = 128;
/// Columns are padded with zeros to a multiple of this: whole tiles of every format.
const PADDED_COLS: usize = 256;

/// The form and order of converted vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XOrder {
    /// Pairs of f16, with a scale for a tile of columns: `gemv_x_f16`.
    F16,
    /// Pairs of bf16: `gemv_x_bf16`.
    BF16,
    /// Fixed point, with a scale for each stretch of 16 or 32 columns: `gemv_x_16`, `gemv_x_32`; with a sum, too:
    /// `gemv_x_16_sums`, `gemv_x_32_sums`.
    Fixed {
        /// 16 or 32.
        stretch: usize,
        /// Whether the sum of a stretch goes with its scale.
        has_sums: bool,
    },
}

impl XOrder {
    /// Words, and numbers, that hold up to `max_vectors` vectors (1, 4, 8 or 16).
    pub const fn len(self, max_vectors: usize, n_cols: usize) -> [usize; 2] {
        let n = n_cols.next_multiple_of(PADDED_COLS) * max_vectors;
        match self {
            XOrder::F16 | XOrder::BF16 => [n, n / 64],
            XOrder::Fixed { stretch, has_sums } => [n / 2, n / stretch * if has_sums { 2 } else { 1 }],
        }
    }
}

/// The vectors in global memory: `[n_vectors, n_cols]`.
#[derive(Clone, Copy)]
pub struct Vectors {
    pub(super) x: In<f32>,
    pub(super) n_vectors: usize,
    pub(super) n_cols: usize,
}

macro_rules! conversions {
    ($($kernel:ident, $form:literal, $one:expr, $four:expr;)+) => {$(
        #[doc = concat!("Brings vectors to ", $form, " and into the order of a launch for up to `max_vectors` vectors.")]
        ///
        /// `words`, `numbers`: as many as [`XOrder::len`] says; `x [n_vectors, n_cols]`.
        ///
        /// Grid: [`gemv_x_blocks`]. Requires: `max_vectors` 1, 4, 8 or 16 and no less than `n_vectors`; for quantised
        /// formats `n_cols` a multiple of the block, x on 16 bytes.
        /// Fast because: one access of 16 bytes a thread, and results of a warp in whole sectors; what it takes is the start
        /// and the end of a launch, while the launch that uses the result is already fetching weights.
        #[kernel(threads = X_THREADS, pdl)]
        pub fn $kernel(
            words: Out<u32>,
            numbers: Out<f32>,
            x: In<f32>,
            n_vectors: u32,
            max_vectors: u32,
            n_cols: u32,
        ) {
            pdl::launch_dependents();
            pdl::wait();
            let x = Vectors { x, n_vectors: n_vectors as usize, n_cols: n_cols as usize };
            let max_vectors = max_vectors as usize;
            let i = (thread::block_idx_x() * X_THREADS + thread::thread_idx_x()) as usize;
            // Whole warps.
            if i < n_quads(max_vectors, x.n_cols) {
                if max_vectors == 1 {
                    $one((words, numbers), x, 1, i);
                } else {
                    $four((words, numbers), x, max_vectors / 4, i);
                }
            }
        }
    )+};
}

conversions! {
    gemv_x_f16, "pairs of f16 with a scale for each tile of columns", float::convert::<F16, 1>, float::convert::<F16, 4>;
    gemv_x_bf16, "pairs of bf16", float::convert::<BF16, 1>, float::convert::<BF16, 4>;
    gemv_x_16, "fixed point with a scale for 16 columns", quant::convert::<16, false, 1>, quant::convert::<16, false, 4>;
    gemv_x_16_sums, "fixed point with a scale and a sum for 16 columns", quant::convert::<16, true, 1>, quant::convert::<16, true, 4>;
    gemv_x_32, "fixed point with a scale for 32 columns", quant::convert::<32, false, 1>, quant::convert::<32, false, 4>;
    gemv_x_32_sums, "fixed point with a scale and a sum for 32 columns", quant::convert::<32, true, 1>, quant::convert::<32, true, 4>;
}

/// Four columns of a vector each, with the padding.
const fn n_quads(max_vectors: usize, n_cols: usize) -> usize {
    n_cols.next_multiple_of(PADDED_COLS) * max_vectors / 4
}

/// Blocks of a conversion.
pub const fn gemv_x_blocks(max_vectors: usize, n_cols: usize) -> usize {
    n_quads(max_vectors, n_cols).div_ceil(X_THREADS as usize)
}

/// Vectors that the smallest kernel for `n_vectors` takes: 1, 4, 8 or 16.
///
/// # Panics
/// If there is none.
pub const fn gemv_max_vectors(n_vectors: usize) -> usize {
    assert!(n_vectors >= 1 && n_vectors <= MAX_VECTORS);
    match n_vectors {
        1 => 1,
        2..=4 => 4,
        5..=8 => 8,
        _ => 16,
    }
}

/// Words and numbers that hold the vectors for a format.
pub const fn gemv_x_len<Q: Product>(max_vectors: usize, n_cols: usize) -> [usize; 2] {
    Q::X_ORDER.len(max_vectors, n_cols)
}
