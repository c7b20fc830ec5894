//! The forward pass: one flat list of ops for every architecture and back end.
//!
//! The residual stream `x` takes up a branch's output together with the norm that follows it (`rmsnorm_add`), so each
//! layer ends in the norm that the next layer, or the head, begins with.

use crate::backend::{Backend, Error};

use super::config::ModelConfig;
use super::weights::{Linear, Weights};

/// The weights of a model on back end `B`.
pub type BackendWeights<B> = Weights<<B as Backend>::Matrix, <B as Backend>::Vector>;

/// Rows of logits that the head computes at once.
pub const HEAD_ROWS: usize = 8;

/// What is between two ops, f32 row-major with a row for each token; allocated once for `n_batch` tokens.
pub struct Activations<T> {
    pub x: T,       // [n_batch, n_embd]              the residual stream
    pub xb: T,      // [n_batch, n_embd]              its norm: a branch's input
    pub branch: T,  // [n_batch, n_embd]              a branch's output
    pub q: T,       // [n_batch, n_heads, head_dim]
    pub k: T,       // [n_batch, n_kv_heads, head_dim]
    pub v: T,       // [n_batch, n_kv_heads, head_dim]
    pub attn: T,    // [n_batch, n_heads, head_dim]
    pub gate: T,    // [n_batch, n_ff]
    pub up: T,      // [n_batch, n_ff]
    pub ff: T,      // [n_batch, n_ff]
    pub head_xb: T, // [HEAD_ROWS, n_embd]            the rows of xb that logits are wanted for
    pub logits: T,  // [HEAD_ROWS, n_vocab]
}

impl<T> Activations<T> {
    /// Allocates every buffer for batches of up to `n_batch` tokens.
    pub fn new<B: Backend<Buffer = T>>(
        b: &mut B,
        config: &ModelConfig,
        n_batch: usize,
    ) -> Result<Self, Error> {
        let [q_dim, kv_dim] = [config.q_dim(), config.kv_dim()];
        let mut rows = |n_rows: usize, width: usize| b.new_buffer(n_rows * width);
        Ok(Activations {
            x: rows(n_batch, config.n_embd)?,
            xb: rows(n_batch, config.n_embd)?,
            branch: rows(n_batch, config.n_embd)?,
            q: rows(n_batch, q_dim)?,
            k: rows(n_batch, kv_dim)?,
            v: rows(n_batch, kv_dim)?,
            attn: rows(n_batch, q_dim)?,
            gate: rows(n_batch, config.n_ff)?,
            up: rows(n_batch, config.n_ff)?,
            ff: rows(n_batch, config.n_ff)?,
            head_xb: rows(HEAD_ROWS, config.n_embd)?,
            logits: rows(HEAD_ROWS, config.n_vocab)?,
        })
    }

    /// Bytes of all buffers; none if that is no number of 64 bits.
    pub fn bytes(config: &ModelConfig, n_batch: usize) -> Option<u64> {
        let widths = 3 * config.n_embd + 2 * config.q_dim() + 2 * config.kv_dim() + 3 * config.n_ff;
        let batch = (n_batch as u64).checked_mul(widths as u64)?;
        let head = (HEAD_ROWS as u64).checked_mul((config.n_embd + config.n_vocab) as u64)?;
        batch.checked_add(head)?.checked_mul(size_of::<f32>() as u64)
    }
}

/// All layers for the tokens of [`Backend::begin`], from ids to normed rows in `a.xb`. Adds to the cache.
pub fn layers<B: Backend>(
    b: &mut B,
    config: &ModelConfig,
    weights: &BackendWeights<B>,
    a: &mut Activations<B::Buffer>,
    cache: &mut [B::KvLayer],
    n_tokens: usize,
) -> Result<(), Error> {
    let (eps, n) = (config.norm_eps, n_tokens);
    let attention = config.attention_shape();
    let (rope_q, rope_k) = (config.rope_shape(config.n_heads), config.rope_shape(config.n_kv_heads));
    let mut norms = weights.layers.iter().map(|layer| &layer.attn_norm).chain([&weights.output_norm]);

    b.embedding(&mut a.x, &weights.token_embd, n)?;
    b.rmsnorm(&mut a.xb, &a.x, norms.next().expect("one norm more than layers"), eps, n)?;

    for (layer, cache) in weights.layers.iter().zip(cache) {
        let qkv = [&layer.attn_q, &layer.attn_k, &layer.attn_v];
        b.matmul_each([&mut a.q, &mut a.k, &mut a.v], qkv.map(|linear| &linear.weight), &a.xb, n)?;
        bias_add(b, &mut a.q, &layer.attn_q, n)?;
        bias_add(b, &mut a.k, &layer.attn_k, n)?;
        bias_add(b, &mut a.v, &layer.attn_v, n)?;
        b.rope(&mut a.q, &weights.rope_table, rope_q, n)?;
        b.rope(&mut a.k, &weights.rope_table, rope_k, n)?;
        b.kv_write(cache, &a.k, &a.v, n)?;
        b.attention(&mut a.attn, &a.q, cache, attention, n)?;
        b.matmul(&mut a.branch, &layer.attn_output.weight, &a.attn, n)?;
        b.rmsnorm_add(&mut a.xb, &mut a.x, &a.branch, &layer.ffn_norm, eps, n)?;

        let gate_up = [&layer.ffn_gate.weight, &layer.ffn_up.weight];
        b.matmul_each([&mut a.gate, &mut a.up], gate_up, &a.xb, n)?;
        b.swiglu(&mut a.ff, &a.gate, &a.up, config.n_ff, n)?;
        b.matmul(&mut a.branch, &layer.ffn_down.weight, &a.ff, n)?;
        let next_norm = norms.next().expect("one norm more than layers");
        b.rmsnorm_add(&mut a.xb, &mut a.x, &a.branch, next_norm, eps, n)?;
    }
    Ok(())
}

/// Logits of rows `first_row .. first_row + n_rows` of `a.xb`, after [`layers`].
pub fn head<B: Backend>(
    b: &mut B,
    config: &ModelConfig,
    weights: &BackendWeights<B>,
    a: &mut Activations<B::Buffer>,
    first_row: usize,
    n_rows: usize,
) -> Result<(), Error> {
    let output = weights.output.as_ref().unwrap_or(&weights.token_embd);
    if first_row == 0 {
        return b.matmul(&mut a.logits, output, &a.xb, n_rows);
    }
    b.copy_rows(&mut a.head_xb, &a.xb, config.n_embd, first_row..first_row + n_rows)?;
    b.matmul(&mut a.logits, output, &a.head_xb, n_rows)
}

fn bias_add<B: Backend>(
    b: &mut B,
    y: &mut B::Buffer,
    linear: &Linear<B::Matrix, B::Vector>,
    n_tokens: usize,
) -> Result<(), Error> {
    match &linear.bias {
        Some(bias) => b.bias_add(y, bias, n_tokens),
        None => Ok(()),
    }
}
