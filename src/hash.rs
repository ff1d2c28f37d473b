//! Hash tables by numbers that this process gives out: handles and addresses.
//!
//! The standard hasher resists keys that an attacker chooses, at a tenth of an ArrayBuffer's cost: ten hashes of 150
//! instructions. No caller chooses these keys, so one multiplication does.
//!
//! ```
//! use rkllmjs_memory::hash::NumberMap;
//!
//! let mut lengths: NumberMap<usize, u64> = NumberMap::default();
//! lengths.insert(0x7f00_0000_1000, 4096);
//! assert_eq!(lengths.get(&0x7f00_0000_1000), Some(&4096));
//! ```
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// A map by numbers that no caller chooses.
pub type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// A set of numbers that no caller chooses.
pub type NumberSet<K> = HashSet<K, BuildHasherDefault<NumberHasher>>;

/// An odd number without a pattern: 2^64 divided by the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hashes numbers by a multiplication. The table uses the low bits and the top seven of a hash, so both halves of the
/// product are folded together: addresses differ in high bits only, handles in low ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    #[inline]
    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.0 ^ number) * u128::from(MULTIPLIER);
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    #[inline]
    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u64) -> u64 {
        let mut hasher = NumberHasher::default();
        hasher.write_u64(number);
        hasher.finish()
    }

    /// The fullest of 1024 buckets of the low bits, and of the 128 of the top seven, for 8192 keys.
    fn fullest(key: impl Fn(u64) -> u64) -> (usize, usize) {
        let (mut low, mut top) = (vec![0; 1024], vec![0; 128]);
        for number in 0..8192 {
            let hash = hash(key(number));
            low[hash as usize % 1024] += 1;
            top[(hash >> 57) as usize] += 1;
        }
        (low.into_iter().max().unwrap_or(0), top.into_iter().max().unwrap_or(0))
    }

    /// An even spread puts 8 keys into a bucket of the low bits, and 64 into one of the top bits.
    #[test]
    fn keys_as_they_occur_spread_over_both_ends_of_the_hash() {
        let handles = fullest(|number| 5 << 32 | number);
        let generations = fullest(|number| number << 32 | 7);
        let slices = fullest(|number| 0x7f12_3456_0000 + (number << 6));
        let pages = fullest(|number| 0x4000_0000_0000 + (number << 12));
        let megabytes = fullest(|number| 0x4000_0000_0000 + (number << 20));
        for (low, top) in [handles, generations, slices, pages, megabytes] {
            assert!(low <= 32 && top <= 160, "{:?}", [handles, generations, slices, pages, megabytes]);
        }
    }
}
