//! What a thread asked of the copy engine and the tensor cores, and has not waited for.

use std::cell::{Cell, RefCell};

/// Groups of work of one kind, oldest first, each with the time by which it is done.
#[derive(Default)]
pub struct Groups {
    /// Of the group that is still open; 0 if it is empty.
    open: Cell<u32>,
    closed: RefCell<Vec<u32>>,
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
    }

    /// Adds work that is done before a time.
    pub fn add(&self, done: u32) {
        self.open.set(done);
    }

    /// Closes the group.
    pub fn commit(&self) {
        self.closed.borrow_mut().push(self.open.replace(0));
    }

    /// Waits for all closed groups but the last `n_pending`; gives the time by which they are done.
    pub fn wait(&self, n_pending: usize) -> u32 {
        let mut closed = self.closed.borrow_mut();
        let n_done = closed.len().saturating_sub(n_pending);
        closed.drain(..n_done).max().unwrap_or(0)
    }

    /// Whether nothing is left to wait for.
    pub fn is_done(&self) -> bool {
        self.open.get() == 0 && self.closed.borrow().is_empty()
    }
}
