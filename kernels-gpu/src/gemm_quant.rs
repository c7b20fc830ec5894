//! Matrix times matrix on Hopper's tensor cores with quantised weights: linear layers over many tokens.
//!
//! The tensor cores take weights from registers here: rows of w are rows of matrix a, tokens are columns of the results. So
//! packed weights go from memory to the lanes that need them ([`crate::quant::fragments`]), which decode them to f16
//! themselves; nobody stores a decoded weight. A block is three warpgroups or four. One warp of the first, the producer, has
//! the copy engine fill a ring of stages with x. The others, the consumers, each own 64 rows of the block's tile of y, by 64,
//! 128 or 256 tokens.
//!
//! A consumer's lane fetches its weights 128 columns ahead, and decodes those of 16 columns while the tensor cores work on the
//! 32 before. Memory is asked for them six times as early. Blocks stay and take tile after tile.
//!
//! The tensor cores need half a cycle a token for each product of 16 columns, and some 50 beside, however many consumers there
//! are (with weights in shared memory 35, which others would have to decode). So tiles of 256 tokens do most in a cycle, but
//! what counts as much is that there are as many tiles as multiprocessors, or a multiple (`plan.rs`). Three consumers make
//! tiles of 192 rows; and where there are half as many tiles as multiprocessors, two blocks divide the columns of each
//! (`split.rs`).
//!
//! **Numbers.** Weights are rounded to f16 as [`crate::quant::halves`] says; x is f16 with a scale for each token
//! ([`crate::narrow`]). Products are exact, sums in f32.

mod consumer;
mod items;
#[cfg(not(target_arch = "nvptx64"))]
pub mod plan;
mod ring;
mod split;
mod staging;

use crate::quant::fragments::{Fragments, QuantFragments};
use crate::quant::halves::UNIT_COLS;
use crate::quant::{IQ4_NL, IQ4_XS, MXFP4, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
use crate::simt::boxes::{InBoxes, OutBoxes, rows_bytes};
use crate::simt::mbarrier;
use crate::simt::prelude::*;
use crate::simt::wgmma::{self, Accumulators};
use consumer::Consumer;
pub(crate) use items::{Item, Place, Source};
use items::{Items, Shape};
pub(crate) use ring::Ring;
pub(crate) use staging::{Output, Scales, Y_BOX};
use staging::{STAGED_ROWS, Staging};

/// Threads of a block: the producer's warpgroup and so many consumers.
pub const fn threads(consumers: u32) -> u32 {
    (1 + consumers) * wgmma::SIZE
}

/// Blocks of a cluster: they have the same tokens, and neighbouring tiles of rows or half of the columns of one each.
pub const CLUSTER: u32 = 2;
/// Rows of a tile of two consumers.
pub const TILE_ROWS: u32 = 2 * CONSUMER_ROWS;
/// Rows of a consumer.
pub const CONSUMER_ROWS: u32 = 64;
/// Tokens that are worked on side by side, so that their x stays in the second-level cache.
const GROUP_TOKENS: u32 = 1024;

/// A block's shared memory, with so many rows of stagings.
pub(crate) const fn shared_bytes(tokens: u32, stages: usize, staged_rows: usize) -> usize {
    rows_bytes(stages * tokens as usize + staged_rows) + 2 * mbarrier::bytes(stages)
}

pub(crate) const STAGES_256: usize = 6;
pub(crate) const STAGES_128: usize = 10;
pub(crate) const STAGES_64: usize = 12;

macro_rules! entries {
    ($format:ty, $n256:ident, $n128:ident, $n64:ident, $r192:ident, $split:ident) => {
        entries!($format, $n256, 128 by 256, 128, 2, STAGES_256);
        entries!($format, $n128, 128 by 128, 64, 2, STAGES_128);
        entries!($format, $n64, 128 by 64, 32, 2, STAGES_64);
        entries!($format, $r192, 192 by 128, 64, 3, STAGES_128);

        /// y\[t, o\] = Σ w\[o, k\] · x\[t, k\], tiles of 128 rows by 256 tokens, whose columns are divided between two blocks.
        ///
        /// `y [n_tokens, n_rows]`; `w [n_rows, n_cols]` in fragments; `x [n_tokens, n_cols]` with `x_scales [n_tokens]`, both
        /// from [`crate::narrow`]. Sums in f32, those of each half of the columns apart, in the order of k.
        ///
        /// Grid: a cluster for each tile.
        /// Requires: compute capability 9.0; `n_rows` a multiple of 4, `n_cols` of 32 and more than 128.
        /// Fast because: (1) to (3) and (5) of the products with whole tiles; all multiprocessors work though there are tiles for
        /// half of them; each block adds half of the results, which the other one stores into its shared memory.
        #[kernel(threads = threads(2), cluster = 2, shared = split::SHARED_BYTES, min_blocks = 1, pdl, sm_90a)]
        pub fn $split(
            y: OutBoxes<f32, Y_BOX>,
            w: In<u8>,
            x: InBoxes<f16, { split::TILE_TOKENS }>,
            x_scales: In<f32>,
            n_tokens: u32,
            n_rows: u32,
            n_cols: u32,
        ) {
            const GROUPS: usize = UNIT_COLS as usize / <$format as Fragments>::GROUP_COLS;
            split::split::<$format, GROUPS>(y, (w, n_rows, n_cols), (x, x_scales, n_tokens));
        }
    };
    ($format:ty, $name:ident, $rows:literal by $tokens:literal, $half:literal, $consumers:literal, $stages:ident) => {
        #[doc = concat!("y\\[t, o\\] = Σ w\\[o, k\\] · x\\[t, k\\], tiles of ", $rows, " rows by ", $tokens, " tokens.")]
        ///
        /// `y [n_tokens, n_rows]`, or if columns are divided `[n_parts, n_tokens, n_rows]` with the tokens of a part padded to
        /// whole tiles: part p is the sum over the columns of `part_units` units of 128; `w [n_rows, n_cols]` in
        /// fragments; `x [n_tokens, n_cols]` with `x_scales [n_tokens]`, both from [`crate::narrow`]. Sums in f32, in the
        /// order of k.
        ///
        /// Grid: twice any number up to that of pairs of tiles times parts, best one block a multiprocessor.
        /// Requires: compute capability 9.0; `n_rows` a multiple of 4, `n_cols` of 32.
        /// Fast because: (1) packed weights are read once a block, 16 bytes a lane, into the registers where they are needed;
        /// (2) decoding overlaps with the products of the columns before; (3) `wgmma` reads only x from shared memory,
        /// which the copy engine fills; (4) the two blocks of a cluster read x once for both; (5) weights are on their way from
        /// memory long before they are needed; (6) results leave through shared memory, in whole rows of 128 bytes.
        #[kernel(
            threads = threads($consumers),
            cluster = 2,
            shared = shared_bytes($tokens, $stages, $consumers * STAGED_ROWS),
            min_blocks = 1,
            pdl,
            sm_90a
        )]
        pub fn $name(
            y: OutBoxes<f32, Y_BOX>,
            w: In<u8>,
            x: InBoxes<f16, $half>,
            x_scales: In<f32>,
            n_tokens: u32,
            n_rows: u32,
            n_cols: u32,
            part_units: u32,
        ) {
            let shape = Shape { n_tokens, n_rows, n_cols, part_units };
            const GROUPS: usize = UNIT_COLS as usize / <$format as Fragments>::GROUP_COLS;
            gemm::<$format, $tokens, $half, $half, $stages, GROUPS, $consumers>(y, w, x, x_scales, shape);
        }
    };
}

entries! { Q4_0, gemm_quant_q4_0_t256, gemm_quant_q4_0_t128, gemm_quant_q4_0_t64, gemm_quant_q4_0_r192, gemm_quant_q4_0_split }
entries! { Q4_1, gemm_quant_q4_1_t256, gemm_quant_q4_1_t128, gemm_quant_q4_1_t64, gemm_quant_q4_1_r192, gemm_quant_q4_1_split }
entries! { Q5_0, gemm_quant_q5_0_t256, gemm_quant_q5_0_t128, gemm_quant_q5_0_t64, gemm_quant_q5_0_r192, gemm_quant_q5_0_split }
entries! { Q5_1, gemm_quant_q5_1_t256, gemm_quant_q5_1_t128, gemm_quant_q5_1_t64, gemm_quant_q5_1_r192, gemm_quant_q5_1_split }
entries! { Q8_0, gemm_quant_q8_0_t256, gemm_quant_q8_0_t128, gemm_quant_q8_0_t64, gemm_quant_q8_0_r192, gemm_quant_q8_0_split }
entries! { Q4_K, gemm_quant_q4_k_t256, gemm_quant_q4_k_t128, gemm_quant_q4_k_t64, gemm_quant_q4_k_r192, gemm_quant_q4_k_split }
entries! { Q5_K, gemm_quant_q5_k_t256, gemm_quant_q5_k_t128, gemm_quant_q5_k_t64, gemm_quant_q5_k_r192, gemm_quant_q5_k_split }
entries! { Q6_K, gemm_quant_q6_k_t256, gemm_quant_q6_k_t128, gemm_quant_q6_k_t64, gemm_quant_q6_k_r192, gemm_quant_q6_k_split }
entries! { IQ4_NL, gemm_quant_iq4_nl_t256, gemm_quant_iq4_nl_t128, gemm_quant_iq4_nl_t64, gemm_quant_iq4_nl_r192, gemm_quant_iq4_nl_split }
entries! { IQ4_XS, gemm_quant_iq4_xs_t256, gemm_quant_iq4_xs_t128, gemm_quant_iq4_xs_t64, gemm_quant_iq4_xs_r192, gemm_quant_iq4_xs_split }
entries! { MXFP4, gemm_quant_mxfp4_t256, gemm_quant_mxfp4_t128, gemm_quant_mxfp4_t64, gemm_quant_mxfp4_r192, gemm_quant_mxfp4_split }

#[inline(always)]
#[track_caller]
fn gemm<
    Q: QuantFragments,
    const TOKENS: u32,
    const BOX: u32,
    const LEN: usize,
    const STAGES: usize,
    const GROUPS: usize,
    const CONSUMERS: usize,
>(
    y: OutBoxes<f32, Y_BOX>,
    w: In<u8>,
    x: InBoxes<f16, BOX>,
    x_scales: In<f32>,
    shape: Shape,
) {
    let mut shared = Shared::new();
    let output = Staging { y, rows: shared.rows(CONSUMERS * STAGED_ROWS), consumer: 0 };
    let ring = Ring::<TOKENS, BOX, STAGES>::new(&mut shared, CONSUMERS as u32);
    pdl::launch_dependents();
    let Shape { n_tokens, n_rows, n_cols, .. } = shape;
    multiply::<Q, _, _, TOKENS, BOX, LEN, STAGES, GROUPS, CONSUMERS>(
        (w, n_rows, n_cols),
        (x, x_scales, n_tokens),
        ring,
        Items::new(shape, TOKENS, CONSUMERS as u32 * CONSUMER_ROWS),
        output,
    );
}

/// What the warps of a block do: w with its rows and columns times x with its scales and tokens.
#[inline(always)]
#[track_caller]
pub(crate) fn multiply<
    Q: QuantFragments,
    I: Source,
    O: Output,
    const TOKENS: u32,
    const BOX: u32,
    const LEN: usize,
    const STAGES: usize,
    const GROUPS: usize,
    const CONSUMERS: usize,
>(
    w: (In<u8>, u32, u32),
    (x, x_scales, n_tokens): (InBoxes<f16, BOX>, In<f32>, u32),
    ring: Ring<TOKENS, BOX, STAGES>,
    items: I,
    output: O,
) {
    // The same in all lanes, and so that the PTX compiler knows it.
    let warp = warp::shuffle_idx(warp::warp_id(), 0);
    let warpgroup = warp * warp::SIZE / wgmma::SIZE;
    if warpgroup == 0 {
        // Results of 256 tokens, or of three consumers, leave the producer so few that its code hardly fits.
        if TOKENS == 256 || CONSUMERS == 3 {
            wgmma::release_registers::<24>();
        } else {
            wgmma::release_registers::<40>();
        }
        // The whole warp, so that what is the same in all lanes needs no register of each.
        if warp == 0 {
            produce(x, ring, items);
        }
    } else {
        if CONSUMERS == 3 {
            wgmma::take_registers::<160>();
        } else if TOKENS == 256 {
            wgmma::take_registers::<240>();
        } else {
            wgmma::take_registers::<232>();
        }
        let consumer = warpgroup - 1;
        let (w, n_rows, n_cols) = w;
        let this = Consumer::<Q, GROUPS>::new(w, n_rows, n_cols, consumer * CONSUMER_ROWS);
        let output = output.of_consumer(consumer);
        consume::<Q, I, O, TOKENS, BOX, LEN, STAGES, GROUPS>(this, (x_scales, n_tokens), ring, output, items);
    }
}

/// Loads x for the block's items.
#[inline(always)]
#[track_caller]
fn produce<I: Source, const TOKENS: u32, const BOX: u32, const STAGES: usize>(
    x: InBoxes<f16, BOX>,
    ring: Ring<TOKENS, BOX, STAGES>,
    items: I,
) {
    pdl::wait();
    let (mut i, mut place) = (thread::block_idx_x() / CLUSTER, mbarrier::Place::START);
    while i < items.n() {
        place = ring.fill(x, items.at(i), place);
        i += thread::grid_dim_x() / CLUSTER;
    }
    // A block's shared memory must outlive the arrivals of the other block's consumers.
    ring.drain(place);
}

/// Multiplies a consumer's part of the block's items.
#[inline(always)]
#[track_caller]
fn consume<
    Q: QuantFragments,
    I: Source,
    O: Output,
    const TOKENS: u32,
    const BOX: u32,
    const LEN: usize,
    const STAGES: usize,
    const GROUPS: usize,
>(
    this: Consumer<Q, GROUPS>,
    (x_scales, n_tokens): (In<f32>, u32),
    ring: Ring<TOKENS, BOX, STAGES>,
    output: O,
    items: I,
) {
    let mut i = thread::block_idx_x() / CLUSTER;
    // No earlier kernel writes weights, so they need not wait.
    let mut ready = this.start(items.at(if i < items.n() { i } else { 0 }));
    pdl::wait();
    let (mut place, mut n_stored) = (mbarrier::Place::START, 0);
    while i < items.n() {
        let (this_i, item) = (i, items.at(i));
        i += thread::grid_dim_x() / CLUSTER;
        let next = items.at(if i < items.n() { i } else { 0 });
        let mut results = Accumulators::<LEN>::zero();
        let last;
        (last, ready) = this.multiply(&mut results, ring, ready, (item, next), place);
        let scales = Scales::load(x_scales, item.token, n_tokens);
        results.finish();
        ring.free(last);
        place = last.next::<STAGES>();
        n_stored = output.store(&results, &scales, items.place(this_i, item), n_stored);
    }
    // A block's shared memory must outlive the stores that read it.
    output.finish();
}

/// Threads of a block of [`gemm_quant_sum_f32`].
pub const SUM_THREADS: u32 = 256;
/// Elements of y that a thread of [`gemm_quant_sum_f32`] owns.
pub const SUM_VECTOR: u32 = 4;

/// y = the sum of `n_parts` parts, in their order, each `stride` elements after the one before.
///
/// `y [n]`, `parts [n_parts, stride]`.
///
/// Grid: [`SUM_THREADS`] · [`SUM_VECTOR`] elements of y a block.
/// Requires: `n` and `stride` multiples of 4.
/// Fast because: 16-byte loads, and the parts are still in the second-level cache.
#[kernel(threads = SUM_THREADS, pdl, sm_90a)]
pub fn gemm_quant_sum_f32(y: Out<f32>, parts: In<f32>, n: u32, stride: u32, n_parts: u32) {
    pdl::launch_dependents();
    pdl::wait();
    let i = thread::index_1d() * SUM_VECTOR as usize;
    if i >= n as usize {
        return;
    }
    let mut sum = parts.load::<4>(i);
    let mut part = 1;
    while part < n_parts {
        let more = parts.load::<4>(part as usize * stride as usize + i);
        sum = [sum[0] + more[0], sum[1] + more[1], sum[2] + more[2], sum[3] + more[3]];
        part += 1;
    }
    y.store(i, sum);
}

/// Floating-point operations of a product.
pub const fn gemm_quant_flops(n_tokens: usize, n_rows: usize, n_cols: usize) -> u64 {
    2 * n_tokens as u64 * n_rows as u64 * n_cols as u64
}

/// Bytes that a product must move at least: the packed weights, x in f16 and y in f32 once.
pub const fn gemm_quant_bytes(w_bytes: usize, n_tokens: usize, n_rows: usize, n_cols: usize) -> u64 {
    w_bytes as u64 + n_tokens as u64 * (2 * n_cols as u64 + 4 * n_rows as u64)
}
