//! Requests to a loaded model: what is refused, what is remembered, and that how a prompt is cut does not matter.

use std::path::Path;

use insta::assert_snapshot;
use oxwarp::backend::cpu::{Cpu, CpuOptions, Isa};
use oxwarp::model::{EngineOptions, Error, Runner};
use oxwarp::sampler::{Sampler, SamplerOptions};

use super::build::{LLAMA, ModelFile};
use super::{load, load_with};
use crate::golden::{self, Factory};

fn llama() -> Box<dyn Runner> {
    load(&LLAMA.model(), EngineOptions::default()).unwrap()
}

/// Bits, so that NaN and the zeros are told apart.
fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn bad_requests_are_refused_and_change_nothing() {
    let mut runner = llama();
    runner.forward(&[1, 2, 3]).unwrap();
    let messages: Vec<String> = [&[][..], &[1, 20], &[0; 62]]
        .iter()
        .map(|tokens| {
            let message = runner.forward(tokens).err().unwrap().to_string();
            assert_eq!(runner.forward_all(tokens).err().unwrap().to_string(), message);
            assert_eq!(runner.n_past(), 3);
            message
        })
        .collect();
    assert_snapshot!(messages.join("\n"));
    let after = bits(runner.forward(&[4]).unwrap());
    assert_eq!(after, bits(llama().forward(&[1, 2, 3, 4]).unwrap()));
}

#[test]
fn the_context_can_be_filled_to_the_last_position() {
    let mut runner = llama();
    runner.forward(&[5; 63]).unwrap();
    runner.forward(&[5]).unwrap();
    assert_eq!(runner.n_past(), 64);
    assert!(matches!(runner.forward(&[5]), Err(Error::ContextFull { n_tokens: 1, n_past: 64, n_ctx: 64 })));
}

#[test]
fn truncate_and_reset_forget() {
    let fresh = bits(llama().forward(&[7, 8, 9, 10]).unwrap());
    let mut runner = llama();
    runner.forward(&[7, 8, 1, 2, 3, 4, 5]).unwrap();
    runner.truncate(2);
    assert_eq!(runner.n_past(), 2);
    assert_eq!(bits(runner.forward(&[9, 10]).unwrap()), fresh);
    runner.reset();
    assert_eq!(runner.n_past(), 0);
    assert_eq!(bits(runner.forward(&[7, 8, 9, 10]).unwrap()), fresh);
}

/// A llama in which one token's embedding is `value`.
fn poisoned(value: f32) -> ModelFile {
    let mut model = LLAMA.model();
    model.tensor("token_embd.weight").values[3 * 32..4 * 32].fill(value);
    model
}

#[test]
fn h2_logits_that_are_no_numbers_fail_the_request_only() {
    let mut runner = load(&poisoned(f32::NAN), EngineOptions::default()).unwrap();
    let expected = bits(runner.forward(&[1, 2]).unwrap());
    runner.reset();

    let error = runner.forward(&[1, 3]).err().unwrap();
    assert_snapshot!(error.to_string());
    assert_eq!(runner.n_past(), 0);
    assert!(matches!(runner.forward_all(&[1, 3]), Err(Error::BadLogits { position: 1, .. })));
    assert!(matches!(runner.decode_greedy(3, 4, &mut |_| true), Err(Error::BadLogits { position: 0, .. })));
    let sampler = Sampler::new(SamplerOptions::default()).unwrap();
    let sampled = runner.decode_sampled(&sampler, &[], 3, 4, &mut |_| true);
    assert!(matches!(sampled, Err(Error::BadLogits { position: 0, .. })));
    assert_eq!(runner.n_past(), 0);

    assert_eq!(bits(runner.forward(&[1, 2]).unwrap()), expected);
}

#[test]
fn h3_overflow_is_found() {
    // gate · up beyond the largest f32: infinite activations, and from them sums that are no numbers.
    let mut model = LLAMA.model();
    model.tensor("blk.0.ffn_up.weight").values.fill(f32::MAX);
    let mut runner = load(&model, EngineOptions::default()).unwrap();
    assert!(matches!(runner.forward(&[3]), Err(Error::BadLogits { position: 0, .. })));
}

#[test]
fn h2_infinite_logits_are_refused() {
    let messages = [1.0, -1.0].map(|sign| {
        // Every logit is infinity times the first activation.
        let mut model = LLAMA.model();
        model.tensor("output.weight").values.fill(0.0);
        model.tensor("output.weight").values.iter_mut().step_by(32).for_each(|first| *first = f32::INFINITY);
        model.tensor("output_norm.weight").values[0] = sign;
        load(&model, EngineOptions::default()).unwrap().forward(&[1]).err().unwrap().to_string()
    });
    assert_snapshot!(messages.join("\n"));
}

#[test]
fn greedy_stops_when_told_and_forgets_what_was_not_taken() {
    let mut runner = llama();
    let mut tokens = Vec::new();
    runner
        .decode_greedy(1, 10, &mut |token| {
            tokens.push(token);
            tokens.len() < 4
        })
        .unwrap();
    assert_eq!((tokens.len(), runner.n_past()), (4, 4));
    // The last token chosen is not part of the context yet.
    let expected = bits(runner.forward(&[tokens[3]]).unwrap());
    let all = [1, tokens[0], tokens[1], tokens[2], tokens[3]];
    assert_eq!(bits(llama().forward(&all).unwrap()), expected);
}

#[test]
fn greedy_ends_with_the_context() {
    let mut runner = llama();
    let mut n_tokens = 0;
    let error = runner.decode_greedy(1, 100, &mut |_| {
        n_tokens += 1;
        true
    });
    assert_eq!((n_tokens, runner.n_past()), (64, 64));
    assert!(matches!(error, Err(Error::ContextFull { .. })));
}

/// prefill(n) and decode(1) against prefill(n + 1), on a model of 512 positions stretched to 1024; the greatest
/// difference of a logit must be within `bound`. Batches of 128 cut the longest prompts.
pub fn check_prefill_then_decode(factory: Factory<'_>, bound: f32) {
    let options = EngineOptions { n_ctx: Some(1024), allow_longer_context: true, n_batch: Some(128) };
    let path = golden::fixtures().join("models/stories260K.Q8_0.gguf");
    let mut runner = factory(&path, options).unwrap();
    let tokens = testkit::data::Rng::new(1).tokens(1001, runner.n_vocab());
    for n in [1, 2, 31, 32, 33, 127, 128, 129, 1000] {
        runner.reset();
        let together = runner.forward(&tokens[..n + 1]).unwrap().to_vec();
        runner.reset();
        runner.forward(&tokens[..n]).unwrap();
        let decoded = runner.forward(&tokens[n..n + 1]).unwrap();
        let differences = together.iter().zip(decoded).map(|(a, b)| (a - b).abs());
        let largest = differences.fold(0.0, f32::max);
        println!("after {n}: {largest:.2e}");
        assert!(largest <= bound, "after {n} tokens a logit differs by {largest:e}, more than {bound:e}");
    }
}

fn on_cpu(options: CpuOptions) -> impl Fn(&Path, EngineOptions) -> Result<Box<dyn Runner>, Error> {
    move |path, engine| golden::load(Cpu::new(options)?, path, engine)
}

#[test]
fn prefill_then_decode_is_the_same_bit_for_bit_on_the_cpu() {
    check_prefill_then_decode(&on_cpu(CpuOptions::default()), 0.0);
}

#[test]
fn neither_threads_nor_batches_change_a_bit_on_the_cpu() {
    let path = golden::fixtures().join("models/rnd-qwen2.Q4_K_M.gguf");
    let logits = |n_threads, n_batch| {
        let cpu = CpuOptions { n_threads: Some(n_threads), ..CpuOptions::default() };
        let mut runner =
            on_cpu(cpu)(&path, EngineOptions { n_batch: Some(n_batch), ..EngineOptions::default() }).unwrap();
        let tokens = testkit::data::Rng::new(2).tokens(50, runner.n_vocab());
        bits(&runner.forward_all(&tokens).unwrap())
    };
    let expected = logits(1, 1);
    for (n_threads, n_batch) in [(1, 512), (2, 7), (3, 16), (8, 50)] {
        assert!(logits(n_threads, n_batch) == expected, "{n_threads} threads, batches of {n_batch}");
    }
}

#[test]
fn wide_and_narrow_lanes_give_the_same_bits() {
    let fused: Vec<Isa> = Isa::all().into_iter().filter(|isa| *isa != Isa::Portable).collect();
    let model = LLAMA.model();
    let logits = fused.iter().map(|isa| {
        let cpu = CpuOptions { isa: Some(*isa), ..CpuOptions::default() };
        bits(
            &load_with(cpu, &model, EngineOptions::default()).unwrap().forward_all(&[1, 2, 3, 4, 5]).unwrap(),
        )
    });
    let logits: Vec<Vec<u32>> = logits.collect();
    assert!(logits.windows(2).all(|pair| pair[0] == pair[1]), "{fused:?}");
}
