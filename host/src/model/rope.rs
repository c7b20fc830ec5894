//! The rotation table: partial dimensions, frequency factors and every scaling become plain cosines and sines here,
//! so that back ends know none of them.

use std::f64::consts::TAU;

use super::config::{RopeConfig, RopeScaling};

/// Divisors of the frequencies, one for each pair: how GGUF files carry Llama 3's scaling.
pub const FACTORS: &str = "rope_freqs.weight";
/// The divisors of LongRoPE for contexts as long as the original one, and for longer ones.
pub const SHORT_FACTORS: &str = "rope_factors_short.weight";
/// See [`SHORT_FACTORS`].
pub const LONG_FACTORS: &str = "rope_factors_long.weight";

/// Angle by which each pair turns from one position to the next, in f64.
///
/// `factors` are the divisors of [`FACTORS`], or those that [`LongRopeScaling::choose`] chose.
///
/// # Panics
/// If there are fewer factors than pairs.
pub fn frequencies(rope: &RopeConfig, factors: Option<&[f32]>) -> Vec<f64> {
    let n_pairs = rope.dim / 2;
    (0..n_pairs)
        .map(|pair| {
            let plain = rope.base.powf(-2.0 * pair as f64 / rope.dim as f64);
            let factor = factors.map_or(1.0, |factors| f64::from(factors[pair]));
            let scaled = match rope.scaling {
                RopeScaling::None | RopeScaling::LongRope(_) => plain,
                RopeScaling::Linear { factor } => plain / factor,
                RopeScaling::Yarn(yarn) => yarn.frequency(plain, pair, rope),
            };
            scaled / factor
        })
        .collect()
}

/// `[n_ctx, rope.dim / 2, 2]`: cosine and sine of position · frequency, times the scaling's amplitude, rounded once.
///
/// # Panics
/// As [`frequencies`].
pub fn table(rope: &RopeConfig, factors: Option<&[f32]>, n_ctx: usize) -> Vec<f32> {
    let frequencies = frequencies(rope, factors);
    let amplitude = match rope.scaling {
        RopeScaling::None | RopeScaling::Linear { .. } => 1.0,
        RopeScaling::Yarn(yarn) => yarn.amplitude,
        RopeScaling::LongRope(longrope) => longrope.amplitude,
    };
    let mut table = Vec::with_capacity(n_ctx * rope.dim);
    for position in 0..n_ctx {
        for frequency in &frequencies {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            table.extend([(amplitude * cos) as f32, (amplitude * sin) as f32]);
        }
    }
    table
}

/// YaRN (Peng et al. 2023, <https://arxiv.org/abs/2309.00071>): fast pairs keep their speed, slow ones are stretched,
/// those between are mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct YarnScaling {
    /// Slow pairs turn so many times slower.
    pub factor: f64,
    /// Positions of the original training.
    pub original_context: f64,
    /// Pairs that turn at least so many times within the original context are fast; usually 32.
    pub beta_fast: f64,
    /// Pairs that turn at most so many times are slow; usually 1.
    pub beta_slow: f64,
    /// Whether the borders of the mixture are moved outwards to whole pairs, as almost all models have it.
    pub whole_pairs: bool,
    /// What cosines and sines are multiplied by, so that scores grow with its square.
    pub amplitude: f64,
}

impl YarnScaling {
    /// The amplitude of the paper, 0.1 · ln(factor) + 1.
    pub fn default_amplitude(factor: f64) -> f64 {
        Self::mscale(factor, 1.0)
    }

    /// The amplitude of models that state `mscale` and `mscale_all_dim`; the latter is already part of their scale of
    /// scores, and so taken out here.
    pub fn amplitude_of_mscales(factor: f64, mscale: f64, mscale_all_dim: f64) -> f64 {
        Self::mscale(factor, mscale) / Self::mscale(factor, mscale_all_dim)
    }

    fn mscale(factor: f64, mscale: f64) -> f64 {
        if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
    }

    fn frequency(self, plain: f64, pair: usize, rope: &RopeConfig) -> f64 {
        let (fast_end, slow_start) = self.borders(rope);
        let slow = ((pair as f64 - fast_end) / (slow_start - fast_end)).clamp(0.0, 1.0);
        plain * (1.0 - slow) + plain / self.factor * slow
    }

    /// The pair (a fraction perhaps) up to which all are fast, and the one from which all are slow.
    fn borders(self, rope: &RopeConfig) -> (f64, f64) {
        // The pair that turns so many times within the original context.
        let pair_of = |turns: f64| {
            rope.dim as f64 * (self.original_context / (turns * TAU)).ln() / (2.0 * rope.base.ln())
        };
        let (mut fast_end, mut slow_start) = (pair_of(self.beta_fast), pair_of(self.beta_slow));
        if self.whole_pairs {
            (fast_end, slow_start) = (fast_end.floor(), slow_start.ceil());
        }
        let (fast_end, slow_start) = (fast_end.max(0.0), slow_start.min(rope.dim as f64 - 1.0));
        // One and the same pair would divide by zero.
        (fast_end, if slow_start == fast_end { slow_start + 0.001 } else { slow_start })
    }
}

/// LongRoPE (Ding et al. 2024, <https://arxiv.org/abs/2402.13753>): each pair has a divisor of its own, found by search,
/// in two sets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LongRopeScaling {
    /// Positions of the original training.
    pub original_context: usize,
    /// What cosines and sines are multiplied by.
    pub amplitude: f64,
}

impl LongRopeScaling {
    /// The amplitude where none is stated: √(1 + ln(s) / ln(original context)) for a context trained to s times the
    /// original one, s > 1.
    pub fn default_amplitude(trained_context: f64, original_context: f64) -> f64 {
        let stretch = trained_context / original_context;
        if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / original_context.ln()).sqrt() }
    }

    /// The divisors for a cache of `n_ctx` positions. One table serves the whole context, so it is chosen by the context
    /// that is asked for, not by how much of it is filled.
    pub fn choose<'a>(&self, short: &'a [f32], long: &'a [f32], n_ctx: usize) -> &'a [f32] {
        if n_ctx > self.original_context { long } else { short }
    }
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
        let turns = self.original_context * frequency / TAU;
        let band = self.high_freq_factor - self.low_freq_factor;
        let kept = ((turns - self.low_freq_factor) / band).clamp(0.0, 1.0);
        1.0 / (kept + (1.0 - kept) / self.factor)
    }
}
