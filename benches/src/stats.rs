//! What a number of samples says: median and spread.

use serde::{Deserialize, Serialize};

/// Microseconds of one launch, over all samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    pub median_us: f64,
    pub quartile_1_us: f64,
    pub quartile_3_us: f64,
    pub min_us: f64,
    pub max_us: f64,
    pub n_samples: usize,
}

impl Stats {
    /// The summary of samples in microseconds.
    ///
    /// # Panics
    /// If there are none, or one is not a number.
    pub fn of(samples: &[f64]) -> Self {
        assert!(!samples.is_empty(), "a summary of no samples");
        let mut sorted = samples.to_vec();
        sorted.sort_by(|a, b| a.partial_cmp(b).expect("times are numbers"));
        // Between two samples, the weighted mean of both.
        let quantile = |q: f64| {
            let place = q * (sorted.len() - 1) as f64;
            let below = place.floor() as usize;
            let above = (below + 1).min(sorted.len() - 1);
            sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
        };
        Stats {
            median_us: quantile(0.5),
            quartile_1_us: quantile(0.25),
            quartile_3_us: quantile(0.75),
            min_us: sorted[0],
            max_us: sorted[sorted.len() - 1],
            n_samples: sorted.len(),
        }
    }

    /// The distance of the quartiles in per cent of the median.
    pub fn spread_percent(&self) -> f64 {
        100.0 * (self.quartile_3_us - self.quartile_1_us) / self.median_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_samples() {
        let stats = Stats::of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!((stats.median_us, stats.quartile_1_us, stats.quartile_3_us), (2.5, 1.75, 3.25));
        assert_eq!((stats.min_us, stats.max_us, stats.n_samples), (1.0, 4.0, 4));
        assert_eq!(stats.spread_percent(), 60.0);
    }

    #[test]
    fn one_sample_is_everything() {
        let stats = Stats::of(&[7.0]);
        assert_eq!((stats.median_us, stats.quartile_1_us, stats.max_us), (7.0, 7.0, 7.0));
        assert_eq!(stats.spread_percent(), 0.0);
    }
}
