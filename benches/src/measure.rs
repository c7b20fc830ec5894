//! Time on the GPU's own clock: samples of many launches, those of all contestants in turns.
//!
//! A sample is a graph of launches between two events, so that neither the host nor a launch's overhead is in it. The
//! launches of a sample take the sets of inputs in turns. Contestants alternate sample by sample: what the card's clock
//! and heat do, they do to all of them.

use oxwarp::cuda::{Cuda, Graph};

use crate::error::Result;
use crate::stats::Stats;

/// Queues the work on one set of inputs, all of it in buffers that outlive the contest.
pub type Queue<'a> = dyn FnMut(usize) -> Result<()> + 'a;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Time that a sample should take at least: events have a resolution of half a microsecond.
    pub sample_us: f64,
    /// Time to measure one contestant.
    pub budget_us: f64,
    pub samples_min: usize,
}

impl Pace {
    pub const FULL: Pace = Pace { sample_us: 300.0, budget_us: 60e3, samples_min: 20 };
    pub const QUICK: Pace = Pace { sample_us: 200.0, budget_us: 6e3, samples_min: 20 };
    /// To choose among algorithms.
    pub const GLANCE: Pace = Pace { sample_us: 150.0, budget_us: 600.0, samples_min: 3 };

    /// Samples of a contest in which one of each contestant takes this time.
    fn n_samples(self, round_us: f64, n_contestants: usize) -> usize {
        let wanted = (self.budget_us * n_contestants as f64 / round_us) as usize;
        wanted.clamp(self.samples_min, SAMPLES_MAX)
    }

    /// Launches of a sample.
    fn n_launches(self, launch_us: f64, n_sets: usize) -> usize {
        if launch_us >= LONG_US {
            return 1;
        }
        ((self.sample_us / launch_us).ceil() as usize).clamp(n_sets, LAUNCHES_MAX.max(n_sets))
    }
}

const SAMPLES_MAX: usize = 200;
const LAUNCHES_MAX: usize = 1000;
/// A launch of this length reads far more than a cache holds: what the last one left there does not matter.
const LONG_US: f64 = 2000.0;

/// A sample, ready to be run again and again.
struct Sample {
    graph: Graph,
    n_launches: usize,
}

/// Times all contestants; of one that cannot be measured, the reason.
///
/// # Errors
/// Those of the device.
pub fn race(
    device: &Cuda,
    contestants: &mut [&mut Queue<'_>],
    n_sets: usize,
    pace: Pace,
) -> Result<Vec<Result<Stats>>> {
    let samples: Vec<Result<Sample>> =
        contestants.iter_mut().map(|queue| record(device, *queue, n_sets, pace)).collect();
    let good: Vec<&Sample> = samples.iter().filter_map(|sample| sample.as_ref().ok()).collect();
    let round_us: f64 = round(device, &good)?.iter().sum();
    let n = if good.is_empty() { 0 } else { pace.n_samples(round_us, good.len()) };
    let mut times = vec![Vec::with_capacity(n); good.len()];
    for _ in 0..n {
        for (time, (us, sample)) in times.iter_mut().zip(round(device, &good)?.iter().zip(&good)) {
            time.push(us / sample.n_launches as f64);
        }
    }
    let mut stats = times.iter().map(|times| Stats::of(times));
    Ok(samples.into_iter().map(|sample| sample.map(|_| stats.next().expect("one of each"))).collect())
}

/// Times one contestant.
///
/// # Errors
/// Those of the device and of the contestant.
pub fn time(device: &Cuda, queue: &mut Queue<'_>, n_sets: usize, pace: Pace) -> Result<Stats> {
    race(device, &mut [queue], n_sets, pace)?.pop().expect("one contestant")
}

/// Runs every sample once and gives their times in microseconds.
fn round(device: &Cuda, samples: &[&Sample]) -> Result<Vec<f64>> {
    let mut marks = Vec::with_capacity(samples.len());
    for sample in samples {
        let start = device.record()?;
        // SAFETY: the contestants promise buffers that outlive the contest, and nothing else runs beside it.
        unsafe { device.launch_graph(&sample.graph) }?;
        marks.push((start, device.record()?));
    }
    marks.iter().map(|(start, end)| Ok(end.elapsed_us(start)?)).collect()
}

fn record(device: &Cuda, queue: &mut Queue<'_>, n_sets: usize, pace: Pace) -> Result<Sample> {
    // The first launch of anything may load code or allocate, which cannot be captured.
    queue(0)?;
    device.synchronize()?;
    let launch_us = estimate(device, queue, n_sets)?;
    let n_launches = pace.n_launches(launch_us, n_sets);
    let graph = device.capture(|| (0..n_launches).try_for_each(|i| queue(i % n_sets)))?;
    let sample = Sample { graph, n_launches };
    // Clocks rise, pages are touched.
    round(device, &[&sample])?;
    Ok(sample)
}

/// About what a launch takes, or somewhat more.
fn estimate(device: &Cuda, queue: &mut Queue<'_>, n_sets: usize) -> Result<f64> {
    let mut timed = |n: usize| {
        let start = device.record()?;
        (0..n).try_for_each(|i| queue(i % n_sets))?;
        Ok::<_, crate::error::Error>(device.record()?.elapsed_us(&start)? / n as f64)
    };
    let one = timed(1)?;
    Ok(if one < LONG_US { timed(8)?.max(0.5) } else { one })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_takes_every_set_and_its_time() {
        assert_eq!(Pace::FULL.n_launches(3.0, 7), 100);
        assert_eq!(Pace::FULL.n_launches(3.0, 170), 170, "all sets");
        assert_eq!(Pace::FULL.n_launches(250.0, 2), 2);
        assert_eq!(Pace::FULL.n_launches(5000.0, 2), 1, "long launches need no second set");
        assert_eq!(Pace::FULL.n_launches(0.1, 7), 1000);
    }

    #[test]
    fn the_budget_decides_on_samples_but_there_are_twenty() {
        assert_eq!(Pace::FULL.n_samples(1200.0, 2), 100);
        assert_eq!(Pace::FULL.n_samples(100_000.0, 1), 20);
        assert_eq!(Pace::QUICK.n_samples(200.0, 1), 30);
    }
}
