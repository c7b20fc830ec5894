//! Waiting for copies from global into shared memory that go on in the background.
//!
//! [`Tile::copy_async`](super::Tile::copy_async) begins such a copy. A thread ties those that it has begun to a group, and
//! waits for its oldest groups: then it may read what they brought, and other threads may after a barrier. Until
//! then nobody may touch the destination, and no thread may return before it has waited for all its copies.

use super::target;

/// Makes a group, possibly of none, of the copies that this thread has begun since the last group.
#[inline(always)]
pub fn commit() {
    target::async_copy_commit();
}

/// Waits until at most the `N` newest groups of this thread are in flight. Copies in no group are not waited for.
#[inline(always)]
pub fn wait<const N: usize>() {
    target::async_copy_wait::<N>();
}
