//! One case: our kernel, the vendor's ways to the same result, and the errors of both.

use oxwarp::cuda::Cuda;

use crate::case::{Case, Check, Peer, Subject};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::measure::{Pace, Queue, race, time};
use crate::stats::Stats;
use crate::vendor::{Algorithm, Prepared, Product, Vendor};

/// What was found out about a case.
pub struct Outcome {
    pub ours: Stats,
    pub check: Check,
    /// Whether all sets of inputs together fit the second-level cache twice.
    pub fits_cache: bool,
    pub peers: Vec<PeerOutcome>,
    /// What is compared, where it is not the same.
    pub note: Option<&'static str>,
}

/// One way of the vendor's library.
pub struct PeerOutcome {
    pub name: String,
    /// Times, or why there are none.
    pub stats: Result<Stats, String>,
    /// Of its results on set 0, where they can be checked.
    pub check: Option<Check>,
}

/// Measures a case.
///
/// # Errors
/// Those of the device and of our kernel. What a peer cannot do stands in its outcome.
pub fn run(case: &Case, lab: &Lab, pace: Pace) -> Result<Outcome> {
    let device = &lab.device;
    let mut subject = (case.make)(lab)?;
    let n_sets = subject.n_sets();
    subject.reset(device)?;
    subject.launch(device, 0)?;
    device.synchronize()?;
    let check = subject.check(device)?;

    let peer = match &lab.vendor {
        Ok(vendor) => subject.peer().map(|peer| (vendor, peer)),
        Err(_) => None,
    };
    let mut peers = Vec::new();
    let mut ways = Vec::new();
    let note = peer.as_ref().and_then(|(_, peer)| peer.note);
    if let Some((vendor, peer)) = &peer {
        match ways_of(device, vendor, peer) {
            Ok(found) => ways = found,
            Err(error) => peers.push(PeerOutcome::failed("cuBLASLt", &error)),
        }
        for way in &mut ways {
            way.check = if peer.same_results { check_way(way, subject.as_mut(), device)? } else { None };
        }
    }

    let mut ours = |set| Ok(subject.launch(device, set)?);
    let mut queues: Vec<Box<Queue<'_>>> = ways.iter().map(Way::queue).collect();
    let mut contestants: Vec<&mut Queue<'_>> = vec![&mut ours];
    contestants.extend(queues.iter_mut().map(|queue| queue.as_mut()));
    let mut results = race(device, &mut contestants, n_sets, pace)?.into_iter();
    let ours = results.next().expect("ours is the first")?;
    drop(queues);
    for (way, stats) in ways.into_iter().zip(results) {
        let stats = stats.map_err(|error| error.to_string());
        peers.push(PeerOutcome { name: way.name.into(), stats, check: way.check });
    }
    let fits_cache = subject.rotated_bytes() < 2 * u64::from(device.info().l2_bytes);
    Ok(Outcome { ours, check, fits_cache, peers, note })
}

impl PeerOutcome {
    fn failed(name: &str, error: &Error) -> Self {
        PeerOutcome { name: name.into(), stats: Err(error.to_string()), check: None }
    }
}

/// A way to do a peer's products. Those of a set may have different shapes; each place in the list has one.
struct Way<'a> {
    name: &'static str,
    sets: &'a [Vec<Product>],
    by: By<'a>,
    check: Option<Check>,
}

enum By<'a> {
    /// cuBLASLt, with an algorithm for each product of a set.
    Lt(Vec<(Prepared<'a>, Algorithm)>),
    /// cuBLAS.
    Blas(&'a Vendor),
}

impl Way<'_> {
    fn queue(&self) -> Box<Queue<'_>> {
        Box::new(move |set| {
            for (i, product) in self.sets[set].iter().enumerate() {
                // SAFETY: the products lie in the subject's buffers, which live as long as the contest.
                unsafe {
                    match &self.by {
                        By::Lt(prepared) => prepared[i].0.queue(product, &prepared[i].1)?,
                        By::Blas(vendor) => vendor.queue_blas(product)?,
                    }
                }
            }
            Ok(())
        })
    }
}

/// All ways: the best of cuBLASLt's proposals, its first one if that is another, and cuBLAS.
fn ways_of<'a>(device: &Cuda, vendor: &'a Vendor, peer: &'a Peer) -> Result<Vec<Way<'a>>> {
    let (mut best, mut first, mut differ) = (Vec::new(), Vec::new(), false);
    for place in 0..peer.sets[0].len() {
        let products: Vec<Product> = peer.sets.iter().map(|set| set[place]).collect();
        // SAFETY: as in `Way::queue`.
        let (fastest, proposed_first) = unsafe { best_algorithm(device, vendor, &products) }?;
        differ |= fastest != proposed_first;
        best.push((vendor.prepare(&products[0])?, fastest));
        first.push((vendor.prepare(&products[0])?, proposed_first));
    }
    let way = |name, by| Way { name, sets: &peer.sets, by, check: None };
    let mut ways = vec![way("cuBLASLt", By::Lt(best))];
    if differ {
        ways.push(way("cuBLASLt first", By::Lt(first)));
    }
    if vendor.has_blas() {
        ways.push(way("cuBLAS", By::Blas(vendor)));
    }
    Ok(ways)
}

/// The error of a way's results on set 0; none if it cannot be run, which the contest will say.
fn check_way(way: &Way<'_>, subject: &mut dyn Subject, device: &Cuda) -> Result<Option<Check>> {
    subject.reset(device)?;
    if way.queue()(0).is_err() {
        return Ok(None);
    }
    device.synchronize()?;
    subject.check(device).map(Some)
}

/// The fastest of cuBLASLt's proposals for products of one shape, one a set; and the first of them.
///
/// # Errors
/// Those of the library, or that none of its proposals works.
///
/// # Safety
/// The products' operands are in live memory of the device, and nothing else uses their results.
pub unsafe fn best_algorithm(
    device: &Cuda,
    vendor: &Vendor,
    products: &[Product],
) -> Result<(Algorithm, Algorithm)> {
    let prepared = vendor.prepare(&products[0])?;
    let algorithms = vendor.algorithms(&products[0])?;
    let first = algorithms[0];
    let mut best: Option<(f64, Algorithm)> = None;
    for algorithm in algorithms {
        // SAFETY: the caller's promise.
        let mut queue = |set: usize| unsafe { prepared.queue(&products[set], &algorithm) };
        // One that its own heuristic proposes and then refuses is no candidate.
        let Ok(stats) = time(device, &mut queue, products.len(), Pace::GLANCE) else { continue };
        if best.is_none_or(|(us, _)| stats.median_us < us) {
            best = Some((stats.median_us, algorithm));
        }
    }
    let (_, best) = best.ok_or_else(|| Error::NoAlgorithm { product: products[0].to_string() })?;
    Ok((best, first))
}
