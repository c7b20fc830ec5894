//! `swiglu`: the gated activation of a prefill, and of one token, also converted for a product.

use kernels_gpu::gemv::{XOrder, gemv_x_blocks};
use kernels_gpu::launch::{Device, Grid};
use kernels_gpu::swiglu::{
    swiglu_blocks, swiglu_bytes, swiglu_converted_bytes, swiglu_f32, swiglu_f32_converted,
};
use oxwarp::cuda::{Cuda, Error};
use testkit::reference;

use super::converted::{Converted, Place};
use super::{CHECKED_ROWS, ELEMENTWISE};
use crate::case::{Case, Check, Subject, Work, allowed};
use crate::data::read;
use crate::error::Result;
use crate::lab::{Lab, Sets};

/// A negation, an exponential, a sum, a quotient, a product.
const FLOPS_PER_ELEMENT: usize = 5;

pub fn cases() -> Vec<Case> {
    let one = [1, 14336];
    let cases = ELEMENTWISE.into_iter().chain([one]).map(|shape| case(shape, None));
    cases.chain([case(one, Some(XOrder::Fixed))]).collect()
}

fn case([n_tokens, dim]: [usize; 2], order: Option<XOrder>) -> Case {
    let n = n_tokens * dim;
    let bytes = order.map_or(swiglu_bytes(n), |order| swiglu_converted_bytes(n, order));
    let work = Work::copying(bytes, FLOPS_PER_ELEMENT * n);
    let name = format!("f32 {n_tokens}x{dim}{}", if order.is_some() { " converted" } else { "" });
    Case::new("swiglu", name, work, move |lab| Swiglu::new(lab, n, n_tokens.min(CHECKED_ROWS) * dim, order))
}

struct Swiglu {
    n: usize,
    n_checked: usize,
    n_sets: usize,
    y: Sets<f32>,
    gate: Sets<f32>,
    up: Sets<f32>,
    converted: Option<Converted>,
}

impl Swiglu {
    fn new(lab: &Lab, n: usize, n_checked: usize, order: Option<XOrder>) -> Result<Self> {
        let n_sets = lab.n_sets(3 * 4 * n);
        let (gate, up) = (lab.normal(n_sets, n)?, lab.normal(n_sets, n)?);
        let converted = order.map(|order| Converted::new(lab, order, n_sets, n)).transpose()?;
        Ok(Swiglu { n, n_checked, n_sets, y: lab.zeros(n_sets, n)?, gate, up, converted })
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
        let n = self.n as u32;
        let Some(converted) = &mut self.converted else {
            return device.launch(swiglu_f32 { y, gate, up, n }, Grid::x(swiglu_blocks(self.n) as u32));
        };
        let Place { words, numbers, order } = converted.place(set);
        let gated = swiglu_f32_converted { y, words, numbers, gate, up, n, order };
        device.launch(gated, Grid::x(gemv_x_blocks(1, self.n) as u32))
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
