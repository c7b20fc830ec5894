//! Token embedding: rows of a table of weights.

use crate::quant::layout::GpuLayout;
use crate::quant::{
    BF16, F16, F32, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};
use crate::simt::prelude::*;

/// Threads of a block; one thread decodes four elements.
pub const THREADS: u32 = 128;

/// `y[t]` = row `tokens[t]` of a table in f32, decoded.
///
/// `y [n_tokens, dim]`, `w [n_vocab, dim]` in the GPU's layout, `tokens [n_tokens]`. A token that the table does not
/// have gives NaN, which sampling reports.
///
/// Grid: [`embedding_blocks`] × n_tokens. Requires: `dim` a multiple of the format's block; y on 16 bytes.
/// Fast because: a warp stores 512 consecutive bytes.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_f32(y: Out<f32>, w: In<u8>, tokens: In<u32>, dim: u32, n_vocab: u32) {
    embedding::<F32>(y, w, tokens, dim as usize, n_vocab as usize);
}

/// As [`embedding_f32`], of a table in f16.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_f16(y: Out<f32>, w: In<u8>, tokens: In<u32>, dim: u32, n_vocab: u32) {
    embedding::<F16>(y, w, tokens, dim as usize, n_vocab as usize);
}

/// As [`embedding_f32`], of a table in bf16.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_bf16(y: Out<f32>, w: In<u8>, tokens: In<u32>, dim: u32, n_vocab: u32) {
    embedding::<BF16>(y, w, tokens, dim as usize, n_vocab as usize);
}

/// As [`embedding_f32`], of a table in Q4_0.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q4_0(y: Out<f32>, w: In<u8>, tokens: In<u32>, dim: u32, n_vocab: u32) {
    embedding::<Q4_0>(y, w, tokens, dim as usize, n_vocab as usize);
}

/// As [`embedding_f32`], of a table in Q4_1.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q4_1(y: Out<f32>, w: In<u8>, tokens: In<u32>, dim: u32, n_vocab: u32) {
    embedding::<Q4_1>(y, w, tokens, dim as usize, n_vocab as usize);
}

/// As [`embedding_f32`], of a table in Q5_0.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q5_0(y: Out<f32>, w: In<u8>, tokens: In<u32>, dim: u32, n_vocab: u32) {
    embedding::<Q5_0>(y, w, tokens, dim as usize, n_vocab as usize);
}

/// As [`embedding_f32`], of a table in Q5_1.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q5_1(y: Out<f32>, w: In<u8>, tokens: In<u32>, dim: u32, n_vocab: u32) {
    embedding::<Q5_1>(y, w, tokens, dim as usize, n_vocab as usize);
}

/// As [`embedding_f32`], of a table in Q8_0.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q8_0(y: Out<f32>, w: In<u8>, tokens: In<u32>, dim: u32, n_vocab: u32) {
    embedding::<Q8_0>(y, w, tokens, dim as usize, n_vocab as usize);
}

/// As [`embedding_f32`], of a table in Q2_K.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q2_k(y: Out<f32>, w: In<u8>, tokens: In<u32>, dim: u32, n_vocab: u32) {
    embedding::<Q2_K>(y, w, tokens, dim as usize, n_vocab as usize);
}

/// As [`embedding_f32`], of a table in Q3_K.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q3_k(y: Out<f32>, w: In<u8>, tokens: In<u32>, dim: u32, n_vocab: u32) {
    embedding::<Q3_K>(y, w, tokens, dim as usize, n_vocab as usize);
}

/// As [`embedding_f32`], of a table in Q4_K.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q4_k(y: Out<f32>, w: In<u8>, tokens: In<u32>, dim: u32, n_vocab: u32) {
    embedding::<Q4_K>(y, w, tokens, dim as usize, n_vocab as usize);
}

/// As [`embedding_f32`], of a table in Q5_K.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q5_k(y: Out<f32>, w: In<u8>, tokens: In<u32>, dim: u32, n_vocab: u32) {
    embedding::<Q5_K>(y, w, tokens, dim as usize, n_vocab as usize);
}

/// As [`embedding_f32`], of a table in Q6_K.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_q6_k(y: Out<f32>, w: In<u8>, tokens: In<u32>, dim: u32, n_vocab: u32) {
    embedding::<Q6_K>(y, w, tokens, dim as usize, n_vocab as usize);
}

/// As [`embedding_f32`], of a table in IQ4_NL.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_iq4_nl(y: Out<f32>, w: In<u8>, tokens: In<u32>, dim: u32, n_vocab: u32) {
    embedding::<IQ4_NL>(y, w, tokens, dim as usize, n_vocab as usize);
}

/// As [`embedding_f32`], of a table in IQ4_XS.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_iq4_xs(y: Out<f32>, w: In<u8>, tokens: In<u32>, dim: u32, n_vocab: u32) {
    embedding::<IQ4_XS>(y, w, tokens, dim as usize, n_vocab as usize);
}

/// As [`embedding_f32`], of a table in MXFP4.
#[kernel(threads = THREADS, pdl)]
pub fn embedding_mxfp4(y: Out<f32>, w: In<u8>, tokens: In<u32>, dim: u32, n_vocab: u32) {
    embedding::<MXFP4>(y, w, tokens, dim as usize, n_vocab as usize);
}

#[inline(always)]
fn embedding<Q: GpuLayout>(y: Out<f32>, w: In<u8>, tokens: In<u32>, dim: usize, n_vocab: usize) {
    pdl::launch_dependents();
    pdl::wait();
    let first = (thread::block_idx_x() * THREADS + thread::thread_idx_x()) as usize * 4;
    if first >= dim {
        return;
    }
    let t = thread::block_idx_y() as usize;
    let token = tokens.get(t) as usize;
    let values = if token < n_vocab { Q::values(w, dim, token, first) } else { [f32::NAN; 4] };
    if dim.is_multiple_of(4) {
        y.store::<4>(t * dim + first, values);
        return;
    }
    let set = |i: usize| {
        if first + i < dim {
            y.set(t * dim + first + i, values[i]);
        }
    };
    set(0);
    set(1);
    set(2);
    set(3);
}

/// Blocks in x that a launch needs.
pub const fn embedding_blocks(dim: usize) -> usize {
    dim.div_ceil(4 * THREADS as usize)
}

/// Bytes that a launch must move: the tokens' rows read, their values written.
pub fn embedding_bytes<Q: GpuLayout>(n_tokens: usize, dim: usize) -> usize {
    n_tokens * (dim / Q::ELEMENTS * Q::BYTES + 4 * dim + 4)
}
