//! From a file's blocks to the GPU's layout, while a model is loaded.

use crate::quant::fragments::{Fragments, TILE_ROWS, tile_start};
use crate::quant::{
    BF16, F16, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};
use crate::simt::prelude::*;

/// Threads of a block.
pub const THREADS: u32 = 256;
/// Stretches of rows that a block repacks: a warp one.
const STRETCHES: u32 = THREADS / warp::SIZE;

macro_rules! entries {
    ($($block:ident: $kernel:ident, $name:literal;)+) => {$(
        #[doc = concat!("Puts ", $name, " weights as they lie in a file into tiles: see [`crate::quant::fragments`].")]
        ///
        /// `src` holds `n` stretches of rows, of which the first is stretch `first` of the matrix: a row has one in each tile
        /// that it runs through, the last perhaps shorter. `dst` is the whole matrix of `n_rows · n_cols`. So a matrix may
        /// arrive in pieces. Stretches of rows past the last one, up to a whole tile, are in no file; they become zeros.
        ///
        /// Grid: [`repack_blocks`]. Requires: src on 2 bytes, dst on 16.
        /// Fast because: a warp reads a stretch of consecutive bytes; what it writes is 64 consecutive bytes of each group.
        #[kernel(threads = THREADS)]
        pub fn $kernel(dst: Out<u8>, src: In<u8>, first: u32, n: u32, n_rows: u32, n_cols: u32) {
            repack::<$block>(dst, src, first, n, n_rows, n_cols);
        }
    )+};
}

entries! {
    F16: repack_f16, "f16";
    BF16: repack_bf16, "bf16";
    Q4_0: repack_q4_0, "Q4_0";
    Q4_1: repack_q4_1, "Q4_1";
    Q5_0: repack_q5_0, "Q5_0";
    Q5_1: repack_q5_1, "Q5_1";
    Q8_0: repack_q8_0, "Q8_0";
    Q4_K: repack_q4_k, "Q4_K";
    Q5_K: repack_q5_k, "Q5_K";
    Q6_K: repack_q6_k, "Q6_K";
    Q2_K: repack_q2_k, "Q2_K";
    Q3_K: repack_q3_k, "Q3_K";
    IQ4_NL: repack_iq4_nl, "IQ4_NL";
    IQ4_XS: repack_iq4_xs, "IQ4_XS";
    MXFP4: repack_mxfp4, "MXFP4";
}

#[inline(always)]
fn repack<Q: Fragments>(dst: Out<u8>, src: In<u8>, first: u32, n: u32, n_rows: u32, n_cols: u32) {
    let in_piece = thread::block_idx_x() * STRETCHES + warp::warp_id();
    if in_piece >= n {
        return;
    }
    let stretch = (first + in_piece) as usize;
    let (n_rows, n_cols) = (n_rows as usize, n_cols as usize);
    let tiles_per_row = Q::tiles_per_row(n_cols);
    let (row, col_tile) = (stretch / tiles_per_row, stretch % tiles_per_row);
    let tile = tile_start::<Q>(n_cols, row / TILE_ROWS, col_tile);

    let start = file_byte::<Q>(stretch, n_cols) - file_byte::<Q>(first as usize, n_cols);
    let row_bytes = n_cols / Q::ELEMENTS * Q::BYTES;
    let left = if row < n_rows { row_bytes - col_tile * Q::STRETCH_BYTES } else { 0 };
    let left = if left < Q::STRETCH_BYTES { left } else { Q::STRETCH_BYTES };
    let byte = |i: usize| if i < left { u32::from(src.get(start + i)) } else { 0 };
    let half = |i: usize| match Q::BYTES % 2 {
        0 if i < left => u32::from(src.u16_at(start + i)),
        0 => 0,
        _ => byte(i) | byte(i + 1) << 8,
    };
    let word = |i: usize| half(i) | half(i + 2) << 16;
    let mut i = warp::lane_id() as usize;
    while i < Q::ROW_WORDS {
        let (at, value) = Q::pack_word(row % TILE_ROWS, i, word);
        dst.set_u32_at(tile + at, value);
        i += warp::SIZE as usize;
    }
    let mut i = warp::lane_id() as usize;
    while i < Q::ROW_HALVES {
        let (at, value) = Q::pack_half(row % TILE_ROWS, i, word);
        dst.set_u16_at(tile + at, value);
        i += warp::SIZE as usize;
    }
}

/// Where a stretch begins in a file.
#[inline(always)]
fn file_byte<Q: Fragments>(stretch: usize, n_cols: usize) -> usize {
    let tiles_per_row = Q::tiles_per_row(n_cols);
    let row_bytes = n_cols / Q::ELEMENTS * Q::BYTES;
    stretch / tiles_per_row * row_bytes + stretch % tiles_per_row * Q::STRETCH_BYTES
}

/// Blocks of a launch for `n` stretches.
pub const fn repack_blocks(n: usize) -> usize {
    n.div_ceil(STRETCHES as usize)
}

/// Bytes that a launch must move: each stretch, if it is a whole one, read and written.
pub const fn repack_bytes<Q: Fragments>(n: usize) -> usize {
    2 * n * Q::STRETCH_BYTES
}
