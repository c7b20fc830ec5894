//! How kernels that work element by element pass over their arrays.
//!
//! A thread has several accesses of four elements in flight before it uses the first: memory is then busy with the later
//! ones while the first is on its way. A warp's access covers 512 consecutive bytes of f32.

use crate::simt::prelude::*;

/// Threads of a block.
pub const THREADS: u32 = 256;

/// Blocks of a launch over `n` elements whose threads have `units` accesses of four elements each.
pub const fn blocks(n: usize, units: usize) -> usize {
    n.div_ceil(units * 4 * THREADS as usize)
}

/// For each four elements up to `n`: `store(i, load(i))`, i the first of them, all of a thread's loads before its first
/// store. Elements after the last whole four go through `one`.
#[inline(always)]
pub fn in_fours<const UNITS: usize, V: Copy>(
    n: usize,
    load: impl Fn(usize) -> V,
    store: impl Fn(usize, V),
    one: impl Fn(usize),
) {
    let step = 4 * THREADS as usize;
    let begin = thread::block_idx_x() as usize * UNITS * step;
    let first = begin + thread::thread_idx_x() as usize * 4;
    if begin + UNITS * step <= n {
        let mut loaded = [load(first); UNITS];
        let mut u = 1;
        while u < UNITS {
            loaded[u] = load(first + u * step);
            u += 1;
        }
        let mut u = 0;
        while u < UNITS {
            store(first + u * step, loaded[u]);
            u += 1;
        }
    } else {
        let mut i = first;
        while i < n {
            if i + 4 <= n {
                store(i, load(i));
            } else {
                let mut j = i;
                while j < n {
                    one(j);
                    j += 1;
                }
            }
            i += step;
        }
    }
}

/// Accesses of a thread of [`map`].
pub const MAP_UNITS: usize = 4;

/// y = f(x), element by element. Grid: [`map_blocks`].
#[inline(always)]
pub fn map<T: Float>(y: Out<T>, x: In<f32>, n: usize, f: impl Fn(f32) -> f32) {
    in_fours::<MAP_UNITS, _>(
        n,
        |i| x.load::<4>(i),
        |i, [a, b, c, d]| y.store::<4>(i, narrow([f(a), f(b), f(c), f(d)])),
        |i| y.set(i, T::from_f32(f(x.get(i)))),
    );
}

/// Blocks of a launch with [`map`].
pub const fn map_blocks(n: usize) -> usize {
    blocks(n, MAP_UNITS)
}

/// Accesses to each input of a thread of [`zip`].
pub const ZIP_UNITS: usize = 2;

/// y = f(a, b), element by element. Grid: [`zip_blocks`].
#[inline(always)]
pub fn zip<T: Float>(y: Out<T>, a: In<f32>, b: In<f32>, n: usize, f: impl Fn(f32, f32) -> f32) {
    in_fours::<ZIP_UNITS, _>(
        n,
        |i| (a.load::<4>(i), b.load::<4>(i)),
        |i, (a, b)| {
            y.store::<4>(i, narrow([f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]));
        },
        |i| y.set(i, T::from_f32(f(a.get(i), b.get(i)))),
    );
}

/// Blocks of a launch with [`zip`].
pub const fn zip_blocks(n: usize) -> usize {
    blocks(n, ZIP_UNITS)
}
