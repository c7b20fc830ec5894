//! Products with up to 16 tokens: rows of w are the rows of the tensor cores' results, tokens are columns, of which 16 can
//! be had. So x takes little of the shared memory, and the copy engine runs further ahead with w than in [`super::split`],
//! which this is like in all else.

use super::ring::{Ring, STAGE_COLS, Stretch, THREADS, ring_bytes};
use super::split::{add, give};
use crate::simt::boxes::InBoxes;
use crate::simt::cluster;
use crate::simt::mbarrier::{self, Place};
use crate::simt::prelude::*;
use crate::simt::shared::tile_bytes;
use crate::simt::wgmma::{self, Accumulators, Operand};

/// Tokens of a tile.
pub const TILE_TOKENS: u32 = 16;
/// Rows of a tile.
pub const TILE_ROWS: u32 = 128;
/// Blocks of a cluster, among which the columns of a tile are divided.
pub const BLOCKS: usize = 2;

const STAGES: usize = 12;
/// Results of a thread.
const LEN: usize = 8;
/// Pieces that the other block gives.
const N_PIECES: usize = (TILE_TOKENS * TILE_ROWS) as usize / BLOCKS * (BLOCKS - 1);
const SHARED_BYTES: usize =
    ring_bytes(TILE_TOKENS, TILE_ROWS, STAGES) + tile_bytes::<f32>(N_PIECES) + mbarrier::bytes(1);

macro_rules! entry {
    ($name:ident: $ty:ident) => {
        #[doc = concat!("y\\[t, o\\] = Σ w\\[o, k\\] · x\\[t, k\\], all in ", stringify!($ty), ", tiles of 16 tokens by 128 rows.")]
        ///
        /// `y [n_tokens, n_rows]`, `w [n_rows, n_cols]`, `x [n_tokens, n_cols]`; sums in f32, those of either half of the
        /// columns apart.
        ///
        /// Grid: a cluster of two blocks for each tile.
        /// Requires: compute capability 9.0; more than 64 columns.
        /// Fast because: every block reads an equal part of w, through the copy engine, 192 KiB ahead, and begins while the
        /// kernel before it ends.
        #[kernel(threads = THREADS, cluster = BLOCKS, shared = SHARED_BYTES, min_blocks = 1, max_regs = 128, pdl, sm_90a)]
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
    let mut shared = Shared::new();
    let ring = Ring::<T, TILE_TOKENS, TILE_ROWS, TILE_ROWS, STAGES>::new(&mut shared, 2);
    let pieces = shared.tile::<f32>(N_PIECES);
    let given = shared.barriers(1);
    pdl::launch_dependents();
    let (rank, n_blocks) = (cluster::block_rank(), BLOCKS as u32);
    let (tile, n_row_tiles) = (thread::block_idx_x() / n_blocks, n_rows.div_ceil(TILE_ROWS));
    let n_stages = n_cols.div_ceil(STAGE_COLS);
    let first_stage = rank * n_stages / n_blocks;
    let stretch = Stretch {
        token: tile / n_row_tiles * TILE_TOKENS,
        row: tile % n_row_tiles * TILE_ROWS,
        first_stage,
        n_stages: (rank + 1) * n_stages / n_blocks - first_stage,
    };
    if thread::thread_idx_x() == 0 {
        given.init(0, 1);
        mbarrier::fence_init();
        given.arrive_expect(0, (N_PIECES * size_of::<f32>()) as u32);
    }
    // The other's shared memory is there from here on.
    cluster::start();
    wgmma::specialise::<56, 160>(
        || {
            let n_preloaded = ring.preload(w, stretch);
            pdl::wait();
            ring.fill(x, w, stretch, Place::START, n_preloaded);
        },
        |consumer| {
            pdl::wait();
            let mut results = Accumulators::<LEN>::zero();
            let first_row = consumer * TILE_ROWS / 2;
            ring.multiply_rows(&mut results, first_row, stretch.n_stages);
            give::<LEN, BLOCKS>(pieces, given, &results, rank);
            given.wait_remote(0, 0);
            let lane = warp::lane_id();
            let row = stretch.row + first_row + warp::warp_id() % 4 * 16 + lane / 4;
            let token = stretch.token + 8 * rank + lane % 4 * 2;
            add::<LEN, BLOCKS>(pieces, &results, rank, |_, sum| {
                for i in 0..4 {
                    let (token, row) = (token + i % 2, row + i / 2 * 8);
                    if token < n_tokens && row < n_rows {
                        store(token as usize * n_rows as usize + row as usize, sum[i as usize]);
                    }
                }
            });
        },
    );
}
