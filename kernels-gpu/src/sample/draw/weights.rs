//! Sums of weights over slices and bins.

use super::{BINS, Draw, SLICE_THREADS, Stage, THREADS, cut_bin};
use crate::sample::chain::{rank, weight};
use crate::sample::search::Found;
use crate::sample::sums::lanes_sum;
use crate::simt::prelude::*;

/// Sums that are compared at a time.
const COLUMNS: usize = 16;
/// Threads that share the slices of a sum, and the slices whose sums are on their way to a thread at a time.
const GROUPS: usize = THREADS / COLUMNS;
const IN_FLIGHT: usize = 4;
/// A sum for each column, and before that for each column and warp.
pub(super) const PARTIAL_SUMS: usize = COLUMNS + THREADS / 2;
const _: () = assert!(BINS == COLUMNS * COLUMNS);

impl Draw {
    /// The bin in which the sum over all slices reaches the target: first which sixteen bins, then which of them.
    #[inline(always)]
    pub(super) fn first_bin(&self, stage: Stage, target: u64, largest: f32) -> Found {
        let t = thread::thread_idx_x() as usize;
        let (column, group) = (t / 2 % COLUMNS, t / 32 * 2 + t % 2);
        let last = self.records.n_slices - 1;
        let mut found = Found::nothing(target);
        let mut step = BINS / COLUMNS;
        loop {
            // The sum through the last of the column's bins.
            let bin = found.index as usize + (column + 1) * step - 1;
            let (mut sum, mut first) = (0, group);
            while first <= last {
                let mut own = [0.0; IN_FLIGHT];
                let mut i = 0;
                while i < IN_FLIGHT {
                    let slice = (first + i * GROUPS).min(last);
                    own[i] = self.records.weight_through(slice, bin as u32, stage.row);
                    i += 1;
                }
                let mut i = 0;
                while i < IN_FLIGHT {
                    if first <= last {
                        sum += (own[i] * self.factor(first, stage, largest)) as u64;
                    }
                    first += GROUPS;
                    i += 1;
                }
            }
            let sum = lanes_sum(sum, 2);
            if t.is_multiple_of(2) {
                self.partial_sums.set(COLUMNS + t / 2, sum);
            }
            thread::sync_threads();
            if t < COLUMNS {
                let mut sum = 0;
                let mut warp = 0;
                while warp < THREADS / 32 {
                    sum += self.partial_sums.get(COLUMNS + warp * COLUMNS + t);
                    warp += 1;
                }
                self.partial_sums.set(t, sum);
            }
            thread::sync_threads();
            if step > 1 {
                let total = self.partial_sums.get(COLUMNS - 1);
                found.target = target.clamp(1, total.max(1));
            }
            let (mut index, mut i) = (0, 0);
            while i < COLUMNS - 1 {
                index += (self.partial_sums.get(i) < found.target) as usize;
                i += 1;
            }
            if index > 0 {
                found.before = self.partial_sums.get(index - 1);
            }
            found.index += (index * step) as u32;
            found.value = self.partial_sums.get(index) - found.before;
            if step == 1 {
                return found;
            }
            step = 1;
        }
    }

    /// Notes the sum of weights of each slice's tokens down to the cut, relative to the largest logit of all.
    #[inline(always)]
    pub(super) fn sum_slices(&self, cut: u64, stage: Stage, largest: f32) {
        let bin = cut_bin(cut, largest);
        let factor = |slice: usize| self.factor(slice, stage, largest) as f64;
        let t = thread::thread_idx_x() as usize;
        if cut == 0 {
            if t < self.records.n_slices {
                let sum = self.records.weight_through(t, bin, stage.row);
                self.slice_sums.set(t, (sum as f64 * factor(t)) as u64);
            }
            return thread::sync_threads();
        }
        // The sum of the better bins, and the cut's own bin token by token. Warps stay together.
        let mut first = 0;
        while first < self.records.n_slices {
            let slice = first + t / SLICE_THREADS;
            let (mut better, mut sum) = (0.0, 0);
            if slice < self.records.n_slices {
                better = if bin == 0 { 0.0 } else { self.records.weight_through(slice, bin - 1, stage.row) };
                let own = self.records.largest(slice);
                let end = self.records.count_through(slice, bin);
                let mut i = self.records.count_before(slice, bin) + t % SLICE_THREADS;
                while i < end {
                    let item = self.records.item(slice, i);
                    if rank(item.logit, item.id) >= cut {
                        sum += weight(item.logit, own, stage.exponent_scale);
                    }
                    i += SLICE_THREADS;
                }
            }
            let sum = lanes_sum(sum, SLICE_THREADS) + better as u64;
            if slice < self.records.n_slices && t.is_multiple_of(SLICE_THREADS) {
                self.slice_sums.set(slice, (sum as f64 * factor(slice)) as u64);
            }
            first += THREADS / SLICE_THREADS;
        }
        thread::sync_threads();
    }

    /// What a slice's own weights are multiplied by to be relative to the largest logit of all.
    #[inline(always)]
    pub(super) fn factor(&self, slice: usize, stage: Stage, largest: f32) -> f32 {
        math::exp2_flush((self.records.largest(slice) - largest) * stage.exponent_scale)
    }

    /// The slice at which the sums that were noted reach the target.
    #[inline(always)]
    pub(super) fn first_slice(&self, target: impl Fn(u64) -> u64) -> Found {
        let sum = |slice| if slice < self.records.n_slices { self.slice_sums.get(slice) } else { 0 };
        let found = self.search.first(sum, target);
        thread::sync_threads();
        found
    }
}
