//! `sample`: the next token from the logits of vocabularies of three sizes.

use kernels_gpu::launch::{Device, DeviceBuffer, Grid};
use kernels_gpu::sample::{argmax_bytes, argmax_f32, softmax_sample_bytes, softmax_sample_f32, uniform};
use oxwarp::cuda::{Cuda, Error};
use testkit::reference;

use crate::case::{Case, Check, Subject, Work};
use crate::data::read;
use crate::error::Result;
use crate::lab::{Lab, Sets};

const VOCABULARIES: [usize; 3] = [32_064, 151_936, 201_088];
const TEMPERATURE: f32 = 0.8;
const SEED: u64 = 7;

pub fn cases() -> Vec<Case> {
    VOCABULARIES.into_iter().flat_map(|n| [case(n, Kind::Argmax), case(n, Kind::Softmax)]).collect()
}

#[derive(Clone, Copy)]
enum Kind {
    Argmax,
    Softmax,
}

fn case(n_vocab: usize, kind: Kind) -> Case {
    // A comparison a logit; a difference, a product, an exponential and a sum besides.
    let (name, work) = match kind {
        Kind::Argmax => ("argmax", Work::reading(argmax_bytes(n_vocab), n_vocab)),
        Kind::Softmax => ("softmax", Work::reading(softmax_sample_bytes(n_vocab), 5 * n_vocab)),
    };
    Case::new("sample", format!("{name} {n_vocab}"), work, move |lab| Sample::new(lab, n_vocab, kind))
}

struct Sample {
    kind: Kind,
    n_vocab: usize,
    n_sets: usize,
    token: DeviceBuffer<u32>,
    status: DeviceBuffer<u32>,
    positions: DeviceBuffer<u32>,
    logits: Sets<f32>,
}

impl Sample {
    fn new(lab: &Lab, n_vocab: usize, kind: Kind) -> Result<Self> {
        let n_sets = lab.n_sets(4 * n_vocab);
        let one = |value| lab.upload(&[value]);
        let (token, status, positions) = (one(0)?, one(0)?, one(5)?);
        Ok(Sample { kind, n_vocab, n_sets, token, status, positions, logits: lab.normal(n_sets, n_vocab)? })
    }
}

impl Subject for Sample {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.logits.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let (token, status, logits) = (&mut *self.token, &mut *self.status, self.logits.get(set));
        let n_vocab = self.n_vocab as u32;
        match self.kind {
            Kind::Argmax => device.launch(argmax_f32 { token, status, logits, n_vocab }, Grid::x(1)),
            Kind::Softmax => {
                let (positions, temperature, seed) = (&*self.positions, TEMPERATURE, SEED);
                let sample =
                    softmax_sample_f32 { token, status, logits, positions, n_vocab, temperature, seed };
                device.launch(sample, Grid::x(1))
            }
        }
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        device.copy_in(&mut self.token, &[u32::MAX])?;
        Ok(device.copy_in(&mut self.status, &[u32::MAX])?)
    }

    /// The error is by how much the draw missed the token's share, 0 where it is the right token.
    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let (token, status) = (device.download(&self.token)?[0], device.download(&self.status)?[0]);
        let logits = read(device, self.logits.get(0))?;
        if status != 0 || token as usize >= logits.len() {
            return Ok(Check { error: f64::INFINITY, allowed: 0.0 });
        }
        Ok(match self.kind {
            Kind::Argmax => {
                let is_right = reference::argmax(&logits) == Some(token as usize);
                Check { error: if is_right { 0.0 } else { f64::INFINITY }, allowed: 0.0 }
            }
            Kind::Softmax => {
                let share = reference::sample_interval(&logits, f64::from(TEMPERATURE), token as usize);
                let draw = f64::from(uniform(SEED, 5));
                let error = (share.start - draw).max(draw - share.end).max(0.0);
                // A sum of f32 in a fixed order.
                Check { error, allowed: 1e-4 }
            }
        })
    }
}
