//! `attention_decode`: one token over a long context, parts and merge.

use kernels_gpu::attention_decode::{
    attention_decode_bytes, attention_decode_f16, attention_decode_flops, attention_merge_f32,
};
use kernels_gpu::launch::{Device, Grid};
use oxwarp::cuda::{Cuda, Error};

use super::attention::{self, Cache, Composition};
use crate::case::{Case, Check, Peer, Subject, Work, allowed};
use crate::error::Result;
use crate::lab::{Lab, Sets};
use crate::torch::Attention;

const N_HEADS: usize = 32;
const N_KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;
const CONTEXTS: [usize; 3] = [4096, 32_768, 131_072];

pub fn cases() -> Vec<Case> {
    let case = |n_keys| {
        let shape =
            Attention { n_heads: N_HEADS, n_kv_heads: N_KV_HEADS, head_dim: HEAD_DIM, n_tokens: 1, n_keys };
        let bytes = attention_decode_bytes(n_keys, N_KV_HEADS, HEAD_DIM);
        let work = Work::reading(bytes, attention_decode_flops(n_keys, N_HEADS, HEAD_DIM));
        let make = move |lab: &Lab| Decode::new(lab, shape);
        Case::new("attention_decode", attention::name(shape), work, make).attention(shape)
    };
    CONTEXTS.into_iter().map(case).collect()
}

/// Parts of the keys, as the back end divides them: two blocks a multiprocessor, at least 64 keys each.
fn n_splits(n_multiprocessors: usize, n_heads: usize, n_ctx: usize) -> usize {
    (2 * n_multiprocessors).div_ceil(n_heads).min(n_ctx.div_ceil(64)).max(1)
}

struct Decode {
    cache: Cache,
    n_splits: usize,
    q: Sets<f32>,
    y: Sets<f32>,
    part_out: Sets<f32>,
    part_ml: Sets<f32>,
    peer: Composition,
}

impl Decode {
    fn new(lab: &Lab, shape: Attention) -> Result<Self> {
        let cache = Cache::new(lab, shape)?;
        let n = attention::n_queries(shape);
        let n_splits = n_splits(lab.n_multiprocessors(), shape.n_heads, shape.n_keys);
        Ok(Decode {
            n_splits,
            q: lab.normal(cache.n_sets, n)?,
            y: lab.zeros(cache.n_sets, n)?,
            part_out: lab.zeros(1, n * n_splits)?,
            part_ml: lab.zeros(1, shape.n_heads * n_splits * 2)?,
            peer: Composition::new(lab, &cache)?,
            cache,
        })
    }
}

impl Subject for Decode {
    fn n_sets(&self) -> usize {
        self.cache.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.cache.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let Attention { n_heads, n_kv_heads, head_dim, n_keys, .. } = self.cache.shape;
        let [n_heads, n_kv_heads, head_dim] = [n_heads, n_kv_heads, head_dim].map(|n| n as u32);
        let n_splits = self.n_splits as u32;
        let parts = attention_decode_f16 {
            part_out: self.part_out.get_mut(0),
            part_ml: self.part_ml.get_mut(0),
            q: self.q.get(set),
            k_cache: self.cache.k.get(set),
            v_cache: self.cache.v.get(set),
            positions: &self.cache.positions,
            n_heads,
            n_kv_heads,
            head_dim,
            n_ctx: n_keys as u32,
            scale: attention::scale(self.cache.shape),
            window: n_keys as u32,
        };
        device.launch(parts, Grid::xyz(n_heads, n_splits, 1))?;
        let merge = attention_merge_f32 {
            y: self.y.get_mut(set),
            part_out: self.part_out.get(0),
            part_ml: self.part_ml.get(0),
            n_heads,
            n_splits,
            head_dim,
        };
        device.launch(merge, Grid::xy(n_heads, 1))
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
