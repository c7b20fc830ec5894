//! The formats whose four-bit quants are indices of a table: IQ4_NL, IQ4_XS and MXFP4.
//!
//! As in Q4_0, elements i and i + 16 share byte i (low and high nibble). A level is an integer below 128, a scale has at
//! most 11 + 6 bits, so every product is exact.

use super::{QuantBlock, f16_to_f32};

/// What the quants of IQ4_NL and IQ4_XS stand for: close together near zero, where most weights are.
pub const IQ4_LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Twice what the quants of MXFP4 stand for, floats with two bits of exponent and one of mantissa (E2M1). Quant 8 is
/// the standard's -0; a zero without sign here, as in ggml.
pub const E2M1_LEVELS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// value = d · level(q).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "nvptx64"), derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
#[allow(non_camel_case_types)]
pub struct IQ4_NL {
    /// The scale, a half.
    pub d: [u8; 2],
    /// Quants i (low nibble) and i + 16 (high).
    pub qs: [u8; 16],
}

/// value = (d · (scale − 32)) · level(q); eight sub-blocks of 32 with 6-bit scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "nvptx64"), derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
#[allow(non_camel_case_types)]
pub struct IQ4_XS {
    /// The scale of the scales, a half.
    pub d: [u8; 2],
    /// Bits 2 s and 2 s + 1 of this little-endian number are the upper two of scale s.
    pub scales_h: [u8; 2],
    /// The lower four bits of scales 2 i (low nibble) and 2 i + 1 (high).
    pub scales_l: [u8; 4],
    /// Byte 16 s + i of sub-block s: quants 32 s + i (low nibble) and 32 s + 16 + i (high).
    pub qs: [u8; 128],
}

/// value = 2^(e − 128) · level(q), the levels being those of [`E2M1_LEVELS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "nvptx64"), derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct MXFP4 {
    /// The exponent of the scale (E8M0).
    pub e: u8,
    /// Quants i (low nibble) and i + 16 (high).
    pub qs: [u8; 16],
}

impl IQ4_XS {
    /// Scale of sub-block `s` (0..8), 32 already taken off.
    #[inline(always)]
    pub fn scale(&self, s: usize) -> i8 {
        let low = self.scales_l[s / 2] >> (4 * (s % 2)) & 15;
        let high = (u16::from_le_bytes(self.scales_h) >> (2 * s) & 3) as u8;
        (low | high << 4) as i8 - 32
    }
}

/// Half of a scale of MXFP4: 2^(e − 128), with 2^127 for e = 255, which the standard calls a NaN and ggml does not.
#[inline(always)]
pub const fn half_e8m0(e: u8) -> f32 {
    // Below 2^-126 an f32 is subnormal: 2^-128 and 2^-127 are bits of the mantissa.
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e as u32 - 1) << 23 })
}

/// Writes the 32 values of sixteen bytes of quants.
#[inline(always)]
fn decode_nibbles(out: &mut [f32], scale: f32, levels: &[i8; 16], qs: &[u8]) {
    let (low, high) = out.split_at_mut(16);
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(qs) {
        *low = scale * levels[(byte & 15) as usize] as f32;
        *high = scale * levels[(byte >> 4) as usize] as f32;
    }
}

#[inline(always)]
fn half(bytes: [u8; 2]) -> f32 {
    f16_to_f32(u16::from_le_bytes(bytes))
}

impl QuantBlock for IQ4_NL {
    const NAME: &'static str = "iq4_nl";
    const ELEMENTS: usize = 32;
    const BYTES: usize = size_of::<Self>();

    #[inline]
    fn decode(&self, out: &mut [f32]) {
        let out: &mut [f32; 32] = out.try_into().expect("32 values");
        decode_nibbles(out, half(self.d), &IQ4_LEVELS, &self.qs);
    }
}

impl QuantBlock for IQ4_XS {
    const NAME: &'static str = "iq4_xs";
    const ELEMENTS: usize = 256;
    const BYTES: usize = size_of::<Self>();

    #[inline]
    fn decode(&self, out: &mut [f32]) {
        let out: &mut [f32; 256] = out.try_into().expect("256 values");
        let d = half(self.d);
        for (s, (values, qs)) in out.chunks_exact_mut(32).zip(self.qs.chunks_exact(16)).enumerate() {
            decode_nibbles(values, d * self.scale(s) as f32, &IQ4_LEVELS, qs);
        }
    }
}

impl QuantBlock for MXFP4 {
    const NAME: &'static str = "mxfp4";
    const ELEMENTS: usize = 32;
    const BYTES: usize = size_of::<Self>();

    #[inline]
    fn decode(&self, out: &mut [f32]) {
        let out: &mut [f32; 32] = out.try_into().expect("32 values");
        decode_nibbles(out, half_e8m0(self.e), &E2M1_LEVELS, &self.qs);
    }
}
