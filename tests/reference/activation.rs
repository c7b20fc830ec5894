//! Activations.

/// g / (1 + e^(−alpha·g)) · (u + 1) with g = gate up to `limit` and u = up within ±limit.
pub fn swiglu_clamped(y: &mut [f64], gate: &[f64], up: &[f64], alpha: f64, limit: f64) {
    assert!(y.len() == gate.len() && y.len() == up.len(), "swiglu_clamped");
    for i in 0..y.len() {
        let (g, u) = (gate[i].min(limit), up[i].clamp(-limit, limit));
        y[i] = g / (1.0 + (-alpha * g).exp()) * (u + 1.0);
    }
}

/// Which of the two functions is meant by GELU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// x · Φ(x), Φ(x) = (1 + erf(x / √2)) / 2.
    Erf,
    /// x · (1 + tanh(√(2/π) · (x + 0.044715·x³))) / 2.
    Tanh,
}

/// y = gelu(x).
pub fn gelu(y: &mut [f64], x: &[f64], form: Gelu) {
    assert_eq!(y.len(), x.len(), "gelu");
    for (y, &x) in y.iter_mut().zip(x) {
        *y = match form {
            Gelu::Erf => x * normal_cdf(x),
            Gelu::Tanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                // (1 + tanh z) / 2 = 1 / (1 + e^−2z), which keeps its digits where tanh is near −1.
                x / (1.0 + (-2.0 * inner).exp())
            }
        };
    }
}

/// y = gelu(gate) · up.
pub fn geglu(y: &mut [f64], gate: &[f64], up: &[f64], form: Gelu) {
    gelu(y, gate, form);
    for (y, up) in y.iter_mut().zip(up) {
        *y *= up;
    }
}

/// Φ(x) = (1 + erf(x / √2)) / 2. In the middle by the series Φ(x) = ½ + φ(x) · (x + x³/3 + x⁵/(3·5) + …), outside by
/// the continued fraction Φ(−x) = φ(x) / (x + 1/(x + 2/(x + 3/(x + …)))), where nothing cancels.
pub fn normal_cdf(x: f64) -> f64 {
    let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let a = x.abs();
    if a < 3.0 {
        let (mut term, mut sum, mut k) = (x, x, 1.0);
        while term.abs() > 1e-18 * sum.abs() {
            k += 2.0;
            term *= x * x / k;
            sum += term;
        }
        return 0.5 + density * sum;
    }
    let fraction = (1..200).rev().fold(a, |below, k| a + f64::from(k) / below);
    if x < 0.0 { density / fraction } else { 1.0 - density / fraction }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values with 15 digits, computed with arbitrary precision elsewhere.
    #[test]
    fn normal_cdf_of_known_points() {
        for (x, expected) in [
            (-6.0, 9.865_876_450_376_982e-10),
            (-3.5, 0.000_232_629_079_035_525),
            (-2.0, 0.022_750_131_948_179_2),
            (-0.5, 0.308_537_538_725_987),
            (0.25, 0.598_706_325_682_924),
            (1.0, 0.841_344_746_068_543),
            (2.5, 0.993_790_334_674_224),
            (5.0, 0.999_999_713_348_428),
        ] {
            let found = normal_cdf(x);
            assert!((found - expected).abs() <= 1e-13 * expected, "Φ({x}) = {found}, not {expected}");
        }
    }

    #[test]
    fn the_two_gelus_are_within_a_thousandth_of_each_other() {
        let x = [-3.0, -1.0, 0.0, 0.5, 2.0];
        let (mut erf, mut tanh) = ([0.0; 5], [0.0; 5]);
        gelu(&mut erf, &x, Gelu::Erf);
        gelu(&mut tanh, &x, Gelu::Tanh);
        for (a, b) in erf.iter().zip(tanh) {
            assert!((a - b).abs() < 1e-3 && (*a == 0.0 || *a != b), "{a} and {b}");
        }
    }

    #[test]
    fn clamped_swiglu_of_values_past_the_limit() {
        let mut y = [0.0; 3];
        swiglu_clamped(&mut y, &[100.0, 100.0, 0.0], &[50.0, -50.0, 3.0], 1.0, 7.0);
        let sigma = 1.0 / (1.0 + (-7.0f64).exp());
        for (found, expected) in y.iter().zip([7.0 * sigma * 8.0, 7.0 * sigma * -6.0, 0.0]) {
            assert!((found - expected).abs() < 1e-14, "{found}, not {expected}");
        }
    }
}
