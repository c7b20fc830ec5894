//! The cache of one layer: writing new keys and values into it, and how attention reads it.

use crate::simt::prelude::*;

/// Threads of a block; one thread writes [`ELEMENTS`] elements of k and of v.
pub const THREADS: u32 = 128;

/// Elements of a head that one thread converts: eight halves are one 16-byte store.
pub const ELEMENTS: usize = 8;

/// cache[kv_head, position, :] = f16(new[token, kv_head, :]), for k and for v, rounded to nearest even.
///
/// `k_cache`, `v_cache [n_kv_heads, n_ctx, head_dim]`; `k`, `v [n_tokens, n_kv_heads, head_dim]`;
/// `positions [n_tokens]`.
///
/// Grid: [`kv_write_blocks`] × n_tokens. Requires: head_dim a multiple of 8; positions < n_ctx, all different.
/// Fast because: 16-byte loads and stores, neighbours in a head by neighbouring lanes.
#[kernel(threads = 128, pdl)]
pub fn kv_write_f16(
    k_cache: Out<f16>,
    v_cache: Out<f16>,
    k: In<f32>,
    v: In<f32>,
    positions: In<u32>,
    n_kv_heads: u32,
    head_dim: u32,
    n_ctx: u32,
) {
    pdl::launch_dependents();
    pdl::wait();
    let width = (n_kv_heads * head_dim) as usize;
    let idx = (thread::block_idx_x() * THREADS + thread::thread_idx_x()) as usize * ELEMENTS;
    if idx < width {
        let token = thread::block_idx_y() as usize;
        let (head, dim) = (idx / head_dim as usize, idx % head_dim as usize);
        let position = positions.get(token) as usize;
        let target = (head * n_ctx as usize + position) * head_dim as usize + dim;
        let (k, v) = (eight(k, token * width + idx), eight(v, token * width + idx));
        k_cache.store::<8>(target, narrow(k));
        v_cache.store::<8>(target, narrow(v));
    }
}

/// Elements of a block of Q8_0 along a head; the last block of a head may be shorter.
pub const Q8_0_BLOCK: usize = 32;

/// Blocks of Q8_0 of one head of one place.
pub const fn q8_0_blocks(head_dim: usize) -> usize {
    head_dim.div_ceil(Q8_0_BLOCK)
}

/// The same as [`kv_write_f16`] in Q8_0: value = scale · quant, with a scale for each 32 elements along a head.
///
/// scale = f16(max|x| / 127) over the block, quant = x / scale, rounded to nearest even, within ±127. A block with an
/// infinity or NaN reads as NaN.
///
/// `k_quants`, `v_quants [n_kv_heads, n_ctx, head_dim]`, signed bytes in words of four, the first in the low bits, so a
/// place's quants lie side by side like an f16 cache's values;
/// `k_scales`, `v_scales [n_kv_heads, n_ctx, ⌈head_dim / 32⌉]`; `k`, `v [n_tokens, n_kv_heads, head_dim]`;
/// `positions [n_tokens]`.
///
/// Grid: [`kv_write_q8_0_blocks`] × n_tokens. Requires: head_dim a multiple of 16; positions < n_ctx, all different.
/// Fast because: 16-byte loads and 8-byte stores, neighbours in a head by neighbouring lanes; four lanes share a block
/// and find its largest value by two shuffles.
#[kernel(threads = 128, pdl)]
pub fn kv_write_q8_0(
    k_quants: Out<u32>,
    k_scales: Out<f16>,
    v_quants: Out<u32>,
    v_scales: Out<f16>,
    k: In<f32>,
    v: In<f32>,
    positions: In<u32>,
    n_kv_heads: u32,
    head_dim: u32,
    n_ctx: u32,
) {
    pdl::launch_dependents();
    pdl::wait();
    // A head takes whole groups of four lanes; those past its end take part in the shuffles only.
    let dim = head_dim as usize;
    let n_blocks = q8_0_blocks(dim);
    let lanes_per_head = n_blocks * (Q8_0_BLOCK / ELEMENTS);
    let idx = (thread::block_idx_x() * THREADS + thread::thread_idx_x()) as usize;
    let (head, lane) = (idx / lanes_per_head, idx % lanes_per_head);
    let exists = head < n_kv_heads as usize && lane * ELEMENTS < dim;

    let token = thread::block_idx_y() as usize;
    let (mut new_k, mut new_v) = ([0.0; ELEMENTS], [0.0; ELEMENTS]);
    if exists {
        let at = (token * n_kv_heads as usize + head) * dim + lane * ELEMENTS;
        new_k = eight(k, at);
        new_v = eight(v, at);
    }
    let (k_scale, k_eight) = quantise(new_k);
    let (v_scale, v_eight) = quantise(new_v);
    if exists {
        let place = head * n_ctx as usize + positions.get(token) as usize;
        let at = place * dim + lane * ELEMENTS;
        k_quants.store::<2>(at / 4, k_eight);
        v_quants.store::<2>(at / 4, v_eight);
        if lane.is_multiple_of(Q8_0_BLOCK / ELEMENTS) {
            let block = place * n_blocks + lane / (Q8_0_BLOCK / ELEMENTS);
            k_scales.set(block, k_scale);
            v_scales.set(block, v_scale);
        }
    }
}

/// The scale of the block that four lanes share, and the lane's eight quants.
#[inline(always)]
fn quantise(values: [f32; ELEMENTS]) -> (f16, [u32; 2]) {
    // As bits, magnitudes have the order of the numbers, with NaN above all: one makes the whole block NaN.
    let mut largest = 0;
    let mut i = 0;
    while i < ELEMENTS {
        largest = math::abs(values[i]).to_bits().max(largest);
        i += 1;
    }
    largest = warp::shuffle_xor(largest, 1).max(largest);
    largest = warp::shuffle_xor(largest, 2).max(largest);
    let scale = f16::from_f32(f32::from_bits(largest) * (1.0 / 127.0));
    // The rounded scale is the one that readers multiply with.
    let rounded = scale.to_f32();
    let inverse = if rounded > 0.0 { math::rcp(rounded) } else { 0.0 };
    let mut quants = [0; 2];
    let mut i = 0;
    while i < ELEMENTS {
        let quant = math::round_to_i32(values[i] * inverse).clamp(-127, 127);
        quants[i / 4] |= (quant.cast_unsigned() & 0xff) << (8 * (i % 4));
        i += 1;
    }
    (scale, quants)
}

#[inline(always)]
fn eight(source: In<f32>, i: usize) -> [f32; ELEMENTS] {
    let ([a, b, c, d], [e, f, g, h]) = (source.load::<4>(i), source.load::<4>(i + 4));
    [a, b, c, d, e, f, g, h]
}

/// Blocks in x that a launch of [`kv_write_q8_0`] needs.
pub const fn kv_write_q8_0_blocks(n_kv_heads: usize, head_dim: usize) -> usize {
    (n_kv_heads * q8_0_blocks(head_dim) * (Q8_0_BLOCK / ELEMENTS)).div_ceil(THREADS as usize)
}

/// Bytes that a launch of [`kv_write_q8_0`] must move: k and v read as f32 and written in Q8_0.
pub const fn kv_write_q8_0_bytes(n_tokens: usize, n_kv_heads: usize, head_dim: usize) -> usize {
    n_tokens * (2 * n_kv_heads * ((4 + 1) * head_dim + 2 * q8_0_blocks(head_dim)) + 4)
}

/// Blocks in x that a launch of [`kv_write_f16`] needs.
pub const fn kv_write_blocks(n_kv_heads: usize, head_dim: usize) -> usize {
    (n_kv_heads * head_dim / ELEMENTS).div_ceil(THREADS as usize)
}

/// Bytes that a launch of [`kv_write_f16`] must move: k and v read as f32 and written as f16.
pub const fn kv_write_bytes(n_tokens: usize, n_kv_heads: usize, head_dim: usize) -> usize {
    n_tokens * (2 * (4 + 2) * n_kv_heads * head_dim + 4)
}

/// A cache of keys or of values as attention reads it: eight elements of a head a lane.
pub trait Cache: Copy {
    /// Eight elements as they lie in the cache.
    type Eight: Copy;
    /// Zeros.
    const ZEROS: Self::Eight;

    /// Elements i to i + 7 of a head of `dim` at place `first_place + key`.
    fn load(self, first_place: usize, key: u32, dim: usize, i: usize) -> Self::Eight;

    /// Σ aᵢ · elementᵢ.
    fn dot(a: &[f32; 8], eight: Self::Eight) -> f32;

    /// sumᵢ += weight · elementᵢ.
    fn add(sum: &mut [f32; 8], weight: f32, eight: Self::Eight);
}

impl Cache for In<f16> {
    type Eight = [f16; 8];
    const ZEROS: [f16; 8] = [f16::from_bits(0); 8];

    #[inline(always)]
    #[track_caller]
    fn load(self, first_place: usize, key: u32, dim: usize, i: usize) -> [f16; 8] {
        In::load::<8>(self, first_place * dim + key as usize * dim + i)
    }

    #[inline(always)]
    fn dot(a: &[f32; 8], eight: [f16; 8]) -> f32 {
        dot(a, widen(eight))
    }

    #[inline(always)]
    fn add(sum: &mut [f32; 8], weight: f32, eight: [f16; 8]) {
        add(sum, weight, widen(eight));
    }
}

/// What [`kv_write_q8_0`] writes of keys or of values.
#[derive(Clone, Copy)]
pub struct Q8_0Cache {
    pub quants: In<u32>,
    pub scales: In<f16>,
}

/// Eight quants and their scale.
#[derive(Clone, Copy)]
pub struct Q8_0Eight {
    quants: [u32; 2],
    scale: f16,
}

impl Q8_0Eight {
    /// The quants as floats. Byte q + 128 below the upper half of 2²³ is the float 2²³ + 128 + q.
    #[inline(always)]
    fn quants(self) -> [f32; 8] {
        const EXPONENT: u32 = 0x4b00_0000;
        const ZERO: f32 = (1 << 23) as f32 + 128.0;
        let mut quants = [0.0; 8];
        let mut i = 0;
        while i < 8 {
            let biased = self.quants[i / 4] ^ 0x8080_8080;
            quants[i] = f32::from_bits(math::byte_perm(biased, EXPONENT, 0x7440 | (i % 4) as u32)) - ZERO;
            i += 1;
        }
        quants
    }
}

impl Cache for Q8_0Cache {
    type Eight = Q8_0Eight;
    const ZEROS: Q8_0Eight = Q8_0Eight { quants: [0; 2], scale: f16::from_bits(0) };

    #[inline(always)]
    #[track_caller]
    fn load(self, first_place: usize, key: u32, dim: usize, i: usize) -> Q8_0Eight {
        let at = first_place * dim + key as usize * dim + i;
        let n_blocks = q8_0_blocks(dim);
        let block = first_place * n_blocks + key as usize * n_blocks + i / Q8_0_BLOCK;
        Q8_0Eight { quants: self.quants.load::<2>(at / 4), scale: self.scales.get(block) }
    }

    #[inline(always)]
    fn dot(a: &[f32; 8], eight: Q8_0Eight) -> f32 {
        eight.scale.to_f32() * dot(a, eight.quants())
    }

    #[inline(always)]
    fn add(sum: &mut [f32; 8], weight: f32, eight: Q8_0Eight) {
        add(sum, weight * eight.scale.to_f32(), eight.quants());
    }
}

#[inline(always)]
fn dot(a: &[f32; 8], b: [f32; 8]) -> f32 {
    let mut sum = 0.0;
    let mut i = 0;
    while i < 8 {
        sum = math::fma(a[i], b[i], sum);
        i += 1;
    }
    sum
}

#[inline(always)]
fn add(sum: &mut [f32; 8], weight: f32, values: [f32; 8]) {
    let mut i = 0;
    while i < 8 {
        sum[i] = math::fma(weight, values[i], sum[i]);
        i += 1;
    }
}
