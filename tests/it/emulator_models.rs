//! Whole models through the GPU's kernels on the emulator.

use std::path::Path;

use kernels_gpu::simt::emulator::Emulator;
use oxwarp::backend::gpu::{Gpu, GpuOptions};
use oxwarp::model::{EngineOptions, Error, Runner};

use testkit::data::Rng;

use crate::golden::{self, Bounds, Factory};

/// f32 activations, f16 keys and values: the fixtures' own table of tolerances.
pub const BOUNDS: Bounds = Bounds { max: 0.03, rms: 0.006 };

fn on_checked_emulator(path: &Path, options: EngineOptions) -> Result<Box<dyn Runner>, Error> {
    golden::load(Gpu::new(Emulator::checked(), GpuOptions::default())?, path, options)
}

fn on_emulator(path: &Path, options: EngineOptions) -> Result<Box<dyn Runner>, Error> {
    golden::load(Gpu::new(Emulator::fast(), GpuOptions::default())?, path, options)
}

/// Matrices in several chunks each, so that repacking starts in their middle.
fn on_emulator_in_small_chunks(path: &Path, options: EngineOptions) -> Result<Box<dyn Runner>, Error> {
    let small = GpuOptions::with_chunk_bytes(GpuOptions::MIN_CHUNK_BYTES).unwrap();
    golden::load(Gpu::new(Emulator::fast(), small)?, path, options)
}

#[test]
fn first_tokens_of_every_model_with_every_access_checked() {
    // Ten at once take the kernels for many tokens, one by one those for few.
    golden::check_forced_start(&on_checked_emulator, BOUNDS, 10);
}

#[test]
fn forced_logits() {
    golden::check_forced(&on_emulator, BOUNDS);
}

#[test]
fn greedy_tokens() {
    golden::check_greedy(&on_emulator);
}

#[test]
fn chunk_sizes_have_limits() {
    for found in [0, GpuOptions::MIN_CHUNK_BYTES - 1, GpuOptions::MAX_CHUNK_BYTES + 1] {
        let message = GpuOptions::with_chunk_bytes(found).expect_err("outside of the limits").to_string();
        assert_eq!(message, format!("chunks of {found} bytes are not possible; allowed: 32768 to 67108864"));
    }
}

#[test]
fn uploads_in_small_chunks_give_the_same() {
    golden::check_forced_start(&on_emulator_in_small_chunks, BOUNDS, 1);
}

/// Lengths at which something begins or ends: a warp, a tile of 32 queries or 64 rows, a part of the keys, a batch.
pub const LENGTHS: [usize; 9] = [1, 2, 31, 32, 33, 127, 128, 129, 1000];

/// How far logits of the same tokens may be apart when keys and values are rounded alike and only the order of f32 sums
/// differs: what the fixtures' table allows an engine that computes in f32.
const ORDER_BOUND: f64 = 1e-3;

/// A prompt of n tokens and a step give the logits of a prompt of n + 1 tokens.
pub fn check_steps_after_prompts(factory: Factory<'_>, file: &str, lengths: &[usize]) {
    let n_ctx = lengths.iter().max().map(|n| n + 1);
    let options = EngineOptions { n_ctx, allow_longer_context: true, ..EngineOptions::default() };
    let mut runner = factory(&golden::fixtures().join(file), options).unwrap();
    let tokens = Rng::new(5).tokens(n_ctx.unwrap(), runner.n_vocab());
    for &n in lengths {
        runner.reset();
        runner.forward(&tokens[..n]).unwrap();
        let stepped = runner.forward(&tokens[n..=n]).unwrap().to_vec();
        runner.reset();
        let at_once = runner.forward(&tokens[..=n]).unwrap();
        let max = stepped.iter().zip(at_once).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        println!("{file}, {n} tokens and one: max {max:.2e}");
        let finite = at_once.iter().all(|logit| logit.is_finite());
        assert!(
            finite && max <= ORDER_BOUND,
            "{file}, {n} tokens and one: {max:.2e} apart, finite: {finite}"
        );
    }
}

#[test]
fn a_step_after_a_prompt_gives_what_a_longer_prompt_gives() {
    check_steps_after_prompts(&on_emulator, "models/stories260K.F32.gguf", &LENGTHS);
    check_steps_after_prompts(&on_emulator, "models/rnd-qwen2.Q4_K_M.gguf", &LENGTHS[..8]);
}

#[test]
fn unsupported_types_are_refused() {
    golden::check_unsupported(&on_emulator);
}
