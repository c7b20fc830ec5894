//! The K formats: 256 elements with two levels of scales.
//!
//! A half-precision scale covers the block; Q4_K and Q5_K have eight sub-blocks of 32 with a 6-bit scale and a
//! 6-bit minimum each, Q2_K has sixteen of 16 with a 4-bit scale and a 4-bit minimum, Q3_K and Q6_K have sixteen of 16
//! with a signed scale of 6 and of 8 bits. A half times a scale of 6 or 8 bits times a quant needs at most 11 + 8 + 6
//! bits, of which the lowest is the quant's sign, so every product is exact in an f32 and only the subtraction of the
//! minimum rounds.
//!
//! Q2_K and Q3_K keep the two (lower) bits of a quant in the same order: bits 2 k and 2 k + 1 of byte 32 n + i belong to
//! element i of quarter k (32 elements) of half n (128 elements).

use super::{QuantBlock, f16_to_f32};

/// Elements of every format of this file.
const ELEMENTS: usize = 256;

/// value = (d · scale) · q − (dmin · min), q in 0..4; sixteen sub-blocks of 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "nvptx64"), derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
#[allow(non_camel_case_types)]
pub struct Q2_K {
    /// Scale (low nibble) and minimum (high) of elements 16 s to 16 s + 15.
    pub scales: [u8; 16],
    /// Byte 32 n + i of half n: quants 128 n + i + 0, 32, 64, 96, from the lowest bits up.
    pub qs: [u8; 64],
    /// The scale of the scales, a half.
    pub d: [u8; 2],
    /// The scale of the minima, a half.
    pub dmin: [u8; 2],
}

/// value = (d · (scale − 32)) · (q − 4), q in 0..8; sixteen sub-blocks of 16 with 6-bit scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "nvptx64"), derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
#[allow(non_camel_case_types)]
pub struct Q3_K {
    /// Bit k of byte i is the third bit of element 32 k + i.
    pub hmask: [u8; 32],
    /// Byte 32 n + i of half n: lower bits of quants 128 n + i + 0, 32, 64, 96, from the lowest bits up.
    pub qs: [u8; 64],
    /// Sixteen scales of 6 bits: see [`q3_scale`].
    pub scales: [u8; 12],
    /// The scale of the scales, a half.
    pub d: [u8; 2],
}

/// value = (d · scale) · q − (dmin · min), q in 0..16; eight sub-blocks of 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "nvptx64"), derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
#[allow(non_camel_case_types)]
pub struct Q4_K {
    /// The scale of the scales, a half.
    pub d: [u8; 2],
    /// The scale of the minima, a half.
    pub dmin: [u8; 2],
    /// Eight scales and eight minima of 6 bits: see [`scale_min`].
    pub scales: [u8; 12],
    /// Byte 32 g + i: quants 64 g + i (low nibble) and 64 g + 32 + i (high).
    pub qs: [u8; 128],
}

/// value = (d · scale) · q − (dmin · min), q in 0..32; eight sub-blocks of 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "nvptx64"), derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
#[allow(non_camel_case_types)]
pub struct Q5_K {
    /// The scale of the scales, a half.
    pub d: [u8; 2],
    /// The scale of the minima, a half.
    pub dmin: [u8; 2],
    /// Eight scales and eight minima of 6 bits: see [`scale_min`].
    pub scales: [u8; 12],
    /// Bit s of byte i is the fifth bit of element i of sub-block s.
    pub qh: [u8; 32],
    /// Byte 32 g + i: the lower bits of quants 64 g + i (low nibble) and 64 g + 32 + i (high).
    pub qs: [u8; 128],
}

/// value = (d · scale) · (q − 32), q in 0..64; sixteen sub-blocks of 16 with signed scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "nvptx64"), derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
#[allow(non_camel_case_types)]
pub struct Q6_K {
    /// Byte 64 n + i of half n: lower bits of quants 128 n + i (low nibble) and 128 n + 64 + i (high).
    pub ql: [u8; 128],
    /// Byte 32 n + i of half n: upper two bits of quants 128 n + i + 0, 32, 64, 96, from the lowest bits up.
    pub qh: [u8; 64],
    /// Scale s covers elements 16 s to 16 s + 15.
    pub scales: [i8; 16],
    /// The scale of the scales, a half.
    pub d: [u8; 2],
}

/// Scale of sub-block `s` (0..16) from the twelve bytes of Q3_K, 32 already taken off.
///
/// Bytes 0 to 7 hold the lower four bits of scales 0 to 7 (low nibble) and 8 to 15 (high); byte 8 + i holds the upper two
/// of scales i, i + 4, i + 8 and i + 12, from the lowest bits up.
#[inline(always)]
pub fn q3_scale(scales: &[u8; 12], s: usize) -> i8 {
    let low = scales[s % 8] >> (4 * (s / 8)) & 15;
    let high = scales[8 + s % 4] >> (2 * (s / 4)) & 3;
    (low | high << 4) as i8 - 32
}

/// Scale and minimum of sub-block `s` (0..8) from the twelve bytes of Q4_K and Q5_K.
///
/// Bytes 0 to 3 and 4 to 7 hold the scales and minima of sub-blocks 0 to 3 in their lower six bits. Those of
/// sub-blocks 4 to 7 have their lower four bits in bytes 8 to 11 (scale low, minimum high) and their upper two on
/// top of the bytes of the sub-block four before.
#[inline(always)]
pub fn scale_min(scales: &[u8; 12], s: usize) -> (u8, u8) {
    if s < 4 {
        (scales[s] & 63, scales[s + 4] & 63)
    } else {
        let low = scales[s + 4];
        (low & 15 | scales[s - 4] >> 6 << 4, low >> 4 | scales[s] >> 6 << 4)
    }
}

/// The scale and the minimum of sub-block `s` as values: both products are exact.
#[inline(always)]
fn sub_block(d: [u8; 2], dmin: [u8; 2], scales: &[u8; 12], s: usize) -> (f32, f32) {
    let (scale, min) = scale_min(scales, s);
    (half(d) * scale as f32, half(dmin) * min as f32)
}

#[inline(always)]
fn half(bytes: [u8; 2]) -> f32 {
    f16_to_f32(u16::from_le_bytes(bytes))
}

impl QuantBlock for Q2_K {
    const NAME: &'static str = "q2_k";
    const ELEMENTS: usize = ELEMENTS;
    const BYTES: usize = size_of::<Self>();

    #[inline]
    fn decode(&self, out: &mut [f32]) {
        let out: &mut [f32; ELEMENTS] = out.try_into().expect("256 values");
        let (d, dmin) = (half(self.d), half(self.dmin));
        for (quarter, values) in out.chunks_exact_mut(32).enumerate() {
            let (n, k) = (quarter / 4, quarter % 4);
            for (i, value) in values.iter_mut().enumerate() {
                let scales = self.scales[2 * quarter + i / 16];
                let (scale, min) = (d * (scales & 15) as f32, dmin * (scales >> 4) as f32);
                *value = scale * (self.qs[32 * n + i] >> (2 * k) & 3) as f32 - min;
            }
        }
    }
}

impl QuantBlock for Q3_K {
    const NAME: &'static str = "q3_k";
    const ELEMENTS: usize = ELEMENTS;
    const BYTES: usize = size_of::<Self>();

    #[inline]
    fn decode(&self, out: &mut [f32]) {
        let out: &mut [f32; ELEMENTS] = out.try_into().expect("256 values");
        let d = half(self.d);
        for (quarter, values) in out.chunks_exact_mut(32).enumerate() {
            let (n, k) = (quarter / 4, quarter % 4);
            for (i, value) in values.iter_mut().enumerate() {
                let q = self.qs[32 * n + i] >> (2 * k) & 3 | (self.hmask[i] >> quarter & 1) << 2;
                let scale = d * q3_scale(&self.scales, 2 * quarter + i / 16) as f32;
                *value = scale * (q as i32 - 4) as f32;
            }
        }
    }
}

impl QuantBlock for Q4_K {
    const NAME: &'static str = "q4_k";
    const ELEMENTS: usize = ELEMENTS;
    const BYTES: usize = size_of::<Self>();

    #[inline]
    fn decode(&self, out: &mut [f32]) {
        let out: &mut [f32; ELEMENTS] = out.try_into().expect("256 values");
        for group in 0..4 {
            let bytes = &self.qs[group * 32..][..32];
            for half in 0..2 {
                let s = 2 * group + half;
                let (scale, min) = sub_block(self.d, self.dmin, &self.scales, s);
                for (value, &byte) in out[s * 32..][..32].iter_mut().zip(bytes) {
                    *value = scale * (byte >> (4 * half) & 15) as f32 - min;
                }
            }
        }
    }
}

impl QuantBlock for Q5_K {
    const NAME: &'static str = "q5_k";
    const ELEMENTS: usize = ELEMENTS;
    const BYTES: usize = size_of::<Self>();

    #[inline]
    fn decode(&self, out: &mut [f32]) {
        let out: &mut [f32; ELEMENTS] = out.try_into().expect("256 values");
        for group in 0..4 {
            let bytes = &self.qs[group * 32..][..32];
            for half in 0..2 {
                let s = 2 * group + half;
                let (scale, min) = sub_block(self.d, self.dmin, &self.scales, s);
                for (i, value) in out[s * 32..][..32].iter_mut().enumerate() {
                    let q = bytes[i] >> (4 * half) & 15 | (self.qh[i] >> s & 1) << 4;
                    *value = scale * q as f32 - min;
                }
            }
        }
    }
}

impl QuantBlock for Q6_K {
    const NAME: &'static str = "q6_k";
    const ELEMENTS: usize = ELEMENTS;
    const BYTES: usize = size_of::<Self>();

    #[inline]
    fn decode(&self, out: &mut [f32]) {
        let out: &mut [f32; ELEMENTS] = out.try_into().expect("256 values");
        let d = half(self.d);
        // Quarter k (32 elements) of half n: nibbles of the even or odd 32 bytes of `ql`, bits 2k of `qh`.
        for (quarter, values) in out.chunks_exact_mut(32).enumerate() {
            let (n, k) = (quarter / 4, quarter % 4);
            let low = &self.ql[64 * n + 32 * (k % 2)..][..32];
            let high = &self.qh[32 * n..][..32];
            for (i, value) in values.iter_mut().enumerate() {
                let q = low[i] >> (4 * (k / 2)) & 15 | (high[i] >> (2 * k) & 3) << 4;
                let scale = d * self.scales[2 * quarter + i / 16] as f32;
                *value = scale * (q as i32 - 32) as f32;
            }
        }
    }
}
