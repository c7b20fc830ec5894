//! The gated activation of llama-family feed-forward networks (Shazeer 2020, <https://arxiv.org/abs/2002.05202>).

use crate::elementwise::{self, zip};
use crate::gemv::{X_THREADS, XOrder, XPlace, padded_quads};
use crate::simt::prelude::*;

/// Threads of a block; one thread computes eight elements.
pub const THREADS: u32 = elementwise::THREADS;

/// y = silu(gate) · up with silu(g) = g / (1 + e⁻ᵍ), element by element.
///
/// All three have n elements.
///
/// Grid: [`swiglu_blocks`]. Requires: all three on 16 bytes.
/// Fast because: 16-byte accesses, four loads of a thread in flight, one pass.
#[kernel(threads = THREADS, pdl)]
pub fn swiglu_f32(y: Out<f32>, gate: In<f32>, up: In<f32>, n: u32) {
    pdl::launch_dependents();
    pdl::wait();
    zip(y, gate, up, n as usize, |g, u| silu(g) * u);
}

/// As [`swiglu_f32`], rounded to f16 for a product that reads it so.
#[kernel(threads = THREADS, pdl)]
pub fn swiglu_f32_f16(y: Out<f16>, gate: In<f32>, up: In<f32>, n: u32) {
    pdl::launch_dependents();
    pdl::wait();
    zip(y, gate, up, n as usize, |g, u| silu(g) * u);
}

/// As [`swiglu_f32`] of one vector, and y converted for a product, as [`gemv_x`](crate::gemv::gemv_x_fixed) does it.
///
/// `words`, `numbers`: as many as [`XOrder::len`](crate::gemv::XOrder::len) says; `order`: its
/// [`code`](crate::gemv::XOrder::code).
///
/// Grid: [`gemv_x_blocks`](crate::gemv::gemv_x_blocks). Requires: n a multiple of 4; all on 16 bytes.
/// Fast because: the conversion is worth some instructions, a launch of its own more than a microsecond.
#[kernel(threads = X_THREADS, pdl)]
pub fn swiglu_f32_converted(
    y: Out<f32>,
    words: Out<u32>,
    numbers: Out<f32>,
    gate: In<f32>,
    up: In<f32>,
    n: u32,
    order: u32,
) {
    pdl::launch_dependents();
    pdl::wait();
    let n = n as usize;
    let i = (thread::block_idx_x() * X_THREADS + thread::thread_idx_x()) as usize;
    // Whole warps.
    if i < padded_quads(n) {
        let mut values = [0.0; 4];
        if 4 * i < n {
            let (g, u) = (gate.load::<4>(4 * i), up.load::<4>(4 * i));
            values = [silu(g[0]) * u[0], silu(g[1]) * u[1], silu(g[2]) * u[2], silu(g[3]) * u[3]];
            y.store(4 * i, values);
        }
        XPlace { words, numbers, order }.store(i, values, true);
    }
}

/// y = g / (1 + e^(−alpha·g)) · (u + 1), with g = gate where it is at most `limit` (else limit), and u = up within
/// ±limit.
///
/// Grid, Requires, Fast because: as [`swiglu_f32`].
#[kernel(threads = THREADS, pdl)]
pub fn swiglu_clamped_f32(y: Out<f32>, gate: In<f32>, up: In<f32>, n: u32, alpha: f32, limit: f32) {
    pdl::launch_dependents();
    pdl::wait();
    zip(y, gate, up, n as usize, |g, u| clamped(g, u, alpha, limit));
}

/// As [`swiglu_clamped_f32`], rounded to f16.
#[kernel(threads = THREADS, pdl)]
pub fn swiglu_clamped_f32_f16(y: Out<f16>, gate: In<f32>, up: In<f32>, n: u32, alpha: f32, limit: f32) {
    pdl::launch_dependents();
    pdl::wait();
    zip(y, gate, up, n as usize, |g, u| clamped(g, u, alpha, limit));
}

#[inline(always)]
fn silu(g: f32) -> f32 {
    math::div(g, 1.0 + math::exp(-g))
}

/// Comparisons, not `min` and `max`, which would hide a NaN.
#[inline(always)]
fn clamped(gate: f32, up: f32, alpha: f32, limit: f32) -> f32 {
    let g = if gate > limit { limit } else { gate };
    let u = if up > limit { limit } else { up };
    let u = if u < -limit { -limit } else { u };
    math::div(g, 1.0 + math::exp(-(alpha * g))) * (u + 1.0)
}

/// Blocks that a launch needs.
pub const fn swiglu_blocks(n: usize) -> usize {
    elementwise::zip_blocks(n)
}

/// Bytes that a launch must move: two inputs and one output.
pub const fn swiglu_bytes(n: usize) -> usize {
    3 * 4 * n
}

/// The same of one vector, also converted.
pub const fn swiglu_converted_bytes(n: usize, order: XOrder) -> usize {
    swiglu_bytes(n) + order.bytes(n)
}

/// The same with an output in f16.
pub const fn swiglu_f16_bytes(n: usize) -> usize {
    (2 * 4 + 2) * n
}
