//! Arithmetic in the GPU's fast forms.
//!
//! | word | GPU's error at most | emulator |
//! |---|---|---|
//! | [`fma`] | correctly rounded | the same |
//! | [`exp2`], [`exp2_flush`] | 2 ulp | std's `f32` function |
//! | [`log2`] | 2⁻²² (absolute in 0.5 < x < 2, else relative) | std's `f32` function |
//! | [`rsqrt`] | 2⁻²²·⁹ relative | division and square root, rounded each |
//! | [`sqrt`] | 2⁻²³ relative | correctly rounded |
//! | [`rcp`] | 1 ulp | correctly rounded |
//! | [`div`] | 2 ulp, for a divisor of magnitude 2⁻¹²⁶ to 2¹²⁶ | correctly rounded |
//! | [`exp`] | 2 + 1.25·∣x∣ ulp | the same formula over `exp2` |
//! | [`tanh`] | 6 ulp | the same formula over `exp2` and `div` |
//! | [`sigmoid`] | 6 + 1.25·∣x∣ ulp | the same formula over `exp2` and `rcp` |
//! | [`normal_cdf`] | 12 + x² ulp, down to 2⁻¹²⁶ | the same formula over `exp2` and `rcp` |
//!
//! The first seven bounds are those that the PTX instruction set states; the others follow from them. In `exp` the
//! product x · log₂ e is off by 1.22·2⁻²⁴ of its size (its rounding, and that of the constant), which the power turns
//! into 1.22·∣x∣ half-ulps at least and ulps at most. The hardware's `tanh.approx` is left out: its error of 2⁻¹¹
//! spoils activations.

use super::target;

/// `a · b + c`, rounded once.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    target::fma(a, b, c)
}

/// `2^x`.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    target::exp2(x)
}

/// `2^x`, where a subnormal result becomes zero: one instruction, a third of [`exp2`]'s time.
#[inline(always)]
pub fn exp2_flush(x: f32) -> f32 {
    target::exp2_flush(x)
}

/// The logarithm to base 2.
#[inline(always)]
pub fn log2(x: f32) -> f32 {
    target::log2(x)
}

/// `1 / √x`.
#[inline(always)]
pub fn rsqrt(x: f32) -> f32 {
    target::rsqrt(x)
}

/// `√x`.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    target::sqrt(x)
}

/// `1 / x`.
#[inline(always)]
pub fn rcp(x: f32) -> f32 {
    target::rcp(x)
}

/// `a / b`.
#[inline(always)]
pub fn div(a: f32, b: f32) -> f32 {
    target::div(a, b)
}

/// `e^x`, as `2^(x · log₂ e)`: the product's rounding is what the error grows with.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    exp2(x * core::f32::consts::LOG2_E)
}

/// `1 / (1 + e^−x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    rcp(1.0 + exp(-x))
}

/// Where [`tanh`] changes its formula: from here on its value is above one half.
const TANH_SPLIT: f32 = 0.55;
/// `tanh(x) ≈ x + x³ · P(x²)` up to the split: P's coefficients from the highest down, fitted for the least
/// relative error (0.62 ulp of the result).
const TANH_COEFFICIENTS: [f32; 4] = [0.016_437_571, -0.052_671_81, 0.133_207_25, -0.333_329_47];

/// The hyperbolic tangent: an odd polynomial near zero, where `(1 − t) / (1 + t)` with `t = e^(−2∣x∣)` would
/// cancel, and that quotient elsewhere.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let magnitude = abs(x);
    if magnitude < TANH_SPLIT {
        let square = x * x;
        let mut sum = TANH_COEFFICIENTS[0];
        sum = fma(sum, square, TANH_COEFFICIENTS[1]);
        sum = fma(sum, square, TANH_COEFFICIENTS[2]);
        sum = fma(sum, square, TANH_COEFFICIENTS[3]);
        return fma(x * square, sum, x);
    }
    let t = exp2(magnitude * (-2.0 * core::f32::consts::LOG2_E));
    let quotient = div(1.0 - t, 1.0 + t);
    if x < 0.0 { -quotient } else { quotient }
}

/// `Φ(−a) = e^(−a²/2) · t · Q(t)` with `t = 1 / (1 + a/4)`: Q's coefficients from the highest down, fitted on
/// 0 ≤ a ≤ 14 for the least relative error (0.07 ulp before their rounding).
const TAIL_COEFFICIENTS: [f32; 10] = [
    0.016_579_63,
    -0.062_792_026,
    0.051_651_953,
    0.028_436_51,
    0.012_711_127,
    0.086_657_37,
    0.071_999_22,
    0.095_515_77,
    0.099_492_55,
    0.099_747_9,
];

/// The normal distribution function Φ(x) = (1 + erf(x / √2)) / 2, with a small relative error on both sides.
///
/// The exponent a² · log₂ e / 2 has three roundings, worth 1.5·a² · 2⁻²⁴; the sum and the reciprocal in t are off by
/// 1.5 ulp, which t · Q(t) makes up to 3.2 times larger; the power has 2 ulp, Q and the products three and a half.
#[inline(always)]
pub fn normal_cdf(x: f32) -> f32 {
    let a = abs(x);
    let t = rcp(fma(a, 0.25, 1.0));
    let mut q = TAIL_COEFFICIENTS[0];
    let mut i = 1;
    while i < TAIL_COEFFICIENTS.len() {
        q = fma(q, t, TAIL_COEFFICIENTS[i]);
        i += 1;
    }
    let tail = exp2_flush(a * a * (-0.5 * core::f32::consts::LOG2_E)) * (t * q);
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// The larger; the other one if one is NaN.
#[inline(always)]
pub fn max(a: f32, b: f32) -> f32 {
    a.max(b)
}

/// The smaller; the other one if one is NaN.
#[inline(always)]
pub fn min(a: f32, b: f32) -> f32 {
    a.min(b)
}

/// The magnitude.
#[inline(always)]
pub fn abs(x: f32) -> f32 {
    f32::from_bits(x.to_bits() & 0x7fff_ffff)
}

/// The nearest integer, ties to even; saturates, and is zero for NaN.
#[inline(always)]
pub fn round_to_i32(x: f32) -> i32 {
    target::round_to_i32(x)
}

/// `c + Σ aᵢ · bᵢ` over the four signed bytes of `a` and `b`.
#[inline(always)]
pub fn dp4a(a: u32, b: u32, c: i32) -> i32 {
    target::dp4a(a, b, c)
}

/// `c + Σ aᵢ · bᵢ` over the four unsigned bytes of `a` and the four signed bytes of `b`.
#[inline(always)]
pub fn dp4a_unsigned(a: u32, b: u32, c: i32) -> i32 {
    target::dp4a_unsigned(a, b, c)
}

/// Four bytes chosen from the eight of `a` (0 to 3) and `b` (4 to 7): byte `i` is the one that bits
/// `4i` to `4i + 2` of `selector` name; if bit `4i + 3` is set, eight times the highest bit of that. Bits 16 to 31 of
/// `selector` do not matter.
#[inline(always)]
pub fn byte_perm(a: u32, b: u32, selector: u32) -> u32 {
    target::byte_perm(a, b, selector)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance of a result from the exact value, in ulps of the result's binade.
    fn ulps(result: f32, exact: f64) -> f64 {
        let exponent = (exact.abs() as f32).max(f32::MIN_POSITIVE).log2().floor();
        (f64::from(result) - exact).abs() / f64::from((exponent - 23.0).exp2())
    }

    /// Evenly spaced values over a range, both signs.
    fn values(limit: f32) -> impl Iterator<Item = f32> {
        let n = 200_000;
        (-n..=n).map(move |i| limit * i as f32 / n as f32)
    }

    fn check(name: &str, limit: f32, word: fn(f32) -> f32, exact: fn(f64) -> f64, bound: fn(f32) -> f64) {
        for x in values(limit) {
            let error = ulps(word(x), exact(f64::from(x)));
            assert!(error <= bound(x), "{name}({x}) = {} is {error} ulp off", word(x));
        }
    }

    #[test]
    fn tanh_is_within_its_bound() {
        check("tanh", 10.0, tanh, f64::tanh, |_| 6.0);
        check("tanh", 0.6, tanh, f64::tanh, |_| 6.0);
        check("tanh", 1e-4, tanh, f64::tanh, |_| 6.0);
        // Near zero the polynomial alone: 0.62 ulp of the fit and three roundings.
        check("tanh", 0.549, tanh, f64::tanh, |_| 2.2);
    }

    #[test]
    fn tanh_saturates() {
        assert_eq!([tanh(-200.0), tanh(200.0), tanh(0.0)], [-1.0, 1.0, 0.0]);
        assert!(tanh(f32::NAN).is_nan());
    }

    /// Φ of −8 to 8 in steps of one, from 40 digits.
    const NORMAL_CDF: [f64; 17] = [
        6.220960574271784e-16,
        1.279812543885835e-12,
        9.86587645037698e-10,
        2.866515718791939e-07,
        3.1671241833119924e-05,
        0.0013498980316300946,
        0.02275013194817921,
        0.15865525393145705,
        0.5,
        0.8413447460685429,
        0.9772498680518208,
        0.9986501019683699,
        0.9999683287581669,
        0.9999997133484281,
        0.9999999990134123,
        0.9999999999987201,
        0.9999999999999993,
    ];

    #[test]
    fn normal_cdf_is_within_its_bound() {
        for (i, &exact) in NORMAL_CDF.iter().enumerate() {
            let x = i as f32 - 8.0;
            let error = ulps(normal_cdf(x), exact);
            assert!(
                error <= 12.0 + f64::from(x * x),
                "normal_cdf({x}) = {} is {error} ulp off",
                normal_cdf(x)
            );
        }
        assert_eq!([normal_cdf(-1e30), normal_cdf(1e30), normal_cdf(0.0)], [0.0, 1.0, 0.5]);
        assert!(normal_cdf(f32::NAN).is_nan());
    }

    #[test]
    fn exp_and_sigmoid_are_within_their_bounds() {
        check("exp", 80.0, exp, f64::exp, |x| 2.0 + 1.25 * f64::from(x.abs()));
        check("sigmoid", 80.0, sigmoid, |x| 1.0 / (1.0 + (-x).exp()), |x| 6.0 + 1.25 * f64::from(x.abs()));
    }
}
