//! `swiglu`: the gated activation of a prefill.

use kernels_gpu::launch::{Device, Grid};
use kernels_gpu::swiglu::{swiglu_blocks, swiglu_bytes, swiglu_f32};
use oxwarp::cuda::{Cuda, Error};
use testkit::reference;

use super::{CHECKED_ROWS, ELEMENTWISE};
use crate::case::{Case, Check, Subject, Work, allowed};
use crate::data::read;
use crate::error::Result;
use crate::lab::{Lab, Sets};

/// A negation, an exponential, a sum, a quotient, a product.
const FLOPS_PER_ELEMENT: usize = 5;

pub fn cases() -> Vec<Case> {
    let case = |[n_tokens, dim]: [usize; 2]| {
        let n = n_tokens * dim;
        let work = Work::copying(swiglu_bytes(n), FLOPS_PER_ELEMENT * n);
        let name = format!("f32 {n_tokens}x{dim}");
        Case::new("swiglu", name, work, move |lab| Swiglu::new(lab, n, CHECKED_ROWS * dim))
    };
    ELEMENTWISE.into_iter().map(case).collect()
}

struct Swiglu {
    n: usize,
    n_checked: usize,
    n_sets: usize,
    y: Sets<f32>,
    gate: Sets<f32>,
    up: Sets<f32>,
}

impl Swiglu {
    fn new(lab: &Lab, n: usize, n_checked: usize) -> Result<Self> {
        let n_sets = lab.n_sets(3 * 4 * n);
        let (gate, up) = (lab.normal(n_sets, n)?, lab.normal(n_sets, n)?);
        Ok(Swiglu { n, n_checked, n_sets, y: lab.zeros(n_sets, n)?, gate, up })
    }
}

impl Subject for Swiglu {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.y.size_bytes() + self.gate.size_bytes() + self.up.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let (y, gate, up) = (self.y.get_mut(set), self.gate.get(set), self.up.get(set));
        let grid = Grid::x(swiglu_blocks(self.n) as u32);
        device.launch(swiglu_f32 { y, gate, up, n: self.n as u32 }, grid)
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        Ok(device.zero(self.y.get_mut(0))?)
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let part = 0..self.n_checked;
        let gate = read(device, self.gate.get(0).slice(part.clone()))?;
        let up = read(device, self.up.get(0).slice(part.clone()))?;
        let mut expected = vec![0.0; part.len()];
        reference::swiglu(&mut expected, &gate, &up);
        Ok(Check::of(&device.download(self.y.get(0).slice(part))?, &expected, allowed::F32))
    }
}
