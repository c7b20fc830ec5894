//! Matrix times one vector or a few: every linear layer of a decode step.
//!
//! Reading the weights takes all the time there is, so everything else hides behind it. A block owns tiles of 16 rows (see
//! [`crate::quant::fragments`]); its warps fetch their tiles some steps ahead into shared memory, across the tiles of rows too:
//! `one` says how for one vector, `deal` for several. The tensor cores multiply, since at four bits a weight there is no
//! time for a multiply-add each: with one vector `quant` says how with integers, `float` how with 16-bit floats, with several
//! vectors `several`. They take the vectors in another form and order. Into that a launch of its own brings them, see
//! [`gemv_x`](self::gemv_x_f16) and the like; or, where a kernel makes one vector for them, that kernel: see [`XPlace`].

use crate::quant::fragments::{Fragments, SharedTile, TILE_ROWS};
use crate::quant::{
    BF16, F16, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, QuantBlock,
};
use crate::simt::prelude::*;

#[cfg(not(target_arch = "nvptx64"))]
mod convert;
mod converted;
mod deal;
mod f32;
mod float;
pub(crate) mod one;
mod parts;
mod quant;
mod ring;
mod several;
mod x;

#[cfg(not(target_arch = "nvptx64"))]
pub use self::convert::*;
pub use self::converted::*;
pub use self::f32::*;
pub use self::several::Several;
pub use self::x::*;
use deal::{gemv, shared_bytes};
use one::{Matrix, XTile};
use several::{n_matrices, n_parts};

/// Threads of a block.
pub const THREADS: u32 = 256;
/// Warps of a block.
const WARPS: usize = (THREADS / warp::SIZE) as usize;
/// Most vectors that a launch multiplies with.
pub const MAX_VECTORS: usize = 16;
/// Most matrices of a launch with one vector.
pub const MATRICES: usize = 3;
/// The most that a block may have: what any GPU of compute capability 8 has. And the blocks of two kernels fit on a
/// multiprocessor of 9.0, so that one starts while the other ends.
const SHARED_BYTES_MAX: usize = 99 << 10;

/// How tiles of a format are multiplied with one vector.
pub trait Product: Fragments {
    /// How far an element of x may be from what is multiplied instead: relatively, and as a part of the largest magnitude
    /// among the [`Self::X_SCALE_COLS`] that share its scale.
    const X_ERROR: [f64; 2];
    /// Bytes of an element of x in shared memory.
    const X_ELEMENT_BYTES: usize;
    /// Columns of x that share a scale.
    const X_SCALE_COLS: usize;
    /// Columns of x whose numbers lie together: scales, and sums, which offsets need.
    const X_GROUP_COLS: usize;
    /// How many numbers that are, and how many of them, from the first on, the format needs.
    const X_GROUP_NUMBERS: usize;
    const X_NUMBERS: usize;
    /// Whether the four lanes of a row have parts of the sum; if not, each has all of it.
    const LANES_SHARE: bool;
    /// For an error bound: roundings of a product before it comes to a running sum, and additions to that for each tile.
    const PRODUCT_CHAIN: usize;
    const TILE_CHAIN: usize;

    /// The order of the converted vector, which formats share.
    const X_ORDER: XOrder;

    /// Adds the products of a tile and x to those of rows g and g + 8. `x_place` counts the tiles that x is in shared memory
    /// for.
    fn add_tile(sums: &mut [f32; 2], tile: SharedTile, x_tile: XTile, x_place: usize);
}

/// The converted vectors in global memory.
#[derive(Clone, Copy)]
pub(crate) struct X {
    words: In<u32>,
    numbers: In<f32>,
    /// Where the vector begins in both, if there is one.
    first_word: usize,
    first_number: usize,
    n_vectors: usize,
    n_cols: usize,
}

impl X {
    #[inline(always)]
    fn new(words: In<u32>, numbers: In<f32>, n_vectors: u32, n_cols: u32) -> Self {
        let (n_vectors, n_cols) = (n_vectors as usize, n_cols as usize);
        Self { words, numbers, first_word: 0, first_number: 0, n_vectors, n_cols }
    }

    /// Vector `i` of many that were converted each for one.
    #[inline(always)]
    pub(crate) fn one_of<Q: Product>(words: In<u32>, numbers: In<f32>, i: u32, n_cols: u32) -> Self {
        let [n_words, n_numbers] = Q::X_ORDER.len(1, n_cols as usize);
        let (first_word, first_number) = (i as usize * n_words, i as usize * n_numbers);
        Self { first_word, first_number, ..Self::new(words, numbers, 1, n_cols) }
    }
}

macro_rules! entries {
    ($($block:ident: $one:ident, $four:ident, $eight:ident, $sixteen:ident, $name:literal;)+) => {$(
        #[doc = concat!("`y[o] = Σ w[o, k] · x[k]`, with weights in ", $name, "; for up to three matrices that share x.")]
        ///
        /// `y [n_rows]`, `w [n_rows, n_cols]` in the GPU's layout, and so on with `_b` and `_c`, which may have no rows;
        /// `x [n_cols]`, converted: words and numbers as many as [`XOrder::len`] says, in the order of [`gemv_x_order`]. The
        /// order of additions depends on `n_cols` alone; how x is rounded, [`gemv_x_error`] says.
        ///
        /// Grid: any number of blocks, best [`gemv_blocks`]; block b works on rows 16 b to 16 b + 15, then on those
        /// 16 · gridDim further, and so on, through all matrices (each begins with a new sixteen).
        /// Requires: `n_cols` a multiple of the format's block; x on 16 bytes; weights that no kernel still in flight writes.
        /// Fast because: (1) a warp fetches whole tiles of consecutive bytes, 16 a lane, some tiles ahead, across rows and
        /// matrices too; (2) the first are on their way before the previous kernel has ended; (3) the tensor cores multiply,
        /// and what a lane does for a weight itself is less than one instruction; (4) nothing is read or written with
        /// bank conflicts.
        #[kernel(threads = THREADS, shared = one::shared_bytes::<$block>(), min_blocks = 2, pdl)]
        pub fn $one(
            y: InOut<f32>,
            y_b: InOut<f32>,
            y_c: InOut<f32>,
            w: In<u8>,
            w_b: In<u8>,
            w_c: In<u8>,
            x: In<u32>,
            x_numbers: In<f32>,
            n_rows: u32,
            n_rows_b: u32,
            n_rows_c: u32,
            n_cols: u32,
        ) {
            let (a, b) = (Matrix::whole(y, w, n_rows), Matrix::whole(y_b, w_b, n_rows_b));
            let c = Matrix::whole(y_c, w_c, n_rows_c);
            one::gemv::<$block>([a, b, c], X::new(x, x_numbers, 1, n_cols));
        }

        entries!(@several $block, $four, $one, $name, 4);
        entries!(@several $block, $eight, $one, $name, 8);
        entries!(@several $block, $sixteen, $one, $name, 16);
    )+};
    (@several $block:ident, $kernel:ident, $one:ident, $name:literal, $n:literal) => {
        #[doc = concat!("As [`", stringify!($one), "`] with up to ", stringify!($n), " vectors: `y[t, o] = Σ w[o, k] · x[t, k]`.")]
        ///
        /// `y [n_vectors, n_rows]`, `w [n_rows, n_cols]` in the GPU's layout, `x [n_vectors, n_cols]`, converted for that many. The
        /// order of additions depends on `n_cols` and on the tiles of rows for each block.
        ///
        /// Grid: as for one vector. Requires: the same.
        /// Fast because: (1) and (2) as for one vector; (3) a weight is decoded once, exactly, in about one instruction, and
        /// then multiplied by the tensor cores, so more vectors cost little; (4) a warp adds up alone over whole rows where
        /// there are as many tiles of rows as warps.
        #[kernel(threads = THREADS, shared = shared_bytes::<$block>($n), min_blocks = gemv_blocks_at_once::<$block>($n) as u32, pdl)]
        pub fn $kernel(
            y: InOut<f32>,
            w: In<u8>,
            x: In<u32>,
            x_numbers: In<f32>,
            n_vectors: u32,
            n_rows: u32,
            n_cols: u32,
        ) {
            let x = X::new(x, x_numbers, n_vectors, n_cols);
            const PARTS: usize = n_parts::<$block>($n);
            gemv::<$block, PARTS, { n_matrices($n, PARTS) }>(y, w, x, n_rows as usize);
        }
    };
}

entries! {
    F16: gemv_f16, gemv_f16_n4, gemv_f16_n8, gemv_f16_n16, "f16";
    BF16: gemv_bf16, gemv_bf16_n4, gemv_bf16_n8, gemv_bf16_n16, "bf16";
    Q4_0: gemv_q4_0, gemv_q4_0_n4, gemv_q4_0_n8, gemv_q4_0_n16, "Q4_0";
    Q4_1: gemv_q4_1, gemv_q4_1_n4, gemv_q4_1_n8, gemv_q4_1_n16, "Q4_1";
    Q5_0: gemv_q5_0, gemv_q5_0_n4, gemv_q5_0_n8, gemv_q5_0_n16, "Q5_0";
    Q5_1: gemv_q5_1, gemv_q5_1_n4, gemv_q5_1_n8, gemv_q5_1_n16, "Q5_1";
    Q8_0: gemv_q8_0, gemv_q8_0_n4, gemv_q8_0_n8, gemv_q8_0_n16, "Q8_0";
    Q4_K: gemv_q4_k, gemv_q4_k_n4, gemv_q4_k_n8, gemv_q4_k_n16, "Q4_K";
    Q5_K: gemv_q5_k, gemv_q5_k_n4, gemv_q5_k_n8, gemv_q5_k_n16, "Q5_K";
    Q6_K: gemv_q6_k, gemv_q6_k_n4, gemv_q6_k_n8, gemv_q6_k_n16, "Q6_K";
    Q2_K: gemv_q2_k, gemv_q2_k_n4, gemv_q2_k_n8, gemv_q2_k_n16, "Q2_K";
    Q3_K: gemv_q3_k, gemv_q3_k_n4, gemv_q3_k_n8, gemv_q3_k_n16, "Q3_K";
    IQ4_NL: gemv_iq4_nl, gemv_iq4_nl_n4, gemv_iq4_nl_n8, gemv_iq4_nl_n16, "IQ4_NL";
    IQ4_XS: gemv_iq4_xs, gemv_iq4_xs_n4, gemv_iq4_xs_n8, gemv_iq4_xs_n16, "IQ4_XS";
    MXFP4: gemv_mxfp4, gemv_mxfp4_n4, gemv_mxfp4_n8, gemv_mxfp4_n16, "MXFP4";
}

/// The longest chain of roundings between a product and the result, for an error bound, of a kernel for up to `max_vectors`
/// vectors. It applies to |scale · q · x| and |offset · x|, not to |w · x|; and to an x that is off by [`gemv_x_error`].
pub const fn gemv_chain<Q: Product + Several>(max_vectors: usize, n_cols: usize) -> usize {
    if max_vectors > 1 {
        return several::chain::<Q>(n_cols);
    }
    one::chain::<Q>(n_cols)
}

/// Blocks of a launch: one for every 16 rows, but no more than `max_blocks`, from where on blocks take several
/// tiles of rows. As many are right as run at once: [`gemv_blocks_at_once`] for each multiprocessor.
pub const fn gemv_blocks(n_rows: usize, max_blocks: usize) -> usize {
    let tiles = n_rows.div_ceil(TILE_ROWS);
    if tiles < max_blocks { tiles } else { max_blocks }
}

/// Blocks of the kernel for up to `max_vectors` vectors that a multiprocessor runs at once.
pub const fn gemv_blocks_at_once<Q: Several>(max_vectors: usize) -> usize {
    if max_vectors == MAX_VECTORS { Q::BLOCKS_OF_SIXTEEN } else { 2 }
}

/// Bytes that a launch must move: the weights, and each vector and result once.
pub const fn gemv_bytes<Q: QuantBlock>(n_vectors: usize, n_rows: usize, n_cols: usize) -> usize {
    n_rows * n_cols / Q::ELEMENTS * Q::BYTES + 4 * n_vectors * (n_rows + n_cols)
}

/// Floating-point operations of a launch: a product and a sum for each weight and vector.
pub const fn gemv_flops(n_vectors: usize, n_rows: usize, n_cols: usize) -> usize {
    2 * n_vectors * n_rows * n_cols
}
