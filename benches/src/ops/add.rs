//! `add`: the residual stream of a prefill.

use kernels_gpu::add::{add_blocks, add_bytes, add_f32};
use kernels_gpu::launch::{Device, Grid};
use oxwarp::cuda::{Cuda, Error};
use testkit::reference;

use super::{CHECKED_ROWS, ELEMENTWISE};
use crate::case::{Case, Check, Subject, Work, allowed};
use crate::data::read;
use crate::error::Result;
use crate::lab::{Lab, Sets};

pub fn cases() -> Vec<Case> {
    let case = |[n_tokens, dim]: [usize; 2]| {
        let n = n_tokens * dim;
        let work = Work::copying(add_bytes(n), n);
        Case::new("add", format!("f32 {n_tokens}x{dim}"), work, move |lab| {
            Add::new(lab, n, CHECKED_ROWS * dim)
        })
    };
    ELEMENTWISE.into_iter().map(case).collect()
}

struct Add {
    n: usize,
    n_checked: usize,
    n_sets: usize,
    x: Sets<f32>,
    branch: Sets<f32>,
    /// The checked part of x before the launch.
    before: Vec<f64>,
}

impl Add {
    fn new(lab: &Lab, n: usize, n_checked: usize) -> Result<Self> {
        let n_sets = lab.n_sets(2 * 4 * n);
        let (x, branch) = (lab.normal(n_sets, n)?, lab.normal(n_sets, n)?);
        Ok(Add { n, n_checked, n_sets, x, branch, before: Vec::new() })
    }
}

impl Subject for Add {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.x.size_bytes() + self.branch.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let add = add_f32 { x: self.x.get_mut(set), branch: self.branch.get(set), n: self.n as u32 };
        device.launch(add, Grid::x(add_blocks(self.n) as u32))
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        self.before = read(device, self.x.get(0).slice(0..self.n_checked))?;
        Ok(())
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let mut expected = self.before.clone();
        reference::add(&mut expected, &read(device, self.branch.get(0).slice(0..self.n_checked))?);
        let found = device.download(self.x.get(0).slice(0..self.n_checked))?;
        Ok(Check::of(&found, &expected, allowed::F32))
    }
}
