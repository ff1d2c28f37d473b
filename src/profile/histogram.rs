//! How numbers are spread: counted in buckets of one per cent.

use hdrhistogram::Histogram as Buckets;

/// What is beyond counts as this: 4 TiB, 73 minutes in nanoseconds, 50 days in microseconds.
const MAX_VALUE: u64 = 1 << 42;

/// Counts of numbers, which are at least 1.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// Counts `value - 1`, so that a power of two, which many sizes are, ends its bucket.
    minus_one: Buckets<u64>,
    sum: f64,
    min: u64,
    max: u64,
}

/// What a [`Histogram`] says. Quantiles are exact to one per cent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramSummary {
    /// How many there were.
    pub count: u64,
    /// The least.
    pub min: u64,
    /// Half of them are at most this.
    pub p50: u64,
    /// Nine of ten are.
    pub p90: u64,
    /// 99 of 100 are.
    pub p99: u64,
    /// 999 of 1000 are.
    pub p999: u64,
    /// The greatest.
    pub max: u64,
    /// Their mean.
    pub mean: f64,
    /// `(up to, how many)` by powers of two, without the empty ones.
    pub buckets: Vec<(u64, u64)>,
}

impl Default for Histogram {
    fn default() -> Self {
        // These bounds are valid ones, whatever happens.
        let minus_one = Buckets::new_with_bounds(1, MAX_VALUE, 2).expect("valid bounds");
        Self { minus_one, sum: 0.0, min: u64::MAX, max: 0 }
    }
}

impl Histogram {
    /// Counts `value` as often as it came.
    pub fn count(&mut self, value: u64, times: u64) {
        if times > 0 {
            self.minus_one.saturating_record_n(value.saturating_sub(1), times);
            self.sum += value as f64 * times as f64;
            (self.min, self.max) = (self.min.min(value), self.max.max(value));
        }
    }

    /// How many numbers were counted.
    pub fn len(&self) -> u64 {
        self.minus_one.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.minus_one.is_empty()
    }

    /// Their sum.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Self) {
        // Both have the same bounds.
        let _ = self.minus_one.add(&other.minus_one);
        self.sum += other.sum;
        (self.min, self.max) = (self.min.min(other.min), self.max.max(other.max));
    }

    /// See [`HistogramSummary`].
    pub fn summary(&self) -> HistogramSummary {
        let Self { minus_one, sum, min, max } = self;
        let count = minus_one.len();
        if count == 0 {
            return HistogramSummary::default();
        }
        // A bucket is named by the largest number that is counted in it; no quantile is beyond the greatest.
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

/// A [`Histogram`] for numbers of which few are the same again and again, as sizes are: most counts are one addition.
#[derive(Clone, Debug)]
pub struct CachedHistogram {
    histogram: Histogram,
    /// Numbers, and how often they came since they were last put into the histogram.
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
        // Sizes are often powers of two: the upper bits of a product differ where the lower ones of the numbers do not.
        let (last, times) = &mut self.cache[(value.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 59) as usize];
        if *last != value {
            self.histogram.count(*last, *times);
            (*last, *times) = (value, 0);
        }
        *times += 1;
    }

    /// Everything that was counted.
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
    fn quantiles_are_those_of_the_sorted_numbers() {
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
        let mut tally = CachedHistogram::default();
        numbers.iter().for_each(|number| tally.count(*number));
        assert_eq!(tally.read().summary(), figures);
        assert_eq!(figures.buckets.iter().map(|(_, count)| count).sum::<u64>(), 50_000);
        let (mut from, mut at) = (0, 0);
        for (upto, count) in figures.buckets {
            let exact = numbers[at..].iter().take_while(|number| **number <= upto).count() as i64;
            // Those in a bucket of one per cent that lies across the bound may count on either side.
            assert!(
                (exact - count as i64).unsigned_abs() <= numbers.len() as u64 / 200,
                "{from}..{upto}: {count}, not {exact}"
            );
            (from, at) = (upto, at + count as usize);
        }
    }

    #[test]
    fn nothing_counted_says_nothing_and_too_much_is_the_most() {
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
