//! Rotary position embedding (Su et al. 2021, <https://arxiv.org/abs/2104.09864>).
//!
//! A thread owns the same elements of several heads: it fetches their cosines and sines once, and has the elements of
//! all its heads in flight before it turns the first.

use crate::simt::prelude::*;

/// Threads of a block.
pub const THREADS: u32 = 128;

/// Heads of a thread.
const HEADS: usize = 4;

macro_rules! in_place {
    ($name:ident, $adjacent:literal, $doc:literal) => {
        #[doc = $doc]
        ///
        /// (a, b) ← (a·cos − b·sin, a·sin + b·cos) for each pair of the first `rope_dim` elements of a head; the rest of
        /// it is left alone.
        ///
        /// `x [n_tokens, n_heads, head_dim]`; `table [n_ctx, rope_dim / 2, 2]` holds (cos, sin), made on the host in f64,
        /// so base, partial dimensions, frequency factors and every kind of scaling are data; `positions [n_tokens]`.
        ///
        /// Grid: [`rope_blocks`] × n_tokens. Requires: x and table on 16 bytes; even `rope_dim`, at most head_dim and
        /// 256; positions < n_ctx. A `rope_dim` that is a multiple of 8 in a `head_dim` that is one of 4 takes the wide
        /// path.
        /// Fast because: (1) 16-byte accesses, eight loads of a thread in flight; (2) the table is read once for four
        /// heads; (3) no sine is computed on the device.
        #[kernel(threads = THREADS, pdl)]
        pub fn $name(
            x: InOut<f32>,
            table: In<f32>,
            positions: In<u32>,
            n_heads: u32,
            head_dim: u32,
            rope_dim: u32,
        ) {
            pdl::launch_dependents();
            pdl::wait();
            let token = thread::block_idx_y() as usize * (n_heads * head_dim) as usize;
            let at = |head: u32, i: usize| token + (head * head_dim) as usize + i;
            let shape = Shape { n_heads, n_turning: n_heads, n_elements: rope_dim, rope_dim };
            if is_wide(head_dim as usize, rope_dim as usize) {
                let store = |head, i, values| x.store::<4>(at(head, i), values);
                turn::<$adjacent, 4, HEADS, { !$adjacent }>(
                    table,
                    positions,
                    shape,
                    |head, i| x.load::<4>(at(head, i)),
                    store,
                );
            } else {
                let store = |head, i, values| x.store::<1>(at(head, i), values);
                turn::<$adjacent, 1, HEADS, { !$adjacent }>(
                    table,
                    positions,
                    shape,
                    |head, i| x.load::<1>(at(head, i)),
                    store,
                );
            }
        }
    };
}

in_place!(rope_adjacent_f32, true, "Rotates adjacent pairs (2i, 2i+1), in place.");
in_place!(rope_half_f32, false, "Rotates half-split pairs (i, i + rope_dim/2), in place.");

macro_rules! to_f16 {
    ($name:ident, $adjacent:literal, $x:ty, $doc:literal) => {
        #[doc = $doc]
        ///
        /// y = x with the pairs of the first `rope_dim` elements of each head turned, rounded to f16.
        ///
        /// `y` and `x [n_tokens, n_heads, head_dim]`; everything else is as in [`rope_adjacent_f32`].
        ///
        /// Grid: [`rope_f16_blocks`] × n_tokens. Requires: as [`rope_adjacent_f32`]; head_dim and `rope_dim` multiples
        /// of 8, head_dim at most 1024. Fast because: as there; a whole warp writes runs of at least 64 bytes.
        #[kernel(threads = THREADS, pdl)]
        pub fn $name(
            y: Out<f16>,
            x: In<$x>,
            table: In<f32>,
            positions: In<u32>,
            n_heads: u32,
            head_dim: u32,
            rope_dim: u32,
        ) {
            pdl::launch_dependents();
            pdl::wait();
            let token = thread::block_idx_y() as usize * (n_heads * head_dim) as usize;
            let at = |head: u32, i: usize| token + (head * head_dim) as usize + i;
            let shape = Shape { n_heads, n_turning: n_heads, n_elements: head_dim, rope_dim };
            turn::<$adjacent, 4, HEADS, false>(
                table,
                positions,
                shape,
                |head, i| widen(x.load::<4>(at(head, i))),
                |head, i, values| y.store::<4>(at(head, i), narrow(values)),
            );
        }
    };
}

to_f16!(rope_adjacent_f32_f16, true, f32, "Rotates adjacent pairs, from f32 to f16.");
to_f16!(rope_half_f32_f16, false, f32, "Rotates half-split pairs, from f32 to f16.");
to_f16!(rope_adjacent_f16_f16, true, f16, "Rotates adjacent pairs, from f16 to f16.");
to_f16!(rope_half_f16_f16, false, f16, "Rotates half-split pairs, from f16 to f16.");

/// What [`turn`] goes over in each token.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub n_heads: u32,
    /// Heads that turn, before those that are passed on as they are.
    pub n_turning: u32,
    /// Elements of each head that are read and written: `rope_dim`, or more to pass on the rest.
    pub n_elements: u32,
    pub rope_dim: u32,
}

/// Turns the heads of token `block_idx_y`. `load(head, i)` and `store(head, i, values)` move `N` elements from element i
/// of a head on. A thread owns two runs of `N` elements of each of `HEADS` heads: the two halves of `N` half-split pairs, or
/// `N` adjacent ones. With `TABLE_FIRST` the table is fetched before the heads, else after them, so that they do not wait for
/// its place, which depends on the position; but where that takes more than 64 registers, an SM has no room for the blocks of
/// the next launch.
#[inline(always)]
pub(crate) fn turn<const ADJACENT: bool, const N: usize, const HEADS: usize, const TABLE_FIRST: bool>(
    table: In<f32>,
    positions: In<u32>,
    shape: Shape,
    load: impl Fn(u32, usize) -> [f32; N],
    store: impl Fn(u32, usize, [f32; N]),
) {
    let Shape { n_heads, n_turning, n_elements, rope_dim } = shape;
    let slots = n_elements / (2 * N as u32);
    let heads_at_once = THREADS / slots;
    let (group, slot) = (thread::thread_idx_x() / slots, thread::thread_idx_x() % slots);
    if group >= heads_at_once {
        return;
    }
    let first_head = thread::block_idx_x() * heads_at_once * HEADS as u32 + group;
    let first_element = slot as usize * 2 * N;
    let turns = first_element < rope_dim as usize;
    let starts = match turns && !ADJACENT {
        true => [slot as usize * N, rope_dim as usize / 2 + slot as usize * N],
        false => [first_element, first_element + N],
    };
    let fetch = || {
        let position = positions.get(thread::block_idx_y() as usize) as usize;
        let at = position * rope_dim as usize + first_element;
        [table.load(at), table.load(at + N)]
    };
    let mut rotations = [[0.0; N]; 2];
    if TABLE_FIRST && turns {
        rotations = fetch();
    }
    let mut runs = [[[0.0; N]; 2]; HEADS];
    let mut j = 0;
    while j < HEADS {
        let head = first_head + j as u32 * heads_at_once;
        if head < n_heads {
            runs[j] = [load(head, starts[0]), load(head, starts[1])];
        }
        j += 1;
    }
    if !TABLE_FIRST && turns {
        rotations = fetch();
    }
    let mut j = 0;
    while j < HEADS {
        let head = first_head + j as u32 * heads_at_once;
        if turns && head < n_turning {
            runs[j] = turned::<ADJACENT, N>(runs[j], rotations);
        }
        if head < n_heads {
            store(head, starts[0], runs[j][0]);
            store(head, starts[1], runs[j][1]);
        }
        j += 1;
    }
}

/// The pairs of two runs, turned; `rotations` holds their cosines and sines in turn.
#[inline(always)]
fn turned<const ADJACENT: bool, const N: usize>(
    runs: [[f32; N]; 2],
    rotations: [[f32; N]; 2],
) -> [[f32; N]; 2] {
    let mut result = runs;
    let mut pair = 0;
    while pair < N {
        // Elements 2·pair and 2·pair + 1 of the two runs as one.
        let (even, odd) = (2 * pair, 2 * pair + 1);
        let (cos, sin) = (rotations[even / N][even % N], rotations[odd / N][odd % N]);
        let (a, b) = match ADJACENT {
            true => ((even / N, even % N), (odd / N, odd % N)),
            false => ((0, pair), (1, pair)),
        };
        let (x, y) = (runs[a.0][a.1], runs[b.0][b.1]);
        result[a.0][a.1] = x * cos - y * sin;
        result[b.0][b.1] = x * sin + y * cos;
        pair += 1;
    }
    result
}

#[inline(always)]
const fn is_wide(head_dim: usize, rope_dim: usize) -> bool {
    head_dim.is_multiple_of(4) && rope_dim.is_multiple_of(8)
}

/// Blocks in x that [`turn`] needs where a thread has `heads` heads, of which `n_elements` are moved in runs of `n`.
pub(crate) const fn turn_blocks(n_heads: usize, heads: usize, n_elements: usize, n: usize) -> usize {
    let heads_at_once = THREADS as usize / (n_elements / (2 * n));
    n_heads.div_ceil(heads_at_once * heads)
}

/// Blocks in x that a launch in place needs.
pub const fn rope_blocks(n_heads: usize, head_dim: usize, rope_dim: usize) -> usize {
    turn_blocks(n_heads, HEADS, rope_dim, if is_wide(head_dim, rope_dim) { 4 } else { 1 })
}

/// Blocks in x that a launch to f16 needs.
pub const fn rope_f16_blocks(n_heads: usize, head_dim: usize) -> usize {
    turn_blocks(n_heads, HEADS, head_dim, 4)
}

/// Bytes that a launch in place must move: q or k read and written once, and the table's rows.
pub const fn rope_bytes(n_tokens: usize, n_heads: usize, rope_dim: usize) -> usize {
    n_tokens * (2 * 4 * n_heads * rope_dim + 4 * rope_dim + 4)
}

/// Bytes that a launch to f16 must move, `x_bytes` for each element of x.
pub const fn rope_f16_bytes(
    n_tokens: usize,
    n_heads: usize,
    head_dim: usize,
    rope_dim: usize,
    x_bytes: usize,
) -> usize {
    n_tokens * ((x_bytes + 2) * n_heads * head_dim + 4 * rope_dim + 4)
}

/// Floating-point operations of a launch: four products and two sums a pair.
pub const fn rope_flops(n_tokens: usize, n_heads: usize, rope_dim: usize) -> usize {
    n_tokens * n_heads * rope_dim / 2 * 6
}
