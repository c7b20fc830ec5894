//! `narrow`: a prefill's activations, before products with quantised weights.

use kernels_gpu::launch::{Device, Grid};
use kernels_gpu::narrow::{narrow_bytes, narrow_f16, place};
use kernels_gpu::simt::f16;
use oxwarp::cuda::{Cuda, Error};
use testkit::reference;

use super::{CHECKED_ROWS, ELEMENTWISE};
use crate::case::{Case, Check, Subject, Work, allowed};
use crate::data::read;
use crate::error::Result;
use crate::lab::{Lab, Sets};

pub fn cases() -> Vec<Case> {
    ELEMENTWISE.into_iter().map(case).collect()
}

fn case(shape: [usize; 2]) -> Case {
    let [n_rows, dim] = shape;
    let work = Work::copying(narrow_bytes(n_rows, dim), 0);
    Case::new("narrow", format!("f16 {n_rows}x{dim}"), work, move |lab| Narrow::new(lab, shape))
}

struct Narrow {
    /// [n_rows, dim]
    shape: [usize; 2],
    n_sets: usize,
    y: Sets<f16>,
    scales: Sets<f32>,
    x: Sets<f32>,
}

impl Narrow {
    fn new(lab: &Lab, shape: [usize; 2]) -> Result<Self> {
        let [n_rows, dim] = shape;
        let n_sets = lab.n_sets(narrow_bytes(n_rows, dim));
        let (y, scales) = (lab.zeros(n_sets, n_rows * dim)?, lab.zeros(n_sets, n_rows)?);
        Ok(Narrow { shape, n_sets, y, scales, x: lab.normal(n_sets, n_rows * dim)? })
    }
}

impl Subject for Narrow {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.y.size_bytes() + self.x.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let [n_rows, dim] = self.shape.map(|n| n as u32);
        let (y, scales, x) = (self.y.get_mut(set), self.scales.get_mut(set), self.x.get(set));
        device.launch(narrow_f16 { y, scales, x, dim }, Grid::x(n_rows))
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        device.zero(self.scales.get_mut(0))?;
        Ok(device.zero(self.y.get_mut(0))?)
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let dim = self.shape[1];
        let n_rows = CHECKED_ROWS.min(self.shape[0]);
        let x = read(device, self.x.get(0).slice(0..n_rows * dim))?;
        let (mut expected, mut scales) = (vec![0.0; x.len()], vec![0.0; n_rows]);
        reference::narrow(&mut expected, &mut scales, &x, dim);
        let y = read(device, self.y.get(0).slice(0..n_rows * dim))?;
        let mut found: Vec<f32> = (0..y.len()).map(|i| y[i / dim * dim + place(i % dim)] as f32).collect();
        found
            .extend(read(device, self.scales.get(0).slice(0..n_rows))?.into_iter().map(|scale| scale as f32));
        expected.extend(scales);
        Ok(Check::of(&found, &expected, allowed::F16))
    }
}
