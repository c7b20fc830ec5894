//! The 32-element formats: one half-precision scale (and, in the `_1` formats, one minimum) for a block.
//!
//! Four-bit quants pair elements i and i + 16 in byte i (low and high nibble). The fifth bits of Q5 lie apart: bit
//! i of the 32-bit `qh` belongs to element i.

use super::{QuantBlock, f16_to_f32};

/// Elements of every format of this file.
const ELEMENTS: usize = 32;

macro_rules! legacy_block {
    ($(#[$doc:meta])* $block:ident, $name:literal, { $($(#[$field_doc:meta])* $field:ident: $ty:ty),* $(,)? }, $decode:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(not(target_arch = "nvptx64"), derive(bytemuck::Pod, bytemuck::Zeroable))]
        #[repr(C)]
        pub struct $block { $($(#[$field_doc])* pub $field: $ty),* }

        impl QuantBlock for $block {
            const NAME: &'static str = $name;
            const ELEMENTS: usize = ELEMENTS;
            const BYTES: usize = size_of::<Self>();

            #[inline]
            fn decode(&self, out: &mut [f32]) {
                let out: &mut [f32; ELEMENTS] = out.try_into().expect("32 values");
                let decode: fn(&Self, &mut [f32; ELEMENTS]) = $decode;
                decode(self, out)
            }
        }
    };
}

#[inline(always)]
fn half(bytes: [u8; 2]) -> f32 {
    f16_to_f32(u16::from_le_bytes(bytes))
}

legacy_block!(
    /// value = d · (q − 8), q in 0..16.
    Q4_0, "q4_0",
    {
        /// The scale, a half.
        d: [u8; 2],
        /// Quants i (low nibble) and i + 16 (high).
        qs: [u8; 16],
    },
    |block, out| {
        let d = half(block.d);
        for (i, &byte) in block.qs.iter().enumerate() {
            out[i] = d * ((byte & 15) as i32 - 8) as f32;
            out[i + 16] = d * ((byte >> 4) as i32 - 8) as f32;
        }
    }
);

legacy_block!(
    /// value = d · q + m, q in 0..16.
    Q4_1, "q4_1",
    {
        /// The scale, a half.
        d: [u8; 2],
        /// The minimum, a half.
        m: [u8; 2],
        /// Quants i (low nibble) and i + 16 (high).
        qs: [u8; 16],
    },
    |block, out| {
        let (d, m) = (half(block.d), half(block.m));
        for (i, &byte) in block.qs.iter().enumerate() {
            out[i] = d * (byte & 15) as f32 + m;
            out[i + 16] = d * (byte >> 4) as f32 + m;
        }
    }
);

legacy_block!(
    /// value = d · (q − 16), q in 0..32.
    Q5_0, "q5_0",
    {
        /// The scale, a half.
        d: [u8; 2],
        /// Bit i is the fifth bit of quant i.
        qh: [u8; 4],
        /// The lower four bits of quants i (low nibble) and i + 16 (high).
        qs: [u8; 16],
    },
    |block, out| {
        let d = half(block.d);
        let high = u32::from_le_bytes(block.qh);
        for (i, &byte) in block.qs.iter().enumerate() {
            let (low, upper) = fifth_bits(byte, high, i);
            out[i] = d * (low as i32 - 16) as f32;
            out[i + 16] = d * (upper as i32 - 16) as f32;
        }
    }
);

legacy_block!(
    /// value = d · q + m, q in 0..32.
    Q5_1, "q5_1",
    {
        /// The scale, a half.
        d: [u8; 2],
        /// The minimum, a half.
        m: [u8; 2],
        /// Bit i is the fifth bit of quant i.
        qh: [u8; 4],
        /// The lower four bits of quants i (low nibble) and i + 16 (high).
        qs: [u8; 16],
    },
    |block, out| {
        let (d, m) = (half(block.d), half(block.m));
        let high = u32::from_le_bytes(block.qh);
        for (i, &byte) in block.qs.iter().enumerate() {
            let (low, upper) = fifth_bits(byte, high, i);
            out[i] = d * low as f32 + m;
            out[i + 16] = d * upper as f32 + m;
        }
    }
);

legacy_block!(
    /// value = d · q, q a signed byte.
    Q8_0, "q8_0",
    {
        /// The scale, a half.
        d: [u8; 2],
        /// Quants in the row's order.
        qs: [i8; 32],
    },
    |block, out| {
        let d = half(block.d);
        for (value, &q) in out.iter_mut().zip(&block.qs) {
            *value = d * q as f32;
        }
    }
);

/// The five-bit quants i and i + 16: nibbles of `byte`, fifth bits from `high`.
#[inline(always)]
fn fifth_bits(byte: u8, high: u32, i: usize) -> (u32, u32) {
    let low = byte as u32 & 15 | (high >> i & 1) << 4;
    let upper = byte as u32 >> 4 | (high >> (i + 16) & 1) << 4;
    (low, upper)
}
