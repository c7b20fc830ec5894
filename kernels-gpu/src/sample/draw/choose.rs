//! Which tokens are under consideration, and their list in shared memory.

use super::{Chosen, Draw, LIST, PER_THREAD, SLICE_THREADS, THREADS, cut_bin};
use crate::sample::chain::rank;
use crate::sample::records::HEADS_PER_THREAD;
use crate::sample::search::{FEW, Item, NUMBERS};
use crate::simt::prelude::*;

impl Draw {
    #[inline(always)]
    pub(super) fn listed(&self, i: usize) -> Item {
        Item { logit: self.list_logits.get(i), id: self.list_ids.get(i) }
    }

    #[inline(always)]
    pub(super) fn list(&self, i: usize, item: Item) {
        self.list_logits.set(i, item.logit);
        self.list_ids.set(i, item.id);
    }

    /// Considers tokens down to the bin of the `top_k`-th best of the slices' largest logits, which has as many at least,
    /// unless they are more than few.
    #[inline(always)]
    pub(super) fn choose_few(
        &self,
        top_k: u32,
        heads: &[Item; HEADS_PER_THREAD],
        largest: f32,
    ) -> Option<Chosen> {
        if top_k as usize > self.records.n_slices {
            return None;
        }
        if thread::thread_idx_x() == 0 {
            self.n_listed.set(0, 0);
        }
        let item = |slice| (rank(self.records.largest(slice), slice as u32), 1);
        let cut = self.search.select_few(self.records.n_slices, item, |_| top_k as u64);
        let bin = cut_bin(cut, largest);
        let mut j = 0;
        while j < HEADS_PER_THREAD {
            let is_one = self.records.has_head(j) && heads[j].logit > f32::NEG_INFINITY;
            if is_one && self.records.bin_of(heads[j].logit, largest) <= bin {
                // Behind the last of a head there may be more.
                let n = if self.records.is_last_of_head() { 1 + LIST as u32 } else { 1 };
                let at = atomic::add_u32(self.n_listed, 0, n) as usize;
                if at < FEW {
                    self.list(at, heads[j]);
                }
            }
            j += 1;
        }
        thread::sync_threads();
        let n = self.n_listed.get(0);
        if n as usize <= FEW {
            return Some(Chosen { n_listed: Some(n), with_better: true, n_few: None });
        }
        let chosen = self.choose(bin, FEW, largest);
        chosen.with_better.then_some(Chosen { n_few: None, ..chosen })
    }

    /// Considers the tokens down to a cut that no more than [`LIST`] reach.
    #[inline(always)]
    pub(super) fn choose_down_to(&self, cut: u64, largest: f32) -> Chosen {
        let t = thread::thread_idx_x() as usize;
        if t == 0 {
            self.n_listed.set(0, 0);
        }
        if t < self.records.n_slices {
            self.firsts.set(t, 0);
            self.ends.set(t, self.records.count_through(t, cut_bin(cut, largest)) as u32);
        }
        thread::sync_threads();
        self.each_in_slices(|item| {
            if rank(item.logit, item.id) >= cut {
                self.list(atomic::add_u32(self.n_listed, 0, 1) as usize, item);
            }
        });
        thread::sync_threads();
        Chosen { n_listed: Some(self.n_listed.get(0)), with_better: true, n_few: None }
    }

    /// Considers the tokens of a bin: with those of all better bins if these are no more than `limit`.
    #[inline(always)]
    pub(super) fn choose(&self, bin: u32, limit: usize, largest: f32) -> Chosen {
        let t = thread::thread_idx_x() as usize;
        if t == 0 {
            self.n_listed.set(1, 0);
        }
        let (mut through, mut before) = (0, 0);
        if t < self.records.n_slices {
            through = self.records.count_through(t, bin);
            before = self.records.count_before(t, bin);
        }
        // Two counts in one sum.
        let (start, counts) = self.search.running_sum((through as u64) << 32 | before as u64);
        let (n_through, n_before) = (counts >> 32, counts as u32 as u64);
        let with_better = n_through <= limit as u64;
        let n = if with_better { n_through } else { n_through - n_before };
        if t < self.records.n_slices {
            let (start_through, start_before) = ((start >> 32) as u32, start as u32);
            self.firsts.set(t, if with_better { 0 } else { before as u32 });
            self.ends.set(t, through as u32);
            self.starts.set(t, if with_better { start_through } else { start_through - start_before });
        }
        thread::sync_threads();
        if n > LIST as u64 {
            return Chosen { n_listed: None, with_better, n_few: None };
        }
        self.gather(n as usize, bin, largest);
        let n_few = (n_through - n_before) as u32;
        let n_few = if n_few as usize <= FEW { Some(n_few) } else { None };
        Chosen { n_listed: Some(n as u32), with_better, n_few }
    }

    /// Fills the list with the tokens that `firsts` and `starts` name, and `few` with the places of those of a bin. Ends with
    /// a barrier.
    #[inline(always)]
    pub(super) fn gather(&self, n: usize, bin: u32, largest: f32) {
        let mut items = [Item { logit: f32::NEG_INFINITY, id: 0 }; PER_THREAD];
        let mut j = 0;
        while j < PER_THREAD {
            let i = thread::thread_idx_x() as usize + j * THREADS;
            if i < n {
                let slice = self.slice_of(i);
                let first = self.firsts.get(slice) as usize;
                items[j] = self.records.item(slice, first + i - self.starts.get(slice) as usize);
            }
            j += 1;
        }
        let mut j = 0;
        while j < PER_THREAD {
            let i = thread::thread_idx_x() as usize + j * THREADS;
            if i < n {
                self.list(i, items[j]);
                if self.records.bin_of(items[j].logit, largest) == bin {
                    let at = atomic::add_u32(self.n_listed, 1, 1) as usize;
                    if at < FEW {
                        self.few.set(at, i as u32);
                    }
                }
            }
            j += 1;
        }
        thread::sync_threads();
    }

    /// The slice of token `i` of those under consideration: the last one before which there are no more.
    #[inline(always)]
    pub(super) fn slice_of(&self, i: usize) -> usize {
        let (mut slice, mut step) = (0, NUMBERS / 2);
        while step > 0 {
            if slice + step < self.records.n_slices && self.starts.get(slice + step) as usize <= i {
                slice += step;
            }
            step /= 2;
        }
        slice
    }

    /// Does something with each token that `firsts` and `ends` name.
    #[inline(always)]
    pub(super) fn each_in_slices(&self, body: impl Fn(Item)) {
        let t = thread::thread_idx_x() as usize;
        let (mut slice, step) = (t / SLICE_THREADS, thread::block_dim_x() as usize / SLICE_THREADS);
        while slice < self.records.n_slices {
            let end = self.ends.get(slice) as usize;
            let mut i = self.firsts.get(slice) as usize + t % SLICE_THREADS;
            while i < end {
                body(self.records.item(slice, i));
                i += SLICE_THREADS;
            }
            slice += step;
        }
    }
}
