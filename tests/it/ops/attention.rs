//! Attention of one token and of many against the reference, and against each other.

pub(super) mod run;

use kernels_gpu::launch::Device;
use testkit::compare::assert_within;
use testkit::reference::Variant;

use run::{Case, decode, inputs_f16, inputs_q8_0, prefill, reference_and_bound};

fn check<D: Device>(device: &D, case: &Case) {
    let inputs = inputs_f16(case);
    let (expected, bound) = reference_and_bound(case, &inputs);
    let shape = [case.positions.len(), case.n_heads, case.head_dim];
    // No prefill has both: no model does.
    if case.variant.softcap.is_none() || case.variant.sinks.is_none() {
        let found = prefill(device, case, &inputs);
        assert_within("prefill", &found, &expected, &shape, |i| bound[i]);
    }
    for n_splits in [1, 3] {
        let found = decode(device, case, &inputs, n_splits);
        assert_within(&format!("decode, {n_splits} splits"), &found, &expected, &shape, |i| bound[i]);
    }
    if case.head_dim.is_multiple_of(16) {
        let inputs = inputs_q8_0(case);
        let (expected, bound) = reference_and_bound(case, &inputs);
        let found = decode(device, case, &inputs, 2);
        assert_within("decode, q8_0", &found, &expected, &shape, |i| bound[i]);
    }
}

#[test]
fn first_token() {
    on_every_device!(|device| check(
        device,
        &Case {
            n_heads: 2,
            n_kv_heads: 2,
            head_dim: 64,
            n_ctx: 4,
            positions: vec![0],
            variant: Variant::default()
        }
    ));
}

#[test]
fn smallest_head_gqa() {
    on_every_device!(|device| check(
        device,
        &Case {
            n_heads: 8,
            n_kv_heads: 4,
            head_dim: 8,
            n_ctx: 40,
            positions: (30..40).collect(),
            variant: Variant::default()
        }
    ));
}

#[test]
fn head_dim_32_one_kv_head() {
    on_every_device!(|device| check(
        device,
        &Case {
            n_heads: 4,
            n_kv_heads: 1,
            head_dim: 32,
            n_ctx: 64,
            positions: (0..33).collect(),
            variant: Variant::default()
        }
    ));
}

#[test]
fn head_dim_64_two_query_tiles() {
    on_every_device!(|device| check(
        device,
        &Case {
            n_heads: 3,
            n_kv_heads: 1,
            head_dim: 64,
            n_ctx: 64,
            positions: (0..40).collect(),
            variant: Variant::default()
        }
    ));
}

#[test]
fn head_dim_80_mha() {
    on_every_device!(|device| check(
        device,
        &Case {
            n_heads: 2,
            n_kv_heads: 2,
            head_dim: 80,
            n_ctx: 48,
            positions: (31..34).collect(),
            variant: Variant::default()
        }
    ));
}

#[test]
fn head_dim_96_mha() {
    on_every_device!(|device| check(
        device,
        &Case {
            n_heads: 2,
            n_kv_heads: 2,
            head_dim: 96,
            n_ctx: 40,
            positions: vec![0, 1, 2],
            variant: Variant::default()
        }
    ));
}

#[test]
fn head_dim_128_gqa_full_key_tile() {
    on_every_device!(|device| check(
        device,
        &Case {
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 128,
            n_ctx: 64,
            positions: (60..64).collect(),
            variant: Variant::default()
        }
    ));
}

#[test]
fn head_dim_256() {
    on_every_device!(|device| check(
        device,
        &Case {
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: 256,
            n_ctx: 40,
            positions: vec![36, 37],
            variant: Variant::default()
        }
    ));
}

/// Heads of every size that models have, a window that begins inside a tile of keys, soft-capping and sinks.
fn variants(head_dim: usize) {
    let (n_heads, n_kv_heads, n_ctx) = (4, 2, 80);
    let n_tokens = if head_dim == 128 { 35 } else { 3 };
    let sinks = Some(vec![-1.0, 0.5, 3.0, f64::NEG_INFINITY]);
    let window = |window| Variant { window: Some(window), ..Variant::default() };
    for variant in [
        window(7),
        Variant { sinks: sinks.clone(), ..Variant::default() },
        Variant { sinks, ..window(33) },
        Variant { softcap: Some(2.0), ..Variant::default() },
        Variant { softcap: Some(5.0), ..window(20) },
    ] {
        let positions = (72 - n_tokens..72).collect();
        let case = Case { n_heads, n_kv_heads, head_dim, n_ctx, positions, variant };
        on_every_device!(|device| check(device, &case));
    }
}

#[test]
fn variants_of_head_dim_64() {
    variants(64);
}

#[test]
fn variants_of_head_dim_80() {
    variants(80);
}

#[test]
fn variants_of_head_dim_96() {
    variants(96);
}

#[test]
fn variants_of_head_dim_128() {
    variants(128);
}

#[test]
fn variants_of_head_dim_256() {
    variants(256);
}

#[test]
fn window_of_one_is_the_value_itself() {
    let variant = Variant { window: Some(1), ..Variant::default() };
    let case =
        Case { n_heads: 2, n_kv_heads: 1, head_dim: 16, n_ctx: 70, positions: (0..70).collect(), variant };
    on_every_device!(|device| check(device, &case));
}

#[test]
fn window_wider_than_the_context() {
    let variant = Variant { window: Some(1000), ..Variant::default() };
    let case =
        Case { n_heads: 2, n_kv_heads: 1, head_dim: 16, n_ctx: 40, positions: (5..40).collect(), variant };
    on_every_device!(|device| check(device, &case));
}

/// Scores far from each other and a sink above them all: nothing overflows.
#[test]
fn sink_far_above_and_far_below_every_score() {
    for sink in [80.0, -80.0] {
        let variant = Variant { sinks: Some(vec![sink]), ..Variant::default() };
        let case = Case { n_heads: 1, n_kv_heads: 1, head_dim: 64, n_ctx: 8, positions: vec![5], variant };
        on_every_device!(|device| check(device, &case));
    }
}

/// Longer than any array of scores in shared memory, and with positions that 16 bits do not hold: the last places of a
/// context of 131,072, seen through a window, and all of it.
#[test]
fn context_of_131072() {
    for window in [Some(100), None] {
        let variant = Variant { window, sinks: window.map(|_| vec![0.0, 1.0]), ..Variant::default() };
        let positions = if window.is_some() { vec![131_000, 131_071] } else { vec![131_071] };
        let head_dim = if window.is_some() { 16 } else { 8 };
        let n_heads = if window.is_some() { 2 } else { 1 };
        let case = Case { n_heads, n_kv_heads: 1, head_dim, n_ctx: 131_072, positions, variant };
        on_every_device!(|device| check(device, &case));
    }
}
