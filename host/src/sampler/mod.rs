//! From logits to the next token.
//!
//! The stages run in this order, which is also what [`Sampler`]'s `Display` prints:
//!
//! 1. *penalties*: the logit of each token among the last `repeat_last_n` ones is divided by the repeat penalty if it is
//!    positive and multiplied by it if not; then the presence penalty is taken away, and the frequency penalty for each
//!    time that the token occurs there;
//! 2. *top-k*: the `k` largest logits stay;
//! 3. *top-p*: of those, the smallest set of most probable tokens whose probabilities sum to `p` or more;
//! 4. *min-p*: of those, the tokens at least `min_p` times as probable as the best one;
//! 5. *temperature*: logits are divided by it;
//! 6. *draw*: one token by its probability, with one random number.
//!
//! At temperature 0 stage 1 is followed by the largest logit, and nothing is drawn. Equal logits count as ordered by
//! token id, lowest first, in every stage. All probabilities are f64 sums over every candidate that is left, so a
//! vocabulary of 200 000 tokens loses nothing to rounding or to a cap; no stage sorts the vocabulary.

mod rng;

use std::cmp::Ordering;
use std::fmt;

use kernels_gpu::sample::Chain;

pub use rng::{Rng, random_seed};

/// What may go wrong between logits and token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option outside its range, NaN included.
    #[error("{name} is {value}; allowed: {min} to {max}")]
    Option { name: &'static str, value: f32, min: f32, max: f32 },
    /// The model computed something that is no number, or plus infinity.
    #[error(
        "the logit of token {token} is {value} ({n_bad} of {n_vocab} logits are not finite): the model's arithmetic broke down"
    )]
    NotFinite { token: usize, value: f32, n_bad: usize, n_vocab: usize },
    /// Every token is ruled out.
    #[error("all {n_vocab} logits are -inf: no token can follow")]
    NoCandidate { n_vocab: usize },
}

/// The name and range of a numeric option.
#[derive(Clone, Copy, Debug)]
pub struct OptionRange {
    pub name: &'static str,
    pub min: f32,
    pub max: f32,
}

/// 0 is the largest logit; more than 2 is noise on every model.
pub const TEMPERATURE: OptionRange = OptionRange { name: "temperature", min: 0.0, max: 2.0 };
/// 0 keeps the most probable token only, 1 keeps all.
pub const TOP_P: OptionRange = OptionRange { name: "top-p", min: 0.0, max: 1.0 };
/// 0 keeps all, 1 keeps the most probable token and its equals.
pub const MIN_P: OptionRange = OptionRange { name: "min-p", min: 0.0, max: 1.0 };
/// 1 changes nothing, less than 1 rewards repetition.
pub const REPEAT_PENALTY: OptionRange = OptionRange { name: "repeat-penalty", min: 0.01, max: 100.0 };

/// 0 changes nothing, less than 0 rewards repetition.
pub const FREQUENCY_PENALTY: OptionRange = OptionRange { name: "frequency-penalty", min: -100.0, max: 100.0 };
/// 0 changes nothing, less than 0 rewards repetition.
pub const PRESENCE_PENALTY: OptionRange = OptionRange { name: "presence-penalty", min: -100.0, max: 100.0 };

impl OptionRange {
    /// `value`, if it lies in the range.
    pub fn check(&self, value: f32) -> Result<f32, Error> {
        if value >= self.min && value <= self.max {
            return Ok(value);
        }
        Err(Error::Option { name: self.name, value, min: self.min, max: self.max })
    }
}

/// How to choose tokens; the stages are described at the top of [this module](self).
///
/// ```
/// use oxwarp::sampler::SamplerOptions;
/// let mild = SamplerOptions { temperature: 0.3, seed: Some(7), ..Default::default() };
/// assert_eq!(mild.top_k, 40);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Range [`TEMPERATURE`], default 0.8.
    pub temperature: f32,
    /// Default 40; 0 keeps all.
    pub top_k: usize,
    /// Range [`TOP_P`], default 0.95.
    pub top_p: f32,
    /// Range [`MIN_P`], default 0.05.
    pub min_p: f32,
    /// Range [`REPEAT_PENALTY`], default 1 (off).
    pub repeat_penalty: f32,
    /// Range [`FREQUENCY_PENALTY`], default 0 (off).
    pub frequency_penalty: f32,
    /// Range [`PRESENCE_PENALTY`], default 0 (off).
    pub presence_penalty: f32,
    /// How many of the last tokens, the prompt's included, are penalised: default 64; 0 is none, `usize::MAX` all.
    pub repeat_last_n: usize,
    /// Seed of the draws; random when `None`. [`Sampler::seed`] tells the one in use.
    pub seed: Option<u64>,
}

impl Default for SamplerOptions {
    fn default() -> SamplerOptions {
        SamplerOptions {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repeat_last_n: 64,
            seed: None,
        }
    }
}

impl SamplerOptions {
    /// Always the most probable token.
    pub fn greedy() -> SamplerOptions {
        SamplerOptions { temperature: 0.0, ..SamplerOptions::default() }
    }

    fn has_penalty(&self) -> bool {
        let penalties = (self.repeat_penalty, self.frequency_penalty, self.presence_penalty);
        penalties != (1.0, 0.0, 0.0) && self.repeat_last_n != 0
    }

    /// The logit of a token that occurs `count` times, 1 or more, among the last ones: with the device's roundings.
    fn penalised(&self, logit: f32, count: u32) -> f32 {
        let scaled = match logit > 0.0 {
            true => logit / self.repeat_penalty,
            false => logit * self.repeat_penalty,
        };
        let taken = (count as f32).mul_add(self.frequency_penalty, self.presence_penalty);
        (scaled.min(f32::MAX) - taken).min(f32::MAX)
    }
}

/// A token that may come next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub id: u32,
    /// After the penalties, before the temperature.
    pub logit: f32,
    /// The share of the draws that this token gets.
    pub probability: f64,
}

impl Candidate {
    /// The order of "more probable": larger logit first, then lower id. No two candidates are equal in it.
    fn rank(&self, other: &Candidate) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// Chooses tokens by [`SamplerOptions`].
///
/// ```
/// use oxwarp::sampler::{Sampler, SamplerOptions};
/// let mut sampler = Sampler::new(SamplerOptions::greedy())?;
/// assert_eq!(sampler.sample(&[0.5, 2.0, -1.0], &[])?, 1);
/// # Ok::<(), oxwarp::sampler::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    seed: u64,
    rng: Rng,
    candidates: Vec<Candidate>,
    scratch: Vec<Candidate>,
    penalised: Vec<f32>,
    /// Zeros between two calls.
    counts: Vec<u32>,
}

impl Sampler {
    /// # Errors
    /// An option out of its range.
    pub fn new(options: SamplerOptions) -> Result<Sampler, Error> {
        TEMPERATURE.check(options.temperature)?;
        TOP_P.check(options.top_p)?;
        MIN_P.check(options.min_p)?;
        REPEAT_PENALTY.check(options.repeat_penalty)?;
        FREQUENCY_PENALTY.check(options.frequency_penalty)?;
        PRESENCE_PENALTY.check(options.presence_penalty)?;
        let seed = options.seed.unwrap_or_else(random_seed);
        Ok(Sampler {
            options,
            seed,
            rng: Rng::new(seed),
            candidates: Vec::new(),
            scratch: Vec::new(),
            penalised: Vec::new(),
            counts: Vec::new(),
        })
    }

    /// The seed in use: the one of the options, or the random one.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Whether the largest logit is always taken as the model gives it, so that whoever computes it may choose too.
    pub fn is_plain_greedy(&self) -> bool {
        self.options.temperature == 0.0 && !self.options.has_penalty()
    }

    /// The same stages for a device, which draws the token at `position` and those after it as this sampler would: with
    /// its next random number, and the following ones.
    pub(crate) fn chain(&self, position: u32) -> Chain {
        let SamplerOptions { temperature, top_k, top_p, min_p, .. } = self.options;
        let SamplerOptions { repeat_penalty, frequency_penalty, presence_penalty, repeat_last_n, .. } =
            self.options;
        let saturated = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let n_recent = saturated(repeat_last_n);
        let penalties =
            Chain { repeat_penalty, frequency_penalty, presence_penalty, n_recent, ..Chain::greedy() };
        if temperature == 0.0 {
            return penalties;
        }
        let next_draw = self.rng.n_drawn() as u32 + 1;
        let chain = Chain {
            top_k: saturated(top_k),
            top_p,
            random_key: self.rng.key(),
            draw_offset: next_draw.wrapping_sub(position),
            ..penalties
        };
        chain.with_min_p(min_p).with_temperature(temperature)
    }

    /// The token that follows `previous` (all tokens so far, the prompt's included; each below `n_vocab`), given the
    /// logits `[n_vocab]`.
    ///
    /// # Errors
    /// A logit that is NaN or +inf; all of them -inf.
    pub fn sample(&mut self, logits: &[f32], previous: &[u32]) -> Result<u32, Error> {
        self.distribution(logits, previous)?;
        if self.options.temperature == 0.0 {
            return Ok(self.candidates[0].id);
        }
        let unit = self.rng.next_unit();
        Ok(draw(&self.candidates, unit))
    }

    /// The tokens that [`Sampler::sample`] would choose among and their probabilities (their sum is 1), ordered by id.
    /// Takes no random number.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub fn distribution(&mut self, logits: &[f32], previous: &[u32]) -> Result<&[Candidate], Error> {
        check_logits(logits)?;
        let penalised =
            apply_penalties(&self.options, logits, previous, &mut self.penalised, &mut self.counts);
        self.candidates.clear();
        if self.options.temperature == 0.0 {
            self.candidates.push(most_probable(penalised)?);
            return Ok(&self.candidates);
        }
        keep_top_k(penalised, self.options.top_k, &mut self.candidates, &mut self.scratch);
        let best = self.candidates.iter().map(|c| c.logit).max_by(f32::total_cmp);
        let best = best.ok_or(Error::NoCandidate { n_vocab: logits.len() })?;
        weigh(&mut self.candidates, best, 1.0);
        keep_top_p(&mut self.candidates, self.options.top_p, &mut self.scratch);
        // The best candidate weighs exactly 1, so weights are already relative to it.
        self.candidates.retain(|c| c.probability >= f64::from(self.options.min_p));
        weigh(&mut self.candidates, best, self.options.temperature);
        let total = sum(&self.candidates);
        self.candidates.iter_mut().for_each(|c| c.probability /= total);
        Ok(&self.candidates)
    }
}

/// Refuses what no sampler can judge.
fn check_logits(logits: &[f32]) -> Result<(), Error> {
    let is_bad = |logit: &&f32| logit.is_nan() || **logit == f32::INFINITY;
    // Counting has no early end, so that the compiler can look at many at once; where all is well it is the only pass.
    let n_bad = logits.iter().filter(is_bad).count();
    if n_bad == 0 {
        return Ok(());
    }
    let token = logits.iter().position(|logit| is_bad(&logit)).expect("there is one");
    Err(Error::NotFinite { token, value: logits[token], n_bad, n_vocab: logits.len() })
}

/// Stage 1. Returns the logits themselves where there is nothing to change. `counts` is left as zeros, one for each token.
fn apply_penalties<'a>(
    options: &SamplerOptions,
    logits: &'a [f32],
    previous: &[u32],
    penalised: &'a mut Vec<f32>,
    counts: &mut Vec<u32>,
) -> &'a [f32] {
    let window = &previous[previous.len().saturating_sub(options.repeat_last_n)..];
    if !options.has_penalty() || window.is_empty() {
        return logits;
    }
    penalised.clear();
    penalised.extend_from_slice(logits);
    counts.resize(logits.len(), 0);
    for &token in window {
        counts[token as usize] += 1;
    }
    for &token in window {
        let count = std::mem::take(&mut counts[token as usize]);
        if count > 0 {
            penalised[token as usize] = options.penalised(logits[token as usize], count);
        }
    }
    penalised
}

/// The largest logit; the lowest id among equals.
fn most_probable(logits: &[f32]) -> Result<Candidate, Error> {
    let mut best = Candidate { id: 0, logit: f32::NEG_INFINITY, probability: 1.0 };
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.logit {
            best = Candidate { id: id as u32, logit, ..best };
        }
    }
    match best.logit > f32::NEG_INFINITY {
        true => Ok(best),
        false => Err(Error::NoCandidate { n_vocab: logits.len() }),
    }
}

/// Stage 2: the `k` best (0: all) of the tokens that are possible at all, in the order of their ids.
fn keep_top_k(logits: &[f32], k: usize, kept: &mut Vec<Candidate>, scratch: &mut Vec<Candidate>) {
    // `+ 0.0` turns -0.0 into 0.0, which must be its equal.
    let all =
        logits.iter().zip(0..).map(|(&logit, id)| Candidate { id, logit: logit + 0.0, probability: 0.0 });
    let possible = all.filter(|candidate| candidate.logit > f32::NEG_INFINITY);
    kept.clear();
    if k == 0 || k >= logits.len() {
        kept.extend(possible);
        return;
    }
    // One pass: the survivors so far are the first k of the scratch space; a newcomer must beat the worst of them, and
    // the space is only put in order when k newcomers have come together. After a few hundred tokens of a vocabulary
    // hardly any does.
    scratch.clear();
    let mut bar = f32::NEG_INFINITY;
    for candidate in possible {
        // An equal logit with a higher id does not get in.
        if candidate.logit > bar {
            scratch.push(candidate);
            if scratch.len() == 2 * k {
                bar = truncate_to_best(scratch, k);
            }
        }
    }
    if scratch.len() > k {
        truncate_to_best(scratch, k);
    }
    scratch.sort_unstable_by_key(|candidate| candidate.id);
    kept.extend_from_slice(scratch);
}

/// Leaves the `k` best, in no order, and returns the logit of the worst of them.
fn truncate_to_best(candidates: &mut Vec<Candidate>, k: usize) -> f32 {
    let (_, worst, _) = candidates.select_nth_unstable_by(k - 1, Candidate::rank);
    let bar = worst.logit;
    candidates.truncate(k);
    bar
}

/// Stage 3. `probability` holds weights, of any sum.
fn keep_top_p(candidates: &mut Vec<Candidate>, p: f32, scratch: &mut Vec<Candidate>) {
    if p >= 1.0 {
        return;
    }
    scratch.clear();
    scratch.extend_from_slice(candidates);
    let target = sum(candidates) * f64::from(p);
    let last = last_of_nucleus(scratch, target);
    candidates.retain(|candidate| candidate.rank(&last) != Ordering::Greater);
}

/// The candidate with which the sum of weights, best candidate first, reaches `target`. Each round halves the
/// candidates in question, so the whole costs a few passes over them and no sort.
fn last_of_nucleus(candidates: &mut [Candidate], target: f64) -> Candidate {
    let mut in_question = candidates;
    let mut sum_before = 0.0;
    while in_question.len() > 1 {
        let middle = (in_question.len() - 1) / 2;
        in_question.select_nth_unstable_by(middle, Candidate::rank);
        let (better, worse) = in_question.split_at_mut(middle + 1);
        let sum_with = sum_before + sum(better);
        if sum_with >= target {
            in_question = better;
        } else {
            sum_before = sum_with;
            in_question = worse;
        }
    }
    in_question[0]
}

/// Sets each `probability` to e^((logit − best) / temperature): 1 for the best candidate, never more.
fn weigh(candidates: &mut [Candidate], best: f32, temperature: f32) {
    for candidate in candidates {
        let distance = f64::from(candidate.logit) - f64::from(best);
        candidate.probability = (distance / f64::from(temperature)).exp();
    }
}

fn sum(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| candidate.probability).sum()
}

/// Stage 6: the candidate in whose part of [0, 1) `unit` lies, the parts being laid out in the order of the candidates.
fn draw(candidates: &[Candidate], unit: f64) -> u32 {
    let mut rest = unit;
    for candidate in candidates {
        rest -= candidate.probability;
        if rest < 0.0 {
            return candidate.id;
        }
    }
    // Probabilities may sum to a little less than 1, so that a number just below 1 falls off the end: the last
    // candidate that can be drawn at all is meant.
    let drawable = candidates.iter().rev().find(|candidate| candidate.probability > 0.0);
    drawable.expect("the best candidate's probability is above 0").id
}

impl fmt::Display for Sampler {
    /// The stages that do something, in order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        if options.has_penalty() {
            let penalties = [
                (REPEAT_PENALTY.name, options.repeat_penalty, 1.0),
                (FREQUENCY_PENALTY.name, options.frequency_penalty, 0.0),
                (PRESENCE_PENALTY.name, options.presence_penalty, 0.0),
            ];
            let mut comma = "";
            for (name, penalty, off) in penalties {
                if penalty != off {
                    write!(f, "{comma}{name} {penalty}")?;
                    comma = ", ";
                }
            }
            match options.repeat_last_n {
                usize::MAX => write!(f, " over all tokens → ")?,
                n => write!(f, " over the last {n} tokens → ")?,
            }
        }
        if options.temperature == 0.0 {
            return write!(f, "largest logit");
        }
        if options.top_k != 0 {
            write!(f, "top-k {} → ", options.top_k)?;
        }
        if options.top_p < 1.0 {
            write!(f, "top-p {} → ", options.top_p)?;
        }
        if options.min_p > 0.0 {
            write!(f, "min-p {} → ", options.min_p)?;
        }
        write!(f, "temperature {} → draw with seed {}", options.temperature, self.seed)
    }
}
