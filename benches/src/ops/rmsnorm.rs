//! `rmsnorm`: one token, and a prefill's; alone and with the residual's addition; of one token also converted for products.

use kernels_gpu::gemv::XOrder;
use kernels_gpu::launch::{Device, Grid};
use kernels_gpu::rmsnorm::{
    rmsnorm_add_bytes, rmsnorm_add_f32, rmsnorm_add_f32_converted, rmsnorm_bytes, rmsnorm_converted_bytes,
    rmsnorm_f32, rmsnorm_f32_converted, rmsnorm_flops,
};
use oxwarp::cuda::{Cuda, Error};
use testkit::reference;

use super::CHECKED_ROWS;
use super::converted::{Converted, Place};
use crate::case::{Case, Check, Subject, Work, allowed};
use crate::data::read;
use crate::error::Result;
use crate::lab::{Lab, Sets};

/// Rows and elements of a row.
const SHAPES: [[usize; 2]; 3] = [[1, 4096], [512, 4096], [4096, 4096]];
const EPS: f32 = 1e-5;

pub fn cases() -> Vec<Case> {
    let one = [1, 4096];
    let each = |shape| [false, true].map(|with_add| case(shape, with_add, None));
    let converted = [false, true].map(|with_add| case(one, with_add, Some(XOrder::Fixed)));
    SHAPES.into_iter().flat_map(each).chain(converted).collect()
}

fn case(shape: [usize; 2], with_add: bool, order: Option<XOrder>) -> Case {
    let [n_rows, dim] = shape;
    let bytes = match order {
        Some(order) => rmsnorm_converted_bytes(dim, with_add, order),
        None if with_add => rmsnorm_add_bytes(n_rows, dim),
        None => rmsnorm_bytes(n_rows, dim),
    };
    let work = Work::copying(bytes, rmsnorm_flops(n_rows, dim, with_add));
    let converted = if order.is_some() { " converted" } else { "" };
    let name = format!("f32 {}{n_rows}x{dim}{converted}", if with_add { "add " } else { "" });
    Case::new("rmsnorm", name, work, move |lab| Rmsnorm::new(lab, shape, with_add, order))
}

struct Rmsnorm {
    /// [n_rows, dim]
    shape: [usize; 2],
    n_sets: usize,
    y: Sets<f32>,
    x: Sets<f32>,
    branch: Option<Sets<f32>>,
    w: Sets<f32>,
    /// One row, converted.
    converted: Option<Converted>,
    /// The checked rows of x before the launch.
    before: Vec<f64>,
}

impl Rmsnorm {
    fn new(lab: &Lab, shape: [usize; 2], with_add: bool, order: Option<XOrder>) -> Result<Self> {
        let [n_rows, dim] = shape;
        let n = n_rows * dim;
        let n_sets = lab.n_sets(4 * n * if with_add { 3 } else { 2 });
        Ok(Rmsnorm {
            shape,
            n_sets,
            y: lab.zeros(n_sets, n)?,
            x: lab.normal(n_sets, n)?,
            branch: if with_add { Some(lab.normal(n_sets, n)?) } else { None },
            w: lab.normal(n_sets, dim)?,
            converted: order.map(|order| Converted::new(lab, order, n_sets, dim)).transpose()?,
            before: Vec::new(),
        })
    }

    fn n_checked(&self) -> usize {
        CHECKED_ROWS.min(self.shape[0]) * self.shape[1]
    }
}

impl Subject for Rmsnorm {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.y.size_bytes() + self.x.size_bytes() + self.branch.as_ref().map_or(0, Sets::size_bytes)
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let (grid, dim, eps) = (Grid::x(self.shape[0] as u32), self.shape[1] as u32, EPS);
        let (y, w) = (self.y.get_mut(set), self.w.get(set));
        if let Some(converted) = &mut self.converted {
            let Place { words, numbers, order } = converted.place(set);
            return match &self.branch {
                None => {
                    let x = self.x.get(set);
                    device.launch(rmsnorm_f32_converted { y, words, numbers, x, w, dim, eps, order }, grid)
                }
                Some(branch) => {
                    let (x, branch) = (self.x.get_mut(set), branch.get(set));
                    let norm = rmsnorm_add_f32_converted { y, words, numbers, x, branch, w, dim, eps, order };
                    device.launch(norm, grid)
                }
            };
        }
        match &self.branch {
            None => device.launch(rmsnorm_f32 { y, x: self.x.get(set), w, dim, eps }, grid),
            Some(branch) => {
                let (x, branch) = (self.x.get_mut(set), branch.get(set));
                device.launch(rmsnorm_add_f32 { y, x, branch, w, dim, eps }, grid)
            }
        }
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        device.zero(self.y.get_mut(0))?;
        self.before = read(device, self.x.get(0).slice(0..self.n_checked()))?;
        Ok(())
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let (part, w) = (0..self.n_checked(), read(device, self.w.get(0))?);
        let (mut x, mut expected) = (self.before.clone(), vec![0.0; part.len()]);
        match &self.branch {
            None => reference::rmsnorm(&mut expected, &x, &w, f64::from(EPS)),
            Some(branch) => {
                let branch = read(device, branch.get(0).slice(part.clone()))?;
                reference::rmsnorm_add(&mut expected, &mut x, &branch, &w, f64::from(EPS));
            }
        }
        Ok(Check::of(&device.download(self.y.get(0).slice(part))?, &expected, allowed::F32))
    }
}
