//! Histograms with buckets of one per cent.

use hdrhistogram::Histogram as Buckets;

/// The largest value; larger ones count as this. 4 TiB, 73 minutes in nanoseconds, 50 days in microseconds.
const MAX_VALUE: u64 = 1 << 42;

/// Counts values, which are at least 1, in buckets of one per cent.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// Counts `value - 1`, so that a power of two, which many sizes are, ends its bucket.
    minus_one: Buckets<u64>,
    sum: f64,
    min: u64,
    max: u64,
}

/// The statistics of a [`Histogram`]. Quantiles are exact to one per cent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramSummary {
    /// The number of values.
    pub count: u64,
    /// The smallest value.
    pub min: u64,
    /// The median.
    pub p50: u64,
    /// The 90th percentile.
    pub p90: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The 99.9th percentile.
    pub p999: u64,
    /// The largest value.
    pub max: u64,
    /// The arithmetic mean.
    pub mean: f64,
    /// The non-empty buckets by powers of two: inclusive upper bound, and count.
    pub buckets: Vec<(u64, u64)>,
}

impl Default for Histogram {
    fn default() -> Self {
        // Constant and valid bounds: this cannot fail.
        let minus_one = Buckets::new_with_bounds(1, MAX_VALUE, 2).expect("valid bounds");
        Self { minus_one, sum: 0.0, min: u64::MAX, max: 0 }
    }
}

impl Histogram {
    /// Counts `value` `times` times.
    pub fn count(&mut self, value: u64, times: u64) {
        if times > 0 {
            self.minus_one.saturating_record_n(value.saturating_sub(1), times);
            self.sum += value as f64 * times as f64;
            (self.min, self.max) = (self.min.min(value), self.max.max(value));
        }
    }

    /// Returns the number of values counted.
    pub fn len(&self) -> u64 {
        self.minus_one.len()
    }

    /// Returns whether no value was counted.
    pub fn is_empty(&self) -> bool {
        self.minus_one.is_empty()
    }

    /// Returns the sum of all values.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        // Cannot fail: both have the same bounds.
        let _ = self.minus_one.add(&other.minus_one);
        self.sum += other.sum;
        (self.min, self.max) = (self.min.min(other.min), self.max.max(other.max));
    }

    /// Computes the statistics.
    pub fn summary(&self) -> HistogramSummary {
        let Self { minus_one, sum, min, max } = self;
        let count = minus_one.len();
        if count == 0 {
            return HistogramSummary::default();
        }
        // A quantile is the upper end of its bucket, which may lie beyond the largest value.
        let quantile = |share| (minus_one.value_at_quantile(share) + 1).clamp(*min, *max);
        let buckets =
            minus_one.iter_log(1, 2.0).map(|step| (step.value_iterated_to() + 1, step.count_since_last_iteration()));
        HistogramSummary {
            count,
            min: *min,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: *max,
            mean: sum / count as f64,
            buckets: buckets.filter(|(_, count)| *count > 0).collect(),
        }
    }
}

/// A [`Histogram`] for values that repeat often, as sizes do: a cache makes most counts one addition.
#[derive(Clone, Debug)]
pub struct CachedHistogram {
    histogram: Histogram,
    /// Values, and their counts since they were last moved to the histogram.
    cache: [(u64, u64); CACHE_SLOTS],
}

const CACHE_SLOTS: usize = 32;

impl Default for CachedHistogram {
    fn default() -> Self {
        Self { histogram: Histogram::default(), cache: [(0, 0); CACHE_SLOTS] }
    }
}

impl CachedHistogram {
    /// Counts `value`.
    #[inline]
    pub fn count(&mut self, value: u64) {
        // Sizes are often powers of two, whose low bits are equal; the high bits of a product differ.
        let (last, times) = &mut self.cache[(value.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 59) as usize];
        if *last != value {
            self.histogram.count(*last, *times);
            (*last, *times) = (value, 0);
        }
        *times += 1;
    }

    /// Returns the histogram with the cached counts added.
    pub fn read(&self) -> Histogram {
        let mut histogram = self.histogram.clone();
        self.cache.iter().for_each(|(value, times)| histogram.count(*value, *times));
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_match_the_sorted_numbers() {
        let mut state = 1_u64;
        let mut numbers: Vec<u64> = (0..50_000)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (f64::from((state >> 40) as u32) / f64::from(1 << 24) * 20.0).exp2() as u64 + 1
            })
            .collect();
        let mut histogram = Histogram::default();
        numbers.iter().for_each(|number| histogram.count(*number, 1));
        numbers.sort_unstable();
        let figures = histogram.summary();
        for (share, found) in [(0.5, figures.p50), (0.9, figures.p90), (0.99, figures.p99), (0.999, figures.p999)] {
            let exact = numbers[(numbers.len() as f64 * share).ceil() as usize - 1] as f64;
            assert!((found as f64 - exact).abs() <= exact * 0.01 + 1.0, "{share}: {found}, not {exact}");
        }
        let mean = numbers.iter().sum::<u64>() as f64 / numbers.len() as f64;
        assert!((figures.mean / mean - 1.0).abs() < 1e-9, "{} is not {mean}", figures.mean);
        assert_eq!((figures.min, figures.max), (numbers[0], numbers[numbers.len() - 1]));
        assert_eq!(figures.count, 50_000);
        let mut cached = CachedHistogram::default();
        numbers.iter().for_each(|number| cached.count(*number));
        assert_eq!(cached.read().summary(), figures);
        assert_eq!(figures.buckets.iter().map(|(_, count)| count).sum::<u64>(), 50_000);
        let (mut from, mut at) = (0, 0);
        for (upto, count) in figures.buckets {
            let exact = numbers[at..].iter().take_while(|number| **number <= upto).count() as i64;
            // Values in a one-per-cent bucket across the bound may count on either side.
            assert!(
                (exact - count as i64).unsigned_abs() <= numbers.len() as u64 / 200,
                "{from}..{upto}: {count}, not {exact}"
            );
            (from, at) = (upto, at + count as usize);
        }
    }

    #[test]
    fn an_empty_summary_is_zero_and_values_beyond_the_largest_count_as_it() {
        assert_eq!(Histogram::default().summary(), HistogramSummary::default());
        let mut histogram = Histogram::default();
        histogram.count(u64::MAX, 3);
        let mut other = Histogram::default();
        other.count(7, 1);
        histogram.merge(&other);
        let figures = histogram.summary();
        assert_eq!((figures.count, figures.min), (4, 7));
        assert!(figures.max >= MAX_VALUE);
    }
}
