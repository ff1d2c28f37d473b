//! Orders in which buffers are placed: the hard ones first. A buffer is hard that is large, lives long, or lives where
//! many bytes are alive; which of the three matters differs from plan to plan.

use std::cmp::Ordering;

use super::buffers::Lifetime;
use super::sections::Sections;

/// SplitMix64: the same plan on every machine.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    pub const fn new() -> Self {
        Self(0x5eed)
    }

    /// Returns a number of [0, 1).
    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Logarithms of a buffer's length of life, of its size, and of the bytes alive with it.
type Traits = [f64; 3];

#[derive(Debug)]
pub struct Orders {
    traits: Vec<Traits>,
}

impl Orders {
    pub fn new(buffers: &[Lifetime], sections: &Sections) -> Self {
        let traits = buffers.iter().enumerate().map(|(at, buffer)| {
            let length = buffer.upper.abs_diff(buffer.lower);
            [length, buffer.size, sections.busiest_of(at)].map(|figure| (figure as f64).ln())
        });
        Self { traits: traits.collect() }
    }

    /// The orders of first fit: by size, by size times life, by life, by the bytes alive with it.
    pub fn fixed(&self) -> impl Iterator<Item = Vec<usize>> + '_ {
        let weights = [[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.001, 0.0], [0.01, 0.1, 10.0]];
        weights.into_iter().map(|weights| self.by(|_, traits| weighted(traits, weights)))
    }

    /// The number of orders of [`Self::sorted`].
    pub const SORTED: u32 = 4;

    /// Order `at` of [`Self::SORTED`]: by one trait, then by the next where that is equal, and so on. The traits are
    /// life, size times life, and the bytes alive with a buffer.
    pub fn sorted(&self, at: u32) -> Vec<usize> {
        let (life, area, bytes) = ([1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]);
        let keys = match at % Self::SORTED {
            0 => [bytes, life, area],
            1 => [life, area, bytes],
            2 => [area, bytes, life],
            _ => [bytes, area, life],
        };
        let mut order: Vec<usize> = (0..self.traits.len()).collect();
        order.sort_by(|&a, &b| {
            let compared = keys.map(|key| weighted(&self.traits[b], key).total_cmp(&weighted(&self.traits[a], key)));
            compared.into_iter().fold(Ordering::Equal, Ordering::then)
        });
        order
    }

    /// An order with random weights and some noise, in which the buffers that earlier searches blamed come first.
    pub fn random(&self, random: &mut Random, blame: &[f64]) -> Vec<usize> {
        let weights = [2.0, 2.0, 8.0].map(|most| most * random.next());
        let noise = if random.next() < 0.3 { 0.0 } else { 2.0 * random.next() * random.next() };
        let learnt = if random.next() < 0.3 { 0.0 } else { 3.0 * random.next() };
        let most = blame.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let keys: Vec<f64> = (self.traits.iter().zip(blame))
            .map(|(traits, blame)| {
                weighted(traits, weights) + noise * random.next() + learnt * (100.0 * blame / most).ln_1p()
            })
            .collect();
        self.by(|at, _| keys[at])
    }

    /// Sorts the buffers by `key`, the largest first.
    fn by(&self, key: impl Fn(usize, &Traits) -> f64) -> Vec<usize> {
        let keys: Vec<f64> = self.traits.iter().enumerate().map(|(at, traits)| key(at, traits)).collect();
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_by(|&a, &b| keys[b].partial_cmp(&keys[a]).unwrap_or(Ordering::Equal));
        order
    }
}

fn weighted(traits: &Traits, weights: Traits) -> f64 {
    traits.iter().zip(weights).map(|(figure, weight)| figure * weight).sum()
}
