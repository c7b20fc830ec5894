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

/// An element of 16 bits, of which eight are a row of `Tile::ldmatrix_x4` and its like.
pub trait Bits16: Element {}

impl Bits16 for u16 {}
impl Bits16 for i16 {}
impl Bits16 for f16 {}
impl Bits16 for bf16 {}
