//! [`Runs`]: the runs of free and waiting regions, so that the statistics of a pool need no look at each slice that
//! waits.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;

use super::visits;
use crate::handle::Handle;
use crate::suballoc::{Region, SubAllocator};

/// The runs of a pool that have a slice that waits. Runs of one free region are not among them.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Runs {
    /// The end of each run, by its chunk and its start.
    pub(super) ends: BTreeMap<(Handle, u64), u64>,
    /// The number of runs of each size.
    pub(super) sizes: BTreeMap<u64, u32>,
}

impl Runs {
    /// The bytes of the largest run.
    pub(super) fn largest(&self) -> u64 {
        self.sizes.last_key_value().map_or(0, |(size, _)| *size)
    }

    pub(super) fn insert(&mut self, chunk: Handle, start: u64, end: u64) {
        self.ends.insert((chunk, start), end);
        *self.sizes.entry(end - start).or_default() += 1;
    }

    /// Removes the run that starts there. Returns its end.
    fn remove(&mut self, chunk: Handle, start: u64) -> Option<u64> {
        let end = self.ends.remove(&(chunk, start))?;
        if let Some(runs) = self.sizes.get_mut(&(end - start)) {
            *runs -= 1;
            if *runs == 0 {
                self.sizes.remove(&(end - start));
            }
        }
        Some(end)
    }

    /// The last run of a chunk that starts at `at` or below.
    fn last_up_to(&self, chunk: Handle, at: u64) -> Option<(u64, u64)> {
        visits::add(1);
        self.ends.range((chunk, 0)..=(chunk, at)).next_back().map(|((_, start), end)| (*start, *end))
    }

    fn containing(&self, chunk: Handle, at: u64) -> Option<(u64, u64)> {
        self.last_up_to(chunk, at).filter(|(_, end)| *end > at)
    }

    fn ending_at(&self, chunk: Handle, at: u64) -> Option<u64> {
        self.last_up_to(chunk, at).filter(|(_, end)| *end == at).map(|(start, _)| start)
    }

    /// A free region, or a part of it, was allocated.
    pub(super) fn taken(&mut self, chunk: Handle, region: &Region, arena: &dyn SubAllocator) {
        let Some((start, end)) = self.containing(chunk, region.offset) else { return };
        self.remove(chunk, start);
        // A part that is one free region has no slice that waits.
        let is_free = |of: Option<Region>, from: u64, to: u64| {
            of.is_some_and(|of| !of.used && (of.offset, of.end()) == (from, to))
        };
        let (below, above) = (arena.previous(region.id).ok().flatten(), arena.next(region.id).ok().flatten());
        if start < region.offset && !is_free(below, start, region.offset) {
            self.insert(chunk, start, region.offset);
        }
        if region.end() < end && !is_free(above, region.end(), end) {
            self.insert(chunk, region.end(), end);
        }
    }

    /// The slice of a region has started to wait.
    pub(super) fn waits(&mut self, chunk: Handle, region: &Region, arena: &dyn SubAllocator) {
        let free = |of: Option<Region>| of.filter(|of| !of.used);
        let (mut start, mut end) = (region.offset, region.end());
        if let Some(below) = self.ending_at(chunk, region.offset) {
            self.remove(chunk, below);
            start = below;
        } else if let Some(below) = free(arena.previous(region.id).ok().flatten()) {
            start = below.offset;
        }
        if let Some(above) = self.remove(chunk, region.end()) {
            end = above;
        } else if let Some(above) = free(arena.next(region.id).ok().flatten()) {
            end = above.end();
        }
        self.insert(chunk, start, end);
    }

    /// A region was freed, and is a part of the free region `merged`.
    pub(super) fn freed(&mut self, chunk: Handle, region: Range<u64>, merged: &Region) {
        if let Some((start, end)) = self.containing(chunk, region.start) {
            // It has waited. Without other slices that wait, the run is one free region.
            if (merged.offset, merged.end()) == (start, end) {
                self.remove(chunk, start);
            }
            return;
        }
        let (below, above) = (self.ending_at(chunk, region.start), self.remove(chunk, region.end));
        if below.is_none() && above.is_none() {
            return;
        }
        if let Some(below) = below {
            self.remove(chunk, below);
        }
        self.insert(chunk, below.unwrap_or(merged.offset), above.unwrap_or(merged.end()));
    }
}
