//! Sums of weights over slices and bins.

use super::{BINS, Draw, GROUPS, IN_FLIGHT, SLICE_THREADS, Stage, THREADS, cut_bin};
use crate::sample::chain::{rank, weight};
use crate::sample::search::Found;
use crate::sample::sums::lanes_sum;
use crate::simt::prelude::*;

impl Draw {
    /// The bin in which the sum over all slices reaches the target.
    #[inline(always)]
    pub(super) fn first_bin(&self, stage: Stage, target: u64, largest: f32) -> Found {
        let t = thread::thread_idx_x() as usize;
        let (bin, mut slice) = (t % BINS, t / BINS);
        let mut partial = 0;
        let last = self.records.n_slices - 1;
        while slice <= last {
            let mut own = [0.0; IN_FLIGHT];
            let mut i = 0;
            while i < IN_FLIGHT {
                own[i] = self.records.weight_through((slice + i * GROUPS).min(last), bin as u32, stage.row);
                i += 1;
            }
            let mut i = 0;
            while i < IN_FLIGHT {
                if slice <= last {
                    partial += (own[i] * self.factor(slice, stage, largest)) as u64;
                }
                slice += GROUPS;
                i += 1;
            }
        }
        self.partial_sums.set(t, partial);
        thread::sync_threads();
        let through = |bin: usize| {
            let partial = |group: usize| self.partial_sums.get(group * BINS + bin);
            partial(0) + partial(1)
        };
        self.search
            .first(|bin| if bin == 0 { through(0) } else { through(bin) - through(bin - 1) }, |_| target)
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
