//! `rope`: the queries of a prefill, both kinds of pairs.

use kernels_gpu::launch::{Device, DeviceBuffer, Grid};
use kernels_gpu::rope::{rope_adjacent_f32, rope_blocks, rope_bytes, rope_flops, rope_half_f32};
use oxwarp::cuda::{Cuda, Error};
use testkit::reference::{self, RopePairs};

use super::CHECKED_ROWS;
use crate::case::{Case, Check, Subject, Work, allowed};
use crate::data::read;
use crate::error::Result;
use crate::lab::{Lab, Sets};

const N_HEADS: usize = 32;
const HEAD_DIM: usize = 128;
const TOKENS: [usize; 2] = [512, 4096];
const BASE: f64 = 500_000.0;

pub fn cases() -> Vec<Case> {
    TOKENS.into_iter().flat_map(|n| [case(n, RopePairs::Adjacent), case(n, RopePairs::Half)]).collect()
}

fn case(n_tokens: usize, pairs: RopePairs) -> Case {
    let bytes = rope_bytes(n_tokens, N_HEADS, HEAD_DIM);
    let work = Work::copying(bytes, rope_flops(n_tokens, N_HEADS, HEAD_DIM));
    let kind = match pairs {
        RopePairs::Adjacent => "adjacent",
        RopePairs::Half => "half",
    };
    let name = format!("f32 {kind} {n_tokens}x{N_HEADS}x{HEAD_DIM}");
    Case::new("rope", name, work, move |lab| Rope::new(lab, n_tokens, pairs))
}

struct Rope {
    pairs: RopePairs,
    n_tokens: usize,
    n_sets: usize,
    x: Sets<f32>,
    table: DeviceBuffer<f32>,
    positions: DeviceBuffer<u32>,
    /// The checked rows of x before the launch.
    before: Vec<f64>,
}

impl Rope {
    fn new(lab: &Lab, n_tokens: usize, pairs: RopePairs) -> Result<Self> {
        let n = n_tokens * N_HEADS * HEAD_DIM;
        let n_sets = lab.n_sets(4 * n);
        let table = reference::rope_table(n_tokens, HEAD_DIM, BASE);
        let table: Vec<f32> = table.iter().map(|&x| x as f32).collect();
        let positions: Vec<u32> = (0..n_tokens as u32).collect();
        Ok(Rope {
            pairs,
            n_tokens,
            n_sets,
            x: lab.normal(n_sets, n)?,
            table: lab.upload(&table)?,
            positions: lab.upload(&positions)?,
            before: Vec::new(),
        })
    }

    /// The last tokens, whose angles are large.
    fn checked(&self) -> std::ops::Range<usize> {
        let width = N_HEADS * HEAD_DIM;
        (self.n_tokens - CHECKED_ROWS) * width..self.n_tokens * width
    }
}

impl Subject for Rope {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.x.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let grid = Grid::xy(rope_blocks(N_HEADS, HEAD_DIM, HEAD_DIM) as u32, self.n_tokens as u32);
        let (x, table, positions) = (self.x.get_mut(set), &*self.table, &*self.positions);
        let (n_heads, head_dim, rope_dim) = (N_HEADS as u32, HEAD_DIM as u32, HEAD_DIM as u32);
        match self.pairs {
            RopePairs::Adjacent => {
                device.launch(rope_adjacent_f32 { x, table, positions, n_heads, head_dim, rope_dim }, grid)
            }
            RopePairs::Half => {
                device.launch(rope_half_f32 { x, table, positions, n_heads, head_dim, rope_dim }, grid)
            }
        }
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        self.before = read(device, self.x.get(0).slice(self.checked()))?;
        Ok(())
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let mut expected = self.before.clone();
        let positions: Vec<u32> = ((self.n_tokens - CHECKED_ROWS) as u32..self.n_tokens as u32).collect();
        let table = read(device, &self.table)?;
        reference::rope(&mut expected, &table, &positions, N_HEADS, HEAD_DIM, HEAD_DIM, self.pairs);
        Ok(Check::of(&device.download(self.x.get(0).slice(self.checked()))?, &expected, allowed::F32))
    }
}
