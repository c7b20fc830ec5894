//! `gemm_mma`: the same shapes as `gemm_wgmma`, f16 with results in f32.

use kernels_gpu::gemm_mma::{gemm_f16_f16, gemm_mma_bytes, gemm_mma_flops, gemm_mma_grid};
use kernels_gpu::launch::{Device, Grid};
use kernels_gpu::simt::f16;
use oxwarp::cuda::{Cuda, Error};

use super::{gemm_wgmma, product};
use crate::case::{Case, Check, Peer, Subject, Work, allowed};
use crate::error::Result;
use crate::lab::{Lab, Sets};
use crate::vendor::Product;

pub fn cases() -> Vec<Case> {
    let case = |shape: [usize; 3]| {
        let [n_tokens, n_rows, n_cols] = shape;
        let bytes = gemm_mma_bytes(n_tokens, n_rows, n_cols);
        let work = Work::reading(bytes, gemm_mma_flops(n_tokens, n_rows, n_cols));
        let name = format!("f16 {n_tokens}x{n_rows}x{n_cols}");
        Case::new("gemm_mma", name, work, move |lab| Gemm::new(lab, shape))
    };
    gemm_wgmma::shapes().into_iter().map(case).collect()
}

struct Gemm {
    /// [n_tokens, n_rows, n_cols]
    shape: [usize; 3],
    n_sets: usize,
    y: Sets<f32>,
    w: Sets<f16>,
    x: Sets<f16>,
}

impl Gemm {
    fn new(lab: &Lab, shape: [usize; 3]) -> Result<Self> {
        let [n_tokens, n_rows, n_cols] = shape;
        let n_sets = lab.n_sets(gemm_mma_bytes(n_tokens, n_rows, n_cols));
        let y = lab.zeros(n_sets, n_tokens * n_rows)?;
        let (w, x) = (lab.normal(n_sets, n_rows * n_cols)?, lab.normal(n_sets, n_tokens * n_cols)?);
        Ok(Gemm { shape, n_sets, y, w, x })
    }
}

impl Subject for Gemm {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.y.size_bytes() + self.w.size_bytes() + self.x.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let [n_tokens, n_rows, n_cols] = self.shape;
        let (blocks_x, blocks_y) = gemm_mma_grid(n_tokens, n_rows);
        let [n_tokens, n_rows, n_cols] = [n_tokens, n_rows, n_cols].map(|n| n as u32);
        let (y, w, x) = (self.y.get_mut(set), self.w.get(set), self.x.get(set));
        let grid = Grid::xy(blocks_x as u32, blocks_y as u32);
        device.launch(gemm_f16_f16 { y, w, x, n_tokens, n_rows, n_cols }, grid)
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        Ok(device.zero(self.y.get_mut(0))?)
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let allowed = allowed::tensor_cores(self.shape[2]);
        product::check(device, self.y.get(0), self.w.get(0), self.x.get(0), self.shape, allowed)
    }

    fn peer(&mut self) -> Option<Peer> {
        let shape = self.shape;
        let product = |set| Product::new(self.y.get_mut(set), self.w.get(set), self.x.get(set), shape);
        Some(Peer::same((0..self.n_sets).map(product).map(|product| vec![product]).collect()))
    }
}
