//! Chunks of the K formats: an eighth of a block, 16 bytes of quants; lanes 0 to 7 read one block.

use super::{ChunkFormat, LOAD_BYTES, Matrix, TOP_BITS, bytes_to_f32, half, nibbles, pick};
use crate::quant::{Q4_K, Q5_K, Q6_K, QuantBlock};

/// Chunks of a block.
const CHUNKS: usize = 8;
/// Bytes of the scales and minima that open a block of Q4_K or Q5_K.
const HEADER_BYTES: usize = 16;
/// Bytes of a block's fifth bits in Q5_K.
const HIGH_BYTES: usize = 32;

/// What a lane holds of a chunk of Q4_K or Q5_K: half h of group g of 64 elements. Run 0 is half h of the
/// group's first sub-block of 32 (low nibbles), run 1 that of its second (high nibbles).
#[derive(Clone, Copy)]
pub struct Chunk45 {
    qs: [u32; 4],
    /// In Q5_K bit s of byte i is the fifth bit of element 16 h + i of sub-block s; in Q4_K unused.
    high: [u32; 4],
    /// d and dmin, then the twelve bytes of sub-scales.
    header: [u32; 4],
    /// Group g, 0 to 3.
    group: u32,
}

impl Chunk45 {
    /// The group's two 6-bit scales (`kind` 0) or minima (`kind` 1), in the lower two bytes:
    /// [`crate::quant::scale_min`] for both runs at once.
    #[inline(always)]
    fn sub_scales(&self, kind: usize) -> u32 {
        let shift = 16 * (self.group % 2);
        let first = (if kind == 0 { self.header[1] } else { self.header[2] }) >> shift;
        let low = self.header[3] >> shift >> (4 * kind);
        if self.group < 2 { first & 0x3f3f } else { (low & 0x0f0f) | ((first >> 2) & 0x3030) }
    }

    #[inline(always)]
    fn sub_scale(&self, run: usize, kind: usize) -> f32 {
        (self.sub_scales(kind) >> (8 * run)) as u8 as f32
    }

    #[inline(always)]
    fn scale(&self, run: usize) -> f32 {
        half(self.header[0]) * self.sub_scale(run, 0)
    }

    #[inline(always)]
    fn offset(&self, run: usize) -> f32 {
        -(half(self.header[0] >> 16) * self.sub_scale(run, 1))
    }
}

macro_rules! format_45 {
    ($format:ty, $bits:literal) => {
        impl ChunkFormat for $format {
            type Chunk = Chunk45;
            const QUADS: usize = 4;
            const RUNS: usize = 2;
            const HAS_OFFSET: bool = true;
            const ZERO: f32 = 1.0;

            #[inline(always)]
            fn load(matrix: Matrix<Self>, chunk: usize) -> Chunk45 {
                let (block, part) = (chunk / CHUNKS * Self::BYTES, chunk % CHUNKS);
                let high_bytes = if $bits == 5 { HIGH_BYTES } else { 0 };
                Chunk45 {
                    qs: matrix.quants(0, block + HEADER_BYTES + high_bytes + part * LOAD_BYTES),
                    high: if $bits == 5 {
                        matrix.bytes.u32x4_at(block + HEADER_BYTES + part % 2 * LOAD_BYTES)
                    } else {
                        [0; 4]
                    },
                    header: matrix.bytes.u32x4_at(block),
                    group: part as u32 / 2,
                }
            }

            #[inline(always)]
            fn start(chunk: usize, run: usize) -> usize {
                let (block, part) = (chunk / CHUNKS * Self::ELEMENTS, chunk % CHUNKS);
                block + part / 2 * 64 + part % 2 * 16 + run * 32
            }

            #[inline(always)]
            fn locate(run_idx: usize) -> (usize, usize) {
                let (block, i) = (run_idx / 16 * CHUNKS, run_idx % 16);
                (block + i / 4 * 2 + i % 2, i / 2 % 2)
            }

            #[inline(always)]
            fn quad(chunk: &Chunk45, run: usize, quad: usize) -> [f32; 4] {
                let low = nibbles(pick(chunk.qs, quad), run, 7 - $bits);
                let fifth = if $bits == 5 {
                    // Bit s of every byte goes to bit 6; what crosses into other bytes is masked away.
                    let sub_block = 2 * chunk.group + run as u32;
                    pick(chunk.high, quad).rotate_left(38 - sub_block) & 0x4040_4040
                } else {
                    0
                };
                bytes_to_f32(low | fifth | TOP_BITS)
            }

            #[inline(always)]
            fn scale(chunk: &Chunk45, run: usize) -> f32 {
                chunk.scale(run) * (1 << $bits) as f32
            }

            #[inline(always)]
            fn offset(chunk: &Chunk45, run: usize) -> f32 {
                chunk.offset(run)
            }

            fn element(_: Matrix<Self>, _: usize) -> f32 {
                crate::simt::trap()
            }
        }
    };
}

format_45!(Q4_K, 4);
format_45!(Q5_K, 5);

/// What a lane holds of a chunk of Q6_K: bytes 16 to 31 (half h = 1) or 0 to 15 of quarter p (0 or 1) of half n
/// of the block. Run 0 lies in quarter p (low nibbles), run 1 in quarter p + 2 (high nibbles).
#[derive(Clone, Copy)]
pub struct Chunk6 {
    ql: [u32; 4],
    qh: [u32; 4],
    /// The eight scales of half n.
    scales: [u32; 2],
    d: u16,
    /// Index of the chunk in its block: 4 n + 2 p + h.
    part: u32,
}

impl ChunkFormat for Q6_K {
    type Chunk = Chunk6;
    const QUADS: usize = 4;
    const RUNS: usize = 2;
    const HAS_OFFSET: bool = false;
    const ZERO: f32 = 1.0 + 32.0 / 64.0;

    #[inline(always)]
    fn load(matrix: Matrix<Self>, chunk: usize) -> Chunk6 {
        let (block, part) = (chunk / CHUNKS, chunk % CHUNKS);
        let (n, h) = (part / 4, part % 2);
        let (bytes, planes) = (matrix.bytes, matrix.planes);
        Chunk6 {
            ql: matrix.quants(0, chunk * LOAD_BYTES),
            qh: bytes.u32x4_at(planes[1] + block * 64 + n * 32 + h * LOAD_BYTES),
            scales: bytes.u32x2_at(planes[2] + block * 16 + n * 8),
            d: bytes.u16_at(planes[3] + block * 2),
            part: part as u32,
        }
    }

    #[inline(always)]
    fn start(chunk: usize, run: usize) -> usize {
        let (block, part) = (chunk / CHUNKS, chunk % CHUNKS);
        block * Self::ELEMENTS + part / 4 * 128 + part / 2 % 2 * 32 + part % 2 * 16 + run * 64
    }

    #[inline(always)]
    fn locate(run_idx: usize) -> (usize, usize) {
        let (block, i) = (run_idx / 16 * CHUNKS, run_idx % 16);
        let quarter = i / 2 % 4;
        (block + i / 8 * 4 + quarter % 2 * 2 + i % 2, quarter / 2)
    }

    #[inline(always)]
    fn quad(chunk: &Chunk6, run: usize, quad: usize) -> [f32; 4] {
        let p = chunk.part / 2 % 2;
        let low = nibbles(pick(chunk.ql, quad), run, 1);
        // Bits 2 p + 4 r and the next of every byte go to bits 5 and 6.
        let high = pick(chunk.qh, quad).rotate_left(37 - 2 * p - 4 * run as u32) & 0x6060_6060;
        bytes_to_f32(low | high | TOP_BITS)
    }

    #[inline(always)]
    fn scale(chunk: &Chunk6, run: usize) -> f32 {
        let scales = if run == 0 { chunk.scales[0] } else { chunk.scales[1] };
        let scale = (scales >> (8 * (chunk.part % 4))) as u8 as i8;
        half(u32::from(chunk.d)) * 64.0 * scale as f32
    }

    #[inline(always)]
    fn offset(_: &Chunk6, _: usize) -> f32 {
        0.0
    }

    fn element(_: Matrix<Self>, _: usize) -> f32 {
        crate::simt::trap()
    }
}
