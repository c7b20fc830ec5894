//! Attention of one token and of many against the reference, and against each other.

use half::f16 as HostF16;
use kernels_gpu::attention_decode::{attention_decode_f16, attention_merge_f32};
use kernels_gpu::attention_prefill::{
    TILE_QUERIES, attention_prefill_f16_d64, attention_prefill_f16_d128, attention_prefill_f16_d256,
};
use kernels_gpu::launch::{Device, Grid, Purpose};
use kernels_gpu::simt::f16;
use testkit::compare::{F32_ROUNDING, assert_within, gamma};
use testkit::data::Rng;
use testkit::reference::{self, widen};

#[derive(Clone)]
struct Case {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    n_ctx: usize,
    positions: Vec<u32>,
}

impl Case {
    fn reference_shape(&self) -> reference::Attention {
        reference::Attention {
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            n_ctx: self.n_ctx,
            scale: f64::from(self.scale()),
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// Queries and a filled cache. Keys past the last position are NaN: whoever reads them is found out.
struct Inputs {
    q: Vec<f32>,
    k: Vec<f16>,
    v: Vec<f16>,
}

fn inputs(case: &Case) -> Inputs {
    let mut rng = Rng::new(3);
    let q = rng.normal(case.positions.len() * case.n_heads * case.head_dim, 1.0);
    let n_keys = *case.positions.last().unwrap() as usize + 1;
    let mut cache = |deviation| {
        let values = rng.normal(case.n_kv_heads * case.n_ctx * case.head_dim, deviation);
        let half = |(i, v): (usize, &f32)| {
            let written = i / case.head_dim % case.n_ctx < n_keys;
            f16::from_bits(if written { HostF16::from_f32(*v) } else { HostF16::NAN }.to_bits())
        };
        values.iter().enumerate().map(half).collect::<Vec<f16>>()
    };
    Inputs { q, k: cache(2.0), v: cache(1.0) }
}

fn widen_halves(halves: &[f16]) -> Vec<f64> {
    halves.iter().map(|h| HostF16::from_bits(h.to_bits()).to_f64()).collect()
}

/// The reference, and how far an f32 computation may be from it.
///
/// A score is a sum of head_dim products of a scaled query: its error is at most γ(head_dim + 2) times the sum of the
/// products' magnitudes, S at most. A weight exp(score − m) has twice that (score and m), what `math::exp` adds,
/// (2 + 1.2 · spread) ulp, and, for each of the at most `n_rescales` times that the largest score moves, a factor with
/// an error of 2 ulp and a rounding, plus 1.2 ulp for each unit that it moves, all of them together no more than the
/// spread. The result is a quotient of two sums with these weights, each in chains no longer than the keys.
fn reference_and_bound(case: &Case, inputs: &Inputs) -> (Vec<f64>, Vec<f64>) {
    let (q, k, v) = (widen(&inputs.q), widen_halves(&inputs.k), widen_halves(&inputs.v));
    let shape = case.reference_shape();
    let mut expected = vec![0.0; q.len()];
    reference::attention(&mut expected, &q, &k, &v, &case.positions, shape);
    let magnitudes = |values: &[f64]| values.iter().map(|v| v.abs()).collect::<Vec<f64>>();
    let mut weighted = vec![0.0; q.len()];
    reference::attention(&mut weighted, &q, &k, &magnitudes(&v), &case.positions, shape);

    let n_keys = *case.positions.last().unwrap() as usize + 1;
    let score = largest_score_magnitude(case, &q, &k);
    let spread = 2.0 * score;
    let n_rescales = (n_keys.div_ceil(32) + 32) as f64;
    let ulp = 2.0 * F32_ROUNDING;
    let weight = 2.0 * gamma(case.head_dim + 2) * score + ulp * (2.0 + 2.4 * spread + 3.0 * n_rescales);
    let bound = weighted.iter().map(|w| (2.0 * weight + 2.0 * gamma(n_keys + 16)) * w).collect();
    (expected, bound)
}

/// The largest Σ|q·k| · scale of any query and a key that it sees.
fn largest_score_magnitude(case: &Case, q: &[f64], k: &[f64]) -> f64 {
    let (dim, group) = (case.head_dim, case.n_heads / case.n_kv_heads);
    let mut largest = 0.0f64;
    for (row, q) in q.chunks_exact(dim).enumerate() {
        let (token, head) = (row / case.n_heads, row % case.n_heads);
        for key in 0..=case.positions[token] as usize {
            let k = &k[(head / group * case.n_ctx + key) * dim..][..dim];
            largest = largest.max(q.iter().zip(k).map(|(q, k)| (q * k).abs()).sum());
        }
    }
    largest * f64::from(case.scale())
}

fn prefill<D: Device>(device: &D, case: &Case, inputs: &Inputs) -> Vec<f32> {
    let n_tokens = case.positions.len();
    let mut y = device.alloc::<f32>(inputs.q.len(), Purpose::Activations).unwrap();
    let q = device.upload(&inputs.q, Purpose::Activations).unwrap();
    let k_cache = device.upload(&inputs.k, Purpose::KvCache).unwrap();
    let v_cache = device.upload(&inputs.v, Purpose::KvCache).unwrap();
    let positions = device.upload(&case.positions, Purpose::Other).unwrap();
    let grid = Grid::xy(n_tokens.div_ceil(TILE_QUERIES) as u32, case.n_heads as u32);
    macro_rules! launch {
        ($kernel:ident) => {
            device.launch(
                $kernel {
                    y: &mut y,
                    q: &q,
                    k_cache: &k_cache,
                    v_cache: &v_cache,
                    positions: &positions,
                    n_tokens: n_tokens as u32,
                    n_heads: case.n_heads as u32,
                    n_kv_heads: case.n_kv_heads as u32,
                    head_dim: case.head_dim as u32,
                    n_ctx: case.n_ctx as u32,
                    scale: case.scale(),
                },
                grid,
            )
        };
    }
    match case.head_dim {
        0..=64 => launch!(attention_prefill_f16_d64),
        65..=128 => launch!(attention_prefill_f16_d128),
        _ => launch!(attention_prefill_f16_d256),
    }
    .unwrap();
    device.download(&y).unwrap()
}

fn decode<D: Device>(device: &D, case: &Case, inputs: &Inputs, n_splits: usize) -> Vec<f32> {
    let n_tokens = case.positions.len();
    let n_parts = n_tokens * case.n_heads * n_splits;
    let mut part_out = device.alloc::<f32>(n_parts * case.head_dim, Purpose::Activations).unwrap();
    let mut part_ml = device.alloc::<f32>(n_parts * 2, Purpose::Activations).unwrap();
    let mut y = device.alloc::<f32>(inputs.q.len(), Purpose::Activations).unwrap();
    let q = device.upload(&inputs.q, Purpose::Activations).unwrap();
    let k_cache = device.upload(&inputs.k, Purpose::KvCache).unwrap();
    let v_cache = device.upload(&inputs.v, Purpose::KvCache).unwrap();
    let positions = device.upload(&case.positions, Purpose::Other).unwrap();
    device
        .launch(
            attention_decode_f16 {
                part_out: &mut part_out,
                part_ml: &mut part_ml,
                q: &q,
                k_cache: &k_cache,
                v_cache: &v_cache,
                positions: &positions,
                n_heads: case.n_heads as u32,
                n_kv_heads: case.n_kv_heads as u32,
                head_dim: case.head_dim as u32,
                n_ctx: case.n_ctx as u32,
                scale: case.scale(),
            },
            Grid::xyz(case.n_heads as u32, n_splits as u32, n_tokens as u32),
        )
        .unwrap();
    device
        .launch(
            attention_merge_f32 {
                y: &mut y,
                part_out: &part_out,
                part_ml: &part_ml,
                n_heads: case.n_heads as u32,
                n_splits: n_splits as u32,
                head_dim: case.head_dim as u32,
            },
            Grid::xy(case.n_heads as u32, n_tokens as u32),
        )
        .unwrap();
    device.download(&y).unwrap()
}

fn check<D: Device>(device: &D, case: &Case) {
    let inputs = inputs(case);
    let (expected, bound) = reference_and_bound(case, &inputs);
    let shape = [case.positions.len(), case.n_heads, case.head_dim];
    let found = prefill(device, case, &inputs);
    assert_within("prefill", &found, &expected, &shape, |i| bound[i]);
    for n_splits in [1, 3] {
        let found = decode(device, case, &inputs, n_splits);
        assert_within(&format!("decode, {n_splits} splits"), &found, &expected, &shape, |i| bound[i]);
    }
}

#[test]
fn first_token() {
    on_every_device!(|device| check(
        device,
        &Case { n_heads: 2, n_kv_heads: 2, head_dim: 64, n_ctx: 4, positions: vec![0] }
    ));
}

#[test]
fn smallest_head_gqa() {
    on_every_device!(|device| check(
        device,
        &Case { n_heads: 8, n_kv_heads: 4, head_dim: 8, n_ctx: 40, positions: (30..40).collect() }
    ));
}

#[test]
fn head_dim_32_one_kv_head() {
    on_every_device!(|device| check(
        device,
        &Case { n_heads: 4, n_kv_heads: 1, head_dim: 32, n_ctx: 64, positions: (0..33).collect() }
    ));
}

#[test]
fn head_dim_64_two_query_tiles() {
    on_every_device!(|device| check(
        device,
        &Case { n_heads: 3, n_kv_heads: 1, head_dim: 64, n_ctx: 64, positions: (0..40).collect() }
    ));
}

#[test]
fn head_dim_80_mha() {
    on_every_device!(|device| check(
        device,
        &Case { n_heads: 2, n_kv_heads: 2, head_dim: 80, n_ctx: 48, positions: (31..34).collect() }
    ));
}

#[test]
fn head_dim_96_mha() {
    on_every_device!(|device| check(
        device,
        &Case { n_heads: 2, n_kv_heads: 2, head_dim: 96, n_ctx: 40, positions: vec![0, 1, 2] }
    ));
}

#[test]
fn head_dim_128_gqa_full_key_tile() {
    on_every_device!(|device| check(
        device,
        &Case { n_heads: 4, n_kv_heads: 2, head_dim: 128, n_ctx: 64, positions: (60..64).collect() }
    ));
}

#[test]
fn head_dim_256() {
    on_every_device!(|device| check(
        device,
        &Case { n_heads: 1, n_kv_heads: 1, head_dim: 256, n_ctx: 40, positions: vec![36, 37] }
    ));
}

/// Longer than any array of scores in shared memory, and with positions that 16 bits do not hold.
#[test]
fn context_past_65536() {
    on_every_device!(|device| check(
        device,
        &Case { n_heads: 1, n_kv_heads: 1, head_dim: 8, n_ctx: 65_600, positions: vec![65_599] }
    ));
}
