//! Llama, and everything that calls itself so: SmolLM2, TinyLlama, Mistral 7B.

use crate::backend::RopePairs;
use crate::gguf::Gguf;

use super::super::config::ModelConfig;
use super::super::error::Error;
use super::super::hyper::Hyper;
use super::ModelAdapter;

pub(super) struct Llama;

impl ModelAdapter for Llama {
    fn architecture(&self) -> &'static str {
        "llama"
    }

    fn config(&self, gguf: &Gguf<'_>) -> Result<ModelConfig, Error> {
        let hyper = Hyper::new(gguf, self.architecture());
        hyper.refuse_experts()?;
        let qkv_bias = hyper.has_tensor("blk.0.attn_q.bias");
        // Converters permute q and k of this architecture alone, so that pairs lie side by side.
        hyper.decoder(RopePairs::Adjacent, qkv_bias)
    }
}
