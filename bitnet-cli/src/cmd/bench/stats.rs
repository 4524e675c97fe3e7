//! What is said about the samples of one row.

/// Mean, spread and middle of a list of numbers, at least one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stats {
    pub(super) mean: f64,
    /// Sample standard deviation (divided by n - 1); 0 for a single sample.
    pub(super) stddev: f64,
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Stats {
    /// Statistics of `samples`.
    ///
    /// # Panics
    /// If there are none.
    pub(super) fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let mean = sorted.iter().sum::<f64>() / n as f64;
        let squares: f64 = sorted.iter().map(|x| (x - mean) * (x - mean)).sum();
        Stats {
            mean,
            stddev: if n > 1 { (squares / (n - 1) as f64).sqrt() } else { 0.0 },
            median: (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
            min: sorted[0],
            max: sorted[n - 1],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_the_sample_deviation() {
        let stats = Stats::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!((stats.mean, stats.median, stats.min, stats.max), (5.0, 4.5, 2.0, 9.0));
        assert!((stats.stddev * stats.stddev - 32.0 / 7.0).abs() < 1e-12);
    }

    #[test]
    fn one_sample_has_no_spread() {
        let stats = Stats::of(&[3.0]);
        assert_eq!((stats.mean, stats.stddev, stats.median), (3.0, 0.0, 3.0));
    }

    #[test]
    fn the_median_ignores_an_outlier() {
        assert_eq!(Stats::of(&[1.0, 1000.0, 3.0]).median, 3.0);
    }
}
