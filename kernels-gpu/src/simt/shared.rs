//! Shared memory: one array of bytes per block, carved into typed tiles.

use super::{Bits16, Element, In, target};

/// The kernel's shared memory (`#[kernel(shared = BYTES)]`), from which tiles are carved in order.
///
/// All threads carve the same tiles. A second `Shared::new()` starts again at the first byte: it reuses the
/// memory, and needs a barrier before it.
pub struct Shared {
    pub(super) carver: target::Carver,
}

/// Tiles start at multiples of this many bytes.
pub const TILE_ALIGN: usize = 16;

/// Bytes that a tile of `n` elements takes from the kernel's shared memory.
pub const fn tile_bytes<T: Element>(n: usize) -> usize {
    (n * size_of::<T>()).next_multiple_of(TILE_ALIGN)
}

impl Shared {
    /// All of the kernel's shared memory, not yet carved.
    #[inline(always)]
    #[allow(clippy::new_without_default)] // Memory of the block, not a value.
    pub fn new() -> Self {
        Self { carver: target::Carver::new() }
    }

    /// The next `n` elements, from the next multiple of 16 bytes on. `n` is a constant, so that the
    /// tile's address is one.
    #[inline(always)]
    #[track_caller]
    pub fn tile<T: Element>(&mut self, n: usize) -> Tile<T> {
        Tile(self.carver.tile(n))
    }
}

/// An array in shared memory. What it contains is undefined until a thread writes it; what other threads
/// wrote may be read after a barrier.
///
/// The 32-bit words of shared memory lie in 32 banks; lanes of a warp that touch different words of one bank
/// wait for each other.
pub struct Tile<T: Element>(pub(super) target::Local<T>);

impl<T: Element> Clone for Tile<T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Element> Copy for Tile<T> {}

impl<T: Element> Tile<T> {
    /// Element `i`.
    #[inline(always)]
    #[track_caller]
    pub fn get(self, i: usize) -> T {
        self.0.load::<1>(i)[0]
    }

    /// Sets element `i`.
    #[inline(always)]
    #[track_caller]
    pub fn set(self, i: usize, value: T) {
        self.0.store::<1>(i, [value]);
    }

    /// Elements `i` to `i + N − 1` in one access of 1, 2, 4, 8 or 16 bytes, naturally aligned.
    #[inline(always)]
    #[track_caller]
    pub fn load<const N: usize>(self, i: usize) -> [T; N] {
        self.0.load::<N>(i)
    }

    /// Sets elements `i` to `i + N − 1` in one access of 1, 2, 4, 8 or 16 bytes, naturally aligned.
    #[inline(always)]
    #[track_caller]
    pub fn store<const N: usize>(self, i: usize, values: [T; N]) {
        self.0.store::<N>(i, values);
    }

    /// Begins a copy of elements `j` to `j + N − 1` of a view to `i` and the following: 4, 8 or 16 bytes, naturally
    /// aligned in both. See [`async_copy`](super::async_copy) for when it may be read.
    #[inline(always)]
    #[track_caller]
    pub fn copy_async<const N: usize>(self, i: usize, source: In<T>, j: usize) {
        self.0.copy_async::<N>(i, source.0, j);
    }

    /// As [`Tile::copy_async`] if the source `exists`; else it is not read, and zeros arrive.
    #[inline(always)]
    #[track_caller]
    pub fn copy_async_or_zero<const N: usize>(self, i: usize, source: In<T>, j: usize, exists: bool) {
        self.0.copy_async_or_zero::<N>(i, source.0, j, exists);
    }
}

/// Little-endian numbers in the bytes of a tile.
impl Tile<u8> {
    /// That in 4 bytes from byte `i` on, a multiple of 4.
    #[inline(always)]
    #[track_caller]
    pub fn u32_at(self, i: usize) -> u32 {
        u32::from_le_bytes(self.0.load::<4>(i))
    }

    /// Two, in 8 bytes from byte `i` on, a multiple of 8.
    #[inline(always)]
    #[track_caller]
    pub fn u32x2_at(self, i: usize) -> [u32; 2] {
        target::words(self.0.load::<8>(i))
    }

    /// Four, in 16 bytes from byte `i` on, a multiple of 16.
    #[inline(always)]
    #[track_caller]
    pub fn u32x4_at(self, i: usize) -> [u32; 4] {
        target::words(self.0.load::<16>(i))
    }
}

macro_rules! matrix_moves {
    ($($n:literal, $rows:literal: $load:ident, $load_trans:ident, $store:ident, $store_trans:ident;)*) => {$(
        #[doc = concat!("Loads ", $n, " matrices of 8 × 8 elements of 16 bits each, a word of the whole warp.")]
        ///
        #[doc = concat!("Lanes 0 to ", $rows, " pass the first element of a row of eight, a multiple of 8: eight lanes a ")]
        /// matrix; the index of other lanes is ignored. Register m of lane l gets elements `2 · (l % 4)` and
        /// `2 · (l % 4) + 1`, in this order from its low bits on, of row `l / 4` of matrix m.
        #[inline(always)]
        #[track_caller]
        pub fn $load(self, row: usize) -> [u32; $n] {
            self.0.ldmatrix::<$n>(row, false)
        }

        #[doc = concat!("As [`Tile::", stringify!($load), "`], each matrix transposed: lane l gets elements of column `l / 4`.")]
        #[inline(always)]
        #[track_caller]
        pub fn $load_trans(self, row: usize) -> [u32; $n] {
            self.0.ldmatrix::<$n>(row, true)
        }

        #[doc = concat!("Stores what [`Tile::", stringify!($load), "`] would load from the same rows.")]
        #[inline(always)]
        #[track_caller]
        pub fn $store(self, row: usize, fragments: [u32; $n]) {
            self.0.stmatrix::<$n>(row, fragments, false);
        }

        #[doc = concat!("Stores what [`Tile::", stringify!($load_trans), "`] would load from the same rows.")]
        #[inline(always)]
        #[track_caller]
        pub fn $store_trans(self, row: usize, fragments: [u32; $n]) {
            self.0.stmatrix::<$n>(row, fragments, true);
        }
    )*};
}

/// Moves between shared memory and the registers of a warp, in the layout of [`matrix`](super::matrix). On
/// compute capability 8.0 the stores are ordinary ones, with the same result.
impl<T: Bits16> Tile<T> {
    matrix_moves! {
        1, 7: ldmatrix_x1, ldmatrix_x1_trans, stmatrix_x1, stmatrix_x1_trans;
        2, 15: ldmatrix_x2, ldmatrix_x2_trans, stmatrix_x2, stmatrix_x2_trans;
        4, 31: ldmatrix_x4, ldmatrix_x4_trans, stmatrix_x4, stmatrix_x4_trans;
    }
}
