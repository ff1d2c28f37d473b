//! [`Holes`]: the free regions that a survey found, by size.

use crate::pool::max_tree::MaxTree;
use crate::suballoc::{Region, RegionId};

/// The holes in the order of filling, with a tree of maxima over their sizes.
#[derive(Debug, Default)]
pub(super) struct Holes {
    list: Vec<Hole>,
    sizes: MaxTree,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Hole {
    pub(super) rank: usize,
    pub(super) id: RegionId,
    pub(super) offset: u64,
}

impl Holes {
    pub(super) fn new(holes: Vec<(Hole, u64)>) -> Self {
        let sizes = MaxTree::new(holes.iter().map(|(_, size)| *size));
        Self { list: holes.into_iter().map(|(hole, _)| hole).collect(), sizes }
    }

    /// Finds the first hole of at least `size` bytes.
    pub(super) fn first_of(&self, size: u64) -> Option<(usize, Hole)> {
        let at = self.sizes.first_at_least(size)?;
        Some((at, self.list[at]))
    }

    /// Replaces hole `at` by the rest of it.
    pub(super) fn shrink(&mut self, at: usize, rest: Option<Region>) {
        if let Some(rest) = rest {
            (self.list[at].id, self.list[at].offset) = (rest.id, rest.offset);
        }
        self.sizes.set(at, rest.map_or(0, |rest| rest.size));
    }
}
