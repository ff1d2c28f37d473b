//! The last owners of a pool's bytes, so that bytes never cross tags.
//!
//! A slice whose next owner has another tag is cleared first; no tag is a tag of its own kind. A pool with one owner
//! remembers only that owner. From the second owner on, each chunk remembers the last owner of each of its segments.
//! Free regions merge, and a segment may have bytes of several owners: then it counts as foreign for everyone until one
//! slice covers it.

use std::collections::HashMap;
use std::sync::Arc;

/// The number of segments of a chunk, at most.
const MAX_SEGMENTS: u64 = 16_384;
/// The size of a segment, at least: clearing fewer bytes costs less than remembering more owners.
const MIN_SEGMENT: u64 = 4096;
/// The number of names, at most. A forgotten name gets another number, so that its slices are cleared once more.
const MAX_NAMES: usize = 1024;

/// The number of a tag, never used for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(u32);

impl Owner {
    /// The owner of slices without a tag.
    pub const UNTAGGED: Self = Self(0);
    /// No bytes were written.
    const UNOWNED: Self = Self(1);
    /// Several owners.
    const MIXED: Self = Self(2);
    const FIRST: u32 = 3;
}

/// The owners that a pool has had.
#[derive(Debug)]
pub(super) struct Owners {
    names: HashMap<Arc<str>, Owner>,
    next: u32,
    /// The only owner so far.
    only: Owner,
    /// The only owner before the second one came.
    first: Owner,
}

impl Default for Owners {
    fn default() -> Self {
        Self { names: HashMap::new(), next: Owner::FIRST, only: Owner::UNOWNED, first: Owner::UNOWNED }
    }
}

impl Owners {
    /// Returns the number of a tag. After 2^32 numbers, further tags count as foreign everywhere.
    pub(super) fn of(&mut self, tag: &Arc<str>) -> Owner {
        if let Some(owner) = self.names.get(tag) {
            return *owner;
        }
        if self.names.len() >= MAX_NAMES {
            self.names.clear();
        }
        let owner = if self.next == u32::MAX { Owner::MIXED } else { Owner(self.next) };
        self.next = self.next.saturating_add(1);
        self.names.insert(Arc::clone(tag), owner);
        owner
    }

    /// Reports whether bytes of an owner other than `owner` may be in the pool. Records nothing.
    pub(super) fn may_have_others(&self, owner: Owner) -> bool {
        self.only != Owner::UNOWNED && (self.only != owner || owner == Owner::MIXED)
    }

    /// Reports whether the pool's bytes have been those of `owner` only, from now on too.
    #[inline]
    pub(super) fn are_only(&mut self, owner: Owner) -> bool {
        if self.only == owner && owner != Owner::MIXED {
            return true;
        }
        if self.only == Owner::UNOWNED {
            self.only = owner;
            return true;
        }
        false
    }

    /// Records that there is a second owner. Returns the first one.
    pub(super) fn mix(&mut self) -> Owner {
        let only = std::mem::replace(&mut self.only, Owner::MIXED);
        if only != Owner::MIXED || self.first == Owner::UNOWNED {
            self.first = only;
        }
        self.first
    }
}

/// The last owners of a chunk's segments. Empty until the chunk serves a request of a pool with a second owner.
#[derive(Debug, Default)]
pub(super) struct LastOwners {
    /// The binary logarithm of a segment's size.
    shift: u32,
    segments: Vec<Owner>,
}

impl LastOwners {
    /// Reports whether the owners are remembered.
    #[inline]
    pub(super) fn is_started(&self) -> bool {
        !self.segments.is_empty()
    }

    /// Starts to remember: the first `touched` bytes are those of `owner`.
    pub(super) fn start(&mut self, capacity: u64, touched: u64, owner: Owner) {
        let segment = capacity.div_ceil(MAX_SEGMENTS).next_power_of_two().max(MIN_SEGMENT);
        self.shift = segment.ilog2();
        let owned = touched.div_ceil(segment) as usize;
        self.segments = vec![Owner::UNOWNED; capacity.div_ceil(segment) as usize];
        self.segments[..owned].fill(owner);
    }

    /// Reports whether bytes of another owner lie in `offset..end`, and gives them to `owner`. `cleared`: a slice with
    /// such bytes is cleared.
    pub(super) fn give(&mut self, owner: Owner, offset: u64, end: u64, capacity: u64, cleared: bool) -> bool {
        let (first, last) = ((offset >> self.shift) as usize, (end.saturating_sub(1) >> self.shift) as usize);
        let Some(segments) = self.segments.get_mut(first..=last) else { return true };
        if owner != Owner::MIXED && segments.iter().all(|segment| *segment == owner) {
            return false;
        }
        let is_own = |segment: &Owner| *segment == owner || *segment == Owner::UNOWNED;
        let foreign = owner == Owner::MIXED || !segments.iter().all(is_own);
        let covered = |at: usize| {
            let start = ((first + at) as u64) << self.shift;
            start >= offset && (start + (1 << self.shift)).min(capacity) <= end
        };
        for (at, segment) in segments.iter_mut().enumerate() {
            let own = is_own(segment) || covered(at) && cleared;
            *segment = if own { owner } else { Owner::MIXED };
        }
        foreign
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Owner = Owner(3);
    const B: Owner = Owner(4);
    const SEGMENT: u64 = MIN_SEGMENT;
    const CAPACITY: u64 = 8 * SEGMENT;

    fn give(owners: &mut LastOwners, owner: Owner, range: std::ops::Range<u64>) -> bool {
        owners.give(owner, range.start, range.end, CAPACITY, true)
    }

    #[test]
    fn a_slice_is_foreign_where_another_owner_was_last() {
        let mut owners = LastOwners::default();
        owners.start(CAPACITY, 3 * SEGMENT, A);
        assert!(!give(&mut owners, A, 0..SEGMENT));
        assert!(!give(&mut owners, B, 3 * SEGMENT..5 * SEGMENT), "it was never used");
        assert!(give(&mut owners, B, SEGMENT..2 * SEGMENT));
        assert!(!give(&mut owners, B, SEGMENT..2 * SEGMENT), "it is its own now");
        assert!(give(&mut owners, A, SEGMENT..2 * SEGMENT));
    }

    /// Free regions merge: a part of a segment may have any owner.
    #[test]
    fn a_segment_of_several_owners_is_foreign_until_one_slice_covers_it() {
        let mut owners = LastOwners::default();
        owners.start(CAPACITY, CAPACITY, A);
        assert!(give(&mut owners, B, 64..128));
        assert!(give(&mut owners, B, 64..128) && give(&mut owners, A, 0..64));
        assert!(give(&mut owners, A, 0..SEGMENT));
        assert!(!give(&mut owners, A, 64..128));
    }

    #[test]
    fn bytes_that_were_not_cleared_stay_foreign() {
        let mut owners = LastOwners::default();
        owners.start(CAPACITY, CAPACITY, A);
        assert!(owners.give(B, 0, SEGMENT, CAPACITY, false));
        assert!(give(&mut owners, B, 0..SEGMENT), "they are those of A");
        assert!(!give(&mut owners, B, 0..SEGMENT));
    }

    #[test]
    fn a_pool_with_one_owner_never_clears() {
        let mut owners = Owners::default();
        assert!(owners.are_only(A) && owners.are_only(A));
        assert!(!owners.are_only(B));
        assert_eq!((owners.mix(), owners.mix()), (A, A));
        assert!(!owners.are_only(A));
    }

    #[test]
    fn forgotten_names_get_other_numbers() {
        let mut owners = Owners::default();
        let first = owners.of(&"first".into());
        assert_eq!(owners.of(&"first".into()), first);
        for other in 0..MAX_NAMES {
            assert_ne!(owners.of(&other.to_string().into()), first);
        }
        assert_ne!(owners.of(&"first".into()), first);
    }
}
