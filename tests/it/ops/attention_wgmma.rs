//! Attention on Hopper's tensor cores against the reference.

use half::f16 as HostF16;
use kernels_gpu::attention_wgmma::TILE_KEYS;
use kernels_gpu::attention_wgmma::prefill::{Inputs as OnDevice, Prefill};
use kernels_gpu::launch::{Device, Purpose};
use kernels_gpu::simt::f16;
use testkit::compare::{
    F16_ROUNDING, F16_SUBNORMAL_ROUNDING, F32_ROUNDING, FAST_MATH_ROUNDINGS, assert_within, gamma,
};
use testkit::data::Rng;
use testkit::reference;

/// `n_tokens` tokens after `n_past` others.
#[derive(Clone, Copy)]
struct Case {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    n_ctx: usize,
    n_past: usize,
    n_tokens: usize,
}

impl Case {
    fn prefill(&self) -> Prefill {
        let Case { n_heads, n_kv_heads, head_dim, n_ctx, n_tokens, .. } = *self;
        Prefill { n_tokens, n_heads, n_kv_heads, head_dim, n_ctx, scale: 1.0 / (head_dim as f32).sqrt() }
    }

    fn positions(&self) -> Vec<u32> {
        (self.n_past as u32..(self.n_past + self.n_tokens) as u32).collect()
    }
}

struct Inputs {
    q: Vec<f16>,
    k: Vec<f16>,
    v: Vec<f16>,
}

/// A key or value where no token is yet. Large: whoever lets it into a sum is found out.
const NO_TOKEN: f32 = 60_000.0;

fn inputs(case: &Case) -> Inputs {
    let mut rng = Rng::new(5);
    let q = rng.normal(case.n_tokens * case.n_heads * case.head_dim, 1.0);
    let mut cache = |deviation| {
        let values = rng.normal(case.n_kv_heads * case.n_ctx * case.head_dim, deviation);
        let of_token = |i: usize| i / case.head_dim % case.n_ctx < case.n_past + case.n_tokens;
        let value = |(i, v)| f16::from_f32(if of_token(i) { v } else { NO_TOKEN });
        values.into_iter().enumerate().map(value).collect::<Vec<f16>>()
    };
    Inputs { q: narrow(&q), k: cache(2.0), v: cache(1.0) }
}

fn narrow(values: &[f32]) -> Vec<f16> {
    values.iter().map(|v| f16::from_f32(*v)).collect()
}

fn widen(halves: &[f16]) -> Vec<f64> {
    halves.iter().map(|h| HostF16::from_bits(h.to_bits()).to_f64()).collect()
}

/// The reference, and how far the kernel may be from it.
///
/// A score is a sum of head_dim exact products, which the tensor cores may cut off where others round: γ(2 · head_dim)
/// times the products' magnitudes, S at most, and two roundings of scale and offset. A weight 2^(score − offset) has the
/// error of its exponent, at most 2 S, in f32; that of the fast power; and that of its rounding to f16, relative or, below
/// 2⁻¹⁴, absolute. Each of the rescalings, one a tile of keys, is a fast power and a rounding. Sums are chains of as many
/// additions as there are keys, cut off likewise. The sum of weights is at least 1 but for all these errors, so it
/// divides the absolute errors away.
fn reference_and_bound(case: &Case, inputs: &Inputs) -> (Vec<f64>, Vec<f64>) {
    let (q, k, v) = (widen(&inputs.q), widen(&inputs.k), widen(&inputs.v));
    let shape = || reference::Attention {
        n_heads: case.n_heads,
        n_kv_heads: case.n_kv_heads,
        head_dim: case.head_dim,
        n_ctx: case.n_ctx,
        scale: f64::from(case.prefill().scale),
    };
    let positions = case.positions();
    let mut expected = vec![0.0; q.len()];
    reference::attention(&mut expected, &q, &k, &v, &positions, shape());
    let magnitudes = |values: &[f64]| values.iter().map(|v| v.abs()).collect::<Vec<f64>>();
    let mut weighted = vec![0.0; q.len()];
    reference::attention(&mut weighted, &q, &k, &magnitudes(&v), &positions, shape());

    let n_keys = case.n_past + case.n_tokens;
    let score = largest_score_magnitude(case, &q, &k);
    let n_rescales = n_keys.div_ceil(TILE_KEYS as usize);
    let exponent = gamma(2 * case.head_dim) * score + 4.0 * F32_ROUNDING * 2.0 * score;
    let power = gamma((FAST_MATH_ROUNDINGS + 1) * (n_rescales + 1));
    let weight = 2.0 * exponent + power + F16_ROUNDING;
    let largest_value = v.iter().filter(|v| **v < f64::from(NO_TOKEN)).fold(0.0f64, |a, v| a.max(v.abs()));
    let lost = n_keys as f64 * F16_SUBNORMAL_ROUNDING * largest_value;
    let bound = |(weighted, expected): (&f64, &f64)| {
        (2.0 * weight + 2.0 * gamma(2 * n_keys)) * weighted
            + lost
            + expected.abs() * gamma(FAST_MATH_ROUNDINGS)
    };
    let bound = weighted.iter().zip(&expected).map(bound).collect();
    (expected, bound)
}

/// The largest Σ|q·k| · scale of any query and a key that it sees.
fn largest_score_magnitude(case: &Case, q: &[f64], k: &[f64]) -> f64 {
    let (dim, group) = (case.head_dim, case.n_heads / case.n_kv_heads);
    let mut largest = 0.0f64;
    for (row, q) in q.chunks_exact(dim).enumerate() {
        let (token, head) = (row / case.n_heads, row % case.n_heads);
        for key in 0..=case.n_past + token {
            let k = &k[(head / group * case.n_ctx + key) * dim..][..dim];
            largest = largest.max(q.iter().zip(k).map(|(q, k)| (q * k).abs()).sum());
        }
    }
    largest * f64::from(case.prefill().scale)
}

fn check<D: Device>(device: &D, case: Case) {
    let inputs = inputs(&case);
    let mut y = device.alloc::<f32>(inputs.q.len(), Purpose::Activations).unwrap();
    let q = device.upload(&inputs.q, Purpose::Activations).unwrap();
    let k = device.upload(&inputs.k, Purpose::KvCache).unwrap();
    let v = device.upload(&inputs.v, Purpose::KvCache).unwrap();
    let positions = device.upload(&case.positions(), Purpose::Other).unwrap();
    let mut next = device.upload(&[0], Purpose::Other).unwrap();
    let on_device = OnDevice { q: &q, k_cache: &k, v_cache: &v, positions: &positions };
    // Twice: the counter is left as it was found.
    for _ in 0..2 {
        case.prefill().launch(device, 3, &mut y, on_device, &mut next).unwrap();
    }
    let found = device.download(&y).unwrap();
    let (expected, bound) = reference_and_bound(&case, &inputs);
    assert_within("attention", &found, &expected, &[case.n_tokens, case.n_heads, case.head_dim], |i| {
        bound[i]
    });
}

#[test]
fn one_token_and_nothing_before() {
    let case = Case { n_heads: 1, n_kv_heads: 1, head_dim: 64, n_ctx: 8, n_past: 0, n_tokens: 1 };
    on_hopper!(|device| check(device, case));
}

/// A second tile of queries with two tokens, a second tile of keys with two keys; three heads share keys.
#[test]
fn two_tiles_of_each_by_two() {
    let case = Case { n_heads: 3, n_kv_heads: 1, head_dim: 64, n_ctx: 136, n_past: 0, n_tokens: 130 };
    on_hopper!(|device| check(device, case));
}

/// Four tiles of keys: stages are used again. Tokens from within a tile of keys on.
#[test]
fn a_long_past() {
    let case = Case { n_heads: 4, n_kv_heads: 2, head_dim: 128, n_ctx: 400, n_past: 333, n_tokens: 60 };
    on_hopper!(|device| check(device, case));
}

/// The first tokens see the first tiles only: a consumer meets tiles of which none of its queries sees a key.
#[test]
fn tiles_that_a_consumer_does_not_see() {
    let case = Case { n_heads: 1, n_kv_heads: 1, head_dim: 128, n_ctx: 200, n_past: 60, n_tokens: 128 };
    on_hopper!(|device| check(device, case));
}

/// Heads that end within a box of 64 dimensions.
#[test]
fn head_dim_96_mha() {
    let case = Case { n_heads: 2, n_kv_heads: 2, head_dim: 96, n_ctx: 264, n_past: 126, n_tokens: 129 };
    on_hopper!(|device| check(device, case));
}

/// A past that 16 bits do not count, on a GPU; the emulator takes a shorter one.
#[test]
fn context_past_65536() {
    let case =
        |n_past| Case { n_heads: 1, n_kv_heads: 1, head_dim: 64, n_ctx: n_past + 8, n_past, n_tokens: 3 };
    check(&kernels_gpu::simt::emulator::Emulator::checked(), case(4_096));
    if let Some(gpu) = crate::cuda::gpu().filter(|gpu| gpu.info().capability.major == 9) {
        check(&gpu, case(65_700));
    }
}
