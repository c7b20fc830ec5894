//! Whole models through the GPU's kernels on the emulator.

use std::path::Path;
use std::sync::Arc;

use kernels_gpu::simt::emulator::Emulator;
use oxwarp::backend::gpu::{Gpu, GpuOptions};
use oxwarp::gguf::{Gguf, MappedFile};
use oxwarp::model::{Engine, EngineOptions, Error, LoadProgress, Runner};

use testkit::data::Rng;

use crate::golden::{self, Bounds, Factory};

/// f32 activations, f16 keys and values: the fixtures' own table of tolerances.
pub const BOUNDS: Bounds = Bounds { max: 0.03, rms: 0.006 };

/// Where products of many vectors take weights and activations in f16: the table's bounds for f16 activations.
const F16_BOUNDS: Bounds = Bounds { max: 0.04, rms: 0.008 };

/// The same with quantised weights. The table's bounds are for weights and activations that are rounded once; here the scales of
/// blocks of 256 are rounded, too, as much again. Independent errors add up as squares do: √(3 / 2) times those bounds.
pub const PROMPT_BOUNDS: Bounds = Bounds { max: 0.05, rms: 0.01 };

/// The bounds of a fixture's prompts where only products round to f16, and not those with weights in f32.
pub fn prompt_bounds(file: &str) -> Bounds {
    let has = |format: &str| file.ends_with(&format!(".{format}.gguf"));
    match file {
        _ if has("F32") => BOUNDS,
        _ if has("F16") || has("BF16") => F16_BOUNDS,
        _ => PROMPT_BOUNDS,
    }
}

/// How much more SmolLM2 makes of roundings than the fixtures' small models: with keys and values in f16 llama.cpp's logits are off by
/// 0.006 there, and by 0.0035 here (root mean squares of the fixtures' table).
const DEMO_SENSITIVITY: f64 = 0.006 / 0.0035;
/// The table's bounds for f16 activations, for SmolLM2; its weights are Q4_1, whose scales are halves and not rounded again.
pub const DEMO_PROMPT_BOUNDS: Bounds =
    Bounds { max: F16_BOUNDS.max * DEMO_SENSITIVITY, rms: F16_BOUNDS.rms * DEMO_SENSITIVITY };

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

/// Prompts through the kernels for Hopper.
fn on_emulated_hopper(path: &Path, options: EngineOptions) -> Result<Box<dyn Runner>, Error> {
    let options_of_gpu = GpuOptions::default().with_hopper_kernels(true);
    golden::load(Gpu::new(Emulator::fast(), options_of_gpu)?, path, options)
}

#[test]
fn prompts_on_hopper() {
    let files = ["rnd-llama-k.Q4_K_M", "rnd-qwen2.Q8_0", "rnd-llama.IQ4_NL"];
    golden::check_forced_files(&on_emulated_hopper, BOUNDS, PROMPT_BOUNDS, &files);
    golden::check_greedy_files(&on_emulated_hopper, &["rnd-llama-k.Q6_K", "rnd-llama.Q5_1"]);
}

#[test]
fn a_step_after_a_prompt_on_hopper() {
    check_steps_after_prompts(
        &on_emulated_hopper,
        "models/rnd-llama-k.Q4_K_M.gguf",
        &LENGTHS[3..6],
        PROMPT_CACHE_BOUND,
    );
}

#[test]
fn first_tokens_of_every_model_with_every_access_checked() {
    // Ten at once take the kernels for many tokens, one by one those for few.
    golden::check_forced_start(&on_checked_emulator, BOUNDS, 10);
}

#[test]
fn forced_logits() {
    golden::check_forced_prompts(&on_emulator, BOUNDS, prompt_bounds);
}

#[test]
fn greedy_tokens() {
    golden::check_greedy(&on_emulator);
}

#[test]
fn sampled_tokens() {
    golden::check_sampled(&on_checked_emulator);
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

/// Loads a copy of a fixture, does something to the copy when the first tensor is on its way, and returns what loading
/// says.
fn load_while(disturb: impl Fn(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::copy(golden::fixtures().join("models/rnd-llama.Q8_0.gguf"), &path).unwrap();
    let file = Arc::new(MappedFile::open(&path).unwrap());
    let gguf = Gguf::parse(file.bytes()).unwrap();
    let gpu = Gpu::new(Emulator::fast(), GpuOptions::default()).unwrap();
    let mut n_calls = 0;
    let mut progress = |_: LoadProgress| {
        n_calls += 1;
        if n_calls == 2 {
            disturb(&path);
        }
    };
    let loaded = Engine::load(gpu, Arc::clone(&file), &gguf, EngineOptions::default(), &mut progress);
    let message = loaded.err().expect("refused").to_string();
    message.replace(&path.display().to_string(), "PATH")
}

#[test]
fn d2_a_file_replaced_while_it_is_loaded_is_refused() {
    let message = load_while(|path| {
        let other = path.with_extension("new");
        std::fs::copy(path, &other).unwrap();
        std::fs::rename(&other, path).unwrap();
    });
    assert!(
        message.contains("PATH: the file was changed while it was in use: device and inode"),
        "{message}"
    );
}

#[test]
fn d2_a_file_rewritten_while_it_is_loaded_is_refused() {
    let message = load_while(|path| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    });
    let expected = "PATH: the file was changed while it was in use: the modification time was";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn d1_a_file_shortened_while_it_is_loaded_is_an_error_and_no_signal() {
    let message = load_while(|path| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        let n_bytes = file.metadata().unwrap().len();
        file.set_len(n_bytes - 1).unwrap();
    });
    // Whichever notices first: the read of the last tensor, or the look at the file afterwards.
    let noticed = ["it has been shortened since it was opened", "the size was"];
    assert!(noticed.iter().any(|words| message.contains(words)), "{message}");
}

/// Lengths at which something begins or ends: a warp, a tile of 32 queries or 64 rows, a part of the keys, a batch.
pub const LENGTHS: [usize; 9] = [1, 2, 31, 32, 33, 127, 128, 129, 1000];

/// How far logits of the same tokens may be apart when keys and values are rounded alike and only the order of f32 sums
/// differs: what the fixtures' table allows an engine that computes in f32.
const ORDER_BOUND: f64 = 1e-3;
/// The same where the prompt's last token goes through products in f16 and the step does not: each is that far from the exact
/// logits.
pub const PROMPT_CACHE_BOUND: f64 = BOUNDS.max + PROMPT_BOUNDS.max;

/// A prompt of n tokens and a step give the logits of a prompt of n + 1 tokens; with quantised weights up to `cache_bound`.
pub fn check_steps_after_prompts(factory: Factory<'_>, file: &str, lengths: &[usize], cache_bound: f64) {
    let n_ctx = lengths.iter().max().map(|n| n + 1);
    let options = EngineOptions { n_ctx, allow_longer_context: true, ..EngineOptions::default() };
    let mut runner = factory(&golden::fixtures().join(file), options).unwrap();
    let bound = if file.ends_with("F32.gguf") { ORDER_BOUND } else { cache_bound };
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
        assert!(finite && max <= bound, "{file}, {n} tokens and one: {max:.2e} apart, finite: {finite}");
    }
}

#[test]
fn a_step_after_a_prompt_gives_what_a_longer_prompt_gives() {
    check_steps_after_prompts(&on_emulator, "models/stories260K.F32.gguf", &LENGTHS, PROMPT_CACHE_BOUND);
    check_steps_after_prompts(
        &on_emulator,
        "models/rnd-qwen2.Q4_K_M.gguf",
        &LENGTHS[..8],
        PROMPT_CACHE_BOUND,
    );
}

#[test]
fn unsupported_types_are_refused() {
    golden::check_unsupported(&on_emulator);
}
