//! Sizes and kinds of a model, as plain numbers. Every field has been checked against the ranges that its adapter
//! allows and, once the weights are counted, against every tensor's shape.

use super::rope::{LongRopeScaling, YarnScaling};
use crate::backend::{AttentionShape, BatchShape, KvShape, RopePairs, RopeShape};

/// One model of any supported architecture.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `general.architecture`, the name of the adapter that made this.
    pub architecture: &'static str,
    pub n_layers: usize,
    /// Positions that the model was trained for.
    pub n_ctx_train: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Width between the feed-forward matrices.
    pub n_ff: usize,
    pub n_heads: usize,
    /// Divides `n_heads`; each head of keys and values serves `n_heads / n_kv_heads` query heads.
    pub n_kv_heads: usize,
    /// Elements of one head of q, k and v.
    pub head_dim: usize,
    /// Rows of the embedding and the width of the logits.
    pub n_vocab: usize,
    /// Added to the mean of squares in every norm.
    pub norm_eps: f32,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the embedding is the output matrix too.
    pub tied_output: bool,
    pub rope: RopeConfig,
}

/// How positions turn queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    pub pairs: RopePairs,
    /// Elements of a head that turn: even, at most `head_dim`.
    pub dim: usize,
    /// Pair i of position p turns by p · base^(-2i / dim), before scaling.
    pub base: f64,
    pub scaling: RopeScaling,
    /// Whether `rope_freqs.weight` divides the frequencies (Llama 3.1 and later).
    pub has_factors: bool,
}

/// Stretches the trained context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// All angles divided by the factor.
    Linear {
        factor: f64,
    },
    /// Slow pairs stretched, fast ones not.
    Yarn(YarnScaling),
    /// A divisor for each pair, which the frequency factors hold.
    LongRope(LongRopeScaling),
}

impl ModelConfig {
    /// Width of q and of the attention's output.
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of k and of v.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    pub fn kv_shape(&self, n_ctx: usize) -> KvShape {
        KvShape { n_kv_heads: self.n_kv_heads, n_ctx, head_dim: self.head_dim }
    }

    pub fn attention_shape(&self) -> AttentionShape {
        AttentionShape {
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            scale: (1.0 / (self.head_dim as f64).sqrt()) as f32,
        }
    }

    /// What batches of `n_tokens` tokens are made of.
    pub fn batch_shape(&self, n_tokens: usize) -> BatchShape {
        let n_cols = self.n_embd.max(self.n_ff).max(self.q_dim());
        BatchShape { n_tokens, n_cols, q_dim: self.q_dim() }
    }

    /// How `n_heads` heads of queries or keys turn.
    pub fn rope_shape(&self, n_heads: usize) -> RopeShape {
        RopeShape { pairs: self.rope.pairs, n_heads, head_dim: self.head_dim, rope_dim: self.rope.dim }
    }
}
