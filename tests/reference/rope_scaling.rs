//! Frequencies of scaled RoPE, by the definitions that published models' configurations refer to.

use std::f64::consts::PI;

/// What a model's configuration says about YaRN.
#[derive(Clone, Copy, Debug)]
pub struct Yarn {
    /// How many times longer the context became.
    pub factor: f64,
    /// `original_max_position_embeddings`.
    pub original_context: f64,
    /// Usually 32.
    pub beta_fast: f64,
    /// Usually 1.
    pub beta_slow: f64,
    /// Whether the correction range is rounded outwards.
    pub truncate: bool,
}

/// Angle of each pair from one position to the next: interpolated (divided by the factor) above the correction range of
/// dimensions, extrapolated (as it was) below it, and a linear ramp between.
pub fn yarn_frequencies(dim: usize, base: f64, yarn: Yarn) -> Vec<f64> {
    let Yarn { factor, original_context, beta_fast, beta_slow, truncate } = yarn;
    let correction_dim =
        |rotations: f64| (dim as f64 * (original_context / (rotations * 2.0 * PI)).ln()) / (2.0 * base.ln());
    let (mut low, mut high) = (correction_dim(beta_fast), correction_dim(beta_slow));
    if truncate {
        low = low.floor();
        high = high.ceil();
    }
    low = low.max(0.0);
    high = high.min(dim as f64 - 1.0);
    if low == high {
        high += 0.001;
    }
    let frequency = |i: usize| {
        let period = base.powf(2.0 * i as f64 / dim as f64);
        let (extrapolated, interpolated) = (1.0 / period, 1.0 / (factor * period));
        let extrapolation = 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        interpolated * (1.0 - extrapolation) + extrapolated * extrapolation
    };
    (0..dim / 2).map(frequency).collect()
}

/// Angle of each pair, each divided by its own factor.
pub fn divided_frequencies(dim: usize, base: f64, factors: &[f64]) -> Vec<f64> {
    assert_eq!(factors.len(), dim / 2, "a factor for each pair");
    (0..dim / 2).map(|i| 1.0 / (factors[i] * base.powf(2.0 * i as f64 / dim as f64))).collect()
}

/// (cos, sin) of position · frequency, times `amplitude`, for each position and pair: `[n_positions, n_pairs, 2]`.
pub fn scaled_table(positions: &[usize], frequencies: &[f64], amplitude: f64) -> Vec<f64> {
    let mut table = Vec::new();
    for &position in positions {
        for frequency in frequencies {
            let angle = position as f64 * frequency;
            table.extend([angle.cos() * amplitude, angle.sin() * amplitude]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed elsewhere, by the definition in another language.
    #[test]
    fn known_yarn_frequencies() {
        let common =
            Yarn { factor: 16.0, original_context: 4096.0, beta_fast: 32.0, beta_slow: 1.0, truncate: true };
        let qwen = Yarn { factor: 4.0, original_context: 32768.0, ..common };
        let gpt_oss = Yarn { factor: 32.0, truncate: false, ..common };
        for (dim, base, yarn, expected) in [
            (
                128,
                1e4,
                common,
                [
                    (0, 1.0),
                    (16, 0.1),
                    (32, 0.005673076923076923),
                    (46, 8.334508951020775e-05),
                    (63, 7.217387404309114e-06),
                ],
            ),
            (
                128,
                1e6,
                qwen,
                [
                    (0, 1.0),
                    (16, 0.03162277660168379),
                    (32, 0.0006029411764705882),
                    (46, 1.2174188129146578e-05),
                    (63, 3.102344401879299e-07),
                ],
            ),
            (
                64,
                150_000.0,
                gpt_oss,
                [
                    (0, 1.0),
                    (8, 0.050813274815461475),
                    (16, 0.00045648391922324086),
                    (22, 8.63549587543848e-06),
                    (31, 3.0235114281192144e-07),
                ],
            ),
        ] {
            let found = yarn_frequencies(dim, base, yarn);
            for (pair, expected) in expected {
                let error = (found[pair] - expected).abs();
                assert!(
                    error <= 1e-12 * expected,
                    "{yarn:?}: pair {pair} has {}, not {expected}",
                    found[pair]
                );
            }
        }
    }
}
