//! Activations for kernels that read 16 bits.

use crate::elementwise;
use crate::row::{self, Kept, Reread, Row, Source};
use crate::simt::prelude::*;

/// Threads of a block, which owns one row.
pub const THREADS: u32 = row::THREADS;

/// The largest magnitude that a row of y may have: half of f16's range, so that no rounding reaches infinity.
pub const LARGEST: f32 = 32768.0;

/// y = f16(x / scale), for each row, with a power of two as its scale: 1 for a row without magnitudes above
/// [`LARGEST`], else the least one that brings all below it.
///
/// `y` and `x [n_rows, dim]`, `scale [n_rows]`. A row with an infinity keeps it, with the scale of the largest f32.
///
/// Grid: one block per row. Requires: y, x on 16 bytes; a `dim` that is a multiple of 4 takes the wide path.
/// Fast because: the first 8192 elements of a row are read once, into registers, all of a thread's 16-byte loads in flight
/// together; the rest comes from the caches the second time.
#[kernel(threads = THREADS, shared = block::REDUCE_BYTES, min_blocks = 4, pdl)]
pub fn convert_f32_f16(y: Out<f16>, scale: Out<f32>, x: In<f32>, dim: u32) {
    pdl::launch_dependents();
    pdl::wait();
    let dim = dim as usize;
    let start = thread::block_idx_x() as usize * dim;
    let x = Source::Plain(x);
    if dim.is_multiple_of(4) {
        convert(y, scale, &Kept::<8, 2>::load(x, start, dim));
    } else {
        convert(y, scale, &Reread::<1>::new(x, start, dim));
    }
}

#[inline(always)]
fn convert<const N: usize>(y: Out<f16>, scale: Out<f32>, row: &impl Row<N>) {
    let partials = Shared::new().tile::<f32>(block::REDUCE_LEN);
    let largest = row.fold(0.0, |largest, x| math::max(largest, math::abs(x)));
    let (row_scale, inverse) = scale_of(block::max_f32(largest, partials));
    if thread::thread_idx_x() == 0 {
        scale.set(thread::block_idx_x() as usize, row_scale);
    }
    row.write(y, |_, mut x| {
        let mut j = 0;
        while j < N {
            x[j] *= inverse;
            j += 1;
        }
        x
    });
}

/// The scale of a row with this largest magnitude, and its inverse, both from the exponent's bits.
#[inline(always)]
fn scale_of(largest: f32) -> (f32, f32) {
    if largest <= LARGEST {
        return (1.0, 1.0);
    }
    // 2^e ≤ largest < 2^(e+1) has the biased exponent e + 127; the scale is 2^(e − 14).
    let biased = math::min(largest, f32::MAX).to_bits() >> 23;
    (f32::from_bits((biased - 14) << 23), f32::from_bits((2 * 127 + 14 - biased) << 23))
}

/// Bytes that a launch must move: x, y and the scales.
pub const fn convert_bytes(n_rows: usize, dim: usize) -> usize {
    n_rows * ((4 + 2) * dim + 4)
}

/// Threads of a block of [`round_f32_f16`]; one thread rounds sixteen elements.
pub const ROUND_THREADS: u32 = elementwise::THREADS;

/// y = f16(x), element by element; beyond f16's range that is infinity.
///
/// Both have n elements.
///
/// Grid: [`round_blocks`]. Requires: both on 16 bytes. Fast because: 16-byte loads, four of a thread in flight.
#[kernel(threads = ROUND_THREADS, pdl)]
pub fn round_f32_f16(y: Out<f16>, x: In<f32>, n: u32) {
    pdl::launch_dependents();
    pdl::wait();
    elementwise::map(y, x, n as usize, |x| x);
}

/// Blocks of a launch of [`round_f32_f16`].
pub const fn round_blocks(n: usize) -> usize {
    elementwise::map_blocks(n)
}

/// Bytes that a launch of [`round_f32_f16`] must move.
pub const fn round_bytes(n: usize) -> usize {
    (4 + 2) * n
}
