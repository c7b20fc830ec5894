//! `rope_kv`: queries, keys and values of a prefill, in f16.

use kernels_gpu::launch::{Device, DeviceBuffer, Grid};
use kernels_gpu::rope::rope_flops;
use kernels_gpu::rope_kv::{rope_kv_blocks, rope_kv_bytes, rope_kv_half_f16};
use kernels_gpu::simt::f16;
use oxwarp::cuda::{Cuda, Error};
use testkit::reference::{self, RopePairs};

use super::CHECKED_ROWS;
use crate::case::{Case, Check, Subject, Work, allowed};
use crate::data::read;
use crate::error::Result;
use crate::lab::{Lab, Sets};

const N_HEADS: usize = 32;
const N_KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;
const TOKENS: [usize; 2] = [512, 4096];
const BASE: f64 = 500_000.0;

pub fn cases() -> Vec<Case> {
    let case = |n_tokens| {
        let bytes = rope_kv_bytes(n_tokens, N_HEADS, N_KV_HEADS, HEAD_DIM, HEAD_DIM, 2);
        let work = Work::copying(bytes, rope_flops(n_tokens, N_HEADS + N_KV_HEADS, HEAD_DIM));
        let name = format!("f16 half {n_tokens}x({N_HEADS}+2x{N_KV_HEADS})x{HEAD_DIM}");
        Case::new("rope_kv", name, work, move |lab| RopeKv::new(lab, n_tokens))
    };
    TOKENS.into_iter().map(case).collect()
}

struct RopeKv {
    n_tokens: usize,
    n_sets: usize,
    y: Sets<f16>,
    k_cache: Sets<f16>,
    v_cache: Sets<f16>,
    q: Sets<f16>,
    k: Sets<f16>,
    v: Sets<f16>,
    table: DeviceBuffer<f32>,
    positions: DeviceBuffer<u32>,
}

impl RopeKv {
    fn new(lab: &Lab, n_tokens: usize) -> Result<Self> {
        let (n, n_kv) = (n_tokens * N_HEADS * HEAD_DIM, n_tokens * N_KV_HEADS * HEAD_DIM);
        let n_sets = lab.n_sets(2 * 2 * (n + 2 * n_kv));
        let table = reference::rope_table(n_tokens, HEAD_DIM, BASE);
        let table: Vec<f32> = table.iter().map(|&x| x as f32).collect();
        let positions: Vec<u32> = (0..n_tokens as u32).collect();
        Ok(RopeKv {
            n_tokens,
            n_sets,
            y: lab.zeros(n_sets, n)?,
            k_cache: lab.zeros(n_sets, n_kv)?,
            v_cache: lab.zeros(n_sets, n_kv)?,
            q: lab.normal(n_sets, n)?,
            k: lab.normal(n_sets, n_kv)?,
            v: lab.normal(n_sets, n_kv)?,
            table: lab.upload(&table)?,
            positions: lab.upload(&positions)?,
        })
    }
}

impl Subject for RopeKv {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        2 * (self.q.size_bytes() + self.k.size_bytes() + self.v.size_bytes())
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let kernel = rope_kv_half_f16 {
            y: self.y.get_mut(set),
            k_cache: self.k_cache.get_mut(set),
            v_cache: self.v_cache.get_mut(set),
            q: self.q.get(set),
            k: self.k.get(set),
            v: self.v.get(set),
            table: &self.table,
            positions: &self.positions,
            n_heads: N_HEADS as u32,
            n_kv_heads: N_KV_HEADS as u32,
            head_dim: HEAD_DIM as u32,
            rope_dim: HEAD_DIM as u32,
            n_ctx: self.n_tokens as u32,
        };
        let blocks = rope_kv_blocks(N_HEADS, N_KV_HEADS, HEAD_DIM);
        device.launch(kernel, Grid::xy(blocks as u32, self.n_tokens as u32))
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        device.zero(self.y.get_mut(0))?;
        device.zero(self.k_cache.get_mut(0))?;
        Ok(device.zero(self.v_cache.get_mut(0))?)
    }

    /// The queries of the last tokens, and their keys and values in the last head of the caches.
    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let first = self.n_tokens - CHECKED_ROWS;
        let positions: Vec<u32> = (first as u32..self.n_tokens as u32).collect();
        let table = read(device, &self.table)?;
        let tokens = |n_heads: usize| first * n_heads * HEAD_DIM..self.n_tokens * n_heads * HEAD_DIM;
        let mut found = read(device, self.y.get(0).slice(tokens(N_HEADS)))?;
        let mut expected = read(device, self.q.get(0).slice(tokens(N_HEADS)))?;
        reference::rope(&mut expected, &table, &positions, N_HEADS, HEAD_DIM, HEAD_DIM, RopePairs::Half);

        let mut k = read(device, self.k.get(0).slice(tokens(N_KV_HEADS)))?;
        reference::rope(&mut k, &table, &positions, N_KV_HEADS, HEAD_DIM, HEAD_DIM, RopePairs::Half);
        let v = read(device, self.v.get(0).slice(tokens(N_KV_HEADS)))?;
        let head = N_KV_HEADS - 1;
        let start = (head * self.n_tokens + first) * HEAD_DIM;
        for (cache, new) in [(&self.k_cache, k), (&self.v_cache, v)] {
            found.extend(read(device, cache.get(0).slice(start..start + CHECKED_ROWS * HEAD_DIM))?);
            for token in 0..CHECKED_ROWS {
                expected.extend(&new[(token * N_KV_HEADS + head) * HEAD_DIM..][..HEAD_DIM]);
            }
        }
        let found: Vec<f32> = found.into_iter().map(|y| y as f32).collect();
        Ok(Check::of(&found, &expected, allowed::F16))
    }
}
