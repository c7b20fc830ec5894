//! Copies into shared memory that go on while their thread does something else.
//!
//! Nothing says when such a copy arrives, but that it has when the thread has waited for it. So the emulator lets it
//! arrive only then, and takes every access to its destination before as a violation, whoever makes it. For races
//! the copy counts as two writes by its thread: one when it begins and one when it is waited for. Its source counts as
//! read when it begins.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::Location;

use super::block::{Thread, current};
use super::check::SharedAccess;
use super::view::{Global, Local};
use super::violation::{Access, Fault, View};
use crate::simt::Element;

/// A copy that has not been waited for.
struct Copy {
    destination: *mut u8,
    /// Where that is, for checks.
    access: SharedAccess,
    bytes: [u8; 16],
    location: &'static Location<'static>,
}

/// The copies of one thread that it has not waited for.
#[derive(Default)]
pub struct AsyncCopies {
    /// In no group yet.
    open: RefCell<Vec<Copy>>,
    /// The groups, oldest first.
    groups: RefCell<VecDeque<Vec<Copy>>>,
}

impl AsyncCopies {
    /// Forgets those of a block that has failed.
    pub fn clear(&self) {
        self.open.borrow_mut().clear();
        self.groups.borrow_mut().clear();
    }

    /// What a thread has done wrong that returns now, and where.
    pub fn fault_at_exit(&self) -> Option<(Fault, &'static Location<'static>)> {
        let (groups, open) = (self.groups.borrow(), self.open.borrow());
        let copy = groups.iter().flatten().chain(&*open).next()?;
        let SharedAccess { tile, index, .. } = copy.access;
        Some((Fault::CopyNotAwaited { view: View::Tile(tile), index }, copy.location))
    }
}

impl<T: Element> Local<T> {
    #[inline(always)]
    #[track_caller]
    pub fn copy_async<const N: usize>(self, i: usize, source: Global<T>, j: usize) {
        self.begin_copy(i, source.load::<N>(j));
    }

    #[inline(always)]
    #[track_caller]
    pub fn copy_async_or_zero<const N: usize>(self, i: usize, source: Global<T>, j: usize, exists: bool) {
        self.begin_copy(i, if exists { source.load::<N>(j) } else { [T::ZERO; N] });
    }

    #[inline(always)]
    #[track_caller]
    fn begin_copy<const N: usize>(self, i: usize, values: [T; N]) {
        const { assert!(matches!(N * size_of::<T>(), 4 | 8 | 16), "a copy has 4, 8 or 16 bytes") };
        let thread = current();
        let destination = self.at::<N>(i, Access::Write);
        let access = self.access::<N>(destination, i, Access::Write);
        let mut bytes = [0; 16];
        // SAFETY: `N` elements are at most the 16 bytes, and plain ones.
        unsafe { (&raw mut bytes).cast::<[T; N]>().write_unaligned(values) };
        if thread.launched().checked {
            thread.block().shadow.begin_copy(thread, access);
        }
        let copy = Copy { destination, access, bytes, location: Location::caller() };
        thread.copies.open.borrow_mut().push(copy);
    }
}

pub fn async_copy_commit() {
    let copies = &current().copies;
    copies.groups.borrow_mut().push_back(copies.open.take());
}

pub fn async_copy_wait<const N: usize>() {
    let thread = current();
    let mut groups = thread.copies.groups.borrow_mut();
    let n_arriving = groups.len().saturating_sub(N);
    groups.drain(..n_arriving).flatten().for_each(|copy| copy.arrive(thread));
}

impl Copy {
    fn arrive(self, thread: &Thread) {
        let SharedAccess { count, element_bytes, .. } = self.access;
        // SAFETY: `begin_copy` checked the bounds; the block runs on one thread of the machine.
        unsafe { self.destination.copy_from_nonoverlapping(self.bytes.as_ptr(), count * element_bytes) };
        if thread.launched().checked {
            thread.block().shadow.end_copy(thread, self.access);
        }
    }
}
