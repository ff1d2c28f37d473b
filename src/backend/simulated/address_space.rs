//! The addresses of one simulated IOMMU domain or CMA area.
//!
//! Invariant: the free extents are disjoint, never empty, and never touch (neighbours merge), so the largest one is the
//! largest request that can succeed.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::units::{align_down, align_up};

/// The end from which addresses are allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// The kernel's IOVA allocator: highest first (`docs/design/rknpu.md` §3.3).
    TopDown,
    /// The kernel's CMA bitmap: lowest first.
    BottomUp,
}

/// Free and allocated addresses.
#[derive(Debug)]
pub struct AddressSpace {
    /// Start → length of each free extent.
    free: BTreeMap<u64, u64>,
    growth: Growth,
}

impl AddressSpace {
    /// Starts with `len` free bytes at `base`.
    pub fn new(base: u64, len: u64, growth: Growth) -> Self {
        Self { free: BTreeMap::from([(base, len)]), growth }
    }

    /// Allocates `size` bytes at a multiple of `alignment`; `None` if no extent has room.
    pub fn take(&mut self, size: u64, alignment: u64) -> Option<u64> {
        let fit = |(&start, &len): (&u64, &u64)| {
            let end = start + len;
            let at = match self.growth {
                Growth::TopDown => align_down(end.checked_sub(size)?, alignment),
                Growth::BottomUp => align_up(start, alignment)?,
            };
            (at >= start && at.checked_add(size)? <= end).then_some((start, len, at))
        };
        let (start, len, at) = match self.growth {
            Growth::TopDown => self.free.iter().rev().find_map(fit)?,
            Growth::BottomUp => self.free.iter().find_map(fit)?,
        };
        self.free.remove(&start);
        if at > start {
            self.free.insert(start, at - start);
        }
        if at + size < start + len {
            self.free.insert(at + size, start + len - at - size);
        }
        Some(at)
    }

    /// Frees an allocation of [`take`](Self::take).
    pub fn give(&mut self, at: u64, size: u64) {
        let (mut start, mut end) = (at, at + size);
        if let Some((&before, &len)) = self.free.range(..start).next_back() {
            debug_assert!(before + len <= start, "freed twice");
            if before + len == start {
                self.free.remove(&before);
                start = before;
            }
        }
        if let Some(len) = self.free.remove(&end) {
            end += len;
        }
        self.free.insert(start, end - start);
    }

    /// Bytes in free extents.
    pub fn free(&self) -> u64 {
        self.free.values().sum()
    }

    /// Bytes of the largest free extent.
    pub fn largest(&self) -> u64 {
        self.free.values().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_from_the_top_or_the_bottom() {
        let mut top = AddressSpace::new(0x1000, 0xf000, Growth::TopDown);
        assert_eq!(top.take(0x1000, 0x1000), Some(0xf000));
        assert_eq!(top.take(0x1000, 0x4000), Some(0xc000));
        assert_eq!(top.take(0x1000, 0x1000), Some(0xe000), "the gap above the aligned address serves first");
        let mut bottom = AddressSpace::new(0x1000, 0xf000, Growth::BottomUp);
        assert_eq!(bottom.take(0x1000, 0x1000), Some(0x1000));
        assert_eq!(bottom.take(0x1000, 0x4000), Some(0x4000));
    }

    #[test]
    fn neighbours_merge_until_all_addresses_are_free() {
        for growth in [Growth::TopDown, Growth::BottomUp] {
            let mut space = AddressSpace::new(0x1000, 0x10000, growth);
            let mut taken: Vec<u64> = (0..16).map(|_| space.take(0x1000, 0x1000).unwrap()).collect();
            assert_eq!(space.take(1, 1), None);
            assert_eq!(space.largest(), 0);
            // Frees every third extent, then the others: merges to the left, to the right and on both sides.
            for step in [3, 2, 1] {
                let (give, keep): (Vec<_>, Vec<_>) = taken.iter().enumerate().partition(|(i, _)| i % step == 0);
                give.iter().for_each(|(_, at)| space.give(**at, 0x1000));
                taken = keep.into_iter().map(|(_, at)| *at).collect();
            }
            assert_eq!(space.largest(), 0x10000);
            assert_eq!(space.take(0x10000, 0x1000), Some(0x1000));
        }
    }

    #[test]
    fn a_request_beyond_the_capacity_is_refused() {
        let mut space = AddressSpace::new(0x1000, 0x1000, Growth::BottomUp);
        assert_eq!(space.take(u64::MAX, 0x1000), None);
        assert_eq!(space.take(0x1000, 1 << 63), None);
        assert_eq!(space.largest(), 0x1000);
    }
}
