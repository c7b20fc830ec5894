//! Chunks of the formats whose quants are indices of a table: 16 bytes of quants, 32 elements.

use super::{ChunkFormat, LOAD_BYTES, Matrix, half, pick, signed_bytes_to_f32};
use crate::quant::{E2M1_LEVELS, IQ4_LEVELS, IQ4_NL, IQ4_XS, MXFP4, half_e8m0};
use crate::simt::prelude::*;

/// What a lane holds of a chunk: run 0 are the low nibbles, run 1 the high ones.
#[derive(Clone, Copy)]
pub struct TableChunk {
    qs: [u32; 4],
    /// The scale of both runs.
    scale: f32,
}

/// Sixteen levels as words of bytes level + 128.
const fn table(levels: [i8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    let mut i = 0;
    while i < 16 {
        words[i / 4] |= ((levels[i] as i32 + 128) as u32) << (i % 4 * 8);
        i += 1;
    }
    words
}

/// What the table has for four neighbouring nibbles of a word, its lower sixteen bits.
#[inline(always)]
fn look_up(table: [u32; 4], nibbles: u32) -> u32 {
    let lower = math::byte_perm(table[0], table[1], nibbles & 0x7777);
    let upper = math::byte_perm(table[2], table[3], nibbles & 0x7777);
    // Byte i of the lower half where bit 3 of nibble i is zero, else byte i of the upper half.
    math::byte_perm(lower, upper, 0x3210 | (nibbles & 0x8888) >> 1)
}

macro_rules! table_format {
    ($format:ty, $levels:expr, |$matrix:ident, $chunk:ident| $scale:expr) => {
        impl ChunkFormat for $format {
            type Chunk = TableChunk;
            const QUADS: usize = 4;
            const RUNS: usize = 2;
            const RUNS_ADJOIN: bool = true;
            const HAS_OFFSET: bool = false;
            const ZERO: f32 = 0.0;

            #[inline(always)]
            fn load($matrix: Matrix<Self>, $chunk: usize) -> TableChunk {
                TableChunk { qs: $matrix.quants(0, $chunk * LOAD_BYTES), scale: $scale }
            }

            #[inline(always)]
            fn start(chunk: usize, run: usize) -> usize {
                chunk * 32 + run * 16
            }

            #[inline(always)]
            fn locate(run_idx: usize) -> (usize, usize) {
                (run_idx / 2, run_idx % 2)
            }

            #[inline(always)]
            fn quad(chunk: &TableChunk, run: usize, quad: usize) -> [f32; 4] {
                let word = pick(chunk.qs, quad);
                // Both runs look up the same: the compiler does it once.
                let (first, second) = (look_up(table($levels), word), look_up(table($levels), word >> 16));
                let selector = if run == 0 { 0x6420 } else { 0x7531 };
                signed_bytes_to_f32(math::byte_perm(first, second, selector))
            }

            #[inline(always)]
            fn scale(chunk: &TableChunk, _: usize) -> f32 {
                chunk.scale
            }

            #[inline(always)]
            fn offset(_: &TableChunk, _: usize) -> f32 {
                0.0
            }

            fn element(_: Matrix<Self>, _: usize) -> f32 {
                crate::simt::trap()
            }
        }
    };
}

table_format!(IQ4_NL, IQ4_LEVELS, |matrix, chunk| {
    half(u32::from(matrix.bytes.u16_at(matrix.planes[1] + chunk * 2)))
});

// A chunk is a sub-block, an eighth of a block.
table_format!(IQ4_XS, IQ4_LEVELS, |matrix, chunk| {
    let [first, low] = matrix.bytes.u32x2_at(matrix.planes[1] + chunk / 8 * 8);
    let s = (chunk % 8) as u32;
    let scale = (low >> (4 * s) & 15) | (first >> 16 >> (2 * s) & 3) << 4;
    half(first) * (scale as i32 - 32) as f32
});

table_format!(MXFP4, E2M1_LEVELS, |matrix, chunk| half_e8m0(matrix.bytes.get(matrix.planes[1] + chunk)));
