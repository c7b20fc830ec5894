//! Views: a kernel's parameters that name arrays in global memory.
//!
//! On the GPU a view is one bare pointer; on the emulator it is a checked handle. An index counts
//! elements from the view's first one. Vector accesses (`load`, `store`) move `N` neighbouring elements at
//! once; `N` elements are 1, 2, 4, 8 or 16 bytes, and the first lies at a multiple of that size.

use super::{Element, target};

/// An array that the kernel only reads.
#[repr(transparent)]
pub struct In<T: Element>(pub(super) target::Global<T>);

/// An array that the kernel only writes.
#[repr(transparent)]
pub struct Out<T: Element>(pub(super) target::Global<T>);

/// An array that the kernel reads and writes.
#[repr(transparent)]
pub struct InOut<T: Element>(pub(super) target::Global<T>);

macro_rules! copy {
    ($view:ident) => {
        impl<T: Element> Clone for $view<T> {
            #[inline(always)]
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<T: Element> Copy for $view<T> {}
    };
}

macro_rules! reads {
    ($view:ident) => {
        impl<T: Element> $view<T> {
            /// Element `i`.
            #[inline(always)]
            #[track_caller]
            pub fn get(self, i: usize) -> T {
                self.0.load::<1>(i)[0]
            }

            /// Elements `i` to `i + N − 1` in one access.
            #[inline(always)]
            #[track_caller]
            pub fn load<const N: usize>(self, i: usize) -> [T; N] {
                self.0.load::<N>(i)
            }
        }

        impl $view<u8> {
            /// The little-endian number in 2 bytes from byte `i` on, a multiple of 2.
            #[inline(always)]
            #[track_caller]
            pub fn u16_at(self, i: usize) -> u16 {
                u16::from_le_bytes(self.0.load::<2>(i))
            }

            /// The little-endian number in 4 bytes from byte `i` on, a multiple of 4.
            #[inline(always)]
            #[track_caller]
            pub fn u32_at(self, i: usize) -> u32 {
                u32::from_le_bytes(self.0.load::<4>(i))
            }

            /// Two little-endian numbers in 8 bytes from byte `i` on, a multiple of 8.
            #[inline(always)]
            #[track_caller]
            pub fn u32x2_at(self, i: usize) -> [u32; 2] {
                target::words(self.0.load::<8>(i))
            }

            /// Four little-endian numbers in 16 bytes from byte `i` on, a multiple of 16.
            #[inline(always)]
            #[track_caller]
            pub fn u32x4_at(self, i: usize) -> [u32; 4] {
                target::words(self.0.load::<16>(i))
            }
        }
    };
}

macro_rules! writes {
    ($view:ident) => {
        impl<T: Element> $view<T> {
            /// Sets element `i`.
            #[inline(always)]
            #[track_caller]
            pub fn set(self, i: usize, value: T) {
                self.0.store::<1>(i, [value]);
            }

            /// Sets elements `i` to `i + N − 1` in one access.
            #[inline(always)]
            #[track_caller]
            pub fn store<const N: usize>(self, i: usize, values: [T; N]) {
                self.0.store::<N>(i, values);
            }
        }

        impl $view<u8> {
            /// Sets 2 bytes from byte `i` on, a multiple of 2, to a little-endian number.
            #[inline(always)]
            #[track_caller]
            pub fn set_u16_at(self, i: usize, value: u16) {
                self.0.store::<2>(i, value.to_le_bytes());
            }

            /// Sets 4 bytes from byte `i` on, a multiple of 4, to a little-endian number.
            #[inline(always)]
            #[track_caller]
            pub fn set_u32_at(self, i: usize, value: u32) {
                self.0.store::<4>(i, value.to_le_bytes());
            }

            /// Sets 16 bytes from byte `i` on, a multiple of 16, to four little-endian numbers.
            #[inline(always)]
            #[track_caller]
            pub fn set_u32x4_at(self, i: usize, value: [u32; 4]) {
                self.0.store::<16>(i, target::bytes(value));
            }
        }
    };
}

copy!(In);
copy!(Out);
copy!(InOut);
reads!(In);
writes!(Out);
reads!(InOut);
writes!(InOut);

/// Streaming reads: for data that this launch reads once and that no kernel writes while the launch may be
/// running, such as weights. They pass by the first-level cache, and the compiler may move them ahead of
/// anything, including `pdl::wait`.
impl<T: Element> In<T> {
    /// Has the line of 128 bytes with element `i` come to the second-level cache.
    #[inline(always)]
    #[track_caller]
    pub fn prefetch(self, i: usize) {
        self.0.prefetch(i);
    }

    /// Elements `i` to `i + N − 1` in one streaming access of 4, 8 or 16 bytes.
    #[inline(always)]
    #[track_caller]
    pub fn load_stream<const N: usize>(self, i: usize) -> [T; N] {
        self.0.load_stream::<N>(i)
    }
}

impl In<u8> {
    /// [`In::u32_at`] as a streaming read.
    #[inline(always)]
    #[track_caller]
    pub fn u32_at_stream(self, i: usize) -> u32 {
        u32::from_le_bytes(self.0.load_stream::<4>(i))
    }

    /// [`In::u32x2_at`] as a streaming read.
    #[inline(always)]
    #[track_caller]
    pub fn u32x2_at_stream(self, i: usize) -> [u32; 2] {
        target::words(self.0.load_stream::<8>(i))
    }

    /// [`In::u32x4_at`] as a streaming read.
    #[inline(always)]
    #[track_caller]
    pub fn u32x4_at_stream(self, i: usize) -> [u32; 4] {
        target::words(self.0.load_stream::<16>(i))
    }
}
