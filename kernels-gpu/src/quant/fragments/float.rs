//! F16 and BF16: a tile is its quants, here the floats themselves. A group is 32 columns, two steps of 16; a lane's
//! words are its columns of the first step, then those of the second.

use super::{FloatFragments, Fragments, TileBytes, pick, quants_byte, row_words, split_row};
use crate::quant::halves::WEIGHT_FACTOR;
use crate::quant::{BF16, F16, bf16_to_f32};
use crate::simt::prelude::*;

macro_rules! float_format {
    ($format:ty, $to_f32:expr, $half_factor:expr, $half_word:expr) => {
        impl Fragments for $format {
            const TILE_COLS: usize = 64;
            const GROUP_COLS: usize = 32;
            const STEP_COLS: usize = 16;
            const ROW_WORDS: usize = Self::TILE_COLS / 2;
            const ROW_HALVES: usize = 0;

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
                let word = |k: usize, half: usize| pick(quants[half], 2 * step + k);
                [word(0, 0), word(0, 1), word(1, 0), word(1, 1)]
            }

            #[inline(always)]
            fn values<T: TileBytes>(tile: T, row: usize, col: usize) -> [f32; 4] {
                let ((g, half), c) = (split_row(row), col % 16 / 4);
                let byte = quants_byte(col / 32, half, 4 * g + c) + col % 32 / 16 * 8;
                let [[a, b], [c, d]] = tile.words2(byte / 4).map(Self::floats);
                [a, b, c, d]
            }

            #[inline(always)]
            fn pack_word(row: usize, i: usize, file: impl Fn(usize) -> u32) -> (usize, u32) {
                let ((g, half), (group, c, word)) = (split_row(row), (i / 16, i / 4 % 4, i % 4));
                let col = group * Self::GROUP_COLS + word / 2 * 16 + 4 * c + word % 2 * 2;
                (quants_byte(group, half, 4 * g + c) + 4 * word, file(2 * col))
            }

            fn pack_half(_: usize, _: usize, _: impl Fn(usize) -> u32) -> (usize, u16) {
                crate::simt::trap()
            }
        }

        impl FloatFragments for $format {
            #[inline(always)]
            fn floats(word: u32) -> [f32; 2] {
                let to_f32: fn(u32) -> f32 = $to_f32;
                [to_f32(word), to_f32(word >> 16)]
            }

            const HALF_FACTOR: f32 = $half_factor;

            #[inline(always)]
            fn half_word(word: u32) -> u32 {
                let half_word: fn(u32) -> u32 = $half_word;
                half_word(word)
            }
        }
    };
}

float_format!(F16, |bits| f16::from_bits(bits as u16).to_f32(), 1.0, |word| word);
float_format!(BF16, |bits| bf16_to_f32(bits as u16), WEIGHT_FACTOR, |word| {
    let [a, b] = BF16::floats(word);
    f16x2::from_f32(a * WEIGHT_FACTOR, b * WEIGHT_FACTOR).to_bits()
});
