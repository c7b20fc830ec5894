//! The softmax that goes with the tiles of keys.

use super::SCORES;
use crate::simt::prelude::*;
use crate::simt::wgmma::{Accumulators, Operand};

/// The score of a key that is not there. Finite, so that no difference of two is undefined.
const NO_SCORE: f32 = -1.0e30;

/// The running softmax of a thread's two queries: rows `lane / 4` and `lane / 4 + 8` of the warp's 16. What a lane has of the
/// sum of weights is its own part.
#[derive(Clone, Copy)]
pub struct Softmax {
    /// Scale of the scores, to base 2.
    scale: f32,
    positions: [u32; 2],
    max: [f32; 2],
    pub sum: [f32; 2],
}

/// Weights in f16, as the tensor cores take them: four registers for 16 keys.
pub type Packed = [[u32; 4]; SCORES / 8];

/// Packs weights. Only when no product reads those before, which lie in the same registers.
#[inline(always)]
pub fn pack(weights: &[f32; SCORES]) -> Packed {
    let mut packed = [[0u32; 4]; SCORES / 8];
    for step in 0..SCORES / 8 {
        for pair in 0..4 {
            let i = 8 * step + 2 * pair;
            packed[step][pair] = f16::pair(weights[i], weights[i + 1]);
        }
    }
    packed
}

impl Softmax {
    #[inline(always)]
    pub fn new(scale: f32) -> Self {
        Self { scale, positions: [0; 2], max: [NO_SCORE; 2], sum: [0.0; 2] }
    }

    /// Begins with other queries.
    #[inline(always)]
    pub fn begin(&mut self, positions: [u32; 2]) {
        self.positions = positions;
        self.max = [NO_SCORE; 2];
        self.sum = [0.0; 2];
    }

    /// Takes the scores of the tile of keys from `first_key` on, of which a query may not see all if it is `MASKED`. Gives
    /// their weights, and the factors by which the sums so far shrink.
    #[inline(always)]
    pub fn take<const MASKED: bool>(
        &mut self,
        scores: &Accumulators<SCORES>,
        first_key: u32,
    ) -> ([f32; SCORES], [f32; 2]) {
        let mut s = [0.0f32; SCORES];
        let first_key = first_key + 2 * (warp::lane_id() % 4);
        for i in 0..SCORES {
            let key = first_key + (8 * (i / 4) + i % 2) as u32;
            let is_seen = !MASKED || key <= self.positions[i / 2 % 2];
            s[i] = if is_seen { scores.get(i) } else { NO_SCORE };
        }
        let mut max = self.max;
        for i in 0..SCORES {
            max[i / 2 % 2] = math::max(max[i / 2 % 2], s[i]);
        }
        let (mut shrink, mut offset) = ([0.0f32; 2], [0.0f32; 2]);
        for row in 0..2 {
            max[row] = math::max(max[row], warp::shuffle_xor(max[row], 1));
            max[row] = math::max(max[row], warp::shuffle_xor(max[row], 2));
            // A query that has seen no key yet: its weights are zeros, as are its sums.
            offset[row] = if max[row] == NO_SCORE { 0.0 } else { max[row] * self.scale };
            shrink[row] = math::exp2_flush(math::fma(self.max[row], self.scale, -offset[row]));
            self.sum[row] *= shrink[row];
        }
        self.max = max;
        for i in 0..SCORES {
            let row = i / 2 % 2;
            s[i] = math::exp2_flush(math::fma(s[i], self.scale, -offset[row]));
            self.sum[row] += s[i];
        }
        (s, shrink)
    }
}
