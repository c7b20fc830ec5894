//! Whole models against results made outside this project: the file's exact arithmetic in f64
//! (`tests/fixtures/README.md`, section 2).
//!
//! The checks take any way of making a [`Runner`]; each back end calls them with its bounds. A check fails when a model
//! that the back end supports was left out, so that none is skipped in silence.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oxwarp::backend::cpu::{Cpu, CpuOptions, Isa};
use oxwarp::backend::{self, Backend};
use oxwarp::gguf::{GgmlType, Gguf, MappedFile};
use oxwarp::model::{Engine, EngineOptions, Error, Runner};
use oxwarp::sampler::{Sampler, SamplerOptions};
use serde::Deserialize;

/// How far logits may be from the exact ones.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub max: f64,
    pub rms: f64,
}

impl Bounds {
    /// f32 activations and f32 keys and values. The fixtures' table allows a maximum of 1e-3 and asks for 1e-4.
    pub const F32: Bounds = Bounds { max: 1e-4, rms: 3e-5 };
}

/// Makes a runner for a model file, with the options given.
pub type Factory<'a> = &'a dyn Fn(&Path, EngineOptions) -> Result<Box<dyn Runner>, Error>;

/// One file and what it must compute.
#[derive(Deserialize)]
pub struct Golden {
    file: String,
    architecture: String,
    n_vocab: usize,
    greedy: Greedy,
    forced: Forced,
}

#[derive(Deserialize)]
struct Greedy {
    prompt_tokens: Vec<u32>,
    tokens: Vec<u32>,
}

#[derive(Deserialize)]
struct Forced {
    tokens: Vec<u32>,
    logits: String,
}

#[derive(Deserialize)]
struct GoldenFile {
    models: Vec<Golden>,
    smollm2: DemoGolden,
}

#[derive(Deserialize)]
struct DemoGolden {
    bytes: u64,
    greedy: Vec<Greedy>,
    forced: DemoForced,
}

#[derive(Deserialize)]
struct DemoForced {
    tokens: Vec<u32>,
    logsumexp: Vec<f64>,
    top16_ids: Vec<Vec<usize>>,
    top16_logits: Vec<Vec<f64>>,
}

/// The folder of fixtures; the environment variable names it where this program runs elsewhere than it was built.
pub fn fixtures() -> PathBuf {
    match std::env::var_os("OXWARP_FIXTURES") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures"),
    }
}

fn goldens() -> GoldenFile {
    let text = std::fs::read(fixtures().join("golden/models.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// Architectures that there are adapters for.
const ARCHITECTURES: [&str; 2] = ["llama", "qwen2"];

/// Files of supported architectures.
fn supported() -> Vec<Golden> {
    let models =
        goldens().models.into_iter().filter(|model| ARCHITECTURES.contains(&model.architecture.as_str()));
    let models: Vec<Golden> = models.collect();
    assert_eq!(models.len(), 23, "supported fixture models");
    models
}

impl Golden {
    pub fn path(&self) -> PathBuf {
        fixtures().join(&self.file)
    }

    /// f32 little-endian, [position, vocabulary].
    fn logits(&self) -> Vec<f32> {
        let bytes = std::fs::read(fixtures().join(&self.forced.logits)).unwrap();
        bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }
}

/// The greatest and the root mean square of the differences, and where the greatest is.
struct Worst {
    max: f64,
    position: usize,
    token: usize,
    rms: f64,
}

fn compare(found: &[f32], expected: &[f32], n_vocab: usize) -> Worst {
    assert!(
        found.len() == expected.len() && !found.is_empty(),
        "{} of {} logits",
        found.len(),
        expected.len()
    );
    let mut worst = Worst { max: 0.0, position: 0, token: 0, rms: 0.0 };
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(*found) - f64::from(*expected)).abs();
        worst.rms += difference * difference;
        if difference.is_nan() || difference > worst.max {
            worst = Worst { max: difference, position: i / n_vocab, token: i % n_vocab, ..worst };
        }
    }
    worst.rms = (worst.rms / expected.len() as f64).sqrt();
    worst
}

/// Logits of each position of the forced tokens: those of tokens one by one lie within `bounds`, those of all at once within what `prompt_bounds` says of the file.
pub fn check_forced_prompts(factory: Factory<'_>, bounds: Bounds, prompt_bounds: impl Fn(&str) -> Bounds) {
    check_forced_models(factory, bounds, prompt_bounds, usize::MAX, supported());
}

/// As [`check_forced_prompts`], of some files, whose prompts have one bound.
pub fn check_forced_files(factory: Factory<'_>, bounds: Bounds, prompt_bounds: Bounds, names: &[&str]) {
    check_forced_models(factory, bounds, |_| prompt_bounds, usize::MAX, named(names));
}

/// The supported models of these names.
fn named(names: &[&str]) -> Vec<Golden> {
    let is_named = |model: &Golden| names.iter().any(|name| model.file == format!("models/{name}.gguf"));
    let models: Vec<Golden> = supported().into_iter().filter(is_named).collect();
    assert_eq!(models.len(), names.len(), "{names:?}");
    models
}

/// The same with one bound for all, for the first `n_tokens_max` positions.
pub fn check_forced_start(factory: Factory<'_>, bounds: Bounds, n_tokens_max: usize) {
    check_forced_models(factory, bounds, |_| bounds, n_tokens_max, supported());
}

fn check_forced_models(
    factory: Factory<'_>,
    bounds: Bounds,
    prompt_bounds: impl Fn(&str) -> Bounds,
    n_tokens_max: usize,
    models: Vec<Golden>,
) {
    let mut failures = Vec::new();
    for model in models {
        let mut runner = factory(&model.path(), EngineOptions::default()).unwrap();
        assert_eq!(runner.n_vocab(), model.n_vocab, "{}", model.file);
        let tokens = &model.forced.tokens;
        let tokens = &tokens[..tokens.len().min(n_tokens_max)];
        let expected = &model.logits()[..tokens.len() * model.n_vocab];
        let together = runner.forward_all(tokens).unwrap();
        runner.reset();
        let mut one_by_one = Vec::new();
        for token in tokens {
            one_by_one.extend_from_slice(runner.forward(&[*token]).unwrap());
        }
        let of_prompt = prompt_bounds(&model.file);
        for (how, found, bounds) in [("together", together, of_prompt), ("one by one", one_by_one, bounds)] {
            let worst = compare(&found, expected, model.n_vocab);
            let line = format!(
                "{}, {how}: max {:.2e} at position {}, token {}; rms {:.2e}",
                model.file, worst.max, worst.position, worst.token, worst.rms
            );
            println!("{line}");
            // Written so that NaN fails.
            if !(worst.max <= bounds.max && worst.rms <= bounds.rms) {
                failures.push(format!("{line}; allowed: {bounds:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The greedy tokens, chosen on the host from each step's logits and by the back end itself.
pub fn check_greedy(factory: Factory<'_>) {
    check_greedy_models(factory, supported());
}

/// As [`check_greedy`], of some files.
pub fn check_greedy_files(factory: Factory<'_>, names: &[&str]) {
    check_greedy_models(factory, named(names));
}

fn check_greedy_models(factory: Factory<'_>, models: Vec<Golden>) {
    for model in models {
        let mut runner = factory(&model.path(), EngineOptions::default()).unwrap();
        assert_eq!(model.greedy.tokens.len(), 32, "{}", model.file);
        check_greedy_run(&mut *runner, &model.greedy, &model.file);
    }
}

fn check_greedy_run(runner: &mut dyn Runner, golden: &Greedy, name: &str) {
    let n_tokens = golden.tokens.len();
    runner.reset();
    let mut tokens = vec![argmax(runner.forward(&golden.prompt_tokens).unwrap())];
    while tokens.len() < n_tokens {
        let last = *tokens.last().unwrap();
        tokens.push(argmax(runner.forward(&[last]).unwrap()));
    }
    assert_eq!(tokens, golden.tokens, "{name}, chosen on the host");

    runner.reset();
    let mut tokens = vec![argmax(runner.forward(&golden.prompt_tokens).unwrap())];
    let mut on_device = Vec::new();
    runner
        .decode_greedy(tokens[0], n_tokens - 1, &mut |token| {
            on_device.push(token);
            true
        })
        .unwrap();
    tokens.extend(on_device);
    assert_eq!(tokens, golden.tokens, "{name}, chosen by the back end");
}

/// The lowest id of the largest logits.
fn argmax(logits: &[f32]) -> u32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|logit| *logit == largest).unwrap() as u32
}

/// A type that there are no kernels for is refused by name, before anything is loaded.
pub fn check_unsupported(factory: Factory<'_>) {
    // Blocks of Q3_K and IQ3_S have the same size, so a file stays whole when one is taken for the other.
    const NAME: &[u8] = b"blk.1.attn_q.weight";
    let mut file = std::fs::read(fixtures().join("models/rnd-llama-k.Q3_K_M.gguf")).unwrap();
    let name = file.windows(NAME.len()).position(|window| window == NAME).unwrap();
    // After the name: the number of dimensions (4 bytes), two dimensions (16) and the type.
    let ty = &mut file[name + NAME.len() + 20..][..4];
    assert_eq!(ty, GgmlType::Q3_K.id().to_le_bytes());
    ty.copy_from_slice(&GgmlType::IQ3_S.id().to_le_bytes());
    let mut changed = tempfile::NamedTempFile::new().unwrap();
    changed.write_all(&file).unwrap();
    let error = factory(changed.path(), EngineOptions::default()).err().expect("refused");
    let Error::Backend(backend::Error::UnsupportedType { tensor, ty, .. }) = &error else {
        panic!("{error}");
    };
    assert_eq!((tensor.as_bytes(), *ty), (NAME, "IQ3_S"));
}

/// The demo model, where `cargo xtask setup` has put it.
pub fn demo_model() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let path = cache.join("oxwarp/SmolLM2-135M-Instruct.Q4_1.gguf");
    path.is_file().then_some(path)
}

/// Tokens drawn by the back end are those that the host's sampler draws from the same logits.
pub fn check_sampled(factory: Factory<'_>) {
    const N_TOKENS: usize = 24;
    let mut runner =
        factory(&fixtures().join("models/stories260K.Q8_0.gguf"), EngineOptions::default()).unwrap();
    let prompt = [1, 403, 407, 261, 378];
    let seeded = SamplerOptions { seed: Some(11), temperature: 1.2, ..Default::default() };
    for options in [
        seeded.clone(),
        SamplerOptions { top_k: 0, min_p: 0.0, repeat_penalty: 1.2, repeat_last_n: 8, ..seeded.clone() },
        SamplerOptions { top_k: 100, top_p: 1.0, min_p: 0.0, ..seeded },
        SamplerOptions { repeat_penalty: 1.5, ..SamplerOptions::greedy() },
        SamplerOptions { frequency_penalty: 0.7, presence_penalty: 0.4, ..SamplerOptions::greedy() },
    ] {
        let mut sampler = Sampler::new(options.clone()).unwrap();
        runner.reset();
        let first = sampler.sample(runner.forward(&prompt).unwrap(), &prompt).unwrap();
        let after_first = sampler.clone();
        let mut expected = [&prompt[..], &[first]].concat();
        for _ in 0..N_TOKENS {
            let logits = runner.forward(&expected[expected.len() - 1..]).unwrap();
            expected.push(sampler.sample(logits, &expected).unwrap());
        }

        runner.reset();
        runner.forward(&prompt).unwrap();
        let mut tokens = [&prompt[..], &[first]].concat();
        let mut push = |token| {
            tokens.push(token);
            true
        };
        runner.decode_sampled(&after_first, &prompt, first, N_TOKENS, &mut push).unwrap();
        assert_eq!(tokens, expected, "{options:?}");
    }
}

/// The demo model's greedy runs, its sixteen largest logits and the logarithm of all exponentials' sum.
pub fn check_demo(factory: Factory<'_>, bounds: Bounds) {
    let Some(path) = demo_model() else {
        println!("the demo model is not in the cache: nothing checked");
        return;
    };
    let golden = goldens().smollm2;
    assert_eq!(std::fs::metadata(&path).unwrap().len(), golden.bytes, "bytes of the demo model");
    let mut runner = factory(&path, EngineOptions::default()).unwrap();
    assert_eq!(golden.greedy.len(), 4, "greedy runs");
    for (run, greedy) in golden.greedy.iter().enumerate() {
        check_greedy_run(&mut *runner, greedy, &format!("run {run} of the demo model"));
    }

    runner.reset();
    let forced = golden.forced;
    let mut differences = Vec::new();
    let mut check_row = |position: usize, logits: &[f32]| {
        let top = forced.top16_ids[position].iter().zip(&forced.top16_logits[position]);
        differences.extend(top.map(|(id, expected)| f64::from(logits[*id]) - expected));
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        differences.push(sum.ln() - forced.logsumexp[position]);
    };
    runner.forward_each(&forced.tokens, &mut check_row).unwrap();
    assert_eq!(differences.len(), 40 * 17);
    let max = differences.iter().fold(0.0, |max, difference| f64::max(max, difference.abs()));
    let rms = (differences.iter().map(|d| d * d).sum::<f64>() / differences.len() as f64).sqrt();
    println!("demo model: max {max:.2e}, rms {rms:.2e}");
    // The golden numbers are rounded to five places.
    assert!(
        max <= bounds.max + 5e-6 && rms <= bounds.rms + 5e-6,
        "max {max:.2e}, rms {rms:.2e}: not {bounds:?}"
    );
}

/// Loads `path` on back end `b`.
pub fn load<B: Backend + 'static>(
    b: B,
    path: &Path,
    options: EngineOptions,
) -> Result<Box<dyn Runner>, Error> {
    let file = Arc::new(MappedFile::open(path).unwrap());
    let gguf = Gguf::parse(file.bytes())?;
    Ok(Box::new(Engine::load(b, Arc::clone(&file), &gguf, options, &mut |_| ())?))
}

fn on_cpu(path: &Path, options: EngineOptions) -> Result<Box<dyn Runner>, Error> {
    load(Cpu::new(CpuOptions::default())?, path, options)
}

#[test]
fn forced_logits_on_the_cpu_with_each_instruction_set() {
    for isa in Isa::all() {
        println!("{}", isa.name());
        let with_isa = |path: &Path, options: EngineOptions| {
            load(Cpu::new(CpuOptions { isa: Some(isa), ..CpuOptions::default() })?, path, options)
        };
        check_forced_start(&with_isa, Bounds::F32, usize::MAX);
    }
}

#[test]
fn sampled_tokens_on_the_cpu() {
    check_sampled(&on_cpu);
}

#[test]
fn greedy_tokens_on_the_cpu() {
    check_greedy(&on_cpu);
}

#[test]
fn unsupported_types_are_refused_on_the_cpu() {
    check_unsupported(&on_cpu);
}

#[test]
fn demo_model_on_the_cpu() {
    check_demo(&on_cpu, Bounds::F32);
}
