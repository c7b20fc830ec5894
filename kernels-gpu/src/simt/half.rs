//! 16-bit floating-point types, and pairs of them.

use super::target;

/// IEEE 754 binary16: 1 sign, 5 exponent and 10 fraction bits.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
pub struct f16(u16);

/// bfloat16, the upper half of an [`f32`]: 1 sign, 8 exponent and 7 fraction bits.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
pub struct bf16(u16);

macro_rules! bits {
    ($ty:ident, $bits:ty) => {
        #[cfg(not(target_arch = "nvptx64"))]
        // SAFETY: a transparent wrapper of an integer; every bit pattern is a value.
        unsafe impl bytemuck::Zeroable for $ty {}
        #[cfg(not(target_arch = "nvptx64"))]
        // SAFETY: as above; no padding.
        unsafe impl bytemuck::Pod for $ty {}

        impl $ty {
            /// The value with these bits.
            #[inline(always)]
            pub const fn from_bits(bits: $bits) -> Self {
                Self(bits)
            }

            /// The bits of the value.
            #[inline(always)]
            pub const fn to_bits(self) -> $bits {
                self.0
            }
        }
    };
}

bits!(f16, u16);
bits!(bf16, u16);

impl f16 {
    /// The nearest value, ties to even; infinity from 65520 on.
    #[inline(always)]
    pub fn from_f32(value: f32) -> Self {
        Self(target::f16_from_f32(value))
    }

    /// The same value, exactly.
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        target::f16_to_f32(self.0)
    }
}

impl bf16 {
    /// The nearest value, ties to even.
    #[inline(always)]
    pub fn from_f32(value: f32) -> Self {
        Self(target::bf16_from_f32(value))
    }

    /// The same value, exactly.
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        f32::from_bits((self.0 as u32) << 16)
    }
}

macro_rules! pair {
    ($(#[$doc:meta])* $pair:ident of $half:ident: $from_f32:ident, $add:ident, $mul:ident, $fma:ident) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types)]
        pub struct $pair(u32);

        bits!($pair, u32);

        impl $pair {
            /// The pair of `low` and `high`.
            #[inline(always)]
            pub fn new(low: $half, high: $half) -> Self {
                Self(low.0 as u32 | (high.0 as u32) << 16)
            }

            /// The pair of the nearest values, ties to even: one instruction.
            #[inline(always)]
            pub fn from_f32(low: f32, high: f32) -> Self {
                Self(target::$from_f32(low, high))
            }

            /// The first.
            #[inline(always)]
            pub fn low(self) -> $half {
                $half(self.0 as u16)
            }

            /// The second.
            #[inline(always)]
            pub fn high(self) -> $half {
                $half((self.0 >> 16) as u16)
            }

            /// Both as f32, exactly.
            #[inline(always)]
            pub fn to_f32(self) -> (f32, f32) {
                (self.low().to_f32(), self.high().to_f32())
            }

            /// `self · b + c` in each half, rounded once.
            #[inline(always)]
            pub fn fma(self, b: Self, c: Self) -> Self {
                Self(target::$fma(self.0, b.0, c.0))
            }
        }

        // `x + y` and `x * y` of pairs, each half rounded to nearest even.
        impl core::ops::Add for $pair {
            type Output = Self;

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                Self(target::$add(self.0, other.0))
            }
        }

        impl core::ops::Mul for $pair {
            type Output = Self;

            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                Self(target::$mul(self.0, other.0))
            }
        }
    };
}

pair! {
    /// Two [`f16`](struct@f16) in one register, the first in the low half.
    f16x2 of f16: f16x2_from_f32, f16x2_add, f16x2_mul, f16x2_fma
}

pair! {
    /// Two [`bf16`] in one register, the first in the low half.
    bf16x2 of bf16: bf16x2_from_f32, bf16x2_add, bf16x2_mul, bf16x2_fma
}
