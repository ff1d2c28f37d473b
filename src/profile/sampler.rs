//! Which allocations to look at more closely: a Poisson process over the bytes, as tcmalloc's and V8's profilers have
//! it.
//!
//! Bytes are marked at random, one in so many on average, and an allocation that has a mark is sampled. One of `size`
//! bytes is with a probability of p = 1 - exp(-size / mean), so it stands for 1 / p of its like, and sums over samples
//! are sums over everything, without a bias towards small or large ones.
//!
//! What a sample costs is not in proportion to its bytes: a pool can give out 30 GB/s, and a stack costs tens of
//! microseconds. Beyond [`MAX_SAMPLES_PER_SECOND`] samples a second, for longer than [`BURST_SAMPLES`] of them, the
//! mean grows, though to no more than one part in [`MIN_MEANS_PER_TOTAL`] of what there was so far. Since marks have no
//! memory it may change after any sample, and each sample stands for what it stood for when it was taken.
//!
//! How many bytes there were is known, so what the samples' sum is off by is known too. Each sample makes good one part
//! in [`CORRECTION_PARTS`] of it, a control variate. What the sum is off by before an allocation says nothing of
//! whether that has a mark, and is 0 on average, so that this adds no bias; and the sum stays within a few means of the
//! truth, for ever.

/// Samples a second that there may be for long.
const MAX_SAMPLES_PER_SECOND: f64 = 50.0;
/// Samples that there may be at once before that counts.
const BURST_SAMPLES: f64 = 1000.0;
/// What the mean changes by: little, so that samples of one time stand for about as much each.
const MEAN_STEP: f64 = 1.1;
/// The mean is at most one part in so many of all bytes: a storm that is over in no time still has samples enough.
const MIN_MEANS_PER_TOTAL: f64 = 500.0;
/// A sample makes good one part in so many of what the sum is off by.
const CORRECTION_PARTS: f64 = 16.0;

/// See the module's header.
#[derive(Debug)]
pub struct Sampler {
    /// Bytes to the next mark.
    left: i64,
    /// Bytes between two marks, on average.
    mean: f64,
    /// What was asked for; at most 1: everything is sampled.
    base: f64,
    /// Bytes that had gone by when `left` was drawn, and what it was drawn as.
    passed: f64,
    drawn: i64,
    /// Bytes that the samples stand for.
    represented: f64,
    /// Samples that may be taken before the mean grows.
    tokens: f64,
    /// When tokens were last added, in µs.
    refilled: u64,
    random: u64,
}

impl Sampler {
    /// One mark in `mean` bytes; 1 samples everything.
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
            random: seed | 1, // not 0, which this generator would stay at
        };
        sampler.draw();
        sampler
    }

    /// Goes on by `size` bytes. Whether there was a mark: then [`hit`](Self::hit) is called.
    #[inline]
    pub fn passes_mark(&mut self, size: u64) -> bool {
        self.left -= size as i64;
        self.left < 0
    }

    /// An allocation of `size` bytes is sampled at the time `now` (µs); how many of its like it stands for.
    pub fn hit(&mut self, size: u64, now: u64) -> f64 {
        if self.base <= 1.0 {
            self.left = 0;
            return 1.0;
        }
        self.passed += (self.drawn - self.left) as f64;
        let bytes = size as f64;
        let alike = bytes / -(-bytes / self.mean).exp_m1();
        // At most half of it, so that no sample stands for nothing; the rest is left to those that come.
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
        // xorshift64*: of the 64 bits the upper 53 are a number in (0, 1].
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

    /// What the samples of some allocations say of them.
    #[derive(Default)]
    struct Estimate {
        /// All bytes: what the samples' sum is, to one.
        sum: f64,
        /// The same of some of the allocations.
        part: f64,
        samples: f64,
    }

    /// `count` allocations of those sizes, `gap` µs apart; `part` says which are in the part.
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
                assert!(bytes > 0.0, "a sample stands for something");
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
    fn the_sum_over_samples_is_the_sum_over_everything() {
        for (mean, gap) in [(MEAN, 1.0), (4096, 100.0), (1 << 22, 1.0)] {
            for seed in 0..20 {
                let Estimate { sum, samples, .. } = estimate(mean, gap, 100_000, mixed, |_| true, seed << 32);
                assert!((sum - 1.0).abs() < 0.025, "{mean}, seed {seed}: {sum} of the truth, from {samples} samples");
            }
        }
    }

    /// Whether the part that `part` says is estimated right, on average over many seeds.
    fn has_no_bias(name: &str, gap: f64, size: impl Fn(u64) -> u64, part: impl Fn(u64) -> bool) {
        const SEEDS: u64 = 200;
        let parts =
            (0..SEEDS).map(|seed| estimate(MEAN, gap, 20_000, &size, &part, seed << 32).part).collect::<Vec<_>>();
        let mean = parts.iter().sum::<f64>() / SEEDS as f64;
        let variance = parts.iter().map(|part| (part - mean).powi(2)).sum::<f64>() / (SEEDS - 1) as f64;
        let error = (variance / SEEDS as f64).sqrt();
        assert!((mean - 1.0).abs() < 4.0 * error + 1e-6, "{name}: {mean} ± {error} of the truth");
        assert!(error < 0.02, "{name}: nothing can be told from this: {error}");
    }

    #[test]
    fn a_part_of_the_allocations_is_estimated_without_bias() {
        let large_and_small = |at| if at % 2 == 0 { 50 * MEAN } else { MEAN / 10 };
        let (rare, storm) = (1e4, 0.1);
        has_no_bias("small ones among large ones", rare, large_and_small, |at| at % 2 == 1);
        has_no_bias("the large ones", rare, large_and_small, |at| at % 2 == 0);
        has_no_bias("half of the large ones, in a storm", storm, large_and_small, |at| at % 4 == 0);
        has_no_bias("some of one size", rare, |_| 100_000, |at| at % 16 == 3);
        has_no_bias("the same, in a storm", storm, |_| 100_000, |at| at % 16 == 3);
    }

    #[test]
    fn everything_is_sampled_where_that_is_asked_for() {
        let Estimate { sum, samples, .. } = estimate(1, 0.1, 20_000, mixed, |_| true, 42);
        assert_eq!((sum, samples), (1.0, 20_000.0));
    }

    #[test]
    fn a_storm_has_few_samples_and_the_sum_is_right_all_the_same() {
        // 4 KiB every 100 ns are 80,000 marks a second.
        let count = 100_000_000;
        let Estimate { sum, samples, .. } = estimate(MEAN, 0.1, count, |_| 4096, |_| true, 42);
        assert!((sum - 1.0).abs() < 0.02, "{sum} of the truth, from {samples} samples");
        let marks = count as f64 * 4096.0 / MEAN as f64;
        let seconds = count as f64 * 0.1 / 1e6;
        let most =
            BURST_SAMPLES + MAX_SAMPLES_PER_SECOND * seconds + MIN_MEANS_PER_TOTAL * (marks / BURST_SAMPLES).ln();
        assert!(samples < 1.1 * most, "{samples} samples in {seconds} s, not {most}");
        assert!(samples > BURST_SAMPLES, "{samples}: a burst is not held back");
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
        // Ten marks a second, for long.
        run(781.0, 1_000_000);
        let (samples, mean) = run(781.0, 100_000);
        assert_eq!(mean, MEAN as f64);
        assert!((700..860).contains(&samples), "{samples}");
    }

    #[test]
    fn a_sample_stands_for_half_as_much_at_least_and_half_as_much_again_at_most() {
        for represented in [-1e15, 1e15] {
            let mut sampler = Sampler { represented, ..Sampler::new(MEAN, 42) };
            // So many means that every allocation has a mark: it stands for itself alone.
            let weight = sampler.hit(50 * MEAN, 0);
            assert!((weight - if represented < 0.0 { 1.5 } else { 0.5 }).abs() < 1e-6, "{weight}");
        }
    }

    /// The mean after a hit at the time 0, with so many tokens, in a sampler whose mean has grown to 100 times its base.
    fn mean_after_hit(tokens: f64) -> f64 {
        let grown = 100.0 * MEAN as f64;
        let mut sampler = Sampler { tokens, mean: grown, passed: 1e15, ..Sampler::new(MEAN, 42) };
        sampler.hit(4096, 0);
        sampler.mean / grown
    }

    #[test]
    fn the_mean_grows_by_a_step_without_tokens_and_shrinks_by_a_step_with_half_a_burst_of_them() {
        assert_eq!(mean_after_hit(0.5), MEAN_STEP);
        assert_eq!(mean_after_hit(1.0), 1.0, "the last token is as good as any");
        assert_eq!(mean_after_hit(BURST_SAMPLES / 2.0 + 1.0), 1.0);
        assert!((mean_after_hit(BURST_SAMPLES / 2.0 + 2.0) - 1.0 / MEAN_STEP).abs() < 1e-9);
    }
}
