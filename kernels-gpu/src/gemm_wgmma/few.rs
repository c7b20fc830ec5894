//! Products with up to 16 tokens: rows of w are the rows of the tensor cores' results, tokens are columns, of which 16 can
//! be had. So x takes little of the shared memory, and the copy engine runs further ahead with w than in [`super::pair`],
//! which this is like in all else.

use super::pair::{BLOCKS, pair, shared_bytes};
use super::ring::THREADS;
use crate::simt::boxes::InBoxes;
use crate::simt::prelude::*;
use crate::simt::wgmma::Operand;

/// Tokens of a tile.
pub const TILE_TOKENS: u32 = 16;
/// Rows of a tile.
pub const TILE_ROWS: u32 = 128;

const STAGES: usize = 12;
/// Results of a thread.
const LEN: usize = 8;

macro_rules! entry {
    ($name:ident: $ty:ident) => {
        #[doc = concat!("y\\[t, o\\] = Σ w\\[o, k\\] · x\\[t, k\\], all in ", stringify!($ty), ", tiles of 16 tokens by 128 rows.")]
        ///
        /// `y [n_tokens, n_rows]`, `w [n_rows, n_cols]`, `x [n_tokens, n_cols]`; sums in f32, those of either block's columns
        /// apart.
        ///
        /// Grid: a cluster of two blocks for each tile.
        /// Requires: compute capability 9.0; more than 64 columns.
        /// Fast because: every block reads w through the copy engine, 192 KiB ahead, and begins while the kernel before it
        /// ends.
        #[kernel(
            threads = THREADS,
            cluster = BLOCKS,
            shared = shared_bytes(TILE_TOKENS, TILE_ROWS, STAGES),
            min_blocks = 1,
            max_regs = 128,
            pdl,
            sm_90a
        )]
        pub fn $name(
            y: Out<$ty>,
            w: InBoxes<$ty, TILE_ROWS>,
            x: InBoxes<$ty, TILE_TOKENS>,
            n_tokens: u32,
            n_rows: u32,
            n_cols: u32,
        ) {
            few(|i, value| y.set(i, $ty::from_f32(value)), w, x, n_tokens, n_rows, n_cols);
        }
    };
}

entry!(gemm_few_bf16: bf16);
entry!(gemm_few_f16: f16);

#[inline(always)]
#[track_caller]
fn few<T: Operand>(
    store: impl Fn(usize, f32),
    w: InBoxes<T, TILE_ROWS>,
    x: InBoxes<T, TILE_TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    // A consumer has half of the rows.
    let first_row = |consumer: u32| consumer * TILE_ROWS / 2;
    pair::<T, TILE_TOKENS, TILE_ROWS, LEN, STAGES>(
        w,
        x,
        n_rows,
        n_cols,
        |ring, results, consumer, n_stages| ring.multiply_rows(results, first_row(consumer), n_stages),
        |tile, consumer, quad, sum| {
            let lane = warp::lane_id();
            let row = tile.row + first_row(consumer) + warp::warp_id() % 4 * 16 + lane / 4;
            let token = tile.token + 8 * quad as u32 + lane % 4 * 2;
            for i in 0..4 {
                let (token, row) = (token + i % 2, row + i / 2 * 8);
                if token < n_tokens && row < n_rows {
                    store(token as usize * n_rows as usize + row as usize, sum[i as usize]);
                }
            }
        },
    );
}
