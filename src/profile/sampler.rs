//! Which allocations to look at more closely: a Poisson process over the bytes, as tcmalloc's and V8's profilers have it.
//!
//! Bytes are marked at random, one in so many on average, and an allocation that has a mark is sampled. One of `size` bytes
//! is with a probability of p = 1 - exp(-size / mean), so it stands for 1 / p of its like, and sums over samples are sums over
//! everything, without a bias towards small or large ones.
//!
//! What a sample costs is not in proportion to its bytes: a pool can give out 30 GB/s, and a stack costs microseconds. Beyond
//! [`RATE`] samples a second, for longer than [`BURST`] of them, the mean grows. Since marks have no memory it may change after
//! any sample, and each sample stands for what it stood for when it was taken.

/// Samples a second that there may be for long.
const RATE: f64 = 200.0;
/// Samples that there may be at once before that counts.
const BURST: f64 = 10_000.0;
/// What the mean changes by: little, so that samples of one time stand for about as much each.
const STEP: f64 = 1.1;

/// See the module's header.
#[derive(Debug)]
pub struct Sampler {
    /// Bytes to the next mark.
    left: i64,
    /// Bytes between two marks, on average.
    mean: f64,
    /// What was asked for; at most 1: everything is sampled.
    base: f64,
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
        // Not 0, which this generator would stay at.
        let mut sampler = Self { left: 0, mean, base: mean, tokens: BURST, refilled: 0, random: seed | 1 };
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
        let stands_for = 1.0 / -(-(size as f64) / self.mean).exp_m1();
        self.govern(now);
        self.draw();
        stands_for
    }

    fn govern(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.refilled) as f64 / 1e6;
        self.tokens = (self.tokens + elapsed * RATE).min(BURST) - 1.0;
        self.refilled = now;
        if self.tokens < 0.0 {
            self.tokens = 0.0;
            self.mean *= STEP;
        } else if self.tokens > BURST / 2.0 && self.mean > self.base {
            self.mean = (self.mean / STEP).max(self.base);
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `count` allocations of those sizes, `gap` µs apart: the sum that the samples say, the sum that it is, and the samples.
    fn estimate(mean: u64, gap: f64, count: u64, size: impl Fn(u64) -> u64) -> (f64, f64, u64) {
        let mut sampler = Sampler::new(mean, 42);
        let (mut estimated, mut exact, mut samples) = (0.0, 0.0, 0);
        for at in 0..count {
            let size = size(at);
            exact += size as f64;
            if sampler.passes_mark(size) {
                estimated += sampler.hit(size, (at as f64 * gap) as u64) * size as f64;
                samples += 1;
            }
        }
        (estimated, exact, samples)
    }

    fn mixed(at: u64) -> u64 {
        [64, 4096, 100_000, 512, 1 << 20, 30, 65_536][((at * 2654435761) >> 7) as usize % 7]
    }

    #[test]
    fn the_sum_over_samples_is_the_sum_over_everything() {
        for (mean, gap) in [(524_288, 1.0), (4096, 100.0), (1 << 22, 1.0)] {
            let (estimated, exact, samples) = estimate(mean, gap, 100_000, mixed);
            assert!((estimated / exact - 1.0).abs() < 0.05, "{mean}: {estimated}, not {exact}, from {samples} samples");
        }
    }

    #[test]
    fn everything_is_sampled_where_that_is_asked_for() {
        let (estimated, exact, samples) = estimate(1, 0.1, 20_000, mixed);
        assert_eq!((estimated, samples), (exact, 20_000));
    }

    #[test]
    fn a_storm_has_few_samples_and_the_sum_is_right_all_the_same() {
        // 4 KiB every 100 ns are 80,000 marks a second.
        let count = 100_000_000;
        let (estimated, exact, samples) = estimate(524_288, 0.1, count, |_| 4096);
        assert!((estimated / exact - 1.0).abs() < 0.05, "{estimated}, not {exact}, from {samples} samples");
        let seconds = count as f64 * 0.1 / 1e6;
        assert!((samples as f64) < BURST + 2.0 * RATE * seconds, "{samples} samples in {seconds} s");
        assert!(samples as f64 > BURST, "{samples}: a burst is not held back");
    }
}
