//! The softmax of a warp's tiles.

#![allow(clippy::needless_range_loop, reason = "constant indices keep arrays in registers")]

use super::{NO_SCORE, Shape, WEIGHT_EXPONENT, operands};
use crate::simt::prelude::*;

/// The running softmax of a lane's rows, scores to base 2. What a lane has of the sum of weights is its own keys' part.
pub struct Softmax<const PASSES: usize, const CAPPED: bool> {
    /// From products to scores; if these are capped, to the argument of tanh.
    scale: f32,
    /// From tanh to scores.
    cap: f32,
    max: [f32; PASSES],
    sum: [f32; PASSES],
}

impl<const PASSES: usize, const CAPPED: bool> Softmax<PASSES, CAPPED> {
    #[inline(always)]
    pub fn new(shape: &Shape) -> Self {
        use core::f32::consts::LOG2_E;
        let scale = if CAPPED { math::div(shape.scale, shape.softcap) } else { shape.scale * LOG2_E };
        Self { scale, cap: shape.softcap * LOG2_E, max: [NO_SCORE; PASSES], sum: [0.0; PASSES] }
    }

    /// Takes the products of a tile, of which the first `n_keys` keys exist, at least one. Gives their weights, and the
    /// factors by which sums so far shrink: exactly 1 while the largest score stays.
    #[inline(always)]
    #[track_caller]
    pub fn take(
        &mut self,
        products: [[[f32; 2]; 2]; PASSES],
        n_keys: u32,
        lane: u32,
    ) -> ([[u32; 4]; PASSES], [f32; PASSES]) {
        let (mut weights, mut shrink) = (products, [0.0; PASSES]);
        for row in 0..PASSES {
            let mut max = self.max[row];
            for i in 0..4 {
                let scaled = weights[row][i / 2][i % 2] * self.scale;
                let score = if CAPPED { self.cap * math::tanh(scaled) } else { scaled };
                let exists = 2 * (lane % 4) + ((i / 2 * 8 + i % 2) as u32) < n_keys;
                weights[row][i / 2][i % 2] = if exists { score } else { NO_SCORE };
                max = math::max(max, weights[row][i / 2][i % 2]);
            }
            max = math::max(max, warp::shuffle_xor(max, 1));
            max = math::max(max, warp::shuffle_xor(max, 2));
            shrink[row] = math::exp2_flush(self.max[row] - max);
            self.sum[row] *= shrink[row];
            self.max[row] = max;
            let offset = WEIGHT_EXPONENT - max;
            for i in 0..4 {
                let weight = math::exp2_flush(weights[row][i / 2][i % 2] + offset);
                weights[row][i / 2][i % 2] = weight;
                self.sum[row] += weight;
            }
        }
        (operands(weights), shrink)
    }

    /// (m, l) of the lane's rows over all keys of the warp, m to base 2, l as large as the weights make it.
    #[inline(always)]
    #[track_caller]
    pub fn finish(&self) -> [[f32; 2]; PASSES] {
        let mut ml = [[0.0; 2]; PASSES];
        for row in 0..PASSES {
            let sum = self.sum[row] + warp::shuffle_xor(self.sum[row], 1);
            ml[row] = [self.max[row], sum + warp::shuffle_xor(sum, 2)];
        }
        ml
    }
}
