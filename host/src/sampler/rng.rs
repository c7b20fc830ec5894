//! The random numbers of the sampler.

/// A counter-based generator: draw `n` of a seed is a pure function of the two, so the text of a seed can be repeated
/// on any machine and no state but the counter has to be kept.
///
/// Draw `n` is the SplitMix64 finaliser applied to `key + n · γ`, where `γ` is 2⁶⁴ divided by the golden ratio (odd, so
/// the period is 2⁶⁴) and `key` is the finalised seed, so that neighbouring seeds give unrelated streams.
#[derive(Clone, Debug)]
pub struct Rng {
    key: u64,
    n_drawn: u64,
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Rng {
    /// The stream of `seed`, at its first draw.
    pub fn new(seed: u64) -> Rng {
        Rng { key: finalise(seed.wrapping_add(GAMMA)), n_drawn: 0 }
    }

    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        self.n_drawn = self.n_drawn.wrapping_add(1);
        finalise(self.key.wrapping_add(self.n_drawn.wrapping_mul(GAMMA)))
    }

    /// A uniform number in [0, 1): one of the 2⁵³ multiples of 2⁻⁵³.
    pub fn next_unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (-53f64).exp2()
    }
}

/// SplitMix64's output function (Steele, Lea and Flood, 2014, in Stafford's variant 13): a bijection of 64-bit words
/// in which every input bit flips each output bit with probability near one half.
fn finalise(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A seed that differs from call to call. It has 32 bits: short enough to type again, and exact in every JSON reader.
pub fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library keys its hash maps from the operating system's entropy; an empty hash is that key, mixed.
    std::hash::RandomState::new().build_hasher().finish() & u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published outputs of SplitMix64 for the seed 1234567.
    #[test]
    fn finaliser_is_splitmix64() {
        let outputs: Vec<u64> =
            (1..=5u64).map(|n| finalise(n.wrapping_mul(GAMMA).wrapping_add(1_234_567))).collect();
        let published = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(outputs, published);
    }
}
