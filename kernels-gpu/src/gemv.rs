//! Matrix times vector: every linear layer of a decode step.

use crate::quant::chunk::{ChunkFormat, Matrix};
use crate::quant::layout::GpuLayout;
use crate::quant::{BF16, F16, F32, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
use crate::simt::prelude::*;
use crate::simt::shared;

/// Threads of a block.
pub const THREADS: u32 = 256;
/// Warps of a block.
const WARPS: usize = THREADS as usize / LANES;
/// Lanes of a warp.
const LANES: usize = warp::SIZE as usize;
/// Rows that a warp works on at once: each of its reads of x from shared memory serves all of them.
pub const ROWS_PER_WARP: usize = 2;
/// Rows that a block works on at once.
pub const ROWS_PER_BLOCK: usize = WARPS * ROWS_PER_WARP;
/// Elements of x that are in shared memory at once.
pub const X_TILE: usize = 8192;

/// Shared memory of a block: the tile of x.
const SHARED: usize = shared::tile_bytes::<f32>(X_TILE);

/// y[o] = Σ w[o, k] · x[k], with weights in f32.
///
/// `y` [n_rows], `w` [n_rows, n_cols] in the GPU's layout, `x` [n_cols]. f32 accumulation in an order that depends on
/// `n_cols` alone.
///
/// Grid: any number of blocks, best [`gemv_blocks`]; block b works on rows 16 b to 16 b + 15, then on those
/// 16 · gridDim further, and so on.
/// Requires: `n_cols` a multiple of the format's block; x on 16 bytes.
/// Fast because: (1) a warp fetches 512 consecutive bytes of quants at once; (2) a lane's next load is in flight while
/// it works on the last, across rows too; (3) the first one is issued before the previous kernel has ended; (4) x is
/// read from shared memory without bank conflicts and for two rows at once; (5) scales multiply sums, not elements.
#[kernel(threads = THREADS, shared = SHARED, pdl)]
pub fn gemv_f32(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<F32>(y, w, x, n_rows as usize, n_cols as usize);
}

/// As [`gemv_f32`], with weights in f16.
#[kernel(threads = THREADS, shared = SHARED, pdl)]
pub fn gemv_f16(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<F16>(y, w, x, n_rows as usize, n_cols as usize);
}

/// As [`gemv_f32`], with weights in bf16.
#[kernel(threads = THREADS, shared = SHARED, pdl)]
pub fn gemv_bf16(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<BF16>(y, w, x, n_rows as usize, n_cols as usize);
}

/// As [`gemv_f32`], with weights in Q4_0.
#[kernel(threads = THREADS, shared = SHARED, pdl)]
pub fn gemv_q4_0(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<Q4_0>(y, w, x, n_rows as usize, n_cols as usize);
}

/// As [`gemv_f32`], with weights in Q4_1.
#[kernel(threads = THREADS, shared = SHARED, pdl)]
pub fn gemv_q4_1(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<Q4_1>(y, w, x, n_rows as usize, n_cols as usize);
}

/// As [`gemv_f32`], with weights in Q5_0.
#[kernel(threads = THREADS, shared = SHARED, pdl)]
pub fn gemv_q5_0(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<Q5_0>(y, w, x, n_rows as usize, n_cols as usize);
}

/// As [`gemv_f32`], with weights in Q5_1.
#[kernel(threads = THREADS, shared = SHARED, pdl)]
pub fn gemv_q5_1(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<Q5_1>(y, w, x, n_rows as usize, n_cols as usize);
}

/// As [`gemv_f32`], with weights in Q8_0.
#[kernel(threads = THREADS, shared = SHARED, pdl)]
pub fn gemv_q8_0(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<Q8_0>(y, w, x, n_rows as usize, n_cols as usize);
}

/// As [`gemv_f32`], with weights in Q4_K.
#[kernel(threads = THREADS, shared = SHARED, pdl)]
pub fn gemv_q4_k(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<Q4_K>(y, w, x, n_rows as usize, n_cols as usize);
}

/// As [`gemv_f32`], with weights in Q5_K.
#[kernel(threads = THREADS, shared = SHARED, pdl)]
pub fn gemv_q5_k(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<Q5_K>(y, w, x, n_rows as usize, n_cols as usize);
}

/// As [`gemv_f32`], with weights in Q6_K.
#[kernel(threads = THREADS, shared = SHARED, pdl)]
pub fn gemv_q6_k(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<Q6_K>(y, w, x, n_rows as usize, n_cols as usize);
}

/// Lane l of a warp takes chunks l, l + 32, l + 64 … of its rows; one such chunk is a step.
#[inline(always)]
fn gemv<Q: ChunkFormat>(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: usize, n_cols: usize) {
    let weights = Rows::<Q> {
        matrix: Matrix::new(w, n_rows * n_cols),
        n_rows,
        chunks_per_row: n_cols / Q::CHUNK_ELEMENTS,
    };
    if !Q::rows_in_chunks(n_cols) {
        pdl::launch_dependents();
        pdl::wait();
        return gemv_by_element::<Q>(y, weights.matrix, x, n_rows, n_cols);
    }
    let x_tile = Shared::new().tile::<f32>(X_TILE);
    let (lane, stride) = (warp::lane_id() as usize, thread::grid_dim_x() as usize * ROWS_PER_BLOCK);
    let steps = weights.chunks_per_row.div_ceil(LANES);
    let steps_per_tile = X_TILE / (LANES * Q::CHUNK_ELEMENTS);

    let mut block_row = thread::block_idx_x() as usize * ROWS_PER_BLOCK;
    let mut ahead = weights.load(block_row + first_row(), lane);
    pdl::launch_dependents();
    pdl::wait();
    let mut x_is_there = false;
    while block_row < n_rows {
        let row = block_row + first_row();
        let mut sums = [0.0; ROWS_PER_WARP];
        let mut step = 0;
        while step < steps {
            if step % steps_per_tile == 0 && !x_is_there {
                stage(x_tile, x, step / steps_per_tile * X_TILE, n_cols);
                x_is_there = steps <= steps_per_tile;
            }
            let chunks = ahead;
            let last = step + 1 == steps;
            ahead = if last {
                weights.load(row + stride, lane)
            } else {
                weights.load(row, (step + 1) * LANES + lane)
            };
            let chunk = step * LANES + lane;
            if chunk < weights.chunks_per_row {
                let in_tile = chunk % (X_TILE / Q::CHUNK_ELEMENTS);
                add_products::<Q>(&mut sums, &chunks, x_tile, in_tile);
            }
            step += 1;
        }
        store_sums(y, sums, row, n_rows);
        block_row += stride;
    }
}

/// First row of the warp among those of its block.
#[inline(always)]
fn first_row() -> usize {
    warp::warp_id() as usize * ROWS_PER_WARP
}

/// The weights as a warp reads them: some rows side by side.
struct Rows<Q> {
    matrix: Matrix<Q>,
    n_rows: usize,
    chunks_per_row: usize,
}

impl<Q: ChunkFormat> Rows<Q> {
    /// One chunk of each row from `row` on. Rows past the last repeat it; where there is no chunk at all, it is
    /// the matrix's first one, which nobody uses.
    #[inline(always)]
    fn load(&self, row: usize, chunk: usize) -> [Q::Chunk; ROWS_PER_WARP] {
        let exists = row < self.n_rows && chunk < self.chunks_per_row;
        let of_row = |r: usize| {
            let row = if row + r < self.n_rows { row + r } else { self.n_rows - 1 };
            Q::load(self.matrix, if exists { row * self.chunks_per_row + chunk } else { 0 })
        };
        [of_row(0), of_row(1)]
    }
}

/// Adds the products of one chunk a row and x.
#[inline(always)]
fn add_products<Q: ChunkFormat>(
    sums: &mut [f32; ROWS_PER_WARP],
    chunks: &[Q::Chunk; ROWS_PER_WARP],
    x_tile: Tile<f32>,
    chunk_in_tile: usize,
) {
    let mut run = 0;
    while run < Q::RUNS {
        let slot = Q::start(chunk_in_tile, run) / 4;
        let mut products = [0.0; ROWS_PER_WARP];
        let mut x_sum = 0.0;
        let mut quad = 0;
        while quad < Q::QUADS {
            let x = x_tile.load::<4>(swizzled(slot + quad) * 4);
            if Q::HAS_OFFSET {
                x_sum += (x[0] + x[1]) + (x[2] + x[3]);
            }
            let mut r = 0;
            while r < ROWS_PER_WARP {
                let w = Q::quad(&chunks[r], run, quad);
                products[r] = math::fma(w[0], x[0], products[r]);
                products[r] = math::fma(w[1], x[1], products[r]);
                products[r] = math::fma(w[2], x[2], products[r]);
                products[r] = math::fma(w[3], x[3], products[r]);
                r += 1;
            }
            quad += 1;
        }
        let mut r = 0;
        while r < ROWS_PER_WARP {
            sums[r] = math::fma(Q::scale(&chunks[r], run), products[r], sums[r]);
            if Q::HAS_OFFSET {
                sums[r] = math::fma(Q::offset(&chunks[r], run), x_sum, sums[r]);
            }
            r += 1;
        }
        run += 1;
    }
}

/// Where 16-byte slot `slot` of x lies in the tile.
///
/// A quarter of a warp reads eight slots at once, which must differ in their lowest three bits (the eight groups of
/// four banks). The lanes' slots differ in bits 0-2 (f32), 1-3 (f16, bf16), 2-4 (Q8_0), 3-5 (formats of 32),
/// 2, 4, 5 (Q4_K, Q5_K) or 2, 3, 5 (Q6_K). Adding (in GF(2)) 1, 2 and 7 for bits 3, 4 and 5 makes each of these
/// triples independent in the lowest three bits.
#[inline(always)]
fn swizzled(slot: usize) -> usize {
    slot ^ ((slot >> 3) & 3) ^ (((slot >> 5) & 1) * 7)
}

/// Copies up to [`X_TILE`] elements of x from `start` on into the tile. The whole block comes here.
#[inline(always)]
fn stage(x_tile: Tile<f32>, x: In<f32>, start: usize, n_cols: usize) {
    thread::sync_threads();
    let n_slots = (if n_cols - start < X_TILE { n_cols - start } else { X_TILE }) / 4;
    let mut slot = thread::thread_idx_x() as usize;
    while slot < n_slots {
        x_tile.store::<4>(swizzled(slot) * 4, x.load::<4>(start + slot * 4));
        slot += THREADS as usize;
    }
    thread::sync_threads();
}

/// Adds up what the lanes have and writes the rows that exist.
#[inline(always)]
fn store_sums(y: Out<f32>, sums: [f32; ROWS_PER_WARP], row: usize, n_rows: usize) {
    let mut r = 0;
    while r < ROWS_PER_WARP {
        let sum = warp::sum_f32(sums[r]);
        if warp::lane_id() == 0 && row + r < n_rows {
            y.set(row + r, sum);
        }
        r += 1;
    }
}

/// The same for float rows that no 16-byte load divides: a warp a row, a lane an element.
#[inline(always)]
fn gemv_by_element<Q: ChunkFormat>(y: Out<f32>, matrix: Matrix<Q>, x: In<f32>, n_rows: usize, n_cols: usize) {
    let mut row = thread::block_idx_x() as usize * WARPS + warp::warp_id() as usize;
    while row < n_rows {
        let mut sum = 0.0;
        let mut i = warp::lane_id() as usize;
        while i < n_cols {
            sum = math::fma(Q::element(matrix, row * n_cols + i), x.get(i), sum);
            i += LANES;
        }
        let sum = warp::sum_f32(sum);
        if warp::lane_id() == 0 {
            y.set(row, sum);
        }
        row += thread::grid_dim_x() as usize * WARPS;
    }
}

/// Blocks of a launch: one for every 16 rows, but no more than `max_blocks`, from where on blocks take several
/// groups of rows. Two to four for each multiprocessor are right.
pub const fn gemv_blocks(n_rows: usize, max_blocks: usize) -> usize {
    let groups = n_rows.div_ceil(ROWS_PER_BLOCK);
    if groups < max_blocks { groups } else { max_blocks }
}

/// The longest chain of roundings between a product and the result, for an error bound: the running sum of a
/// run, the multiplication by its scale, one addition for each run of each step, the butterfly over the warp.
pub const fn gemv_chain<Q: ChunkFormat>(n_cols: usize) -> usize {
    if Q::ELEMENTS == 1 && !n_cols.is_multiple_of(Q::ROW_MULTIPLE) {
        return n_cols.div_ceil(LANES) + 5;
    }
    let steps = n_cols.div_ceil(Q::CHUNK_ELEMENTS * LANES);
    let additions_per_run = if Q::HAS_OFFSET { 2 } else { 1 };
    Q::RUN_ELEMENTS + 1 + steps * Q::RUNS * additions_per_run + 5
}

/// Bytes that a launch must move: the weights, x and y once.
pub const fn gemv_bytes<Q: GpuLayout>(n_rows: usize, n_cols: usize) -> usize {
    n_rows * n_cols / Q::ELEMENTS * Q::BYTES + 4 * (n_rows + n_cols)
}

/// Floating-point operations of a launch: a product and a sum for each weight.
pub const fn gemv_flops(n_rows: usize, n_cols: usize) -> usize {
    2 * n_rows * n_cols
}
