//! Attention of one query head over the keys and values of its position and those before.
//!
//! Scores, their maximum, the exponentials and their sum are taken in the order of the positions, so a token's result
//! does not depend on how many tokens it came with.

use super::rows::{dot, load, store};
use super::vector::{Kernel, LANES, Vector};

/// Vectors of the head that are summed over the positions side by side, so that their chains of additions overlap.
const VECTORS_TOGETHER: usize = 4;

/// y = softmax(q · kᵀ · scale) v.
pub struct AttendHead<'a> {
    pub y: &'a mut [f32], // [head_dim]
    pub q: &'a [f32],     // [head_dim]
    pub k: &'a [f32],     // [n_keys, head_dim]
    pub v: &'a [f32],     // [n_keys, head_dim]
    pub scale: f32,
    /// Room for the weights, `[n_keys]`.
    pub weights: &'a mut [f32],
}

impl Kernel for AttendHead<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let head_dim = self.q.len();
        for (weight, k) in self.weights.iter_mut().zip(self.k.chunks_exact(head_dim)) {
            *weight = dot::<V>(self.q, k) * self.scale;
        }
        let sum = exponentials::<V>(self.weights);
        let head_step = VECTORS_TOGETHER * LANES;
        for (first, y) in (0..).step_by(head_step).zip(self.y.chunks_mut(head_step)) {
            let mut sums = [V::splat(0.0); VECTORS_TOGETHER];
            for (weight, v) in self.weights.iter().zip(self.v.chunks_exact(head_dim)) {
                let weight = V::splat(*weight);
                let v = &v[first..first + y.len()];
                if let Some(v) = v.as_array::<{ VECTORS_TOGETHER * LANES }>() {
                    for (sum, v) in sums.iter_mut().zip(v.as_chunks::<LANES>().0) {
                        *sum = V::load(v).mul_add(weight, *sum);
                    }
                } else {
                    for (sum, v) in sums.iter_mut().zip(v.chunks(LANES)) {
                        *sum = load::<V>(v).mul_add(weight, *sum);
                    }
                }
            }
            for (y, weighted) in y.chunks_mut(LANES).zip(sums) {
                store(y, weighted.div(V::splat(sum)));
            }
        }
    }
}

/// Replaces scores by exp(score - largest score) and returns their sum.
#[inline(always)]
fn exponentials<V: Vector>(scores: &mut [f32]) -> f32 {
    let mut largest = V::splat(f32::NEG_INFINITY);
    let (whole, rest) = scores.as_chunks::<LANES>();
    for scores in whole {
        largest = largest.max(V::load(scores));
    }
    let largest = rest.iter().fold(largest.largest(), |a, &b| a.max(b));
    let mut sum = V::splat(0.0);
    for scores in scores.chunks_mut(LANES) {
        let exponentials = load::<V>(scores).add(V::splat(-largest)).exp();
        store(scores, exponentials);
        // Loaded again: lanes beyond the last score count as zero.
        sum = sum.add(load(scores));
    }
    sum.sum()
}
