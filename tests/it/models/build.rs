//! Small models, changed one thing at a time.

use std::io::Write;

use half::{bf16, f16};
use oxwarp::gguf::GgmlType;
use oxwarp::gguf::write::Head;
use tempfile::NamedTempFile;
use testkit::data::{RandomBlock, Rng, weights};

/// A metadata value.
#[derive(Clone)]
pub enum Meta {
    U32(u32),
    U64(u64),
    F32(f32),
    Str(&'static str),
    U32s(Vec<u32>),
    Strs(Vec<String>),
}

/// A tensor of numbers; vectors have one dimension.
#[derive(Clone)]
pub struct TensorData {
    pub name: String,
    /// Fastest first.
    pub dims: Vec<u64>,
    pub ty: GgmlType,
    pub values: Vec<f32>,
    /// The bytes that mean the values, for types other than floats.
    pub blocks: Option<Vec<u8>>,
}

/// A whole file, in memory.
#[derive(Clone)]
pub struct ModelFile {
    pub keys: Vec<(String, Meta)>,
    pub tensors: Vec<TensorData>,
}

/// Sizes of a model to make.
#[derive(Clone, Copy)]
pub struct Shape {
    pub architecture: &'static str,
    pub n_layers: usize,
    pub n_embd: usize,
    pub n_ff: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub n_vocab: usize,
    pub n_ctx: usize,
    pub qkv_bias: bool,
    pub tied: bool,
}

/// Two layers, four heads over two.
pub const LLAMA: Shape = Shape {
    architecture: "llama",
    n_layers: 2,
    n_embd: 32,
    n_ff: 48,
    n_heads: 4,
    n_kv_heads: 2,
    head_dim: 8,
    n_vocab: 20,
    n_ctx: 64,
    qkv_bias: false,
    tied: false,
};

/// The same with biases.
pub const QWEN2: Shape = Shape { architecture: "qwen2", qkv_bias: true, ..LLAMA };

impl Shape {
    /// A model of this shape whose weights keep activations near one.
    pub fn model(self) -> ModelFile {
        let mut model = ModelFile { keys: self.keys(), tensors: Vec::new() };
        let mut rng = Rng::new(7);
        let [embd, ff, vocab] = [self.n_embd, self.n_ff, self.n_vocab];
        let [q, kv] = [self.n_heads, self.n_kv_heads].map(|n_heads| n_heads * self.head_dim);
        model.matrix(&mut rng, "token_embd.weight", vocab, embd, 1.0);
        for layer in 0..self.n_layers {
            let name = |stem: &str| format!("blk.{layer}.{stem}");
            model.vector(&mut rng, &name("attn_norm.weight"), embd, 1.0);
            for (stem, n_rows) in [("attn_q", q), ("attn_k", kv), ("attn_v", kv)] {
                model.matrix(&mut rng, &name(&format!("{stem}.weight")), n_rows, embd, 2.0);
                if self.qkv_bias {
                    model.vector(&mut rng, &name(&format!("{stem}.bias")), n_rows, 0.0);
                }
            }
            model.matrix(&mut rng, &name("attn_output.weight"), embd, q, 1.0);
            model.vector(&mut rng, &name("ffn_norm.weight"), embd, 1.0);
            model.matrix(&mut rng, &name("ffn_gate.weight"), ff, embd, 1.0);
            model.matrix(&mut rng, &name("ffn_up.weight"), ff, embd, 1.0);
            model.matrix(&mut rng, &name("ffn_down.weight"), embd, ff, 1.0);
        }
        model.vector(&mut rng, "output_norm.weight", embd, 1.0);
        if !self.tied {
            model.matrix(&mut rng, "output.weight", vocab, embd, 3.0);
        }
        model
    }

    fn keys(self) -> Vec<(String, Meta)> {
        let key = |name: &str| format!("{}.{name}", self.architecture);
        let count = |name: &str, value: usize| (key(name), Meta::U32(value as u32));
        vec![
            ("general.architecture".to_owned(), Meta::Str(self.architecture)),
            count("block_count", self.n_layers),
            count("context_length", self.n_ctx),
            count("embedding_length", self.n_embd),
            count("feed_forward_length", self.n_ff),
            count("attention.head_count", self.n_heads),
            count("attention.head_count_kv", self.n_kv_heads),
            count("attention.key_length", self.head_dim),
            count("attention.value_length", self.head_dim),
            (key("attention.layer_norm_rms_epsilon"), Meta::F32(1e-5)),
            (key("rope.freq_base"), Meta::F32(100.0)),
            (
                "tokenizer.ggml.tokens".to_owned(),
                Meta::Strs((0..self.n_vocab).map(|token| format!("t{token}")).collect()),
            ),
        ]
    }
}

impl ModelFile {
    fn matrix(&mut self, rng: &mut Rng, name: &str, n_rows: usize, n_cols: usize, gain: f64) {
        let values = rng.normal(n_rows * n_cols, gain / (n_cols as f64).sqrt());
        self.add(name, &[n_cols as u64, n_rows as u64], values);
    }

    /// Numbers around `mean`.
    fn vector(&mut self, rng: &mut Rng, name: &str, len: usize, mean: f32) {
        let values = rng.normal(len, 0.3).iter().map(|value| value + mean).collect();
        self.add(name, &[len as u64], values);
    }

    /// Adds an F32 tensor.
    pub fn add(&mut self, name: &str, dims: &[u64], values: Vec<f32>) {
        self.tensors.push(TensorData {
            name: name.to_owned(),
            dims: dims.to_vec(),
            ty: GgmlType::F32,
            values,
            blocks: None,
        });
    }

    /// The model with `key` set to `value`.
    pub fn with(mut self, key: &str, value: Meta) -> Self {
        self = self.without(key);
        self.keys.push((key.to_owned(), value));
        self
    }

    pub fn without(mut self, key: &str) -> Self {
        self.keys.retain(|(name, _)| name != key);
        self
    }

    pub fn without_tensor(mut self, name: &str) -> Self {
        let n_before = self.tensors.len();
        self.tensors.retain(|tensor| tensor.name != name);
        assert_eq!(self.tensors.len() + 1, n_before, "{name}");
        self
    }

    pub fn tensor(&mut self, name: &str) -> &mut TensorData {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("{name}"))
    }

    /// The model with every matrix stored as `ty`, one of the float types, and its values rounded to it.
    pub fn matrices_as(mut self, ty: GgmlType) -> Self {
        for tensor in self.tensors.iter_mut().filter(|tensor| tensor.dims.len() == 2) {
            tensor.ty = ty;
        }
        self
    }

    /// The model with random blocks of `B` in every matrix, and their values.
    pub fn matrices_of<B: RandomBlock>(mut self) -> Self {
        let mut rng = Rng::new(12);
        for tensor in self.tensors.iter_mut().filter(|tensor| tensor.dims.len() == 2) {
            let (blocks, values) = weights::<B>(&mut rng, tensor.values.len() / B::ELEMENTS);
            tensor.ty = GgmlType::from_name(B::NAME).unwrap();
            tensor.values = values;
            tensor.blocks = Some(bytemuck::cast_slice(&blocks).to_vec());
        }
        self
    }

    /// Writes the file where it is deleted after use.
    pub fn write(&self) -> NamedTempFile {
        let mut head = Head::new();
        for (key, value) in &self.keys {
            match value {
                Meta::U32(value) => head.u32(key, *value),
                Meta::U64(value) => head.u64(key, *value),
                Meta::F32(value) => head.f32(key, *value),
                Meta::Str(value) => head.str(key, value),
                Meta::U32s(values) => head.u32_array(key, values.iter().copied()),
                Meta::Strs(values) => head.str_array(key, values),
            };
        }
        for tensor in &self.tensors {
            head.tensor(&tensor.name, &tensor.dims, tensor.ty);
        }
        let mut data = head.begin(Vec::new()).unwrap();
        for tensor in &self.tensors {
            data.write(&tensor.bytes()).unwrap();
        }
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&data.finish().unwrap()).unwrap();
        file
    }
}

impl TensorData {
    fn bytes(&self) -> Vec<u8> {
        if let Some(blocks) = &self.blocks {
            return blocks.clone();
        }
        match self.ty {
            GgmlType::F32 => self.values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            GgmlType::F16 => {
                self.values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()
            }
            GgmlType::BF16 => {
                self.values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect()
            }
            // Other types are stored to be refused: all zeros.
            other => vec![0; other.row_bytes(self.values.len() as u64).unwrap() as usize],
        }
    }
}
