//! `gemv`: every format at the shapes of an 8B model and a large head; some with several vectors. With one vector the product
//! is measured, of x in the form that it takes: in a model the kernel that makes x writes it so. With several it is the
//! conversion of the vectors and the product, two launches.

use kernels_gpu::gemv::*;
use kernels_gpu::launch::{Device, DeviceBuffer, DeviceSlice, Grid, Purpose};
use kernels_gpu::quant::layout::{GpuLayout, MATRIX_ALIGN};
use kernels_gpu::quant::{
    BF16, F16, F32, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};
use kernels_gpu::simt::{bf16, f16};
use oxwarp::cuda::{Cuda, Error};
use testkit::data::RandomBlock;
use testkit::reference;

use crate::case::{Case, Check, Peer, Subject, Work, allowed};
use crate::data::{Number, Weights, read, sample};
use crate::error::Result;
use crate::lab::{Lab, Sets};
use crate::vendor::{Operand, Product};

/// Rows and columns: output, q with k and v, gate and up, down, one of gate and up, a head.
const SHAPES: [[usize; 2]; 6] =
    [[4096, 4096], [6144, 4096], [28672, 4096], [4096, 14336], [14336, 4096], [128_256, 4096]];
/// Other numbers of blocks for each multiprocessor, for comparison.
const OTHER_BLOCKS: [usize; 1] = [1];
/// Rows that are compared with the reference.
const CHECKED_ROWS: usize = 256;

/// The arguments of a launch.
struct Args<'a> {
    y: &'a mut DeviceSlice<f32>,
    w: &'a DeviceSlice<u8>,
    x: &'a DeviceSlice<f32>,
    /// x converted.
    x_words: &'a DeviceSlice<u32>,
    x_numbers: &'a DeviceSlice<f32>,
    shape: [u32; 3],
}

/// Multiplies, on a grid.
type Multiply = fn(&Cuda, Args<'_>, Grid) -> Result<(), Error>;

/// A kernel, and for how many vectors in which order; none if it takes x as it is. And its blocks that a multiprocessor runs at
/// once: the back end launches as many.
type Kernel = (Multiply, Option<(XOrder, usize)>, usize);

/// f32, with x as it is.
const F32_KERNEL: Kernel = (
    |device, args, grid| {
        let Args { y, w, x, shape: [_, n_rows, n_cols], .. } = args;
        device.launch(gemv_f32 { y, w, x, n_rows, n_cols }, grid)
    },
    None,
    2,
);

macro_rules! one {
    ($block:ty, $kernel:ident) => {
        (
            |device, args, grid| {
                let Args { y, w, x_words, x_numbers, shape: [_, n_rows, n_cols], .. } = args;
                let (y, none) = y.split_at_mut(n_rows as usize);
                let (y_b, y_c) = none.split_at_mut(0);
                let (w_b, w_c, n_rows_b, n_rows_c, x) = (w, w, 0, 0, x_words);
                let gemv =
                    $kernel { y, y_b, y_c, w, w_b, w_c, x, x_numbers, n_rows, n_rows_b, n_rows_c, n_cols };
                device.launch(gemv, grid)
            },
            Some((gemv_x_order::<$block>(1), 1)),
            gemv_blocks_at_once::<$block>(1),
        )
    };
}

macro_rules! several {
    ($block:ty, $kernel:ident, $max_vectors:literal) => {
        (
            |device, args, grid| {
                let Args { y, w, x_words, x_numbers, shape: [n_vectors, n_rows, n_cols], .. } = args;
                device.launch($kernel { y, w, x: x_words, x_numbers, n_vectors, n_rows, n_cols }, grid)
            },
            Some((gemv_x_order::<$block>($max_vectors), $max_vectors)),
            gemv_blocks_at_once::<$block>($max_vectors),
        )
    };
}

pub fn cases() -> Vec<Case> {
    SHAPES.into_iter().flat_map(of_shape).collect()
}

fn of_shape([n_rows, n_cols]: [usize; 2]) -> Vec<Case> {
    let one = [1, n_rows, n_cols];
    let mut cases = vec![
        case::<F32>(one, F32_KERNEL, None, allowed::F32),
        case::<F16>(one, one!(F16, gemv_f16), Some(peer::<f16>), allowed::tensor_cores(n_cols)),
        case::<BF16>(one, one!(BF16, gemv_bf16), Some(peer::<bf16>), allowed::tensor_cores(n_cols)),
        case::<Q4_0>(one, one!(Q4_0, gemv_q4_0), None, allowed::FIXED_POINT),
        case::<Q4_1>(one, one!(Q4_1, gemv_q4_1), None, allowed::FIXED_POINT),
        case::<Q5_0>(one, one!(Q5_0, gemv_q5_0), None, allowed::FIXED_POINT),
        case::<Q5_1>(one, one!(Q5_1, gemv_q5_1), None, allowed::FIXED_POINT),
        case::<Q8_0>(one, one!(Q8_0, gemv_q8_0), None, allowed::FIXED_POINT),
        case::<Q4_K>(one, one!(Q4_K, gemv_q4_k), None, allowed::FIXED_POINT),
        case::<Q5_K>(one, one!(Q5_K, gemv_q5_k), None, allowed::FIXED_POINT),
        case::<Q6_K>(one, one!(Q6_K, gemv_q6_k), None, allowed::FIXED_POINT),
        case::<Q2_K>(one, one!(Q2_K, gemv_q2_k), None, allowed::FIXED_POINT),
        case::<Q3_K>(one, one!(Q3_K, gemv_q3_k), None, allowed::FIXED_POINT),
        case::<IQ4_NL>(one, one!(IQ4_NL, gemv_iq4_nl), None, allowed::FIXED_POINT),
        case::<IQ4_XS>(one, one!(IQ4_XS, gemv_iq4_xs), None, allowed::FIXED_POINT),
        case::<MXFP4>(one, one!(MXFP4, gemv_mxfp4), None, allowed::FIXED_POINT),
    ];
    for n_vectors in [2, 4, 8, 16] {
        let shape = [n_vectors, n_rows, n_cols];
        let (f16, q4_k, q8_0): (Kernel, Kernel, Kernel) = match n_vectors {
            ..=4 => (
                several!(F16, gemv_f16_n4, 4),
                several!(Q4_K, gemv_q4_k_n4, 4),
                several!(Q8_0, gemv_q8_0_n4, 4),
            ),
            5..=8 => (
                several!(F16, gemv_f16_n8, 8),
                several!(Q4_K, gemv_q4_k_n8, 8),
                several!(Q8_0, gemv_q8_0_n8, 8),
            ),
            _ => (
                several!(F16, gemv_f16_n16, 16),
                several!(Q4_K, gemv_q4_k_n16, 16),
                several!(Q8_0, gemv_q8_0_n16, 16),
            ),
        };
        cases.push(case::<F16>(shape, f16, None, allowed::tensor_cores(n_cols)));
        let allowed = if n_vectors <= 4 { allowed::tensor_cores(n_cols) } else { allowed::HALF };
        cases.push(case::<Q4_K>(shape, q4_k, None, allowed));
        cases.push(case::<Q8_0>(shape, q8_0, None, allowed));
    }
    for blocks in OTHER_BLOCKS {
        let (fixed, sixteen) = (allowed::FIXED_POINT, [16, n_rows, n_cols]);
        cases.extend(
            [
                with_blocks::<F16>(one, one!(F16, gemv_f16), blocks, allowed::tensor_cores(n_cols)),
                with_blocks::<Q4_0>(one, one!(Q4_0, gemv_q4_0), blocks, fixed),
                with_blocks::<Q8_0>(one, one!(Q8_0, gemv_q8_0), blocks, fixed),
                with_blocks::<Q4_K>(one, one!(Q4_K, gemv_q4_k), blocks, fixed),
                with_blocks::<Q6_K>(one, one!(Q6_K, gemv_q6_k), blocks, fixed),
                with_blocks::<Q8_0>(sixteen, several!(Q8_0, gemv_q8_0_n16, 16), blocks, allowed::HALF),
            ]
            .map(Case::variant),
        );
    }
    cases
}

/// n_vectors, n_rows, n_cols.
type Shape = [usize; 3];

fn case<B: RandomBlock + GpuLayout>(
    shape: Shape,
    kernel: Kernel,
    peer: Option<MakePeer>,
    allowed: f64,
) -> Case {
    let how = How { shape, kernel, blocks: kernel.2, peer, allowed };
    Case::new("gemv", name::<B>(shape), work::<B>(shape), move |lab| Gemv::<B>::new(lab, how))
}

fn with_blocks<B: RandomBlock + GpuLayout>(
    shape: Shape,
    kernel: Kernel,
    blocks: usize,
    allowed: f64,
) -> Case {
    let name = format!("{}, {blocks} blocks", name::<B>(shape));
    let how = How { shape, kernel, blocks, peer: None, allowed };
    Case::new("gemv", name, work::<B>(shape), move |lab| Gemv::<B>::new(lab, how))
}

fn name<B: RandomBlock>([n_vectors, n_rows, n_cols]: Shape) -> String {
    let vectors = if n_vectors == 1 { String::new() } else { format!(" x{n_vectors}") };
    format!("{} {n_rows}x{n_cols}{vectors}", B::NAME)
}

fn work<B: RandomBlock>([n_vectors, n_rows, n_cols]: Shape) -> Work {
    Work::reading(gemv_bytes::<B>(n_vectors, n_rows, n_cols), gemv_flops(n_vectors, n_rows, n_cols))
}

/// What is launched.
#[derive(Clone, Copy)]
struct How {
    shape: Shape,
    kernel: Kernel,
    /// For each multiprocessor.
    blocks: usize,
    peer: Option<MakePeer>,
    allowed: f64,
}

struct Gemv<B: RandomBlock + GpuLayout> {
    shape: Shape,
    kernel: Kernel,
    grid: Grid,
    allowed: f64,
    n_sets: usize,
    y: Sets<f32>,
    weights: Weights<B>,
    /// The matrices of all sets.
    w: DeviceBuffer<u8>,
    matrix_bytes: usize,
    x: Sets<f32>,
    /// x converted: of several vectors by each launch, of one before all.
    x_words: Sets<u32>,
    x_numbers: Sets<f32>,
    peer: Option<Box<dyn PeerBuffers>>,
}

impl<B: RandomBlock + GpuLayout> Gemv<B> {
    fn new(lab: &Lab, How { shape, kernel, blocks, peer, allowed }: How) -> Result<Self> {
        let [n_vectors, n_rows, n_cols] = shape;
        let device = &lab.device;
        let matrix_bytes = B::matrix_bytes(n_rows, n_cols).next_multiple_of(MATRIX_ALIGN);
        let n_sets = lab.n_sets(matrix_bytes);
        let weights = Weights::<B>::new(device, n_cols)?;
        let mut w = device.alloc::<u8>(n_sets * matrix_bytes, Purpose::Weights)?;
        for set in 0..n_sets {
            let start = set * matrix_bytes;
            weights.fill(device, w.slice_mut(start..start + B::matrix_bytes(n_rows, n_cols)))?;
        }
        let grid = Grid::x(gemv_blocks(n_rows, blocks * lab.n_multiprocessors()) as u32);
        let [n_words, n_numbers] = match kernel.1 {
            Some((order, max_vectors)) => order.len(max_vectors, n_cols),
            None => [0; 2],
        };
        let (mut x_words, mut x_numbers) = (lab.zeros(n_sets, n_words)?, lab.zeros(n_sets, n_numbers)?);
        let x = lab.normal(n_sets, n_vectors * n_cols)?;
        if let Some((order, 1)) = kernel.1 {
            for set in 0..n_sets {
                let (words, numbers) = (x_words.get_mut(set), x_numbers.get_mut(set));
                gemv_x(device, order, words, numbers, x.get(set), [1, 1, n_cols])?;
            }
        }
        Ok(Gemv {
            shape,
            kernel,
            grid,
            allowed,
            n_sets,
            y: lab.zeros(n_sets, n_vectors * n_rows)?,
            weights,
            w,
            matrix_bytes,
            x,
            x_words,
            x_numbers,
            peer: peer.map(|make| make(lab, n_sets, [n_rows, n_cols])).transpose()?,
        })
    }

    fn matrix(&self, set: usize) -> &DeviceSlice<u8> {
        let [_, n_rows, n_cols] = self.shape;
        let start = set * self.matrix_bytes;
        self.w.slice(start..start + B::matrix_bytes(n_rows, n_cols))
    }
}

impl<B: RandomBlock + GpuLayout> Subject for Gemv<B> {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.w.size_bytes() as u64
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let (multiply, order, _) = self.kernel;
        let x = self.x.get(set);
        let [n_vectors, _, n_cols] = self.shape;
        if let (Some((order, max_vectors)), 2..) = (order, n_vectors) {
            let (words, numbers) = (self.x_words.get_mut(set), self.x_numbers.get_mut(set));
            gemv_x(device, order, words, numbers, x, [n_vectors, max_vectors, n_cols])?;
        }
        let start = set * self.matrix_bytes;
        let args = Args {
            y: self.y.get_mut(set),
            w: self.w.slice(start..start + self.matrix_bytes),
            x,
            x_words: self.x_words.get(set),
            x_numbers: self.x_numbers.get(set),
            shape: self.shape.map(|n| n as u32),
        };
        multiply(device, args, self.grid)
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        Ok(device.zero(self.y.get_mut(0))?)
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let [n_vectors, n_rows, n_cols] = self.shape;
        let (x, y) = (read(device, self.x.get(0))?, device.download(self.y.get(0))?);
        let rows = sample(CHECKED_ROWS, n_rows);
        let ws: Vec<f64> = rows.iter().flat_map(|&row| self.weights.row(row)).collect();
        let mut expected = vec![0.0; n_vectors * rows.len()];
        reference::linear(&mut expected, &ws, &x, n_cols);
        let found: Vec<f32> = (0..n_vectors)
            .flat_map(|vector| rows.iter().map(move |&row| (vector, row)))
            .map(|(vector, row)| y[vector * n_rows + row])
            .collect();
        Ok(Check::of(&found, &expected, self.allowed))
    }

    fn peer(&mut self) -> Option<Peer> {
        let mut buffers = self.peer.take()?;
        let [_, n_rows, n_cols] = self.shape;
        let sets = (0..self.n_sets)
            .map(|set| vec![buffers.product(set, self.matrix(set), [n_rows, n_cols])])
            .collect();
        self.peer = Some(buffers);
        let note = Some("cuBLAS: as many weights, x and y of 16 bits");
        Some(Peer { sets, note, same_results: false })
    }
}

/// What a peer needs beside the weights: x and y in the weights' type.
trait PeerBuffers {
    fn product(&mut self, set: usize, w: &DeviceSlice<u8>, shape: [usize; 2]) -> Product;
}

type MakePeer = fn(&Lab, usize, [usize; 2]) -> Result<Box<dyn PeerBuffers>>;

struct Sixteen<T: Number> {
    x: Sets<T>,
    y: Sets<T>,
}

fn peer<T: Number + Operand>(
    lab: &Lab,
    n_sets: usize,
    [n_rows, n_cols]: [usize; 2],
) -> Result<Box<dyn PeerBuffers>> {
    Ok(Box::new(Sixteen::<T> { x: lab.normal(n_sets, n_cols)?, y: lab.zeros(n_sets, n_rows)? }))
}

impl<T: Number + Operand> PeerBuffers for Sixteen<T> {
    fn product(&mut self, set: usize, w: &DeviceSlice<u8>, [n_rows, n_cols]: [usize; 2]) -> Product {
        Product::new(self.y.get_mut(set), w.cast::<T>(), self.x.get(set), [1, n_rows, n_cols])
    }
}
