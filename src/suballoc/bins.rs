//! The free lists of [`super::tlsf`]: bins by size, and bitmaps over the bins.
//!
//! Sizes below 128 granules have a bin each. Above, every power of two is divided into 64 bins of equal width, so a
//! bin's members differ by less than 1.6 per cent. 64 consecutive bins are one word of `occupied`, and `words` has a
//! bit for each word that is not zero. Lists are doubly linked by index, and index 0 ends a list. Node 0, the boundary,
//! takes the writes that go past an end, which is cheaper than a test for the end. For the same reason most branches
//! are selections: a processor cannot predict which list is empty.
//!
//! Note: the order of a list. Allocation takes the head. A freed region joins at the tail, so that it has the longest
//! time to merge before it is divided again. A region that is freed below `low` joins at the head instead. So the low
//! end of the arena is filled first, the rest has time to be freed in large pieces, and the highest used address is
//! lower. In the random workload of `benchmark/suballoc.rs` that address is 1.041 times the peak of live bytes, and
//! 1.066 times with tails only.

use super::node::Node;
use std::hint::select_unpredictable;

/// log2 of the number of bins in a power of two.
const STEP_BITS: u32 = 6;

/// Bins below this hold one size each.
pub(super) const SINGLE_SIZE: usize = 2 << STEP_BITS;

/// Returns the bin of a size of at least 1 granule. Monotone; below 128, each bin has one size.
#[inline(always)]
pub(super) fn bin_of(size: u64) -> usize {
    let drop = (size | 1 << STEP_BITS).ilog2() - STEP_BITS;
    (u64::from(drop << STEP_BITS) + (size >> drop)) as usize
}

#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    head: u32,
    tail: u32,
}

#[derive(Debug)]
pub(super) struct Bins {
    words: u64,
    /// The offset, in granules, below which freed regions join their list at the head.
    low: u64,
    occupied: Box<[u64]>,
    ends: Box<[Ends]>,
}

impl Bins {
    /// Makes bins for sizes up to `largest` granules.
    pub(super) fn new(largest: u64) -> Self {
        let words = (bin_of(largest) >> 6) + 1;
        Self {
            words: 0,
            low: 0,
            occupied: vec![0; words].into_boxed_slice(),
            ends: vec![Ends::default(); words << 6].into_boxed_slice(),
        }
    }

    pub(super) fn clear(&mut self) {
        self.words = 0;
        self.low = 0;
        self.occupied.fill(0);
        self.ends.fill(Ends::default());
    }

    /// Sets the offset below which freed regions are used first.
    #[inline(always)]
    pub(super) fn set_low(&mut self, low: u64) {
        self.low = low;
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.occupied) + size_of_val(&*self.ends)
    }

    /// Returns the first bin at or above `bin` that has a member.
    #[inline(always)]
    pub(super) fn occupied_from(&self, bin: usize) -> Option<usize> {
        let word = bin >> 6;
        let here = self.occupied.get(word)? & (!0 << (bin & 63));
        if here != 0 {
            return Some(word << 6 | here.trailing_zeros() as usize);
        }
        // `word` is at most 42, so the shift is in range.
        let above = self.words & (!0 << (word + 1));
        if above == 0 {
            return None;
        }
        let word = above.trailing_zeros() as usize;
        Some(word << 6 | self.occupied[word].trailing_zeros() as usize)
    }

    /// Returns the last bin that has a member.
    pub(super) fn highest(&self) -> Option<usize> {
        let word = self.words.checked_ilog2()? as usize;
        Some(word << 6 | self.occupied[word].checked_ilog2()? as usize)
    }

    /// Returns the first member of a bin, or 0 if the bin is empty.
    #[inline(always)]
    pub(super) fn head(&self, bin: usize) -> u32 {
        self.ends[bin].head
    }

    /// Iterates over the members of a bin, from the head.
    pub(super) fn members<'a>(&self, nodes: &'a [Node], bin: usize) -> impl Iterator<Item = u32> + 'a {
        let some = |index: u32| (index != 0).then_some(index);
        std::iter::successors(some(self.ends[bin].head), move |&index| some(nodes[index as usize].next_free))
    }

    /// Adds a free node at the tail of the bin of `size`, for the rest of a divided region.
    #[inline(always)]
    pub(super) fn push(&mut self, nodes: &mut [Node], index: u32, size: u64) {
        let bin = bin_of(size);
        let ends = &mut self.ends[bin];
        let last = ends.tail;
        ends.tail = index;
        ends.head = select_unpredictable(last == 0, index, ends.head);
        let node = &mut nodes[index as usize];
        node.prev_free = last;
        node.next_free = 0;
        nodes[last as usize].next_free = index;
        self.mark_occupied(bin);
    }

    /// Adds a freed node to the bin of `size`: at the head if it lies below `low`, else at the tail.
    #[inline(always)]
    pub(super) fn push_freed(&mut self, nodes: &mut [Node], index: u32, size: u64) {
        let node = &mut nodes[index as usize];
        if node.offset() >= self.low {
            return self.push(nodes, index, size);
        }
        let bin = bin_of(size);
        let ends = &mut self.ends[bin];
        let next = ends.head;
        ends.head = index;
        ends.tail = select_unpredictable(next == 0, index, ends.tail);
        node.prev_free = 0;
        node.next_free = next;
        nodes[next as usize].prev_free = index;
        self.mark_occupied(bin);
    }

    #[inline(always)]
    fn mark_occupied(&mut self, bin: usize) {
        self.occupied[bin >> 6] |= 1 << (bin & 63);
        self.words |= 1 << (bin >> 6);
    }

    /// Removes a node from its bin.
    #[inline(always)]
    pub(super) fn remove(&mut self, nodes: &mut [Node], index: u32, bin: usize) {
        let Node { prev_free, next_free, .. } = nodes[index as usize];
        nodes[prev_free as usize].next_free = next_free;
        nodes[next_free as usize].prev_free = prev_free;
        let ends = &mut self.ends[bin];
        ends.head = select_unpredictable(prev_free == 0, next_free, ends.head);
        ends.tail = select_unpredictable(next_free == 0, prev_free, ends.tail);
        if prev_free | next_free == 0 {
            self.mark_empty(bin);
        }
    }

    /// Removes the head of a bin, which is `index`. Cheaper than `remove`.
    #[inline(always)]
    pub(super) fn pop(&mut self, nodes: &mut [Node], index: u32, bin: usize) {
        let next = nodes[index as usize].next_free;
        nodes[next as usize].prev_free = 0;
        let ends = &mut self.ends[bin];
        ends.head = next;
        if next == 0 {
            ends.tail = 0;
            self.mark_empty(bin);
        }
    }

    #[inline(always)]
    fn mark_empty(&mut self, bin: usize) {
        let word = &mut self.occupied[bin >> 6];
        *word &= !(1 << (bin & 63));
        self.words &= !(u64::from(*word == 0) << (bin >> 6));
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Checks that ends and bitmaps agree with a list whose last member is `last`.
    pub(super) fn check(&self, bin: usize, last: u32) -> Result<(), String> {
        let Ends { head, tail } = self.ends[bin];
        let bit = self.occupied[bin >> 6] >> (bin & 63) & 1 == 1;
        let word = self.words >> (bin >> 6) & 1 == 1;
        if tail != last || (head == 0) != (last == 0) || bit != (last != 0) || word != (self.occupied[bin >> 6] != 0) {
            return Err(format!("bin {bin}: head {head}, tail {tail}, last {last}, bit {bit}, word {word}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every bin starts at the end of the previous one. Below 128 a bin has one size, above less than 1.6 per cent.
    #[test]
    fn bins_are_gapless_and_narrow() {
        assert_eq!(bin_of(1), 1);
        for size in 2..=128 {
            assert_eq!(bin_of(size), bin_of(size - 1) + 1);
        }
        assert_eq!(bin_of(SINGLE_SIZE as u64), SINGLE_SIZE);
        for drop in 1..42 {
            for step in 0..64 {
                let first = (64 + step) << drop;
                assert_eq!(bin_of(first), bin_of(first - 1) + 1);
                assert_eq!(bin_of(first + (1 << drop) - 1), bin_of(first));
            }
        }
    }

    /// Each line breaks one rule that `check` checks.
    #[test]
    fn check_finds_ends_and_bitmaps_that_disagree_with_the_list() {
        let damages: &[fn(&mut Bins)] = &[
            |bins| bins.ends[5].tail = 2,
            |bins| bins.ends[5].head = 0,
            // Another bin of the word has members, and this one has none.
            |bins| bins.occupied[0] = 1 << 7,
            |bins| bins.words = 0,
        ];
        let mut nodes = [Node::BOUNDARY; 2];
        let mut bins = Bins::new(200);
        bins.push(&mut nodes, 1, 5);
        assert_eq!((bins.check(5, 1), bins.check(6, 0)), (Ok(()), Ok(())));
        assert!(bins.check(5, 2).is_err() && bins.check(6, 1).is_err());
        for (number, damage) in damages.iter().enumerate() {
            let mut bins = Bins::new(200);
            bins.push(&mut nodes, 1, 5);
            damage(&mut bins);
            assert!(bins.check(5, 1).is_err(), "damage {number} went unnoticed");
        }
    }
}
