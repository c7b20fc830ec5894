//! The draw: the token at which the sum of weights, in the order of ids, reaches a target.

use super::{Draw, PER_THREAD, Stage, THREADS, at_least, cut_bin};
use crate::sample::chain::{rank, weight};
use crate::sample::search::{Found, Item};
use crate::sample::slices::SLICE;
use crate::simt::prelude::*;

impl Draw {
    /// Draws from the tokens of one slice.
    #[inline(always)]
    pub(super) fn draw_from_slice(&self, found: Found, cut: u64, stage: Stage, largest: f32) -> u32 {
        let slice = found.index as usize;
        let n = self.records.count_through(slice, cut_bin(cut, largest));
        let mut items = [Item { logit: f32::NEG_INFINITY, id: 0 }; PER_THREAD];
        let mut j = 0;
        while j < PER_THREAD {
            let i = thread::thread_idx_x() as usize + j * THREADS;
            if i < n {
                items[j] = self.records.item(slice, i);
            }
            j += 1;
        }
        self.begin_order();
        let mut j = 0;
        while j < PER_THREAD {
            if items[j].logit > f32::NEG_INFINITY && rank(items[j].logit, items[j].id) >= cut {
                self.in_order.set(items[j].id as usize % SLICE, items[j].logit);
            }
            j += 1;
        }
        // In its own weights the target lies where it does in those relative to the largest logit of all.
        let place = (found.target - found.before) as f64 / found.value as f64;
        let target = |total: u64| at_least(place * total as f64);
        self.first_in_order(slice, target, stage, self.records.largest(slice))
    }

    /// Nothing is in order yet. Ends with a barrier.
    #[inline(always)]
    pub(super) fn begin_order(&self) {
        let first = thread::thread_idx_x() as usize * PER_THREAD;
        self.in_order.store::<PER_THREAD>(first, [f32::NEG_INFINITY; PER_THREAD]);
        thread::sync_threads();
    }

    /// The token of the slice at which the running sum of the weights in order reaches the target.
    #[inline(always)]
    pub(super) fn first_in_order(
        &self,
        slice: usize,
        target: impl Fn(u64) -> u64,
        stage: Stage,
        reference: f32,
    ) -> u32 {
        thread::sync_threads();
        let first = thread::thread_idx_x() as usize * PER_THREAD;
        let logits = self.in_order.load::<PER_THREAD>(first);
        let (mut weights, mut sum) = ([0; PER_THREAD], 0);
        let mut j = 0;
        while j < PER_THREAD {
            if logits[j] > f32::NEG_INFINITY {
                weights[j] = weight(logits[j], reference, stage.exponent_scale);
            }
            sum += weights[j];
            j += 1;
        }
        let (mut before, total) = self.search.running_sum(sum);
        let target = target(total).clamp(1, total.max(1));
        let mut j = 0;
        while j < PER_THREAD {
            if before < target && target <= before + weights[j] {
                self.n_listed.set(0, (slice * SLICE + first + j) as u32);
            }
            before += weights[j];
            j += 1;
        }
        thread::sync_threads();
        self.n_listed.get(0)
    }
}
