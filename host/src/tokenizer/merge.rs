//! Merging neighbours, best pair first: what byte-pair encoding and SentencePiece have in common.
//!
//! The symbols of a piece are a doubly linked list in an array, the mergeable pairs a heap.  Each merge takes one symbol
//! away and puts at most two pairs on the heap, so n symbols cost O(n log n), whatever they are.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No symbol, no token, no rank.
pub(super) const NONE: u32 = u32::MAX;

/// A stretch of the piece that is one token, or a character that is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    /// Its token's id, or [`NONE`].
    pub id: u32,
    /// Bytes `begin..end` of the piece.
    pub begin: u32,
    pub end: u32,
    prev: u32,
    next: u32,
    /// What merging it with the next symbol would give; its rank is [`NONE`] if nothing.
    pair: Merged,
}

/// The result of merging two neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Merged {
    /// Lower is merged first; among equals the leftmost is.
    pub rank: u32,
    /// The token that the two become.
    pub id: u32,
}

const NOT_MERGEABLE: Merged = Merged { rank: NONE, id: NONE };

/// Working memory, kept from piece to piece.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    /// (rank, index of the left symbol).  An entry is out of date when that symbol's pair has another rank by now.
    heap: BinaryHeap<Reverse<(u32, u32)>>,
}

impl Merger {
    /// Empties the list for the next piece.
    pub fn clear(&mut self) {
        self.symbols.clear();
        self.heap.clear();
    }

    /// Appends bytes `begin..end` of the piece as a symbol; `id` is its token, or [`NONE`].
    ///
    /// The caller keeps texts below 2³¹ bytes, so that places fit u32.
    pub fn push(&mut self, id: u32, begin: usize, end: usize) {
        let place = |at: usize| u32::try_from(at).expect("texts are below 2^31 bytes");
        let index = place(self.symbols.len());
        if let Some(last) = self.symbols.last_mut() {
            last.next = index;
        }
        self.symbols.push(Symbol {
            id,
            begin: place(begin),
            end: place(end),
            prev: index.checked_sub(1).unwrap_or(NONE),
            next: NONE,
            pair: NOT_MERGEABLE,
        });
    }

    /// Merges until no two neighbours can be.  `merge` says what two neighbours become, if anything.
    pub fn run(&mut self, merge: impl Fn(&Symbol, &Symbol) -> Option<Merged>) {
        for left in 0..self.symbols.len() {
            self.look_at(left as u32, &merge);
        }
        while let Some(Reverse((rank, left))) = self.heap.pop() {
            let Symbol { pair, next, .. } = self.symbols[left as usize];
            if pair.rank != rank {
                continue;
            }
            self.symbols[next as usize].pair = NOT_MERGEABLE; // its entries on the heap are void
            let Symbol { end, next: after, .. } = self.symbols[next as usize];
            let joined = &mut self.symbols[left as usize];
            (joined.id, joined.end, joined.next) = (pair.id, end, after);
            let before = joined.prev;
            if after != NONE {
                self.symbols[after as usize].prev = left;
            }
            self.look_at(left, &merge);
            if before != NONE {
                self.look_at(before, &merge);
            }
        }
    }

    /// Renews the pair of symbol `left` and its next.
    fn look_at(&mut self, left: u32, merge: &impl Fn(&Symbol, &Symbol) -> Option<Merged>) {
        let symbol = &self.symbols[left as usize];
        let pair = match self.symbols.get(symbol.next as usize) {
            Some(next) => merge(symbol, next).unwrap_or(NOT_MERGEABLE),
            None => NOT_MERGEABLE,
        };
        self.symbols[left as usize].pair = pair;
        if pair.rank != NONE {
            self.heap.push(Reverse((pair.rank, left)));
        }
    }

    /// The symbols that are left, in the order of the text.
    pub fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        let first = self.symbols.first();
        std::iter::successors(first, |symbol| self.symbols.get(symbol.next as usize))
    }
}
