//! Fragments of Q2_K and Q3_K. A tile is 16 rows by one block of 256, and one group: a lane's 16 bytes are the lower two bits
//! of its 64 columns of a row. With field i = 2 b + k for columns 16 k + 4 c to 16 k + 4 c + 3 of the b-th 32: bits 2 (i % 4) and
//! the next of byte j of word i / 4 belong to column j of the four.
//!
//! Q3_K, third bits: `[lane][half]` two words, bit i % 8 of byte j of word i / 8.
//! Scales of Q2_K: `[lane][half]` the bytes (scale, above it the minimum) of sub-blocks c, c + 4, c + 8, c + 12; `[g]` the halves
//! d, d of row g + 8, dmin, dmin of row g + 8. Those of Q3_K: three times `[g][half]` a word of the file; `[g]` the halves d, d
//! of row g + 8.

use super::{
    FROM_BITS, Fragments, GROUP_BYTES, QuantFragments, TileBytes, bit, half_float, pick, quant_values,
    quants_byte, row_words, split_row,
};
use crate::quant::{Q2_K, Q3_K};

/// Pieces of a row's lower bits.
const LOW_WORDS: usize = 16;

/// Lower bits, and the third bits of Q3_K (elsewhere unused).
#[derive(Clone, Copy)]
pub struct Quants {
    low: [[u32; 4]; 2],
    high: [[u32; 2]; 2],
}

impl Quants {
    /// Those of the second 128 columns in the place of the first.
    #[inline(always)]
    fn second_half(self) -> Self {
        let Self { low, high } = self;
        Quants { low: low.map(|[.., c, d]| [c, d, 0, 0]), high: high.map(|[_, odd]| [odd, 0]) }
    }
}

/// Piece `i` of the lower bits of a row, which begin at byte `start` of the file's block.
#[inline(always)]
fn pack_low(row: usize, i: usize, start: usize, file: impl Fn(usize) -> u32) -> (usize, u32) {
    let ((g, half), (c, word)) = (split_row(row), (i / 4, i % 4));
    let mut value = 0;
    let mut place = 0;
    while place < 4 {
        let (block, k) = (2 * word + place / 2, place % 2);
        let bits = file(start + block / 4 * 32 + 16 * k + 4 * c) >> (block % 4 * 2);
        value |= (bits & 0x0303_0303) << (2 * place);
        place += 1;
    }
    (quants_byte(0, half, 4 * g + c) + 4 * word, value)
}

/// Bits 2 (i % 4) and the next of each byte, with i the field of the step and k, as bits `to` and the next.
#[inline(always)]
fn low_bits(words: [u32; 4], step: usize, k: usize, to: u32) -> u32 {
    let place = (step % 2 * 2 + k) as u32;
    pick(words, step / 2).rotate_left(32 + to - 2 * place) & (0x0303_0303 << to)
}

const Q2_K_SCALES: usize = GROUP_BYTES;
const Q2_K_D: usize = Q2_K_SCALES + 256;

impl Fragments for Q2_K {
    const TILE_COLS: usize = 256;
    const GROUP_COLS: usize = 256;
    const STEP_COLS: usize = 32;
    const ROW_WORDS: usize = LOW_WORDS + 4;
    const ROW_HALVES: usize = 2;

    type Quants = Quants;

    #[inline(always)]
    fn quants<T: TileBytes>(tile: T, lane: usize, _: usize) -> Quants {
        let words = |half| tile.words4(quants_byte(0, half, lane) / 4);
        Quants { low: [words(0), words(1)], high: [[0; 2]; 2] }
    }

    #[inline(always)]
    fn row_quants<T: TileBytes>(tile: T, row: usize, c: usize, group: usize) -> Quants {
        Quants { low: [row_words(tile, row, c, group), [0; 4]], high: [[0; 2]; 2] }
    }

    #[inline(always)]
    fn words(quants: &Quants, step: usize) -> [u32; 4] {
        let word = |k: usize, half: usize| low_bits(quants.low[half], step, k, 0);
        [word(0, 0), word(0, 1), word(1, 0), word(1, 1)]
    }

    #[inline(always)]
    fn values<T: TileBytes>(tile: T, row: usize, col: usize) -> [f32; 4] {
        quant_values::<Self, T>(tile, row, col)
    }

    #[inline(always)]
    fn pack_word(row: usize, i: usize, file: impl Fn(usize) -> u32) -> (usize, u32) {
        if i < LOW_WORDS {
            return pack_low(row, i, 16, file);
        }
        let ((g, half), c) = (split_row(row), i - LOW_WORDS);
        let scale = |t: usize| ((file(4 * t) >> (8 * c)) & 0xff) << (8 * t);
        (Q2_K_SCALES + (4 * g + c) * 8 + 4 * half, scale(0) | scale(1) | scale(2) | scale(3))
    }

    #[inline(always)]
    fn pack_half(row: usize, i: usize, file: impl Fn(usize) -> u32) -> (usize, u16) {
        let (g, half) = split_row(row);
        (Q2_K_D + 8 * g + 4 * i + 2 * half, file(80 + 2 * i) as u16)
    }
}

impl QuantFragments for Q2_K {
    const SUB: usize = 16;
    const HAS_OFFSET: bool = true;
    const MIDDLE: i32 = 2;

    #[inline(always)]
    fn second_half(quants: Quants) -> Quants {
        quants.second_half()
    }

    /// The bytes of the two halves of rows, then d and dmin.
    type Scales = [u32; 4];

    #[inline(always)]
    fn scales<T: TileBytes>(tile: T, g: usize, c: usize) -> [u32; 4] {
        let [near, far] = tile.words2(Q2_K_SCALES / 4 + 2 * (4 * g + c));
        let [d, dmin] = tile.words2(Q2_K_D / 4 + 2 * g);
        [near, far, d, dmin]
    }

    #[inline(always)]
    fn level(scales: &[u32; 4], t: usize, half: usize) -> f32 {
        ((if half == 0 { scales[0] } else { scales[1] } >> (8 * t)) & 15) as f32
    }

    #[inline(always)]
    fn factor(scales: &[u32; 4], half: usize) -> f32 {
        half_float(scales[2], half)
    }

    #[inline(always)]
    fn offset(scales: &[u32; 4], t: usize, half: usize) -> f32 {
        let min = (if half == 0 { scales[0] } else { scales[1] } >> (8 * t + 4)) & 15;
        -(half_float(scales[3], half) * min as f32)
    }

    #[inline(always)]
    fn offset_bits(scales: &[u32; 4], t: usize, half: usize) -> u32 {
        (if half == 0 { scales[0] } else { scales[1] } >> (8 * t + 4)) & 15
    }

    #[inline(always)]
    fn offset_factor(scales: &[u32; 4], half: usize) -> f32 {
        -(half_float(scales[3], half) * FROM_BITS)
    }
}

const Q3_K_HIGH: usize = GROUP_BYTES;
const Q3_K_SCALES: usize = Q3_K_HIGH + 512;
const Q3_K_D: usize = Q3_K_SCALES + 192;

impl Fragments for Q3_K {
    const TILE_COLS: usize = 256;
    const GROUP_COLS: usize = 256;
    const STEP_COLS: usize = 32;
    const ROW_WORDS: usize = LOW_WORDS + 8 + 3;
    const ROW_HALVES: usize = 1;

    type Quants = Quants;

    #[inline(always)]
    fn quants<T: TileBytes>(tile: T, lane: usize, _: usize) -> Quants {
        let words = |half| tile.words4(quants_byte(0, half, lane) / 4);
        let high = tile.words4(Q3_K_HIGH / 4 + 4 * lane);
        Quants { low: [words(0), words(1)], high: [[high[0], high[1]], [high[2], high[3]]] }
    }

    #[inline(always)]
    fn row_quants<T: TileBytes>(tile: T, row: usize, c: usize, group: usize) -> Quants {
        let (g, half) = split_row(row);
        let high = tile.words2((Q3_K_HIGH + 16 * (4 * g + c) + 8 * half) / 4);
        Quants { low: [row_words(tile, row, c, group), [0; 4]], high: [high, [0; 2]] }
    }

    /// 32 · (q − 4).
    #[inline(always)]
    fn words(quants: &Quants, step: usize) -> [u32; 4] {
        let word = |k: usize, half: usize| {
            let [even, odd] = quants.high[half];
            let high = if step < 4 { even } else { odd };
            low_bits(quants.low[half], step, k, 5) | bit(high, (step % 4 * 2 + k) as u32, 7)
        };
        [word(0, 0), word(0, 1), word(1, 0), word(1, 1)]
    }

    #[inline(always)]
    fn values<T: TileBytes>(tile: T, row: usize, col: usize) -> [f32; 4] {
        quant_values::<Self, T>(tile, row, col)
    }

    #[inline(always)]
    fn pack_word(row: usize, i: usize, file: impl Fn(usize) -> u32) -> (usize, u32) {
        let (g, half) = split_row(row);
        if i < LOW_WORDS {
            pack_low(row, i, 32, file)
        } else if i < LOW_WORDS + 8 {
            let (c, word) = ((i - LOW_WORDS) / 2, i % 2);
            let mut value = 0;
            let mut place = 0;
            while place < 8 {
                let (block, k) = (4 * word + place / 2, place % 2);
                value |= ((file(16 * k + 4 * c) >> block) & 0x0101_0101) << place;
                place += 1;
            }
            // q − 4 in two's complement.
            (Q3_K_HIGH + (4 * g + c) * 16 + 8 * half + 4 * word, !value)
        } else {
            let which = i - LOW_WORDS - 8;
            (Q3_K_SCALES + 64 * which + 8 * g + 4 * half, file(96 + 4 * which))
        }
    }

    #[inline(always)]
    fn pack_half(row: usize, _: usize, file: impl Fn(usize) -> u32) -> (usize, u16) {
        let (g, half) = split_row(row);
        (Q3_K_D + 4 * g + 2 * half, file(108) as u16)
    }
}

/// What a lane holds of the scales of Q3_K, moved so that its bytes are the lowest.
#[derive(Clone, Copy)]
pub struct Scales3 {
    /// The file's three words of both rows.
    words: [[u32; 2]; 3],
    d: u32,
}

impl QuantFragments for Q3_K {
    const SUB: usize = 16;
    const HAS_OFFSET: bool = false;

    #[inline(always)]
    fn second_half(quants: Quants) -> Quants {
        quants.second_half()
    }

    type Scales = Scales3;

    #[inline(always)]
    fn scales<T: TileBytes>(tile: T, g: usize, c: usize) -> Scales3 {
        let words = |which: usize| {
            let [near, far] = tile.words2(Q3_K_SCALES / 4 + 16 * which + 2 * g);
            [near >> (8 * c), far >> (8 * c)]
        };
        Scales3 { words: [words(0), words(1), words(2)], d: tile.word(Q3_K_D / 4 + g) }
    }

    /// [`crate::quant::q3_scale`] of sub-block 4 t + c.
    #[inline(always)]
    fn level(scales: &Scales3, t: usize, half: usize) -> f32 {
        let word = |[near, far]: [u32; 2]| if half == 0 { near } else { far };
        let [even, odd, high] = [word(scales.words[0]), word(scales.words[1]), word(scales.words[2])];
        let low = if t.is_multiple_of(2) { even } else { odd } >> (4 * (t / 2));
        ((low & 15 | ((high >> (2 * t)) & 3) << 4) as i32 - 32) as f32
    }

    #[inline(always)]
    fn factor(scales: &Scales3, half: usize) -> f32 {
        half_float(scales.d, half) * (1.0 / 32.0)
    }

    #[inline(always)]
    fn offset(_: &Scales3, _: usize, _: usize) -> f32 {
        0.0
    }
}
