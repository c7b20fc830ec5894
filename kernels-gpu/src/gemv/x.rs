//! Vectors in the form in which they are multiplied, and in the order in which blocks copy them to shared memory: made once
//! for all blocks of a launch, and for all matrices whose formats share an [`XOrder`].

use super::parts::{self, CHUNK_COLS, PartFloat};
use super::several::{Several, n_matrices, n_parts};
use super::{MAX_VECTORS, Product, float, quant};
use crate::quant::{BF16, F16};
use crate::simt::prelude::*;

/// Threads of a block.
pub const X_THREADS: u32 = 128;
/// Columns are padded with zeros to a multiple of this: whole tiles of every format.
pub const PADDED_COLS: usize = CHUNK_COLS;

/// Columns of a vector with its padding.
pub const fn padded_cols(n_cols: usize) -> usize {
    n_cols.next_multiple_of(PADDED_COLS)
}

/// The form and order of converted vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XOrder {
    /// Pairs of f16, with a scale for a tile of columns: `gemv_x_f16`.
    F16,
    /// Pairs of bf16: `gemv_x_bf16`.
    BF16,
    /// Fixed point, with a scale for each stretch of 32 columns, and sums: `gemv_x_fixed`.
    Fixed,
    /// Several vectors as parts: `gemv_x_parts`, `gemv_x_parts_16` and so on.
    Parts {
        /// Whether parts are bf16, not f16.
        is_bf16: bool,
        /// 1 or 2.
        n_parts: usize,
        /// Columns over which there are sums; 0 if there are none.
        sum_cols: usize,
    },
}

impl XOrder {
    /// Words, and numbers, that hold `n_vectors` vectors for a launch for up to `max_vectors`: with `max_vectors` 1 each vector
    /// for itself, one after the other.
    pub const fn len_of(self, [n_vectors, max_vectors, n_cols]: [usize; 3]) -> [usize; 2] {
        let [n_words, n_numbers] = self.len(max_vectors, n_cols);
        let n_alone = if max_vectors == 1 { n_vectors } else { 1 };
        [n_alone * n_words, n_alone * n_numbers]
    }

    /// Words, and numbers, that hold up to `max_vectors` vectors (1, 4, 8 or 16).
    pub const fn len(self, max_vectors: usize, n_cols: usize) -> [usize; 2] {
        let n = padded_cols(n_cols) * max_vectors;
        match self {
            XOrder::F16 | XOrder::BF16 => [n, n / float::TILE_COLS],
            XOrder::Fixed => [n / 2, n / quant::GROUP_COLS * quant::GROUP_NUMBERS],
            XOrder::Parts { n_parts, sum_cols, .. } => {
                parts::len(n_matrices(max_vectors, n_parts), n_parts, sum_cols, n_cols)
            }
        }
    }
}

/// The vectors in global memory: `[n_vectors, n_cols]`.
#[derive(Clone, Copy)]
pub struct Vectors {
    pub(super) x: In<f32>,
    pub(super) n_vectors: usize,
    pub(super) n_cols: usize,
    /// That of the block, if each is converted for itself.
    vector: usize,
}

impl Vectors {
    /// Columns 4 i to 4 i + 3 of the block's vector, counted through all vectors with their paddings.
    #[inline(always)]
    #[track_caller]
    fn padded_quad(self, i: usize) -> [f32; 4] {
        self.quad(self.vector, 4 * i - self.vector * padded_cols(self.n_cols))
    }

    /// Columns `col` to `col + 3` of a vector; zeros where there are none.
    #[inline(always)]
    #[track_caller]
    pub(super) fn quad(self, vector: usize, col: usize) -> [f32; 4] {
        let start = vector * self.n_cols + col;
        if vector >= self.n_vectors || col >= self.n_cols {
            [0.0; 4]
        } else if self.n_cols.is_multiple_of(4) {
            self.x.load::<4>(start)
        } else {
            let get = |i| if col + i < self.n_cols { self.x.get(start + i) } else { 0.0 };
            [get(0), get(1), get(2), get(3)]
        }
    }
}

macro_rules! conversions {
    ($($kernel:ident, $form:literal, |$to:ident, $x:ident, $max_vectors:ident, $i:ident| $convert:expr;)+) => {$(
        #[doc = concat!("Brings vectors to ", $form, " and into the order of a launch for up to `max_vectors` vectors.")]
        ///
        /// `words`, `numbers`: as many as [`XOrder::len_of`] says; `x [n_vectors, n_cols]`.
        ///
        /// Grid: [`gemv_x_blocks`]; with `max_vectors` 1 times `n_vectors`. Requires: `max_vectors` 1, 4, 8 or 16 and,
        /// unless 1, no less than `n_vectors`; for quantised formats `n_cols` a multiple of the block, x on 16 bytes.
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
            let vector = thread::block_idx_y() as usize;
            let $x = Vectors { x, n_vectors: n_vectors as usize, n_cols: n_cols as usize, vector };
            let ($to, $max_vectors) = ((words, numbers), max_vectors as usize);
            let i = (thread::block_idx_x() * X_THREADS + thread::thread_idx_x()) as usize;
            let n_threads = n_threads($max_vectors, $x.n_cols);
            // Whole warps.
            if i < n_threads {
                let $i = vector * n_threads + i;
                $convert;
            }
        }
    )+};
}

conversions! {
    gemv_x_f16, "pairs of f16 with a scale for each tile of columns", |to, x, n, i| {
        float::store(to, i, float::convert::<F16>(x.padded_quad(i)))
    };
    gemv_x_bf16, "pairs of bf16", |to, x, n, i| float::store(to, i, float::convert::<BF16>(x.padded_quad(i)));
    gemv_x_fixed, "fixed point with a scale for 32 columns, and sums", |to, x, n, i| {
        quant::store(to, i, quant::convert(x.padded_quad(i), i))
    };
    gemv_x_one, "f16", |to, x, n, i| parts::convert::<f16, 1, 0>(to, x, n / 8, i);
    gemv_x_one_16, "f16 with sums of 16 columns", |to, x, n, i| parts::convert::<f16, 1, 16>(to, x, n / 8, i);
    gemv_x_one_32, "f16 with sums of 32 columns", |to, x, n, i| parts::convert::<f16, 1, 32>(to, x, n / 8, i);
    gemv_x_two, "pairs of f16", |to, x, n, i| parts::convert::<f16, 2, 0>(to, x, n / 4, i);
    gemv_x_two_16, "pairs of f16 with sums of 16 columns", |to, x, n, i| parts::convert::<f16, 2, 16>(to, x, n / 4, i);
    gemv_x_two_32, "pairs of f16 with sums of 32 columns", |to, x, n, i| parts::convert::<f16, 2, 32>(to, x, n / 4, i);
    gemv_x_two_bf16, "pairs of bf16", |to, x, n, i| parts::convert::<bf16, 2, 0>(to, x, n / 4, i);
}

/// One for four columns of one vector, or for eight of one of several; with the padding.
const fn n_threads(max_vectors: usize, n_cols: usize) -> usize {
    padded_cols(n_cols) * max_vectors / if max_vectors == 1 { 4 } else { 8 }
}

/// Blocks of a conversion.
pub const fn gemv_x_blocks(max_vectors: usize, n_cols: usize) -> usize {
    n_threads(max_vectors, n_cols).div_ceil(X_THREADS as usize)
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

/// The form and order of vectors for a format's kernel for up to so many.
pub const fn gemv_x_order<Q: Product + Several>(max_vectors: usize) -> XOrder {
    if max_vectors == 1 {
        return Q::X_ORDER;
    }
    XOrder::Parts { is_bf16: Q::Float::IS_BF16, n_parts: n_parts::<Q>(max_vectors), sum_cols: Q::SUM_COLS }
}

/// How far an element of x may be from what such a kernel multiplies instead: relatively, and as a part of the largest magnitude
/// among neighbours, as many as the third number says.
pub const fn gemv_x_error<Q: Product + Several>(max_vectors: usize) -> (f64, f64, usize) {
    if max_vectors == 1 {
        let [relative, of_largest] = Q::X_ERROR;
        return (relative, of_largest, Q::X_SCALE_COLS);
    }
    let rounding = if Q::Float::IS_BF16 { float::BF16_ROUNDING } else { float::F16_ROUNDING };
    let relative = if n_parts::<Q>(max_vectors) == 2 { rounding * rounding } else { rounding };
    (relative, if Q::Float::IS_BF16 { 0.0 } else { float::F16_REST }, CHUNK_COLS)
}
