//! Products with few tokens: the columns of a tile are divided between the two blocks of a cluster.
//!
//! Such a product has fewer tiles than the GPU has multiprocessors, and is bound by reading w. The first block takes fewer
//! columns than the second. When it is done it gives all its results to the second, whose shared memory has a place for
//! them, and leaves its multiprocessor to the next kernel, which begins to read its own weights. The second block
//! still reads meanwhile: so neither the giving, nor the end of this kernel and the start of the next, leaves the memory
//! idle on all multiprocessors at once. The second block adds both parts, whichever was done first.

use super::ring::{CONSUMER_TOKENS, Ring, STAGE_COLS, Stretch, THREADS, ring_bytes};
use crate::simt::boxes::InBoxes;
use crate::simt::cluster;
use crate::simt::mbarrier::{self, Barriers, Place};
use crate::simt::prelude::*;
use crate::simt::shared::tile_bytes;
use crate::simt::wgmma::{self, Accumulators, Operand};

/// Blocks of a cluster.
pub const BLOCKS: u32 = 2;
/// Threads that hold results.
const CONSUMER_THREADS: usize = 2 * wgmma::SIZE as usize;

/// A block's shared memory: the ring, and the results that the first block gives to the second.
pub(super) const fn shared_bytes(tokens: u32, rows: u32, stages: usize) -> usize {
    ring_bytes(tokens, rows, stages) + tile_bytes::<f32>((tokens * rows) as usize) + mbarrier::bytes(1)
}

/// Stages of the ring.
const fn stages(rows: u32) -> usize {
    if rows == 96 { 6 } else { 8 }
}

/// Stages that the second block has more than the first, of a product with enough of them. With none, products of 4096
/// columns took 5 to 8 % longer; with twice as many, too.
pub const fn lead(tokens: u32) -> u32 {
    if tokens == 16 { 12 } else { 8 }
}

macro_rules! entries {
    ($($name:ident: $ty:ident, $tokens:tt by $rows:tt;)*) => {$(
        #[doc = concat!("y\\[t, o\\] = Σ w\\[o, k\\] · x\\[t, k\\], all in ", stringify!($ty), ", tiles of ", $tokens)]
        #[doc = concat!("tokens by ", $rows, " rows, whose columns are divided between two blocks.")]
        ///
        /// `y [n_tokens, n_rows]`, `w [n_rows, n_cols]`, `x [n_tokens, n_cols]`; sums in f32, those of each block's columns
        /// apart. Of 64 tokens each consumer multiplies half of the rows, of 128 half of the tokens.
        ///
        /// Grid: a cluster for each tile.
        /// Requires: compute capability 9.0; `n_rows` even; more than 64 columns.
        /// Fast because: all multiprocessors read w, through the copy engine, 64 KiB ahead or more; half of them are done
        /// earlier, and begin with the next kernel; results move between multiprocessors without the second-level cache,
        /// while their receiver still multiplies.
        #[kernel(
            threads = THREADS,
            cluster = BLOCKS,
            shared = shared_bytes($tokens, $rows, stages($rows)),
            min_blocks = 1,
            max_regs = 128,
            pdl,
            sm_90a
        )]
        pub fn $name(
            y: Out<$ty>,
            w: InBoxes<$ty, $rows>,
            x: InBoxes<$ty, $tokens>,
            n_tokens: u32,
            n_rows: u32,
            n_cols: u32,
        ) {
            const LEN: usize = $tokens * $rows / CONSUMER_THREADS;
            let store = |i: usize, pair: [f32; 2]| y.store(i, pair.map($ty::from_f32));
            by_tokens::<$ty, $tokens, $rows, LEN, { stages($rows) }>(store, w, x, n_tokens, n_rows, n_cols);
        }
    )*};
}

entries! {
    gemm_pair_bf16_t64_n128: bf16, 64 by 128;
    gemm_pair_bf16_t128_n64: bf16, 128 by 64;
    gemm_pair_bf16_t128_n96: bf16, 128 by 96;
    gemm_pair_f16_t64_n128: f16, 64 by 128;
    gemm_pair_f16_t128_n64: f16, 128 by 64;
    gemm_pair_f16_t128_n96: f16, 128 by 96;
}

/// With tokens as the rows of the tensor cores' results.
#[inline(always)]
#[track_caller]
fn by_tokens<T: Operand, const TOKENS: u32, const ROWS: u32, const LEN: usize, const STAGES: usize>(
    store: impl Fn(usize, [f32; 2]),
    w: InBoxes<T, ROWS>,
    x: InBoxes<T, TOKENS>,
    n_tokens: u32,
    n_rows: u32,
    n_cols: u32,
) {
    // Tiles of 64 tokens are divided by rows, those of 128 by tokens.
    let corner = |consumer: u32| {
        if TOKENS == CONSUMER_TOKENS {
            (0, consumer * 2 * LEN as u32)
        } else {
            (consumer * CONSUMER_TOKENS, 0)
        }
    };
    pair::<T, TOKENS, ROWS, LEN, STAGES>(
        w,
        x,
        n_rows,
        n_cols,
        |ring, results, consumer, n_stages| {
            ring.multiply(results, corner(consumer), n_stages, Place::START);
        },
        |tile, consumer, quad, sum| {
            let ((token, row), lane) = (corner(consumer), warp::lane_id());
            let token = tile.token + token + warp::warp_id() % 4 * 16 + lane / 4;
            let row = tile.row + row + 8 * quad as u32 + lane % 4 * 2;
            for half in 0..2 {
                let token = token + 8 * half as u32;
                if token < n_tokens && row < n_rows {
                    let i = token as usize * n_rows as usize + row as usize;
                    store(i, [sum[2 * half], sum[2 * half + 1]]);
                }
            }
        },
    );
}

/// Consumer `consumer` has `multiply` do the products of its part of the tile, of all stages of the block; of the sums,
/// `take` gets those of the thread's results `4 quad` to `4 quad + 3`.
#[inline(always)]
#[track_caller]
pub(super) fn pair<T: Operand, const TOKENS: u32, const ROWS: u32, const LEN: usize, const STAGES: usize>(
    w: InBoxes<T, ROWS>,
    x: InBoxes<T, TOKENS>,
    n_rows: u32,
    n_cols: u32,
    multiply: impl Fn(&Ring<T, TOKENS, ROWS, ROWS, STAGES>, &mut Accumulators<LEN>, u32, u32),
    take: impl Fn(Stretch, u32, usize, [f32; 4]),
) {
    let mut shared = Shared::new();
    let ring = Ring::<T, TOKENS, ROWS, ROWS, STAGES>::new(&mut shared, 2);
    let pieces = shared.tile::<f32>((TOKENS * ROWS) as usize);
    let given = shared.barriers(1);
    pdl::launch_dependents();
    let (tile, is_first) = (thread::block_idx_x() / BLOCKS, cluster::block_rank() == 0);
    let n_stages = n_cols.div_ceil(STAGE_COLS);
    let n_first = first_stages(n_stages, lead(TOKENS));
    let stages = if is_first { 0..n_first } else { n_first..n_stages };
    let stretch = Stretch::of_tile::<TOKENS, ROWS>(tile, n_rows, stages);
    if thread::thread_idx_x() == 0 {
        given.init(0, 1);
        mbarrier::fence_init();
        if !is_first {
            given.arrive_expect(0, TOKENS * ROWS * size_of::<f32>() as u32);
        }
    }
    // The second block's shared memory is there from here on.
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
            multiply(&ring, &mut results, consumer, stretch.n_stages);
            if is_first {
                give(pieces, given, &results);
            } else {
                given.wait_remote(0, 0);
                for quad in 0..LEN / 4 {
                    let (a, b) = (pieces.load::<4>(place_of(quad)), quad_of(&results, quad));
                    take(stretch, consumer, quad, [a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]]);
                }
            }
        },
    );
}

/// Stages of the first block: an even number if there are several, since memory is read in pieces of 256 bytes.
#[inline(always)]
pub(super) fn first_stages(n_stages: u32, lead: u32) -> u32 {
    (((n_stages - lead.min(n_stages / 4)) / 2) & !1).max(1)
}

/// Where four results of a thread lie that the first block gives.
#[inline(always)]
fn place_of(quad: usize) -> usize {
    let thread = thread::thread_idx_x() as usize - wgmma::SIZE as usize;
    (quad * CONSUMER_THREADS + thread) * 4
}

/// Four of this thread's results.
#[inline(always)]
fn quad_of<const LEN: usize>(results: &Accumulators<LEN>, quad: usize) -> [f32; 4] {
    [0, 1, 2, 3].map(|i| results.get(4 * quad + i))
}

/// The first block gives this thread's results to the second.
#[inline(always)]
#[track_caller]
fn give<const LEN: usize>(pieces: Tile<f32>, given: Barriers, results: &Accumulators<LEN>) {
    for quad in 0..LEN / 4 {
        pieces.store_async(1, place_of(quad), quad_of(results, quad), given, 0);
    }
}
