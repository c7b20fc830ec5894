//! `attention_prefill`: prompts on any GPU.

use kernels_gpu::attention_prefill::{
    TILE_QUERIES, attention_prefill_bytes, attention_prefill_f16_d64, attention_prefill_f16_d128,
    attention_prefill_flops,
};
use kernels_gpu::launch::{Device, Grid};
use oxwarp::cuda::{Cuda, Error};

use super::attention::{self, Cache, Composition};
use crate::case::{Case, Check, Peer, Subject, Work, allowed};
use crate::error::Result;
use crate::lab::{Lab, Sets};
use crate::torch::Attention;

/// Heads, heads of keys, elements of a head, tokens.
const SHAPES: [[usize; 4]; 4] =
    [[32, 8, 128, 2048], [32, 8, 128, 8192], [14, 2, 64, 8192], [32, 32, 96, 8192]];

pub fn cases() -> Vec<Case> {
    let case = |[n_heads, n_kv_heads, head_dim, n_tokens]: [usize; 4]| {
        let shape = Attention { n_heads, n_kv_heads, head_dim, n_tokens, n_keys: n_tokens };
        let bytes = attention_prefill_bytes(n_tokens, n_tokens, n_heads, n_kv_heads, head_dim);
        let work = Work::reading(bytes, attention_prefill_flops(n_tokens, n_tokens, n_heads, head_dim));
        let make = move |lab: &Lab| Prefill::new(lab, shape);
        Case::new("attention_prefill", attention::name(shape), work, make).attention(shape)
    };
    SHAPES.into_iter().map(case).collect()
}

struct Prefill {
    cache: Cache,
    q: Sets<f32>,
    y: Sets<f32>,
    peer: Composition,
}

impl Prefill {
    fn new(lab: &Lab, shape: Attention) -> Result<Self> {
        let cache = Cache::new(lab, shape)?;
        let n = attention::n_queries(shape);
        let (q, y) = (lab.normal(cache.n_sets, n)?, lab.zeros(cache.n_sets, n)?);
        Ok(Prefill { q, y, peer: Composition::new(lab, &cache)?, cache })
    }
}

impl Subject for Prefill {
    fn n_sets(&self) -> usize {
        self.cache.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.cache.size_bytes() + self.q.size_bytes() + self.y.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let Attention { n_heads, n_kv_heads, head_dim, n_tokens, n_keys } = self.cache.shape;
        let (y, q) = (self.y.get_mut(set), self.q.get(set));
        let (k_cache, v_cache) = (self.cache.k.get(set), self.cache.v.get(set));
        let positions = &*self.cache.positions;
        let scale = attention::scale(self.cache.shape);
        let grid = Grid::xy(n_tokens.div_ceil(TILE_QUERIES) as u32, n_heads as u32);
        let [n_heads, n_kv_heads, n_tokens] = [n_heads, n_kv_heads, n_tokens].map(|n| n as u32);
        let [head_dim, n_ctx] = [head_dim, n_keys].map(|n| n as u32);
        macro_rules! launch {
            ($kernel:ident) => {
                device.launch(
                    $kernel {
                        y,
                        q,
                        k_cache,
                        v_cache,
                        positions,
                        n_tokens,
                        n_heads,
                        n_kv_heads,
                        head_dim,
                        n_ctx,
                        scale,
                    },
                    grid,
                )
            };
        }
        match head_dim {
            ..=64 => launch!(attention_prefill_f16_d64),
            _ => launch!(attention_prefill_f16_d128),
        }
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        Ok(device.zero(self.y.get_mut(0))?)
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        self.cache.check(device, self.y.get(0), self.q.get(0), allowed::ATTENTION_F32)
    }

    fn peer(&mut self) -> Option<Peer> {
        Some(self.peer.peer(&self.cache))
    }
}
