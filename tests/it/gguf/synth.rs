//! Files with random weights: the public models' tensors and sizes, and weights that can be computed with.

use std::collections::BTreeMap;
use std::fs::OpenOptions;

use oxwarp::gguf::{Gguf, MappedFile};
use oxwarp::synth::{Family, MAX_LAYERS, Plan, QUANTS, Quant, SHAPES, Shape};
use oxwarp::tokenizer::{EncodeOptions, Tokenizer};

fn plan(shape: &str, quant: &str) -> Plan {
    Plan::new(Shape::from_name(shape).unwrap(), Quant::from_name(quant).unwrap(), None).unwrap()
}

/// The head of a planned file and, where its weights would be, nothing: a file of full size that takes no space.
fn with_sparse_file(plan: &Plan, look: impl FnOnce(&Gguf<'_>)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse.gguf");
    let file = OpenOptions::new().write(true).create_new(true).open(&path).unwrap();
    plan.write_head(&file).unwrap();
    file.set_len(plan.file_bytes()).unwrap();
    let file = MappedFile::open(&path).unwrap();
    look(&Gguf::parse(file.bytes()).unwrap());
}

/// Weights read for a token, in GB, as published for these models and recipes: the exact figures are sums over the public
/// files' tensors, rounded to what is shown.
#[test]
fn bytes_per_token_are_those_of_the_public_files() {
    let known = [
        ("qwen2.5-0.5b", "f16", "0.988"),
        ("qwen2.5-0.5b", "q8_0", "0.525"),
        ("qwen2.5-0.5b", "q4_k_m", "0.392"),
        ("qwen2.5-0.5b", "q4_0", "0.346"),
        ("llama3.2-1b", "f16", "2.472"),
        ("llama3.2-1b", "q8_0", "1.313"),
        ("llama3.2-1b", "q4_k_m", "0.800"),
        ("phi3-mini", "f16", "7.446"),
        ("phi3-mini", "q8_0", "3.956"),
        ("phi3-mini", "q4_k_m", "2.337"),
        ("phi3-mini", "q4_0", "2.120"),
        ("llama3-8b", "f16", "15.01"),
        ("llama3-8b", "q8_0", "7.975"),
        ("llama3-8b", "q4_k_m", "4.617"),
        ("llama3-8b", "q4_0", "4.358"),
        ("gpt-oss-20b", "mxfp4", "2.575"),
    ];
    for (shape, quant, expected) in known {
        let n_decimals = expected.len() - expected.find('.').unwrap() - 1;
        let found = plan(shape, quant).bytes_per_token() as f64 / 1e9;
        assert_eq!(format!("{found:.n_decimals$}"), expected, "{shape} {quant}");
    }
}

#[test]
fn tensors_and_types_are_those_of_the_public_files() {
    let known = [
        ("qwen2.5-0.5b", "q4_k_m", "F32 121, Q4_K 12, Q5_0 133, Q6_K 12, Q8_0 13"),
        ("gpt-oss-20b", "mxfp4", "F32 289, MXFP4 72, Q8_0 98"),
        // Two norms a layer, one at the end; the frequency factors of Llama 3.1 and later.
        ("llama3.2-1b", "q8_0", "F32 34, Q8_0 113"),
        ("llama3-8b", "q4_k_m", "F32 66, Q4_K 193, Q6_K 33"),
        // An eighth of the layers has its ffn_down in Q5_K, and four heads of queries to one of keys all their attn_v.
        ("llama3-8b", "iq4_xs", "F32 66, IQ4_XS 189, Q5_K 36, Q6_K 1"),
        ("llama3-8b", "q2_k", "F32 66, Q2_K 129, Q3_K 64, Q4_K 32, Q6_K 1"),
        ("llama3-8b", "q3_k_m", "F32 66, Q3_K 129, Q4_K 92, Q5_K 4, Q6_K 1"),
        ("phi3-mini", "q4_k_m", "F32 65, Q4_K 81, Q5_K 32, Q6_K 17"),
    ];
    for (shape, quant, expected) in known {
        let plan = plan(shape, quant);
        with_sparse_file(&plan, |gguf| {
            let mut counts = BTreeMap::<_, u32>::new();
            gguf.tensors.iter().for_each(|tensor| *counts.entry(tensor.ty.name()).or_default() += 1);
            let counts: Vec<_> = counts.iter().map(|(ty, count)| format!("{ty} {count}")).collect();
            assert_eq!(counts.join(", "), expected, "{shape} {quant}");
            assert!(gguf.gaps().is_empty() && gguf.trailing().is_empty());
        });
    }
    // Public files: 491 MB, 4.92 GB, 2.39 GB, 11.27 GiB.
    let size = |shape, quant, unit: f64| format!("{:.2}", plan(shape, quant).file_bytes() as f64 / unit);
    assert_eq!(size("qwen2.5-0.5b", "q4_k_m", 1e9), "0.49");
    assert_eq!(size("llama3-8b", "q4_k_m", 1e9), "4.92");
    assert_eq!(size("phi3-mini", "q4_k_m", 1e9), "2.39");
    assert_eq!(size("gpt-oss-20b", "mxfp4", (1u64 << 30) as f64), "11.27");
}

/// A tensor's name and its dimensions, fastest first.
type NameAndDims = (&'static str, &'static [u64]);
/// Turns the bytes of blocks into their elements.
type Decode = fn(&[u8]) -> Vec<f32>;

/// Dimensions as the public files have them, two layers of each.
#[test]
fn two_layers_of_every_shape() {
    let known: [(&str, u64, &[NameAndDims]); 5] = [
        (
            "qwen2.5-0.5b",
            27,
            &[
                ("token_embd.weight", &[896, 151_936]),
                ("output.weight", &[896, 151_936]),
                ("blk.1.attn_q.weight", &[896, 896]),
                ("blk.1.attn_k.weight", &[896, 128]),
                ("blk.1.attn_k.bias", &[128]),
                ("blk.1.ffn_down.weight", &[4864, 896]),
            ],
        ),
        (
            "llama3.2-1b",
            21,
            &[
                ("token_embd.weight", &[2048, 128_256]),
                ("rope_freqs.weight", &[32]),
                ("blk.0.attn_k.weight", &[2048, 512]),
                ("blk.1.ffn_up.weight", &[2048, 8192]),
            ],
        ),
        (
            "llama3-8b",
            22,
            &[
                ("output.weight", &[4096, 128_256]),
                ("rope_freqs.weight", &[64]),
                ("blk.1.attn_v.weight", &[4096, 1024]),
                ("blk.1.ffn_down.weight", &[14_336, 4096]),
            ],
        ),
        (
            "phi3-mini",
            15,
            &[
                ("output.weight", &[3072, 32_064]),
                ("blk.1.attn_qkv.weight", &[3072, 9216]),
                ("blk.1.ffn_up.weight", &[3072, 16_384]),
                ("blk.1.ffn_down.weight", &[8192, 3072]),
            ],
        ),
        (
            "gpt-oss-20b",
            41,
            &[
                ("token_embd.weight", &[2880, 201_088]),
                ("blk.1.attn_q.weight", &[2880, 4096]),
                ("blk.1.attn_output.weight", &[4096, 2880]),
                ("blk.1.attn_output.bias", &[2880]),
                ("blk.1.attn_sinks.weight", &[64]),
                ("blk.1.post_attention_norm.weight", &[2880]),
                ("blk.1.ffn_gate_inp.weight", &[2880, 32]),
                ("blk.1.ffn_down_exps.weight", &[2880, 2880, 32]),
                ("blk.1.ffn_down_exps.bias", &[2880, 32]),
            ],
        ),
    ];
    for (shape, n_tensors, tensors) in known {
        let shape = Shape::from_name(shape).unwrap();
        for quant in &QUANTS {
            let Ok(plan) = Plan::new(shape, quant, Some(2)) else {
                assert!(quant.name == "mxfp4" && shape.name != "gpt-oss-20b");
                continue;
            };
            with_sparse_file(&plan, |gguf| {
                assert_eq!(gguf.tensors.len() as u64, n_tensors, "{} {}", shape.name, quant.name);
                let architecture = gguf.str("general.architecture").unwrap();
                assert_eq!(gguf.u32(&format!("{architecture}.block_count")), Ok(2));
                assert!(gguf.str("general.name").unwrap().starts_with("Synthetic: random weights"));
                for (name, dims) in tensors {
                    assert_eq!(gguf.tensor(name).unwrap().dims[..], **dims, "{} {name}", shape.name);
                }
                assert_eq!(gguf.str_array("tokenizer.ggml.tokens").unwrap().len() as u64, shape.n_vocab);
            });
        }
    }
}

#[test]
fn layer_counts_and_recipes_that_do_not_fit_are_refused() {
    let of = |quant: &str, n_layers| {
        let quant = Quant::from_name(quant).unwrap();
        Plan::new(Shape::from_name("phi3-mini").unwrap(), quant, n_layers).unwrap_err().to_string()
    };
    insta::assert_snapshot!([of("f16", Some(0)), of("f16", Some(MAX_LAYERS + 1)), of("mxfp4", None)].join("\n"), @r"
    0 layers, allowed: 1 to 1024
    1025 layers, allowed: 1 to 1024
    mxfp4 is a recipe for models with experts, which phi3-mini has not; allowed: f32 f16 bf16 q4_0 q4_1 q5_0 q5_1 q8_0 q2_k q3_k_m q4_k_m q5_k_m q6_k iq4_nl iq4_xs
    ");
}

/// Vocabularies of full size: every text can be written and read back, and the special tokens are where they belong.
#[test]
fn vocabularies_are_usable() {
    for shape in &SHAPES {
        let plan = Plan::new(shape, Quant::from_name("q8_0").unwrap(), Some(1)).unwrap();
        with_sparse_file(&plan, |gguf| {
            let tokenizer =
                Tokenizer::from_gguf(gguf).unwrap_or_else(|error| panic!("{}: {error}", shape.name));
            let text = "Hello, wörld! 日本語\n\t\u{0}";
            let ids =
                tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: false }).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{}", shape.name);
            // " th" is one merge and a letter, or a letter and one merge: shorter than its bytes.
            let ids = tokenizer
                .encode(" then", EncodeOptions { add_special: false, parse_special: false })
                .unwrap();
            assert_eq!(ids.len(), 3, "{}: {ids:?}", shape.name);
            assert_eq!(
                (tokenizer.bos(), tokenizer.eos()),
                (Some(shape.bos), Some(shape.eos)),
                "{}",
                shape.name
            );
            for (id, text) in shape.special_tokens {
                assert_eq!(tokenizer.special_token(text), Some(*id), "{}", shape.name);
            }
        });
    }
}

/// Each family, small enough to be written whole. Rows of 256 and more, so that no type needs a substitute.
static SMALL: [Shape; 4] = {
    const fn small(shape: Shape) -> Shape {
        Shape { n_layers: 2, dim: 256, hidden_dim: 512, n_heads: 4, n_kv_heads: 2, n_vocab: 2048, ..shape }
    }
    let gpt_oss = Family::GptOss { n_experts: 4, n_experts_used: 2 };
    [
        Shape { special_tokens: &[(7, "<|endoftext|>")], bos: 7, eos: 7, ..small(SHAPES[0]) },
        Shape { special_tokens: &[(7, "<|endoftext|>")], bos: 7, eos: 7, ..small(SHAPES[1]) },
        Shape { special_tokens: &[(7, "<|endoftext|>")], bos: 7, eos: 7, ..small(SHAPES[3]) },
        Shape {
            special_tokens: &[(7, "<|endoftext|>")],
            bos: 7,
            eos: 7,
            family: gpt_oss,
            ..small(SHAPES[4])
        },
    ]
};

/// Tensor by tensor the types of the fixtures, which llama.cpp's own quantiser made.
#[test]
fn types_are_those_of_the_fixtures() {
    const PLAIN: Shape = Shape { is_tied: false, ..SMALL[1] };
    static OF_256: Shape =
        Shape { dim: 256, hidden_dim: 512, n_heads: 2, n_kv_heads: 1, head_dim: 128, ..PLAIN };
    static OF_32: Shape =
        Shape { dim: 128, hidden_dim: 192, n_heads: 4, n_kv_heads: 2, head_dim: 32, ..PLAIN };
    let files = [
        ("rnd-llama-k.Q2_K", &OF_256, "q2_k"),
        ("rnd-llama-k.Q3_K_M", &OF_256, "q3_k_m"),
        ("rnd-llama-k.Q4_K_M", &OF_256, "q4_k_m"),
        ("rnd-llama-k.Q5_K_M", &OF_256, "q5_k_m"),
        ("rnd-llama-k.Q6_K", &OF_256, "q6_k"),
        ("rnd-llama.IQ4_NL", &OF_32, "iq4_nl"),
    ];
    for (name, shape, quant) in files {
        let path = crate::golden::fixtures().join(format!("models/{name}.gguf"));
        let fixture = MappedFile::open(&path).unwrap();
        let fixture = Gguf::parse(fixture.bytes()).unwrap();
        let plan = Plan::new(shape, Quant::from_name(quant).unwrap(), None).unwrap();
        with_sparse_file(&plan, |gguf| {
            assert_eq!(gguf.u32("general.file_type"), fixture.u32("general.file_type"), "{name}");
            for tensor in &fixture.tensors {
                assert_eq!(gguf.tensor(tensor.name).unwrap().ty, tensor.ty, "{name}: {}", tensor.name);
            }
        });
    }
}

fn write(plan: &Plan, seed: u64) -> Vec<u8> {
    let mut file = Vec::new();
    let mut last = 0;
    plan.write(&mut file, seed, |n_bytes| {
        assert!(n_bytes > last);
        last = n_bytes;
    })
    .unwrap();
    assert_eq!(file.len() as u64, plan.file_bytes());
    file
}

#[test]
fn whole_files_pass_the_check() {
    for shape in &SMALL {
        for quant in &QUANTS {
            let Ok(plan) = Plan::new(shape, quant, None) else { continue };
            let file = write(&plan, 1);
            let gguf = Gguf::parse(&file).unwrap();
            let findings: Vec<_> = gguf.check(false).iter().map(ToString::to_string).collect();
            // Small weights have subnormal half-precision scales, as in real files.
            let is_expected =
                |finding: &String| finding.starts_with("note: ") && finding.contains("subnormal");
            assert!(findings.iter().all(is_expected), "{} {}: {findings:?}", shape.name, quant.name);
        }
    }
}

/// Elements have mean 0 and standard deviation 1/sqrt(n_cols).
#[test]
fn weights_have_the_right_spread() {
    use kernels_gpu::quant::*;
    fn values<B: QuantBlock + bytemuck::Pod>(bytes: &[u8]) -> Vec<f32> {
        let blocks: Vec<B> = bytes.chunks_exact(B::BYTES).map(bytemuck::pod_read_unaligned).collect();
        let mut values = vec![0.0; blocks.len() * B::ELEMENTS];
        decode_blocks(&blocks, &mut values);
        values
    }
    /// The format's own words: a power of two and 4-bit floats.
    fn mxfp4(bytes: &[u8]) -> Vec<f32> {
        let code = |code: u8| {
            [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)]
                * [1.0, -1.0][usize::from(code >> 3)]
        };
        let block = |block: &[u8]| {
            let scale = 2f32.powi(i32::from(block[0]) - 127);
            block[1..]
                .iter()
                .flat_map(|byte| [scale * code(byte & 15), scale * code(byte >> 4)])
                .collect::<Vec<_>>()
        };
        bytes.chunks_exact(17).flat_map(block).collect()
    }
    let decoders: [(&str, Decode); 16] = [
        ("f32", values::<F32>),
        ("f16", values::<F16>),
        ("bf16", values::<BF16>),
        ("q4_0", values::<Q4_0>),
        ("q4_1", values::<Q4_1>),
        ("q5_0", values::<Q5_0>),
        ("q5_1", values::<Q5_1>),
        ("q8_0", values::<Q8_0>),
        ("q2_k", values::<Q2_K>),
        ("q3_k_m", values::<Q3_K>),
        ("q4_k_m", values::<Q4_K>),
        ("q5_k_m", values::<Q5_K>),
        ("q6_k", values::<Q6_K>),
        ("iq4_nl", values::<IQ4_NL>),
        ("iq4_xs", values::<IQ4_XS>),
        ("mxfp4", mxfp4),
    ];
    for (quant, decode) in decoders {
        let quant = Quant::from_name(quant).unwrap();
        // The family with experts has all recipes; an expert matrix of 4 x 512 x 256 elements.
        let file = write(&Plan::new(&SMALL[3], quant, None).unwrap(), 3);
        let gguf = Gguf::parse(&file).unwrap();
        let tensor = gguf.tensor("blk.1.ffn_up_exps.weight").unwrap();
        let values = decode(gguf.data(tensor));
        assert_eq!(values.len(), 4 * 512 * 256);
        let n = values.len() as f64;
        let expected = 1.0 / 256f64.sqrt();
        let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / n;
        let std = (values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>() / n).sqrt();
        // A mean's own spread is std/sqrt(n), times at most 4 for blocks of 256 that share a sign: 5 sigma of that.
        assert!(mean.abs() < 5.0 * 4.0 * expected / n.sqrt(), "{}: mean {mean}", quant.name);
        // The shares of two exponents are multiples of 1/32 (F16): the mean square is off by up to 3/64, its root by half.
        assert!((std / expected - 1.0).abs() < 0.03, "{}: std {std}, expected {expected}", quant.name);
        assert!(values.iter().all(|value| f64::from(value.abs()) < 5.0 * expected), "{}", quant.name);
    }
}

#[test]
fn the_seed_decides_and_threads_do_not() {
    let plan = Plan::new(&SMALL[0], Quant::from_name("q4_k_m").unwrap(), None).unwrap();
    let file = write(&plan, 5);
    assert!(file == write(&plan, 5));
    assert!(file != write(&plan, 6));
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert!(file == one_thread.install(|| write(&plan, 5)));
}

/// Llama 3.1's factors as its public file has them, to the digits that are known: 1 for short waves, 8 for long ones.
#[test]
fn frequency_factors_of_llama3() {
    let small = Shape { head_dim: 128, ..SMALL[1] };
    let shape: &'static Shape =
        Box::leak(Box::new(Shape { family: Family::Llama3 { rope_factor: 8 }, ..small }));
    let file = write(&Plan::new(shape, Quant::from_name("q8_0").unwrap(), None).unwrap(), 1);
    let gguf = Gguf::parse(&file).unwrap();
    let bytes = gguf.data(gguf.tensor("rope_freqs.weight").unwrap());
    let factors: Vec<_> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!((factors.len(), factors[0], factors[28], factors[63]), (64, 1.0, 1.0, 8.0));
    // Pair 29: a wave of 2π · 500000^(58/128) = 2400.6 positions, 3.4125 in 8192: 1 / (0.19582/8 + 0.80418).
    assert!((factors[29] - 1.2068).abs() < 1e-3, "{}", factors[29]);
    assert!(factors.is_sorted());
}

struct Full {
    room: usize,
}

impl std::io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n_written = bytes.len().min(self.room);
        self.room -= n_written;
        if n_written == 0 { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(n_written) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A full disk ends the work with an error, wherever it happens; the threads that fill are not left behind.
#[test]
fn a_full_disk() {
    let plan = Plan::new(&SMALL[0], Quant::from_name("f32").unwrap(), Some(64)).unwrap();
    assert!(plan.file_bytes() > 100 << 20, "several batches");
    for room in [0, 100, 1 << 20, 90 << 20] {
        let error = plan.write(Full { room }, 1, |_| {}).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{room}");
    }
}
