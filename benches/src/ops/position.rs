//! `position`: learned positions of a prefill.

use kernels_gpu::launch::{Device, DeviceBuffer, Grid};
use kernels_gpu::position::{position_add_blocks, position_add_bytes, position_add_f32};
use oxwarp::cuda::{Cuda, Error};
use testkit::reference;

use super::CHECKED_ROWS;
use crate::case::{Case, Check, Subject, Work, allowed};
use crate::data::read;
use crate::error::Result;
use crate::lab::{Lab, Sets};

const SHAPES: [[usize; 2]; 2] = [[512, 4096], [4096, 4096]];

pub fn cases() -> Vec<Case> {
    let case = |shape: [usize; 2]| {
        let [n_tokens, dim] = shape;
        let work = Work::copying(position_add_bytes(n_tokens, dim), n_tokens * dim);
        Case::new("position", format!("f32 {n_tokens}x{dim}"), work, move |lab| Position::new(lab, shape))
    };
    SHAPES.into_iter().map(case).collect()
}

struct Position {
    /// [n_tokens, dim]
    shape: [usize; 2],
    n_sets: usize,
    x: Sets<f32>,
    table: Sets<f32>,
    positions: DeviceBuffer<u32>,
    /// The checked rows of x before the launch.
    before: Vec<f64>,
}

impl Position {
    fn new(lab: &Lab, shape: [usize; 2]) -> Result<Self> {
        let [n_tokens, dim] = shape;
        let n_sets = lab.n_sets(2 * 4 * n_tokens * dim);
        let (x, table) = (lab.normal(n_sets, n_tokens * dim)?, lab.normal(n_sets, n_tokens * dim)?);
        let positions: Vec<u32> = (0..n_tokens as u32).collect();
        Ok(Position { shape, n_sets, x, table, positions: lab.upload(&positions)?, before: Vec::new() })
    }

    fn n_checked(&self) -> usize {
        CHECKED_ROWS * self.shape[1]
    }
}

impl Subject for Position {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.x.size_bytes() + self.table.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let [n_tokens, dim] = self.shape;
        let kernel = position_add_f32 {
            x: self.x.get_mut(set),
            table: self.table.get(set),
            positions: &self.positions,
            dim: dim as u32,
            n_positions: n_tokens as u32,
        };
        device.launch(kernel, Grid::xy(position_add_blocks(dim) as u32, n_tokens as u32))
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        self.before = read(device, self.x.get(0).slice(0..self.n_checked()))?;
        Ok(())
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let mut expected = self.before.clone();
        let positions: Vec<u32> = (0..CHECKED_ROWS as u32).collect();
        let table = read(device, self.table.get(0).slice(0..self.n_checked()))?;
        reference::position_add(&mut expected, &table, &positions, self.shape[1]);
        let found = device.download(self.x.get(0).slice(0..self.n_checked()))?;
        Ok(Check::of(&found, &expected, allowed::F32))
    }
}
