//! Fragments of the formats whose four-bit quants are indices of a table: IQ4_NL and MXFP4 with tiles of four blocks a row,
//! IQ4_XS with tiles of one block of 256. Quants lie as in the other four-bit formats, but for their order in a word: the
//! lower half has those of columns 4 c to 4 c + 3, the upper those of 16 + 4 c on. Decoding looks them up.
//!
//! The hardware chooses four of eight bytes by four nibbles; where a nibble's highest bit is set, it repeats the sign of
//! the byte instead. So the sixteen levels are two tables of eight, and the exclusive or of both answers is the level,
//! if what answers with signs answers with zeros or is undone: entries at the same place must be levels of one sign, and negative
//! ones of the first table are stored inverted. In both formats bit 3 of a quant is the sign; in our layout it is bit 2, and
//! bit 2 is bit 3. (MXFP4's negative zero has no sign as an integer: in our layout it is the other zero.)
//!
//! Scales of IQ4_NL: `[lane]` the halves of block c and rows g and g + 8. Of MXFP4: `[g][half]` a word, byte b the exponent of
//! block b. Of IQ4_XS: `[g][half]` two words as in the file.

use super::{
    Fragments, GROUP_BYTES, QuantFragments, TileBytes, half_float, pick, pick2, quant_values, quants_byte,
    row_words, split_row,
};
use crate::quant::{E2M1_LEVELS, IQ4_LEVELS, IQ4_NL, IQ4_XS, MXFP4, half_e8m0};
use crate::simt::prelude::*;

/// The tables of levels: word i has those of quants 4 i to 4 i + 3 of our layout; in the first table, negative ones are inverted.
const fn tables(levels: &[i8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    let mut i = 0;
    while i < 16 {
        let level = levels[swapped(i) as usize];
        let byte = if i < 8 && level < 0 { !level } else { level } as u8;
        words[i as usize / 4] |= (byte as u32) << (8 * (i % 4));
        i += 1;
    }
    words
}

/// The same, if the answers are added: what answers with signs takes one from negative levels of the other table.
const fn tables_of_terms(levels: &[i8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    let mut i = 0;
    while i < 8 {
        let [near, far] = [levels[swapped(i) as usize], levels[swapped(i + 8) as usize]];
        let near = if near < 0 || far < 0 { near + 1 } else { near };
        let far = if near < 0 { far + 1 } else { far };
        assert!(far < 0 || (near >= 0 && levels[swapped(i + 8) as usize] >= 0));
        words[i as usize / 4] |= (near as u8 as u32) << (8 * (i % 4));
        words[2 + i as usize / 4] |= (far as u8 as u32) << (8 * (i % 4));
        i += 1;
    }
    words
}

/// The upper bytes of the halves of levels whose lower bytes are zeros: of at most three digits.
const fn upper_bytes(levels: &[i8; 16]) -> [i8; 16] {
    let mut bytes = [0; 16];
    let mut i = 0;
    while i < 16 {
        let magnitude = levels[i].unsigned_abs();
        if magnitude > 0 {
            let exponent = magnitude.ilog2();
            let half = ((exponent + 15) << 2) as u8 | ((magnitude as u32) << 2 >> exponent) as u8 & 3;
            bytes[i] = (half | if levels[i] < 0 { 0x80 } else { 0 }) as i8;
        }
        i += 1;
    }
    bytes
}

/// Bits 2 and 3 of each nibble exchanged.
#[inline(always)]
const fn swapped(word: u32) -> u32 {
    word & 0x3333_3333 | (word & 0x4444_4444) << 1 | (word & 0x8888_8888) >> 1
}

/// The lower nibbles of a word's bytes in its lower half, the upper ones in its upper half.
#[inline(always)]
fn parted(word: u32) -> u32 {
    // Pairs in bytes 0 and 2.
    let pairs = |nibbles: u32| nibbles | nibbles >> 4;
    math::byte_perm(pairs(word & 0x0f0f_0f0f), pairs(word >> 4 & 0x0f0f_0f0f), 0x6420)
}

/// Zeros instead of negative zeros.
#[inline(always)]
fn without_negative_zero(word: u32) -> u32 {
    let magnitude = (word | word >> 1 | word >> 2) & 0x1111_1111;
    word & (0x7777_7777 | magnitude << 3)
}

/// The levels of the quants in the lower half of a word, and of those in the upper one.
#[inline(always)]
fn look_up(levels: [u32; 4], word: u32) -> [u32; 2] {
    let other = word ^ 0x8888_8888;
    let four = |shift: u32| {
        math::byte_perm(levels[0], levels[1], word >> shift)
            ^ math::byte_perm(levels[2], levels[3], other >> shift)
    };
    [four(0), four(16)]
}

/// Those of a step as two terms.
#[inline(always)]
fn look_up_terms(levels: [u32; 4], quants: &[[u32; 4]; 2], step: usize) -> [[u32; 4]; 2] {
    let [row, row_8] = [pick(quants[0], step), pick(quants[1], step)];
    let [other, other_8] = [row ^ 0x8888_8888, row_8 ^ 0x8888_8888];
    let near = |word: u32| math::byte_perm(levels[0], levels[1], word);
    let far = |word: u32| math::byte_perm(levels[2], levels[3], word);
    [
        [near(row), near(row_8), near(row >> 16), near(row_8 >> 16)],
        [far(other), far(other_8), far(other >> 16), far(other_8 >> 16)],
    ]
}

/// Those of a step.
#[inline(always)]
fn look_up_step(levels: [u32; 4], quants: &[[u32; 4]; 2], step: usize) -> [u32; 4] {
    let [near, far] = look_up(levels, pick(quants[0], step));
    let [near_8, far_8] = look_up(levels, pick(quants[1], step));
    [near, near_8, far, far_8]
}

macro_rules! table_format {
    ($format:ty, $levels:expr, cols: $cols:literal, words: $words:literal, halves: $halves:literal, |$block:ident| $quants_byte:expr,
     |$row:ident, $i:ident, $word_file:ident| $pack_word:expr, |$half_row:ident, $half_i:ident, $half_file:ident| $pack_half:expr) => {
        impl Fragments for $format {
            const TILE_COLS: usize = $cols;
            const GROUP_COLS: usize = 128;
            const STEP_COLS: usize = 32;
            const ROW_WORDS: usize = $cols / 8 + $words;
            const ROW_HALVES: usize = $halves;

            type Quants = [[u32; 4]; 2];

            #[inline(always)]
            fn quants<T: TileBytes>(tile: T, lane: usize, group: usize) -> [[u32; 4]; 2] {
                let words = |half| tile.words4(quants_byte(group, half, lane) / 4);
                [words(0), words(1)]
            }

            #[inline(always)]
            fn row_quants<T: TileBytes>(tile: T, row: usize, c: usize, group: usize) -> [[u32; 4]; 2] {
                [row_words(tile, row, c, group), [0; 4]]
            }

            #[inline(always)]
            fn words(quants: &[[u32; 4]; 2], step: usize) -> [u32; 4] {
                look_up_step(const { tables(&$levels) }, quants, step)
            }

            #[inline(always)]
            fn values<T: TileBytes>(tile: T, row: usize, col: usize) -> [f32; 4] {
                quant_values::<Self, T>(tile, row, col)
            }

            #[inline(always)]
            fn pack_word($row: usize, $i: usize, $word_file: impl Fn(usize) -> u32) -> (usize, u32) {
                if $i < $cols / 8 {
                    let ((g, half), (group, c)) = (split_row($row), ($i / 16, $i / 4 % 4));
                    let $block = 4 * group + $i % 4;
                    let word = $word_file($quants_byte + 4 * c);
                    let word = if $levels[8] == 0 { without_negative_zero(word) } else { word };
                    (quants_byte(group, half, 4 * g + c) + 4 * ($i % 4), swapped(parted(word)))
                } else {
                    let $i = $i - $cols / 8;
                    $pack_word
                }
            }

            #[inline(always)]
            fn pack_half(
                $half_row: usize,
                $half_i: usize,
                $half_file: impl Fn(usize) -> u32,
            ) -> (usize, u16) {
                $pack_half
            }
        }
    };
}

table_format!(
    IQ4_NL, IQ4_LEVELS, cols: 128, words: 0, halves: 4, |block| block * 18 + 2,
    |_row, _i, _file| crate::simt::trap(),
    |row, i, file| (GROUP_BYTES + (4 * (row % 8) + i) * 4 + 2 * (row / 8), file(i * 18) as u16)
);
table_format!(
    MXFP4, E2M1_LEVELS, cols: 128, words: 1, halves: 0, |block| block * 17 + 1,
    |row, _i, file| {
        let e = |block: usize| (file(17 * block) & 0xff) << (8 * block);
        (GROUP_BYTES + row % 8 * 8 + row / 8 * 4, e(0) | e(1) | e(2) | e(3))
    },
    |_row, _i, _file| crate::simt::trap()
);
table_format!(
    IQ4_XS, IQ4_LEVELS, cols: 256, words: 2, halves: 0, |block| block * 16 + 8,
    |row, i, file| (2 * GROUP_BYTES + row % 8 * 16 + row / 8 * 8 + 4 * i, file(4 * i)),
    |_row, _i, _file| crate::simt::trap()
);

impl QuantFragments for IQ4_NL {
    const SUB: usize = 32;
    const HAS_OFFSET: bool = false;
    const TWO_TERMS: bool = true;

    type Scales = u32;

    #[inline(always)]
    fn scales<T: TileBytes>(tile: T, g: usize, c: usize) -> u32 {
        tile.word(GROUP_BYTES / 4 + 4 * g + c)
    }

    #[inline(always)]
    fn level(scales: &u32, _: usize, half: usize) -> f32 {
        half_float(*scales, half)
    }

    #[inline(always)]
    fn terms(quants: &[[u32; 4]; 2], step: usize) -> [[u32; 4]; 2] {
        look_up_terms(const { tables_of_terms(&IQ4_LEVELS) }, quants, step)
    }

    #[inline(always)]
    fn offset(_: &u32, _: usize, _: usize) -> f32 {
        0.0
    }

    #[inline(always)]
    fn half_words(quants: &[[u32; 4]; 2], step: usize, zero: u32) -> [u32; 4] {
        look_up_step(const { tables(&IQ4_LEVELS) }.map(|word| word | zero), quants, step)
    }
}

/// The exponents of the blocks of both rows, of which block c's begins at bit `shift`.
#[derive(Clone, Copy)]
pub struct ScalesMx {
    exponents: [u32; 2],
    shift: u32,
}

impl QuantFragments for MXFP4 {
    const SUB: usize = 32;
    const HAS_OFFSET: bool = false;
    const TWO_TERMS: bool = true;
    const UPPER_BYTES: bool = true;

    type Scales = ScalesMx;

    #[inline(always)]
    fn scales<T: TileBytes>(tile: T, g: usize, c: usize) -> ScalesMx {
        ScalesMx { exponents: tile.words2(GROUP_BYTES / 4 + 2 * g), shift: 8 * c as u32 }
    }

    #[inline(always)]
    fn level(scales: &ScalesMx, _: usize, half: usize) -> f32 {
        half_e8m0((pick2(scales.exponents, half) >> scales.shift) as u8)
    }

    #[inline(always)]
    fn terms(quants: &[[u32; 4]; 2], step: usize) -> [[u32; 4]; 2] {
        look_up_terms(const { tables_of_terms(&E2M1_LEVELS) }, quants, step)
    }

    #[inline(always)]
    fn offset(_: &ScalesMx, _: usize, _: usize) -> f32 {
        0.0
    }

    #[inline(always)]
    fn half_words(quants: &[[u32; 4]; 2], step: usize, zero: u32) -> [u32; 4] {
        look_up_step(const { tables(&upper_bytes(&E2M1_LEVELS)) }.map(|word| word | zero), quants, step)
    }
}

/// What a lane holds of the scales of IQ4_XS: the file's two words of both rows.
#[derive(Clone, Copy)]
pub struct ScalesXs {
    near: [u32; 2],
    far: [u32; 2],
    c: u32,
}

impl QuantFragments for IQ4_XS {
    const SUB: usize = 32;
    const HAS_OFFSET: bool = false;
    const TWO_TERMS: bool = true;

    type Scales = ScalesXs;

    #[inline(always)]
    fn scales<T: TileBytes>(tile: T, g: usize, c: usize) -> ScalesXs {
        let [d, low, d_8, low_8] = tile.words4(2 * GROUP_BYTES / 4 + 4 * g);
        ScalesXs { near: [d, low], far: [d_8, low_8], c: c as u32 }
    }

    /// [`IQ4_XS::scale`] of sub-block 4 t + c, without d.
    #[inline(always)]
    fn level(scales: &ScalesXs, t: usize, half: usize) -> f32 {
        let [d, low] = if half == 0 { scales.near } else { scales.far };
        let (low, high) = (low >> (4 * scales.c) >> (16 * t), d >> (16 + 2 * scales.c) >> (8 * t));
        ((low & 15 | (high & 3) << 4) as i32 - 32) as f32
    }

    #[inline(always)]
    fn factor(scales: &ScalesXs, half: usize) -> f32 {
        half_float(if half == 0 { scales.near[0] } else { scales.far[0] }, 0)
    }

    #[inline(always)]
    fn terms(quants: &[[u32; 4]; 2], step: usize) -> [[u32; 4]; 2] {
        look_up_terms(const { tables_of_terms(&IQ4_LEVELS) }, quants, step)
    }

    #[inline(always)]
    fn offset(_: &ScalesXs, _: usize, _: usize) -> f32 {
        0.0
    }

    #[inline(always)]
    fn half_words(quants: &[[u32; 4]; 2], step: usize, zero: u32) -> [u32; 4] {
        look_up_step(const { tables(&IQ4_LEVELS) }.map(|word| word | zero), quants, step)
    }
}
