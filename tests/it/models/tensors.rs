//! Tensor sets that are not the model's: C13 the set, E4 the shapes.

use insta::assert_snapshot;
use oxwarp::gguf::GgmlType;

use super::build::{LLAMA, Meta, QWEN2};
use super::refusal;

#[test]
fn c13_missing() {
    assert_snapshot!(refusal(&LLAMA.model().without_tensor("blk.1.ffn_down.weight")));
    assert_snapshot!(refusal(&LLAMA.model().without_tensor("token_embd.weight")));
}

#[test]
fn c13_surplus() {
    let mut model = LLAMA.model();
    model.add("blk.0.attn_q_norm.weight", &[8], vec![1.0; 8]);
    assert_snapshot!(refusal(&model));
}

#[test]
fn c13_missing_and_surplus() {
    let mut model =
        LLAMA.model().without_tensor("blk.0.ffn_norm.weight").without_tensor("output_norm.weight");
    model.add("blk.0.post_attention_norm.weight", &[32], vec![1.0; 32]);
    assert_snapshot!(refusal(&model));
}

#[test]
fn c13_many_names_are_cut() {
    let mut model = LLAMA.model();
    model.tensors.retain(|tensor| !tensor.name.starts_with("blk.0."));
    assert_snapshot!(refusal(&model));
}

#[test]
fn c13_biases_belong_to_the_architecture() {
    assert_snapshot!(refusal(&QWEN2.model().without_tensor("blk.0.attn_k.bias")));
    let mut model = LLAMA.model();
    model.add("blk.0.attn_k.bias", &[16], vec![0.0; 16]);
    assert_snapshot!(refusal(&model));
}

#[test]
fn e4_dimensions_exchanged() {
    let mut model = LLAMA.model();
    model.tensor("blk.0.ffn_up.weight").dims.reverse();
    assert_snapshot!(refusal(&model));
}

#[test]
fn e4_rows_and_tokens_differ() {
    let tokens = (0..21).map(|token| format!("t{token}")).collect();
    assert_snapshot!(refusal(&LLAMA.model().with("tokenizer.ggml.tokens", Meta::Strs(tokens))));
    assert_snapshot!(refusal(&LLAMA.model().with("tokenizer.ggml.tokens", Meta::Strs(Vec::new()))));
}

#[test]
fn e4_sizes_and_metadata_differ() {
    assert_snapshot!(refusal(&LLAMA.model().with("llama.feed_forward_length", Meta::U32(40))));
    let heads = LLAMA.model().with("llama.attention.head_count", Meta::U32(2));
    assert_snapshot!(refusal(&heads));
}

#[test]
fn e4_vector_of_two_dimensions() {
    let mut model = LLAMA.model();
    model.tensor("output_norm.weight").dims = vec![32, 1];
    assert_snapshot!(refusal(&model));
}

#[test]
fn types_that_cannot_be() {
    let mut model = LLAMA.model();
    model.tensor("output_norm.weight").ty = GgmlType::Q8_0;
    assert_snapshot!(refusal(&model));
    let mut model = LLAMA.model();
    model.tensor("blk.1.attn_q.weight").ty = GgmlType::Q8_1;
    assert_snapshot!(refusal(&model));
    let mut model = LLAMA.model();
    model.tensor("token_embd.weight").ty = GgmlType::I32;
    assert_snapshot!(refusal(&model));
}
