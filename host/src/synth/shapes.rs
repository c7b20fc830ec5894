//! The shapes of public models: sizes, metadata, and the list of tensors in their GGUF files.

use crate::gguf::write::Head;

/// The sizes of a model, without its weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// What users type.
    pub name: &'static str,
    /// The model whose shape this is.
    pub public_name: &'static str,
    pub family: Family,
    pub n_layers: u32,
    /// Width of the residual stream.
    pub dim: u64,
    /// Width of the feed-forward part; of one expert where there are experts.
    pub hidden_dim: u64,
    pub n_heads: u64,
    pub n_kv_heads: u64,
    pub head_dim: u64,
    pub n_vocab: u64,
    pub context_length: u32,
    pub norm_eps: f32,
    pub rope_base: f32,
    /// Whether the output head is the embedding table.
    pub is_tied: bool,
    /// `tokenizer.ggml.pre` of the public file, or the nearest that fits a byte-level vocabulary.
    pub pre_tokenizer: &'static str,
    pub adds_bos: bool,
    /// Ids with a text of their own, ascending.
    pub special_tokens: &'static [(u32, &'static str)],
    pub bos: u32,
    pub eos: u32,
}

/// What differs between architectures beyond sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 3 with its frequency factors: `factor`, and the context it was first trained with is 8192.
    Llama3 { rope_factor: u32 },
    /// Biases on q, k and v.
    Qwen2,
    /// q, k and v in one matrix, gate and up in another.
    Phi3,
    /// Experts, biases everywhere, attention sinks, YaRN.
    GptOss { n_experts: u64, n_experts_used: u64 },
}

/// A tensor's place in the model; decides its type and the size of its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Embedding,
    /// The output head; the embedding table too where it serves as one.
    Output,
    AttnQkv,
    AttnV,
    AttnOutput,
    FfnDown,
    /// Any other matrix.
    Matrix,
    /// A matrix for each expert.
    Expert,
    /// `ffn_down` of each expert.
    ExpertDown,
    Router,
    Norm,
    Bias,
    /// A bias for each expert.
    ExpertBias,
    Sinks,
    RopeFactors,
}

/// A tensor of a shape.
#[derive(Clone, Debug, PartialEq)]
pub struct ShapeTensor {
    pub name: String,
    /// Fastest first.
    pub dims: Vec<u64>,
    pub role: Role,
    /// The layer; `None` for tensors of the whole model.
    pub layer: Option<u32>,
}

/// Every shape there is.
pub const SHAPES: [Shape; 5] = [
    Shape {
        name: "qwen2.5-0.5b",
        public_name: "Qwen2.5-0.5B-Instruct",
        family: Family::Qwen2,
        n_layers: 24,
        dim: 896,
        hidden_dim: 4864,
        n_heads: 14,
        n_kv_heads: 2,
        head_dim: 64,
        n_vocab: 151_936,
        context_length: 32_768,
        norm_eps: 1e-6,
        rope_base: 1e6,
        is_tied: false,
        pre_tokenizer: "qwen2",
        adds_bos: false,
        special_tokens: &[(151_643, "<|endoftext|>"), (151_644, "<|im_start|>"), (151_645, "<|im_end|>")],
        bos: 151_643,
        eos: 151_645,
    },
    Shape {
        name: "llama3.2-1b",
        public_name: "Llama-3.2-1B-Instruct",
        family: Family::Llama3 { rope_factor: 32 },
        n_layers: 16,
        dim: 2048,
        hidden_dim: 8192,
        n_heads: 32,
        n_kv_heads: 8,
        head_dim: 64,
        n_vocab: 128_256,
        context_length: 131_072,
        norm_eps: 1e-5,
        rope_base: 500_000.0,
        is_tied: true,
        pre_tokenizer: "llama-bpe",
        adds_bos: true,
        special_tokens: LLAMA3_TOKENS,
        bos: 128_000,
        eos: 128_009,
    },
    Shape {
        name: "llama3-8b",
        public_name: "Llama-3.1-8B-Instruct",
        family: Family::Llama3 { rope_factor: 8 },
        n_layers: 32,
        dim: 4096,
        hidden_dim: 14_336,
        n_heads: 32,
        n_kv_heads: 8,
        head_dim: 128,
        n_vocab: 128_256,
        context_length: 131_072,
        norm_eps: 1e-5,
        rope_base: 500_000.0,
        is_tied: false,
        pre_tokenizer: "llama-bpe",
        adds_bos: true,
        special_tokens: LLAMA3_TOKENS,
        bos: 128_000,
        eos: 128_009,
    },
    Shape {
        name: "phi3-mini",
        public_name: "Phi-3-mini-4k-instruct",
        family: Family::Phi3,
        n_layers: 32,
        dim: 3072,
        hidden_dim: 8192,
        n_heads: 32,
        n_kv_heads: 32,
        head_dim: 96,
        n_vocab: 32_064,
        context_length: 4096,
        norm_eps: 1e-5,
        rope_base: 10_000.0,
        is_tied: false,
        pre_tokenizer: "gpt-2",
        adds_bos: true,
        special_tokens: &[
            (1, "<s>"),
            (32_000, "<|endoftext|>"),
            (32_001, "<|assistant|>"),
            (32_007, "<|end|>"),
            (32_010, "<|user|>"),
        ],
        bos: 1,
        eos: 32_000,
    },
    Shape {
        name: "gpt-oss-20b",
        public_name: "gpt-oss-20b",
        family: Family::GptOss { n_experts: 32, n_experts_used: 4 },
        n_layers: 24,
        dim: 2880,
        hidden_dim: 2880,
        n_heads: 64,
        n_kv_heads: 8,
        head_dim: 64,
        n_vocab: 201_088,
        context_length: 131_072,
        norm_eps: 1e-5,
        rope_base: 150_000.0,
        is_tied: false,
        pre_tokenizer: "gpt-4o",
        adds_bos: false,
        special_tokens: &[
            (199_998, "<|startoftext|>"),
            (199_999, "<|endoftext|>"),
            (200_002, "<|return|>"),
            (200_003, "<|constrain|>"),
            (200_005, "<|channel|>"),
            (200_006, "<|start|>"),
            (200_007, "<|end|>"),
            (200_008, "<|message|>"),
            (200_012, "<|call|>"),
        ],
        bos: 199_998,
        eos: 200_002,
    },
];

const LLAMA3_TOKENS: &[(u32, &str)] = &[
    (128_000, "<|begin_of_text|>"),
    (128_001, "<|end_of_text|>"),
    (128_006, "<|start_header_id|>"),
    (128_007, "<|end_header_id|>"),
    (128_009, "<|eot_id|>"),
];

/// Context that Llama 3's frequency factors start from.
const LLAMA3_FIRST_CONTEXT: f64 = 8192.0;

impl Shape {
    /// The shape called `name`.
    pub fn from_name(name: &str) -> Option<&'static Shape> {
        SHAPES.iter().find(|shape| shape.name == name)
    }

    /// The value of `general.architecture`.
    pub fn architecture(&self) -> &'static str {
        match self.family {
            Family::Llama3 { .. } => "llama",
            Family::Qwen2 => "qwen2",
            Family::Phi3 => "phi3",
            Family::GptOss { .. } => "gpt-oss",
        }
    }

    /// The tensors of the public model's file, cut to `n_layers`.
    pub fn tensors(&self, n_layers: u32) -> Vec<ShapeTensor> {
        let mut list = TensorList { tensors: Vec::new(), layer: None };
        let embedding = if self.is_tied { Role::Output } else { Role::Embedding };
        list.add("token_embd.weight", &[self.dim, self.n_vocab], embedding);
        if let Family::Llama3 { .. } = self.family {
            list.add("rope_freqs.weight", &[self.head_dim / 2], Role::RopeFactors);
        }
        for layer in 0..n_layers {
            list.layer = Some(layer);
            self.attention(&mut list);
            self.feed_forward(&mut list);
        }
        list.layer = None;
        list.add("output_norm.weight", &[self.dim], Role::Norm);
        if !self.is_tied {
            list.add("output.weight", &[self.dim, self.n_vocab], Role::Output);
        }
        list.tensors
    }

    fn attention(&self, list: &mut TensorList) {
        let (q_dim, kv_dim) = (self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim);
        list.add("attn_norm.weight", &[self.dim], Role::Norm);
        if self.family == Family::Phi3 {
            list.add("attn_qkv.weight", &[self.dim, q_dim + 2 * kv_dim], Role::AttnQkv);
        } else {
            list.add("attn_q.weight", &[self.dim, q_dim], Role::Matrix);
            list.add("attn_k.weight", &[self.dim, kv_dim], Role::Matrix);
            list.add("attn_v.weight", &[self.dim, kv_dim], Role::AttnV);
        }
        list.add("attn_output.weight", &[q_dim, self.dim], Role::AttnOutput);
        if matches!(self.family, Family::Qwen2 | Family::GptOss { .. }) {
            list.add("attn_q.bias", &[q_dim], Role::Bias);
            list.add("attn_k.bias", &[kv_dim], Role::Bias);
            list.add("attn_v.bias", &[kv_dim], Role::Bias);
        }
        if let Family::GptOss { .. } = self.family {
            list.add("attn_output.bias", &[self.dim], Role::Bias);
            list.add("attn_sinks.weight", &[self.n_heads], Role::Sinks);
        }
    }

    fn feed_forward(&self, list: &mut TensorList) {
        let (dim, hidden) = (self.dim, self.hidden_dim);
        match self.family {
            Family::GptOss { n_experts, .. } => {
                list.add("post_attention_norm.weight", &[dim], Role::Norm);
                list.add("ffn_gate_inp.weight", &[dim, n_experts], Role::Router);
                list.add("ffn_gate_inp.bias", &[n_experts], Role::Bias);
                let matrices = [
                    ("gate", dim, hidden, Role::Expert),
                    ("up", dim, hidden, Role::Expert),
                    ("down", hidden, dim, Role::ExpertDown),
                ];
                for (name, cols, rows, role) in matrices {
                    list.add(&format!("ffn_{name}_exps.weight"), &[cols, rows, n_experts], role);
                    list.add(&format!("ffn_{name}_exps.bias"), &[rows, n_experts], Role::ExpertBias);
                }
            }
            Family::Phi3 => {
                list.add("ffn_norm.weight", &[dim], Role::Norm);
                list.add("ffn_up.weight", &[dim, 2 * hidden], Role::Matrix);
                list.add("ffn_down.weight", &[hidden, dim], Role::FfnDown);
            }
            Family::Llama3 { .. } | Family::Qwen2 => {
                list.add("ffn_norm.weight", &[dim], Role::Norm);
                list.add("ffn_gate.weight", &[dim, hidden], Role::Matrix);
                list.add("ffn_up.weight", &[dim, hidden], Role::Matrix);
                list.add("ffn_down.weight", &[hidden, dim], Role::FfnDown);
            }
        }
    }

    /// The public model's hyper-parameters, under the keys of its architecture.
    pub(super) fn write_metadata(&self, head: &mut Head, n_layers: u32) {
        let arch = self.architecture();
        let key = |name: &str| format!("{arch}.{name}");
        head.u32(&key("block_count"), n_layers)
            .u32(&key("context_length"), self.context_length)
            .u32(&key("embedding_length"), self.dim as u32)
            .u32(&key("feed_forward_length"), self.hidden_dim as u32)
            .u32(&key("attention.head_count"), self.n_heads as u32)
            .u32(&key("attention.head_count_kv"), self.n_kv_heads as u32)
            .f32(&key("attention.layer_norm_rms_epsilon"), self.norm_eps)
            .f32(&key("rope.freq_base"), self.rope_base)
            .u32(&key("vocab_size"), self.n_vocab as u32);
        match self.family {
            Family::Llama3 { .. } => {
                head.u32(&key("rope.dimension_count"), self.head_dim as u32)
                    .u32(&key("attention.key_length"), self.head_dim as u32)
                    .u32(&key("attention.value_length"), self.head_dim as u32);
            }
            Family::Qwen2 => {}
            Family::Phi3 => {
                head.u32(&key("rope.dimension_count"), self.head_dim as u32)
                    .u32(&key("rope.scaling.original_context_length"), 4096)
                    .u32(&key("attention.sliding_window"), 2047);
            }
            Family::GptOss { n_experts, n_experts_used } => {
                head.u32(&key("attention.key_length"), self.head_dim as u32)
                    .u32(&key("attention.value_length"), self.head_dim as u32)
                    .u32(&key("attention.sliding_window"), 128)
                    .u32(&key("expert_count"), n_experts as u32)
                    .u32(&key("expert_used_count"), n_experts_used as u32)
                    .u32(&key("expert_feed_forward_length"), self.hidden_dim as u32)
                    .str(&key("rope.scaling.type"), "yarn")
                    .f32(&key("rope.scaling.factor"), 32.0)
                    .u32(&key("rope.scaling.original_context_length"), 4096);
            }
        }
    }

    /// The values of `rope_freqs.weight`: what each frequency is divided by.  Waves shorter than a quarter of the first
    /// context stay as they are, waves longer than the whole are stretched by the factor, those between by a blend.
    ///
    /// # Panics
    /// For a family without such a tensor.
    pub(super) fn rope_factors(&self) -> Vec<f32> {
        let Family::Llama3 { rope_factor } = self.family else {
            panic!("{} has no frequency factors", self.name)
        };
        let factor = f64::from(rope_factor);
        (0..self.head_dim / 2)
            .map(|pair| {
                let exponent = 2.0 * pair as f64 / self.head_dim as f64;
                let wavelength = std::f64::consts::TAU * f64::from(self.rope_base).powf(exponent);
                // Waves in the first context: at least 4 are kept, at most 1 is stretched.
                let n_waves = LLAMA3_FIRST_CONTEXT / wavelength;
                let blend = ((n_waves - 1.0) / 3.0).clamp(0.0, 1.0);
                (1.0 / ((1.0 - blend) / factor + blend)) as f32
            })
            .collect()
    }
}

struct TensorList {
    tensors: Vec<ShapeTensor>,
    layer: Option<u32>,
}

impl TensorList {
    fn add(&mut self, name: &str, dims: &[u64], role: Role) {
        let name = self.layer.map_or(name.to_owned(), |layer| format!("blk.{layer}.{name}"));
        self.tensors.push(ShapeTensor { name, dims: dims.to_vec(), role, layer: self.layer });
    }
}
