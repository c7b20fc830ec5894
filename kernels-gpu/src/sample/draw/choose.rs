//! Which tokens are under consideration, and their list in shared memory.

use super::{Candidates, Chosen, Draw, LIST, PER_THREAD, THREADS, cut_bin};
use crate::sample::chain::rank;
use crate::sample::records::{HEADS_PER_THREAD, bin_of};
use crate::sample::search::{FEW, Item, Items, NUMBERS};
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

    #[inline(always)]
    pub(super) fn few(&self, i: usize) -> Item {
        Item { logit: self.few_logits.get(i), id: self.few_ids.get(i) }
    }

    #[inline(always)]
    pub(super) fn set_few(&self, i: usize, item: Item) {
        self.few_logits.set(i, item.logit);
        self.few_ids.set(i, item.id);
    }

    /// The bin of the `top_k`-th best of the slices' largest logits, down to which there are as many tokens at least, unless
    /// slices are empty.
    #[inline(always)]
    pub(super) fn guess_bin(&self, top_k: u32) -> Option<u32> {
        if top_k as usize > self.records.n_slices {
            return None;
        }
        let t = thread::thread_idx_x() as usize;
        if t == 0 {
            self.n_listed.set(0, 0);
        }
        if t < NUMBERS {
            let (through, before) = self.records.slices_through(t as u32);
            if before < top_k && top_k <= through {
                self.n_listed.set(1, t as u32);
            }
        }
        thread::sync_threads();
        Some(self.n_listed.get(1))
    }

    /// Puts the slices' heads where [`Self::list_heads`] finds them: in the list, each where its thread would have it.
    #[inline(always)]
    pub(super) fn keep_heads(&self, heads: [Item; HEADS_PER_THREAD]) {
        let mut j = 0;
        while j < HEADS_PER_THREAD {
            self.list(thread::thread_idx_x() as usize + j * THREADS, heads[j]);
            j += 1;
        }
    }

    /// Considers the tokens down to a bin, if the slices' heads have all of them and they are few; else nothing.
    #[inline(always)]
    pub(super) fn list_heads(&self, bin: u32, largest: f32) -> Chosen {
        let mut heads = [Item { logit: f32::NEG_INFINITY, id: 0 }; HEADS_PER_THREAD];
        let mut j = 0;
        while j < HEADS_PER_THREAD {
            heads[j] = self.listed(thread::thread_idx_x() as usize + j * THREADS);
            j += 1;
        }
        thread::sync_threads();
        let mut j = 0;
        while j < HEADS_PER_THREAD {
            let logit = heads[j].logit;
            if logit > f32::NEG_INFINITY && bin_of(logit, largest) <= bin {
                // Behind the last of a head there may be more.
                let n = if self.records.is_last_of_head() { 1 + FEW as u32 } else { 1 };
                let at = atomic::add_u32(self.n_listed, 0, n) as usize;
                if at < FEW {
                    self.list(at, heads[j]);
                }
            }
            j += 1;
        }
        thread::sync_threads();
        let n = self.n_listed.get(0);
        let is_all = n as usize <= FEW;
        Chosen { n_listed: if is_all { Some(n) } else { None }, with_better: is_all }
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
        let unlisted = Chosen { n_listed: None, with_better: true };
        Candidates(self, unlisted).each(|item| {
            if rank(item.logit, item.id) >= cut {
                self.list(atomic::add_u32(self.n_listed, 0, 1) as usize, item);
            }
        });
        thread::sync_threads();
        Chosen { n_listed: Some(self.n_listed.get(0)), with_better: true }
    }

    /// Considers the tokens of a bin: with those of all better bins if these are no more than `limit`.
    #[inline(always)]
    pub(super) fn choose(&self, bin: u32, limit: usize) -> Chosen {
        let t = thread::thread_idx_x() as usize;
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
            return Chosen { n_listed: None, with_better };
        }
        self.gather(n as usize);
        Chosen { n_listed: Some(n as u32), with_better }
    }

    /// Fills the list with the tokens that `firsts` and `starts` name. Ends with a barrier.
    #[inline(always)]
    fn gather(&self, n: usize) {
        let mut first = thread::thread_idx_x() as usize;
        while first < n {
            let mut items = [Item { logit: f32::NEG_INFINITY, id: 0 }; PER_THREAD];
            let mut j = 0;
            while j < PER_THREAD {
                let i = first + j * THREADS;
                if i < n {
                    let slice = self.slice_of(i);
                    let place = self.firsts.get(slice) as usize + i - self.starts.get(slice) as usize;
                    items[j] = self.records.item(slice, place);
                }
                j += 1;
            }
            let mut j = 0;
            while j < PER_THREAD {
                if first + j * THREADS < n {
                    self.list(first + j * THREADS, items[j]);
                }
                j += 1;
            }
            first += PER_THREAD * THREADS;
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
}
