//! Matrix times matrix for the assignments of a mixture of experts with quantised weights on the tensor cores, for GPUs from
//! compute capability 8.0 on: [`crate::gemm_quant_mma`] for grouped rows.
//!
//! The host does not know how many rows an expert has. So there are as many blocks as there can be tiles at most, and each
//! looks for its tile in the offsets of the groups; those that find none end at once.

#[cfg(not(target_arch = "nvptx64"))]
pub mod product;

use crate::gemm_quant_mma::{MMA_TOKENS, Tokens, X, gemm, groups, shared_bytes, threads};
use crate::quant::fragments;
use crate::quant::halves::Fetched;
use crate::quant::{MXFP4, Q4_K, Q5_K, Q6_K, Q8_0};
use crate::simt::prelude::*;

macro_rules! entries {
    ($($format:ty: $t128:ident, $t64:ident;)+) => {$(
        entries!($format, $t128, 128, 2);
        entries!($format, $t64, 64, 4);
    )+};
    ($format:ty, $name:ident, $tokens:literal, $blocks:literal) => {
        #[doc = concat!("y\\[i, o\\] = Σ w\\[expert of i, o, k\\] · x\\[i, k\\], tiles of ", $tokens, " tokens by as many rows.")]
        ///
        /// `y [n_assigned, n_rows]`; `w [n_experts, n_rows, n_cols]`, each expert's matrix by itself in fragments;
        /// `x [n_assigned, n_cols]` with `x_scales [n_assigned]`, both from [`crate::narrow`] and in grouped order, in which
        /// rows `offsets[e]` to `offsets[e + 1] − 1` are expert e's (`offsets [n_experts + 1]`). Sums in f32, in the order of k.
        ///
        /// Grid: a block for each tile that there can be, along tokens and rows: [`product`].
        /// Requires: `n_cols` a multiple of 32; x on 16 bytes, with less than 2^32 elements.
        /// Fast because: all that makes [`crate::gemm_quant_mma`] fast.
        #[kernel(threads = threads($tokens), shared = shared_bytes($tokens), min_blocks = $blocks, pdl)]
        pub fn $name(
            y: Out<f32>,
            w: In<u8>,
            x: In<f16>,
            x_scales: In<f32>,
            offsets: In<u32>,
            n_assigned: u32,
            n_experts: u32,
            n_rows: u32,
            n_cols: u32,
        ) {
            const NT: usize = $tokens / MMA_TOKENS;
            // Before the groups are known there is nothing to do.
            pdl::launch_dependents();
            pdl::wait();
            let Some((expert, first, end)) = find(offsets, n_experts, $tokens) else {
                return;
            };
            let w_tile = expert * n_rows.div_ceil(fragments::TILE_ROWS as u32);
            let x = X { values: x, scales: x_scales, n_tokens: n_assigned, n_cols };
            gemm::<Fetched<$format, { groups::<$format>() }>, NT>(y, w, x, n_rows, Tokens { first, end, w_tile });
        }
    };
}

entries! {
    Q8_0: moe_gemm_mma_q8_0_t128, moe_gemm_mma_q8_0_t64;
    Q4_K: moe_gemm_mma_q4_k_t128, moe_gemm_mma_q4_k_t64;
    Q5_K: moe_gemm_mma_q5_k_t128, moe_gemm_mma_q5_k_t64;
    Q6_K: moe_gemm_mma_q6_k_t128, moe_gemm_mma_q6_k_t64;
    MXFP4: moe_gemm_mma_mxfp4_t128, moe_gemm_mma_mxfp4_t64;
}

/// The block's tile of tokens among those of all experts: its expert, its first row and the one where the expert's end.
#[inline(always)]
#[track_caller]
fn find(offsets: In<u32>, n_experts: u32, tile_tokens: u32) -> Option<(u32, u32, u32)> {
    let (tile, lane) = (thread::block_idx_x(), warp::lane_id());
    let (mut first_expert, mut before) = (0, 0);
    while first_expert < n_experts {
        let expert = first_expert + lane;
        let (mut start, mut end) = (0, 0);
        if expert < n_experts {
            (start, end) = (offsets.get(expert as usize), offsets.get(expert as usize + 1));
        }
        let n_tiles = (end - start).div_ceil(tile_tokens);
        let mut up_to = n_tiles;
        let mut distance = 1;
        while distance < warp::SIZE {
            let lower = warp::shuffle_up(up_to, distance);
            up_to += if lane >= distance { lower } else { 0 };
            distance *= 2;
        }
        let behind = warp::ballot(before + up_to > tile);
        if behind != 0 {
            let owner = behind.trailing_zeros();
            let of_owner = |value: u32| warp::shuffle_idx(value, owner);
            let (start, end, n_before) = (of_owner(start), of_owner(end), of_owner(before + up_to - n_tiles));
            return Some((first_expert + owner, start + (tile - n_before) * tile_tokens, end));
        }
        before += warp::shuffle_idx(up_to, warp::SIZE - 1);
        first_expert += warp::SIZE;
    }
    None
}
