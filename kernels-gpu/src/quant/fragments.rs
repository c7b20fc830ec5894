//! How a weight matrix lies in GPU memory: as the tensor cores take it.
//!
//! A matrix is cut into **tiles** of [`TILE_ROWS`] rows by [`Fragments::TILE_COLS`] columns; rows and columns are padded
//! with zeros to whole tiles. A tile is one run of bytes, as many as its part of the file has, so that whoever needs a tile
//! fetches it in one piece; the tiles of the same rows follow each other. Inside a tile a lane of a warp finds
//! all it needs as words of its own: matrix a of `mma` (see [`crate::simt::matrix`]) gives lane l rows g = l / 4 and
//! g + 8, and of 16 neighbouring columns those from 4 c on, c = l % 4.
//!
//! A tile begins with its **quants**, in groups of [`Fragments::GROUP_COLS`] columns, for which a lane has 16 bytes of a
//! row: `[group][half: row g or g + 8][lane][16 bytes]`. After them come, where the format has them, the high bits and the
//! scales, in an order that each format's file states.
//!
//! Quantised values are [`QuantFragments::scale`] · q + [`QuantFragments::offset`] with q a signed byte: a format whose
//! quants lie around a zero point has them moved to the upper bits of the byte in two's complement (16 · (q − 8) for four
//! bits), and a scale so much smaller. So integer products need no correction, and decoding costs a shift and a mask for
//! four elements.
//!
//! For products of 16-bit floats an `mma` takes k = 2 c, 2 c + 1, 2 c + 8, 2 c + 9 from lane c. They stand for columns 4 c to
//! 4 c + 3: whoever brings the other matrix permutes its columns alike.

use super::QuantBlock;
use crate::simt::prelude::*;

mod float;
mod k;
mod legacy;
mod low;
mod table;
#[cfg(test)]
mod tests;

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;
/// Bytes of the quants of a group of columns: 16 for each lane and half.
pub const GROUP_BYTES: usize = 1024;

/// Where the bytes of a tile come from: little-endian words, counted from the tile's first.
pub trait TileBytes: Copy {
    /// Word `i`.
    fn word(self, i: usize) -> u32;
    /// Words `i` and `i + 1`; `i` is even.
    fn words2(self, i: usize) -> [u32; 2];
    /// Words `i` to `i + 3`; `i` is a multiple of four.
    fn words4(self, i: usize) -> [u32; 4];
}

/// A tile in global memory.
#[derive(Clone, Copy)]
pub struct GlobalTile {
    bytes: In<u8>,
    start: usize,
}

impl TileBytes for GlobalTile {
    #[inline(always)]
    fn word(self, i: usize) -> u32 {
        self.bytes.u32_at(self.start + 4 * i)
    }

    #[inline(always)]
    fn words2(self, i: usize) -> [u32; 2] {
        self.bytes.u32x2_at(self.start + 4 * i)
    }

    #[inline(always)]
    fn words4(self, i: usize) -> [u32; 4] {
        self.bytes.u32x4_at(self.start + 4 * i)
    }
}

/// A tile in shared memory.
#[derive(Clone, Copy)]
pub struct SharedTile {
    /// Where it lies.
    pub bytes: Tile<u8>,
    /// Its first byte, a multiple of 16.
    pub start: usize,
}

impl TileBytes for SharedTile {
    #[inline(always)]
    fn word(self, i: usize) -> u32 {
        self.bytes.u32_at(self.start + 4 * i)
    }

    #[inline(always)]
    fn words2(self, i: usize) -> [u32; 2] {
        self.bytes.u32x2_at(self.start + 4 * i)
    }

    #[inline(always)]
    fn words4(self, i: usize) -> [u32; 4] {
        self.bytes.u32x4_at(self.start + 4 * i)
    }
}

/// A format with this layout.
pub trait Fragments: QuantBlock {
    /// Columns of a tile.
    const TILE_COLS: usize;
    /// Columns of a group.
    const GROUP_COLS: usize;
    /// Columns of one step of `mma`: 32 bytes of a row.
    const STEP_COLS: usize;
    /// Four-byte pieces of a tile that come from one row.
    const ROW_WORDS: usize;
    /// Two-byte pieces of a tile that come from one row.
    const ROW_HALVES: usize;

    /// Bytes of a row of a tile in a file.
    const STRETCH_BYTES: usize = Self::TILE_COLS / Self::ELEMENTS * Self::BYTES;
    /// Bytes of a tile.
    const TILE_BYTES: usize = TILE_ROWS * Self::STRETCH_BYTES;
    /// Groups of a tile.
    const GROUPS: usize = Self::TILE_COLS / Self::GROUP_COLS;
    /// Steps of a group.
    const GROUP_STEPS: usize = Self::GROUP_COLS / Self::STEP_COLS;

    /// What a lane holds of the quants of a group.
    type Quants: Copy;

    /// Loads the quants of a group.
    fn quants<T: TileBytes>(tile: T, lane: usize, group: usize) -> Self::Quants;

    /// The same of one row, in lane c of the four that have it, with the row in the place of row g: that of row g + 8 has zeros.
    fn row_quants<T: TileBytes>(tile: T, row: usize, c: usize, group: usize) -> Self::Quants;

    /// Matrix a of a step of the group: four signed bytes or two floats a word. Words 0 and 1 hold columns 4 c to 4 c + 3
    /// (of floats the first two) of rows g and g + 8; words 2 and 3 columns 16 + 4 c to 16 + 4 c + 3 (of floats the
    /// last two of 4 c to 4 c + 3).
    fn words(quants: &Self::Quants, step: usize) -> [u32; 4];

    /// The values of columns `col` to `col + 3` of a row; `col` is a multiple of four. Bit for bit those of
    /// [`QuantBlock::decode`].
    fn values<T: TileBytes>(tile: T, row: usize, col: usize) -> [f32; 4];

    /// Piece `i` of a row's [`Self::ROW_WORDS`]: the byte of the tile where it lies, and its value. `file` gives four bytes
    /// of the row's stretch, zeros where there is nothing.
    fn pack_word(row: usize, i: usize, file: impl Fn(usize) -> u32) -> (usize, u32);

    /// The same of its [`Self::ROW_HALVES`].
    fn pack_half(row: usize, i: usize, file: impl Fn(usize) -> u32) -> (usize, u16);

    /// Tiles side by side in a matrix of `n_cols` columns.
    #[inline(always)]
    fn tiles_per_row(n_cols: usize) -> usize {
        n_cols.div_ceil(Self::TILE_COLS)
    }

    /// Bytes of a matrix, the padding included.
    #[inline(always)]
    fn matrix_bytes(n_rows: usize, n_cols: usize) -> usize {
        n_rows.div_ceil(TILE_ROWS) * Self::tiles_per_row(n_cols) * Self::TILE_BYTES
    }

    /// Puts a matrix as it lies in a file into this layout: what the repack kernels do, on the host.
    ///
    /// # Panics
    /// If the lengths do not fit the shape.
    fn pack(gpu: &mut [u8], file: &[u8], n_rows: usize, n_cols: usize) {
        let row_bytes = n_cols / Self::ELEMENTS * Self::BYTES;
        let expected = (Self::matrix_bytes(n_rows, n_cols), n_rows * row_bytes);
        assert!(
            (gpu.len(), file.len()) == expected && n_cols.is_multiple_of(Self::ELEMENTS),
            "{n_rows} × {n_cols} of {}: {:?} bytes, not {expected:?}",
            Self::NAME,
            (gpu.len(), file.len())
        );
        let tiles_per_row = Self::tiles_per_row(n_cols);
        for (i, tile) in gpu.chunks_exact_mut(Self::TILE_BYTES).enumerate() {
            let start = i % tiles_per_row * Self::STRETCH_BYTES;
            for row in 0..TILE_ROWS {
                let file_row = i / tiles_per_row * TILE_ROWS + row;
                let stretch = match file_row < n_rows {
                    true => &file[file_row * row_bytes + start..(file_row + 1) * row_bytes],
                    false => &[],
                };
                let byte = |i: usize| stretch.get(i).copied().unwrap_or(0);
                let word = |i: usize| u32::from_le_bytes([byte(i), byte(i + 1), byte(i + 2), byte(i + 3)]);
                for piece in 0..Self::ROW_WORDS {
                    let (at, value) = Self::pack_word(row, piece, word);
                    tile[at..at + 4].copy_from_slice(&value.to_le_bytes());
                }
                for piece in 0..Self::ROW_HALVES {
                    let (at, value) = Self::pack_half(row, piece, word);
                    tile[at..at + 2].copy_from_slice(&value.to_le_bytes());
                }
            }
        }
    }
}

/// A format of 16-bit floats with this layout.
pub trait FloatFragments: Fragments {
    /// The two floats of a word.
    fn floats(word: u32) -> [f32; 2];

    /// What floats are multiplied by to become f16, so that small ones are no subnormal f16.
    const HALF_FACTOR: f32;

    /// The floats of a word times that factor, rounded to f16.
    fn half_word(word: u32) -> u32;
}

/// A quantised format with this layout: its elements are signed bytes, with a scale for each **sub-block** of a row.
pub trait QuantFragments: Fragments {
    /// Elements of a sub-block: 16 or 32.
    const SUB: usize;
    /// Whether [`Self::offset`] can be anything but zero. If so, no quant is negative.
    const HAS_OFFSET: bool;
    /// The middle of the quants, where scales and offsets are no halves: value = scale · (q − middle) + the value of the
    /// middle, and that is small where weights lie around zero.
    const MIDDLE: i32 = 0;

    /// Whether the bytes of [`Self::half_words`] are the upper ones of halves, whose lower ones are zeros.
    const UPPER_BYTES: bool = false;

    /// Whether [`Self::terms`] are two, and so take fewer instructions.
    const TWO_TERMS: bool = false;

    /// The second half of a group in the place of the first, of formats whose groups have 256 columns.
    #[inline(always)]
    fn second_half(quants: Self::Quants) -> Self::Quants {
        quants
    }

    /// What a lane holds of the scales of rows g and g + 8 for sub-blocks c, c + 4, c + 8 … of a tile.
    type Scales: Copy;

    /// Loads them; g and c may be any, not only the lane's own.
    fn scales<T: TileBytes>(tile: T, g: usize, c: usize) -> Self::Scales;

    /// What an element is multiplied by, in sub-block 4 · `t` + c of row g + 8 · `half`, but for the row's factor.
    fn level(scales: &Self::Scales, t: usize, half: usize) -> f32;

    /// The factor of row g + 8 · `half`.
    #[inline(always)]
    fn factor(_: &Self::Scales, _half: usize) -> f32 {
        1.0
    }

    /// What an element is multiplied by.
    #[inline(always)]
    fn scale(scales: &Self::Scales, t: usize, half: usize) -> f32 {
        Self::factor(scales, half) * Self::level(scales, t, half)
    }

    /// What is added to the product.
    fn offset(scales: &Self::Scales, t: usize, half: usize) -> f32;

    /// [`Fragments::words`] for products of halves: signed bytes, or upper bytes of halves of the same values. `zero` is one
    /// that the compiler does not know: what it is added to stays in a register.
    #[inline(always)]
    fn half_words(quants: &Self::Quants, step: usize, _zero: u32) -> [u32; 4] {
        Self::words(quants, step)
    }

    /// [`Fragments::words`] as the sums of two matrices of signed bytes; the second is zero but in formats with
    /// [`Self::TWO_TERMS`].
    #[inline(always)]
    fn terms(quants: &Self::Quants, step: usize) -> [[u32; 4]; 2] {
        [Self::words(quants, step), [0; 4]]
    }

    /// The offset again, as an f16's bits times [`Self::offset_factor`].
    #[inline(always)]
    fn offset_bits(_: &Self::Scales, _t: usize, _half: usize) -> u32 {
        0
    }

    /// The factor of a row's offsets.
    #[inline(always)]
    fn offset_factor(_: &Self::Scales, _half: usize) -> f32 {
        0.0
    }
}

/// The factor of a number from 0 to 1023 whose bits are taken as those of an f16: 2²⁴.
pub const FROM_BITS: f32 = 16_777_216.0;

/// Byte of a matrix of `n_cols` columns at which a tile begins.
#[inline(always)]
pub fn tile_start<Q: Fragments>(n_cols: usize, row_tile: usize, col_tile: usize) -> usize {
    (row_tile * Q::tiles_per_row(n_cols) + col_tile) * Q::TILE_BYTES
}

/// A tile of the matrix that begins at the view's first byte.
#[inline(always)]
pub fn global_tile<Q: Fragments>(
    matrix: In<u8>,
    n_cols: usize,
    row_tile: usize,
    col_tile: usize,
) -> GlobalTile {
    GlobalTile { bytes: matrix, start: tile_start::<Q>(n_cols, row_tile, col_tile) }
}

/// Row g and half of a row of a tile.
#[inline(always)]
const fn split_row(row: usize) -> (usize, usize) {
    (row % 8, row / 8)
}

/// Where the 16 bytes of a lane, of row g + 8 · `half`, begin among the quants of a tile.
#[inline(always)]
const fn quants_byte(group: usize, half: usize, lane: usize) -> usize {
    group * GROUP_BYTES + half * (GROUP_BYTES / 2) + lane * 16
}

/// The 16 bytes of lane c of the four that have a row, among the quants of a group.
#[inline(always)]
fn row_words<T: TileBytes>(tile: T, row: usize, c: usize, group: usize) -> [u32; 4] {
    let (g, half) = split_row(row);
    tile.words4(quants_byte(group, half, 4 * g + c) / 4)
}

/// [`Fragments::values`] of the quantised formats: the quant is exact, so each value is rounded once.
#[inline(always)]
fn quant_values<Q: QuantFragments, T: TileBytes>(tile: T, row: usize, col: usize) -> [f32; 4] {
    let ((g, half), c, step) = (split_row(row), col % 16 / 4, col / Q::STEP_COLS);
    let quants = Q::row_quants(tile, row, c, step / Q::GROUP_STEPS);
    let words = Q::words(&quants, step % Q::GROUP_STEPS);
    let sub = col / Q::SUB;
    let scales = Q::scales(tile, g, sub % 4);
    let (scale, offset) = (Q::scale(&scales, sub / 4, half), Q::offset(&scales, sub / 4, half));
    four_values::<Q>(pick2([words[0], words[2]], col % 32 / 16), scale, offset)
}

/// The values of the four quants of a word.
#[inline(always)]
pub fn four_values<Q: QuantFragments>(word: u32, scale: f32, offset: f32) -> [f32; 4] {
    let value = |shift: u32| {
        let q = (word >> shift) as u8 as i8 as f32;
        if Q::HAS_OFFSET { math::fma(q, scale, offset) } else { q * scale }
    };
    [value(0), value(8), value(16), value(24)]
}

/// Word `i` of four. With a constant `i` this is nothing; with a variable one it is three selections, where an
/// index would put the words into memory.
#[inline(always)]
fn pick(words: [u32; 4], i: usize) -> u32 {
    match i {
        0 => words[0],
        1 => words[1],
        2 => words[2],
        _ => words[3],
    }
}

/// The same of two.
#[inline(always)]
fn pick2([a, b]: [u32; 2], i: usize) -> u32 {
    if i == 0 { a } else { b }
}

/// The lower (`half` 0) or upper (`half` 1) nibbles of a word as bits `to` to `to + 3` of its bytes, `to` up to 4.
#[inline(always)]
fn nibbles(word: u32, half: usize, to: u32) -> u32 {
    word.rotate_left(if half == 0 { to } else { 28 + to }) & (0x0f0f_0f0f << to)
}

/// Bit `from` of each byte of a word as bit `to`.
#[inline(always)]
fn bit(word: u32, from: u32, to: u32) -> u32 {
    word.rotate_left(32 + to - from) & (0x0101_0101 << to)
}

/// Half `i` (0 or 1) of a word as a float.
#[inline(always)]
fn half_float(word: u32, i: usize) -> f32 {
    f16::from_bits((word >> (16 * i)) as u16).to_f32()
}
