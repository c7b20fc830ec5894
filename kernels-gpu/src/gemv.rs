//! Matrix times one vector or a few: every linear layer of a decode step.
//!
//! Reading the weights takes all the time there is, so everything else hides behind it. A block owns tiles of 16 rows (see
//! [`crate::quant::fragments`]); its warps share the columns and fetch their tiles some steps ahead into shared memory, across
//! the tiles of rows too. The tensor cores multiply, since at four bits a weight there is no time for a multiply-add
//! each: `quant` says how with integers, `float` how with 16-bit floats. They take the vectors in another form and order, into
//! which a launch of its own brings them: see [`gemv_x`](self::gemv_x_f16) and the like.

use core::marker::PhantomData;

use crate::quant::fragments::{Fragments, SharedTile, TILE_ROWS};
use crate::quant::{
    BF16, F16, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, QuantBlock,
};
use crate::simt::prelude::*;
use crate::simt::shared;

mod f32;
mod float;
mod quant;
mod x;

pub use self::f32::*;
pub use self::x::*;

/// Threads of a block.
pub const THREADS: u32 = 256;
/// Warps of a block.
const WARPS: usize = (THREADS / warp::SIZE) as usize;
/// Most vectors that a launch multiplies with.
pub const MAX_VECTORS: usize = 16;
/// Bytes of x in shared memory at once, without its scales.
const X_BYTES: usize = 32 << 10;
/// Shared memory for tiles on their way.
const RING_BYTES: usize = 60 << 10;
/// The most that a block may have: what any GPU of compute capability 8 has. And the blocks of two kernels fit on a
/// multiprocessor of 9.0, so that one starts while the other ends.
const SHARED_BYTES_MAX: usize = 99 << 10;

/// How tiles of a format are multiplied with V · NT vectors, in NT matrices b of [`matrix`]. V is 1 or 4.
pub trait Product: Fragments {
    /// How far an element of x may be from what is multiplied instead: relatively, and as a part of the largest magnitude
    /// among the [`Self::X_SCALE_COLS`] that share its scale.
    const X_ERROR: [f64; 2];
    /// Bytes of an element of x in shared memory.
    const X_ELEMENT_BYTES: usize;
    /// Columns of x that share a scale.
    const X_SCALE_COLS: usize;
    /// Numbers with each such stretch of a vector: its scale, and its sum where offsets need it.
    const X_NUMBERS: usize;
    /// With one vector, whether the four lanes of a row have parts of the sum; if not, each has all of it.
    const LANES_SHARE: bool;
    /// For an error bound: roundings of a product before it comes to a running sum, and additions to that for each tile.
    const PRODUCT_CHAIN: usize;
    const TILE_CHAIN: usize;

    /// The order of converted vectors, which formats share.
    const X_ORDER: XOrder;

    /// Adds the products of a tile and x: `sums[nt]` are those of rows g and g + 8, with the one vector (V = 1) or with vector
    /// 4 nt + c. `col_tile` counts from the first that is in shared memory.
    fn add_tile<const V: usize, const NT: usize>(
        sums: &mut [[f32; 2]; NT],
        tile: SharedTile,
        x_tile: XTile,
        col_tile: usize,
    );
}

/// The converted vectors in global memory.
#[derive(Clone, Copy)]
struct X {
    words: In<u32>,
    numbers: In<f32>,
    n_vectors: usize,
    n_cols: usize,
}

/// The part of the vectors that is in shared memory, in the order that the format's product wants.
#[derive(Clone, Copy)]
pub struct XTile {
    words: Tile<u32>,
    /// Scales, or pairs of scale and sum.
    numbers: Tile<f32>,
}

/// Columns of x in shared memory at once.
const fn x_cols<Q: Product>(n_vectors: usize) -> usize {
    X_BYTES / (n_vectors * Q::X_ELEMENT_BYTES)
}

/// Numbers with them.
const fn x_numbers<Q: Product>(n_vectors: usize) -> usize {
    x_cols::<Q>(n_vectors) / Q::X_SCALE_COLS * n_vectors * Q::X_NUMBERS
}

/// Bytes from one tile in shared memory to the next: whole passes over the banks.
const fn place_bytes<Q: Product>() -> usize {
    Q::TILE_BYTES.next_multiple_of(128)
}

/// Tiles that a warp has on their way or in use.
const fn ring_depth<Q: Product>(n_vectors: usize) -> usize {
    let bytes = if n_vectors == 1 { RING_BYTES } else { RING_BYTES - (16 << 10) };
    let depth = bytes / (WARPS * place_bytes::<Q>());
    match depth {
        0 | 1 => 2,
        2..=8 => depth,
        _ => 8,
    }
}

/// Sums of a block's warps for a tile of rows.
const fn n_sums(n_vectors: usize) -> usize {
    WARPS * n_vectors * TILE_ROWS
}

/// Places for them: with two, warps that add up a tile of rows are not disturbed by those that have finished the next.
const fn sums_places(n_vectors: usize) -> usize {
    if n_vectors <= 8 { 2 } else { 1 }
}

/// Shared memory of a block.
const fn shared_bytes<Q: Product>(n_vectors: usize) -> usize {
    let bytes = shared::tile_bytes::<u8>(ring_depth::<Q>(n_vectors) * WARPS * place_bytes::<Q>())
        + shared::tile_bytes::<u32>(X_BYTES / 4)
        + shared::tile_bytes::<f32>(x_numbers::<Q>(n_vectors))
        + shared::tile_bytes::<f32>(sums_places(n_vectors) * n_sums(n_vectors));
    assert!(bytes <= SHARED_BYTES_MAX);
    bytes
}

macro_rules! entries {
    ($($block:ident: $one:ident, $four:ident, $eight:ident, $sixteen:ident, $name:literal;)+) => {$(
        #[doc = concat!("`y[o] = Σ w[o, k] · x[k]`, with weights in ", $name, ".")]
        ///
        /// `y [n_rows]`, `w [n_rows, n_cols]` in the GPU's layout, `x [n_cols]`, converted: words and numbers as many as
        /// [`gemv_x_len`] says, in the order of [`Product::X_ORDER`]. The order of additions depends on `n_cols`
        /// alone; how x is rounded, [`Product::X_ERROR`] says.
        ///
        /// Grid: any number of blocks, best [`gemv_blocks`]; block b works on rows 16 b to 16 b + 15, then on those
        /// 16 · gridDim further, and so on.
        /// Requires: `n_cols` a multiple of the format's block; x on 16 bytes; weights that no kernel still in flight writes.
        /// Fast because: (1) a warp fetches whole tiles of consecutive bytes, 16 a lane, some tiles ahead, across rows too;
        /// (2) the first are on their way before the previous kernel has ended; (3) the tensor cores multiply, and what a
        /// lane does for a weight itself is less than one instruction; (4) nothing is read or written with bank conflicts.
        #[kernel(threads = THREADS, shared = shared_bytes::<$block>(1), min_blocks = 2, pdl)]
        pub fn $one(y: InOut<f32>, w: In<u8>, x: In<u32>, x_numbers: In<f32>, n_rows: u32, n_cols: u32) {
            let x = X { words: x, numbers: x_numbers, n_vectors: 1, n_cols: n_cols as usize };
            gemv::<$block, 1, 1>(y, w, x, n_rows as usize);
        }

        entries!(@several $block, $four, $one, $name, 4, 1, 2);
        entries!(@several $block, $eight, $one, $name, 8, 2, 2);
        entries!(@several $block, $sixteen, $one, $name, 16, 4, 1);
    )+};
    (@several $block:ident, $kernel:ident, $one:ident, $name:literal, $n:literal, $nt:literal, $blocks:literal) => {
        #[doc = concat!("As [`", stringify!($one), "`] with up to ", stringify!($n), " vectors: `y[t, o] = Σ w[o, k] · x[t, k]`.")]
        ///
        /// `y [n_vectors, n_rows]`, `x [n_vectors, n_cols]`, converted for that many.
        #[kernel(threads = THREADS, shared = shared_bytes::<$block>($n), min_blocks = $blocks, pdl)]
        pub fn $kernel(
            y: InOut<f32>,
            w: In<u8>,
            x: In<u32>,
            x_numbers: In<f32>,
            n_vectors: u32,
            n_rows: u32,
            n_cols: u32,
        ) {
            let x = X { words: x, numbers: x_numbers, n_vectors: n_vectors as usize, n_cols: n_cols as usize };
            gemv::<$block, 4, $nt>(y, w, x, n_rows as usize);
        }
    };
}

entries! {
    F16: gemv_f16, gemv_f16_n4, gemv_f16_n8, gemv_f16_n16, "f16";
    BF16: gemv_bf16, gemv_bf16_n4, gemv_bf16_n8, gemv_bf16_n16, "bf16";
    Q4_0: gemv_q4_0, gemv_q4_0_n4, gemv_q4_0_n8, gemv_q4_0_n16, "Q4_0";
    Q4_1: gemv_q4_1, gemv_q4_1_n4, gemv_q4_1_n8, gemv_q4_1_n16, "Q4_1";
    Q5_0: gemv_q5_0, gemv_q5_0_n4, gemv_q5_0_n8, gemv_q5_0_n16, "Q5_0";
    Q5_1: gemv_q5_1, gemv_q5_1_n4, gemv_q5_1_n8, gemv_q5_1_n16, "Q5_1";
    Q8_0: gemv_q8_0, gemv_q8_0_n4, gemv_q8_0_n8, gemv_q8_0_n16, "Q8_0";
    Q4_K: gemv_q4_k, gemv_q4_k_n4, gemv_q4_k_n8, gemv_q4_k_n16, "Q4_K";
    Q5_K: gemv_q5_k, gemv_q5_k_n4, gemv_q5_k_n8, gemv_q5_k_n16, "Q5_K";
    Q6_K: gemv_q6_k, gemv_q6_k_n4, gemv_q6_k_n8, gemv_q6_k_n16, "Q6_K";
    Q2_K: gemv_q2_k, gemv_q2_k_n4, gemv_q2_k_n8, gemv_q2_k_n16, "Q2_K";
    Q3_K: gemv_q3_k, gemv_q3_k_n4, gemv_q3_k_n8, gemv_q3_k_n16, "Q3_K";
    IQ4_NL: gemv_iq4_nl, gemv_iq4_nl_n4, gemv_iq4_nl_n8, gemv_iq4_nl_n16, "IQ4_NL";
    IQ4_XS: gemv_iq4_xs, gemv_iq4_xs_n4, gemv_iq4_xs_n8, gemv_iq4_xs_n16, "IQ4_XS";
    MXFP4: gemv_mxfp4, gemv_mxfp4_n4, gemv_mxfp4_n8, gemv_mxfp4_n16, "MXFP4";
}

/// Columns that x has no room for come in a later pass over the rows.
#[inline(always)]
fn gemv<Q: Product, const V: usize, const NT: usize>(y: InOut<f32>, w: In<u8>, x: X, n_rows: usize) {
    let mut shared = Shared::new();
    let bytes = shared.tile::<u8>(ring_depth::<Q>(V * NT) * WARPS * place_bytes::<Q>());
    let x_tile = XTile { words: shared.tile(X_BYTES / 4), numbers: shared.tile(x_numbers::<Q>(V * NT)) };
    let sums_tile = shared.tile::<f32>(sums_places(V * NT) * n_sums(V * NT));
    let work = Work {
        row_tiles: n_rows.div_ceil(TILE_ROWS) as u32,
        col_tiles: Q::tiles_per_row(x.n_cols) as u32,
        pass_tiles: (x_cols::<Q>(V * NT) / Q::TILE_COLS) as u32,
    };

    pdl::launch_dependents();
    let mut ring = Ring::<Q>::new(bytes, w, ring_depth::<Q>(V * NT), work);
    pdl::wait();
    let mut place = 0;
    let mut first = 0;
    while first < work.col_tiles {
        let n_tiles = work.tiles_from(first);
        thread::sync_threads();
        copy_x::<Q, V, NT>(x_tile, x, first as usize * Q::TILE_COLS, n_tiles as usize * Q::TILE_COLS);
        thread::sync_threads();
        let mut row_tile = thread::block_idx_x();
        while row_tile < work.row_tiles {
            let mut sums = [[0.0; 2]; NT];
            let mut col_tile = warp::warp_id();
            while col_tile < n_tiles.next_multiple_of(WARPS as u32) {
                ring.wait();
                if col_tile < n_tiles {
                    Q::add_tile::<V, NT>(&mut sums, ring.tile(), x_tile, col_tile as usize);
                }
                ring.advance();
                col_tile += WARPS as u32;
            }
            let first_row = row_tile as usize * TILE_ROWS;
            if sums_places(V * NT) == 1 {
                thread::sync_threads();
            }
            add_warps::<Q, V, NT>(sums_tile, place * n_sums(V * NT), sums, |vector, row, sum| {
                if vector < x.n_vectors && first_row + row < n_rows {
                    let i = vector * n_rows + first_row + row;
                    y.set(i, if first == 0 { sum } else { y.get(i) + sum });
                }
            });
            place = (place + 1) % sums_places(V * NT);
            row_tile += thread::grid_dim_x();
        }
        first += n_tiles;
    }
}

/// 16-byte pieces of x that a thread has on their way at once.
const X_PIECES: usize = X_BYTES / 16 / THREADS as usize;

/// Brings columns `first_col` to `first_col + n_cols` of all vectors to shared memory. Not by asynchronous copies: to wait for
/// these is to wait for all the tiles begun before.
#[inline(always)]
fn copy_x<Q: Product, const V: usize, const NT: usize>(x_tile: XTile, x: X, first_col: usize, n_cols: usize) {
    let words = |n_cols: usize| n_cols * V * NT * Q::X_ELEMENT_BYTES / 4;
    let (start, n_words) = (words(first_col), words(n_cols));
    let first = thread::thread_idx_x() as usize * 4;
    let mut pieces = [[0; 4]; X_PIECES];
    let mut turn = 0;
    while turn < X_PIECES {
        let word = first + turn * THREADS as usize * 4;
        if word < n_words {
            pieces[turn] = x.words.load::<4>(start + word);
        }
        turn += 1;
    }
    let numbers = |n_cols: usize| n_cols / Q::X_SCALE_COLS * V * NT * Q::X_NUMBERS;
    let (start, n_numbers) = (numbers(first_col), numbers(n_cols));
    // Past the last one there may be others, or the padding, up to whole pieces.
    let mut number = first;
    while number < n_numbers {
        x_tile.numbers.store::<4>(number, x.numbers.load::<4>(start + number));
        number += THREADS as usize * 4;
    }
    let mut turn = 0;
    while turn < X_PIECES {
        let word = first + turn * THREADS as usize * 4;
        if word < n_words {
            x_tile.words.store::<4>(word, pieces[turn]);
        }
        turn += 1;
    }
}

/// The tiles of a matrix and how they are dealt.
#[derive(Clone, Copy)]
struct Work {
    row_tiles: u32,
    col_tiles: u32,
    /// Tiles side by side that x is in shared memory for.
    pass_tiles: u32,
}

impl Work {
    /// Tiles of the pass that begins with `first`.
    #[inline(always)]
    fn tiles_from(self, first: u32) -> u32 {
        let left = self.col_tiles - first;
        if left < self.pass_tiles { left } else { self.pass_tiles }
    }
}

/// A warp's tiles in shared memory: one in use, the next on their way.
struct Ring<Q> {
    format: PhantomData<Q>,
    bytes: Tile<u8>,
    /// Where the warp's places begin, and the one that is in use.
    start: usize,
    place: usize,
    depth: usize,
    w: In<u8>,
    work: Work,
    // Where fetching stands: the first tile of the pass, the tile of rows; the byte of the next tile, how many tiles there
    // are from it on to the end of the pass, and the warps' steps to that.
    first: u32,
    row_tile: u32,
    from: usize,
    left: i32,
    steps: u32,
}

impl<Q: Product> Ring<Q> {
    /// Begins with the first tiles.
    #[inline(always)]
    fn new(bytes: Tile<u8>, w: In<u8>, depth: usize, work: Work) -> Self {
        let start = warp::warp_id() as usize * depth * place_bytes::<Q>();
        let row_tile = thread::block_idx_x();
        let (format, place, first, from, left, steps) = (PhantomData, 0, 0, 0, 0, 0);
        let mut ring =
            Self { format, bytes, start, place, depth, w, work, first, row_tile, from, left, steps };
        ring.begin_row();
        let mut i = 0;
        while i < depth {
            ring.fetch();
            ring.next_place();
            i += 1;
        }
        ring
    }

    /// Waits for the tile that comes next into use.
    #[inline(always)]
    fn wait(&self) {
        match self.depth {
            2 => async_copy::wait::<1>(),
            3 => async_copy::wait::<2>(),
            4 => async_copy::wait::<3>(),
            5 => async_copy::wait::<4>(),
            6 => async_copy::wait::<5>(),
            7 => async_copy::wait::<6>(),
            _ => async_copy::wait::<7>(),
        }
        warp::sync();
    }

    #[inline(always)]
    fn tile(&self) -> SharedTile {
        SharedTile { bytes: self.bytes, start: self.start + self.place * place_bytes::<Q>() }
    }

    /// The tile in use is done with: its place is for the next one to be fetched.
    #[inline(always)]
    fn advance(&mut self) {
        warp::sync();
        self.fetch();
        self.next_place();
    }

    #[inline(always)]
    fn next_place(&mut self) {
        self.place = if self.place + 1 == self.depth { 0 } else { self.place + 1 };
    }

    /// Begins to copy a tile, if there is one, and makes it a group of copies, if need be of none.
    #[inline(always)]
    fn fetch(&mut self) {
        if self.left > 0 {
            let to = self.start + self.place * place_bytes::<Q>();
            let lane_byte = warp::lane_id() as usize * 16;
            let mut turn = 0;
            // Counted, so that it unrolls; only the last turn is not for all lanes.
            while turn < Q::TILE_BYTES.div_ceil(512) {
                let byte = turn * 512 + lane_byte;
                if (turn + 1) * 512 <= Q::TILE_BYTES || byte < Q::TILE_BYTES {
                    self.bytes.copy_async::<16>(to + byte, self.w, self.from + byte);
                }
                turn += 1;
            }
        }
        async_copy::commit();
        self.from += WARPS * Q::TILE_BYTES;
        self.left -= WARPS as i32;
        self.steps -= 1;
        if self.steps == 0 {
            self.row_tile += thread::grid_dim_x();
            let end = self.first + self.work.tiles_from(self.first);
            if self.row_tile >= self.work.row_tiles && end < self.work.col_tiles {
                self.row_tile = thread::block_idx_x();
                self.first = end;
            }
            self.begin_row();
        }
    }

    /// Stands at the warp's first tile of the tile of rows; past the last one, at none.
    #[inline(always)]
    fn begin_row(&mut self) {
        let n_tiles = self.work.tiles_from(self.first);
        let tile =
            self.row_tile as usize * self.work.col_tiles as usize + (self.first + warp::warp_id()) as usize;
        self.from = tile * Q::TILE_BYTES;
        self.left =
            if self.row_tile < self.work.row_tiles { n_tiles as i32 - warp::warp_id() as i32 } else { 0 };
        self.steps = n_tiles.div_ceil(WARPS as u32);
    }
}

/// Adds up what the warps have and gives each sum to one thread, as (vector, row of the tile, sum).
#[inline(always)]
fn add_warps<Q: Product, const V: usize, const NT: usize>(
    tile: Tile<f32>,
    start: usize,
    mut sums: [[f32; 2]; NT],
    store: impl Fn(usize, usize, f32),
) {
    let (lane, warp) = (warp::lane_id() as usize, warp::warp_id() as usize);
    let (g, c) = (lane / 4, lane % 4);
    // Every other pair of vectors has its halves exchanged: so lanes with four vectors and eight rows hit 32 banks.
    let place = |warp: usize, vector: usize, row: usize| {
        start + (warp * V * NT + vector) * TILE_ROWS + (row ^ (vector / 2 % 2 * 8))
    };
    let mut nt = 0;
    while nt < NT {
        let mut half = 0;
        while half < 2 {
            if V == 1 && Q::LANES_SHARE {
                sums[nt][half] += warp::shuffle_xor(sums[nt][half], 1);
                sums[nt][half] += warp::shuffle_xor(sums[nt][half], 2);
            }
            let vector = if V == 1 { 0 } else { nt * V + c };
            if V > 1 || c == 0 {
                tile.set(place(warp, vector, 8 * half + g), sums[nt][half]);
            }
            half += 1;
        }
        nt += 1;
    }
    thread::sync_threads();
    let (vector, row) =
        (thread::thread_idx_x() as usize / TILE_ROWS, thread::thread_idx_x() as usize % TILE_ROWS);
    if vector < V * NT {
        let mut sum = 0.0;
        let mut warp = 0;
        while warp < WARPS {
            sum += tile.get(place(warp, vector, row));
            warp += 1;
        }
        store(vector, row, sum);
    }
}

/// The longest chain of roundings between a product and the result, for an error bound, of a kernel for up to `max_vectors`
/// vectors. It applies to |scale · q · x| and |offset · x|, not to |w · x|; and to an x that is off by [`Product::X_ERROR`].
pub const fn gemv_chain<Q: Product>(max_vectors: usize, n_cols: usize) -> usize {
    let tiles = n_cols.div_ceil(Q::TILE_COLS);
    let pass_tiles = x_cols::<Q>(max_vectors) / Q::TILE_COLS;
    let (passes, last) = (tiles / pass_tiles, tiles % pass_tiles);
    let tiles_of_warp = passes * pass_tiles.div_ceil(WARPS) + last.div_ceil(WARPS);
    // The four lanes of a row, the warps, the passes.
    Q::PRODUCT_CHAIN + tiles_of_warp * Q::TILE_CHAIN + 2 + WARPS + passes + 1
}

/// Blocks of a launch: one for every 16 rows, but no more than `max_blocks`, from where on blocks take several
/// tiles of rows. One or two for each multiprocessor are right.
pub const fn gemv_blocks(n_rows: usize, max_blocks: usize) -> usize {
    let tiles = n_rows.div_ceil(TILE_ROWS);
    if tiles < max_blocks { tiles } else { max_blocks }
}

/// Bytes that a launch must move: the weights, and each vector and result once.
pub const fn gemv_bytes<Q: QuantBlock>(n_vectors: usize, n_rows: usize, n_cols: usize) -> usize {
    n_rows * n_cols / Q::ELEMENTS * Q::BYTES + 4 * n_vectors * (n_rows + n_cols)
}

/// Floating-point operations of a launch: a product and a sum for each weight and vector.
pub const fn gemv_flops(n_vectors: usize, n_rows: usize, n_cols: usize) -> usize {
    2 * n_vectors * n_rows * n_cols
}
