//! Whole models on a GPU, with the checks that the emulator's runs pass; nothing is checked without one.

use std::path::Path;
use std::sync::Arc;

use oxwarp::backend::gpu::{Accelerator, Gpu, GpuOptions};
use oxwarp::backend::{self, Memory};
use oxwarp::cuda::VramUse;
use oxwarp::gguf::{Gguf, MappedFile};
use oxwarp::model::{Engine, EngineOptions, Error, Runner};

use crate::cuda::{gpu, open};
use crate::emulator_models::{
    BOUNDS, DEMO_PROMPT_BOUNDS, LENGTHS, PROMPT_BOUNDS, PROMPT_CACHE_BOUND, check_steps_after_prompts,
    prompt_bounds,
};
use crate::golden;

fn on_gpu(path: &Path, options: EngineOptions) -> Result<Box<dyn Runner>, Error> {
    let device = gpu().expect("the caller has looked");
    golden::load(Gpu::new(device, GpuOptions::default())?, path, options)
}

#[test]
fn forced_logits() {
    let Some(gpu) = gpu() else { return };
    // On Hopper attention of prompts rounds to f16, too.
    let is_hopper = gpu.is_hopper();
    golden::check_forced_prompts(&on_gpu, BOUNDS, |file| {
        if is_hopper { PROMPT_BOUNDS } else { prompt_bounds(file) }
    });
}

/// On Hopper, too.
fn on_gpu_without_hopper_kernels(path: &Path, options: EngineOptions) -> Result<Box<dyn Runner>, Error> {
    let device = gpu().expect("the caller has looked");
    golden::load(Gpu::new(device, GpuOptions::default().with_hopper_kernels(false))?, path, options)
}

#[test]
fn kernels_for_every_gpu() {
    let Some(_) = gpu() else { return };
    golden::check_forced_prompts(&on_gpu_without_hopper_kernels, BOUNDS, prompt_bounds);
    golden::check_greedy(&on_gpu_without_hopper_kernels);
    golden::check_demo(&on_gpu_without_hopper_kernels, DEMO_PROMPT_BOUNDS);
}

#[test]
fn greedy_tokens() {
    let Some(_) = gpu() else { return };
    golden::check_greedy(&on_gpu);
}

#[test]
fn sampled_tokens() {
    let Some(_) = gpu() else { return };
    golden::check_sampled(&on_gpu);
}

#[test]
fn demo_model() {
    let Some(_) = gpu() else { return };
    golden::check_demo(&on_gpu, DEMO_PROMPT_BOUNDS);
}

#[test]
fn a_step_after_a_prompt_gives_what_a_longer_prompt_gives() {
    let Some(_) = gpu() else { return };
    let bound = PROMPT_CACHE_BOUND;
    check_steps_after_prompts(&on_gpu, "models/stories260K.F32.gguf", &LENGTHS, bound);
    for file in ["rnd-llama.Q8_0", "rnd-llama-k.Q4_K_M", "rnd-llama-tied.F32", "rnd-qwen2.Q4_K_M"] {
        check_steps_after_prompts(&on_gpu, &format!("models/{file}.gguf"), &LENGTHS, bound);
    }
}

#[test]
fn unsupported_types_are_refused() {
    let Some(_) = gpu() else { return };
    golden::check_unsupported(&on_gpu);
}

#[test]
fn the_same_input_gives_the_same_bits() {
    let Some(_) = gpu() else { return };
    let path = golden::fixtures().join("models/rnd-llama-k.Q4_K_M.gguf");
    let mut runner = on_gpu(&path, EngineOptions::default()).unwrap();
    let tokens: Vec<u32> = (0..100).map(|i| i * 3).collect();
    let mut run = || {
        runner.reset();
        let prompt = runner.forward(&tokens).unwrap().to_vec();
        // Launched one by one, captured and replayed.
        let steps = (0..4).flat_map(|token| runner.forward(&[token]).unwrap().to_vec());
        prompt.into_iter().chain(steps.collect::<Vec<_>>()).map(f32::to_bits).collect::<Vec<_>>()
    };
    let first = run();
    for repetition in 1..5 {
        assert!(run() == first, "repetition {repetition} differs");
    }
}

#[test]
fn a_cache_that_does_not_fit_is_refused_before_anything_is_loaded() {
    let Some(_) = gpu() else { return };
    let path = golden::fixtures().join("models/rnd-llama.Q8_0.gguf");
    let n_ctx = 1 << 30;
    let options =
        EngineOptions { n_ctx: Some(n_ctx), allow_longer_context: true, ..EngineOptions::default() };
    let error = on_gpu(&path, options).err().expect("256 GiB a layer");
    let Error::Backend(backend::Error::DoesNotFit { need, available, .. }) = &error else {
        panic!("{error}");
    };
    // Two layers of keys and values of 2 heads of 32 halves.
    assert_eq!(need.kv_cache, 2 * 2 * n_ctx as u64 * 2 * 32 * 2);
    assert!(need.total() > *available && *available > 0, "{need:?} of {available}");
    let message = error.to_string();
    let numbers = [need.total(), need.weights, need.kv_cache, need.activations, *available];
    assert!(numbers.iter().all(|number| message.contains(&number.to_string())), "{message}");
}

#[test]
fn memory_in_use_is_what_was_predicted() {
    let Some(device) = open() else { return };
    let file = Arc::new(MappedFile::open(golden::fixtures().join("models/rnd-llama.Q8_0.gguf")).unwrap());
    let gguf = Gguf::parse(file.bytes()).unwrap();
    let gpu = Gpu::new(device, GpuOptions::default()).unwrap();
    let options = EngineOptions { n_ctx: Some(200), ..EngineOptions::default() };
    let engine = Engine::load(gpu, Arc::clone(&file), &gguf, options, &mut |_| ()).unwrap();
    let Memory { weights, kv_cache, activations } = engine.memory();
    let VramUse { weights: vram_weights, kv_cache: vram_kv, activations: vram_activations, other } =
        engine.backend().device().vram_use();
    assert_eq!((weights, kv_cache, activations), (vram_weights, vram_kv, vram_activations));
    // Two layers of keys and values for 200 positions of 2 heads of 32 halves.
    assert_eq!(kv_cache, 2 * 2 * 200 * 2 * 32 * 2);
    assert!(weights >= file.size() * 9 / 10, "{weights} bytes of weights of a file of {}", file.size());
    // Tokens, positions and the choice; what uploads took for themselves is given back.
    assert!(other < 1 << 16, "{other} bytes of other uses");
}
