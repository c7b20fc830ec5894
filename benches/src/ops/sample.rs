//! `sample`: the next token from the logits of vocabularies of three sizes.

use kernels_gpu::launch::{Device, DeviceBuffer, Grid, Purpose};
use kernels_gpu::sample::{
    Chain, argmax_blocks, argmax_bytes, argmax_f32, argmax_slices_f32, random, sample_draw_bytes,
    sample_draw_f32, sample_slices_bytes, sample_slices_f32, sample_slices_flops, slices_blocks,
    slices_words,
};
use oxwarp::cuda::{Cuda, Error};
use testkit::data::Rng;
use testkit::reference::{self, widen};
use testkit::sampling::{self, Slack};

use crate::case::{Case, Check, Subject, Work};
use crate::error::Result;
use crate::lab::{Lab, Sets};

const VOCABULARIES: [usize; 3] = [32_064, 151_936, 201_088];
const SEED: u64 = 7;
const POSITION: u32 = 5;

/// All stages off.
const PLAIN: sampling::Chain = sampling::Chain {
    repeat_penalty: 1.0,
    frequency_penalty: 0.0,
    presence_penalty: 0.0,
    n_recent: 0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    temperature: 0.8,
};
/// What `oxwarp run` does by default.
const DEFAULT: sampling::Chain = sampling::Chain { top_k: 40, top_p: 0.95, min_p: 0.05, ..PLAIN };

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for n_vocab in VOCABULARIES {
        let work = Work::reading(argmax_bytes(n_vocab), n_vocab);
        let make = move |lab: &Lab| Argmax::new(lab, n_vocab);
        cases.push(Case::new("sample", format!("argmax {n_vocab}"), work, make));
        cases.push(chain("default chain", DEFAULT, n_vocab, 1));
    }
    let large = VOCABULARIES[1];
    cases.push(chain("greedy chain", sampling::Chain { top_k: 1, ..PLAIN }, large, 1));
    cases.push(chain("nucleus", sampling::Chain { top_p: 0.9, ..PLAIN }, large, 1));
    cases.push(chain("min-p", sampling::Chain { min_p: 0.05, ..PLAIN }, large, 1));
    cases.push(chain("plain draw", PLAIN, large, 1));
    cases.push(chain("default chain", DEFAULT, large, 64));
    cases
}

fn chain(name: &str, chain: sampling::Chain, n_vocab: usize, n_sequences: usize) -> Case {
    let bytes = sample_slices_bytes(n_vocab, n_sequences) + sample_draw_bytes(n_vocab, n_sequences);
    let work = Work::reading(bytes, sample_slices_flops(n_vocab, n_sequences));
    let name = format!("{name} {n_sequences} x {n_vocab}");
    Case::new("sample", name, work, move |lab| Draws::new(lab, chain.clone(), n_vocab, n_sequences))
}

/// Logits like a model's: most are far below a few dozen.
fn logits(n_vocab: usize) -> Vec<f32> {
    let mut rng = Rng::new(n_vocab as u64);
    let mut logits = rng.normal(n_vocab, 2.0);
    for token in rng.tokens(60, n_vocab) {
        logits[token as usize] += 10.0;
    }
    logits
}

struct Argmax {
    n_vocab: usize,
    n_sets: usize,
    logits: Sets<f32>,
    bests: DeviceBuffer<u32>,
    chosen: DeviceBuffer<u32>, // [2]
    tokens: DeviceBuffer<u32>,
    positions: DeviceBuffer<u32>,
}

impl Argmax {
    fn new(lab: &Lab, n_vocab: usize) -> Result<Self> {
        let n_sets = lab.n_sets(4 * n_vocab);
        let zeros = |n: usize| lab.device.zeros(n, Purpose::Other);
        Ok(Argmax {
            n_vocab,
            n_sets,
            logits: lab.normal(n_sets, n_vocab)?,
            bests: zeros(2 * argmax_blocks(n_vocab))?,
            chosen: zeros(2)?,
            tokens: zeros(1)?,
            positions: zeros(1)?,
        })
    }
}

impl Subject for Argmax {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.logits.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let n_blocks = argmax_blocks(self.n_vocab) as u32;
        let (logits, n_vocab) = (self.logits.get(set), self.n_vocab as u32);
        device.launch(argmax_slices_f32 { bests: &mut self.bests, logits, n_vocab }, Grid::x(n_blocks))?;
        let choose = argmax_f32 {
            chosen: &mut self.chosen,
            tokens: &mut self.tokens,
            positions: &mut self.positions,
            bests: &self.bests,
            n_blocks,
        };
        device.launch(choose, Grid::x(1))
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        Ok(device.copy_in(&mut self.chosen, &[u32::MAX; 2])?)
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let chosen = device.download(&self.chosen)?;
        let best = reference::argmax(&widen(&device.download(self.logits.get(0))?));
        Ok(right_or_wrong(chosen[1] == 0 && best == Some(chosen[0] as usize)))
    }
}

fn right_or_wrong(is_right: bool) -> Check {
    Check { error: if is_right { 0.0 } else { f64::INFINITY }, allowed: 0.0 }
}

struct Draws {
    chain: sampling::Chain,
    n_vocab: usize,
    n_sequences: usize,
    n_sets: usize,
    host_logits: Vec<f32>,
    logits: DeviceBuffer<f32>, // [n_sets, n_sequences, n_vocab], all sequences alike
    chains: DeviceBuffer<u32>,
    slices: DeviceBuffer<u32>,
    chosen: DeviceBuffer<u32>, // [n_sequences, 2]
    tokens: DeviceBuffer<u32>,
    positions: DeviceBuffer<u32>,
    history: DeviceBuffer<u32>, // [n_sequences, 1]: nothing is penalised
}

impl Draws {
    fn new(lab: &Lab, chain: sampling::Chain, n_vocab: usize, n_sequences: usize) -> Result<Self> {
        let n_sets = lab.n_sets(4 * n_vocab * n_sequences);
        let host_logits = logits(n_vocab);
        let words = |sequence| {
            let options =
                Chain { top_k: chain.top_k as u32, top_p: chain.top_p, ..Chain::plain(SEED + sequence) };
            options.with_min_p(chain.min_p).with_temperature(chain.temperature).words()
        };
        let chains: Vec<u32> = (0..n_sequences as u64).flat_map(words).collect();
        let zeros = |n: usize| lab.device.zeros(n, Purpose::Other);
        Ok(Draws {
            n_vocab,
            n_sequences,
            n_sets,
            logits: lab.upload(&host_logits.repeat(n_sets * n_sequences))?,
            host_logits,
            chains: lab.upload(&chains)?,
            slices: zeros(slices_words(n_vocab, n_sequences))?,
            chosen: zeros(2 * n_sequences)?,
            tokens: zeros(n_sequences)?,
            positions: zeros(n_sequences)?,
            history: zeros(n_sequences)?,
            chain,
        })
    }
}

impl Subject for Draws {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.logits.size_bytes() as u64
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let n_set = self.n_sequences * self.n_vocab;
        let n_slices = slices_blocks(self.n_vocab) as u32;
        let sort = sample_slices_f32 {
            slices: &mut self.slices,
            logits: self.logits.slice(set * n_set..(set + 1) * n_set),
            chains: &self.chains,
            history: &self.history,
            positions: &self.positions,
            n_vocab: self.n_vocab as u32,
            n_ctx: 1,
        };
        device.launch(sort, Grid::xy(n_slices, self.n_sequences as u32))?;
        let draw = sample_draw_f32 {
            chosen: &mut self.chosen,
            tokens: &mut self.tokens,
            positions: &mut self.positions,
            history: &mut self.history,
            slices: &self.slices,
            chains: &self.chains,
            n_slices,
            n_ctx: 1,
        };
        device.launch(draw, Grid::xy(1, self.n_sequences as u32))
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        device.copy_in(&mut self.positions, &vec![POSITION; self.n_sequences])?;
        Ok(device.copy_in(&mut self.chosen, &vec![u32::MAX; 2 * self.n_sequences])?)
    }

    /// Each sequence's token is the reference's, but for random numbers within 10⁻⁵ of the border between two.
    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let slack = Slack { sum: 1e-5, per_exponent: 0.0, logit: 1e-6 };
        let distribution = sampling::distribution(&self.chain, &self.host_logits, &[], slack);
        let chosen = device.download(&self.chosen)?;
        let is_right = chosen.chunks(2).zip(SEED..).all(|(chosen, seed)| {
            let unit = random::unit(random::key(seed), u64::from(POSITION) + 1);
            chosen[1] == 0 && distribution.may_be(chosen[0], unit)
        });
        Ok(right_or_wrong(is_right))
    }
}
