//! GGUF block formats: what the bytes of one block mean, and where the GPU keeps them.
//!
//! A GGUF tensor is a row-major array of blocks; a block holds [`QuantBlock::ELEMENTS`] consecutive elements of a
//! row in [`QuantBlock::BYTES`] bytes. The structs here are these bytes, little-endian and without alignment, so
//! that a file's bytes can be viewed as blocks where they lie. [`QuantBlock::decode`] is exact: the product of a
//! block's scale and a sub-block's scale fits an f32, and every element is rounded once. No order of evaluation
//! and no fused multiply-add can change a bit, so the CPU, the emulator and the GPU agree.
//!
//! [`layout`] says how the same blocks lie in GPU memory, [`fragments`] what is behind it: the order that the tensor cores
//! want.

mod float;
pub mod fragments;
pub mod halves;
mod k;
pub mod layout;
mod legacy;
pub mod pieces;
mod table;

pub use float::{BF16, F16, F32};
pub use k::{Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, q3_scale, scale_min};
pub use legacy::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
pub use table::{E2M1_LEVELS, IQ4_LEVELS, IQ4_NL, IQ4_XS, MXFP4, half_e8m0};

/// A block of a GGUF tensor: raw little-endian bytes with an exact meaning.
pub trait QuantBlock: Copy + Send + Sync + 'static {
    /// The format's name as kernels and files of this project spell it: `q4_0`.
    const NAME: &'static str;
    /// Elements a block holds, consecutive in a row.
    const ELEMENTS: usize;
    /// Bytes of a block in a file.
    const BYTES: usize;

    /// Writes the block's [`Self::ELEMENTS`] values, in the row's order.
    ///
    /// # Panics
    /// If `out` is not exactly that long.
    fn decode(&self, out: &mut [f32]);
}

/// Decodes a row, or any run of whole blocks.
///
/// # Panics
/// If `out` does not hold exactly `blocks.len() * B::ELEMENTS` values.
pub fn decode_blocks<B: QuantBlock>(blocks: &[B], out: &mut [f32]) {
    assert!(
        out.len() == blocks.len() * B::ELEMENTS,
        "{} blocks of {} hold {} values, the output {}",
        blocks.len(),
        B::NAME,
        blocks.len() * B::ELEMENTS,
        out.len()
    );
    for (block, values) in blocks.iter().zip(out.chunks_exact_mut(B::ELEMENTS)) {
        block.decode(values);
    }
}

/// The value of an IEEE half. Exact; a NaN keeps its sign and payload.
///
/// Integer arithmetic only: the same bits on every machine, with or without flush-to-zero.
#[inline(always)]
pub const fn f16_to_f32(bits: u16) -> f32 {
    let sign = (bits as u32 & 0x8000) << 16;
    let exponent = bits as u32 >> 10 & 0x1f;
    let mantissa = bits as u32 & 0x3ff;
    let magnitude = if exponent == 0x1f {
        0x7f80_0000 | mantissa << 13
    } else if exponent != 0 {
        (exponent + (127 - 15)) << 23 | mantissa << 13
    } else if mantissa == 0 {
        0
    } else {
        // A subnormal m * 2^-24 is normal in f32: shift its highest bit into the implicit one's place.
        let shift = mantissa.leading_zeros() - 21;
        (127 - 14 - shift) << 23 | (mantissa << shift & 0x3ff) << 13
    };
    f32::from_bits(sign | magnitude)
}

/// The value of a bfloat16: the upper half of an f32.
#[inline(always)]
pub const fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

#[cfg(test)]
mod tests;
