//! Matrix times vector: every linear layer of a decode step.

use core::marker::PhantomData;

use crate::quant::chunk::{ChunkFormat, Matrix};
use crate::quant::layout::GpuLayout;
use crate::quant::{
    BF16, F16, F32, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};
use crate::simt::prelude::*;
use crate::simt::shared;

/// Threads of a block.
pub const THREADS: u32 = 256;
/// Warps of a block.
const WARPS: usize = (THREADS / LANES) as usize;
/// Lanes of a warp.
const LANES: u32 = warp::SIZE;
/// Rows that a warp works on at once: each of its reads of x from shared memory serves all of them.
pub const ROWS_PER_WARP: usize = 2;
/// Rows that a block works on at once.
pub const ROWS_PER_BLOCK: usize = WARPS * ROWS_PER_WARP;
/// Elements of x that are in shared memory at once.
pub const X_TILE: usize = 8192;
/// Shared memory of a block: the tile of x with its padding, and the sums of its runs.
const fn shared_bytes<Q: ChunkFormat>() -> usize {
    let sums = if needs_sums::<Q>() { XTile::<Q>::SUMS } else { 0 };
    shared::tile_bytes::<f32>(XTile::<Q>::ELEMENTS) + shared::tile_bytes::<f32>(sums)
}

/// `y[o] = Σ w[o, k] · x[k]`, with weights in f32.
///
/// `y [n_rows]`, `w [n_rows, n_cols]` in the GPU's layout, `x [n_cols]`. f32 accumulation in an order that depends on
/// `n_cols` alone.
///
/// Grid: any number of blocks, best [`gemv_blocks`]; block b works on rows 16 b to 16 b + 15, then on those
/// 16 · gridDim further, and so on.
/// Requires: `n_cols` a multiple of the format's block; x on 16 bytes; weights that no kernel still in flight writes.
/// Fast because: (1) a warp fetches 512 consecutive bytes of quants at once; (2) a lane's next load is in flight while
/// it works on the last, across rows too; (3) the first one is issued before the previous kernel has ended; (4) x is
/// read from shared memory without bank conflicts and for two rows at once; (5) four-bit weights
/// cost two instructions and a fraction each: see [`crate::quant::chunk`]; (6) scales multiply sums, not elements.
#[kernel(threads = THREADS, shared = shared_bytes::<F32>(), pdl)]
pub fn gemv_f32(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<F32>(y, w, x, n_rows, n_cols);
}

/// As [`gemv_f32`], with weights in f16.
#[kernel(threads = THREADS, shared = shared_bytes::<F16>(), pdl)]
pub fn gemv_f16(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<F16>(y, w, x, n_rows, n_cols);
}

/// As [`gemv_f32`], with weights in bf16.
#[kernel(threads = THREADS, shared = shared_bytes::<BF16>(), pdl)]
pub fn gemv_bf16(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<BF16>(y, w, x, n_rows, n_cols);
}

/// As [`gemv_f32`], with weights in Q4_0.
#[kernel(threads = THREADS, shared = shared_bytes::<Q4_0>(), pdl)]
pub fn gemv_q4_0(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<Q4_0>(y, w, x, n_rows, n_cols);
}

/// As [`gemv_f32`], with weights in Q4_1.
#[kernel(threads = THREADS, shared = shared_bytes::<Q4_1>(), pdl)]
pub fn gemv_q4_1(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<Q4_1>(y, w, x, n_rows, n_cols);
}

/// As [`gemv_f32`], with weights in Q5_0.
#[kernel(threads = THREADS, shared = shared_bytes::<Q5_0>(), pdl)]
pub fn gemv_q5_0(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<Q5_0>(y, w, x, n_rows, n_cols);
}

/// As [`gemv_f32`], with weights in Q5_1.
#[kernel(threads = THREADS, shared = shared_bytes::<Q5_1>(), pdl)]
pub fn gemv_q5_1(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<Q5_1>(y, w, x, n_rows, n_cols);
}

/// As [`gemv_f32`], with weights in Q8_0.
#[kernel(threads = THREADS, shared = shared_bytes::<Q8_0>(), pdl)]
pub fn gemv_q8_0(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<Q8_0>(y, w, x, n_rows, n_cols);
}

/// As [`gemv_f32`], with weights in Q2_K.
#[kernel(threads = THREADS, shared = shared_bytes::<Q2_K>(), pdl)]
pub fn gemv_q2_k(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<Q2_K>(y, w, x, n_rows, n_cols);
}

/// As [`gemv_f32`], with weights in Q3_K.
#[kernel(threads = THREADS, shared = shared_bytes::<Q3_K>(), pdl)]
pub fn gemv_q3_k(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<Q3_K>(y, w, x, n_rows, n_cols);
}

/// As [`gemv_f32`], with weights in Q4_K.
#[kernel(threads = THREADS, shared = shared_bytes::<Q4_K>(), pdl)]
pub fn gemv_q4_k(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<Q4_K>(y, w, x, n_rows, n_cols);
}

/// As [`gemv_f32`], with weights in Q5_K.
#[kernel(threads = THREADS, shared = shared_bytes::<Q5_K>(), pdl)]
pub fn gemv_q5_k(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<Q5_K>(y, w, x, n_rows, n_cols);
}

/// As [`gemv_f32`], with weights in Q6_K.
#[kernel(threads = THREADS, shared = shared_bytes::<Q6_K>(), pdl)]
pub fn gemv_q6_k(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<Q6_K>(y, w, x, n_rows, n_cols);
}

/// As [`gemv_f32`], with weights in IQ4_NL.
#[kernel(threads = THREADS, shared = shared_bytes::<IQ4_NL>(), pdl)]
pub fn gemv_iq4_nl(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<IQ4_NL>(y, w, x, n_rows, n_cols);
}

/// As [`gemv_f32`], with weights in IQ4_XS.
#[kernel(threads = THREADS, shared = shared_bytes::<IQ4_XS>(), pdl)]
pub fn gemv_iq4_xs(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<IQ4_XS>(y, w, x, n_rows, n_cols);
}

/// As [`gemv_f32`], with weights in MXFP4.
#[kernel(threads = THREADS, shared = shared_bytes::<MXFP4>(), pdl)]
pub fn gemv_mxfp4(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    gemv::<MXFP4>(y, w, x, n_rows, n_cols);
}

/// Lane l of a warp takes chunks l, l + 32, l + 64 … of its rows; one such chunk of each row is a step.
#[inline(always)]
fn gemv<Q: ChunkFormat>(y: Out<f32>, w: In<u8>, x: In<f32>, n_rows: u32, n_cols: u32) {
    let matrix = Matrix::new(w, n_rows as usize * n_cols as usize);
    if !Q::rows_in_chunks(n_cols as usize) {
        pdl::launch_dependents();
        pdl::wait();
        return gemv_by_element::<Q>(y, matrix, x, n_rows as usize, n_cols as usize);
    }
    let x_tile = XTile::<Q>::new();
    let chunks_per_row = n_cols / Q::CHUNK_ELEMENTS as u32;
    let steps = chunks_per_row.div_ceil(LANES);
    let steps_per_tile = XTile::<Q>::CHUNKS as u32 / LANES;
    let stride = thread::grid_dim_x() * ROWS_PER_BLOCK as u32;

    let mut block_row = thread::block_idx_x() * ROWS_PER_BLOCK as u32;
    let mut row = block_row + warp::warp_id() * ROWS_PER_WARP as u32;
    let mut weights = Cursor::<Q>::new(matrix, n_rows, chunks_per_row, row);
    let mut ahead = weights.next();
    pdl::launch_dependents();
    pdl::wait();
    let mut x_is_there = false;
    while block_row < n_rows {
        let mut sums = [0.0; ROWS_PER_WARP];
        let mut step = 0;
        while step < steps {
            if step % steps_per_tile == 0 && !x_is_there {
                x_tile.fill(x, (step / steps_per_tile) as usize * X_TILE, n_cols as usize);
                x_is_there = steps <= steps_per_tile;
            }
            let (chunks, chunk) = (ahead, step * LANES + warp::lane_id());
            step += 1;
            if step == steps {
                weights.go_to(row + stride);
            }
            weights.load(&mut ahead);
            if chunk < chunks_per_row {
                add_products::<Q>(&mut sums, &chunks, x_tile, chunk as usize % XTile::<Q>::CHUNKS);
            }
        }
        store_sums(y, sums, row, n_rows);
        block_row += stride;
        row += stride;
    }
}

/// Where a lane loads weights next: one chunk of each of its warp's rows.
struct Cursor<Q> {
    matrix: Matrix<Q>,
    n_rows: u32,
    chunks_per_row: u32,
    /// The chunk of each row, counted through the matrix.
    chunks: [u32; ROWS_PER_WARP],
    /// Chunks left from it to the end of the row; none or negative: nothing to load.
    left: i32,
}

impl<Q: ChunkFormat> Cursor<Q> {
    #[inline(always)]
    fn new(matrix: Matrix<Q>, n_rows: u32, chunks_per_row: u32, row: u32) -> Self {
        let mut cursor = Self { matrix, n_rows, chunks_per_row, chunks: [0; ROWS_PER_WARP], left: 0 };
        cursor.go_to(row);
        cursor
    }

    /// Begins the group of rows that starts with `row`. Rows past the last one repeat it.
    #[inline(always)]
    fn go_to(&mut self, row: u32) {
        let lane = warp::lane_id();
        self.left = if row < self.n_rows { self.chunks_per_row as i32 - lane as i32 } else { 0 };
        let mut r = 0;
        while r < ROWS_PER_WARP as u32 {
            let row = if row + r < self.n_rows { row + r } else { self.n_rows - 1 };
            self.chunks[r as usize] = row * self.chunks_per_row + lane;
            r += 1;
        }
    }

    /// The first chunks; for lanes that have none, the first of the matrix, which they will not use.
    #[inline(always)]
    fn next(&mut self) -> [Q::Chunk; ROWS_PER_WARP] {
        let mut chunks = [Q::load(self.matrix, 0); ROWS_PER_WARP];
        self.load(&mut chunks);
        chunks
    }

    /// Replaces the chunks by those that the cursor stands at, if there are any, and moves on to the next step.
    #[inline(always)]
    fn load(&mut self, chunks: &mut [Q::Chunk; ROWS_PER_WARP]) {
        if self.left > 0 {
            let mut r = 0;
            while r < ROWS_PER_WARP {
                chunks[r] = Q::load(self.matrix, self.chunks[r] as usize);
                r += 1;
            }
        }
        let mut r = 0;
        while r < ROWS_PER_WARP {
            self.chunks[r] += LANES;
            r += 1;
        }
        self.left -= LANES as i32;
    }
}

/// Adds the products of one chunk a row and x.
#[inline(always)]
fn add_products<Q: ChunkFormat>(
    sums: &mut [f32; ROWS_PER_WARP],
    chunks: &[Q::Chunk; ROWS_PER_WARP],
    x_tile: XTile<Q>,
    chunk_in_tile: usize,
) {
    let mut run = 0;
    while run < Q::RUNS {
        let mut products = [0.0; ROWS_PER_WARP];
        let mut quad = 0;
        while quad < Q::QUADS {
            let x = x_tile.quad(chunk_in_tile, run, quad);
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
        let x_sum = if needs_sums::<Q>() { x_tile.sum(chunk_in_tile, run) } else { 0.0 };
        let mut r = 0;
        while r < ROWS_PER_WARP {
            if Q::ZERO != 0.0 {
                products[r] = math::fma(-Q::ZERO, x_sum, products[r]);
            }
            sums[r] = math::fma(Q::scale(&chunks[r], run), products[r], sums[r]);
            if Q::HAS_OFFSET {
                sums[r] = math::fma(Q::offset(&chunks[r], run), x_sum, sums[r]);
            }
            r += 1;
        }
        run += 1;
    }
}

/// Whether products need Σ x of their run.
const fn needs_sums<Q: ChunkFormat>() -> bool {
    Q::HAS_OFFSET || Q::ZERO != 0.0
}

/// A part of x in shared memory, turned so that lanes with neighbouring chunks read neighbouring quads: quad q of
/// run r of chunk c is quad c of line r · QUADS + q.
struct XTile<Q> {
    x: Tile<f32>,
    sums: Tile<f32>,
    format: PhantomData<Q>,
}

impl<Q> Clone for XTile<Q> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<Q> Copy for XTile<Q> {}

impl<Q: ChunkFormat> XTile<Q> {
    /// Chunks that the tile covers.
    const CHUNKS: usize = X_TILE / Q::CHUNK_ELEMENTS;
    /// Quads of a line, with padding that puts eight neighbours of x into different banks when the tile is filled:
    /// they belong to 8 / n chunks, n quads of each, so lines are 8 / n more than a multiple of 8.
    const LINE: usize = Self::CHUNKS + if Q::RUNS_ADJOIN { 8 / (Q::RUNS * Q::QUADS) } else { 8 / Q::QUADS };
    /// Elements with padding.
    const ELEMENTS: usize = Q::RUNS * Q::QUADS * Self::LINE * 4;
    /// Sums of the chunks' runs of one kind; a warp writes those of two kinds for four neighbouring chunks at once.
    const SUMS_LINE: usize = Self::CHUNKS + 4;
    /// All sums: that of run r of chunk c is sum c of line r.
    const SUMS: usize = Q::RUNS * Self::SUMS_LINE;

    #[inline(always)]
    fn new() -> Self {
        let mut shared = Shared::new();
        let x = shared.tile(Self::ELEMENTS);
        let sums = shared.tile(if needs_sums::<Q>() { Self::SUMS } else { 0 });
        Self { x, sums, format: PhantomData }
    }

    #[inline(always)]
    fn quad(self, chunk: usize, run: usize, quad: usize) -> [f32; 4] {
        self.x.load::<4>(((run * Q::QUADS + quad) * Self::LINE + chunk) * 4)
    }

    #[inline(always)]
    fn sum(self, chunk: usize, run: usize) -> f32 {
        self.sums.get(run * Self::SUMS_LINE + chunk)
    }

    /// Copies up to [`X_TILE`] elements of x from `start` on, a lane a quad. The whole block comes here.
    #[inline(always)]
    fn fill(self, x: In<f32>, start: usize, n_cols: usize) {
        thread::sync_threads();
        let n_quads = (if n_cols - start < X_TILE { n_cols - start } else { X_TILE }) / 4;
        let mut first = (warp::warp_id() * LANES) as usize;
        while first < n_quads {
            let i = first + warp::lane_id() as usize;
            let ((chunk, run), quad) = (Q::locate(i / Q::QUADS), i % Q::QUADS);
            let mut values = [0.0; 4];
            if i < n_quads {
                values = x.load::<4>(start + i * 4);
                self.x.store::<4>(((run * Q::QUADS + quad) * Self::LINE + chunk) * 4, values);
            }
            if needs_sums::<Q>() {
                const { assert!(!needs_sums::<Q>() || Q::QUADS == 4, "two exchanges add up four quads") };
                let mut sum = (values[0] + values[1]) + (values[2] + values[3]);
                sum += warp::shuffle_xor(sum, 1);
                sum += warp::shuffle_xor(sum, 2);
                if quad == 0 && i < n_quads {
                    self.sums.set(run * Self::SUMS_LINE + chunk, sum);
                }
            }
            first += THREADS as usize;
        }
        thread::sync_threads();
    }
}

/// Adds up what the lanes have and writes the rows that exist.
#[inline(always)]
fn store_sums(y: Out<f32>, sums: [f32; ROWS_PER_WARP], row: u32, n_rows: u32) {
    let mut r = 0;
    while r < ROWS_PER_WARP {
        let sum = warp::sum_f32(sums[r]);
        let row = row + r as u32;
        if warp::lane_id() == 0 && row < n_rows {
            y.set(row as usize, sum);
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
            i += LANES as usize;
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
/// run (or of Σ x), the subtraction of zero, the multiplication by the scale, one or two additions for each run of each
/// step, the butterfly over the warp.
/// It applies to |scale| · (f + ZERO) · |x| and |offset| · |x|, not to |w · x|.
pub const fn gemv_chain<Q: ChunkFormat>(n_cols: usize) -> usize {
    if Q::ELEMENTS == 1 && !n_cols.is_multiple_of(Q::ROW_MULTIPLE) {
        return n_cols.div_ceil(LANES as usize) + 5;
    }
    let steps = n_cols.div_ceil(Q::CHUNK_ELEMENTS * LANES as usize);
    let additions_per_run = if Q::HAS_OFFSET { 2 } else { 1 };
    Q::RUN_ELEMENTS + 2 + steps * Q::RUNS * additions_per_run + 5
}

/// Bytes that a launch must move: the weights, x and y once.
pub const fn gemv_bytes<Q: GpuLayout>(n_rows: usize, n_cols: usize) -> usize {
    n_rows * n_cols / Q::ELEMENTS * Q::BYTES + 4 * (n_rows + n_cols)
}

/// Floating-point operations of a launch: a product and a sum for each weight.
pub const fn gemv_flops(n_rows: usize, n_cols: usize) -> usize {
    2 * n_rows * n_cols
}
