//! [`BitTree`]: a set of small numbers that finds its lowest member in one bit scan a level.
//!
//! 64 numbers are one word of level 0, and a bit of level k+1 is set when its word of level k is not zero. Four levels
//! are enough for 16 million numbers.

#[derive(Debug)]
pub(super) struct BitTree {
    /// The bitmaps, from one bit a number up to a single word.
    pub(super) levels: Vec<Vec<u64>>,
}

impl BitTree {
    /// Makes a set for the numbers below `count`, at least 1. It is empty.
    pub(super) fn new(count: usize) -> Self {
        let mut levels = Vec::new();
        let mut bits = count;
        loop {
            levels.push(vec![0; bits.div_ceil(64)]);
            if bits <= 64 {
                break;
            }
            bits = bits.div_ceil(64);
        }
        Self { levels }
    }

    /// Adds all numbers below `count`, with which the set was made.
    pub(super) fn fill(&mut self, count: usize) {
        let mut bits = count;
        for level in &mut self.levels {
            let full = bits >> 6;
            level[..full].fill(!0);
            if let Some(last) = level.get_mut(full) {
                *last = (1 << (bits & 63)) - 1;
            }
            bits = bits.div_ceil(64);
        }
    }

    #[inline(always)]
    pub(super) fn insert(&mut self, number: usize) {
        let mut bit = number;
        for level in &mut self.levels {
            let word = &mut level[bit >> 6];
            let was = *word;
            *word |= 1 << (bit & 63);
            if was != 0 {
                break;
            }
            bit >>= 6;
        }
    }

    #[inline(always)]
    pub(super) fn remove(&mut self, number: usize) {
        let mut bit = number;
        for level in &mut self.levels {
            let word = &mut level[bit >> 6];
            *word &= !(1 << (bit & 63));
            if *word != 0 {
                break;
            }
            bit >>= 6;
        }
    }

    /// Reports whether a number below the count is in the set.
    pub(super) fn has(&self, number: usize) -> bool {
        self.levels[0][number >> 6] >> (number & 63) & 1 == 1
    }

    /// Returns the lowest member.
    #[inline(always)]
    pub(super) fn lowest(&self) -> Option<usize> {
        let mut bit = 0;
        for level in self.levels.iter().rev() {
            match level[bit] {
                0 => return None,
                word => bit = bit << 6 | word.trailing_zeros() as usize,
            }
        }
        Some(bit)
    }

    pub(super) fn bytes(&self) -> usize {
        self.levels.iter().map(|level| level.capacity() * size_of::<u64>()).sum()
    }

    /// Checks that each level agrees with the one below. Returns the number of members.
    pub(super) fn check(&self) -> Result<u64, String> {
        for (number, pair) in self.levels.windows(2).enumerate() {
            for (bit, below) in pair[0].iter().enumerate() {
                if (pair[1][bit >> 6] >> (bit & 63) & 1 == 1) != (*below != 0) {
                    return Err(format!("level {} bit {bit} disagrees with its word below", number + 1));
                }
            }
        }
        Ok(self.levels[0].iter().map(|word| u64::from(word.count_ones())).sum())
    }
}
