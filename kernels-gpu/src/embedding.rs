//! Token embedding: rows of a table of weights.

use crate::quant::pieces::{LANES, Pieces};
use crate::quant::{
    BF16, F16, F32, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
    QuantBlock,
};
use crate::simt::prelude::*;

/// Threads of a block; one thread decodes 32 elements (of formats of two and three bits 64).
pub const THREADS: u32 = 128;

/// `y[t]` = row `tokens[t]` of a table in f32, decoded.
///
/// `y [n_tokens, dim]`, `w [n_vocab, dim]` in the GPU's layout, `tokens [n_tokens]`. A token that the table does not
/// have gives NaN, which sampling reports.
///
/// Grid: [`embedding_blocks`]. Requires: `dim` a multiple of the format's block; y on 16 bytes; n_tokens ≥ 1.
/// Fast because: a row's quants in a tile are runs of 64 bytes, which four lanes fetch in one access; a thread has all it
/// reads on the way at once, and each scale is decoded once.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_f32(y: Out<f32>, w: In<u8>, tokens: In<u32>, n_tokens: u32, dim: u32, n_vocab: u32) {
    embedding::<F32>(y, w, tokens, n_tokens, dim, n_vocab);
}

/// As [`embedding_f32`], of a table in f16.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_f16(y: Out<f32>, w: In<u8>, tokens: In<u32>, n_tokens: u32, dim: u32, n_vocab: u32) {
    embedding::<F16>(y, w, tokens, n_tokens, dim, n_vocab);
}

/// As [`embedding_f32`], of a table in bf16.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_bf16(y: Out<f32>, w: In<u8>, tokens: In<u32>, n_tokens: u32, dim: u32, n_vocab: u32) {
    embedding::<BF16>(y, w, tokens, n_tokens, dim, n_vocab);
}

/// As [`embedding_f32`], of a table in Q4_0.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q4_0(y: Out<f32>, w: In<u8>, tokens: In<u32>, n_tokens: u32, dim: u32, n_vocab: u32) {
    embedding::<Q4_0>(y, w, tokens, n_tokens, dim, n_vocab);
}

/// As [`embedding_f32`], of a table in Q4_1.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q4_1(y: Out<f32>, w: In<u8>, tokens: In<u32>, n_tokens: u32, dim: u32, n_vocab: u32) {
    embedding::<Q4_1>(y, w, tokens, n_tokens, dim, n_vocab);
}

/// As [`embedding_f32`], of a table in Q5_0.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q5_0(y: Out<f32>, w: In<u8>, tokens: In<u32>, n_tokens: u32, dim: u32, n_vocab: u32) {
    embedding::<Q5_0>(y, w, tokens, n_tokens, dim, n_vocab);
}

/// As [`embedding_f32`], of a table in Q5_1.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q5_1(y: Out<f32>, w: In<u8>, tokens: In<u32>, n_tokens: u32, dim: u32, n_vocab: u32) {
    embedding::<Q5_1>(y, w, tokens, n_tokens, dim, n_vocab);
}

/// As [`embedding_f32`], of a table in Q8_0.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q8_0(y: Out<f32>, w: In<u8>, tokens: In<u32>, n_tokens: u32, dim: u32, n_vocab: u32) {
    embedding::<Q8_0>(y, w, tokens, n_tokens, dim, n_vocab);
}

/// As [`embedding_f32`], of a table in Q2_K.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q2_k(y: Out<f32>, w: In<u8>, tokens: In<u32>, n_tokens: u32, dim: u32, n_vocab: u32) {
    embedding::<Q2_K>(y, w, tokens, n_tokens, dim, n_vocab);
}

/// As [`embedding_f32`], of a table in Q3_K.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q3_k(y: Out<f32>, w: In<u8>, tokens: In<u32>, n_tokens: u32, dim: u32, n_vocab: u32) {
    embedding::<Q3_K>(y, w, tokens, n_tokens, dim, n_vocab);
}

/// As [`embedding_f32`], of a table in Q4_K.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q4_k(y: Out<f32>, w: In<u8>, tokens: In<u32>, n_tokens: u32, dim: u32, n_vocab: u32) {
    embedding::<Q4_K>(y, w, tokens, n_tokens, dim, n_vocab);
}

/// As [`embedding_f32`], of a table in Q5_K.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q5_k(y: Out<f32>, w: In<u8>, tokens: In<u32>, n_tokens: u32, dim: u32, n_vocab: u32) {
    embedding::<Q5_K>(y, w, tokens, n_tokens, dim, n_vocab);
}

/// As [`embedding_f32`], of a table in Q6_K.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q6_k(y: Out<f32>, w: In<u8>, tokens: In<u32>, n_tokens: u32, dim: u32, n_vocab: u32) {
    embedding::<Q6_K>(y, w, tokens, n_tokens, dim, n_vocab);
}

/// As [`embedding_f32`], of a table in IQ4_NL.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_iq4_nl(y: Out<f32>, w: In<u8>, tokens: In<u32>, n_tokens: u32, dim: u32, n_vocab: u32) {
    embedding::<IQ4_NL>(y, w, tokens, n_tokens, dim, n_vocab);
}

/// As [`embedding_f32`], of a table in IQ4_XS.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_iq4_xs(y: Out<f32>, w: In<u8>, tokens: In<u32>, n_tokens: u32, dim: u32, n_vocab: u32) {
    embedding::<IQ4_XS>(y, w, tokens, n_tokens, dim, n_vocab);
}

/// As [`embedding_f32`], of a table in MXFP4.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_mxfp4(y: Out<f32>, w: In<u8>, tokens: In<u32>, n_tokens: u32, dim: u32, n_vocab: u32) {
    embedding::<MXFP4>(y, w, tokens, n_tokens, dim, n_vocab);
}

#[inline(always)]
fn embedding<Q: Pieces>(y: Out<f32>, w: In<u8>, tokens: In<u32>, n_tokens: u32, dim: u32, n_vocab: u32) {
    pdl::launch_dependents();
    pdl::wait();
    let pieces_per_row = dim.div_ceil(Q::PIECE_COLS as u32);
    let piece = (thread::block_idx_x() * THREADS + thread::thread_idx_x()) / LANES as u32;
    let (t, piece) = (piece / pieces_per_row, (piece % pieces_per_row) as usize);
    // The last warp may have lanes without a token, which do as the last one's, but write nothing.
    let exists = t < n_tokens;
    let t = if exists { t as usize } else { n_tokens as usize - 1 };
    let token = tokens.get(t);
    let is_known = token < n_vocab;
    let (row, dim) = (if is_known { token as usize } else { 0 }, dim as usize);
    Q::piece(w, dim, row, piece, |col, values| {
        let values = if is_known { values } else { [f32::NAN; 4] };
        if !exists || col >= dim {
            return;
        }
        if dim.is_multiple_of(4) {
            return y.store::<4>(t * dim + col, values);
        }
        let mut i = 0;
        while i < 4 {
            if col + i < dim {
                y.set(t * dim + col + i, values[i]);
            }
            i += 1;
        }
    });
}

/// Blocks that a launch needs.
pub const fn embedding_blocks<Q: Pieces>(n_tokens: usize, dim: usize) -> usize {
    (n_tokens * dim.div_ceil(Q::PIECE_COLS) * LANES).div_ceil(THREADS as usize)
}

/// Bytes that a launch must move: the tokens' rows read, their values written.
pub fn embedding_bytes<Q: QuantBlock>(n_tokens: usize, dim: usize) -> usize {
    n_tokens * (dim / Q::ELEMENTS * Q::BYTES + 4 * dim + 4)
}
