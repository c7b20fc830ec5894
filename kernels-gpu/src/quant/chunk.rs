//! How kernels read weights: in chunks that a lane fetches with one 16-byte load of quants.
//!
//! A chunk's elements form one, two or four **runs**: stretches of 4, 8 or 16 consecutive elements of a row that share
//! a scale. Run r of chunk c begins at element [`ChunkFormat::start`]`(c, r)`. Four neighbours of a run are a
//! **quad**, the unit of arithmetic. An element's value is `scale · (f − ZERO) + offset`, with f a float that
//! is made from the quant's bits alone.
//!
//! Conversion instructions are slow, and so is an addition for each element. Quants of up to six bits are therefore
//! moved to the top of the lower seven bits of a byte, four in a word, and one byte permutation puts such a byte below the
//! exponent of 1: the bits `0011 1111 1qqq q000 …` are the float f = 1 + q / 16. Then Σ f · x needs one
//! multiply-add for each element, and Σ (f − ZERO) · x = Σ f · x − ZERO · Σ x, where Σ x is the same for all rows.
//! As f lies between 1 and 2, the subtraction costs three or four bits of f32's 24, no more.

use core::marker::PhantomData;

use super::layout::GpuLayout;
use super::{BF16, F16, F32, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
use crate::simt::prelude::*;

/// Bytes of quants that a lane fetches at once.
pub const LOAD_BYTES: usize = 16;

/// A matrix of weights in the layout of [`super::layout`].
pub struct Matrix<Q> {
    bytes: In<u8>,
    planes: [usize; 4],
    format: PhantomData<Q>,
}

impl<Q> Clone for Matrix<Q> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<Q> Copy for Matrix<Q> {}

impl<Q: GpuLayout> Matrix<Q> {
    /// The matrix of `n_elements` elements (rows · columns) that begins at the view's first byte.
    #[inline(always)]
    pub fn new(bytes: In<u8>, n_elements: usize) -> Self {
        let n_blocks = n_elements / Q::ELEMENTS;
        let mut planes = [0; 4];
        let mut plane = 1;
        while plane < Q::PLANES.len() {
            planes[plane] = Q::plane_offset(plane, n_blocks);
            plane += 1;
        }
        Self { bytes, planes, format: PhantomData }
    }

    /// 16 bytes of quants, read once and by one lane only.
    #[inline(always)]
    fn quants(self, plane: usize, byte: usize) -> [u32; 4] {
        self.bytes.u32x4_at_stream(self.planes[plane] + byte)
    }
}

/// A format as kernels read it.
pub trait ChunkFormat: GpuLayout {
    /// What a lane holds of a chunk between loading and use.
    type Chunk: Copy;

    /// Quads of a run: 1, 2 or 4.
    const QUADS: usize;
    /// Runs of a chunk: 1, 2 or 4.
    const RUNS: usize;
    /// Whether the runs of a chunk follow each other in the row.
    const RUNS_ADJOIN: bool = Self::ELEMENTS == Self::CHUNK_ELEMENTS;
    /// Whether [`Self::offset`] can be anything but zero.
    const HAS_OFFSET: bool;
    /// The float that stands for the value zero (before the offset).
    const ZERO: f32;

    /// Elements of a run.
    const RUN_ELEMENTS: usize = 4 * Self::QUADS;
    /// Elements of a chunk.
    const CHUNK_ELEMENTS: usize = Self::RUNS * Self::RUN_ELEMENTS;
    /// Rows must be whole multiples of this many elements to be read in chunks: a block of a quantised format,
    /// and 16 bytes of a float. (Float rows of other lengths are read by [`Self::element`].)
    const ROW_MULTIPLE: usize =
        if Self::ELEMENTS > Self::CHUNK_ELEMENTS { Self::ELEMENTS } else { Self::CHUNK_ELEMENTS };

    /// Loads chunk `chunk` of the matrix, counted through all rows.
    fn load(matrix: Matrix<Self>, chunk: usize) -> Self::Chunk;

    /// First element of a run, counted like its chunk.
    fn start(chunk: usize, run: usize) -> usize;

    /// The chunk that holds run `run_idx` in the order of elements, and which of the chunk's runs it is.
    fn locate(run_idx: usize) -> (usize, usize);

    /// The floats f of a quad.
    fn quad(chunk: &Self::Chunk, run: usize, quad: usize) -> [f32; 4];

    /// What f − ZERO is multiplied by.
    fn scale(chunk: &Self::Chunk, run: usize) -> f32;

    /// What is added to the product.
    fn offset(chunk: &Self::Chunk, run: usize) -> f32;

    /// The values of a quad: bit for bit those of [`super::QuantBlock::decode`], since f − ZERO is exact.
    #[inline(always)]
    fn values(chunk: &Self::Chunk, run: usize, quad: usize) -> [f32; 4] {
        let [a, b, c, d] = Self::quad(chunk, run, quad);
        let (scale, offset) = (Self::scale(chunk, run), Self::offset(chunk, run));
        let value = |f: f32| {
            let q = if Self::ZERO == 0.0 { f } else { f - Self::ZERO };
            if Self::HAS_OFFSET { math::fma(q, scale, offset) } else { q * scale }
        };
        [value(a), value(b), value(c), value(d)]
    }

    /// The value of one element. The slow way, for rows whose length forbids wide loads: float formats only.
    fn element(matrix: Matrix<Self>, i: usize) -> f32;

    /// Whether rows of `n_cols` elements can be read in chunks.
    #[inline(always)]
    fn rows_in_chunks(n_cols: usize) -> bool {
        // A row of a quantised format is whole blocks by definition; the launcher asserts it.
        Self::ELEMENTS > 1 || n_cols.is_multiple_of(Self::ROW_MULTIPLE)
    }
}

/// Word `i` of four. With a constant `i` this is nothing; with a variable one it is three selections, where an
/// index would put the words into memory.
#[inline(always)]
fn pick(words: [u32; 4], i: usize) -> u32 {
    let (low, high) = if i.is_multiple_of(2) { (words[0], words[2]) } else { (words[1], words[3]) };
    if i < 2 { low } else { high }
}

/// The floats 1 + b / 128 of a word's four bytes 128 + b.
#[inline(always)]
fn bytes_to_f32(bytes: u32) -> [f32; 4] {
    const EXPONENT_OF_1: u32 = 0x3f00_0000; // its lowest bit is the 128 of the byte below
    let float = |selector| f32::from_bits(math::byte_perm(bytes, EXPONENT_OF_1, selector));
    [float(0x7044), float(0x7144), float(0x7244), float(0x7344)]
}

/// The floats b − 128 of a word's four bytes b: eight bits fit below the exponent of 2²³ only.
#[inline(always)]
fn signed_bytes_to_f32(bytes: u32) -> [f32; 4] {
    const TWO_TO_23: u32 = 0x4b00_0000;
    let float =
        |selector| f32::from_bits(math::byte_perm(bytes, TWO_TO_23, selector)) - (8_388_608.0 + 128.0);
    [float(0x7440), float(0x7441), float(0x7442), float(0x7443)]
}

/// The low (run 0) or high (run 1) nibbles of a word as bits `shift` to `shift + 3` of its bytes, `shift` in 1..=3.
#[inline(always)]
fn nibbles(word: u32, run: usize, shift: u32) -> u32 {
    word.rotate_left(if run == 0 { shift } else { 28 + shift }) & (0x0f0f_0f0f << shift)
}

/// The highest bit of every byte.
const TOP_BITS: u32 = 0x8080_8080;

/// Bits 0 to 3 of a word as bit 6 of its bytes 0 to 3.
#[inline(always)]
fn spread_to_bit_6(bits: u32) -> u32 {
    // Multiplying by 2⁶ · (1 + 2⁷ + 2¹⁴ + 2²¹) puts bit i at 8 i + 6 (and elsewhere, which the mask removes).
    ((bits & 0xf) * 0x0810_2040) & 0x4040_4040
}

#[inline(always)]
fn half(bits: u32) -> f32 {
    f16::from_bits(bits as u16).to_f32()
}

macro_rules! float_format {
    ($format:ty, $quads:literal, $bytes:literal, |$words:ident, $quad:ident| $values:expr, |$raw:ident| $value:expr) => {
        impl ChunkFormat for $format {
            type Chunk = [u32; 4];
            const QUADS: usize = $quads;
            const RUNS: usize = 1;
            const HAS_OFFSET: bool = false;
            const ZERO: f32 = 0.0;

            #[inline(always)]
            fn load(matrix: Matrix<Self>, chunk: usize) -> [u32; 4] {
                matrix.quants(0, chunk * LOAD_BYTES)
            }

            #[inline(always)]
            fn start(chunk: usize, _: usize) -> usize {
                chunk * Self::RUN_ELEMENTS
            }

            #[inline(always)]
            fn locate(run_idx: usize) -> (usize, usize) {
                (run_idx, 0)
            }

            #[inline(always)]
            fn quad($words: &[u32; 4], _: usize, $quad: usize) -> [f32; 4] {
                $values
            }

            #[inline(always)]
            fn scale(_: &[u32; 4], _: usize) -> f32 {
                1.0
            }

            #[inline(always)]
            fn offset(_: &[u32; 4], _: usize) -> f32 {
                0.0
            }

            #[inline(always)]
            fn element(matrix: Matrix<Self>, i: usize) -> f32 {
                let $raw = matrix.bytes.load::<$bytes>(i * $bytes);
                $value
            }
        }
    };
}

float_format!(
    F32,
    1,
    4,
    |words, _quad| [
        f32::from_bits(words[0]),
        f32::from_bits(words[1]),
        f32::from_bits(words[2]),
        f32::from_bits(words[3])
    ],
    |raw| f32::from_le_bytes(raw)
);
float_format!(
    F16,
    2,
    2,
    |words, quad| {
        let (a, b) = (pick(*words, 2 * quad), pick(*words, 2 * quad + 1));
        [half(a), half(a >> 16), half(b), half(b >> 16)]
    },
    |raw| half(u32::from(u16::from_le_bytes(raw)))
);
float_format!(
    BF16,
    2,
    2,
    |words, quad| {
        let (a, b) = (pick(*words, 2 * quad), pick(*words, 2 * quad + 1));
        let (low, high) = (|w: u32| f32::from_bits(w << 16), |w: u32| f32::from_bits(w & 0xffff_0000));
        [low(a), high(a), low(b), high(b)]
    },
    |raw| bf16::from_bits(u16::from_le_bytes(raw)).to_f32()
);

/// What a lane holds of a chunk of a 32-element format.
#[derive(Clone, Copy)]
pub struct LegacyChunk {
    /// Sixteen bytes of quants.
    qs: [u32; 4],
    /// The fifth bits of Q5; elsewhere unused.
    high: u32,
    /// The scale as a half; above it the minimum.
    scales: u32,
}

/// Formats of 32 elements whose chunk is a block: element i + 16 sits in the nibble above element i.
macro_rules! nibble_format {
    ($format:ty, scales: $scale_plane:literal, high: $high_plane:expr, has_min: $has_min:literal, bits: $bits:literal, zero: $zero:literal) => {
        impl ChunkFormat for $format {
            type Chunk = LegacyChunk;
            const QUADS: usize = 4;
            const RUNS: usize = 2;
            const HAS_OFFSET: bool = $has_min;
            const ZERO: f32 = 1.0 + $zero / (1 << $bits) as f32;

            #[inline(always)]
            fn load(matrix: Matrix<Self>, chunk: usize) -> LegacyChunk {
                let (bytes, planes) = (matrix.bytes, matrix.planes);
                let high: Option<usize> = $high_plane;
                LegacyChunk {
                    qs: matrix.quants(0, chunk * LOAD_BYTES),
                    high: match high {
                        Some(plane) => bytes.u32_at(planes[plane] + chunk * 4),
                        None => 0,
                    },
                    scales: if $has_min {
                        bytes.u32_at(planes[$scale_plane] + chunk * 4)
                    } else {
                        u32::from(bytes.u16_at(planes[$scale_plane] + chunk * 2))
                    },
                }
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
            fn quad(chunk: &LegacyChunk, run: usize, quad: usize) -> [f32; 4] {
                let low = nibbles(pick(chunk.qs, quad), run, 7 - $bits);
                let high: Option<usize> = $high_plane;
                let fifth =
                    if high.is_some() { spread_to_bit_6(chunk.high >> (16 * run + 4 * quad)) } else { 0 };
                bytes_to_f32(low | fifth | TOP_BITS)
            }

            #[inline(always)]
            fn scale(chunk: &LegacyChunk, _: usize) -> f32 {
                half(chunk.scales) * (1 << $bits) as f32
            }

            #[inline(always)]
            fn offset(chunk: &LegacyChunk, _: usize) -> f32 {
                if $has_min { half(chunk.scales >> 16) } else { 0.0 }
            }

            fn element(_: Matrix<Self>, _: usize) -> f32 {
                crate::simt::trap()
            }
        }
    };
}

nibble_format!(Q4_0, scales: 1, high: None, has_min: false, bits: 4, zero: 8.0);
nibble_format!(Q4_1, scales: 1, high: None, has_min: true, bits: 4, zero: 0.0);
nibble_format!(Q5_0, scales: 2, high: Some(1), has_min: false, bits: 5, zero: 16.0);
nibble_format!(Q5_1, scales: 2, high: Some(1), has_min: true, bits: 5, zero: 0.0);

/// A chunk is half a block: 16 bytes of quants.
impl ChunkFormat for Q8_0 {
    type Chunk = LegacyChunk;
    const QUADS: usize = 4;
    const RUNS: usize = 1;
    const HAS_OFFSET: bool = false;
    const ZERO: f32 = 0.0;

    #[inline(always)]
    fn load(matrix: Matrix<Self>, chunk: usize) -> LegacyChunk {
        let scale = matrix.bytes.u16_at(matrix.planes[1] + chunk / 2 * 2);
        LegacyChunk { qs: matrix.quants(0, chunk * LOAD_BYTES), high: 0, scales: u32::from(scale) }
    }

    #[inline(always)]
    fn start(chunk: usize, _: usize) -> usize {
        chunk * 16
    }

    #[inline(always)]
    fn locate(run_idx: usize) -> (usize, usize) {
        (run_idx, 0)
    }

    #[inline(always)]
    fn quad(chunk: &LegacyChunk, _: usize, quad: usize) -> [f32; 4] {
        // Two's complement with the sign bit flipped is q + 128.
        signed_bytes_to_f32(pick(chunk.qs, quad) ^ TOP_BITS)
    }

    #[inline(always)]
    fn scale(chunk: &LegacyChunk, _: usize) -> f32 {
        half(chunk.scales)
    }

    #[inline(always)]
    fn offset(_: &LegacyChunk, _: usize) -> f32 {
        0.0
    }

    fn element(_: Matrix<Self>, _: usize) -> f32 {
        crate::simt::trap()
    }
}

mod k;
mod k_low;
mod table;
