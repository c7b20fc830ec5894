//! The kernel for one vector: the warps of a block share the columns of a tile of rows, so that a block reads long runs of bytes;
//! each has its columns of x in shared memory.

use core::marker::PhantomData;

use super::ring::{Ring, Walk, place_bytes, ring_depth};
use super::{MATRICES, Product, SHARED_BYTES_MAX, THREADS, WARPS, X};
use crate::quant::fragments::{Fragments, TILE_ROWS};
use crate::simt::prelude::*;
use crate::simt::shared;

/// Bytes of x in shared memory at once, without its scales.
const X_BYTES: usize = 32 << 10;
/// Shared memory for tiles on their way.
const RING_BYTES: usize = 60 << 10;
/// Sums of a block's warps for a tile of rows.
const N_SUMS: usize = WARPS * TILE_ROWS;
/// Places for them: with two, warps that add up a tile of rows are not disturbed by those that have finished the next.
const SUMS_PLACES: usize = 2;

/// The part of x that is in shared memory, in the order that the format's product wants: for each warp's tiles by itself.
#[derive(Clone, Copy)]
pub struct XTile {
    pub words: Tile<u32>,
    /// Scales, or pairs of scale and sum.
    pub numbers: Tile<f32>,
}

/// Columns of x in shared memory at once.
const fn x_cols<Q: Product>() -> usize {
    X_BYTES / Q::X_ELEMENT_BYTES
}

/// Tiles of a warp that x is in shared memory for, one after the other.
const fn part_tiles<Q: Product>() -> usize {
    x_cols::<Q>() / Q::TILE_COLS / WARPS
}

/// Numbers with them.
const fn x_numbers<Q: Product>() -> usize {
    x_cols::<Q>() / Q::X_GROUP_COLS * Q::X_NUMBERS
}

const fn depth<Q: Product>() -> usize {
    ring_depth::<Q>(RING_BYTES)
}

/// Shared memory of a block.
pub const fn shared_bytes<Q: Product>() -> usize {
    let bytes = shared::tile_bytes::<u8>(depth::<Q>() * WARPS * place_bytes::<Q>())
        + shared::tile_bytes::<u32>(X_BYTES / 4)
        + shared::tile_bytes::<f32>(x_numbers::<Q>())
        + shared::tile_bytes::<f32>(SUMS_PLACES * N_SUMS);
    assert!(bytes <= SHARED_BYTES_MAX);
    assert!(Q::X_NUMBERS == 1 || x_numbers::<Q>() <= NUMBER_PIECES * 4 * THREADS as usize);
    assert!(Q::X_NUMBERS > 1 || x_numbers::<Q>() <= THREADS as usize);
    bytes
}

/// A matrix and its result.
#[derive(Clone, Copy)]
pub struct Matrix {
    pub y: InOut<f32>,
    pub w: In<u8>,
    pub n_rows: u32,
    /// Where they begin in `y` and in `w`.
    pub y_start: usize,
    pub w_start: usize,
}

impl Matrix {
    /// The matrix that is all of `w`.
    #[inline(always)]
    pub fn whole(y: InOut<f32>, w: In<u8>, n_rows: u32) -> Self {
        Self { y, w, n_rows, y_start: 0, w_start: 0 }
    }

    #[inline(always)]
    fn row_tiles(self) -> u32 {
        self.n_rows.div_ceil(TILE_ROWS as u32)
    }
}

/// Columns that x has no room for come in a later pass over the rows.
#[inline(always)]
pub fn gemv<Q: Product>(matrices: [Matrix; MATRICES], x: X) {
    let mut shared = Shared::new();
    let bytes = shared.tile::<u8>(depth::<Q>() * WARPS * place_bytes::<Q>());
    let x_tile = XTile { words: shared.tile(X_BYTES / 4), numbers: shared.tile(x_numbers::<Q>()) };
    let sums_tile = shared.tile::<f32>(SUMS_PLACES * N_SUMS);
    let work = Work {
        matrices,
        row_tiles: matrices[0].row_tiles() + matrices[1].row_tiles() + matrices[2].row_tiles(),
        col_tiles: Q::tiles_per_row(x.n_cols) as u32,
        pass_tiles: (x_cols::<Q>() / Q::TILE_COLS) as u32,
    };

    pdl::launch_dependents();
    let mut ring = Ring::<Q, _>::new(bytes, depth::<Q>(), Shares::<Q>::new(work));
    pdl::wait();
    let mut place = 0;
    let mut first = 0;
    while first < work.col_tiles {
        let n_tiles = work.tiles_from(first);
        warp::sync();
        copy_x::<Q>(x_tile, x, first as usize, n_tiles as usize);
        warp::sync();
        let mut row_tile = thread::block_idx_x();
        while row_tile < work.row_tiles {
            let mut sums = [0.0; 2];
            let mut col_tile = warp::warp_id();
            let mut x_place = warp::warp_id() as usize * part_tiles::<Q>();
            while col_tile < n_tiles {
                ring.wait();
                Q::add_tile(&mut sums, ring.tile(), x_tile, x_place);
                ring.advance();
                col_tile += WARPS as u32;
                x_place += 1;
            }
            let (Matrix { y, n_rows, y_start, .. }, tile_of_matrix) = work.matrix(row_tile);
            let first_row = tile_of_matrix as usize * TILE_ROWS;
            add_warps::<Q>(sums_tile, place * N_SUMS, sums, |row, sum| {
                let row = first_row + row;
                if row < n_rows as usize {
                    let i = y_start + row;
                    y.set(i, if first == 0 { sum } else { y.get(i) + sum });
                }
            });
            place = (place + 1) % SUMS_PLACES;
            row_tile += thread::grid_dim_x();
        }
        first += n_tiles;
    }
}

/// Brings x for the warp's tiles of a pass to the warp's part of shared memory, of `n_tiles` from `first` on. No other warp
/// needs it, so none waits for another. Not by asynchronous copies: to wait for these is to wait for all the tiles begun
/// before.
#[inline(always)]
fn copy_x<Q: Product>(x_tile: XTile, x: X, first: usize, n_tiles: usize) {
    let tile_words = Q::TILE_COLS * Q::X_ELEMENT_BYTES / 4;
    let words = Span { first, n_tiles, tile_groups: 1, group_len: tile_words, taken: tile_words };
    let tile_groups = Q::TILE_COLS / Q::X_GROUP_COLS;
    let numbers = Span { first, n_tiles, tile_groups, group_len: Q::X_GROUP_NUMBERS, taken: Q::X_NUMBERS };
    let part = warp::warp_id() as usize * part_tiles::<Q>();
    let pieces = Pieces::<u32, 4, X_PIECES>::load(words, x.words, x.first_word);
    if Q::X_NUMBERS.is_multiple_of(4) {
        let pieces = Pieces::<f32, 4, NUMBER_PIECES>::load(numbers, x.numbers, x.first_number);
        pieces.store(x_tile.numbers, part * numbers.tile_len());
    } else {
        let pieces = Pieces::<f32, 1, 1>::load(numbers, x.numbers, x.first_number);
        pieces.store(x_tile.numbers, part * numbers.tile_len());
    }
    pieces.store(x_tile.words, part * words.tile_len());
}

/// Pieces of x, and of its numbers, that a lane brings; where numbers come one by one, it is one.
const X_PIECES: usize = X_BYTES / 16 / THREADS as usize;
const NUMBER_PIECES: usize = X_PIECES.div_ceil(4);

/// Elements of the tiles of a pass. Each tile has groups of them, of which so many are taken, from the first on.
#[derive(Clone, Copy)]
struct Span {
    first: usize,
    n_tiles: usize,
    tile_groups: usize,
    group_len: usize,
    taken: usize,
}

/// What a lane has on its way to shared memory: in each turn `N` neighbours among the elements of the warp's tiles.
struct Pieces<T, const N: usize, const TURNS: usize> {
    span: Span,
    values: [[T; N]; TURNS],
}

impl<T: Element, const N: usize, const TURNS: usize> Pieces<T, N, TURNS> {
    #[inline(always)]
    #[track_caller]
    fn load(span: Span, from: In<T>, start: usize) -> Self {
        let mut values = [[T::ZERO; N]; TURNS];
        let mut turn = 0;
        while turn < TURNS {
            let i = Self::index(turn);
            if span.tile_of(i) < span.n_tiles {
                values[turn] = from.load::<N>(start + span.source(i));
            }
            turn += 1;
        }
        Self { span, values }
    }

    #[inline(always)]
    #[track_caller]
    fn store(self, to: Tile<T>, start: usize) {
        let mut turn = 0;
        while turn < TURNS {
            let i = Self::index(turn);
            if self.span.tile_of(i) < self.span.n_tiles {
                to.store::<N>(start + i, self.values[turn]);
            }
            turn += 1;
        }
    }

    /// The first of a turn's elements among all of the warp's tiles.
    #[inline(always)]
    fn index(turn: usize) -> usize {
        (turn * warp::SIZE as usize + warp::lane_id() as usize) * N
    }
}

impl Span {
    /// Elements taken of a tile.
    #[inline(always)]
    fn tile_len(self) -> usize {
        self.tile_groups * self.taken
    }

    /// The tile of the pass that element `i` of the warp's tiles belongs to.
    #[inline(always)]
    fn tile_of(self, i: usize) -> usize {
        warp::warp_id() as usize + i / self.tile_len() * WARPS
    }

    /// Where that element is.
    #[inline(always)]
    fn source(self, i: usize) -> usize {
        let group = (self.first + self.tile_of(i)) * self.tile_groups + i / self.taken % self.tile_groups;
        group * self.group_len + i % self.taken
    }
}

/// The tiles of a matrix and how they are dealt.
#[derive(Clone, Copy)]
struct Work {
    matrices: [Matrix; MATRICES],
    /// Tiles of rows of all of them.
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

    /// The matrix that a tile of rows belongs to, and which one it is there.
    #[inline(always)]
    fn matrix(self, row_tile: u32) -> (Matrix, u32) {
        let [a, b, c] = self.matrices;
        let (after_a, after_b) = (a.row_tiles(), a.row_tiles() + b.row_tiles());
        if row_tile < after_a {
            (a, row_tile)
        } else if row_tile < after_b {
            (b, row_tile - after_a)
        } else {
            (c, row_tile - after_b)
        }
    }
}

/// A warp's tiles: every eighth of a tile of rows, in passes over as many columns as x is in shared memory for.
struct Shares<Q> {
    format: PhantomData<Q>,
    work: Work,
    /// The first tile of the pass, and the tile of rows.
    first: u32,
    row_tile: u32,
    w: In<u8>,
    // The byte of the next tile, and how many the warp has from it on to the end of the pass; none past the last.
    from: usize,
    left: u32,
}

impl<Q: Fragments> Shares<Q> {
    #[inline(always)]
    fn new(work: Work) -> Self {
        let (first, row_tile, w) = (0, thread::block_idx_x(), work.matrices[0].w);
        let mut shares = Self { format: PhantomData, work, first, row_tile, w, from: 0, left: 0 };
        shares.begin_row();
        shares
    }

    /// Stands at the warp's first tile of the tile of rows; past the last one, at none.
    #[inline(always)]
    fn begin_row(&mut self) {
        let end = self.work.tiles_from(self.first) + WARPS as u32 - 1;
        let (Matrix { w, w_start, .. }, row_tile) = self.work.matrix(self.row_tile);
        let tile = row_tile as usize * self.work.col_tiles as usize + (self.first + warp::warp_id()) as usize;
        self.w = w;
        self.from = w_start + tile * Q::TILE_BYTES;
        self.left =
            if self.row_tile < self.work.row_tiles { (end - warp::warp_id()) / WARPS as u32 } else { 0 };
    }
}

impl<Q: Fragments> Walk for Shares<Q> {
    #[inline(always)]
    fn next(&mut self) -> Option<(In<u8>, usize)> {
        if self.left == 0 {
            return None;
        }
        let tile = (self.w, self.from);
        self.from += WARPS * Q::TILE_BYTES;
        self.left -= 1;
        if self.left == 0 {
            self.row_tile += thread::grid_dim_x();
            let end = self.first + self.work.tiles_from(self.first);
            if self.row_tile >= self.work.row_tiles && end < self.work.col_tiles {
                self.row_tile = thread::block_idx_x();
                self.first = end;
            }
            self.begin_row();
        }
        Some(tile)
    }
}

/// Adds up what the warps have and gives each sum to one thread, as (row of the tile, sum).
#[inline(always)]
fn add_warps<Q: Product>(tile: Tile<f32>, start: usize, mut sums: [f32; 2], store: impl Fn(usize, f32)) {
    let (lane, warp) = (warp::lane_id() as usize, warp::warp_id() as usize);
    let (g, c) = (lane / 4, lane % 4);
    let place = |warp: usize, row: usize| start + warp * TILE_ROWS + row;
    let mut half = 0;
    while half < 2 {
        if Q::LANES_SHARE {
            sums[half] += warp::shuffle_xor(sums[half], 1);
            sums[half] += warp::shuffle_xor(sums[half], 2);
        }
        if c == 0 {
            tile.set(place(warp, 8 * half + g), sums[half]);
        }
        half += 1;
    }
    thread::sync_threads();
    let row = thread::thread_idx_x() as usize;
    if row < TILE_ROWS {
        let mut sum = 0.0;
        let mut warp = 0;
        while warp < WARPS {
            sum += tile.get(place(warp, row));
            warp += 1;
        }
        store(row, sum);
    }
}

/// For an error bound, the longest chain: the tiles of a warp, the four lanes of a row, the warps, the passes.
pub const fn chain<Q: Product>(n_cols: usize) -> usize {
    let tiles = n_cols.div_ceil(Q::TILE_COLS);
    let pass_tiles = x_cols::<Q>() / Q::TILE_COLS;
    let (passes, last) = (tiles / pass_tiles, tiles % pass_tiles);
    let tiles_of_warp = passes * pass_tiles.div_ceil(WARPS) + last.div_ceil(WARPS);
    Q::PRODUCT_CHAIN + tiles_of_warp * Q::TILE_CHAIN + 2 + WARPS + passes + 1
}
