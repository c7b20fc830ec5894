//! Finds an entry by its name: a hash table of positions, so that names are stored once, in the file.

use std::hash::{BuildHasher, RandomState};

const FREE: u32 = u32::MAX;

/// Positions of named entries in a list that the caller keeps.  Linear in time however the names were chosen: the hash is
/// keyed with a random key.  At most 12 bytes an entry.
#[derive(Clone, Debug)]
pub(super) struct Index {
    /// Open addressing, at most three quarters full.
    slots: Vec<u32>,
    hasher: RandomState,
}

impl Index {
    /// Room for `n_entries`.
    pub fn with_capacity(n_entries: usize) -> Index {
        let n_slots = (n_entries / 3 * 4 + 8).max(n_entries + 1);
        Index { slots: vec![FREE; n_slots], hasher: RandomState::new() }
    }

    /// Enters `name` as number `position`, unless an entry of this name exists: then returns that one's number.
    pub fn insert<'n>(
        &mut self,
        name: &str,
        position: usize,
        name_of: impl Fn(usize) -> &'n str,
    ) -> Result<(), usize> {
        let (slot, found) = self.probe(name, name_of);
        match found {
            Some(first) => Err(first),
            None => {
                self.slots[slot] = u32::try_from(position).expect("the parser limits counts to u32");
                Ok(())
            }
        }
    }

    /// The position of the entry called `name`.
    pub fn find<'n>(&self, name: &str, name_of: impl Fn(usize) -> &'n str) -> Option<usize> {
        self.probe(name, name_of).1
    }

    /// The slot of `name`, or the free slot where it belongs.
    fn probe<'n>(&self, name: &str, name_of: impl Fn(usize) -> &'n str) -> (usize, Option<usize>) {
        let n_slots = self.slots.len();
        let mut slot = (self.hasher.hash_one(name) % n_slots as u64) as usize;
        loop {
            match self.slots[slot] {
                FREE => return (slot, None),
                position if name_of(position as usize) == name => return (slot, Some(position as usize)),
                _ => slot = (slot + 1) % n_slots,
            }
        }
    }
}
