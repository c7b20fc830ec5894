//! `attention_wgmma`: prompts of 8k and 16k tokens.

use kernels_gpu::attention_wgmma::attention_flops;
use kernels_gpu::attention_wgmma::prefill::{Inputs, Prefill};
use kernels_gpu::launch::{Device as _, DeviceBuffer, Purpose};
use kernels_gpu::simt::f16;
use oxwarp::cuda::{Cuda, Error};

use super::attention::{self, Cache, Composition};
use crate::case::{Case, Check, Peer, Subject, Work, allowed};
use crate::error::Result;
use crate::lab::{Lab, Sets};
use crate::torch::Attention;

/// Heads, heads of keys, elements of a head, tokens.
const SHAPES: [[usize; 4]; 4] =
    [[32, 8, 128, 8192], [32, 8, 128, 16_384], [14, 2, 64, 8192], [32, 32, 96, 8192]];

pub fn cases() -> Vec<Case> {
    let case = |[n_heads, n_kv_heads, head_dim, n_tokens]: [usize; 4]| {
        let shape = Attention { n_heads, n_kv_heads, head_dim, n_tokens, n_keys: n_tokens };
        let bytes = prefill(shape).bytes() as usize;
        let work = Work::reading(bytes, attention_flops(n_tokens, n_heads, head_dim) as usize);
        let make = move |lab: &Lab| Wgmma::new(lab, shape);
        Case::new("attention_wgmma", attention::name(shape), work, make).attention(shape).hopper()
    };
    SHAPES.into_iter().map(case).collect()
}

/// The launch of a shape.
fn prefill(shape: Attention) -> Prefill {
    let Attention { n_heads, n_kv_heads, head_dim, n_tokens, n_keys } = shape;
    Prefill { n_tokens, n_heads, n_kv_heads, head_dim, n_ctx: n_keys, scale: attention::scale(shape) }
}

struct Wgmma {
    cache: Cache,
    q: Sets<f16>,
    y: Sets<f32>,
    next: DeviceBuffer<u32>,
    peer: Composition,
}

impl Wgmma {
    fn new(lab: &Lab, shape: Attention) -> Result<Self> {
        let cache = Cache::new(lab, shape)?;
        let n = attention::n_queries(shape);
        let (q, y) = (lab.normal(cache.n_sets, n)?, lab.zeros(cache.n_sets, n)?);
        let next = lab.device.upload(&[0], Purpose::Other)?;
        Ok(Wgmma { q, y, next, peer: Composition::new(lab, &cache)?, cache })
    }
}

impl Subject for Wgmma {
    fn n_sets(&self) -> usize {
        self.cache.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.cache.size_bytes() + self.q.size_bytes() + self.y.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let (y, q) = (self.y.get_mut(set), self.q.get(set));
        let (k_cache, v_cache) = (self.cache.k.get(set), self.cache.v.get(set));
        let inputs = Inputs { q, k_cache, v_cache, positions: &self.cache.positions };
        let n_multiprocessors = device.info().n_multiprocessors;
        prefill(self.cache.shape).launch(device, n_multiprocessors, y, inputs, &mut self.next)
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        Ok(device.zero(self.y.get_mut(0))?)
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        // weights of 16 bits.
        self.cache.check(device, self.y.get(0), self.q.get(0), allowed::F16 + allowed::ATTENTION_F32)
    }

    fn peer(&mut self) -> Option<Peer> {
        Some(self.peer.peer(&self.cache))
    }
}
