//! Matrix times matrix for the assignments of a mixture of experts on Hopper's tensor cores, quantised weights: its experts'
//! linear layers over many tokens.
//!
//! The kernel is that of [`crate::gemm_quant`]; only what blocks work on and how results leave differ. Rows of x are grouped by
//! expert ([`crate::moe::moe_group`]). How many each expert has, the host does not know: every block reads the offsets of
//! the groups and makes a table of how many tiles of tokens come before each expert's (`items`). A tile's tokens are
//! consecutive rows of x from any row on; past the group's end they are the next expert's, which cost time and are not
//! written. So results leave by ordinary stores, which can stop anywhere, in whole sectors.

mod items;
#[cfg(not(target_arch = "nvptx64"))]
pub mod plan;

use crate::gemm_quant::{
    CONSUMER_ROWS, Output, Place, Ring, STAGES_64, STAGES_128, STAGES_256, Scales, Y_BOX, multiply,
    shared_bytes, threads,
};
use crate::quant::fragments::Fragments;
use crate::quant::halves::UNIT_COLS;
use crate::quant::{MXFP4, Q4_K, Q5_K, Q6_K, Q8_0};
use crate::simt::boxes::InBoxes;
use crate::simt::prelude::*;
use crate::simt::shared;
use crate::simt::wgmma::Accumulators;
use items::{Grouped, Shape, TABLE_LEN, table};

/// What a block's table of tiles takes of shared memory, up to where a ring can begin.
const TABLE_BYTES: usize = shared::tile_bytes::<u32>(TABLE_LEN).next_multiple_of(1024);

macro_rules! entries {
    ($format:ty, $n256:ident, $n128:ident, $n64:ident) => {
        entries!($format, $n256, 256, 128, STAGES_256);
        entries!($format, $n128, 128, 64, STAGES_128);
        entries!($format, $n64, 64, 32, STAGES_64);
    };
    ($format:ty, $name:ident, $tokens:literal, $half:literal, $stages:ident) => {
        #[doc = concat!("y\\[i, o\\] = Σ w\\[expert of i, o, k\\] · x\\[i, k\\], tiles of 128 rows by ", $tokens, " tokens.")]
        ///
        /// `y [n_assigned, n_rows]`; `w [n_experts, n_rows, n_cols]`, each expert's matrix by itself in fragments;
        /// `x [n_assigned, n_cols]` with `x_scales [n_assigned]`, both from [`crate::narrow`] and in grouped order, in which
        /// rows `offsets[e]` to `offsets[e + 1] − 1` are expert e's (`offsets [n_experts + 1]`). Sums in f32, in the order of k.
        ///
        /// Grid: any even number of blocks, best one block a multiprocessor.
        /// Requires: compute capability 9.0; `n_cols` a multiple of 32; no more than
        /// [`MAX_EXPERTS`](crate::moe::MAX_EXPERTS) experts.
        /// Fast because: all that makes [`crate::gemm_quant`] fast; and tiles of tokens of one expert follow each other, so that
        /// its weights are still in the second-level cache.
        #[kernel(
            threads = threads(2),
            cluster = 2,
            shared = shared_bytes($tokens, $stages, 0) + TABLE_BYTES,
            min_blocks = 1,
            pdl,
            sm_90a
        )]
        pub fn $name(
            y: Out<f32>,
            w: In<u8>,
            x: InBoxes<f16, $half>,
            x_scales: In<f32>,
            offsets: In<u32>,
            n_assigned: u32,
            n_experts: u32,
            n_rows: u32,
            n_cols: u32,
        ) {
            const GROUPS: usize = UNIT_COLS as usize / <$format as Fragments>::GROUP_COLS;
            let mut shared = Shared::new();
            let rows = shared.tile::<u32>(TABLE_LEN);
            pdl::launch_dependents();
            // Before the groups are known there is nothing to do.
            pdl::wait();
            table(rows, offsets, n_experts, $tokens);
            // Ends with a barrier.
            let ring = Ring::<$tokens, $half, $stages>::new(&mut shared, 2);
            let shape = Shape { n_experts, n_rows, n_cols };
            let items = Grouped::new(rows, offsets, shape, $tokens);
            let output = Stores { y, n_rows, consumer: 0 };
            multiply::<$format, _, _, $tokens, $half, $half, $stages, GROUPS, 2>(
                (w, items.w_rows(), n_cols),
                (x, x_scales, n_assigned),
                ring,
                items,
                output,
            );
        }
    };
}

entries!(Q8_0, moe_gemm_q8_0_t256, moe_gemm_q8_0_t128, moe_gemm_q8_0_t64);
entries!(Q4_K, moe_gemm_q4_k_t256, moe_gemm_q4_k_t128, moe_gemm_q4_k_t64);
entries!(Q5_K, moe_gemm_q5_k_t256, moe_gemm_q5_k_t128, moe_gemm_q5_k_t64);
entries!(Q6_K, moe_gemm_q6_k_t256, moe_gemm_q6_k_t128, moe_gemm_q6_k_t64);
entries!(MXFP4, moe_gemm_mxfp4_t256, moe_gemm_mxfp4_t128, moe_gemm_mxfp4_t64);

/// Results that leave by ordinary stores.
#[derive(Clone, Copy)]
struct Stores {
    y: Out<f32>,
    n_rows: u32,
    consumer: u32,
}

impl Output for Stores {
    #[inline(always)]
    fn of_consumer(self, consumer: u32) -> Self {
        Self { consumer, ..self }
    }

    /// Each store of a warp is 8 rows of 4 tokens: whole sectors.
    #[inline(always)]
    #[track_caller]
    fn store<const LEN: usize>(
        self,
        results: &Accumulators<LEN>,
        scales: &Scales<LEN>,
        place: Place,
        n_stored: usize,
    ) -> usize {
        let (lane, warp) = (warp::lane_id(), warp::warp_id() % 4);
        let col = place.col + self.consumer * CONSUMER_ROWS + warp * 16 + lane / 4;
        for eight in 0..LEN / 4 {
            let in_tile = eight as u32 * 8 + lane % 4 * 2;
            let pair = scales.pair(eight / 4, in_tile % Y_BOX);
            for i in 0..4 {
                let (token, col) = (place.row + in_tile + i as u32 % 2, col + i as u32 / 2 * 8);
                if token < place.end && col < self.n_rows {
                    let at = token as usize * self.n_rows as usize + col as usize;
                    self.y.set(at, results.get(eight * 4 + i) * pair[i % 2]);
                }
            }
        }
        n_stored
    }

    #[inline(always)]
    fn finish(self) {}
}

/// Floating-point operations of a product.
pub const fn moe_gemm_flops(n_assigned: usize, n_rows: usize, n_cols: usize) -> usize {
    2 * n_assigned * n_rows * n_cols
}

/// Bytes that a product must move at least: the packed weights of experts with tokens, x in f16 and y in f32 once.
pub const fn moe_gemm_bytes(w_bytes: usize, n_assigned: usize, n_rows: usize, n_cols: usize) -> usize {
    w_bytes + n_assigned * (2 * n_cols + 4 * n_rows)
}
