//! `kv_write`: new keys and values of a prefill into the cache.

use kernels_gpu::kv_cache::{kv_write_blocks, kv_write_bytes, kv_write_f16};
use kernels_gpu::launch::{Device, DeviceBuffer, Grid};
use kernels_gpu::simt::f16;
use oxwarp::cuda::{Cuda, Error};

use crate::case::{Case, Check, Subject, Work, allowed};
use crate::data::read;
use crate::error::Result;
use crate::lab::{Lab, Sets};

const N_KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;
const TOKENS: [usize; 2] = [512, 4096];

pub fn cases() -> Vec<Case> {
    let case = |n_tokens| {
        let work = Work::copying(kv_write_bytes(n_tokens, N_KV_HEADS, HEAD_DIM), 0);
        let name = format!("f16 {n_tokens}x{N_KV_HEADS}x{HEAD_DIM}");
        Case::new("kv_write", name, work, move |lab| KvWrite::new(lab, n_tokens))
    };
    TOKENS.into_iter().map(case).collect()
}

struct KvWrite {
    n_tokens: usize,
    n_sets: usize,
    k_cache: Sets<f16>,
    v_cache: Sets<f16>,
    k: Sets<f32>,
    v: Sets<f32>,
    positions: DeviceBuffer<u32>,
}

impl KvWrite {
    fn new(lab: &Lab, n_tokens: usize) -> Result<Self> {
        let n = n_tokens * N_KV_HEADS * HEAD_DIM;
        let n_sets = lab.n_sets(kv_write_bytes(n_tokens, N_KV_HEADS, HEAD_DIM));
        let positions: Vec<u32> = (0..n_tokens as u32).collect();
        Ok(KvWrite {
            n_tokens,
            n_sets,
            k_cache: lab.zeros(n_sets, n)?,
            v_cache: lab.zeros(n_sets, n)?,
            k: lab.normal(n_sets, n)?,
            v: lab.normal(n_sets, n)?,
            positions: lab.upload(&positions)?,
        })
    }
}

impl Subject for KvWrite {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.k.size_bytes() + self.v.size_bytes() + self.k_cache.size_bytes() + self.v_cache.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let write = kv_write_f16 {
            k_cache: self.k_cache.get_mut(set),
            v_cache: self.v_cache.get_mut(set),
            k: self.k.get(set),
            v: self.v.get(set),
            positions: &self.positions,
            n_kv_heads: N_KV_HEADS as u32,
            head_dim: HEAD_DIM as u32,
            n_ctx: self.n_tokens as u32,
        };
        device.launch(write, Grid::xy(kv_write_blocks(N_KV_HEADS, HEAD_DIM) as u32, self.n_tokens as u32))
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        device.zero(self.k_cache.get_mut(0))?;
        Ok(device.zero(self.v_cache.get_mut(0))?)
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        // The last head, which lies last in the cache.
        let head = N_KV_HEADS - 1;
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        for (cache, source) in [(&self.k_cache, &self.k), (&self.v_cache, &self.v)] {
            let start = head * self.n_tokens * HEAD_DIM;
            let written = cache.get(0).slice(start..start + self.n_tokens * HEAD_DIM);
            found.extend(read(device, written)?.into_iter().map(|x| x as f32));
            let source = read(device, source.get(0))?;
            for token in 0..self.n_tokens {
                expected.extend(&source[(token * N_KV_HEADS + head) * HEAD_DIM..][..HEAD_DIM]);
            }
        }
        Ok(Check::of(&found, &expected, allowed::F16))
    }
}
