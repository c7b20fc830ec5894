//! Attention of single tokens on the tensor cores against the reference.

use kernels_gpu::attention_decode::{
    attention_merge_f32, attention_merge_f32_converted, attention_merge_sink_f32,
};
use kernels_gpu::attention_decode_mma::*;
use kernels_gpu::launch::{Device, DeviceBuffer, Grid, Purpose};
use kernels_gpu::simt::emulator::{Access, Emulator, View};
use testkit::compare::{assert_within, gamma};
use testkit::data::Rng;
use testkit::reference::Variant;

use super::attention::run::{
    CacheData, Case, Errors, Inputs, inputs_f16, reference_and_bound_of, seen, sinks,
};
use super::gemv::check_converted;

/// What two f16 leave of a number: 2⁻²² of it, or 2⁻²⁵ where the low part is subnormal. So an element of q has
/// both errors, and a weight, with 2¹⁵ for the largest, 2 ulp or 2⁻⁴⁰ of the largest. Sums have twice as many products,
/// and the tensor cores may cut off where f32 rounds, which costs twice as much. A weight's exponent to base 2 is a
/// difference of a score and the largest, less 15, and is rounded twice, each worth a half ulp for a unit of the spread
/// and 15 · ln 2 / 2 ulp; the changes of the largest score are a half ulp of what they come to, twice (in a warp, and
/// between warps); and (m, l) of a part pass from base 2 to e and back, with four roundings. exp2 has 2 ulp: in a weight,
/// and, with a rounding, each time that the largest score moves, in a warp, between four warps and in the merge.
fn errors(case: &Case) -> Errors {
    let n_keys = seen(case).len();
    let n_rescales = n_keys.div_ceil(TILE_KEYS) + 6;
    Errors {
        product: gamma(4 * case.head_dim + 8),
        query: (-25.0f64).exp2(),
        weight_ulps: 2.0 + 2.0 + 15.0 * std::f64::consts::LN_2 + 3.0 * n_rescales as f64,
        ulps_by_spread: 0.5 * (2.0 + 2.0 + 4.0),
        lost_weight: (-40.0f64).exp2(),
        sums: gamma(4 * n_keys + 18),
    }
}

/// `part_out` and `part_ml`.
fn parts<D: Device>(device: &D, case: &Case, inputs: &Inputs, n_splits: usize) -> [DeviceBuffer<f32>; 2] {
    let CacheData::F16 { k, v } = &inputs.cache else { unreachable!("the kernels read f16") };
    let n_tokens = case.positions.len();
    let n_parts = n_tokens * case.n_heads * n_splits;
    // What no block writes is NaN.
    let unwritten = |n: usize| device.upload(&vec![f32::NAN; n], Purpose::Activations).unwrap();
    let (mut part_out, mut part_ml) = (unwritten(n_parts * case.head_dim), unwritten(n_parts * 2));
    let q = device.upload(&inputs.q, Purpose::Activations).unwrap();
    let k_cache = device.upload(k, Purpose::KvCache).unwrap();
    let v_cache = device.upload(v, Purpose::KvCache).unwrap();
    let positions = device.upload(&case.positions, Purpose::Other).unwrap();
    let grid = Grid::xyz(case.n_kv_heads as u32, n_splits as u32, n_tokens as u32);
    macro_rules! launch {
        ($kernel:ident $(, $field:ident: $value:expr)*) => {
            device.launch(
                $kernel {
                    part_out: &mut part_out,
                    part_ml: &mut part_ml,
                    q: &q,
                    k_cache: &k_cache,
                    v_cache: &v_cache,
                    positions: &positions,
                    n_heads: case.n_heads as u32,
                    n_kv_heads: case.n_kv_heads as u32,
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
    match (case.head_dim, case.n_heads / case.n_kv_heads, softcap) {
        (64, ..=8, None) => launch!(attention_decode_mma_f16_d64),
        (80, ..=8, None) => launch!(attention_decode_mma_f16_d80),
        (96, ..=8, None) => launch!(attention_decode_mma_f16_d96),
        (128, ..=8, None) => launch!(attention_decode_mma_f16_d128),
        (256, ..=8, None) => launch!(attention_decode_mma_f16_d256),
        (64, 9..=16, None) => launch!(attention_decode_mma_wide_f16_d64),
        (80, 9..=16, None) => launch!(attention_decode_mma_wide_f16_d80),
        (96, 9..=16, None) => launch!(attention_decode_mma_wide_f16_d96),
        (128, 9..=16, None) => launch!(attention_decode_mma_wide_f16_d128),
        (64, ..=8, Some(softcap)) => launch!(attention_decode_mma_softcap_f16_d64, softcap: softcap),
        (80, ..=8, Some(softcap)) => launch!(attention_decode_mma_softcap_f16_d80, softcap: softcap),
        (96, ..=8, Some(softcap)) => launch!(attention_decode_mma_softcap_f16_d96, softcap: softcap),
        (128, ..=8, Some(softcap)) => launch!(attention_decode_mma_softcap_f16_d128, softcap: softcap),
        (256, ..=8, Some(softcap)) => launch!(attention_decode_mma_softcap_f16_d256, softcap: softcap),
        _ => unreachable!("no kernel for {case:?}"),
    }
    .unwrap();
    [part_out, part_ml]
}

fn run<D: Device>(device: &D, case: &Case, inputs: &Inputs, n_splits: usize) -> Vec<f32> {
    let [part_out, part_ml] = parts(device, case, inputs, n_splits);
    let mut y = device.alloc::<f32>(inputs.q.len(), Purpose::Activations).unwrap();
    let (n_heads, n_splits, head_dim) = (case.n_heads as u32, n_splits as u32, case.head_dim as u32);
    let (y_out, part_out, part_ml) = (&mut y, &part_out, &part_ml);
    let grid = Grid::xy(n_heads, case.positions.len() as u32);
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

fn check<D: Device>(device: &D, case: &Case, n_splits: usize) {
    let inputs = inputs_f16(case);
    let (expected, bound) = reference_and_bound_of(case, &inputs, &errors(case));
    let found = run(device, case, &inputs, n_splits);
    let shape = [case.positions.len(), case.n_heads, case.head_dim];
    assert_within(&format!("{n_splits} splits"), &found, &expected, &shape, |i| bound[i]);
}

fn plain(n_heads: usize, n_kv_heads: usize, head_dim: usize, n_ctx: usize, position: u32) -> Case {
    let positions = vec![position];
    Case { n_heads, n_kv_heads, head_dim, n_ctx, positions, variant: Variant::default() }
}

#[test]
fn first_token() {
    for head_dim in [64, 80, 96, 128, 256] {
        on_every_device!(|device| check(device, &plain(2, 2, head_dim, 1, 0), 1));
    }
}

/// The last tile has one key to all of them; the keys behind are NaN, or not there at all.
#[test]
fn last_tile_partial() {
    for n_keys in [15, 16, 17, 63, 64, 65] {
        on_every_device!(|device| check(device, &plain(4, 1, 64, 80, n_keys - 1), 1));
        on_every_device!(|device| check(device, &plain(4, 1, 64, n_keys as usize, n_keys - 1), 1));
    }
}

/// More tiles a warp than stages of its ring.
#[test]
fn ring_goes_round() {
    on_every_device!(|device| check(device, &plain(2, 1, 80, 700, 685), 1));
}

#[test]
fn splits_without_keys() {
    for n_splits in [2, 3, 7] {
        on_every_device!(|device| check(device, &plain(2, 1, 96, 64, 16), n_splits));
    }
}

#[test]
fn groups_of_every_kind() {
    for group in [1, 3, 4, 7, 8, 9, 12, 16] {
        on_every_device!(|device| check(device, &plain(2 * group, 2, 64, 100, 98), 2));
    }
}

#[test]
fn head_dims_narrow_and_wide() {
    for head_dim in [80, 96, 128, 256] {
        for group in [4, 10].into_iter().filter(|&group| group <= max_group(head_dim)) {
            on_every_device!(|device| check(device, &plain(group, 1, head_dim, 90, 88), 2));
        }
    }
}

#[test]
fn several_tokens() {
    let case = Case { positions: vec![5, 6, 40], ..plain(6, 2, 64, 48, 0) };
    on_every_device!(|device| check(device, &case, 2));
}

#[test]
fn windows_begin_within_a_tile() {
    for window in [1, 7, 16, 33, 1000] {
        let variant = Variant { window: Some(window), ..Variant::default() };
        on_every_device!(|device| check(
            device,
            &Case { variant: variant.clone(), ..plain(3, 1, 64, 90, 75) },
            2
        ));
    }
}

/// The merge that also converts, against the merge and `gemv_x`.
fn check_merge_converted<D: Device>(device: &D, n_heads: usize, n_splits: usize, head_dim: usize) {
    let mut rng = Rng::new(11);
    let n_parts = n_heads * n_splits;
    let ml: Vec<f32> = rng.normal(2 * n_parts, 2.0).iter().map(|x| x.abs()).collect();
    let part_out = &device.upload(&rng.normal(n_parts * head_dim, 1.0), Purpose::Activations).unwrap();
    let part_ml = &device.upload(&ml, Purpose::Activations).unwrap();
    let mut y = device.alloc(n_heads * head_dim, Purpose::Activations).unwrap();
    let grid = Grid::x(n_heads as u32);
    let [n_heads, n_splits, dim] = [n_heads, n_splits, head_dim].map(|n| n as u32);
    let merge = attention_merge_f32 { y: &mut y, part_out, part_ml, n_heads, n_splits, head_dim: dim };
    device.launch(merge, grid).unwrap();
    let y = device.download(&y).unwrap();
    check_converted(device, "attention_merge", &y, head_dim, |y, words, numbers, order| {
        let head_dim = dim;
        let merge = attention_merge_f32_converted {
            y,
            words,
            numbers,
            part_out,
            part_ml,
            n_heads,
            n_splits,
            head_dim,
            order,
        };
        device.launch(merge, grid).unwrap();
    });
}

/// Heads of half a warp, of warps and a part of one; rows that end with padding of none to almost 256 columns.
#[test]
fn merges_that_convert() {
    for (n_heads, n_splits, head_dim) in [(9, 3, 64), (5, 40, 96), (4, 2, 128), (3, 1, 256), (1, 2, 32)] {
        on_every_device!(|device| check_merge_converted(device, n_heads, n_splits, head_dim));
    }
}

#[test]
fn sinks_in_the_merge() {
    for window in [None, Some(21)] {
        let sinks = Some(vec![-1.0, 0.5, 3.0, f64::NEG_INFINITY]);
        let variant = Variant { window, sinks, softcap: None };
        on_every_device!(|device| check(
            device,
            &Case { variant: variant.clone(), ..plain(4, 2, 64, 90, 75) },
            3
        ));
    }
}

#[test]
fn softcap_with_and_without_a_window() {
    for (head_dim, window) in [(64, None), (80, Some(20)), (96, Some(40)), (128, None), (256, Some(18))] {
        let variant = Variant { window, softcap: Some(3.0), sinks: None };
        let case = Case { variant, ..plain(4, 2, head_dim, 60, 50) };
        on_every_device!(|device| check(device, &case, 2));
    }
}

/// Positions that 16 bits do not hold, in many splits as a GPU has them.
#[test]
fn context_past_65536() {
    let variant = Variant { window: Some(300), ..Variant::default() };
    on_every_device!(|device| check(
        device,
        &Case { variant: variant.clone(), ..plain(1, 1, 64, 66_000, 65_900) },
        5
    ));
    on_every_device!(|device| check(device, &plain(1, 1, 64, 66_000, 65_999), 132));
}

/// Compares attention with such inputs.
fn check_inputs<D: Device>(device: &D, case: &Case, inputs: &Inputs, errors: &Errors) {
    let (expected, bound) = reference_and_bound_of(case, inputs, errors);
    let found = run(device, case, inputs, 2);
    assert_within("y", &found, &expected, &[case.head_dim], |i| bound[i]);
}

/// Scores that grow from key to key, so that every tile moves the largest; and one key's far above all others.
#[test]
fn moving_largest_score() {
    let case = plain(1, 1, 64, 200, 199);
    let rising = |key| [key as f32 / 4.0, 0.0];
    let one = |key| [if key == 70 { 90.0 } else { 0.0 }, 0.0];
    let value = |key| (key % 7) as f32 - 3.0;
    let q = [1.0 / case.scale(), 0.0];
    for inputs in [Inputs::of(&case, q, rising, value), Inputs::of(&case, q, one, value)] {
        on_every_device!(|device| check_inputs(device, &case, &inputs, &errors(&case)));
    }
}

/// Scores of 1/16 and 0 by turns, of which the first come from the low part of a query alone, since the high parts cancel.
/// All products and sums are exact.
#[test]
fn low_parts_of_queries_count() {
    let case = plain(1, 1, 64, 40, 39);
    let inputs = Inputs::of(
        &case,
        [1.0 + 2.0f32.powi(-12), -1.0],
        |key| [2048.0 * (key % 2) as f32; 2],
        |key| (key % 2) as f32 * 2.0 - 1.0,
    );
    let errors = Errors { product: gamma(4), ..errors(&case) };
    on_every_device!(|device| check_inputs(device, &case, &inputs, &errors));
}

/// Two keys, one of which has a weight that f16 rounds by nearly a half unit in its last place, for some of these scores.
#[test]
fn low_parts_of_weights_count() {
    let case = plain(1, 1, 64, 2, 1);
    for i in 0..8 {
        let score = -0.689 - i as f32 / 2048.0;
        let q = [1.0 / case.scale(), 0.0];
        let inputs = Inputs::of(&case, q, |key| [key as f32 * score, 0.0], |key| key as f32);
        let errors = Errors { product: gamma(4), ..errors(&case) };
        on_every_device!(|device| check_inputs(device, &case, &inputs, &errors));
    }
}

/// Many keys with weights of e⁻¹⁴, which are subnormal in f16, and one with the largest and no value.
#[test]
fn small_weights_keep_their_bits() {
    let case = plain(1, 1, 64, 400, 399);
    let q = [1.0 / case.scale(), 0.0];
    let inputs =
        Inputs::of(&case, q, |key| [if key == 3 { 0.0 } else { -14.0 }, 0.0], |key| f32::from(key != 3));
    let errors = Errors { product: gamma(4), ..errors(&case) };
    on_every_device!(|device| check_inputs(device, &case, &inputs, &errors));
}

/// Keys and values come once, in whole sectors; no access to shared memory takes a wavefront more than needed.
#[test]
fn no_bank_conflicts() {
    for (head_dim, group) in [(64, 4), (80, 8), (96, 3), (128, 8), (128, 16), (256, 2)] {
        let device = Emulator::checked().counting();
        let case = plain(2 * group, 2, head_dim, 400, 383);
        parts(&device, &case, &inputs_f16(&case), 2);
        let report = device.report().expect("a counting emulator reports");
        assert_eq!(report.bank_conflicts(), 0, "{report:#?}");
        let sectors = |name: &'static str| {
            let sites =
                report.sites.iter().filter(|s| s.view == View::Param(name) && s.access == Access::Read);
            sites.map(|site| site.transactions).sum::<u64>()
        };
        let n_bytes = 2 * 384 * head_dim as u64 * 2;
        assert_eq!((sectors("k_cache"), sectors("v_cache")), (n_bytes / 32, n_bytes / 32));
    }
}

#[test]
fn split_numbers() {
    // As many blocks as there is room for, a tile for each warp at least, and one if the heads fill the GPU.
    assert_eq!(n_splits(132, 8, 1, 131_072), 33);
    assert_eq!(n_splits(132, 32, 1, 131_072), 8);
    assert_eq!(n_splits(132, 8, 1, 100), 2);
    assert_eq!(n_splits(132, 64, 8, 4096), 1);
}
