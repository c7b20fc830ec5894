//! Types that views and tiles consist of.

use super::{bf16, f16};

/// A type of which memory can hold arrays: any bytes are a value, and the size (1, 2, 4 or 8 bytes) is
/// the alignment.
///
/// # Safety
/// Implementors have no padding, no invalid bit patterns, and the stated size and alignment.
pub unsafe trait Element: Plain + Copy + Send + Sync + 'static {
    /// All bits zero.
    const ZERO: Self;
}

/// On the host, elements are plain data for `bytemuck`.
#[cfg(not(target_arch = "nvptx64"))]
pub use bytemuck::Pod as Plain;
/// On the GPU nothing converts slices of them.
#[cfg(target_arch = "nvptx64")]
pub trait Plain {}
#[cfg(target_arch = "nvptx64")]
impl<T> Plain for T {}

macro_rules! elements {
    ($($ty:ty: $zero:expr),*) => {$(
        // SAFETY: a number without padding; 1, 2, 4 or 8 bytes, aligned to its size.
        unsafe impl Element for $ty {
            const ZERO: Self = $zero;
        }
    )*};
}

elements!(u8: 0, i8: 0, u16: 0, i16: 0, u32: 0, i32: 0, u64: 0, f32: 0.0);
elements!(f16: f16::from_bits(0), bf16: bf16::from_bits(0));

/// A floating-point element. Kernels compute in f32, whatever type their results have.
pub trait Float: Element {
    /// The nearest value, ties to even.
    fn from_f32(value: f32) -> Self;
    /// The same value, exactly.
    fn to_f32(self) -> f32;
}

impl Float for f32 {
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Float for f16 {
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
}

/// `N` elements as f32.
#[inline(always)]
pub fn widen<T: Float, const N: usize>(values: [T; N]) -> [f32; N] {
    let mut wide = [0.0; N];
    let mut i = 0;
    while i < N {
        wide[i] = values[i].to_f32();
        i += 1;
    }
    wide
}

/// `N` values as elements.
#[inline(always)]
pub fn narrow<T: Float, const N: usize>(values: [f32; N]) -> [T; N] {
    let mut elements = [T::ZERO; N];
    let mut i = 0;
    while i < N {
        elements[i] = T::from_f32(values[i]);
        i += 1;
    }
    elements
}

/// An element of 16 bits, of which eight are a row of `Tile::ldmatrix_x4` and its like.
pub trait Bits16: Element {}

impl Bits16 for u16 {}
impl Bits16 for i16 {}
impl Bits16 for f16 {}
impl Bits16 for bf16 {}
