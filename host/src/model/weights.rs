//! The tensors of a model, and the one place that says which tensors there are, under which names and in which shapes.

use super::config::ModelConfig;
use super::error::Error;
use super::rope;

/// All weights of a model; `M` is a matrix and `V` a vector of some back end.
pub struct Weights<M, V> {
    pub token_embd: M, // [n_vocab, n_embd]
    pub layers: Vec<LayerWeights<M, V>>,
    pub output_norm: V, // [n_embd]
    /// `[n_vocab, n_embd]`; none where `token_embd` serves as output too.
    pub output: Option<M>,
    /// Cosines and sines of every position, `[n_ctx, rope_dim / 2, 2]`.
    pub rope_table: V,
}

/// The weights of one layer, under GGUF's own names.
pub struct LayerWeights<M, V> {
    pub attn_norm: V,              // [n_embd]
    pub attn_q: Linear<M, V>,      // [n_heads * head_dim, n_embd]
    pub attn_k: Linear<M, V>,      // [n_kv_heads * head_dim, n_embd]
    pub attn_v: Linear<M, V>,      // [n_kv_heads * head_dim, n_embd]
    pub attn_output: Linear<M, V>, // [n_embd, n_heads * head_dim]
    pub ffn_norm: V,               // [n_embd]
    pub ffn_gate: Linear<M, V>,    // [n_ff, n_embd]
    pub ffn_up: Linear<M, V>,      // [n_ff, n_embd]
    pub ffn_down: Linear<M, V>,    // [n_embd, n_ff]
}

/// y = w x + bias.
pub struct Linear<M, V> {
    pub weight: M,
    pub bias: Option<V>,
}

/// Where tensors come from. Loading walks over the model twice: once to count and check, once to load.
pub(super) trait TensorSource {
    type Matrix;
    type Vector;

    /// The matrix `name` of n_rows rows (the outputs) and n_cols columns (the inputs).
    fn matrix(&mut self, name: &str, n_rows: usize, n_cols: usize) -> Result<Self::Matrix, Error>;

    /// The vector `name` of `len` numbers.
    fn vector(&mut self, name: &str, len: usize) -> Result<Self::Vector, Error>;

    /// The numbers of the vector `name` themselves, to compute with.
    fn values(&mut self, name: &str, len: usize) -> Result<Vec<f32>, Error>;

    /// A vector that was computed and is in no file.
    fn computed(&mut self, values: impl FnOnce() -> Vec<f32>, len: usize) -> Result<Self::Vector, Error>;
}

impl<M, V> Weights<M, V> {
    /// Takes every tensor of the model from `source`, for a context of `n_ctx` positions.
    pub(super) fn take<S>(config: &ModelConfig, n_ctx: usize, source: &mut S) -> Result<Self, Error>
    where
        S: TensorSource<Matrix = M, Vector = V>,
    {
        let token_embd = source.matrix("token_embd.weight", config.n_vocab, config.n_embd)?;
        let layers = (0..config.n_layers)
            .map(|layer| LayerWeights::take(config, layer, source))
            .collect::<Result<Vec<_>, Error>>()?;
        let output_norm = source.vector("output_norm.weight", config.n_embd)?;
        let output = match config.tied_output {
            true => None,
            false => Some(source.matrix("output.weight", config.n_vocab, config.n_embd)?),
        };
        let factors = match config.rope.has_factors {
            true => Some(source.values(rope::FACTORS, config.rope.dim / 2)?),
            false => None,
        };
        let table_len = n_ctx * config.rope.dim;
        let rope_table =
            source.computed(|| rope::table(&config.rope, factors.as_deref(), n_ctx), table_len)?;
        Ok(Weights { token_embd, layers, output_norm, output, rope_table })
    }
}

impl<M, V> LayerWeights<M, V> {
    fn take<S>(config: &ModelConfig, layer: usize, source: &mut S) -> Result<Self, Error>
    where
        S: TensorSource<Matrix = M, Vector = V>,
    {
        let ModelConfig { n_embd, n_ff, qkv_bias, .. } = *config;
        let (q_dim, kv_dim) = (config.q_dim(), config.kv_dim());
        let mut linear = |stem: &str, n_rows: usize, n_cols: usize, has_bias: bool| {
            let weight = source.matrix(&format!("blk.{layer}.{stem}.weight"), n_rows, n_cols)?;
            let bias = match has_bias {
                true => Some(source.vector(&format!("blk.{layer}.{stem}.bias"), n_rows)?),
                false => None,
            };
            Ok::<_, Error>(Linear { weight, bias })
        };
        let attn_q = linear("attn_q", q_dim, n_embd, qkv_bias)?;
        let attn_k = linear("attn_k", kv_dim, n_embd, qkv_bias)?;
        let attn_v = linear("attn_v", kv_dim, n_embd, qkv_bias)?;
        let attn_output = linear("attn_output", n_embd, q_dim, false)?;
        let ffn_gate = linear("ffn_gate", n_ff, n_embd, false)?;
        let ffn_up = linear("ffn_up", n_ff, n_embd, false)?;
        let ffn_down = linear("ffn_down", n_embd, n_ff, false)?;
        let attn_norm = source.vector(&format!("blk.{layer}.attn_norm.weight"), n_embd)?;
        let ffn_norm = source.vector(&format!("blk.{layer}.ffn_norm.weight"), n_embd)?;
        Ok(LayerWeights {
            attn_norm,
            attn_q,
            attn_k,
            attn_v,
            attn_output,
            ffn_norm,
            ffn_gate,
            ffn_up,
            ffn_down,
        })
    }
}
