//! The choice of allocations to sample: a Poisson process over the bytes, as in the profilers of tcmalloc and V8.
//!
//! The sampler marks bytes at random, one in `mean` on average, and an allocation with a mark is sampled. An allocation
//! of `size` bytes has a mark with probability p = 1 - exp(-size / mean). So a sample represents 1 / p similar
//! allocations, and sums over the samples estimate sums over all allocations, without a bias by size.
//!
//! The cost of a sample is not proportional to its bytes: a pool can allocate 30 GB/s, and a stack costs tens of
//! microseconds. After a burst of [`BURST_SAMPLES`] samples, more than [`MAX_SAMPLES_PER_SECOND`] samples a second make
//! the mean grow, to at most one part in [`MIN_MEANS_PER_TOTAL`] of the bytes so far. Marks have no memory, so the mean
//! may change after any sample. Each sample keeps the weight that it had when it was taken.
//!
//! The sampler also knows the exact sum of all bytes, and so the error of the samples' sum. Each sample corrects one
//! part in [`CORRECTION_PARTS`] of that error, as a control variate. The error before an allocation is independent of
//! the allocation's mark, and 0 on average, so the correction adds no bias. The sum stays within a few means of the
//! exact one, however long the sampler runs.

/// Samples a second that are allowed in the long run.
const MAX_SAMPLES_PER_SECOND: f64 = 50.0;
/// Samples that are allowed in a burst.
const BURST_SAMPLES: f64 = 1000.0;
/// The factor by which the mean changes: small, so that neighbouring samples have similar weights.
const MEAN_STEP: f64 = 1.1;
/// The mean is at most all bytes divided by this, so that even a short storm of allocations has enough samples.
const MIN_MEANS_PER_TOTAL: f64 = 500.0;
/// Each sample corrects one part in this many of the sum's error.
const CORRECTION_PARTS: f64 = 16.0;

/// Decides for each allocation whether it is sampled.
#[derive(Debug)]
pub struct Sampler {
    /// Bytes to the next mark.
    left: i64,
    /// Bytes between two marks, on average.
    mean: f64,
    /// The requested mean; at most 1 samples every allocation.
    base: f64,
    /// Bytes before `left` was drawn, and the value drawn.
    passed: f64,
    drawn: i64,
    /// Bytes that the samples represent.
    represented: f64,
    /// Samples that may be taken before the mean grows.
    tokens: f64,
    /// The time at which tokens were last added, in µs.
    refilled: u64,
    random: u64,
}

impl Sampler {
    /// Makes a sampler with one mark in `mean` bytes; 1 samples every allocation.
    pub fn new(mean: u64, seed: u64) -> Self {
        let mean = mean as f64;
        let mut sampler = Self {
            left: 0,
            mean,
            base: mean,
            passed: 0.0,
            drawn: 0,
            represented: 0.0,
            tokens: BURST_SAMPLES,
            refilled: 0,
            random: seed | 1, // the generator would stay at 0
        };
        sampler.draw();
        sampler
    }

    /// Advances by `size` bytes. Returns whether they had a mark; the caller then calls [`hit`](Self::hit).
    #[inline]
    pub fn passes_mark(&mut self, size: u64) -> bool {
        self.left -= size as i64;
        self.left < 0
    }

    /// Samples an allocation of `size` bytes at the time `now` (µs). Returns the number of similar allocations that the
    /// sample represents.
    pub fn hit(&mut self, size: u64, now: u64) -> f64 {
        if self.base <= 1.0 {
            self.left = 0;
            return 1.0;
        }
        self.passed += (self.drawn - self.left) as f64;
        let bytes = size as f64;
        let alike = bytes / -(-bytes / self.mean).exp_m1();
        // At most half of the weight, so that every sample has one; later samples correct the rest.
        let correction = ((self.passed - bytes - self.represented) / CORRECTION_PARTS).clamp(-alike / 2.0, alike / 2.0);
        self.represented += alike + correction;
        self.adapt_mean(now);
        self.draw();
        (alike + correction) / bytes
    }

    fn adapt_mean(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.refilled) as f64 / 1e6;
        self.tokens = (self.tokens + elapsed * MAX_SAMPLES_PER_SECOND).min(BURST_SAMPLES) - 1.0;
        self.refilled = now;
        if self.tokens < 0.0 {
            self.tokens = 0.0;
            self.mean = (self.mean * MEAN_STEP).min(self.passed / MIN_MEANS_PER_TOTAL).max(self.mean);
        } else if self.tokens > BURST_SAMPLES / 2.0 && self.mean > self.base {
            self.mean = (self.mean / MEAN_STEP).max(self.base);
        }
    }

    fn draw(&mut self) {
        // xorshift64*: the upper 53 of the 64 bits make a number in (0, 1].
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let bits = self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11;
        let uniform = (bits + 1) as f64 / (1_u64 << 53) as f64;
        self.left = (-uniform.ln() * self.mean) as i64;
        self.drawn = self.left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEAN: u64 = 524_288;

    /// Estimates from samples, as ratios to the exact values.
    #[derive(Default)]
    struct Estimate {
        /// The bytes of all allocations.
        sum: f64,
        /// The bytes of the allocations in the part.
        part: f64,
        samples: f64,
    }

    /// Samples `count` allocations of those sizes, `gap` µs apart. `part` selects the allocations in the part.
    fn estimate(
        mean: u64,
        gap: f64,
        count: u64,
        size: impl Fn(u64) -> u64,
        part: impl Fn(u64) -> bool,
        seed: u64,
    ) -> Estimate {
        let mut sampler = Sampler::new(mean, seed);
        let (mut exact, mut exact_part) = (0.0, 0.0);
        let mut said = Estimate::default();
        for at in 0..count {
            let size = size(at);
            let part = f64::from(u8::from(part(at)));
            exact += size as f64;
            exact_part += size as f64 * part;
            if sampler.passes_mark(size) {
                let bytes = sampler.hit(size, (at as f64 * gap) as u64) * size as f64;
                assert!(bytes > 0.0, "every sample has a weight");
                said.sum += bytes;
                said.part += bytes * part;
                said.samples += 1.0;
            }
        }
        Estimate { sum: said.sum / exact, part: said.part / exact_part, ..said }
    }

    fn mixed(at: u64) -> u64 {
        [64, 4096, 100_000, 512, 1 << 20, 30, 65_536][((at * 2654435761) >> 7) as usize % 7]
    }

    #[test]
    fn the_sum_over_samples_is_the_sum_over_all_allocations() {
        for (mean, gap) in [(MEAN, 1.0), (4096, 100.0), (1 << 22, 1.0)] {
            for seed in 0..20 {
                let Estimate { sum, samples, .. } = estimate(mean, gap, 100_000, mixed, |_| true, seed << 32);
                assert!((sum - 1.0).abs() < 0.025, "{mean}, seed {seed}: ratio {sum}, from {samples} samples");
            }
        }
    }

    /// Asserts that the part is estimated right, on average over many seeds.
    fn has_no_bias(name: &str, gap: f64, size: impl Fn(u64) -> u64, part: impl Fn(u64) -> bool) {
        const SEEDS: u64 = 200;
        let parts =
            (0..SEEDS).map(|seed| estimate(MEAN, gap, 20_000, &size, &part, seed << 32).part).collect::<Vec<_>>();
        let mean = parts.iter().sum::<f64>() / SEEDS as f64;
        let variance = parts.iter().map(|part| (part - mean).powi(2)).sum::<f64>() / (SEEDS - 1) as f64;
        let error = (variance / SEEDS as f64).sqrt();
        assert!((mean - 1.0).abs() < 4.0 * error + 1e-6, "{name}: ratio {mean} ± {error}");
        assert!(error < 0.02, "{name}: the error {error} is too large to judge");
    }

    #[test]
    fn a_part_of_the_allocations_is_estimated_without_bias() {
        let large_and_small = |at| if at % 2 == 0 { 50 * MEAN } else { MEAN / 10 };
        let (rare, storm) = (1e4, 0.1);
        has_no_bias("small among large allocations", rare, large_and_small, |at| at % 2 == 1);
        has_no_bias("large among small allocations", rare, large_and_small, |at| at % 2 == 0);
        has_no_bias("half of the large allocations, in a storm", storm, large_and_small, |at| at % 4 == 0);
        has_no_bias("one in 16 of one size", rare, |_| 100_000, |at| at % 16 == 3);
        has_no_bias("one in 16 of one size, in a storm", storm, |_| 100_000, |at| at % 16 == 3);
    }

    #[test]
    fn a_mean_of_one_samples_every_allocation() {
        let Estimate { sum, samples, .. } = estimate(1, 0.1, 20_000, mixed, |_| true, 42);
        assert_eq!((sum, samples), (1.0, 20_000.0));
    }

    #[test]
    fn a_storm_has_few_samples_and_the_right_sum() {
        // 4 KiB every 100 ns are 80,000 marks a second.
        let count = 100_000_000;
        let Estimate { sum, samples, .. } = estimate(MEAN, 0.1, count, |_| 4096, |_| true, 42);
        assert!((sum - 1.0).abs() < 0.02, "ratio {sum}, from {samples} samples");
        let marks = count as f64 * 4096.0 / MEAN as f64;
        let seconds = count as f64 * 0.1 / 1e6;
        let most =
            BURST_SAMPLES + MAX_SAMPLES_PER_SECOND * seconds + MIN_MEANS_PER_TOTAL * (marks / BURST_SAMPLES).ln();
        assert!(samples < 1.1 * most, "{samples} samples in {seconds} s, at most {most} expected");
        assert!(samples > BURST_SAMPLES, "{samples} samples: a burst is not limited");
    }

    #[test]
    fn samples_are_as_dense_as_before_once_a_storm_is_over() {
        let mut sampler = Sampler::new(MEAN, 42);
        let mut now = 0.0;
        let mut run = |gap: f64, count: u64| {
            let mut samples = 0;
            for _ in 0..count {
                now += gap;
                if sampler.passes_mark(4096) {
                    sampler.hit(4096, now as u64);
                    samples += 1;
                }
            }
            (samples, sampler.mean)
        };
        let (_, mean) = run(0.1, 10_000_000);
        assert!(mean > 20.0 * MEAN as f64, "{mean}");
        // Ten marks a second, for a long time.
        run(781.0, 1_000_000);
        let (samples, mean) = run(781.0, 100_000);
        assert_eq!(mean, MEAN as f64);
        assert!((700..860).contains(&samples), "{samples}");
    }

    #[test]
    fn a_correction_changes_a_sample_by_at_most_half_of_its_weight() {
        for represented in [-1e15, 1e15] {
            let mut sampler = Sampler { represented, ..Sampler::new(MEAN, 42) };
            // At 50 means every allocation has a mark, so its weight before the correction is 1.
            let weight = sampler.hit(50 * MEAN, 0);
            assert!((weight - if represented < 0.0 { 1.5 } else { 0.5 }).abs() < 1e-6, "{weight}");
        }
    }

    /// Returns the factor by which a hit at the time 0 changes a mean that had grown to 100 times its base.
    fn mean_after_hit(tokens: f64) -> f64 {
        let grown = 100.0 * MEAN as f64;
        let mut sampler = Sampler { tokens, mean: grown, passed: 1e15, ..Sampler::new(MEAN, 42) };
        sampler.hit(4096, 0);
        sampler.mean / grown
    }

    #[test]
    fn the_mean_grows_by_a_step_without_tokens_and_shrinks_by_a_step_with_half_a_burst_of_them() {
        assert_eq!(mean_after_hit(0.5), MEAN_STEP);
        assert_eq!(mean_after_hit(1.0), 1.0, "the last token prevents a step");
        assert_eq!(mean_after_hit(BURST_SAMPLES / 2.0 + 1.0), 1.0);
        assert!((mean_after_hit(BURST_SAMPLES / 2.0 + 2.0) - 1.0 / MEAN_STEP).abs() < 1e-9);
    }
}
