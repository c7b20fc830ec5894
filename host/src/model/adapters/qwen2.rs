//! Qwen2 and Qwen2.5: biases on q, k and v.

use crate::backend::RopePairs;
use crate::gguf::Gguf;

use super::super::config::ModelConfig;
use super::super::error::Error;
use super::super::hyper::Hyper;
use super::ModelAdapter;

pub(super) struct Qwen2;

impl ModelAdapter for Qwen2 {
    fn architecture(&self) -> &'static str {
        "qwen2"
    }

    fn config(&self, gguf: &Gguf<'_>) -> Result<ModelConfig, Error> {
        Hyper::new(gguf, self.architecture()).decoder(RopePairs::Half, true)
    }
}
