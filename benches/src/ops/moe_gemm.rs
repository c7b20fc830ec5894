//! `moe_gemm`, and `moe_gemm_mma` for GPUs before Hopper: the experts of a prompt, routed at random: one of gate, up and down of
//! gpt-oss-20b, which have one shape.

use kernels_gpu::launch::{Device, DeviceBuffer, Grid, Purpose};
use kernels_gpu::moe_gemm::plan::{Plan, Shape, TILE_TOKENS};
use kernels_gpu::moe_gemm::{moe_gemm_bytes, moe_gemm_flops};
use kernels_gpu::moe_gemm_mma::product::{self, Product};
use kernels_gpu::narrow::narrow_f16;
use kernels_gpu::quant::layout::GpuLayout;
use kernels_gpu::quant::{MXFP4, QuantBlock};
use kernels_gpu::simt::f16;
use oxwarp::cuda::{Cuda, Error};
use testkit::reference::{self, moe};

use super::moe_gemv::{GPT_OSS, n_different};
use crate::case::{Case, Check, Subject, Work, allowed};
use crate::data::{Weights, read, sample};
use crate::error::Result;
use crate::lab::{Lab, Sets};

const TOKENS: [usize; 4] = [64, 512, 2048, 8192];
/// Rows of x and y of which the results are compared with the reference.
const CHECKED_TOKENS: usize = 32;
const CHECKED_ROWS: usize = 64;

/// What is launched.
#[derive(Clone, Copy)]
enum Kernel {
    Hopper(Plan),
    Mma(Product),
}

pub fn cases() -> Vec<Case> {
    let case = |n_tokens: usize, choice: String, plan: fn(Shape, u32, u32) -> Plan, tile: u32| {
        let kernel = move |shape, n| Kernel::Hopper(plan(shape, tile, n));
        case("moe_gemm", n_tokens, choice, kernel).hopper()
    };
    let of_tokens = |n_tokens: usize| {
        let plans = TILE_TOKENS.map(|tile| case(n_tokens, format!(", t{tile}"), Plan::with, tile).variant());
        let chosen = case(n_tokens, String::new(), |shape, _, n| Plan::new(shape, n), 0);
        std::iter::once(chosen).chain(plans)
    };
    TOKENS.into_iter().flat_map(of_tokens).collect()
}

pub fn mma_cases() -> Vec<Case> {
    let product = |Shape { n_assigned, n_experts, n_rows, n_cols }: Shape| {
        Product::new(n_assigned, n_experts, n_rows, n_cols)
    };
    let of_tokens = |n_tokens: usize| {
        let tiles = product::TILE_TOKENS.map(|tile_tokens| {
            let kernel = move |shape, _| Kernel::Mma(Product { tile_tokens, ..product(shape) });
            case("moe_gemm_mma", n_tokens, format!(", t{tile_tokens}"), kernel).variant()
        });
        let chosen =
            case("moe_gemm_mma", n_tokens, String::new(), move |shape, _| Kernel::Mma(product(shape)));
        std::iter::once(chosen).chain(tiles)
    };
    TOKENS.into_iter().flat_map(of_tokens).collect()
}

fn case(
    op: &'static str,
    n_tokens: usize,
    choice: String,
    kernel: impl Fn(Shape, u32) -> Kernel + 'static,
) -> Case {
    let experts = GPT_OSS.route(n_tokens);
    let (n_experts, n_rows, n_cols) = (GPT_OSS.n_experts, GPT_OSS.hidden_dim, GPT_OSS.dim);
    let shape = Shape { n_assigned: experts.len(), n_experts, n_rows, n_cols };
    let w_bytes = n_different(&experts) * n_rows * n_cols / MXFP4::ELEMENTS * MXFP4::BYTES;
    let bytes = moe_gemm_bytes(w_bytes, shape.n_assigned, n_rows, n_cols);
    let work = Work::reading(bytes, moe_gemm_flops(shape.n_assigned, n_rows, n_cols));
    let name = format!("mxfp4 {n_tokens}x{n_rows}x{n_cols}, 4 of 32 experts{choice}");
    let make = move |lab: &Lab| {
        MoeGemm::new(lab, shape, kernel(shape, lab.device.info().n_multiprocessors), &experts)
    };
    Case::new(op, name, work, make)
}

struct MoeGemm {
    shape: Shape,
    kernel: Kernel,
    n_sets: usize,
    y: Sets<f32>,
    /// The tensors of all sets.
    w: DeviceBuffer<u8>,
    tensor_bytes: usize,
    weights: Weights<MXFP4>,
    x: Sets<f32>,
    halves: Sets<f16>,
    scales: Sets<f32>,
    offsets: DeviceBuffer<u32>,
    /// The expert of each row.
    experts: Vec<usize>,
}

impl MoeGemm {
    fn new(lab: &Lab, shape: Shape, kernel: Kernel, experts: &[u32]) -> Result<Self> {
        let Shape { n_assigned, n_experts, n_rows, n_cols } = shape;
        let device = &lab.device;
        let tensor_bytes = n_experts * <MXFP4 as GpuLayout>::matrix_bytes(n_rows, n_cols);
        let n_sets = lab.n_sets(tensor_bytes + n_assigned * (2 * n_cols + 4 * n_rows));
        let weights = Weights::new(device, n_cols)?;
        let mut w = device.alloc::<u8>(n_sets * tensor_bytes, Purpose::Weights)?;
        for set in 0..n_sets {
            weights.fill(device, w.slice_mut(set * tensor_bytes..(set + 1) * tensor_bytes))?;
        }
        let x = lab.normal::<f32>(n_sets, n_assigned * n_cols)?;
        let (mut halves, mut scales) =
            (lab.zeros::<f16>(n_sets, n_assigned * n_cols)?, lab.zeros::<f32>(n_sets, n_assigned)?);
        for set in 0..n_sets {
            let (y, scales, x) = (halves.get_mut(set), scales.get_mut(set), x.get(set));
            device.launch(narrow_f16 { y, scales, x, dim: n_cols as u32 }, Grid::x(n_assigned as u32))?;
        }
        let groups = moe::group(experts, n_experts);
        Ok(MoeGemm {
            shape,
            kernel,
            n_sets,
            y: lab.zeros(n_sets, n_assigned * n_rows)?,
            w,
            tensor_bytes,
            weights,
            x,
            halves,
            scales,
            offsets: lab.upload(&groups.offsets)?,
            experts: groups.assignments.iter().map(|&a| experts[a as usize] as usize).collect(),
        })
    }
}

impl Subject for MoeGemm {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.y.size_bytes() + self.w.size_bytes() as u64 + self.halves.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let w = self.w.slice(set * self.tensor_bytes..(set + 1) * self.tensor_bytes);
        let x = (self.halves.get(set), self.scales.get(set));
        let (y, offsets) = (self.y.get_mut(set), &self.offsets);
        match self.kernel {
            Kernel::Hopper(plan) => plan.launch::<MXFP4, Cuda>(device, y, w, x, offsets),
            Kernel::Mma(product) => product.launch::<MXFP4, Cuda>(device, y, w, x, offsets),
        }
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        Ok(device.zero(self.y.get_mut(0))?)
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let Shape { n_assigned, n_rows, n_cols, .. } = self.shape;
        let rows = sample(CHECKED_ROWS, n_rows);
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        for token in sample(CHECKED_TOKENS, n_assigned) {
            let first = self.experts[token] * n_rows;
            let ws: Vec<f64> = rows.iter().flat_map(|&row| self.weights.row(first + row)).collect();
            let x = read(device, self.x.get(0).slice(token * n_cols..(token + 1) * n_cols))?;
            let mut exact = vec![0.0; rows.len()];
            reference::linear(&mut exact, &ws, &x, n_cols);
            expected.extend(exact);
            let y = device.download(self.y.get(0).slice(token * n_rows..(token + 1) * n_rows))?;
            found.extend(rows.iter().map(|&row| y[row]));
        }
        Ok(Check::of(&found, &expected, allowed::F16))
    }
}
