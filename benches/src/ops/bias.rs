//! `bias`: the rows of a prefill.

use kernels_gpu::bias::{ROWS, bias_add_f32, bias_blocks, bias_bytes};
use kernels_gpu::launch::{Device, Grid};
use oxwarp::cuda::{Cuda, Error};
use testkit::reference;

use super::{CHECKED_ROWS, ELEMENTWISE};
use crate::case::{Case, Check, Subject, Work, allowed};
use crate::data::read;
use crate::error::Result;
use crate::lab::{Lab, Sets};

pub fn cases() -> Vec<Case> {
    let case = |shape: [usize; 2]| {
        let [n_tokens, dim] = shape;
        let work = Work::copying(bias_bytes(n_tokens, dim), n_tokens * dim);
        Case::new("bias", format!("f32 {n_tokens}x{dim}"), work, move |lab| Bias::new(lab, shape))
    };
    ELEMENTWISE.into_iter().map(case).collect()
}

struct Bias {
    /// [n_tokens, dim]
    shape: [usize; 2],
    n_sets: usize,
    y: Sets<f32>,
    b: Sets<f32>,
    /// The checked rows of y before the launch.
    before: Vec<f64>,
}

impl Bias {
    fn new(lab: &Lab, shape: [usize; 2]) -> Result<Self> {
        let [n_tokens, dim] = shape;
        let n_sets = lab.n_sets(4 * n_tokens * dim);
        let (y, b) = (lab.normal(n_sets, n_tokens * dim)?, lab.normal(n_sets, dim)?);
        Ok(Bias { shape, n_sets, y, b, before: Vec::new() })
    }

    fn n_checked(&self) -> usize {
        CHECKED_ROWS * self.shape[1]
    }
}

impl Subject for Bias {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.y.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let [n_tokens, dim] = self.shape;
        let grid = Grid::xy(bias_blocks(dim) as u32, n_tokens.div_ceil(ROWS) as u32);
        let (y, b) = (self.y.get_mut(set), self.b.get(set));
        device.launch(bias_add_f32 { y, b, n_tokens: n_tokens as u32, dim: dim as u32 }, grid)
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        self.before = read(device, self.y.get(0).slice(0..self.n_checked()))?;
        Ok(())
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let mut expected = self.before.clone();
        reference::bias_add(&mut expected, &read(device, self.b.get(0))?);
        let found = device.download(self.y.get(0).slice(0..self.n_checked()))?;
        Ok(Check::of(&found, &expected, allowed::F32))
    }
}
