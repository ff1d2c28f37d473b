//! The search of [`super::tlsf`]: the free region that serves a request.
//!
//! Note: the choice of a region. Rounding a request up to the next bin, as TLSF does, is fast and wastes memory: a pool
//! of N bytes would refuse N. `find` tries the head of the request's own list, then the head of the next list above,
//! where every member fits. If every list above is empty, it searches the request's own list, which is short or uniform
//! (see [`super::crowded_bins`]), so that it refuses no request that some free region could hold. A search for an
//! alignment can be long; `Refused` makes its repetition take constant time until the next free. An alternative was
//! measured: comparing the first members of a bin, and taking the smallest and lowest. Four members cost a fifth of the
//! time on 20,000 live regions, in cache misses, and lower the highest address from 1.066 to 1.061 times the peak. The
//! order of the lists gains more (see [`super::bins`]).

use super::bins::bin_of;
use super::node::NIL;
use super::tlsf::Tlsf;

/// The number of members of the first bin that are tried for an alignment before a larger region is divided.
const ALIGNED_TRIES: usize = 4;

impl Tlsf {
    /// Removes a free node of at least `need` granules from its list.
    #[inline(always)]
    pub(super) fn find(&mut self, need: u64) -> Option<u32> {
        let own = bin_of(need);
        let mut bin = self.bins.occupied_from(own)?;
        let mut head = self.bins.head(bin);
        if self.nodes[head as usize].size() < need {
            // The head of the request's own bin is too small, or the bin is divided.
            bin = match self.bins.occupied_from(own + 1) {
                Some(above) if head != NIL => above,
                _ => return self.find_in_lists(need),
            };
            head = self.bins.head(bin);
            if head == NIL {
                return self.find_in_lists(need);
            }
        }
        self.bins.pop(&mut self.nodes, head, bin);
        Some(head)
    }

    /// Does the work of `find` where a bin is divided, and where all bins above the request's own are empty: then it
    /// searches the request's own list for the best fit.
    #[cold]
    #[inline(never)]
    fn find_in_lists(&mut self, need: u64) -> Option<u32> {
        let list = self.bins.first_from(need)?;
        let head = self.bins.head(list);
        let index = if self.nodes[head as usize].size() >= need {
            head
        } else if let Some(above) = self.bins.next_above(list) {
            self.bins.head(above)
        } else if self.bins.is_uniform(list) {
            return None;
        } else {
            let place = |index: u32| (self.nodes[index as usize].size(), self.nodes[index as usize].offset());
            let fits = |&index: &u32| self.nodes[index as usize].size() >= need;
            self.bins.members(&self.nodes, list).filter(fits).min_by_key(|&index| place(index))?
        };
        let size = self.nodes[index as usize].size();
        self.bins.remove(&mut self.nodes, index, size);
        Some(index)
    }

    /// Finds a free node for an alignment above the granularity, and the granules to skip in front.
    #[inline(never)]
    pub(super) fn find_aligned(&mut self, need: u64, align: u64) -> Option<(u32, u64)> {
        if self.refused.covers(need, align) {
            return None;
        }
        let found = self.search_aligned(need, align);
        if found.is_none() {
            self.refused.add(need, align);
        }
        found
    }

    fn search_aligned(&self, need: u64, align: u64) -> Option<(u32, u64)> {
        let skip_of = |index: u32| {
            let node = &self.nodes[index as usize];
            let skip = node.offset().wrapping_neg() & (align - 1);
            (need.checked_add(skip)? <= node.size()).then_some(skip)
        };
        // First, some members of the first list: often aligned already, as all regions of a pool of pages are.
        let first = self.bins.first_from(need)?;
        let near = self.bins.members(&self.nodes, first).take(ALIGNED_TRIES);
        let best = near
            .filter_map(|index| Some((index, skip_of(index)?)))
            .min_by_key(|&(index, _)| (self.nodes[index as usize].size(), self.nodes[index as usize].offset()));
        if best.is_some() {
            return best;
        }
        // Second, a list whose members are large enough at any offset. Last, all members one by one.
        let sure = need.saturating_add(align - 1);
        if let Some(list) = (sure <= self.total).then(|| self.bins.first_from(sure)).flatten() {
            let fits = |list: usize| Some((self.bins.head(list), skip_of(self.bins.head(list))?));
            let found = fits(list).or_else(|| self.bins.next_above(list).and_then(fits));
            if found.is_some() {
                return found;
            }
        }
        std::iter::successors(Some(first), |&list| self.bins.next_above(list))
            .flat_map(|list| self.bins.members(&self.nodes, list))
            .find_map(|index| Some((index, skip_of(index)?)))
    }
}
