//! The free lists of [`super::tlsf`]: bins by size, and bitmaps over the bins.
//!
//! Sizes below 128 granules have a bin each. Above, every power of two is divided into 64 bins of equal width, so a
//! bin's members differ by less than 1.6 per cent. 64 consecutive bins are one word of `occupied`, and `words` has a
//! bit for each word that is not zero. A bin has one list, until many members of several sizes crowd it; then finer
//! lists divide it (see [`super::crowded_bins`]). Lists are doubly linked by index, and index 0 ends a list. Node 0,
//! the boundary, takes the writes that go past an end, which is cheaper than a test for the end. For the same reason
//! most branches are selections: a processor cannot predict which list is empty.
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

/// Number of members at which a list of several sizes is divided.
pub(super) const CROWDED: u32 = 128;

/// A list: its ends and its form.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct List {
    pub(super) head: u32,
    pub(super) tail: u32,
    /// The number of the members, plus [`UNIFORM`] for a list of one size that was crowded. Or [`DIVIDED`] plus a
    /// group's number: the lists of the group have the members.
    pub(super) form: u32,
}

/// Added to the form of a list whose members all have one size, so that no test counts them again.
pub(super) const UNIFORM: u32 = 1 << 30;

/// Added to the number of the group that divides a list.
pub(super) const DIVIDED: u32 = 1 << 31;

/// Sixteen lists that divide a crowded one. The lists lie in [`Bins::lists`], after the bins, in the order of the
/// groups.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    /// The list that the group divides. Out of use: the next group out of use, as a form.
    pub(super) parent: u32,
    /// A bit for each list that has members or is divided. 0: out of use.
    pub(super) occupied: u16,
    /// Sizes of one list of the group agree in all bits from this one on.
    pub(super) shift: u8,
}

#[derive(Debug)]
pub(super) struct Bins {
    words: u64,
    /// The offset, in granules, below which freed regions join their list at the head.
    low: u64,
    occupied: Box<[u64]>,
    /// One list a bin, then those of the groups.
    pub(super) lists: Vec<List>,
    pub(super) groups: Vec<Group>,
    /// The head of the list of groups out of use, as a form; 0 if there is none.
    pub(super) unused_group: u32,
}

impl Bins {
    /// Makes bins for sizes up to `largest` granules.
    pub(super) fn new(largest: u64) -> Self {
        let words = (bin_of(largest) >> 6) + 1;
        Self {
            words: 0,
            low: 0,
            occupied: vec![0; words].into_boxed_slice(),
            lists: vec![List::default(); words << 6],
            groups: Vec::new(),
            unused_group: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.words = 0;
        self.low = 0;
        self.occupied.fill(0);
        self.lists.truncate(self.bins());
        self.lists.fill(List::default());
        self.groups.clear();
        self.unused_group = 0;
    }

    /// Sets the offset below which freed regions are used first.
    #[inline(always)]
    pub(super) fn set_low(&mut self, low: u64) {
        self.low = low;
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.occupied)
            + self.lists.capacity() * size_of::<List>()
            + self.groups.capacity() * size_of::<Group>()
    }

    /// Returns the number of bins. Lists from this index on belong to groups.
    #[inline(always)]
    pub(super) fn bins(&self) -> usize {
        self.occupied.len() << 6
    }

    /// Returns the list of the largest members.
    pub(super) fn last(&self) -> Option<usize> {
        let word = self.words.checked_ilog2()? as usize;
        let bin = word << 6 | self.occupied[word].checked_ilog2()? as usize;
        Some(self.highest_in(bin))
    }

    /// Returns whether all members of a list have one size.
    pub(super) fn is_uniform(&self, list: usize) -> bool {
        list < SINGLE_SIZE || self.lists[list].form >= UNIFORM
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

    /// Returns the first member of a list, or 0 if it has none. An occupied bin without one is divided.
    #[inline(always)]
    pub(super) fn head(&self, list: usize) -> u32 {
        self.lists[list].head
    }

    /// Iterates over the members of a list, from the head.
    pub(super) fn members<'a>(&self, nodes: &'a [Node], list: usize) -> impl Iterator<Item = u32> + 'a {
        let some = |index: u32| (index != 0).then_some(index);
        std::iter::successors(some(self.lists[list].head), move |&index| some(nodes[index as usize].next_free))
    }

    /// Adds a free node at the tail of the list of `size`, for the rest of a divided region.
    #[inline(always)]
    pub(super) fn push(&mut self, nodes: &mut [Node], index: u32, size: u64) {
        let bin = bin_of(size);
        let list = &mut self.lists[bin];
        if list.form >= CROWDED - 1 {
            let one_size = list.form & UNIFORM != 0 && nodes[list.tail as usize].size() == size;
            if !one_size {
                return self.push_crowded(nodes, index, bin);
            }
        }
        list.form += 1;
        list.append(nodes, index);
        self.mark_bin(bin);
    }

    /// Adds a freed node to the list of `size`: at the head if it lies below `low`, else at the tail.
    #[inline(always)]
    pub(super) fn push_freed(&mut self, nodes: &mut [Node], index: u32, size: u64) {
        if nodes[index as usize].offset() >= self.low {
            return self.push(nodes, index, size);
        }
        let bin = bin_of(size);
        let list = &mut self.lists[bin];
        if list.form >= CROWDED - 1 {
            let one_size = list.form & UNIFORM != 0 && nodes[list.tail as usize].size() == size;
            if !one_size {
                return self.push_crowded(nodes, index, bin);
            }
        }
        list.form += 1;
        list.prepend(nodes, index);
        self.mark_bin(bin);
    }

    /// Adds a node to a list under the crowded `bin`, where [`push_freed`](Self::push_freed) would.
    #[cold]
    #[inline(never)]
    fn push_crowded(&mut self, nodes: &mut [Node], index: u32, bin: usize) {
        let node = nodes[index as usize];
        let list = self.list_to_join(nodes, bin, node.size());
        self.lists[list].form += 1;
        if node.offset() < self.low {
            self.lists[list].prepend(nodes, index);
        } else {
            self.lists[list].append(nodes, index);
        }
        if list < self.bins() {
            self.mark_bin(list);
        } else {
            self.mark_in_group(list);
        }
    }

    #[inline(always)]
    fn mark_bin(&mut self, bin: usize) {
        self.occupied[bin >> 6] |= 1 << (bin & 63);
        self.words |= 1 << (bin >> 6);
    }

    /// Removes a node of `size` from its list.
    #[inline(always)]
    pub(super) fn remove(&mut self, nodes: &mut [Node], index: u32, size: u64) {
        let bin = bin_of(size);
        let Node { prev_free, next_free, .. } = nodes[index as usize];
        nodes[prev_free as usize].next_free = next_free;
        nodes[next_free as usize].prev_free = prev_free;
        let mut list = bin;
        if self.lists[bin].form >= DIVIDED {
            list = self.list_in_divided(bin, size);
            if prev_free | next_free == 0 {
                return self.mark_empty_in_group(list);
            }
        }
        let list = &mut self.lists[list];
        list.form -= 1;
        list.head = select_unpredictable(prev_free == 0, next_free, list.head);
        list.tail = select_unpredictable(next_free == 0, prev_free, list.tail);
        if prev_free | next_free == 0 {
            self.mark_bin_empty(bin);
        }
    }

    /// Removes `index`, the head of an undivided bin. Cheaper than `remove`.
    #[inline(always)]
    pub(super) fn pop(&mut self, nodes: &mut [Node], index: u32, bin: usize) {
        let next = nodes[index as usize].next_free;
        nodes[next as usize].prev_free = 0;
        let list = &mut self.lists[bin];
        list.form -= 1;
        list.head = next;
        if next == 0 {
            list.tail = 0;
            self.mark_bin_empty(bin);
        }
    }

    #[inline(always)]
    pub(super) fn mark_bin_empty(&mut self, bin: usize) {
        let word = &mut self.occupied[bin >> 6];
        *word &= !(1 << (bin & 63));
        self.words &= !(u64::from(*word == 0) << (bin >> 6));
    }

    /// Checks that the bitmaps agree with a bin.
    pub(super) fn check_bitmaps(&self, bin: usize) -> Result<(), String> {
        let List { head, form, .. } = self.lists[bin];
        let bit = self.occupied[bin >> 6] >> (bin & 63) & 1 == 1;
        let word = self.words >> (bin >> 6) & 1 == 1;
        if bit != (head != 0 || form >= DIVIDED) || word != (self.occupied[bin >> 6] != 0) {
            return Err(format!("bin {bin}: head {head}, form {form}, bit {bit}, word {word}"));
        }
        Ok(())
    }
}

impl List {
    /// Adds a member at the tail.
    #[inline(always)]
    pub(super) fn append(&mut self, nodes: &mut [Node], index: u32) {
        let last = self.tail;
        self.tail = index;
        self.head = select_unpredictable(last == 0, index, self.head);
        let node = &mut nodes[index as usize];
        node.prev_free = last;
        node.next_free = 0;
        nodes[last as usize].next_free = index;
    }

    /// Adds a member at the head.
    #[inline(always)]
    fn prepend(&mut self, nodes: &mut [Node], index: u32) {
        let next = self.head;
        self.head = index;
        self.tail = select_unpredictable(next == 0, index, self.tail);
        let node = &mut nodes[index as usize];
        node.prev_free = 0;
        node.next_free = next;
        nodes[next as usize].prev_free = index;
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
            |bins| bins.lists[5].tail = 2,
            |bins| bins.lists[5].head = 0,
            |bins| bins.lists[5].form = 0,
            |bins| bins.lists[6].form = 1,
            // Another bin of the word has members, and this one has none.
            |bins| bins.occupied[0] = 1 << 7,
            |bins| bins.words = 0,
        ];
        for (number, damage) in damages.iter().enumerate() {
            let mut nodes = [Node::BOUNDARY, Node { extent: 5, ..Node::BOUNDARY }];
            let mut bins = Bins::new(200);
            bins.push(&mut nodes, 1, 5);
            assert_eq!(bins.check(&nodes, 1), Ok(1));
            damage(&mut bins);
            assert!(bins.check(&nodes, 1).is_err(), "damage {number} went unnoticed");
        }
    }
}
