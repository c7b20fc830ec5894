//! `convert`: a prefill's activations to f16.

use kernels_gpu::convert::{convert_bytes, convert_f32_f16};
use kernels_gpu::launch::{Device, Grid};
use kernels_gpu::simt::f16;
use oxwarp::cuda::{Cuda, Error};

use super::{CHECKED_ROWS, ELEMENTWISE};
use crate::case::{Case, Check, Subject, Work, allowed};
use crate::data::read;
use crate::error::Result;
use crate::lab::{Lab, Sets};

pub fn cases() -> Vec<Case> {
    let case = |shape: [usize; 2]| {
        let [n_rows, dim] = shape;
        // A comparison and a product.
        let work = Work::copying(convert_bytes(n_rows, dim), 2 * n_rows * dim);
        Case::new("convert", format!("f16 {n_rows}x{dim}"), work, move |lab| Convert::new(lab, shape))
    };
    ELEMENTWISE.into_iter().map(case).collect()
}

struct Convert {
    /// [n_rows, dim]
    shape: [usize; 2],
    n_sets: usize,
    y: Sets<f16>,
    scale: Sets<f32>,
    x: Sets<f32>,
}

impl Convert {
    fn new(lab: &Lab, shape: [usize; 2]) -> Result<Self> {
        let [n_rows, dim] = shape;
        let n = n_rows * dim;
        let n_sets = lab.n_sets((4 + 2) * n);
        let (y, scale) = (lab.zeros(n_sets, n)?, lab.zeros(n_sets, n_rows)?);
        Ok(Convert { shape, n_sets, y, scale, x: lab.normal(n_sets, n)? })
    }
}

impl Subject for Convert {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.y.size_bytes() + self.x.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let (y, scale, x) = (self.y.get_mut(set), self.scale.get_mut(set), self.x.get(set));
        let [n_rows, dim] = self.shape.map(|n| n as u32);
        device.launch(convert_f32_f16 { y, scale, x, dim }, Grid::x(n_rows))
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        Ok(device.zero(self.y.get_mut(0))?)
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        // Normal values need no scale.
        let part = 0..CHECKED_ROWS * self.shape[1];
        let expected = read(device, self.x.get(0).slice(part.clone()))?;
        let found = read(device, self.y.get(0).slice(part))?;
        let found: Vec<f32> = found.into_iter().map(|y| y as f32).collect();
        Ok(Check::of(&found, &expected, allowed::F16))
    }
}
