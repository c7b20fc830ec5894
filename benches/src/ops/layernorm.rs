//! `layernorm`: the rows of a prefill, to f32 and to f16.

use kernels_gpu::launch::{Device, Grid};
use kernels_gpu::layernorm::{layernorm_bytes, layernorm_f32, layernorm_f32_f16, layernorm_flops};
use kernels_gpu::simt::f16;
use oxwarp::cuda::{Cuda, Error};
use testkit::reference;

use super::CHECKED_ROWS;
use crate::case::{Case, Check, Subject, Work, allowed};
use crate::data::read;
use crate::error::Result;
use crate::lab::{Lab, Sets};

/// Rows and elements of a row.
const SHAPES: [[usize; 2]; 3] = [[512, 4096], [4096, 4096], [4096, 8192]];
const EPS: f32 = 1e-5;

pub fn cases() -> Vec<Case> {
    SHAPES.into_iter().flat_map(|shape| [case(shape, false), case(shape, true)]).collect()
}

fn case(shape: [usize; 2], to_f16: bool) -> Case {
    let [n_rows, dim] = shape;
    let bytes = layernorm_bytes(n_rows, dim, if to_f16 { 2 } else { 4 });
    let work = Work::copying(bytes, layernorm_flops(n_rows, dim, false));
    let name = format!("{} {n_rows}x{dim}", if to_f16 { "f16" } else { "f32" });
    Case::new("layernorm", name, work, move |lab| Layernorm::new(lab, shape, to_f16))
}

enum Results {
    F32(Sets<f32>),
    F16(Sets<f16>),
}

struct Layernorm {
    /// [n_rows, dim]
    shape: [usize; 2],
    n_sets: usize,
    y: Results,
    x: Sets<f32>,
    w: Sets<f32>,
    b: Sets<f32>,
}

impl Layernorm {
    fn new(lab: &Lab, shape: [usize; 2], to_f16: bool) -> Result<Self> {
        let [n_rows, dim] = shape;
        let n = n_rows * dim;
        let n_sets = lab.n_sets(4 * n);
        let y = match to_f16 {
            true => Results::F16(lab.zeros(n_sets, n)?),
            false => Results::F32(lab.zeros(n_sets, n)?),
        };
        let (w, b) = (lab.normal(n_sets, dim)?, lab.normal(n_sets, dim)?);
        Ok(Layernorm { shape, n_sets, y, x: lab.normal(n_sets, n)?, w, b })
    }
}

impl Subject for Layernorm {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        let y = match &self.y {
            Results::F32(y) => y.size_bytes(),
            Results::F16(y) => y.size_bytes(),
        };
        y + self.x.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let (grid, dim, eps) = (Grid::x(self.shape[0] as u32), self.shape[1] as u32, EPS);
        let (x, w, b) = (self.x.get(set), self.w.get(set), self.b.get(set));
        match &mut self.y {
            Results::F32(y) => device.launch(layernorm_f32 { y: y.get_mut(set), x, w, b, dim, eps }, grid),
            Results::F16(y) => {
                device.launch(layernorm_f32_f16 { y: y.get_mut(set), x, w, b, dim, eps }, grid)
            }
        }
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        match &mut self.y {
            Results::F32(y) => Ok(device.zero(y.get_mut(0))?),
            Results::F16(y) => Ok(device.zero(y.get_mut(0))?),
        }
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let part = 0..CHECKED_ROWS * self.shape[1];
        let x = read(device, self.x.get(0).slice(part.clone()))?;
        let (w, b) = (read(device, self.w.get(0))?, read(device, self.b.get(0))?);
        let mut expected = vec![0.0; part.len()];
        reference::layernorm(&mut expected, &x, &w, &b, f64::from(EPS));
        let (found, allowed) = match &self.y {
            Results::F32(y) => (read(device, y.get(0).slice(part))?, allowed::F32),
            Results::F16(y) => (read(device, y.get(0).slice(part))?, rounding(&expected)),
        };
        let found: Vec<f32> = found.into_iter().map(|y| y as f32).collect();
        Ok(Check::of(&found, &expected, allowed))
    }
}

/// Half a unit in the last place of the largest result, in units of their root mean square: products of two normal numbers
/// are larger against it than [`allowed::F16`] takes normal numbers to be.
fn rounding(expected: &[f64]) -> f64 {
    let mean_square = expected.iter().map(|y| y * y).sum::<f64>() / expected.len() as f64;
    let largest = expected.iter().fold(0.0f64, |largest, y| largest.max(y.abs()));
    largest / mean_square.sqrt() / 2048.0 + allowed::F32
}
