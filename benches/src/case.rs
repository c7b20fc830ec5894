//! What is measured: a kernel, a shape, and what it is compared with.

use oxwarp::cuda::Cuda;

use crate::error::Result;
use crate::lab::Lab;
use crate::torch::Attention;
use crate::vendor::Product;

/// One line of the results. A file of `ops/` lists those of its op.
pub struct Case {
    /// The op, named as its file.
    pub op: &'static str,
    /// What tells the case from others of the op: types, shape, variant.
    pub name: String,
    /// What a launch must do, by the kernel's own count.
    pub work: Work,
    /// Only measured with `--all-plans`.
    pub is_variant: bool,
    /// Only measured on compute capability 9.0.
    pub is_hopper: bool,
    /// The attention that PyTorch is asked to do, where it can.
    pub attention: Option<Attention>,
    /// Brings inputs to the GPU.
    pub make: Make,
}

/// Makes a case's subject.
pub type Make = Box<dyn Fn(&Lab) -> Result<Box<dyn Subject>>>;

impl Case {
    /// A case without PyTorch's attention.
    pub fn new<S: Subject + 'static>(
        op: &'static str,
        name: String,
        work: Work,
        make: impl Fn(&Lab) -> Result<S> + 'static,
    ) -> Self {
        let make: Make = Box::new(move |lab| Ok(Box::new(make(lab)?)));
        Case { op, name, work, is_variant: false, is_hopper: false, attention: None, make }
    }

    /// The same as a variant, for tuning.
    pub fn variant(self) -> Self {
        Case { is_variant: true, ..self }
    }

    /// The same, only for compute capability 9.0.
    pub fn hopper(self) -> Self {
        Case { is_hopper: true, ..self }
    }

    /// The same with an attention for PyTorch.
    pub fn attention(self, attention: Attention) -> Self {
        Case { attention: Some(attention), ..self }
    }
}

/// What a launch must do at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    pub bytes: u64,
    pub flops: u64,
    pub traffic: Traffic,
}

/// Which of the measured bandwidths bounds a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Next to nothing is written: that of reading.
    Reads,
    /// Much is written: that of copying.
    Writes,
}

impl Work {
    /// Work of a kernel that reads much more than it writes.
    pub fn reading(bytes: usize, flops: usize) -> Self {
        Work { bytes: bytes as u64, flops: flops as u64, traffic: Traffic::Reads }
    }

    /// Work of a kernel that also writes much.
    pub fn copying(bytes: usize, flops: usize) -> Self {
        Work { bytes: bytes as u64, flops: flops as u64, traffic: Traffic::Writes }
    }
}

/// A kernel with its inputs on the GPU.
pub trait Subject {
    /// Sets of inputs. Launches take them in turns, so that none finds its inputs in the second-level cache.
    fn n_sets(&self) -> usize;

    /// Bytes of all sets together: more than the cache holds, or the results are marked.
    fn rotated_bytes(&self) -> u64;

    /// Queues the kernel on one set.
    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), oxwarp::cuda::Error>;

    /// Makes set 0 ready for a launch that is checked: clears results, so that none of an earlier launch can pass for
    /// this one's, and notes what inputs an op in place will overwrite.
    fn reset(&mut self, device: &Cuda) -> Result<()>;

    /// Compares a sample of the results of the launch on set 0 since the last reset with the reference.
    fn check(&mut self, device: &Cuda) -> Result<Check>;

    /// What the vendor's library does instead, for each set.
    fn peer(&mut self) -> Option<Peer> {
        None
    }
}

/// The vendor's way to the same result.
pub struct Peer {
    /// Products for each set, one after the other. They lie in buffers of the subject.
    pub sets: Vec<Vec<Product>>,
    /// What is compared, where it is not the same.
    pub note: Option<&'static str>,
    /// Whether the results are where those of the subject are, and can be checked in the same way.
    pub same_results: bool,
}

impl Peer {
    /// The very same products of the same data, to the same place.
    pub fn same(sets: Vec<Vec<Product>>) -> Self {
        Peer { sets, note: None, same_results: true }
    }
}

/// How far results are from the reference in f64.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Check {
    /// The largest distance of the sample, in units of the root mean square of the reference.
    pub error: f64,
    /// What the types explain: more is a fault.
    pub allowed: f64,
}

impl Check {
    /// Compares a sample of results.
    ///
    /// # Panics
    /// If the sample is empty or the lengths differ.
    pub fn of(found: &[f32], expected: &[f64], allowed: f64) -> Self {
        assert!(!found.is_empty() && found.len() == expected.len(), "{} of {}", found.len(), expected.len());
        let rms = (expected.iter().map(|e| e * e).sum::<f64>() / expected.len() as f64).sqrt();
        let distances = found.iter().zip(expected).map(|(&f, e)| (f64::from(f) - e).abs());
        // A NaN must not get lost in a maximum.
        let largest = distances.fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) });
        Check { error: if largest == 0.0 { 0.0 } else { largest / rms }, allowed }
    }

    /// Whether the error is explained.
    pub fn is_ok(&self) -> bool {
        self.error <= self.allowed
    }
}

/// Errors that types explain, in units of the root mean square: an f32 sum of some thousand terms, and results or weights
/// of 16 bits, of which the largest of a sample is some four times the root mean square.
pub mod allowed {
    pub const F32: f64 = 1e-4;
    pub const F16: f64 = 4.0 / 2048.0 + F32;
    pub const BF16: f64 = 4.0 / 256.0 + F32;
    /// Averages of values, small against their terms, with weights from the fast exponential.
    pub const ATTENTION_F32: f64 = 1e-3;

    /// How many standard deviations off a value may be: a run looks at about 10⁵ values of sums of rounded products, of which
    /// one is farther off by chance in one of 260 runs.
    const DEVIATIONS: f64 = 5.5;

    /// x in fixed point: the largest of 32 normal numbers is 3.5 times their root mean square, one in 32512 of it a step, and
    /// the error of a step 0.3 of it.
    pub const FIXED_POINT: f64 = DEVIATIONS * 0.3 * 3.5 / 32512.0 + F32;

    /// x rounded to f16: 0.42 of 2⁻¹¹ is the root mean square of the error.
    pub const HALF: f64 = DEVIATIONS * 0.42 / 2048.0 + F32;

    /// Sums in f32 on the tensor cores, which cut off instead of rounding, 16 products at a time.
    pub fn tensor_cores(n_cols: usize) -> f64 {
        4.0 * n_cols.div_ceil(16) as f64 / f64::from(1 << 23) + F32
    }
}

/// Whether a case is asked for: every word of the filter has an alternative, separated by commas, that the case's op and
/// name contain.
pub fn matches(case: &Case, words: &[String]) -> bool {
    let name = format!("{} {}", case.op, case.name);
    words.iter().all(|word| word.split(',').any(|part| name.contains(part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_is_relative_to_the_root_mean_square() {
        let check = Check::of(&[3.0, 4.5], &[3.0, 5.0], 0.1);
        let expected = 0.5 / (34.0f64 / 2.0).sqrt();
        assert!((check.error - expected).abs() < 1e-12 && !check.is_ok(), "{check:?}");
        assert_eq!(Check::of(&[1.0], &[1.0], 0.0).error, 0.0);
    }

    #[test]
    fn not_a_number_is_an_infinite_error() {
        assert!(!Check::of(&[f32::NAN, 1.0], &[1.0, 1.0], 1e9).is_ok());
        assert!(!Check::of(&[1.0, f32::INFINITY], &[1.0, 1.0], 1e9).is_ok());
        assert!(!Check::of(&[1.0], &[0.0], 1e9).is_ok(), "a reference of zeros has no scale");
    }

    #[test]
    fn filter_words_must_all_occur_and_commas_are_alternatives() {
        let make: Make = Box::new(|_| unreachable!("only named"));
        let work = Work::reading(1, 1);
        let case = Case {
            op: "gemv",
            name: "q4_k 4096 x 4096".into(),
            work,
            is_variant: false,
            is_hopper: false,
            attention: None,
            make,
        };
        let matches =
            |words: &[&str]| matches(&case, &words.iter().map(|w| w.to_string()).collect::<Vec<_>>());
        assert!(matches(&[]) && matches(&["gemv", "q4_k"]) && matches(&["rmsnorm,gemv"]));
        assert!(!matches(&["gemv", "q6_k"]) && !matches(&["rmsnorm,rope"]));
    }
}
