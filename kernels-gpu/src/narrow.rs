//! Rounding of activations to f16, as the tensor cores take them beside weights in fragments.

use crate::simt::prelude::*;

/// Threads of a block, which owns one row.
pub const THREADS: u32 = 256;
/// Elements of a thread at a time.
const VECTOR: u32 = 4;
/// Elements between a thread's accesses.
const STEP: u32 = VECTOR * THREADS;
/// Accesses of a thread whose elements it keeps; those of wider rows it reads again.
const KEPT_UNITS: usize = 8;
/// Elements that are permuted among themselves.
pub const PERMUTED: usize = 16;
/// The largest element of a row is brought to 2^14 up to 2^15, half of what f16 holds.
const EXPONENT: i32 = 14;
/// Rows are made larger by at most 2 to this power, so that scales can still be multiplied.
const LARGEST_SHIFT: i32 = 100;

/// y = x / scale, rounded to f16, for each row, whose scale is a power of two: the largest element of y lies between 2^14
/// and 2^15. (That of a row of zeros, or of numbers below 2^-86, is smaller. A row with an infinity or a NaN has them in
/// y, too.)
///
/// `y` and `x [n_rows, dim]`, `scales [n_rows]`. The elements of y are permuted inside each 16: [`place`] says how.
///
/// Grid: one block per row. Requires: `dim` a multiple of 32.
/// Fast because: 16-byte loads, of which the second reading comes from the first-level cache; pairs of lanes exchange
/// halves, so that permuted elements leave in whole sectors.
#[kernel(threads = THREADS, shared = block::REDUCE_BYTES, min_blocks = 4, pdl)]
pub fn narrow_f16(y: Out<f16>, scales: Out<f32>, x: In<f32>, dim: u32) {
    pdl::launch_dependents();
    pdl::wait();
    let partials = Shared::new().tile::<f32>(block::REDUCE_LEN);
    let row = thread::block_idx_x() as usize * dim as usize;
    let mut kept = [[0.0; 4]; KEPT_UNITS];
    let mut u = 0;
    while u < KEPT_UNITS {
        let i = first_of(u);
        if i < dim {
            kept[u] = x.load::<4>(row + i as usize);
        }
        u += 1;
    }
    let mut largest = 0.0;
    let mut i = first_of(KEPT_UNITS);
    while i < dim {
        largest = math::max(largest, magnitude(x.load::<4>(row + i as usize)));
        i += STEP;
    }
    let mut u = 0;
    while u < KEPT_UNITS {
        largest = math::max(largest, magnitude(kept[u]));
        u += 1;
    }
    let largest = block::max_f32(largest, partials);
    // The exponent of a subnormal number is wrong, but the shift is limited before that matters.
    let exponent = (largest.to_bits() >> 23) as i32 - 127;
    let shift = (EXPONENT - exponent).min(LARGEST_SHIFT);
    if thread::thread_idx_x() == 0 {
        scales.set(thread::block_idx_x() as usize, power_of_two(-shift));
    }
    let factor = power_of_two(shift);
    // Whole warps stay together: the last ones may have nothing to do.
    let warp_first = thread::thread_idx_x() / warp::SIZE * warp::SIZE * VECTOR;
    let mut u = 0;
    while u < KEPT_UNITS {
        if warp_first + u as u32 * STEP < dim {
            store(y, row, first_of(u), dim, kept[u], factor);
        }
        u += 1;
    }
    let mut base = warp_first + KEPT_UNITS as u32 * STEP;
    while base < dim {
        let i = base + warp::lane_id() * VECTOR;
        let values = if i < dim { x.load::<4>(row + i as usize) } else { [0.0; 4] };
        store(y, row, i, dim, values, factor);
        base += STEP;
    }
}

/// The first of the four elements of a thread's unit.
#[inline(always)]
fn first_of(unit: usize) -> u32 {
    unit as u32 * STEP + thread::thread_idx_x() * VECTOR
}

#[inline(always)]
fn magnitude(values: [f32; 4]) -> f32 {
    let [a, b, c, d] = values.map(math::abs);
    math::max(math::max(a, b), math::max(c, d))
}

/// Elements `i` to `i + 3` of a row, if it has them, permuted. A word of the whole warp.
#[inline(always)]
fn store(y: Out<f16>, row: usize, i: u32, dim: u32, [a, b, c, d]: [f32; 4], factor: f32) {
    let is_odd = thread::thread_idx_x() % 2 == 1;
    let first = f16x2::from_f32(a * factor, b * factor).to_bits();
    let second = f16x2::from_f32(c * factor, d * factor).to_bits();
    // An even lane takes the first pairs of both, an odd one the second pairs.
    let other = warp::shuffle_xor(if is_odd { first } else { second }, 1);
    let pairs = if is_odd { [other, second] } else { [first, other] };
    if i < dim {
        let quad = i / VECTOR;
        let place = i / 16 * 16 + quad % 4 / 2 * 4 + if is_odd { 8 } else { 0 };
        let [low, high] = pairs.map(f16x2::from_bits);
        y.store(row + place as usize, [low.low(), low.high(), high.low(), high.high()]);
    }
}

/// 2 to the power of `exponent`, which lies between -126 and 127.
#[inline(always)]
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// Where element `i` of a row lies: of 16 elements, four neighbours go to places 2c, 2c + 1, 2c + 8 and 2c + 9, those of
/// lane c in a fragment of 16 columns.
pub const fn place(i: usize) -> usize {
    let (sixteen, quad, j) = (i / PERMUTED, i % PERMUTED / 4, i % 4);
    sixteen * PERMUTED + 2 * quad + j % 2 + j / 2 * 8
}

/// Bytes that a launch must move: x and y.
pub const fn narrow_bytes(n_rows: usize, dim: usize) -> usize {
    n_rows * dim * 6
}
