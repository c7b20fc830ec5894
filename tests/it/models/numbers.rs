//! Logits of small models against the same models in f64, put together here from the reference's ops: for what the
//! fixture models do not have (partial rotation, its scalings, odd widths, heads of their own size).

use half::{bf16, f16};
use kernels_gpu::quant::{IQ4_XS, MXFP4, Q8_0};
use kernels_gpu::simt::emulator::Emulator;
use oxwarp::backend::gpu::{Gpu, GpuOptions};
use oxwarp::gguf::GgmlType;
use oxwarp::model::rope::Llama3Scaling;
use oxwarp::model::{EngineOptions, Runner};
use testkit::data::RandomBlock;
use testkit::reference::{self, Attention, RopePairs};

use super::build::{LLAMA, Meta, ModelFile, QWEN2, Shape};
use super::load;
use crate::emulator_models::{BOUNDS, PROMPT_BOUNDS};
use crate::golden;

/// How positions turn, said independently of the metadata.
#[derive(Clone)]
struct Rotation {
    dim: usize,
    base: f64,
    /// What each pair's frequency is divided by.
    divisors: Vec<f64>,
    pairs: RopePairs,
}

impl Rotation {
    fn plain(shape: Shape, pairs: RopePairs) -> Self {
        Rotation { dim: shape.head_dim, base: 100.0, divisors: vec![1.0; shape.head_dim / 2], pairs }
    }

    /// [n_ctx, dim / 2, 2].
    fn table(&self, n_ctx: usize) -> Vec<f64> {
        let mut table = Vec::new();
        for position in 0..n_ctx {
            for (pair, divisor) in self.divisors.iter().enumerate() {
                let frequency = self.base.powf(-((2 * pair) as f64) / self.dim as f64) / divisor;
                table.extend([(position as f64 * frequency).cos(), (position as f64 * frequency).sin()]);
            }
        }
        table
    }
}

/// The values of tensor `name` as the file holds them; none if it has no such tensor.
fn values(model: &ModelFile, name: &str) -> Option<Vec<f64>> {
    let tensor = model.tensors.iter().find(|tensor| tensor.name == name)?;
    let rounded = |value: &f32| match tensor.ty {
        GgmlType::F16 => f16::from_f32(*value).to_f64(),
        GgmlType::BF16 => bf16::from_f32(*value).to_f64(),
        _ => f64::from(*value),
    };
    Some(tensor.values.iter().map(rounded).collect())
}

/// y = w x + bias for each row of x.
fn linear(model: &ModelFile, stem: &str, x: &[f64], n_cols: usize) -> Vec<f64> {
    let w = values(model, &format!("{stem}.weight")).unwrap();
    let mut y = vec![0.0; x.len() / n_cols * (w.len() / n_cols)];
    reference::linear(&mut y, &w, x, n_cols);
    if let Some(bias) = values(model, &format!("{stem}.bias")) {
        reference::bias_add(&mut y, &bias);
    }
    y
}

/// Logits in f64, [n_tokens, n_vocab].
fn exact_logits(model: &ModelFile, shape: Shape, rotation: &Rotation, tokens: &[u32]) -> Vec<f64> {
    let Shape { n_embd, n_ff, n_heads, n_kv_heads, head_dim, .. } = shape;
    let n_tokens = tokens.len();
    let positions: Vec<u32> = (0..n_tokens as u32).collect();
    let table = rotation.table(n_tokens);
    let norm = |x: &[f64], name: &str| {
        let mut y = vec![0.0; x.len()];
        reference::rmsnorm(&mut y, x, &values(model, name).unwrap(), f64::from(1e-5f32));
        y
    };
    let rotate = |x: &mut [f64], n_heads: usize| {
        reference::rope(x, &table, &positions, n_heads, head_dim, rotation.dim, rotation.pairs);
    };
    // [n_tokens, n_kv_heads, head_dim] to [n_kv_heads, n_tokens, head_dim].
    let cached = |x: &[f64]| -> Vec<f64> {
        let head = |head: usize| {
            (0..n_tokens).flat_map(move |t| &x[(t * n_kv_heads + head) * head_dim..][..head_dim])
        };
        (0..n_kv_heads).flat_map(head).copied().collect()
    };
    let attention =
        Attention { n_heads, n_kv_heads, head_dim, n_ctx: n_tokens, scale: 1.0 / (head_dim as f64).sqrt() };

    let mut x = vec![0.0; n_tokens * n_embd];
    reference::embedding(&mut x, &values(model, "token_embd.weight").unwrap(), tokens, n_embd);
    for layer in 0..shape.n_layers {
        let name = |stem: &str| format!("blk.{layer}.{stem}");
        let xb = norm(&x, &name("attn_norm.weight"));
        let mut q = linear(model, &name("attn_q"), &xb, n_embd);
        let mut k = linear(model, &name("attn_k"), &xb, n_embd);
        let v = linear(model, &name("attn_v"), &xb, n_embd);
        rotate(&mut q, n_heads);
        rotate(&mut k, n_kv_heads);
        let mut attended = vec![0.0; q.len()];
        reference::attention(&mut attended, &q, &cached(&k), &cached(&v), &positions, attention);
        reference::add(&mut x, &linear(model, &name("attn_output"), &attended, n_heads * head_dim));

        let xb = norm(&x, &name("ffn_norm.weight"));
        let gate = linear(model, &name("ffn_gate"), &xb, n_embd);
        let up = linear(model, &name("ffn_up"), &xb, n_embd);
        let mut ff = vec![0.0; gate.len()];
        reference::swiglu(&mut ff, &gate, &up);
        reference::add(&mut x, &linear(model, &name("ffn_down"), &ff, n_ff));
    }
    let xb = norm(&x, "output_norm.weight");
    linear(model, if shape.tied { "token_embd" } else { "output" }, &xb, n_embd)
}

/// The bound that the fixtures' models keep too: f32 activations, logits of standard deviation 3 or so.
const BOUND: f64 = 1e-4;

/// Runs forty tokens; every logit must be within `BOUND` of the exact one.
fn check(model: &ModelFile, shape: Shape, rotation: &Rotation) {
    check_runner(&mut *load(model, EngineOptions::default()).unwrap(), 40, BOUND, model, shape, rotation);
}

/// As [`check`], with any runner of the model.
fn check_runner(
    runner: &mut dyn Runner,
    n_tokens: usize,
    bound: f64,
    model: &ModelFile,
    shape: Shape,
    rotation: &Rotation,
) {
    let tokens = testkit::data::Rng::new(11).tokens(n_tokens, shape.n_vocab);
    let expected = exact_logits(model, shape, rotation, &tokens);
    let found = runner.forward_all(&tokens).unwrap();
    assert_eq!(found.len(), expected.len());
    let deviation = (expected.iter().map(|logit| logit * logit).sum::<f64>() / expected.len() as f64).sqrt();
    assert!((1.0..10.0).contains(&deviation), "logits of size {deviation} do not fit the bound");
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let difference = (f64::from(*found) - expected).abs();
        let (position, token) = (i / shape.n_vocab, i % shape.n_vocab);
        assert!(
            difference <= bound,
            "position {position}, token {token}: {found} is {difference:e} from {expected}"
        );
    }
}

fn check_plain(shape: Shape, pairs: RopePairs) {
    check(&shape.model(), shape, &Rotation::plain(shape, pairs));
}

#[test]
fn llama() {
    check_plain(LLAMA, RopePairs::Adjacent);
}

#[test]
fn qwen2() {
    check_plain(QWEN2, RopePairs::Half);
}

#[test]
fn llama_with_biases() {
    check_plain(Shape { qkv_bias: true, ..LLAMA }, RopePairs::Adjacent);
}

#[test]
fn tied_output() {
    let shape = Shape { tied: true, ..QWEN2 };
    let mut model = shape.model();
    // Embeddings of size one are small for logits.
    model.tensor("token_embd.weight").values.iter_mut().for_each(|value| *value *= 3.0);
    check(&model, shape, &Rotation::plain(shape, RopePairs::Half));
}

#[test]
fn every_head_its_own_keys() {
    check_plain(Shape { n_kv_heads: 4, ..LLAMA }, RopePairs::Adjacent);
}

#[test]
fn heads_wider_than_their_share_of_the_embedding() {
    check_plain(Shape { head_dim: 24, ..LLAMA }, RopePairs::Adjacent);
}

#[test]
fn widths_that_fill_no_vector() {
    let shape = Shape { n_embd: 27, n_ff: 45, n_heads: 3, n_kv_heads: 1, head_dim: 18, n_vocab: 21, ..LLAMA };
    check_plain(shape, RopePairs::Adjacent);
}

#[test]
fn heads_of_more_vectors_than_are_summed_together() {
    check_plain(Shape { head_dim: 72, n_heads: 2, n_kv_heads: 1, ..QWEN2 }, RopePairs::Half);
}

#[test]
fn halves_and_bfloat16s_of_any_width() {
    for ty in [GgmlType::F16, GgmlType::BF16] {
        let shape = Shape { n_embd: 27, n_ff: 45, head_dim: 10, ..LLAMA };
        check(&shape.model().matrices_as(ty), shape, &Rotation::plain(shape, RopePairs::Adjacent));
    }
}

/// Rows of any format's blocks, and heads as public models have them.
const WIDE: Shape = Shape { n_embd: 256, n_ff: 256, n_heads: 4, n_kv_heads: 2, head_dim: 64, ..LLAMA };

/// A model of this shape with random blocks in its matrices.
fn model_of_blocks<B: RandomBlock>(shape: Shape) -> ModelFile {
    let mut model = shape.model().matrices_of::<B>();
    // Test blocks' values are small for logits.
    model.tensor("output_norm.weight").values.iter_mut().for_each(|value| *value *= 4.0);
    model
}

/// Products and attention of a prompt by Hopper's kernels, every access checked.
#[test]
fn heads_of_64_on_hopper() {
    let rotation = Rotation::plain(WIDE, RopePairs::Adjacent);
    let model = model_of_blocks::<Q8_0>(WIDE);
    let written = model.write();
    let runner = |is_hopper| {
        let options = GpuOptions::default().with_hopper_kernels(is_hopper);
        let gpu = Gpu::new(Emulator::checked(), options).unwrap();
        golden::load(gpu, written.path(), EngineOptions::default()).unwrap()
    };
    check_runner(&mut *runner(true), 20, PROMPT_BOUNDS.max, &model, WIDE, &rotation);
    // The others are more exact: they are not the same.
    let tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    let last = |is_hopper, tokens: &[u32]| runner(is_hopper).forward(tokens).unwrap().to_vec();
    assert!(last(true, &tokens) != last(false, &tokens));
    assert!(last(true, &tokens[..8]) == last(false, &tokens[..8]));
}

/// Formats that no fixture has a model of: on the CPU and on the emulator.
fn check_blocks<B: RandomBlock>() {
    let shape = WIDE;
    let model = model_of_blocks::<B>(shape);
    let rotation = Rotation::plain(shape, RopePairs::Adjacent);
    check(&model, shape, &rotation);
    let written = model.write();
    // One, a few, and so many that the tensor cores multiply.
    for (n_tokens, bounds) in [(1, BOUNDS), (10, BOUNDS), (20, PROMPT_BOUNDS)] {
        let gpu = Gpu::new(Emulator::checked(), GpuOptions::default()).unwrap();
        let mut runner = golden::load(gpu, written.path(), EngineOptions::default()).unwrap();
        check_runner(&mut *runner, n_tokens, bounds.max, &model, shape, &rotation);
    }
}

#[test]
fn matrices_of_iq4_xs() {
    check_blocks::<IQ4_XS>();
}

#[test]
fn matrices_of_mxfp4() {
    check_blocks::<MXFP4>();
}

#[test]
fn vectors_may_be_halves() {
    let mut model = QWEN2.model();
    model.tensor("blk.0.attn_norm.weight").ty = GgmlType::F16;
    model.tensor("blk.1.attn_q.bias").ty = GgmlType::BF16;
    check(&model, QWEN2, &Rotation::plain(QWEN2, RopePairs::Half));
}

#[test]
fn part_of_a_head_turns() {
    for (shape, pairs) in [(LLAMA, RopePairs::Adjacent), (QWEN2, RopePairs::Half)] {
        let key = format!("{}.rope.dimension_count", shape.architecture);
        let model = shape.model().with(&key, Meta::U32(6));
        let rotation = Rotation { dim: 6, divisors: vec![1.0; 3], ..Rotation::plain(shape, pairs) };
        check(&model, shape, &rotation);
    }
}

#[test]
fn linear_scaling_divides_all_angles() {
    let rotation = Rotation { divisors: vec![2.5; 4], ..Rotation::plain(LLAMA, RopePairs::Adjacent) };
    let factor = LLAMA.model().with("llama.rope.scaling.factor", Meta::F32(2.5));
    check(&factor, LLAMA, &rotation);
    check(&factor.with("llama.rope.scaling.type", Meta::Str("linear")), LLAMA, &rotation);
}

#[test]
fn scaling_of_type_none_ignores_the_factor() {
    let model = LLAMA.model().with("llama.rope.scaling.factor", Meta::F32(2.5));
    let rotation = Rotation::plain(LLAMA, RopePairs::Adjacent);
    check(&model.with("llama.rope.scaling.type", Meta::Str("none")), LLAMA, &rotation);
}

#[test]
fn frequency_factors_divide_each_pair() {
    let mut model = LLAMA.model();
    model.add("rope_freqs.weight", &[4], vec![1.0, 1.5, 3.0, 8.0]);
    let divisors = vec![1.0, 1.5, 3.0, 8.0];
    check(&model, LLAMA, &Rotation { divisors, ..Rotation::plain(LLAMA, RopePairs::Adjacent) });
}

#[test]
fn llama_3_scaling_keeps_fast_pairs_and_slows_slow_ones() {
    // Llama 3.2 1B. A pair's wavelength is τ · base^(2i / dim) positions: below 8192 / 4 it stays, above 8192 / 1
    // it is 32 times slower, and between the two the speed is mixed in proportion.
    let scaling =
        Llama3Scaling { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192.0 };
    let factors = scaling.factors(500_000.0, 64);
    assert_eq!(factors.len(), 32);
    for (pair, factor) in factors.iter().enumerate() {
        let wavelength = std::f64::consts::TAU * 500_000f64.powf(pair as f64 / 32.0);
        let expected = if wavelength < 2048.0 {
            1.0
        } else if wavelength > 8192.0 {
            32.0
        } else {
            let kept = (8192.0 / wavelength - 1.0) / 3.0;
            1.0 / (kept + (1.0 - kept) / 32.0)
        };
        assert!((f64::from(*factor) / expected - 1.0).abs() < 1e-6, "pair {pair}: {factor}, not {expected}");
    }
    // Both ends and the middle occur.
    assert!(factors[0] == 1.0 && factors[31] == 32.0 && factors.iter().any(|f| (2.0..31.0).contains(f)));
}
