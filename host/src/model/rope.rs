//! The rotation table: partial dimensions, frequency factors and every scaling become plain cosines and sines here,
//! so that back ends know none of them.

use super::config::{RopeConfig, RopeScaling};

/// Divisors of the frequencies, one for each pair: how GGUF files carry Llama 3's scaling.
pub const FACTORS: &str = "rope_freqs.weight";

/// Angle by which each pair turns from one position to the next, in f64.
pub fn frequencies(rope: &RopeConfig, factors: Option<&[f32]>) -> Vec<f64> {
    let stretch = match rope.scaling {
        RopeScaling::None => 1.0,
        RopeScaling::Linear { factor } => factor,
    };
    let n_pairs = rope.dim / 2;
    (0..n_pairs)
        .map(|pair| {
            let exponent = -2.0 * pair as f64 / rope.dim as f64;
            let factor = factors.map_or(1.0, |factors| f64::from(factors[pair]));
            rope.base.powf(exponent) / (factor * stretch)
        })
        .collect()
}

/// `[n_ctx, rope.dim / 2, 2]`: cosine and sine of position · frequency, rounded once.
pub fn table(rope: &RopeConfig, factors: Option<&[f32]>, n_ctx: usize) -> Vec<f32> {
    let frequencies = frequencies(rope, factors);
    let mut table = Vec::with_capacity(n_ctx * rope.dim);
    for position in 0..n_ctx {
        for frequency in &frequencies {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            table.extend([cos as f32, sin as f32]);
        }
    }
    table
}

/// Llama 3's scaling of a longer context, for whoever writes a file.
#[derive(Clone, Copy, Debug)]
pub struct Llama3Scaling {
    /// Slow pairs turn so many times slower.
    pub factor: f64,
    /// Pairs that turn fewer times than this within the original context are slow.
    pub low_freq_factor: f64,
    /// Pairs that turn more often than this keep their speed; between the two the change is smooth.
    pub high_freq_factor: f64,
    /// Positions of the original training.
    pub original_context: f64,
}

impl Llama3Scaling {
    /// The divisors that `rope_freqs.weight` holds, `[dim / 2]`.
    pub fn factors(&self, base: f64, dim: usize) -> Vec<f32> {
        let rope = RopeConfig {
            pairs: crate::backend::RopePairs::Adjacent,
            dim,
            base,
            scaling: RopeScaling::None,
            has_factors: false,
        };
        frequencies(&rope, None).into_iter().map(|frequency| self.factor_of(frequency) as f32).collect()
    }

    fn factor_of(&self, frequency: f64) -> f64 {
        let turns = self.original_context * frequency / std::f64::consts::TAU;
        let band = self.high_freq_factor - self.low_freq_factor;
        let kept = ((turns - self.low_freq_factor) / band).clamp(0.0, 1.0);
        1.0 / (kept + (1.0 - kept) / self.factor)
    }
}
