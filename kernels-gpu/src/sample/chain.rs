//! What the chain's stages are told, and the numbers they compare: weights, bins and ranks of logits.

use super::random;
use super::slices::SLICE;
use crate::simt::prelude::*;

/// Words of a [`Chain`] in device memory.
pub const CHAIN_WORDS: usize = 12;

/// The options of one sequence's chain, in the form that the kernels use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chain {
    /// Divides positive logits of recent tokens and multiplies the others; 1 changes nothing.
    pub repeat_penalty: f32,
    /// Is taken away for each occurrence; 0 changes nothing.
    pub frequency_penalty: f32,
    /// Is taken away once; 0 changes nothing.
    pub presence_penalty: f32,
    /// How many of the last tokens are penalised; 0 is none.
    pub n_recent: u32,
    /// 0 keeps all.
    pub top_k: u32,
    /// 1 keeps all, 0 the best one only.
    pub top_p: f32,
    /// The logarithm of min-p, how far below the largest logit one may be; −∞ keeps all.
    pub ln_min_p: f32,
    /// log₂ e / temperature, what a logit is multiplied by to be a power of 2.
    pub exponent_scale: f32,
    /// [`random::key`] of the seed.
    pub random_key: u64,
    /// The token at position p of the sequence, counted from 0, is drawn with random number `p + draw_offset`
    /// (wrapping).
    pub draw_offset: u32,
}

impl Chain {
    /// The plain draw: all stages off, temperature 1, the random numbers of a seed by position.
    pub const fn plain(seed: u64) -> Self {
        Chain {
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            n_recent: 0,
            top_k: 0,
            top_p: 1.0,
            ln_min_p: f32::NEG_INFINITY,
            exponent_scale: core::f32::consts::LOG2_E,
            random_key: random::key(seed),
            draw_offset: 0,
        }
    }

    /// The largest logit, after the penalties.
    pub const fn greedy() -> Self {
        Chain { top_k: 1, ..Chain::plain(0) }
    }

    /// The chain with this min-p; 0 keeps all.
    #[cfg(not(target_arch = "nvptx64"))]
    pub fn with_min_p(self, min_p: f32) -> Self {
        Chain { ln_min_p: f64::from(min_p).ln() as f32, ..self }
    }

    /// The chain with this temperature, above 0.
    #[cfg(not(target_arch = "nvptx64"))]
    pub fn with_temperature(self, temperature: f32) -> Self {
        // Finite, since zero times it must be zero: the best logit's exponent.
        let scale = (core::f64::consts::LOG2_E / f64::from(temperature)).min(f64::from(f32::MAX));
        Chain { exponent_scale: scale as f32, ..self }
    }

    /// The chain as the kernels read it.
    #[cfg(not(target_arch = "nvptx64"))]
    pub fn words(&self) -> [u32; CHAIN_WORDS] {
        let key = self.random_key;
        [
            self.repeat_penalty.to_bits(),
            self.frequency_penalty.to_bits(),
            self.presence_penalty.to_bits(),
            self.n_recent,
            self.top_k,
            self.top_p.to_bits(),
            self.ln_min_p.to_bits(),
            self.exponent_scale.to_bits(),
            key as u32,
            (key >> 32) as u32,
            self.draw_offset,
            0,
        ]
    }

    /// The chain of a sequence.
    #[inline(always)]
    pub(super) fn load(chains: In<u32>, sequence: usize) -> Self {
        let first = sequence * CHAIN_WORDS;
        let [penalties, limits, draw] =
            [chains.load::<4>(first), chains.load::<4>(first + 4), chains.load::<4>(first + 8)];
        Chain {
            repeat_penalty: f32::from_bits(penalties[0]),
            frequency_penalty: f32::from_bits(penalties[1]),
            presence_penalty: f32::from_bits(penalties[2]),
            n_recent: penalties[3],
            top_k: limits[0],
            top_p: f32::from_bits(limits[1]),
            ln_min_p: f32::from_bits(limits[2]),
            exponent_scale: f32::from_bits(limits[3]),
            random_key: draw[0] as u64 | (draw[1] as u64) << 32,
            draw_offset: draw[2],
        }
    }

    #[inline(always)]
    pub(super) fn has_penalty(&self) -> bool {
        self.n_recent != 0
            && (self.repeat_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0)
    }

    /// Whether top-k leaves no more than one slice's worth of tokens: then only their number is asked of the slices.
    #[inline(always)]
    pub(super) fn fits_list(&self) -> bool {
        self.top_k != 0 && self.top_k <= SLICE as u32
    }

    /// The logit of a token that occurs `count` times, 1 or more, among the recent ones.
    #[inline(always)]
    pub(super) fn penalised(&self, logit: f32, count: u32) -> f32 {
        let scaled = if logit > 0.0 { logit / self.repeat_penalty } else { logit * self.repeat_penalty };
        let taken = math::fma(count as f32, self.frequency_penalty, self.presence_penalty);
        math::min(math::min(scaled, f32::MAX) - taken, f32::MAX)
    }
}

/// The scale of exponents at temperature 1, where top-p is judged.
pub(super) const UNSCALED: f32 = core::f32::consts::LOG2_E;

/// The weight of the best token is 2 to this power. 2¹⁹ tokens' sum has 58 bits, and a third of a weight summed over
/// fewer fits 32.
pub(super) const WEIGHT_BITS: u32 = 39;
/// The weight of the best token.
pub(super) const ONE: f32 = (1u64 << WEIGHT_BITS) as f32;

/// e^(logit − max) at a temperature, in units of 2⁻³⁹, rounded down. `max` is finite and at least `logit`. With a scale
/// of 0 all weigh as much as the best.
#[inline(always)]
pub(super) fn weight(logit: f32, max: f32, exponent_scale: f32) -> u64 {
    // A finite distance, since zero times it must be zero.
    let distance = math::max(logit - max, f32::MIN);
    (math::exp2_flush(distance * exponent_scale) * ONE) as u64
}

/// Bins that logits are sorted into.
pub(super) const BINS: usize = 256;
/// Bins of a difference of 1. A power of 2, so that the product is exact.
pub(super) const BINS_PER_NAT: f32 = 8.0;

/// The bin of a logit on the scale of all floating-point numbers: never lower for a larger logit.
#[inline(always)]
pub(super) fn absolute_bin(logit: f32) -> i32 {
    math::round_to_i32(logit * BINS_PER_NAT)
}

/// The bin of a logit, counted down from the bin of the largest; the last bin holds all that is farther away.
#[inline(always)]
pub(super) fn bin(logit: f32, top: i32) -> u32 {
    below(top, absolute_bin(logit))
}

/// How far a bin is below another, which is not lower; no more than the last bin.
#[inline(always)]
pub(super) fn below(top: i32, bin: i32) -> u32 {
    let distance = top.wrapping_sub(bin) as u32;
    if distance < BINS as u32 { distance } else { BINS as u32 - 1 }
}

/// Bits of a token's id in a rank.
pub(super) const ID_BITS: u32 = 24;

/// A number that is the larger, the larger the logit; it takes every value between two logits' numbers.
#[inline(always)]
pub(super) fn key(logit: f32) -> u32 {
    let bits = logit.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// The logit with this key.
#[inline(always)]
pub(super) fn logit_of_key(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

/// The lower an id, the larger.
#[inline(always)]
pub(super) fn id_rank(id: u32) -> u64 {
    ((1 << ID_BITS) - 1 - id) as u64
}

/// Larger for the better of two tokens: the larger logit, of equals the lower id.
#[inline(always)]
pub(super) fn rank(logit: f32, id: u32) -> u64 {
    (key(logit) as u64) << ID_BITS | id_rank(id)
}

/// The lowest rank that a logit at least as large as `max + ln_min_p` can have: one whose distance from `max`, rounded,
/// is no larger.
#[inline(always)]
pub(super) fn min_p_cut(max: f32, ln_min_p: f32) -> u64 {
    if ln_min_p == f32::NEG_INFINITY {
        return 0;
    }
    // Rounding moves the border by less than this; between the two keys it is found by halving.
    let border = max + ln_min_p;
    let magnitude = math::abs(max) + math::abs(ln_min_p);
    let slack = math::fma(magnitude, 1.0 / 4_194_304.0, f32::MIN_POSITIVE);
    let (mut fails, mut passes) = (key(border - slack), key(border + slack));
    while passes - fails > 1 {
        let middle = fails + (passes - fails) / 2;
        if logit_of_key(middle) - max >= ln_min_p {
            passes = middle;
        } else {
            fails = middle;
        }
    }
    (passes as u64) << ID_BITS
}

#[cfg(all(test, not(target_arch = "nvptx64")))]
mod tests {
    use super::*;

    #[test]
    fn keys_are_ordered_like_logits_and_lead_back() {
        let logits = [f32::MIN, -3.0, -1e-40, 0.0, 1e-45, 2.5, f32::MAX];
        for pair in logits.windows(2) {
            assert!(key(pair[0]) < key(pair[1]), "{pair:?}");
            assert!(rank(pair[0], 0) < rank(pair[1], 1 << 19), "{pair:?}");
        }
        assert!(logits.iter().all(|&logit| logit_of_key(key(logit)) == logit));
        assert!(rank(1.0, 5) > rank(1.0, 6));
    }

    #[test]
    fn min_p_cut_is_the_last_logit_that_is_near_enough() {
        for max in [0.0, 3.0, -3.0, 2.996, 17.25, -40.5, 1e-8, 1e8, 3e38, -3e38] {
            for min_p in [1.0f32, 0.9, 0.05, 1e-3] {
                let least = Chain::plain(0).with_min_p(min_p).ln_min_p;
                let border = (min_p_cut(max, least) >> ID_BITS) as u32;
                assert!(logit_of_key(border) - max >= least, "{max} {min_p}");
                assert!(logit_of_key(border - 1) - max < least, "{max} {min_p}");
            }
        }
        assert_eq!(min_p_cut(5.0, f32::NEG_INFINITY), 0);
    }

    #[test]
    fn extreme_logits_have_bins_in_order() {
        let logits = [f32::MAX, 1e9, 300.0, 0.1, 0.0, -0.2, -300.0, f32::MIN];
        let bins: Vec<u32> = logits.iter().map(|&logit| bin(logit, absolute_bin(logits[0]))).collect();
        assert!(bins.is_sorted(), "{bins:?}");
        assert_eq!(bin(f32::MIN, absolute_bin(f32::MAX)), 255);
        assert_eq!([10.0, 9.0, -22.0].map(|logit| bin(logit, absolute_bin(10.0))), [0, 8, 255]);
    }
}
