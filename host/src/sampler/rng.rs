//! The random numbers of the sampler.

use kernels_gpu::sample::random;

/// A counter-based generator: draw `n` of a seed, counted from 1, is a pure function of the two ([`random`]), so the text
/// of a seed can be repeated on any machine, and on a GPU, and no state but the counter has to be kept.
#[derive(Clone, Debug)]
pub struct Rng {
    key: u64,
    n_drawn: u64,
}

impl Rng {
    /// The stream of `seed`, at its first draw.
    pub fn new(seed: u64) -> Rng {
        Rng { key: random::key(seed), n_drawn: 0 }
    }

    /// What [`random`] makes the stream of.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// Draws so far.
    pub fn n_drawn(&self) -> u64 {
        self.n_drawn
    }

    /// A uniform number in [0, 1): one of the 2⁵³ multiples of 2⁻⁵³.
    pub fn next_unit(&mut self) -> f64 {
        self.n_drawn = self.n_drawn.wrapping_add(1);
        random::unit(self.key, self.n_drawn)
    }
}

/// A seed that differs from call to call. It has 32 bits: short enough to type again, and exact in every JSON reader.
pub fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library keys its hash maps from the operating system's entropy; an empty hash is that key, mixed.
    std::hash::RandomState::new().build_hasher().finish() & u64::from(u32::MAX)
}
