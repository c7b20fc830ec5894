//! `moe_gemv`: the experts of one token or a few, routed at random: gate with up, and down. What is measured is the conversion of
//! the rows and the product, two launches.

use kernels_gpu::gemv::{Product, Several, XOrder, gemv_x, gemv_x_order};
use kernels_gpu::launch::{Device, DeviceBuffer, DeviceSlice, Grid, Purpose};
use kernels_gpu::moe_gemv::*;
use kernels_gpu::quant::layout::GpuLayout;
use kernels_gpu::quant::{MXFP4, Q4_K};
use oxwarp::cuda::{Cuda, Error};
use testkit::data::{RandomBlock, Rng};
use testkit::reference;

use crate::case::{Case, Check, Subject, Work, allowed};
use crate::data::{Weights, read, sample};
use crate::error::Result;
use crate::lab::{Lab, Sets};

/// The experts of a model.
#[derive(Clone, Copy)]
pub struct Experts {
    pub n_experts: usize,
    pub n_used: usize,
    pub dim: usize,
    pub hidden_dim: usize,
}

/// gpt-oss-20b.
pub const GPT_OSS: Experts = Experts { n_experts: 32, n_used: 4, dim: 2880, hidden_dim: 2880 };
/// Qwen3-30B-A3B.
pub const QWEN: Experts = Experts { n_experts: 128, n_used: 8, dim: 2048, hidden_dim: 768 };

const TOKENS: [usize; 4] = [1, 2, 4, 8];
/// Blocks for each multiprocessor; and another number, for comparison.
const BLOCKS_PER_MULTIPROCESSOR: usize = 2;
const OTHER_BLOCKS: usize = 1;
/// Rows of each assignment that are compared with the reference.
const CHECKED_ROWS: usize = 32;

impl Experts {
    /// Assignments of tokens, each to different experts.
    pub fn route(self, n_tokens: usize) -> Vec<u32> {
        let mut rng = Rng::new(n_tokens as u64);
        let of_token = |rng: &mut Rng| {
            let mut experts: Vec<u32> = (0..self.n_experts as u32).collect();
            for j in 0..self.n_used {
                experts.swap(j, j + rng.below((self.n_experts - j) as u32) as usize);
            }
            experts[..self.n_used].to_vec()
        };
        (0..n_tokens).flat_map(|_| of_token(&mut rng)).collect()
    }
}

/// How many different experts there are.
pub fn n_different(experts: &[u32]) -> usize {
    experts.iter().collect::<std::collections::HashSet<_>>().len()
}

pub fn cases() -> Vec<Case> {
    let mut cases = of_model::<MXFP4>(GPT_OSS, launch_mxfp4);
    cases.extend(of_model::<Q4_K>(QWEN, launch_q4_k));
    cases
}

fn of_model<B: RandomBlock + GpuLayout + Product + Several>(model: Experts, launch: Launch) -> Vec<Case> {
    let shapes = TOKENS.into_iter().flat_map(|n_tokens| [true, false].map(|is_up| (n_tokens, is_up)));
    let case = |(n_tokens, is_up): (usize, bool), blocks: usize| {
        let shape = Shape::new(model, n_tokens, is_up);
        let (n_assigned, [n_rows, n_cols]) = (n_tokens * model.n_used, shape.matrix);
        let n_rows = shape.n_tensors * n_rows;
        let n_different = n_different(&model.route(n_tokens));
        let bytes = moe_gemv_bytes::<B>(n_different, n_assigned, shape.n_x, n_rows, n_cols);
        let work = Work::reading(bytes, moe_gemv_flops(n_assigned, n_rows, n_cols));
        let what = if is_up { "gate and up" } else { "down" };
        let [rows, cols] = shape.matrix;
        let blocks_name = if blocks == BLOCKS_PER_MULTIPROCESSOR { "" } else { ", 1 block" };
        let name =
            format!("{} {what} {rows}x{cols}, {n_assigned} of {n_tokens} tokens{blocks_name}", B::NAME);
        Case::new("moe_gemv", name, work, move |lab| MoeGemv::<B>::new(lab, shape, blocks, launch))
    };
    let others = shapes.clone().map(|shape| case(shape, OTHER_BLOCKS).variant());
    shapes.map(|shape| case(shape, BLOCKS_PER_MULTIPROCESSOR)).chain(others).collect()
}

#[derive(Clone, Copy)]
struct Shape {
    model: Experts,
    n_tokens: usize,
    n_tensors: usize,
    /// Rows and columns of an expert's matrix.
    matrix: [usize; 2],
    /// Rows of x.
    n_x: usize,
}

impl Shape {
    fn new(model: Experts, n_tokens: usize, is_up: bool) -> Self {
        let Experts { n_used, dim, hidden_dim, .. } = model;
        if is_up {
            Shape { model, n_tokens, n_tensors: 2, matrix: [hidden_dim, dim], n_x: n_tokens }
        } else {
            Shape { model, n_tokens, n_tensors: 1, matrix: [dim, hidden_dim], n_x: n_tokens * n_used }
        }
    }

    fn n_assigned(self) -> usize {
        self.n_tokens * self.model.n_used
    }
}

/// The arguments of a launch.
struct Args<'a> {
    y: [&'a mut DeviceSlice<f32>; 2],
    w: [&'a DeviceSlice<u8>; 2],
    x: &'a DeviceSlice<u32>,
    x_numbers: &'a DeviceSlice<f32>,
    experts: &'a DeviceSlice<u32>,
    n_used: u32,
    n_rows: [u32; 2],
    n_cols: u32,
}

type Launch = fn(&Cuda, Args<'_>, Grid) -> Result<(), Error>;

macro_rules! launch {
    ($name:ident, $kernel:ident) => {
        fn $name(device: &Cuda, args: Args<'_>, grid: Grid) -> Result<(), Error> {
            let Args { y: [y, y_b], w: [w, w_b], x, x_numbers, experts, n_used, n_rows, n_cols } = args;
            let [n_rows, n_rows_b] = n_rows;
            let gemv = $kernel { y, y_b, w, w_b, x, x_numbers, experts, n_used, n_rows, n_rows_b, n_cols };
            device.launch(gemv, grid)
        }
    };
}

launch!(launch_mxfp4, moe_gemv_mxfp4);
launch!(launch_q4_k, moe_gemv_q4_k);

struct MoeGemv<B> {
    shape: Shape,
    launch: Launch,
    grid: Grid,
    n_sets: usize,
    y: Sets<f32>,
    weights: Weights<B>,
    /// The tensors of all sets.
    w: DeviceBuffer<u8>,
    tensor_bytes: usize,
    x: Sets<f32>,
    order: XOrder,
    x_words: DeviceBuffer<u32>,
    x_numbers: DeviceBuffer<f32>,
    experts: DeviceBuffer<u32>,
}

impl<B: RandomBlock + GpuLayout + Product + Several> MoeGemv<B> {
    fn new(lab: &Lab, shape: Shape, blocks: usize, launch: Launch) -> Result<Self> {
        let device = &lab.device;
        let Shape { model, n_tokens, n_tensors, matrix: [n_rows, n_cols], n_x } = shape;
        let (n_assigned, routed) = (shape.n_assigned(), model.route(n_tokens));
        let matrix_bytes = <B as GpuLayout>::matrix_bytes(n_rows, n_cols);
        let n_sets = lab.n_sets(n_different(&routed) * n_tensors * matrix_bytes);
        let weights = Weights::<B>::new(device, n_cols)?;
        let tensor_bytes = model.n_experts * matrix_bytes;
        let mut w = device.alloc::<u8>(n_sets * n_tensors * tensor_bytes, Purpose::Weights)?;
        for set in 0..n_sets {
            let start = set * n_tensors * tensor_bytes;
            weights.fill(device, w.slice_mut(start..start + n_tensors * tensor_bytes))?;
        }
        let order = gemv_x_order::<B>(1);
        let [n_words, n_numbers] = order.len_of([n_x, 1, n_cols]);
        let max_blocks = blocks * lab.n_multiprocessors();
        let n_blocks = moe_gemv_blocks(n_assigned, n_tensors * n_rows, max_blocks);
        Ok(MoeGemv {
            shape,
            launch,
            grid: Grid::xy(n_blocks as u32, n_assigned as u32),
            n_sets,
            y: lab.zeros(n_sets, n_tensors * n_assigned * n_rows)?,
            weights,
            w,
            tensor_bytes,
            x: lab.normal(n_sets, n_x * n_cols)?,
            order,
            x_words: device.alloc(n_words, Purpose::Other)?,
            x_numbers: device.alloc(n_numbers, Purpose::Other)?,
            experts: lab.upload(&routed)?,
        })
    }
}

impl<B: RandomBlock + GpuLayout + Product + Several> Subject for MoeGemv<B> {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        let Shape { model, n_tokens, .. } = self.shape;
        (self.w.size_bytes() / model.n_experts * n_different(&model.route(n_tokens))) as u64
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let Shape { n_tensors, matrix: [n_rows, n_cols], n_x, .. } = self.shape;
        let (words, numbers) = (&mut self.x_words, &mut self.x_numbers);
        gemv_x(device, self.order, words, numbers, self.x.get(set), [n_x, 1, n_cols])?;
        let n_assigned = self.shape.n_assigned();
        let w = |i: usize| {
            let start = (set * n_tensors + i) * self.tensor_bytes;
            self.w.slice(start..start + self.tensor_bytes)
        };
        let (y, y_b) = self.y.get_mut(set).split_at_mut(n_assigned * n_rows);
        let args = Args {
            y: [y, y_b],
            w: [w(0), w(n_tensors - 1)],
            x: &self.x_words,
            x_numbers: &self.x_numbers,
            experts: &self.experts,
            n_used: (n_assigned / n_x) as u32,
            n_rows: [n_rows as u32, if n_tensors == 2 { n_rows as u32 } else { 0 }],
            n_cols: n_cols as u32,
        };
        (self.launch)(device, args, self.grid)
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        Ok(device.zero(self.y.get_mut(0))?)
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let Shape { model, n_tokens, n_tensors, matrix: [n_rows, n_cols], n_x } = self.shape;
        let (x, y) = (read(device, self.x.get(0))?, device.download(self.y.get(0))?);
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        for tensor in 0..n_tensors {
            for (j, &expert) in model.route(n_tokens).iter().enumerate() {
                let rows = sample(CHECKED_ROWS, n_rows);
                // Tensors and experts lie one after the other.
                let first = (tensor * model.n_experts + expert as usize) * n_rows;
                let ws: Vec<f64> = rows.iter().flat_map(|&row| self.weights.row(first + row)).collect();
                let mut exact = vec![0.0; rows.len()];
                let row_of_x = j / (self.shape.n_assigned() / n_x);
                reference::linear(&mut exact, &ws, &x[row_of_x * n_cols..][..n_cols], n_cols);
                expected.extend(exact);
                found
                    .extend(rows.iter().map(|&row| y[(tensor * self.shape.n_assigned() + j) * n_rows + row]));
            }
        }
        Ok(Check::of(&found, &expected, allowed::FIXED_POINT))
    }
}
