//! Random numbers as a function of a seed and a counter, the same on every machine.
//!
//! Draw `n` of a seed is the SplitMix64 finaliser applied to `key + n · γ`, where γ is 2⁶⁴ divided by the golden ratio
//! (odd, so the period is 2⁶⁴) and `key` is the finalised seed, so that neighbouring seeds give unrelated streams. No
//! state but the counter has to be kept.

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The key of a seed's stream.
#[inline(always)]
pub const fn key(seed: u64) -> u64 {
    finalise(seed.wrapping_add(GAMMA))
}

/// The 64 uniform bits of draw `n` of a stream.
#[inline(always)]
pub const fn bits(key: u64, n: u64) -> u64 {
    finalise(key.wrapping_add(n.wrapping_mul(GAMMA)))
}

/// The uniform number in [0, 1) of draw `n` of a stream: one of the 2⁵³ multiples of 2⁻⁵³.
#[inline(always)]
pub const fn unit(key: u64, n: u64) -> f64 {
    (bits(key, n) >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
}

/// SplitMix64's output function (Steele, Lea and Flood, 2014, in Stafford's variant 13): a bijection of 64-bit words
/// in which every input bit flips each output bit with probability near one half.
#[inline(always)]
const fn finalise(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published outputs of SplitMix64 for the seed 1234567.
    #[test]
    fn finaliser_is_splitmix64() {
        let outputs: Vec<u64> = (1..=5).map(|n| bits(1_234_567, n)).collect();
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
