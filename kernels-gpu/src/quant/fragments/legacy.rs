//! Fragments of the 32-element formats. A tile is 16 rows by four blocks: quants, fifth bits, scales.
//!
//! Four-bit quants: word b of a lane's 16 bytes belongs to block b, low nibbles to the columns from 4 c on, high nibbles to
//! those from 16 + 4 c on, as in the file. Q8_0 has two groups of two blocks, with two words each.
//! Fifth bits: `[lane][half]` a word, bit 2 b + k of byte j for column 16 k + 4 c + j of block b.
//! Scales: `[lane]` those of block c and rows g and g + 8: two halves, or with minima two words of (scale, minimum).

use super::{
    Fragments, GROUP_BYTES, QuantFragments, TileBytes, bit, half_float, nibbles, pick, pick2, quant_values,
    quants_byte, row_words, split_row,
};
use crate::quant::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, QuantBlock};

/// Columns of a tile.
const TILE_COLS: usize = 128;

/// Four-bit quants of a group, with the fifth bits of Q5 (elsewhere unused).
#[derive(Clone, Copy)]
pub struct Quants {
    low: [[u32; 4]; 2],
    high: [u32; 2],
}

/// What differs between the four-bit and five-bit formats.
trait Nibbles: QuantBlock {
    /// 4 or 5.
    const BITS: u32;
    /// Whether scales have minima; if not, quants are signed and lie at the top of their byte.
    const HAS_MIN: bool;

    /// Bit of a byte at which the quant begins.
    const SHIFT: u32 = if Self::HAS_MIN { 0 } else { 8 - Self::BITS };
    /// Byte of the tile at which the scales begin.
    const SCALES: usize = GROUP_BYTES + if Self::BITS == 5 { 256 } else { 0 };
    /// Bytes of a block before the quants, and before the fifth bits.
    const HEADER_BYTES: usize = Self::BYTES - 16;
    const FIFTH: usize = if Self::HAS_MIN { 4 } else { 2 };
    /// What makes the highest bits those of two's complement.
    const SIGN: u32 = if Self::HAS_MIN { 0 } else { u32::MAX };
}

/// The fifth bits of the columns of a lane.
#[inline(always)]
fn pack_fifth_bits<Q: Nibbles>(c: usize, file: impl Fn(usize) -> u32) -> u32 {
    let mut word = 0;
    let mut field = 0;
    while field < 8 {
        let (block, k) = (field / 2, field % 2);
        let bits = file(block * Q::BYTES + Q::FIFTH) >> (16 * k + 4 * c);
        // Multiplying by 1 + 2⁷ + 2¹⁴ + 2²¹ puts bit j at 8 j (and elsewhere, which the mask removes).
        word |= ((bits & 0xf).wrapping_mul(0x0020_4081) & 0x0101_0101) << field;
        field += 1;
    }
    word ^ Q::SIGN
}

macro_rules! nibble_format {
    ($format:ty, bits: $bits:literal, has_min: $has_min:literal) => {
        impl Nibbles for $format {
            const BITS: u32 = $bits;
            const HAS_MIN: bool = $has_min;
        }

        impl Fragments for $format {
            const TILE_COLS: usize = TILE_COLS;
            const GROUP_COLS: usize = 128;
            const STEP_COLS: usize = 32;
            const ROW_WORDS: usize =
                16 + if Self::BITS == 5 { 4 } else { 0 } + if Self::HAS_MIN { 4 } else { 0 };
            const ROW_HALVES: usize = if Self::HAS_MIN { 0 } else { 4 };

            type Quants = Quants;

            #[inline(always)]
            fn quants<T: TileBytes>(tile: T, lane: usize, group: usize) -> Quants {
                let low = |half| tile.words4(quants_byte(group, half, lane) / 4);
                let high = if Self::BITS == 5 { tile.words2((GROUP_BYTES + 8 * lane) / 4) } else { [0; 2] };
                Quants { low: [low(0), low(1)], high }
            }

            #[inline(always)]
            fn row_quants<T: TileBytes>(tile: T, row: usize, c: usize, group: usize) -> Quants {
                let (g, half) = split_row(row);
                let high = || tile.word((GROUP_BYTES + 8 * (4 * g + c) + 4 * half) / 4);
                let high = if Self::BITS == 5 { high() } else { 0 };
                Quants { low: [row_words(tile, row, c, group), [0; 4]], high: [high, 0] }
            }

            #[inline(always)]
            fn words(quants: &Quants, step: usize) -> [u32; 4] {
                let word = |k: usize, half: usize| {
                    let low = nibbles(pick(quants.low[half], step), k, Self::SHIFT);
                    let fifth = || bit(quants.high[half], (2 * step + k) as u32, Self::SHIFT + 4);
                    if Self::BITS == 5 { low | fifth() } else { low }
                };
                [word(0, 0), word(0, 1), word(1, 0), word(1, 1)]
            }

            #[inline(always)]
            fn values<T: TileBytes>(tile: T, row: usize, col: usize) -> [f32; 4] {
                quant_values::<Self, T>(tile, row, col)
            }

            #[inline(always)]
            fn pack_word(row: usize, i: usize, file: impl Fn(usize) -> u32) -> (usize, u32) {
                let ((g, half), c) = (split_row(row), i / 4 % 4);
                if i < 16 {
                    let block = i % 4;
                    let quants = file(block * Self::BYTES + Self::HEADER_BYTES + 4 * c);
                    // The top bit of a nibble is the sign of four-bit quants only.
                    let sign = if Self::BITS == 4 { Self::SIGN & 0x8888_8888 } else { 0 };
                    (quants_byte(0, half, 4 * g + c) + 4 * block, quants ^ sign)
                } else if Self::BITS == 5 && i < 20 {
                    let c = i - 16;
                    (GROUP_BYTES + (4 * g + c) * 8 + 4 * half, pack_fifth_bits::<Self>(c, file))
                } else {
                    let block = i % 4;
                    (Self::SCALES + (4 * g + block) * 8 + 4 * half, file(block * Self::BYTES))
                }
            }

            #[inline(always)]
            fn pack_half(row: usize, i: usize, file: impl Fn(usize) -> u32) -> (usize, u16) {
                let (g, half) = split_row(row);
                (Self::SCALES + (4 * g + i) * 4 + 2 * half, file(i * Self::BYTES) as u16)
            }
        }

        impl QuantFragments for $format {
            const SUB: usize = 32;
            const HAS_OFFSET: bool = Self::HAS_MIN;

            type Scales = [u32; 2];

            #[inline(always)]
            fn scales<T: TileBytes>(tile: T, g: usize, c: usize) -> [u32; 2] {
                let lane = 4 * g + c;
                if Self::HAS_MIN {
                    tile.words2(Self::SCALES / 4 + 2 * lane)
                } else {
                    [tile.word(Self::SCALES / 4 + lane), 0]
                }
            }

            #[inline(always)]
            fn level(scales: &[u32; 2], _: usize, half: usize) -> f32 {
                if Self::HAS_MIN {
                    half_float(pick2(*scales, half), 0)
                } else {
                    half_float(scales[0], half) * (1.0 / (1 << Self::SHIFT) as f32)
                }
            }

            #[inline(always)]
            fn offset(scales: &[u32; 2], _: usize, half: usize) -> f32 {
                if Self::HAS_MIN { half_float(pick2(*scales, half), 1) } else { 0.0 }
            }

            #[inline(always)]
            fn offset_bits(scales: &[u32; 2], _: usize, half: usize) -> u32 {
                if Self::HAS_MIN { pick2(*scales, half) >> 16 } else { 0 }
            }

            #[inline(always)]
            fn offset_factor(_: &[u32; 2], _: usize) -> f32 {
                if Self::HAS_MIN { 1.0 } else { 0.0 }
            }
        }
    };
}

nibble_format!(Q4_0, bits: 4, has_min: false);
nibble_format!(Q4_1, bits: 4, has_min: true);
nibble_format!(Q5_0, bits: 5, has_min: false);
nibble_format!(Q5_1, bits: 5, has_min: true);

/// Byte of a tile of Q8_0 at which the scales begin.
const Q8_0_SCALES: usize = 2 * GROUP_BYTES;

impl Fragments for Q8_0 {
    const TILE_COLS: usize = TILE_COLS;
    const GROUP_COLS: usize = 64;
    const STEP_COLS: usize = 32;
    const ROW_WORDS: usize = 32;
    const ROW_HALVES: usize = 4;

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
        quant_values::<Self, T>(tile, row, col)
    }

    #[inline(always)]
    fn pack_word(row: usize, i: usize, file: impl Fn(usize) -> u32) -> (usize, u32) {
        let ((g, half), (group, c, word)) = (split_row(row), (i / 16, i / 4 % 4, i % 4));
        let block = 2 * group + word / 2;
        let quants = file(block * Self::BYTES + 2 + word % 2 * 16 + 4 * c);
        (quants_byte(group, half, 4 * g + c) + 4 * word, quants)
    }

    #[inline(always)]
    fn pack_half(row: usize, i: usize, file: impl Fn(usize) -> u32) -> (usize, u16) {
        let (g, half) = split_row(row);
        (Q8_0_SCALES + (4 * g + i) * 4 + 2 * half, file(i * Self::BYTES) as u16)
    }
}

impl QuantFragments for Q8_0 {
    const SUB: usize = 32;
    const HAS_OFFSET: bool = false;

    type Scales = u32;

    #[inline(always)]
    fn scales<T: TileBytes>(tile: T, g: usize, c: usize) -> u32 {
        tile.word(Q8_0_SCALES / 4 + 4 * g + c)
    }

    #[inline(always)]
    fn level(scales: &u32, _: usize, half: usize) -> f32 {
        half_float(*scales, half)
    }

    #[inline(always)]
    fn offset(_: &u32, _: usize, _: usize) -> f32 {
        0.0
    }
}
