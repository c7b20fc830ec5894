//! Pairs of 16-bit numbers, against a definition in whole numbers.

use kernels_gpu::launch::{Device, Grid};
use kernels_gpu::simt::prelude::*;

use crate::{emulator, unwritten, upload};

/// A 16-bit format.
#[derive(Clone, Copy)]
struct Format {
    fraction_bits: i32,
    /// Exponent of the smallest positive value.
    least: i32,
}

const F16: Format = Format { fraction_bits: 10, least: -24 };
const BF16: Format = Format { fraction_bits: 7, least: -133 };

impl Format {
    fn infinity(self) -> u16 {
        0x7fff >> self.fraction_bits << self.fraction_bits
    }

    fn is_finite(self, bits: u16) -> bool {
        bits & self.infinity() != self.infinity()
    }

    fn is_nan(self, bits: u16) -> bool {
        bits & 0x7fff > self.infinity()
    }

    /// A finite value as `n · 2^e`.
    fn parts(self, bits: u16) -> (i128, i32) {
        let exponent = i32::from(bits & 0x7fff) >> self.fraction_bits;
        let fraction = i128::from(bits) & ((1 << self.fraction_bits) - 1);
        let hidden = if exponent > 0 { 1 << self.fraction_bits } else { 0 };
        let sign = if bits >> 15 == 1 { -1 } else { 1 };
        (sign * (fraction + hidden), self.least + (exponent - 1).max(0))
    }

    /// The value nearest to `n · 2^e`, n not zero; ties to even.
    fn nearest(self, n: i128, e: i32) -> u16 {
        let sign = if n < 0 { 0x8000 } else { 0 };
        let n = n.unsigned_abs();
        let top = n.ilog2() as i32 + e;
        let quantum = (top - self.fraction_bits).max(self.least);
        let quanta = if quantum <= e {
            n << (e - quantum)
        } else if quantum - e > 120 {
            0
        } else {
            let (unit, half) = (1u128 << (quantum - e), 1u128 << (quantum - e) >> 1);
            let (whole, rest) = (n / unit, n % unit);
            whole + u128::from(rest > half || rest == half && whole % 2 == 1)
        };
        // One past the largest fraction carries into the exponent, as it should.
        let binade = (quantum - self.least) as u128;
        let bits = (binade << self.fraction_bits) + quanta;
        sign | bits.min(u128::from(self.infinity())) as u16
    }

    /// `a · b + c`, rounded once.
    fn fma(self, a: u16, b: u16, c: u16) -> u16 {
        if ![a, b, c].into_iter().all(|bits| self.is_finite(bits)) {
            let special = |bits| match (self.is_finite(bits), self.is_nan(bits)) {
                (_, true) => f64::NAN,
                (false, _) => f64::INFINITY.copysign(self.sign(bits)),
                _ => f64::from(self.parts(bits).0 as i32),
            };
            let value = special(a) * special(b) + special(c);
            let sign = if value < 0.0 { 0x8000 } else { 0 };
            return if value.is_nan() { 0x7fff } else { sign | self.infinity() };
        }
        let ((m, e), (n, f), (k, g)) = (self.parts(a), self.parts(b), self.parts(c));
        let negative_zeros = self.sign(a) * self.sign(b) < 0.0 && self.sign(c) < 0.0;
        let (sum, exponent) = sum((m * n, e + f), (k, g));
        match sum {
            0 if m * n == 0 && k == 0 && negative_zeros => 0x8000,
            0 => 0,
            _ => self.nearest(sum, exponent),
        }
    }

    fn sign(self, bits: u16) -> f64 {
        if bits >> 15 == 1 { -1.0 } else { 1.0 }
    }
}

/// A sum that rounds as the exact one: what lies far below the other number only tells on which side the sum is.
fn sum((m, e): (i128, i32), (n, f): (i128, i32)) -> (i128, i32) {
    if m == 0 || n == 0 {
        return if m == 0 { (n, f) } else { (m, e) };
    }
    if e < f {
        return sum((n, f), (m, e));
    }
    if e - f <= 90 { ((m << (e - f)) + n, f) } else { ((m << 90) + n.signum(), e - 90) }
}

/// Bits of a f32 as `n · 2^e`.
fn f32_parts(x: f32) -> (i128, i32) {
    let exponent = (x.abs().to_bits() >> 23).cast_signed();
    let fraction = i128::from(x.to_bits() & 0x7f_ffff) | if exponent > 0 { 1 << 23 } else { 0 };
    (if x < 0.0 { -fraction } else { fraction }, -149 + (exponent - 1).max(0))
}

/// Values of a format: zeros, the extremes, NaN, and numbers whose sums and products are ties.
fn values(format: Format) -> Vec<u16> {
    let one = (format.infinity() >> 1) & format.infinity();
    let mut values = vec![0, 1, 2, 3, format.infinity(), format.infinity() - 1, format.infinity() | 1];
    let hidden = 1 << format.fraction_bits;
    values.extend([hidden - 1, hidden, hidden + 1, 5 * hidden / 2]);
    values.extend([
        one - 1,
        one,
        one + 1,
        one + 3,
        one + 5,
        one + hidden / 2,
        one + hidden / 3,
        one + 2 * hidden,
    ]);
    // 1.5 times this has one bit too many: a tie, which the least addend of all breaks.
    values.push(one - hidden + 2 * ((2 * hidden / 3 + 1) | 1));
    // 2^(−fraction bits − 1) and its neighbours, relative to one: half of the last bit.
    let half_bit = one - (format.fraction_bits as u16 + 1) * hidden;
    values.extend([half_bit - 1, half_bit, half_bit + 1, half_bit + 3]);
    values.iter().flat_map(|&bits| [bits, bits | 0x8000]).collect()
}

macro_rules! words {
    ($name:ident, $pair:ident, $half:ident, $format:expr, $kernel:ident, $convert:ident) => {
        mod $name {
            use super::*;

            // One thread for each pair (a, b), one block for each c in the high half; the low half has a · a.
            #[kernel(threads = 32)]
            fn $kernel(y: Out<u32>, x: In<$half>, n: u32) {
                let i = thread::index_1d();
                let n = n as usize;
                if i < n * n * n {
                    let (a, b, c) = (x.get(i % n), x.get(i / n % n), x.get(i / n / n));
                    let (first, second, third) = ($pair::new(a, a), $pair::new(a, b), $pair::new(c, c));
                    y.set(3 * i, first.fma(second, third).to_bits());
                    y.set(3 * i + 1, (first + second).to_bits());
                    y.set(3 * i + 2, (first * second).to_bits());
                }
            }

            #[test]
            fn words_round_once() {
                let (device, values) = (emulator(), values($format));
                let n = values.len();
                let x: Vec<$half> = values.iter().map(|&bits| $half::from_bits(bits)).collect();
                let x = upload(&device, &x);
                let mut y = unwritten::<u32>(&device, 3 * n * n * n);
                let grid = Grid::x((n * n * n).div_ceil(32) as u32);
                device.launch($kernel { y: &mut y, x: &x, n: n as u32 }, grid).unwrap();
                let y = device.download(&y).unwrap();
                let one = ($format.infinity() >> 1) & $format.infinity();
                for (i, found) in y.chunks(3).enumerate() {
                    let (a, b, c) = (values[i % n], values[i / n % n], values[i / n / n]);
                    let both = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
                    let fma = both($format.fma(a, a, c), $format.fma(a, b, c));
                    let sum = both($format.fma(a, one, a), $format.fma(a, one, b));
                    let product = both($format.fma(a, a, 0x8000), $format.fma(a, b, 0x8000));
                    assert_eq!(found, [fma, sum, product], "a {a:#x}, b {b:#x}, c {c:#x}");
                }
            }

            #[kernel(threads = 32)]
            fn $convert(y: Out<u32>, x: In<f32>) {
                let i = thread::index_1d();
                let pair = $pair::from_f32(x.get(2 * i), x.get(2 * i + 1));
                y.set(3 * i, pair.to_bits());
                let (low, high) = pair.to_f32();
                y.set(3 * i + 1, low.to_bits());
                y.set(3 * i + 2, high.to_bits());
            }

            #[test]
            fn conversion_rounds_to_nearest_even() {
                let device = emulator();
                // Every value of the upper half-word, with lower ones around the ties of both formats.
                let lower = [0u32, 1, 0x0fff, 0x1000, 0x1001, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff];
                let uppers = (0..0xffffu32).step_by(7).flat_map(|upper| lower.map(|l| upper << 16 | l));
                let mut x: Vec<f32> = uppers.map(f32::from_bits).collect();
                x.resize(x.len().next_multiple_of(64), 1.0);
                let mut y = unwritten::<u32>(&device, x.len() / 2 * 3);
                let device_x = upload(&device, &x);
                let grid = Grid::x((x.len() / 64) as u32);
                device.launch($convert { y: &mut y, x: &device_x }, grid).unwrap();
                for (x, y) in x.chunks(2).zip(device.download(&y).unwrap().chunks(3)) {
                    for (half, &x) in x.iter().enumerate() {
                        let found = (y[0] >> (16 * half)) as u16;
                        let value = f32::from_bits(y[1 + half]);
                        if x.is_nan() {
                            assert!($format.is_nan(found) && value.is_nan());
                            continue;
                        }
                        let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
                        let (n, e) = f32_parts(x);
                        let expected = match n {
                            _ if x.is_infinite() => sign | $format.infinity(),
                            0 => sign,
                            _ => $format.nearest(n, e),
                        };
                        assert_eq!(found, expected, "{x:e}");
                        if value.is_finite() {
                            let (n, e) = $format.parts(found);
                            assert_eq!(f64::from(value), n as f64 * f64::from(e).exp2());
                        }
                    }
                }
            }
        }
    };
}

words!(f16_pairs, f16x2, f16, F16, f16_words, f16_from_f32);
words!(bf16_pairs, bf16x2, bf16, BF16, bf16_words, bf16_from_f32);
