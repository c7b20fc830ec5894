//! Chunks of Q2_K and Q3_K: a quarter of a block, 16 bytes of lower bits; lanes 0 to 3 read one block.
//!
//! Chunk 2 n + h holds bytes 16 h to 16 h + 15 of half n. Its run k lies in half h of quarter k of half n, bits 2 k and
//! 2 k + 1 of each byte, and has a scale of its own: number 8 n + 2 k + h of the block.

use super::{ChunkFormat, LOAD_BYTES, Matrix, TOP_BITS, bytes_to_f32, half, pick};
use crate::quant::{Q2_K, Q3_K, QuantBlock};

/// Chunks of a block.
const CHUNKS: usize = 4;

/// First element of a run.
#[inline(always)]
fn start(chunk: usize, run: usize) -> usize {
    let (block, part) = (chunk / CHUNKS, chunk % CHUNKS);
    block * Q2_K::ELEMENTS + part / 2 * 128 + run * 32 + part % 2 * 16
}

/// The chunk and its run that hold run `run_idx` of the row.
#[inline(always)]
fn locate(run_idx: usize) -> (usize, usize) {
    let (block, i) = (run_idx / 16, run_idx % 16);
    (block * CHUNKS + i / 8 * 2 + i % 2, i / 2 % 4)
}

/// Byte 2 `run` + `h` of eight bytes that begin with those of half n.
#[inline(always)]
fn byte_of_run(words: [u32; 2], run: usize, h: u32) -> u32 {
    (if run < 2 { words[0] } else { words[1] }) >> (16 * (run as u32 % 2) + 8 * h) & 0xff
}

/// What a lane holds of a chunk of Q2_K.
#[derive(Clone, Copy)]
pub struct Chunk2 {
    qs: [u32; 4],
    /// The scales and minima of half n.
    scales: [u32; 2],
    /// d; above it dmin.
    d: u32,
    h: u32,
}

impl ChunkFormat for Q2_K {
    type Chunk = Chunk2;
    const QUADS: usize = 4;
    const RUNS: usize = 4;
    const HAS_OFFSET: bool = true;
    const ZERO: f32 = 1.0;

    #[inline(always)]
    fn load(matrix: Matrix<Self>, chunk: usize) -> Chunk2 {
        let (block, part) = (chunk / CHUNKS, chunk % CHUNKS);
        let (bytes, planes) = (matrix.bytes, matrix.planes);
        Chunk2 {
            qs: matrix.quants(0, chunk * LOAD_BYTES),
            scales: bytes.u32x2_at(planes[1] + block * 16 + part / 2 * 8),
            d: bytes.u32_at(planes[2] + block * 4),
            h: part as u32 % 2,
        }
    }

    #[inline(always)]
    fn start(chunk: usize, run: usize) -> usize {
        start(chunk, run)
    }

    #[inline(always)]
    fn locate(run_idx: usize) -> (usize, usize) {
        locate(run_idx)
    }

    #[inline(always)]
    fn quad(chunk: &Chunk2, run: usize, quad: usize) -> [f32; 4] {
        // Bits 2 k and 2 k + 1 of every byte go to bits 5 and 6.
        let bits = pick(chunk.qs, quad).rotate_left(37 - 2 * run as u32) & 0x6060_6060;
        bytes_to_f32(bits | TOP_BITS)
    }

    #[inline(always)]
    fn scale(chunk: &Chunk2, run: usize) -> f32 {
        half(chunk.d) * 4.0 * (byte_of_run(chunk.scales, run, chunk.h) & 15) as f32
    }

    #[inline(always)]
    fn offset(chunk: &Chunk2, run: usize) -> f32 {
        -(half(chunk.d >> 16) * (byte_of_run(chunk.scales, run, chunk.h) >> 4) as f32)
    }

    fn element(_: Matrix<Self>, _: usize) -> f32 {
        crate::simt::trap()
    }
}

/// What a lane holds of a chunk of Q3_K.
#[derive(Clone, Copy)]
pub struct Chunk3 {
    qs: [u32; 4],
    /// Bit 4 n + k of byte i is the third bit of element i of run k.
    high: [u32; 4],
    /// The block's twelve bytes of scales: see [`crate::quant::q3_scale`].
    scales: [u32; 3],
    d: u16,
    /// Half n.
    n: u32,
    h: u32,
}

impl ChunkFormat for Q3_K {
    type Chunk = Chunk3;
    const QUADS: usize = 4;
    const RUNS: usize = 4;
    const HAS_OFFSET: bool = false;
    const ZERO: f32 = 1.0 + 4.0 / 8.0;

    #[inline(always)]
    fn load(matrix: Matrix<Self>, chunk: usize) -> Chunk3 {
        let (block, part) = (chunk / CHUNKS, chunk % CHUNKS);
        let (bytes, planes) = (matrix.bytes, matrix.planes);
        let scales = |word: usize| bytes.u32_at(planes[2] + block * 12 + word * 4);
        Chunk3 {
            qs: matrix.quants(0, chunk * LOAD_BYTES),
            high: bytes.u32x4_at(planes[1] + block * 32 + part % 2 * LOAD_BYTES),
            scales: [scales(0), scales(1), scales(2)],
            d: bytes.u16_at(planes[3] + block * 2),
            n: part as u32 / 2,
            h: part as u32 % 2,
        }
    }

    #[inline(always)]
    fn start(chunk: usize, run: usize) -> usize {
        start(chunk, run)
    }

    #[inline(always)]
    fn locate(run_idx: usize) -> (usize, usize) {
        locate(run_idx)
    }

    #[inline(always)]
    fn quad(chunk: &Chunk3, run: usize, quad: usize) -> [f32; 4] {
        // Two bits go to bits 4 and 5 of every byte, the third to bit 6.
        let low = pick(chunk.qs, quad).rotate_left(36 - 2 * run as u32) & 0x3030_3030;
        let high = pick(chunk.high, quad).rotate_left(38 - 4 * chunk.n - run as u32) & 0x4040_4040;
        bytes_to_f32(low | high | TOP_BITS)
    }

    #[inline(always)]
    fn scale(chunk: &Chunk3, run: usize) -> f32 {
        let [first, second, third] = chunk.scales;
        let low = byte_of_run([first, second], run, chunk.h) >> (4 * chunk.n) & 15;
        let high = byte_of_run([third, third], run, chunk.h) >> (4 * chunk.n + run as u32 / 2 * 2) & 3;
        half(u32::from(chunk.d)) * 8.0 * ((low | high << 4) as i32 - 32) as f32
    }

    #[inline(always)]
    fn offset(_: &Chunk3, _: usize) -> f32 {
        0.0
    }

    fn element(_: Matrix<Self>, _: usize) -> f32 {
        crate::simt::trap()
    }
}
