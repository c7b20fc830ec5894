//! Element-wise comparison with the reference, and the bounds it may use.
//!
//! A bound is derived from how an implementation rounds, never chosen to fit. The model is the usual one: an f32
//! operation returns the exact result times (1 + δ), |δ| ≤ u = 2⁻²⁴ ([`F32_ROUNDING`]); a value that passes through
//! m operations is off by at most γ(m) = m u / (1 − m u) relatively ([`gamma`]). A fused multiply-add rounds once
//! where the model counts two, so it stays inside. A sum's "chain" is the longest sequence of roundings between any
//! one term of a sum and the result; a tree of partial sums has a much shorter chain than a running sum, and a
//! kernel's documented order tells how long it is.

/// Half a unit in the last place of an f32 with a 1 before the point: the relative error of one rounding.
pub const F32_ROUNDING: f64 = 1.0 / (1 << 24) as f64;
/// The same for f16, in its normal range.
pub const F16_ROUNDING: f64 = 1.0 / (1 << 11) as f64;
/// Half the distance of f16 subnormals: the absolute error of rounding a value below 2⁻¹⁴ to f16.
pub const F16_SUBNORMAL_ROUNDING: f64 = 1.0 / (1 << 25) as f64;
/// Roundings that cover one fast 2^x, reciprocal or reciprocal square root of the GPU: each is documented with a
/// relative error of at most 2⁻²² (not tanh, which has 2⁻¹¹). What the argument's own error does comes on top.
pub const FAST_MATH_ROUNDINGS: usize = 4;
/// Below this an f32 is subnormal; fast math may replace it by zero.
pub const F32_SMALLEST_NORMAL: f64 = f32::MIN_POSITIVE as f64;

/// Relative error of a value that passed through `m` f32 roundings.
///
/// # Panics
/// If so many roundings leave no correct digit.
pub fn gamma(m: usize) -> f64 {
    let mu = m as f64 * F32_ROUNDING;
    assert!(mu < 0.5, "no f32 result survives {m} roundings");
    mu / (1.0 - mu)
}

/// Absolute error of a dot product whose terms pass through at most `chain` additions: the product's own
/// rounding and the additions' apply to every term, so it is at most γ(chain + 1) Σ|w · x|.
pub fn dot_bound(chain: usize, sum_of_magnitudes: f64) -> f64 {
    gamma(chain + 1) * sum_of_magnitudes
}

/// Absolute error of a value that was computed with error `bound` and then rounded to f16.
pub fn f16_bound(bound: f64, expected: f64) -> f64 {
    bound + (F16_ROUNDING * (expected.abs() + bound)).max(F16_SUBNORMAL_ROUNDING)
}

/// Σ_k |w[o, k] · x[t, k]| for every output of a linear layer: what [`dot_bound`] scales with.
pub fn linear_magnitudes(w: &[f64], x: &[f64], n_cols: usize) -> Vec<f64> {
    let magnitude = |values: &[f64]| values.iter().map(|v| v.abs()).collect::<Vec<_>>();
    let mut sums = vec![0.0; (w.len() / n_cols) * (x.len() / n_cols)];
    crate::reference::linear(&mut sums, &magnitude(w), &magnitude(x), n_cols);
    sums
}

/// The element that comes nearest to its bound, or exceeds it by the largest factor.
#[derive(Clone, Debug, PartialEq)]
pub struct Worst {
    /// Flat index of the element.
    pub index: usize,
    /// What the implementation computed.
    pub found: f32,
    /// What the reference says.
    pub expected: f64,
    /// Permitted distance.
    pub bound: f64,
    /// Distance divided by bound: above 1 is an error. Infinite for NaN and for any distance beyond a bound of zero.
    pub ratio: f64,
}

/// Compares every element with the reference and returns the worst.
///
/// Equal infinities are equal; NaN is never equal to anything, because no op here has NaN among its results.
///
/// # Panics
/// If the lengths differ or there is nothing to compare.
pub fn worst(found: &[f32], expected: &[f64], bound: impl Fn(usize) -> f64) -> Worst {
    assert_eq!(found.len(), expected.len(), "result and reference differ in length");
    let element = |index: usize| {
        let (found, expected, bound) = (found[index], expected[index], bound(index));
        let distance = (f64::from(found) - expected).abs();
        let ratio = match () {
            () if f64::from(found) == expected => 0.0,
            () if distance.is_nan() || bound.is_nan() || bound <= 0.0 => f64::INFINITY,
            () => distance / bound,
        };
        Worst { index, found, expected, bound, ratio }
    };
    (0..found.len())
        .map(element)
        .reduce(|a, b| if b.ratio > a.ratio { b } else { a })
        .expect("nothing to compare")
}

/// Fails with the worst coordinate if any element is farther from the reference than its bound.
///
/// `what` names the case; `shape` turns the flat index into a coordinate.
///
/// # Panics
/// If an element exceeds its bound, or the shape does not fit the length.
#[track_caller]
pub fn assert_within(
    what: &str,
    found: &[f32],
    expected: &[f64],
    shape: &[usize],
    bound: impl Fn(usize) -> f64,
) {
    assert_eq!(shape.iter().product::<usize>(), found.len(), "{what}: shape {shape:?}");
    let Worst { index, found, expected, bound, ratio } = worst(found, expected, bound);
    assert!(
        ratio <= 1.0,
        "{what}: element {:?} of {shape:?} is {found:e}, the reference {expected:e}: off by {:e}, {ratio:.3} times \
         the bound {bound:e}",
        coordinate(index, shape),
        (f64::from(found) - expected).abs(),
    );
}

/// Fails with the first differing coordinate unless every bit is equal.
///
/// # Panics
/// As [`assert_within`].
#[track_caller]
pub fn assert_same_bits(what: &str, found: &[f32], expected: &[f32], shape: &[usize]) {
    assert_eq!(found.len(), expected.len(), "{what}: result and reference differ in length");
    assert_eq!(shape.iter().product::<usize>(), found.len(), "{what}: shape {shape:?}");
    let differs = found.iter().zip(expected).position(|(a, b)| a.to_bits() != b.to_bits());
    if let Some(index) = differs {
        panic!(
            "{what}: element {:?} of {shape:?} is {:e} ({:#010x}), not {:e} ({:#010x})",
            coordinate(index, shape),
            found[index],
            found[index].to_bits(),
            expected[index],
            expected[index].to_bits(),
        );
    }
}

/// The coordinate of a flat index in a row-major tensor.
fn coordinate(mut index: usize, shape: &[usize]) -> Vec<usize> {
    let mut coordinate = vec![0; shape.len()];
    for (place, extent) in coordinate.iter_mut().zip(shape).rev() {
        *place = index % extent;
        index /= extent;
    }
    coordinate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(
        expected = "element [1, 2] of [2, 3] is 6e0, the reference 7e0: off by 1e0, 2.000 times the bound"
    )]
    fn the_worst_coordinate_is_named() {
        let found = [1.0, 2.0, 3.25, 4.0, 5.0, 6.0];
        assert_within("case", &found, &[1.0, 2.0, 3.0, 4.0, 5.0, 7.0], &[2, 3], |_| 0.5);
    }

    #[test]
    fn nan_is_never_within_a_bound() {
        assert_eq!(worst(&[f32::NAN], &[0.0], |_| f64::INFINITY).ratio, f64::INFINITY);
        assert_eq!(worst(&[0.0], &[f64::NAN], |_| 1.0).ratio, f64::INFINITY);
        assert_eq!(worst(&[1.0, f32::NAN, 1.0], &[0.5; 3], |_| 1e-3).index, 1);
    }

    #[test]
    fn a_bound_of_zero_means_equal() {
        assert_eq!(worst(&[2.0], &[2.0], |_| 0.0).ratio, 0.0);
        assert_eq!(worst(&[2.0], &[2.0 + 1e-9], |_| 0.0).ratio, f64::INFINITY);
        assert_eq!(worst(&[f32::INFINITY], &[f64::INFINITY], |_| 0.0).ratio, 0.0);
    }

    /// A running f32 sum of products stays inside the bound and, for the chain it really has, not far inside.
    #[test]
    fn dot_bound_holds_for_a_running_sum() {
        let mut rng = crate::data::Rng::new(7);
        let (a, b) = (rng.normal(4096, 1.0), rng.normal(4096, 1.0));
        let found: f32 = a.iter().zip(&b).fold(0.0, |sum, (a, b)| sum + a * b);
        let terms = || a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b));
        let bound = dot_bound(4096, terms().map(f64::abs).sum());
        assert!(worst(&[found], &[terms().sum()], |_| bound).ratio <= 1.0);
        let largest =
            a.iter().zip(&b).map(|(a, b)| a * b).fold(0.0f32, |m, p| if p.abs() > m.abs() { p } else { m });
        assert!(
            worst(&[found - largest], &[terms().sum()], |_| bound).ratio > 1.0,
            "a missing term goes unnoticed"
        );
    }
}
