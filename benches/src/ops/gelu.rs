//! `gelu`: the plain activation of a prefill, both forms.

use kernels_gpu::gelu::{gelu_blocks, gelu_bytes, gelu_f32, gelu_tanh_f32};
use kernels_gpu::launch::{Device, Grid};
use oxwarp::cuda::{Cuda, Error};
use testkit::reference::{self, Gelu};

use super::{CHECKED_ROWS, ELEMENTWISE};
use crate::case::{Case, Check, Subject, Work, allowed};
use crate::data::read;
use crate::error::Result;
use crate::lab::{Lab, Sets};

/// An exponential, a reciprocal, and a polynomial of degree nine or a cubic.
const fn flops_per_element(form: Gelu) -> usize {
    match form {
        Gelu::Erf => 27,
        Gelu::Tanh => 8,
    }
}

pub fn cases() -> Vec<Case> {
    ELEMENTWISE.into_iter().flat_map(|shape| [case(shape, Gelu::Erf), case(shape, Gelu::Tanh)]).collect()
}

fn case([n_tokens, dim]: [usize; 2], form: Gelu) -> Case {
    let n = n_tokens * dim;
    let work = Work::copying(gelu_bytes(n, 4), flops_per_element(form) * n);
    let name = match form {
        Gelu::Erf => format!("f32 {n_tokens}x{dim}"),
        Gelu::Tanh => format!("f32 tanh {n_tokens}x{dim}"),
    };
    Case::new("gelu", name, work, move |lab| Activation::new(lab, n, CHECKED_ROWS * dim, form))
}

struct Activation {
    form: Gelu,
    n: usize,
    n_checked: usize,
    n_sets: usize,
    y: Sets<f32>,
    x: Sets<f32>,
}

impl Activation {
    fn new(lab: &Lab, n: usize, n_checked: usize, form: Gelu) -> Result<Self> {
        let n_sets = lab.n_sets(2 * 4 * n);
        Ok(Activation { form, n, n_checked, n_sets, y: lab.zeros(n_sets, n)?, x: lab.normal(n_sets, n)? })
    }
}

impl Subject for Activation {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.y.size_bytes() + self.x.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let (y, x, n) = (self.y.get_mut(set), self.x.get(set), self.n as u32);
        let grid = Grid::x(gelu_blocks(self.n) as u32);
        match self.form {
            Gelu::Erf => device.launch(gelu_f32 { y, x, n }, grid),
            Gelu::Tanh => device.launch(gelu_tanh_f32 { y, x, n }, grid),
        }
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        Ok(device.zero(self.y.get_mut(0))?)
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let part = 0..self.n_checked;
        let x = read(device, self.x.get(0).slice(part.clone()))?;
        let mut expected = vec![0.0; part.len()];
        reference::gelu(&mut expected, &x, self.form);
        Ok(Check::of(&device.download(self.y.get(0).slice(part))?, &expected, allowed::F32))
    }
}
