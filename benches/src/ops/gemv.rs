//! `gemv`: every format at the shapes of an 8B model and a large head.

use kernels_gpu::gemv::*;
use kernels_gpu::launch::{Device, DeviceBuffer, DeviceSlice, Grid, Purpose};
use kernels_gpu::quant::layout::{GpuLayout, PLANE_ALIGN};
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

/// Rows and columns: output, gate and up, down, one of gate and up, a head.
const SHAPES: [[usize; 2]; 5] = [[4096, 4096], [28672, 4096], [4096, 14336], [14336, 4096], [128_256, 4096]];
/// Blocks for each multiprocessor, as the back end launches them.
const BLOCKS_PER_MULTIPROCESSOR: usize = 2;
/// Rows that are compared with the reference.
const CHECKED_ROWS: usize = 256;

/// y, w, x, the grid, n_rows, n_cols.
type Launch = fn(
    &Cuda,
    &mut DeviceSlice<f32>,
    &DeviceSlice<u8>,
    &DeviceSlice<f32>,
    Grid,
    [u32; 2],
) -> Result<(), Error>;

macro_rules! launch {
    ($kernel:ident) => {
        |device, y, w, x, grid, [n_rows, n_cols]| device.launch($kernel { y, w, x, n_rows, n_cols }, grid)
    };
}

pub fn cases() -> Vec<Case> {
    let of_shape = |shape| {
        [
            case::<F32>(shape, launch!(gemv_f32), None),
            case::<F16>(shape, launch!(gemv_f16), Some(peer::<f16>)),
            case::<BF16>(shape, launch!(gemv_bf16), Some(peer::<bf16>)),
            case::<Q4_0>(shape, launch!(gemv_q4_0), None),
            case::<Q4_1>(shape, launch!(gemv_q4_1), None),
            case::<Q5_0>(shape, launch!(gemv_q5_0), None),
            case::<Q5_1>(shape, launch!(gemv_q5_1), None),
            case::<Q8_0>(shape, launch!(gemv_q8_0), None),
            case::<Q2_K>(shape, launch!(gemv_q2_k), None),
            case::<Q3_K>(shape, launch!(gemv_q3_k), None),
            case::<Q4_K>(shape, launch!(gemv_q4_k), None),
            case::<Q5_K>(shape, launch!(gemv_q5_k), None),
            case::<Q6_K>(shape, launch!(gemv_q6_k), None),
            case::<IQ4_NL>(shape, launch!(gemv_iq4_nl), None),
            case::<IQ4_XS>(shape, launch!(gemv_iq4_xs), None),
            case::<MXFP4>(shape, launch!(gemv_mxfp4), None),
        ]
    };
    SHAPES.into_iter().flat_map(of_shape).collect()
}

fn case<B: RandomBlock + GpuLayout>(shape: [usize; 2], launch: Launch, peer: Option<MakePeer>) -> Case {
    let [n_rows, n_cols] = shape;
    let work = Work::reading(gemv_bytes::<B>(n_rows, n_cols), gemv_flops(n_rows, n_cols));
    let name = format!("{} {n_rows}x{n_cols}", B::NAME);
    Case::new("gemv", name, work, move |lab| Gemv::<B>::new(lab, shape, launch, peer))
}

struct Gemv<B: RandomBlock + GpuLayout> {
    shape: [usize; 2],
    launch: Launch,
    grid: Grid,
    n_sets: usize,
    y: Sets<f32>,
    weights: Weights<B>,
    /// The matrices of all sets.
    w: DeviceBuffer<u8>,
    matrix_bytes: usize,
    x: Sets<f32>,
    peer: Option<Box<dyn PeerBuffers>>,
}

impl<B: RandomBlock + GpuLayout> Gemv<B> {
    fn new(lab: &Lab, shape: [usize; 2], launch: Launch, peer: Option<MakePeer>) -> Result<Self> {
        let [n_rows, n_cols] = shape;
        let device = &lab.device;
        let n_blocks = n_rows * n_cols / B::ELEMENTS;
        let matrix_bytes = B::matrix_bytes(n_blocks).next_multiple_of(PLANE_ALIGN);
        let n_sets = lab.n_sets(matrix_bytes);
        let weights = Weights::<B>::new(device)?;
        let mut w = device.alloc::<u8>(n_sets * matrix_bytes, Purpose::Weights)?;
        for set in 0..n_sets {
            weights.fill(device, w.slice_mut(set * matrix_bytes..(set + 1) * matrix_bytes), n_blocks)?;
        }
        let grid = Grid::x(gemv_blocks(n_rows, BLOCKS_PER_MULTIPROCESSOR * lab.n_multiprocessors()) as u32);
        Ok(Gemv {
            shape,
            launch,
            grid,
            n_sets,
            y: lab.zeros(n_sets, n_rows)?,
            weights,
            w,
            matrix_bytes,
            x: lab.normal(n_sets, n_cols)?,
            peer: peer.map(|make| make(lab, n_sets, shape)).transpose()?,
        })
    }

    fn matrix(&self, set: usize) -> &DeviceSlice<u8> {
        let [n_rows, n_cols] = self.shape;
        let start = set * self.matrix_bytes;
        self.w.slice(start..start + B::matrix_bytes(n_rows * n_cols / B::ELEMENTS))
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
        let start = set * self.matrix_bytes;
        let w = self.w.slice(start..start + self.matrix_bytes);
        (self.launch)(
            device,
            self.y.get_mut(set),
            w,
            self.x.get(set),
            self.grid,
            self.shape.map(|n| n as u32),
        )
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        Ok(device.zero(self.y.get_mut(0))?)
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let [n_rows, n_cols] = self.shape;
        let (x, y) = (read(device, self.x.get(0))?, device.download(self.y.get(0))?);
        let rows = sample(CHECKED_ROWS, n_rows);
        let ws: Vec<f64> = rows.iter().flat_map(|&row| self.weights.row(row, n_cols)).collect();
        let mut expected = vec![0.0; rows.len()];
        reference::linear(&mut expected, &ws, &x, n_cols);
        let found: Vec<f32> = rows.iter().map(|&row| y[row]).collect();
        Ok(Check::of(&found, &expected, allowed::F32))
    }

    fn peer(&mut self) -> Option<Peer> {
        let mut buffers = self.peer.take()?;
        let sets =
            (0..self.n_sets).map(|set| vec![buffers.product(set, self.matrix(set), self.shape)]).collect();
        self.peer = Some(buffers);
        let note = Some("cuBLAS: the same weights, x and y of 16 bits");
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
