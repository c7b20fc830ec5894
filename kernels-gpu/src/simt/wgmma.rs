//! Matrix products of a warpgroup, four warps of which the first has a number divisible by 4 (Hopper's `wgmma`).
//!
//! `D += A · Bᵀ`: A is 64 rows, B is `N` rows, both K-major in [`Rows`]; D is 64 x `N` in registers. The tensor cores work
//! while the threads go on: between [`Accumulators::commit`] and the wait for that group the results must not be
//! touched, nor the operands overwritten.

use super::boxes::Rows;
use super::{Bits16, bf16, f16, target};

/// Threads of a warpgroup.
pub const SIZE: u32 = 128;

/// K-elements of one product, 32 bytes.
pub const K: usize = 16;

/// Types of operands.
pub trait Operand: Bits16 {
    /// Which of the two it is.
    const IS_BF16: bool;
    /// The pair of nearest values, the first in the low half.
    fn pair(low: f32, high: f32) -> u32;
}

impl Operand for bf16 {
    const IS_BF16: bool = true;

    #[inline(always)]
    fn pair(low: f32, high: f32) -> u32 {
        u32::from(bf16::from_f32(low).to_bits()) | u32::from(bf16::from_f32(high).to_bits()) << 16
    }
}

impl Operand for f16 {
    const IS_BF16: bool = false;

    #[inline(always)]
    fn pair(low: f32, high: f32) -> u32 {
        super::f16x2::from_f32(low, high).to_bits()
    }
}

/// A warpgroup's results, 64 rows by `2 LEN` columns, of which each thread holds `LEN` (8, 32, 48, 64, 96, 112 or 128): number `i` of
/// thread `t` is at row `16 (t / 32) + (t % 32) / 4 + 8 (i / 2 % 2)`, column `8 (i / 4) + 2 (t % 4) + i % 2`.
pub struct Accumulators<const LEN: usize>(target::Accumulators<LEN>);

impl<const LEN: usize> Accumulators<LEN> {
    /// All zeros.
    #[inline(always)]
    #[track_caller]
    pub fn zero() -> Self {
        Self(target::Accumulators::zero())
    }

    /// Result `i` of this thread.
    #[inline(always)]
    #[track_caller]
    pub fn get(&self, i: usize) -> f32 {
        self.0.get(i)
    }

    /// Sets result `i` of this thread, which no product is to change meanwhile.
    #[inline(always)]
    #[track_caller]
    pub fn set(&mut self, i: usize, value: f32) {
        self.0.set(i, value);
    }

    /// Orders what threads did with the registers before the products that follow: before the first one, and after every
    /// use of results.
    #[inline(always)]
    #[track_caller]
    pub fn fence(&mut self) {
        self.0.fence();
    }

    /// Starts the product of the first 64 rows of `a` and the first `2 LEN` rows of `b`, K-elements `k` to `k + 15`; it is
    /// added to the results, or replaces them.
    #[inline(always)]
    #[track_caller]
    pub fn mma<T: Operand>(&mut self, a: Rows<T>, b: Rows<T>, k: usize, add: bool) {
        self.0.mma(a.0, b.0, k, add);
    }

    /// Starts the product of 64 rows by 16 K-elements in registers and rows `k` to `k + 15` of `b`, whose rows are
    /// K-elements: `2 LEN` columns, 64 in each tile, the tiles `tile_rows` rows apart. It is added to the results.
    ///
    /// Lane l of a warp passes the pairs in columns `2 (l % 4)` and `2 (l % 4) + 8` of rows `l / 4` and `l / 4 + 8` of the
    /// warp's 16: first both rows of the first columns.
    #[inline(always)]
    #[track_caller]
    pub fn mma_registers<T: Operand>(&mut self, a: [u32; 4], b: Rows<T>, tile_rows: usize, k: usize) {
        self.0.mma_registers(a, b.0, tile_rows, k);
    }

    /// As [`Accumulators::mma`], with the 64 rows by 16 K-elements of `a` in registers, as
    /// [`Accumulators::mma_registers`] takes them. They must stay as they are until the product is done.
    #[inline(always)]
    #[track_caller]
    pub fn mma_registers_rows<T: Operand>(&mut self, a: [u32; 4], b: Rows<T>, k: usize, add: bool) {
        self.0.mma_registers_rows(a, b.0, k, add);
    }

    /// Closes a group of products.
    #[inline(always)]
    #[track_caller]
    pub fn commit(&mut self) {
        self.0.commit();
    }

    /// Waits until at most the last `PENDING` groups are unfinished.
    #[inline(always)]
    #[track_caller]
    pub fn wait_but<const PENDING: u32>(&mut self) {
        self.0.wait_but::<PENDING>();
    }

    /// Waits until at most the last `PENDING` groups are unfinished, none of them with products into these results, which
    /// can then be used.
    #[inline(always)]
    #[track_caller]
    pub fn finish_but<const PENDING: u32>(&mut self) {
        self.0.finish_but::<PENDING>();
    }

    /// Waits for all products.
    #[inline(always)]
    #[track_caller]
    pub fn finish(&mut self) {
        self.0.finish_but::<0>();
    }
}

/// Orders the making of operands in registers, 64 x 16 elements each, before the products that follow, as
/// [`Accumulators::fence`] does for results.
#[inline(always)]
pub fn fence_operands<const N: usize>(operands: &mut [[u32; 4]; N]) {
    target::fence_operands(operands);
}

/// Gives registers back: the warpgroup's threads keep `N` each, a multiple of 8.
#[inline(always)]
#[track_caller]
pub fn release_registers<const N: u32>() {
    target::release_registers::<N>();
}

/// Takes registers that other warpgroups gave back: the threads have `N` each, a multiple of 8.
#[inline(always)]
#[track_caller]
pub fn take_registers<const N: u32>() {
    target::take_registers::<N>();
}

/// Parts a block of three warpgroups: one thread does what the producer does, two warpgroups what consumer 0 and 1 do. The
/// block's registers go to those that hold results: so many a thread, all three at most what the kernel starts with.
///
/// (One branch with both arms in it: only so does the PTX compiler move registers.)
#[inline(always)]
#[track_caller]
pub fn specialise<const PRODUCER_REGISTERS: u32, const CONSUMER_REGISTERS: u32>(
    produce: impl FnOnce(),
    consume: impl FnOnce(u32),
) {
    const { assert!(PRODUCER_REGISTERS + 2 * CONSUMER_REGISTERS <= 504, "registers of three threads") };
    let warpgroup = super::thread::thread_idx_x() / SIZE;
    if warpgroup == 0 {
        release_registers::<PRODUCER_REGISTERS>();
        if super::thread::thread_idx_x() == 0 {
            produce();
        }
    } else {
        take_registers::<CONSUMER_REGISTERS>();
        consume(warpgroup - 1);
    }
}
