//! Products of small matrices, on the tensor cores: words of a warp, like those of [`warp`](super::warp).
//!
//! The matrices lie in the registers of the 32 lanes; the elements of a lane follow from `group = lane / 4` and
//! `place = lane % 4`. Registers hold neighbouring elements, the first in the lowest bits. With E elements to a register (two
//! of 16 bits, four of 8):
//!
//! | matrix | register | row | column |
//! |---|---|---|---|
//! | a, 16 × 8E | 0 to 3 | group, + 8 in 1 and 3 | from E · place on, + 4E in 2 and 3 |
//! | b, 8E × 8 | 0 and 1 | from E · place on, + 4E in 1 | group |
//! | c and result, 16 × 8 | 0 to 3 | group, + 8 in 2 and 3 | 2 · place, + 1 in 1 and 3 |
//!
//! [`Tile::ldmatrix_x4`](super::Tile::ldmatrix_x4) brings a and b from shared memory into this order.
//!
//! The order in which the hardware adds the products of floating-point numbers, and how many of their bits it keeps, is not
//! specified; the emulator adds them in f64 and rounds once. A bound of an error must allow for a chain of one rounding
//! for each product.

use super::target;

/// a · b + c for f16: a is 16 × 16, b 16 × 8, c and the result 16 × 8 of f32.
#[inline(always)]
#[track_caller]
pub fn mma_m16n8k16_f16(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4] {
    target::mma_m16n8k16_f16(a, b, c)
}

/// a · b + c for bf16: a is 16 × 16, b 16 × 8, c and the result 16 × 8 of f32.
#[inline(always)]
#[track_caller]
pub fn mma_m16n8k16_bf16(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4] {
    target::mma_m16n8k16_bf16(a, b, c)
}

/// a · b + c for signed bytes: a is 16 × 32, b 32 × 8, c and the result 16 × 8 of i32, which wrap around.
#[inline(always)]
#[track_caller]
pub fn mma_m16n8k32_s8(a: [u32; 4], b: [u32; 2], c: [i32; 4]) -> [i32; 4] {
    target::mma_m16n8k32_s8(a, b, c)
}
