//! Arithmetic on pairs of 16-bit floating-point numbers: exact, then rounded once.

use half::{bf16, f16};

/// NaN as the GPU's instructions on pairs give it.
const NAN: u16 = 0x7fff;

/// Does `op` in both halves.
fn halves(operands: [u32; 3], op: impl Fn([u16; 3]) -> u16) -> u32 {
    let half = |shift: u32| u32::from(op(operands.map(|pair| (pair >> shift) as u16))) << shift;
    half(0) | half(16)
}

fn f16_fma([a, b, c]: [u16; 3]) -> u16 {
    let [a, b, c] = [a, b, c].map(|bits| f16::from_bits(bits).to_f64());
    let nearest = f16::from_f32(f32_to_odd(fma_to_odd(a, b, c)));
    if nearest.is_nan() { NAN } else { nearest.to_bits() }
}

fn bf16_fma([a, b, c]: [u16; 3]) -> u16 {
    let [a, b, c] = [a, b, c].map(|bits| bf16::from_bits(bits).to_f64());
    let nearest = bf16::from_f32(f32_to_odd(fma_to_odd(a, b, c)));
    if nearest.is_nan() { NAN } else { nearest.to_bits() }
}

/// `a · b + c` of 16-bit numbers, rounded to odd: of the two neighbours of an inexact result the one whose last bit is
/// one. From there a result of far fewer bits can be rounded to nearest as if from the exact value, since a
/// rounding to odd never makes a tie. (The sum is not always exact: a product that is a tie, plus 2⁻¹⁰⁰.)
fn fma_to_odd(a: f64, b: f64, c: f64) -> f64 {
    let product = a * b; // Exact: 22 bits at most, and far from f64's limits.
    let sum = product + c;
    // Knuth's error of a sum, which is exact.
    let without_c = sum - c;
    let error = (product - without_c) + (c - (sum - without_c));
    if error == 0.0 || !error.is_finite() || sum.to_bits() & 1 == 1 {
        return sum;
    }
    if (error > 0.0) == (sum > 0.0) { away_from_zero(sum) } else { towards_zero(sum) }
}

fn away_from_zero(x: f64) -> f64 {
    f64::from_bits(x.to_bits() + 1)
}

fn towards_zero(x: f64) -> f64 {
    f64::from_bits(x.to_bits() - 1)
}

/// A value as f32, rounded to odd. (What the crate `half` makes of an f64 looks at its upper 32 bits alone.)
fn f32_to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let back = f64::from(nearest);
    if back == x || x.is_nan() || nearest.to_bits() & 1 == 1 {
        return nearest;
    }
    let step = if back.abs() < x.abs() { 1 } else { u32::MAX };
    f32::from_bits(nearest.to_bits().wrapping_add(step))
}

/// One, and the zero that added to a product changes none, not even −0.
const F16_ONE: u32 = 0x3c00_3c00;
const BF16_ONE: u32 = 0x3f80_3f80;
const NEGATIVE_ZERO: u32 = 0x8000_8000;

pub fn f16x2_fma(a: u32, b: u32, c: u32) -> u32 {
    halves([a, b, c], f16_fma)
}

pub fn f16x2_add(a: u32, b: u32) -> u32 {
    f16x2_fma(a, F16_ONE, b)
}

pub fn f16x2_mul(a: u32, b: u32) -> u32 {
    f16x2_fma(a, b, NEGATIVE_ZERO)
}

pub fn f16x2_from_f32(low: f32, high: f32) -> u32 {
    u32::from(f16::from_f32(low).to_bits()) | u32::from(f16::from_f32(high).to_bits()) << 16
}

pub fn bf16x2_fma(a: u32, b: u32, c: u32) -> u32 {
    halves([a, b, c], bf16_fma)
}

pub fn bf16x2_add(a: u32, b: u32) -> u32 {
    bf16x2_fma(a, BF16_ONE, b)
}

pub fn bf16x2_mul(a: u32, b: u32) -> u32 {
    bf16x2_fma(a, b, NEGATIVE_ZERO)
}

pub fn bf16x2_from_f32(low: f32, high: f32) -> u32 {
    u32::from(bf16::from_f32(low).to_bits()) | u32::from(bf16::from_f32(high).to_bits()) << 16
}
