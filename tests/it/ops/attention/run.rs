//! What the tests of attention share: inputs, the reference with its bound, and the launches.

use half::f16 as HostF16;
use kernels_gpu::attention_decode::*;
use kernels_gpu::attention_prefill::*;
use kernels_gpu::kv_cache::q8_0_blocks;
use kernels_gpu::launch::{Device, Grid, Purpose};
use kernels_gpu::simt::f16;
use testkit::compare::{F32_ROUNDING, gamma};
use testkit::data::{Rng, widen_halves};
use testkit::reference::{self, Variant, widen};

#[derive(Clone, Debug)]
pub struct Case {
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub n_ctx: usize,
    pub positions: Vec<u32>,
    pub variant: Variant,
}

impl Case {
    /// The keys that a position sees.
    fn keys(&self, position: u32) -> std::ops::Range<usize> {
        let end = position as usize + 1;
        self.variant.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    pub fn window(&self) -> u32 {
        self.variant.window.map_or(u32::MAX, |window| window as u32)
    }

    fn reference_shape(&self) -> reference::Attention {
        reference::Attention {
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            n_ctx: self.n_ctx,
            scale: f64::from(self.scale()),
        }
    }

    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// Queries and filled caches, the same values in two formats or one. Keys past the last position, and those that no
/// query's window reaches, are NaN: whoever reads them is found out.
pub struct Inputs {
    pub q: Vec<f32>,
    k: Vec<f64>,
    v: Vec<f64>,
    pub cache: CacheData,
}

pub enum CacheData {
    F16 { k: Vec<f16>, v: Vec<f16> },
    Q8_0 { k: Q8_0Data, v: Q8_0Data },
}

pub struct Q8_0Data {
    quants: Vec<u32>,
    scales: Vec<f16>,
}

/// The places of a head that a query sees.
pub fn seen(case: &Case) -> std::ops::Range<usize> {
    case.keys(case.positions[0]).start..case.keys(*case.positions.last().unwrap()).end
}

pub fn inputs_f16(case: &Case) -> Inputs {
    let mut rng = Rng::new(3);
    let q = rng.normal(case.positions.len() * case.n_heads * case.head_dim, 1.0);
    let seen = seen(case);
    let mut cache = |deviation| {
        let values = rng.normal(case.n_kv_heads * case.n_ctx * case.head_dim, deviation);
        let half = |(i, v): (usize, &f32)| {
            let written = seen.contains(&(i / case.head_dim % case.n_ctx));
            f16::from_bits(if written { HostF16::from_f32(*v) } else { HostF16::NAN }.to_bits())
        };
        values.iter().enumerate().map(half).collect::<Vec<f16>>()
    };
    let (k, v) = (cache(2.0), cache(1.0));
    Inputs { q, k: widen(&widen_halves(&k)), v: widen(&widen_halves(&v)), cache: CacheData::F16 { k, v } }
}

impl Inputs {
    /// One head's query and keys with these first two elements and zeros, and values of equal elements.
    pub fn of(
        case: &Case,
        q: [f32; 2],
        key: impl Fn(usize) -> [f32; 2],
        value: impl Fn(usize) -> f32,
    ) -> Self {
        assert_eq!((case.n_heads, case.n_kv_heads, case.positions.len()), (1, 1, 1));
        let row = |first: [f32; 2]| [first.as_slice(), &vec![0.0; case.head_dim - 2]].concat();
        let halves = |rows: Vec<f32>| rows.iter().map(|&x| f16::from_f32(x)).collect::<Vec<f16>>();
        let k = halves((0..case.n_ctx).flat_map(|i| row(key(i))).collect());
        let v = halves((0..case.n_ctx).flat_map(|i| vec![value(i); case.head_dim]).collect());
        let [wide_k, wide_v] = [&k, &v].map(|halves| widen(&widen_halves(halves)));
        Inputs { q: row(q), k: wide_k, v: wide_v, cache: CacheData::F16 { k, v } }
    }
}

/// Any quants with scales that make values of the same size; the scales of unwritten places are NaN.
pub fn inputs_q8_0(case: &Case) -> Inputs {
    let mut rng = Rng::new(3);
    let q = rng.normal(case.positions.len() * case.n_heads * case.head_dim, 1.0);
    let (seen, n_blocks) = (seen(case), q8_0_blocks(case.head_dim));
    let mut cache = |largest: f64| {
        let n_places = case.n_kv_heads * case.n_ctx;
        let quants: Vec<i8> = (0..n_places * case.head_dim).map(|_| rng.below(255) as i8).collect();
        let scale = |i: usize| match seen.contains(&(i / n_blocks % case.n_ctx)) {
            true => HostF16::from_f64(largest / 127.0 * (0.5 + 0.5 * rng.unit())),
            false => HostF16::NAN,
        };
        let scales: Vec<HostF16> = (0..n_places * n_blocks).map(scale).collect();
        let value = |(i, quant): (usize, &i8)| {
            let (place, element) = (i / case.head_dim, i % case.head_dim);
            scales[place * n_blocks + element / 32].to_f64() * f64::from(*quant)
        };
        let values: Vec<f64> = quants.iter().enumerate().map(value).collect();
        let words = quants
            .chunks_exact(4)
            .map(|q| u32::from_le_bytes([q[0], q[1], q[2], q[3]].map(i8::cast_unsigned)));
        let data = Q8_0Data {
            quants: words.collect(),
            scales: scales.iter().map(|s| f16::from_bits(s.to_bits())).collect(),
        };
        (values, data)
    };
    let ((k, k_data), (v, v_data)) = (cache(4.0), cache(2.0));
    Inputs { q, k, v, cache: CacheData::Q8_0 { k: k_data, v: v_data } }
}

/// The reference, and how far an f32 computation may be from it.
///
/// A score is a sum of head_dim products of a scaled query: its error is at most γ(head_dim + 4) times the sum of the
/// products' magnitudes, S at most (two of the roundings are those of a scale of Q8_0). Soft-capping, which increases
/// no difference, adds a quotient, a `math::tanh` and a product, 9 ulp of what it leaves. A weight exp(score − m) has
/// twice that (score and m), what `math::exp` adds, (2 + 1.2 · spread) ulp, and, for each of the at most `n_rescales`
/// times that the largest score moves, a factor with an error of 2 ulp and a rounding, plus 1.2 ulp for each unit that
/// it moves, all of them together no more than the spread. The result is a quotient of two sums with these weights, each
/// in chains no longer than the keys. A sink is one more score, without an error.
pub fn reference_and_bound(case: &Case, inputs: &Inputs) -> (Vec<f64>, Vec<f64>) {
    let n_keys = seen(case).len();
    let n_rescales = n_keys.div_ceil(32) + 33;
    let errors = Errors {
        product: gamma(case.head_dim + 4),
        query: 0.0,
        weight_ulps: 2.0 + 3.0 * n_rescales as f64,
        ulps_by_spread: 2.4,
        lost_weight: 0.0,
        sums: gamma(n_keys + 18),
    };
    reference_and_bound_of(case, inputs, &errors)
}

/// How a kernel rounds.
pub struct Errors {
    /// Error of a sum of products, for each unit of their magnitudes.
    pub product: f64,
    /// Absolute error of an element of a query.
    pub query: f64,
    /// Error of a weight, apart from its exponent's.
    pub weight_ulps: f64,
    /// Ulp that a weight's error grows by with each unit between the least and the largest score possible.
    pub ulps_by_spread: f64,
    /// Absolute error of a weight, when the largest is 1.
    pub lost_weight: f64,
    /// Relative error of a sum over the keys.
    pub sums: f64,
}

/// The reference, and how far a computation with these errors may be from it: see [`reference_and_bound`].
pub fn reference_and_bound_of(case: &Case, inputs: &Inputs, errors: &Errors) -> (Vec<f64>, Vec<f64>) {
    let Inputs { q, k, v, .. } = inputs;
    let (q, shape, variant) = (widen(q), case.reference_shape(), &case.variant);
    let mut expected = vec![0.0; q.len()];
    reference::attention_variant(&mut expected, &q, k, v, &case.positions, shape, variant);
    let magnitudes = |values: &[f64]| values.iter().map(|v| v.abs()).collect::<Vec<f64>>();
    let v = magnitudes(v);
    let mut weighted = vec![0.0; q.len()];
    reference::attention_variant(&mut weighted, &q, k, &v, &case.positions, shape, variant);

    let ulp = 2.0 * F32_ROUNDING;
    let score = largest_score_magnitude(case, &q, k);
    let of_query = largest_score_magnitude(case, &vec![errors.query; q.len()], k);
    let capped = variant.softcap.map_or(score, |cap| score.min(cap));
    let capping = variant.softcap.map_or(0.0, |_| 9.0 * ulp * capped);
    let sink = variant.sinks.iter().flatten().fold(0.0f64, |m, sink| match sink.is_finite() {
        true => m.max(sink.abs()),
        false => m,
    });
    let spread = capped + capped.max(sink);
    let weight = 2.0 * (errors.product * score + of_query + capping)
        + ulp * (errors.weight_ulps + errors.ulps_by_spread * spread);
    // In the numerator and in the denominator, which is at least the largest weight. No value is above this:
    let largest_value = v.iter().fold(0.0f64, |m, v| m.max(*v));
    let lost = 2.0 * errors.lost_weight * seen(case).len() as f64 * largest_value;
    let bound = weighted.iter().map(|w| (2.0 * weight + 2.0 * errors.sums) * w + lost).collect();
    (expected, bound)
}

/// The largest Σ|q·k| · scale of any query and a key that it sees.
fn largest_score_magnitude(case: &Case, q: &[f64], k: &[f64]) -> f64 {
    let (dim, group) = (case.head_dim, case.n_heads / case.n_kv_heads);
    let mut largest = 0.0f64;
    for (row, q) in q.chunks_exact(dim).enumerate() {
        let (token, head) = (row / case.n_heads, row % case.n_heads);
        for key in case.keys(case.positions[token]) {
            let k = &k[(head / group * case.n_ctx + key) * dim..][..dim];
            largest = largest.max(q.iter().zip(k).map(|(q, k)| (q * k).abs()).sum());
        }
    }
    largest * f64::from(case.scale())
}

/// The sinks as the kernels take them, or what stands for none.
pub fn sinks(case: &Case) -> Vec<f32> {
    match &case.variant.sinks {
        Some(sinks) => sinks.iter().map(|&sink| sink as f32).collect(),
        None => vec![f32::NEG_INFINITY; case.n_heads],
    }
}

pub fn prefill<D: Device>(device: &D, case: &Case, inputs: &Inputs) -> Vec<f32> {
    let CacheData::F16 { k, v } = &inputs.cache else { unreachable!("prefill reads f16") };
    let n_tokens = case.positions.len();
    let mut y = device.alloc::<f32>(inputs.q.len(), Purpose::Activations).unwrap();
    let q = device.upload(&inputs.q, Purpose::Activations).unwrap();
    let k_cache = device.upload(k, Purpose::KvCache).unwrap();
    let v_cache = device.upload(v, Purpose::KvCache).unwrap();
    let positions = device.upload(&case.positions, Purpose::Other).unwrap();
    let sinks = device.upload(&sinks(case), Purpose::Weights).unwrap();
    let grid = Grid::xy(n_tokens.div_ceil(TILE_QUERIES) as u32, case.n_heads as u32);
    macro_rules! launch {
        ($kernel:ident $(, $field:ident: $value:expr)*) => {
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
                    $($field: $value,)*
                },
                grid,
            )
        };
    }
    let window = case.window();
    match (case.head_dim, &case.variant) {
        (0..=64, Variant { softcap: Some(cap), .. }) => {
            launch!(attention_prefill_softcap_f16_d64, window: window, softcap: *cap as f32)
        }
        (65..=128, Variant { softcap: Some(cap), .. }) => {
            launch!(attention_prefill_softcap_f16_d128, window: window, softcap: *cap as f32)
        }
        (_, Variant { softcap: Some(cap), .. }) => {
            launch!(attention_prefill_softcap_f16_d256, window: window, softcap: *cap as f32)
        }
        (0..=64, Variant { window: None, sinks: None, .. }) => launch!(attention_prefill_f16_d64),
        (65..=128, Variant { window: None, sinks: None, .. }) => launch!(attention_prefill_f16_d128),
        (_, Variant { window: None, sinks: None, .. }) => launch!(attention_prefill_f16_d256),
        (0..=64, _) => launch!(attention_prefill_sink_f16_d64, sinks: &sinks, window: window),
        (65..=128, _) => launch!(attention_prefill_sink_f16_d128, sinks: &sinks, window: window),
        _ => launch!(attention_prefill_sink_f16_d256, sinks: &sinks, window: window),
    }
    .unwrap();
    device.download(&y).unwrap()
}

pub fn decode<D: Device>(device: &D, case: &Case, inputs: &Inputs, n_splits: usize) -> Vec<f32> {
    let n_tokens = case.positions.len();
    let n_parts = n_tokens * case.n_heads * n_splits;
    let mut part_out = device.alloc::<f32>(n_parts * case.head_dim, Purpose::Activations).unwrap();
    let mut part_ml = device.alloc::<f32>(n_parts * 2, Purpose::Activations).unwrap();
    let q = device.upload(&inputs.q, Purpose::Activations).unwrap();
    let positions = device.upload(&case.positions, Purpose::Other).unwrap();
    let grid = Grid::xyz(case.n_heads as u32, n_splits as u32, n_tokens as u32);
    macro_rules! launch {
        ($kernel:ident, $($field:ident: $value:expr),*) => {
            device.launch(
                $kernel {
                    part_out: &mut part_out,
                    part_ml: &mut part_ml,
                    q: &q,
                    positions: &positions,
                    n_heads: case.n_heads as u32,
                    n_kv_heads: case.n_kv_heads as u32,
                    head_dim: case.head_dim as u32,
                    n_ctx: case.n_ctx as u32,
                    scale: case.scale(),
                    window: case.window(),
                    $($field: $value,)*
                },
                grid,
            )
        };
    }
    let softcap = case.variant.softcap.map(|cap| cap as f32);
    match &inputs.cache {
        CacheData::F16 { k, v } => {
            let k_cache = &device.upload(k, Purpose::KvCache).unwrap();
            let v_cache = &device.upload(v, Purpose::KvCache).unwrap();
            match softcap {
                None => launch!(attention_decode_f16, k_cache: k_cache, v_cache: v_cache),
                Some(softcap) => {
                    launch!(attention_decode_softcap_f16, k_cache: k_cache, v_cache: v_cache, softcap: softcap)
                }
            }
        }
        CacheData::Q8_0 { k, v } => {
            let [k_quants, v_quants] = [k, v].map(|d| device.upload(&d.quants, Purpose::KvCache).unwrap());
            let [k_scales, v_scales] = [k, v].map(|d| device.upload(&d.scales, Purpose::KvCache).unwrap());
            let (k_quants, v_quants, k_scales, v_scales) = (&k_quants, &v_quants, &k_scales, &v_scales);
            macro_rules! launch_q8_0 {
                ($kernel:ident $(, $field:ident: $value:expr)*) => {
                    launch!($kernel, k_quants: k_quants, k_scales: k_scales, v_quants: v_quants,
                        v_scales: v_scales $(, $field: $value)*)
                };
            }
            match softcap {
                None => launch_q8_0!(attention_decode_q8_0),
                Some(softcap) => launch_q8_0!(attention_decode_softcap_q8_0, softcap: softcap),
            }
        }
    }
    .unwrap();

    let mut y = device.alloc::<f32>(inputs.q.len(), Purpose::Activations).unwrap();
    let (n_heads, n_splits, head_dim) = (case.n_heads as u32, n_splits as u32, case.head_dim as u32);
    let (y_out, part_out, part_ml) = (&mut y, &part_out, &part_ml);
    let grid = Grid::xy(n_heads, n_tokens as u32);
    match case.variant.sinks {
        None => device
            .launch(attention_merge_f32 { y: y_out, part_out, part_ml, n_heads, n_splits, head_dim }, grid),
        Some(_) => {
            let sinks = &device.upload(&sinks(case), Purpose::Weights).unwrap();
            let merge =
                attention_merge_sink_f32 { y: y_out, part_out, part_ml, sinks, n_heads, n_splits, head_dim };
            device.launch(merge, grid)
        }
    }
    .unwrap();
    device.download(&y).unwrap()
}
