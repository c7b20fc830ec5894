//! Hopper's copy engine: boxes of a matrix move between global and shared memory without passing through registers.
//!
//! A box is some rows of 128 bytes. In shared memory it lies in [`Rows`]: 16-byte piece `p` of row `r` is at place
//! `p ^ (r % 8)` of the row, so that the same piece of 8 rows lies in different banks. `wgmma` reads them so, too.
//!
//! One thread starts a copy, and the whole block goes on. A load ends by counting its bytes at a
//! [barrier](super::mbarrier::Barriers), for which the readers wait. Parts of a box that lie outside of the matrix
//! are zeros when loaded, and are left out when stored; their bytes count.

use super::mbarrier::Barriers;
use super::{Bits16, Element, Shared, target};

/// Bytes of a row of a box.
pub const ROW_BYTES: usize = 128;

/// Bytes that [`Shared::rows`] takes for `n` rows, at a multiple of 1024.
pub const fn rows_bytes(n: usize) -> usize {
    n * ROW_BYTES
}

/// Rows of 128 bytes in shared memory, swizzled.
pub struct Rows<T: Element>(pub(super) target::Rows<T>);

impl<T: Element> Clone for Rows<T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Element> Copy for Rows<T> {}

impl Shared {
    /// The next `n` rows of 128 bytes, from the next multiple of 1024 bytes on; `n` is a multiple of 8.
    #[inline(always)]
    #[track_caller]
    pub fn rows<T: Element>(&mut self, n: usize) -> Rows<T> {
        Rows(self.carver.rows(n))
    }
}

impl<T: Element> Rows<T> {
    /// The same from row `row` on, a multiple of 8.
    #[inline(always)]
    #[track_caller]
    pub fn at_row(self, row: usize) -> Self {
        Rows(self.0.at_row(row))
    }
}

impl<T: Element> Rows<T> {
    /// Sets element `col` of row `row`.
    #[inline(always)]
    #[track_caller]
    pub fn set(self, row: usize, col: usize, value: T) {
        self.0.set(row, col, value);
    }
}

impl<T: Bits16> Rows<T> {
    /// Stores four 8 x 8 matrices of 16-bit elements (`stmatrix.x4`), a word of the warp: lane `l` names row
    /// `l % 8` of matrix `l / 8` as 16-byte piece `piece` of row `row`, and gives elements `2 (l % 4)` and
    /// `2 (l % 4) + 1` of row `l / 4` of each matrix.
    #[inline(always)]
    #[track_caller]
    pub fn stmatrix_x4(self, row: usize, piece: usize, values: [u32; 4]) {
        self.0.stmatrix_x4(row, piece, values);
    }
}

macro_rules! boxes {
    ($(#[$doc:meta])* $view:ident) => {
        $(#[$doc])*
        #[repr(transparent)]
        pub struct $view<T: Element, const ROWS: u32>(pub(super) target::TensorMap, core::marker::PhantomData<T>);

        impl<T: Element, const ROWS: u32> $view<T, ROWS> {
            /// Rows of a box.
            pub const BOX: u32 = {
                assert!(ROWS > 0 && ROWS <= 256 && ROWS.is_multiple_of(8), "a box has 8, 16, … 256 rows");
                ROWS
            };

            /// Brings the matrix's description near; one thread says it, before the first copy.
            #[inline(always)]
            pub fn prefetch(self) {
                self.0.prefetch();
            }
        }

        impl<T: Element, const ROWS: u32> Clone for $view<T, ROWS> {
            #[inline(always)]
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<T: Element, const ROWS: u32> Copy for $view<T, ROWS> {}

        #[cfg(not(target_arch = "nvptx64"))]
        impl<T: Element, const ROWS: u32> $view<T, ROWS> {
            /// Of a bound parameter.
            pub(super) fn new(map: target::TensorMap) -> Self {
                Self(map, core::marker::PhantomData)
            }
        }
    };
}

boxes! {
    /// A matrix that the copy engine reads in boxes of `ROWS` rows.
    InBoxes
}
boxes! {
    /// A matrix that the copy engine writes in boxes of `ROWS` rows.
    OutBoxes
}

impl<T: Element, const ROWS: u32> InBoxes<T, ROWS> {
    /// Bytes of a box: what a load counts at its barrier.
    pub const BYTES: u32 = ROWS * ROW_BYTES as u32;

    /// Starts to load the box at (`row`, `col`) into the first rows of `dst`; its bytes are counted at barrier `i`.
    #[inline(always)]
    #[track_caller]
    pub fn load(self, dst: Rows<T>, barriers: Barriers, i: usize, row: u32, col: u32) {
        self.0.load(dst.0, barriers.0, i, row, col);
    }
}

impl<T: Element, const ROWS: u32> OutBoxes<T, ROWS> {
    /// Starts to store the first rows of `src` as the box at (`row`, `col`). What threads wrote there must have been
    /// made visible by [`fence`] and a barrier.
    #[inline(always)]
    #[track_caller]
    pub fn store(self, src: Rows<T>, row: u32, col: u32) {
        self.0.store(src.0, row, col);
    }
}

/// Makes what this thread wrote to shared memory visible to the copy engine and to `wgmma`, for those that a barrier
/// orders after it.
#[inline(always)]
#[track_caller]
pub fn fence() {
    target::fence_proxy_async();
}

/// Closes a group of stores of this thread.
#[inline(always)]
#[track_caller]
pub fn commit_stores() {
    target::commit_stores();
}

/// Waits until all but the last `PENDING` groups of this thread's stores have read their shared memory, which may then be
/// written again.
#[inline(always)]
#[track_caller]
pub fn wait_stores_read<const PENDING: u32>() {
    target::wait_stores_read::<PENDING>();
}
