//! Reads hyper-parameters: the keys of one architecture, each checked against what it may be.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::backend::RopePairs;
use crate::gguf::{self, Gguf, Value};

use super::config::{ModelConfig, RopeConfig, RopeScaling};
use super::error::Error;
use super::rope;

/// Far beyond every model there is, and small enough that no product of two of them overflows.
const MAX_LAYERS: u64 = 4096;
const MAX_WIDTH: u64 = 1 << 24;
const MAX_HEADS: u64 = 1 << 16;
const MAX_CONTEXT: u64 = 1 << 30;
const MAX_VOCAB: u64 = 1 << 28;

/// The metadata of a file of a known architecture.
pub(super) struct Hyper<'a> {
    gguf: &'a Gguf<'a>,
    architecture: &'static str,
}

impl<'a> Hyper<'a> {
    pub fn new(gguf: &'a Gguf<'a>, architecture: &'static str) -> Self {
        Hyper { gguf, architecture }
    }

    /// The configuration of a decoder with RMS norms, rotated positions and a gated feed-forward part.
    pub fn decoder(&self, pairs: RopePairs, qkv_bias: bool) -> Result<ModelConfig, Error> {
        let n_layers = self.count("block_count", None, 1..=MAX_LAYERS)?;
        self.check_layer_count(n_layers)?;
        let n_embd = self.count("embedding_length", None, 1..=MAX_WIDTH)?;
        let n_heads = self.each_layer("attention.head_count", None, n_layers, 1..=MAX_HEADS)?;
        let n_kv_heads =
            self.each_layer("attention.head_count_kv", Some(n_heads), n_layers, 1..=n_heads as u64)?;
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(self.refused(
                "attention.head_count_kv",
                n_kv_heads,
                format!("a divisor of the {n_heads} of `{}`", self.key("attention.head_count")),
            ));
        }
        let head_dim = self.head_dim(n_embd, n_heads)?;
        Ok(ModelConfig {
            architecture: self.architecture,
            n_layers,
            n_ctx_train: self.count("context_length", None, 1..=MAX_CONTEXT)?,
            n_embd,
            n_ff: self.each_layer("feed_forward_length", None, n_layers, 1..=MAX_WIDTH)?,
            n_heads,
            n_kv_heads,
            head_dim,
            n_vocab: self.n_vocab()?,
            norm_eps: self.positive("attention.layer_norm_rms_epsilon", None)?,
            qkv_bias,
            tied_output: !self.has_tensor("output.weight"),
            rope: self.rope(pairs, head_dim)?,
        })
    }

    /// Refuses mixtures of experts.
    pub fn refuse_experts(&self) -> Result<(), Error> {
        match self.count("expert_count", Some(0), 0..=MAX_WIDTH)? {
            0 => Ok(()),
            n_experts => Err(self.unsupported("expert_count", n_experts, "a mixture of experts")),
        }
    }

    pub fn has_tensor(&self, name: &str) -> bool {
        self.gguf.opt_tensor(name).is_some()
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn refused(&self, name: &str, found: impl Display, allowed: impl Display) -> Error {
        gguf::Error::refused(&self.key(name), found, allowed).into()
    }

    fn unsupported(&self, name: &str, found: impl ToString, feature: &'static str) -> Error {
        Error::UnsupportedFeature { key: self.key(name), found: found.to_string(), feature }
    }

    /// An integer in `allowed`; `default` where the key is absent, or an error where there is none.
    fn count(
        &self,
        name: &str,
        default: Option<usize>,
        allowed: RangeInclusive<u64>,
    ) -> Result<usize, Error> {
        let key = self.key(name);
        let found = match default {
            Some(default) => self.gguf.opt_u64(&key)?.unwrap_or(default as u64),
            None => self.gguf.u64(&key)?,
        };
        self.within(name, found, allowed)
    }

    fn within(&self, name: &str, found: u64, allowed: RangeInclusive<u64>) -> Result<usize, Error> {
        match allowed.contains(&found) {
            true => Ok(usize::try_from(found).expect("the upper ends of all ranges fit")),
            false => Err(self.refused(name, found, format!("{} to {}", allowed.start(), allowed.end()))),
        }
    }

    /// As `count`, or an array that says the same number for each layer.
    fn each_layer(
        &self,
        name: &str,
        default: Option<usize>,
        n_layers: usize,
        allowed: RangeInclusive<u64>,
    ) -> Result<usize, Error> {
        let key = self.key(name);
        let sizes = match (self.gguf.opt_per_layer(&key)?, default) {
            (Some(sizes), _) => sizes,
            (None, Some(default)) => return Ok(default),
            (None, None) => self.gguf.per_layer(&key)?,
        };
        let first = sizes.of(&key, 0, n_layers)?;
        for layer in 1..n_layers {
            let size = sizes.of(&key, layer, n_layers)?;
            if size != first {
                let found = format!("{first} in layer 0 and {size} in layer {layer}");
                return Err(self.unsupported(name, found, "a size that varies from layer to layer"));
            }
        }
        self.within(name, u64::from(first), allowed)
    }

    /// A finite number above zero.
    fn positive(&self, name: &str, default: Option<f32>) -> Result<f32, Error> {
        let key = self.key(name);
        match default {
            Some(default) => Ok(self.gguf.opt_positive_f32(&key)?.unwrap_or(default)),
            None => Ok(self.gguf.positive_f32(&key)?),
        }
    }

    /// The layers that tensors are named for must be those that the metadata promise.
    fn check_layer_count(&self, declared: usize) -> Result<(), Error> {
        let layer_of = |name: &str| name.strip_prefix("blk.")?.split('.').next()?.parse::<usize>().ok();
        let last = self.gguf.tensors.iter().filter_map(|tensor| layer_of(tensor.name)).max();
        let present = last.map_or(0, |last| last.saturating_add(1));
        match present == declared {
            true => Ok(()),
            false => Err(Error::LayerCount { key: self.key("block_count"), declared, present }),
        }
    }

    fn head_dim(&self, n_embd: usize, n_heads: usize) -> Result<usize, Error> {
        let default = match n_embd.is_multiple_of(n_heads) {
            true => Some(n_embd / n_heads),
            false => None,
        };
        let stated = self.gguf.get(&self.key("attention.key_length")).is_some();
        if default.is_none() && !stated {
            let allowed = format!(
                "multiples of the {n_heads} of `{}`, where there is no `{}`",
                self.key("attention.head_count"),
                self.key("attention.key_length"),
            );
            return Err(self.refused("embedding_length", n_embd, allowed));
        }
        let head_dim = self.count("attention.key_length", default, 1..=MAX_HEADS)?;
        let value_dim = self.count("attention.value_length", Some(head_dim), 1..=MAX_HEADS)?;
        match value_dim == head_dim {
            true => Ok(head_dim),
            false => {
                Err(self.unsupported("attention.value_length", value_dim, "a length other than the keys'"))
            }
        }
    }

    fn rope(&self, pairs: RopePairs, head_dim: usize) -> Result<RopeConfig, Error> {
        let dim = self.count("rope.dimension_count", Some(head_dim), 2..=head_dim.max(2) as u64)?;
        if !dim.is_multiple_of(2) || dim > head_dim {
            let allowed = format!("even numbers from 2 to the head's {head_dim}");
            return Err(self.refused("rope.dimension_count", dim, allowed));
        }
        Ok(RopeConfig {
            pairs,
            dim,
            base: f64::from(self.positive("rope.freq_base", Some(10_000.0))?),
            scaling: self.rope_scaling()?,
            has_factors: self.has_tensor(rope::FACTORS),
        })
    }

    fn rope_scaling(&self) -> Result<RopeScaling, Error> {
        let kind = self.gguf.opt_str(&self.key("rope.scaling.type"))?;
        let factor = self.positive("rope.scaling.factor", Some(1.0))?;
        match kind {
            Some("none") => Ok(RopeScaling::None),
            None if factor == 1.0 => Ok(RopeScaling::None),
            Some("linear") | None => Ok(RopeScaling::Linear { factor: f64::from(factor) }),
            Some(other) => Err(self.unsupported("rope.scaling.type", format!("{other:?}"), "this scaling")),
        }
    }

    /// Rows of the embedding: as many as there are tokens.
    fn n_vocab(&self) -> Result<usize, Error> {
        if let Some(Value::Array(tokens)) = self.gguf.get("tokenizer.ggml.tokens") {
            let n_tokens = tokens.len();
            return match n_tokens as u64 {
                1..=MAX_VOCAB => Ok(n_tokens),
                _ => {
                    let allowed = format_args!("1 to {MAX_VOCAB} tokens");
                    Err(gguf::Error::refused(
                        "tokenizer.ggml.tokens",
                        format_args!("{n_tokens} tokens"),
                        allowed,
                    )
                    .into())
                }
            };
        }
        self.count("vocab_size", None, 1..=MAX_VOCAB)
    }
}
