//! `embedding`: the rows of a prompt.

use kernels_gpu::embedding::{
    embedding_blocks, embedding_bytes, embedding_f16, embedding_q4_k, embedding_q8_0,
};
use kernels_gpu::launch::{Device, DeviceBuffer, DeviceSlice, Grid, Purpose};
use kernels_gpu::quant::pieces::Pieces;
use kernels_gpu::quant::{F16, Q4_K, Q8_0};
use oxwarp::cuda::{Cuda, Error};
use testkit::data::{RandomBlock, Rng};

use super::CHECKED_ROWS;
use crate::case::{Case, Check, Subject, Work, allowed};
use crate::data::Weights;
use crate::error::Result;
use crate::lab::{Lab, Sets};

const N_VOCAB: usize = 128_256;
const DIM: usize = 4096;
const TOKENS: [usize; 2] = [512, 4096];

type Launch =
    fn(&Cuda, &mut DeviceSlice<f32>, &DeviceSlice<u8>, &DeviceSlice<u32>, Grid) -> Result<(), Error>;

macro_rules! launch {
    ($kernel:ident) => {
        |device, y, w, tokens, grid| {
            let n_tokens = tokens.len() as u32;
            device.launch($kernel { y, w, tokens, n_tokens, dim: DIM as u32, n_vocab: N_VOCAB as u32 }, grid)
        }
    };
}

pub fn cases() -> Vec<Case> {
    let of_length = |n_tokens| {
        [
            case::<F16>(n_tokens, launch!(embedding_f16)),
            case::<Q8_0>(n_tokens, launch!(embedding_q8_0)),
            case::<Q4_K>(n_tokens, launch!(embedding_q4_k)),
        ]
    };
    TOKENS.into_iter().flat_map(of_length).collect()
}

fn case<B: RandomBlock + Pieces>(n_tokens: usize, launch: Launch) -> Case {
    let work = Work::copying(embedding_bytes::<B>(n_tokens, DIM), 0);
    let name = format!("{} {n_tokens}x{DIM}", B::NAME);
    Case::new("embedding", name, work, move |lab| Embedding::<B>::new(lab, n_tokens, launch))
}

struct Embedding<B: RandomBlock + Pieces> {
    launch: Launch,
    n_tokens: usize,
    n_sets: usize,
    y: Sets<f32>,
    weights: Weights<B>,
    /// One table for all sets, which take different rows of it.
    w: DeviceBuffer<u8>,
    tokens: DeviceBuffer<u32>,
}

impl<B: RandomBlock + Pieces> Embedding<B> {
    fn new(lab: &Lab, n_tokens: usize, launch: Launch) -> Result<Self> {
        let device = &lab.device;
        let n_sets = lab.n_sets(4 * n_tokens * DIM);
        let weights = Weights::<B>::new(device, DIM)?;
        let mut w = device.alloc::<u8>(B::matrix_bytes(N_VOCAB, DIM), Purpose::Weights)?;
        weights.fill(device, &mut w)?;
        let tokens = Rng::new(3).tokens(n_sets * n_tokens, N_VOCAB);
        let (y, tokens) = (lab.zeros(n_sets, n_tokens * DIM)?, lab.upload(&tokens)?);
        Ok(Embedding { launch, n_tokens, n_sets, y, weights, w, tokens })
    }
}

impl<B: RandomBlock + Pieces> Subject for Embedding<B> {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.y.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let tokens = self.tokens.slice(set * self.n_tokens..(set + 1) * self.n_tokens);
        let grid = Grid::x(embedding_blocks::<B>(self.n_tokens, DIM) as u32);
        (self.launch)(device, self.y.get_mut(set), &self.w, tokens, grid)
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        Ok(device.zero(self.y.get_mut(0))?)
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let tokens = device.download(self.tokens.slice(0..CHECKED_ROWS))?;
        let expected: Vec<f64> = tokens.iter().flat_map(|&t| self.weights.row(t as usize)).collect();
        let found = device.download(self.y.get(0).slice(0..CHECKED_ROWS * DIM))?;
        Ok(Check::of(&found, &expected, allowed::F32))
    }
}
