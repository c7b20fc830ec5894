//! Metadata that no model can have. The letters are those of the cases that a loader must survive: B9 keys, B10 numbers,
//! E1 layers, E2 heads, E3 head sizes, E5 sizes by layer, E6 context, E7 architecture.

use insta::assert_snapshot;
use oxwarp::backend;
use oxwarp::model::{EngineOptions, Error};

use super::build::{LLAMA, Meta, QWEN2};
use super::{load, refusal};

/// The message for a llama with `key` changed.
fn with(key: &str, value: Meta) -> String {
    refusal(&LLAMA.model().with(key, value))
}

#[test]
fn b9_required_key_missing() {
    let messages: Vec<String> = [
        "general.architecture",
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
    ]
    .iter()
    .map(|key| refusal(&LLAMA.model().without(key)))
    .collect();
    assert_snapshot!(messages.join("\n"));
}

#[test]
fn b9_key_of_another_type() {
    assert_snapshot!(with("llama.block_count", Meta::Str("two")));
    assert_snapshot!(with("llama.embedding_length", Meta::F32(32.0)));
    assert_snapshot!(with("general.architecture", Meta::U32(1)));
    assert_snapshot!(with("llama.rope.freq_base", Meta::U32(10_000)));
}

#[test]
fn b9_integers_of_another_width_are_read() {
    let model =
        LLAMA.model().with("llama.block_count", Meta::U64(2)).with("llama.context_length", Meta::U64(64));
    let runner = load(&model, EngineOptions::default()).unwrap();
    assert_eq!((runner.config().n_layers, runner.n_ctx()), (2, 64));
}

#[test]
fn b10_numbers_that_are_none() {
    let mut messages = Vec::new();
    for key in ["llama.rope.freq_base", "llama.attention.layer_norm_rms_epsilon", "llama.rope.scaling.factor"]
    {
        for value in [f32::NAN, f32::INFINITY, -1.0, 0.0] {
            messages.push(with(key, Meta::F32(value)));
        }
    }
    assert_snapshot!(messages.join("\n"));
}

#[test]
fn b10_frequency_factors_that_are_no_divisors() {
    let mut messages = Vec::new();
    for value in [f32::NAN, f32::NEG_INFINITY, -2.0, 0.0] {
        let mut model = LLAMA.model();
        model.add("rope_freqs.weight", &[4], vec![1.0, 1.0, value, 1.0]);
        messages.push(refusal(&model));
    }
    assert_snapshot!(messages.join("\n"));
}

#[test]
fn e1_layers_that_are_not_there() {
    assert_snapshot!(with("llama.block_count", Meta::U32(0)));
    assert_snapshot!(with("llama.block_count", Meta::U64(1 << 32)));
    assert_snapshot!(with("llama.block_count", Meta::U32(1)));
    assert_snapshot!(with("llama.block_count", Meta::U32(3)));
}

#[test]
fn e2_heads_that_do_not_divide() {
    assert_snapshot!(with("llama.attention.head_count", Meta::U32(0)));
    assert_snapshot!(with("llama.attention.head_count_kv", Meta::U32(0)));
    assert_snapshot!(with("llama.attention.head_count_kv", Meta::U32(3)));
    assert_snapshot!(with("llama.attention.head_count_kv", Meta::U32(8)));
}

#[test]
fn e3_head_sizes_that_cannot_be() {
    let model = LLAMA.model().without("llama.attention.key_length").without("llama.attention.value_length");
    assert_snapshot!(refusal(&model.with("llama.attention.head_count", Meta::U32(6))));
    assert_snapshot!(with("llama.attention.key_length", Meta::U32(0)));
    assert_snapshot!(with("llama.attention.value_length", Meta::U32(16)));
    assert_snapshot!(with("llama.rope.dimension_count", Meta::U32(10)));
    assert_snapshot!(with("llama.rope.dimension_count", Meta::U32(5)));
    assert_snapshot!(with("llama.rope.dimension_count", Meta::U32(0)));
    let odd = LLAMA.model().with("llama.attention.key_length", Meta::U32(7));
    assert_snapshot!(refusal(&odd.with("llama.attention.value_length", Meta::U32(7))));
}

#[test]
fn e5_sizes_by_layer() {
    let heads = |sizes: &[u32]| with("llama.attention.head_count_kv", Meta::U32s(sizes.to_vec()));
    assert_snapshot!(heads(&[2, 2, 2]));
    assert_snapshot!(heads(&[2, 4]));
    let same = LLAMA.model().with("llama.attention.head_count_kv", Meta::U32s(vec![2, 2]));
    assert_eq!(load(&same, EngineOptions::default()).unwrap().config().n_kv_heads, 2);
}

#[test]
fn e5_experts() {
    let experts = LLAMA.model().with("llama.expert_count", Meta::U32(4));
    assert_snapshot!(refusal(&experts.with("llama.expert_used_count", Meta::U32(8))));
}

#[test]
fn e6_context_of_no_length() {
    assert_snapshot!(with("llama.context_length", Meta::U32(0)));
    assert_snapshot!(with("llama.context_length", Meta::U64(1 << 63)));
}

#[test]
fn e6_context_longer_than_trained() {
    let model = LLAMA.model();
    let of_length = |n_ctx| EngineOptions { n_ctx: Some(n_ctx), ..EngineOptions::default() };
    let message = |options| load(&model, options).err().unwrap().to_string();
    assert_snapshot!(message(of_length(65)));
    assert_snapshot!(message(of_length(0)));
    let longer = EngineOptions { allow_longer_context: true, ..of_length(65) };
    assert_eq!(load(&model, longer).unwrap().n_ctx(), 65);
    assert_eq!(load(&model, of_length(10)).unwrap().n_ctx(), 10);
}

#[test]
fn e6_cache_larger_than_any_memory() {
    let model = LLAMA.model();
    let longer =
        |n_ctx| EngineOptions { n_ctx: Some(n_ctx), allow_longer_context: true, ..EngineOptions::default() };
    let error = load(&model, longer(1 << 58)).err().unwrap();
    assert!(matches!(error, Error::KvCacheSize { .. }), "{error}");
    assert_snapshot!(error.to_string());
    let error = load(&model, longer(1 << 50)).err().unwrap();
    let Error::Backend(backend::Error::DoesNotFit { need, available, .. }) = error else { panic!("{error}") };
    // Two layers of keys and values, two heads of eight numbers of four bytes.
    assert_eq!(need.kv_cache, (2 * 2 * 2 * 8 * 4) << 50);
    assert!(available < need.kv_cache);
}

#[test]
fn e7_architecture_that_nobody_knows() {
    assert_snapshot!(with("general.architecture", Meta::Str("mamba")));
    assert_snapshot!(with("general.architecture", Meta::Str("\u{1b}[31mllama")));
}

#[test]
fn scaling_that_is_not_supported() {
    assert_snapshot!(with("llama.rope.scaling.type", Meta::Str("yarn")));
}

#[test]
fn another_architecture_reads_its_own_keys() {
    assert_snapshot!(refusal(&QWEN2.model().with("general.architecture", Meta::Str("llama"))));
}
