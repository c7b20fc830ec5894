//! Fragments of the K formats. A tile is 16 rows by one block of 256: two groups of four-bit quants, as in the 32-element
//! formats, higher bits, scales.
//!
//! Q5_K, fifth bits: `[group][lane][half]` a word, bit 2 b + k of byte j for column 16 k + 4 c + j of block b of the group.
//! Q4_K and Q5_K, scales of sub-blocks c and c + 4: `[lane][half][which]` a byte: the scale, above it the upper two bits of the
//! minimum; `[lane / 2][half][which]` a byte: the lower four bits of the minimum, in the low nibble for even lanes;
//! `[g]` the halves d, d of row g + 8, dmin, dmin of row g + 8.
//! Q6_K, upper two bits: `[group][lane][half][b / 2]` a word, bits 2 i and 2 i + 1 of byte j with i = 2 (b % 2) + k. Scales:
//! `[lane][half]` the bytes of sub-blocks c, c + 4, c + 8, c + 12; `[g]` the halves d, d of row g + 8.

use super::{
    FROM_BITS, Fragments, GROUP_BYTES, QuantFragments, TileBytes, bit, half_float, nibbles, pick, pick2,
    quant_values, quants_byte, row_words, split_row,
};
use crate::quant::{Q4_K, Q5_K, Q6_K};

/// Columns of a tile: one block.
const TILE_COLS: usize = 256;
/// Bytes of the four-bit quants of a tile.
const LOW_BYTES: usize = 2 * GROUP_BYTES;
/// Bytes of a block of Q4_K and Q5_K before the quants of Q4_K and the fifth bits of Q5_K.
const HEADER_BYTES: usize = 16;
/// Pieces of a row's four-bit quants.
const LOW_WORDS: usize = 32;

/// Four-bit quants of a group, with one or two words of higher bits a row.
#[derive(Clone, Copy)]
pub struct Quants {
    low: [[u32; 4]; 2],
    high: [[u32; 2]; 2],
}

impl Quants {
    #[inline(always)]
    fn low<T: TileBytes>(tile: T, lane: usize, group: usize) -> [[u32; 4]; 2] {
        let words = |half| tile.words4(quants_byte(group, half, lane) / 4);
        [words(0), words(1)]
    }
}

/// The scales of rows g and g + 8 for sub-blocks c and c + 4, as they lie in the tile: nothing waits for them before it needs
/// them.
#[derive(Clone, Copy)]
pub struct Scales45 {
    /// Byte 2 half + t, as are the others.
    scales: u32,
    /// Lower bits of minima, from bit `shift` on.
    low: u32,
    shift: u32,
    d: u32,
    dmin: u32,
}

/// Where piece `i` of the four-bit quants of a row lies, and which columns: (group, c, block of the group).
#[inline(always)]
fn low_place(row: usize, i: usize) -> (usize, [usize; 3]) {
    let ((g, half), (group, c, block)) = (split_row(row), (i / 16, i / 4 % 4, i % 4));
    (quants_byte(group, half, 4 * g + c) + 4 * block, [group, c, block])
}

/// Nibbles (`upper` or lower) of four neighbouring bytes, and above them those of the four bytes that lie 16 further.
#[inline(always)]
fn join_nibbles(near: u32, far: u32, upper: bool) -> u32 {
    let nibbles = |word: u32| (if upper { word >> 4 } else { word }) & 0x0f0f_0f0f;
    nibbles(near) | nibbles(far) << 4
}

/// Byte `i` of the file's stretch.
#[inline(always)]
fn byte(file: impl Fn(usize) -> u32, i: usize) -> u8 {
    (file(i & !1) >> (8 * (i & 1))) as u8
}

/// The scale and the minimum of a sub-block: [`crate::quant::scale_min`], from words.
#[inline(always)]
fn file_scale_min(file: impl Fn(usize) -> u32, sub: usize) -> (u32, u32) {
    let word = |i: usize| file(4 + 4 * i) >> (8 * (sub % 4));
    let (scales, mins, low) = (word(0), word(1), word(2));
    if sub < 4 {
        (scales & 63, mins & 63)
    } else {
        (low & 15 | (scales >> 2) & 48, (low >> 4) & 15 | (mins >> 2) & 48)
    }
}

/// The bytes of scales of a row: pieces 0 to 3 have scales, 4 and 5 lower bits of minima, 6 and 7 d and dmin.
#[inline(always)]
fn pack_scales_45(start: usize, row: usize, i: usize, file: impl Fn(usize) -> u32) -> (usize, u16) {
    let (g, half) = split_row(row);
    let scale_min = |sub| file_scale_min(&file, sub);
    if i < 4 {
        let scale = |sub| {
            let (scale, min) = scale_min(sub);
            (scale | min >> 4 << 6) as u16
        };
        (start + (4 * g + i) * 4 + 2 * half, scale(i) | scale(i + 4) << 8)
    } else if i < 6 {
        let pair = i - 4;
        let min = |sub| (scale_min(sub).1 & 15) as u16;
        let mins = |t: usize| min(4 * t + 2 * pair) | min(4 * t + 2 * pair + 1) << 4;
        (start + 128 + (2 * g + pair) * 4 + 2 * half, mins(0) | mins(1) << 8)
    } else {
        let which = i - 6;
        (start + 192 + g * 8 + 4 * which + 2 * half, file(2 * which) as u16)
    }
}

macro_rules! format_45 {
    ($format:ty, $bits:literal) => {
        impl Fragments for $format {
            const TILE_COLS: usize = TILE_COLS;
            const GROUP_COLS: usize = 128;
            const STEP_COLS: usize = 32;
            const ROW_WORDS: usize = LOW_WORDS + if $bits == 5 { 8 } else { 0 };
            const ROW_HALVES: usize = 8;

            type Quants = Quants;

            #[inline(always)]
            fn quants<T: TileBytes>(tile: T, lane: usize, group: usize) -> Quants {
                let high =
                    if $bits == 5 { tile.words2((LOW_BYTES + 256 * group + 8 * lane) / 4) } else { [0; 2] };
                Quants { low: Quants::low(tile, lane, group), high: [[high[0], 0], [high[1], 0]] }
            }

            #[inline(always)]
            fn row_quants<T: TileBytes>(tile: T, row: usize, c: usize, group: usize) -> Quants {
                let (g, half) = split_row(row);
                let high = || tile.word((LOW_BYTES + 256 * group + 8 * (4 * g + c) + 4 * half) / 4);
                let high = if $bits == 5 { high() } else { 0 };
                Quants { low: [row_words(tile, row, c, group), [0; 4]], high: [[high, 0], [0; 2]] }
            }

            #[inline(always)]
            fn words(quants: &Quants, step: usize) -> [u32; 4] {
                let word = |k: usize, half: usize| {
                    let low = nibbles(pick(quants.low[half], step), k, 0);
                    let fifth = || bit(quants.high[half][0], (2 * step + k) as u32, 4);
                    if $bits == 5 { low | fifth() } else { low }
                };
                [word(0, 0), word(0, 1), word(1, 0), word(1, 1)]
            }

            #[inline(always)]
            fn values<T: TileBytes>(tile: T, row: usize, col: usize) -> [f32; 4] {
                quant_values::<Self, T>(tile, row, col)
            }

            #[inline(always)]
            fn pack_word(row: usize, i: usize, file: impl Fn(usize) -> u32) -> (usize, u32) {
                if i < LOW_WORDS {
                    let (place, [group, c, block]) = low_place(row, i);
                    let sub = 4 * group + block;
                    let quants = HEADER_BYTES + if $bits == 5 { 32 } else { 0 } + sub / 2 * 32 + 4 * c;
                    (place, join_nibbles(file(quants), file(quants + 16), sub % 2 == 1))
                } else {
                    let ((g, half), (group, c)) = (split_row(row), ((i - LOW_WORDS) / 4, i % 4));
                    let mut word = 0;
                    let mut field = 0;
                    while field < 8 {
                        let (sub, k) = (4 * group + field / 2, field % 2);
                        word |= ((file(HEADER_BYTES + 16 * k + 4 * c) >> sub) & 0x0101_0101) << field;
                        field += 1;
                    }
                    (LOW_BYTES + 256 * group + (4 * g + c) * 8 + 4 * half, word)
                }
            }

            #[inline(always)]
            fn pack_half(row: usize, i: usize, file: impl Fn(usize) -> u32) -> (usize, u16) {
                pack_scales_45(Self::TILE_BYTES - 256, row, i, file)
            }
        }

        impl QuantFragments for $format {
            const SUB: usize = 32;
            const HAS_OFFSET: bool = true;
            const MIDDLE: i32 = 1 << ($bits - 1);

            type Scales = Scales45;

            #[inline(always)]
            fn scales<T: TileBytes>(tile: T, g: usize, c: usize) -> Scales45 {
                let start = (Self::TILE_BYTES - 256) / 4;
                let scales = tile.word(start + 4 * g + c);
                let low = tile.word(start + 32 + 2 * g + c / 2);
                let [d, dmin] = tile.words2(start + 48 + 2 * g);
                Scales45 { scales, low, shift: 4 * (c as u32 % 2), d, dmin }
            }

            #[inline(always)]
            fn level(scales: &Scales45, t: usize, half: usize) -> f32 {
                ((scales.scales & 0x3f3f_3f3f) >> (16 * half + 8 * t)) as u8 as f32
            }

            #[inline(always)]
            fn factor(scales: &Scales45, half: usize) -> f32 {
                half_float(scales.d, half)
            }

            #[inline(always)]
            fn offset(scales: &Scales45, t: usize, half: usize) -> f32 {
                -(half_float(scales.dmin, half) * Self::offset_bits(scales, t, half) as f32)
            }

            #[inline(always)]
            fn offset_bits(scales: &Scales45, t: usize, half: usize) -> u32 {
                let low = scales.low >> scales.shift & 0x0f0f_0f0f;
                ((low | scales.scales >> 2 & 0x3030_3030) >> (16 * half + 8 * t)) & 0xff
            }

            #[inline(always)]
            fn offset_factor(scales: &Scales45, half: usize) -> f32 {
                -(half_float(scales.dmin, half) * FROM_BITS)
            }
        }
    };
}

format_45!(Q4_K, 4);
format_45!(Q5_K, 5);

/// Byte of a tile of Q6_K at which the scales of sub-blocks begin, and those of blocks.
const Q6_K_SCALES: usize = LOW_BYTES + 1024;
const Q6_K_D: usize = Q6_K_SCALES + 256;

impl Fragments for Q6_K {
    const TILE_COLS: usize = TILE_COLS;
    const GROUP_COLS: usize = 128;
    const STEP_COLS: usize = 32;
    const ROW_WORDS: usize = LOW_WORDS + 16 + 4;
    const ROW_HALVES: usize = 1;

    type Quants = Quants;

    #[inline(always)]
    fn quants<T: TileBytes>(tile: T, lane: usize, group: usize) -> Quants {
        let high = tile.words4((LOW_BYTES + 512 * group + 16 * lane) / 4);
        Quants { low: Quants::low(tile, lane, group), high: [[high[0], high[1]], [high[2], high[3]]] }
    }

    #[inline(always)]
    fn row_quants<T: TileBytes>(tile: T, row: usize, c: usize, group: usize) -> Quants {
        let (g, half) = split_row(row);
        let high = tile.words2((LOW_BYTES + 512 * group + 16 * (4 * g + c) + 8 * half) / 4);
        Quants { low: [row_words(tile, row, c, group), [0; 4]], high: [high, [0; 2]] }
    }

    /// 4 · (q − 32).
    #[inline(always)]
    fn words(quants: &Quants, step: usize) -> [u32; 4] {
        let word = |k: usize, half: usize| {
            let [even, odd] = quants.high[half];
            let high = if step < 2 { even } else { odd };
            let field = (2 * (step % 2) + k) as u32;
            nibbles(pick(quants.low[half], step), k, 2) | (high.rotate_left(38 - 2 * field) & 0xc0c0_c0c0)
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
            let (place, [group, c, block]) = low_place(row, i);
            let quants = 64 * group + block % 2 * 32 + 4 * c;
            (place, join_nibbles(file(quants), file(quants + 16), block / 2 == 1))
        } else if i < LOW_WORDS + 16 {
            let i = i - LOW_WORDS;
            let (group, c, pair) = (i / 8, i / 2 % 4, i % 2);
            let mut word = 0;
            let mut field = 0;
            while field < 4 {
                let (block, k) = (2 * pair + field / 2, field % 2);
                let bits = file(128 + 32 * group + 16 * k + 4 * c) >> (2 * block);
                word |= (bits & 0x0303_0303) << (2 * field);
                field += 1;
            }
            let place = LOW_BYTES + 512 * group + (4 * g + c) * 16 + 8 * half + 4 * pair;
            (place, word ^ 0xaaaa_aaaa) // q − 32 in two's complement
        } else {
            let c = i - LOW_WORDS - 16;
            let scale = |t: usize| u32::from(byte(&file, 192 + 4 * t + c)) << (8 * t);
            (Q6_K_SCALES + (4 * g + c) * 8 + 4 * half, scale(0) | scale(1) | scale(2) | scale(3))
        }
    }

    #[inline(always)]
    fn pack_half(row: usize, _: usize, file: impl Fn(usize) -> u32) -> (usize, u16) {
        let (g, half) = split_row(row);
        (Q6_K_D + 4 * g + 2 * half, file(208) as u16)
    }
}

impl QuantFragments for Q6_K {
    const SUB: usize = 16;
    const HAS_OFFSET: bool = false;

    /// The scales of sub-blocks in the two halves of rows, then d.
    type Scales = [u32; 3];

    #[inline(always)]
    fn scales<T: TileBytes>(tile: T, g: usize, c: usize) -> [u32; 3] {
        let [near, far] = tile.words2(Q6_K_SCALES / 4 + 2 * (4 * g + c));
        [near, far, tile.word(Q6_K_D / 4 + g)]
    }

    #[inline(always)]
    fn level(scales: &[u32; 3], t: usize, half: usize) -> f32 {
        (pick2([scales[0], scales[1]], half) >> (8 * t)) as u8 as i8 as f32
    }

    #[inline(always)]
    fn factor(scales: &[u32; 3], half: usize) -> f32 {
        half_float(scales[2], half) * 0.25
    }

    #[inline(always)]
    fn offset(_: &[u32; 3], _: usize, _: usize) -> f32 {
        0.0
    }
}
