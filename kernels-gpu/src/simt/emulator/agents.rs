//! What a thread asked of the copy engine and the tensor cores, and has not waited for.

use std::cell::{Cell, RefCell};

/// Groups of work of one kind, oldest first, each with the time by which it is done.
#[derive(Default)]
pub struct Groups {
    /// Of the group that is still open; 0 if it is empty.
    open: Cell<u32>,
    closed: RefCell<Vec<u32>>,
    /// Groups that were closed so far.
    n_closed: Cell<u32>,
}

/// The groups of a thread.
#[derive(Default)]
pub struct Agents {
    /// Stores of boxes.
    pub stores: Groups,
    /// Products.
    pub products: Groups,
}

impl Agents {
    /// The thread begins another block.
    pub fn reset(&self) {
        self.stores.reset();
        self.products.reset();
    }

    /// Whether a store may still read shared memory.
    pub fn has_unread_stores(&self) -> bool {
        self.stores.open.get() != 0 || !self.stores.closed.borrow().is_empty()
    }
}

impl Groups {
    fn reset(&self) {
        self.open.set(0);
        self.closed.borrow_mut().clear();
        self.n_closed.set(0);
    }

    /// Adds work that is done before a time.
    pub fn add(&self, done: u32) {
        self.open.set(done);
    }

    /// Closes the group.
    pub fn commit(&self) {
        self.closed.borrow_mut().push(self.open.replace(0));
        self.n_closed.update(|n| n + 1);
    }

    /// Waits for all closed groups but the last `n_pending`; gives the time by which they are done.
    pub fn wait(&self, n_pending: usize) -> u32 {
        let mut closed = self.closed.borrow_mut();
        let n_done = closed.len().saturating_sub(n_pending);
        closed.drain(..n_done).max().unwrap_or(0)
    }

    /// The number of the group that is open, from 1.
    pub fn open_group(&self) -> u32 {
        self.n_closed.get() + 1
    }

    /// Whether a group has been waited for.
    pub fn is_done(&self, group: u32) -> bool {
        group + self.closed.borrow().len() as u32 <= self.n_closed.get()
    }
}
