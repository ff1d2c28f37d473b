//! The largest free piece of a pool once all waits have ended, by the [`Runs`] of its state.
//!
//! The first request for it makes the runs, in time linear in the slices that wait; from then on each change of a
//! region updates them while slices wait. What happens rarely, as a reset, drops them instead, until the next request.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::layout::Layout;
use super::movable_table::SlicePlace;
use super::runs::Runs;
use super::slice::Slice;
use super::state::PoolState;
use super::visits;
use crate::error::Result;
use crate::handle::Handle;
use crate::profile::Action;
use crate::suballoc::{regions_from, Region};

/// The region below one that is about to be freed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Below(Option<Region>);

impl PoolState {
    /// The largest slice that the chunks have room for once all waits have ended.
    pub(super) fn largest_free(&mut self, layout: &Layout) -> u64 {
        let largest = self.chunks.largest_free();
        match layout.block {
            _ if self.waiting.bytes == 0 => largest,
            // Fixed blocks do not merge.
            Some(block) => block,
            None => {
                self.keeps_runs = true;
                let runs = self.runs.take().unwrap_or_else(|| Box::new(self.find_runs()));
                self.runs.insert(runs).largest().max(largest)
            }
        }
    }

    fn find_runs(&self) -> Runs {
        let mut runs = Runs::default();
        for (chunk, start, end) in self.waiting.places().filter_map(|place| self.run_from(place)) {
            runs.insert(chunk, start, end);
        }
        runs
    }

    /// The run of free and waiting regions that starts with the slice at that place, or with the free region below it;
    /// `None` if the run starts elsewhere, and for a stale name.
    fn run_from(&self, (handle, id): SlicePlace) -> Option<(Handle, u64, u64)> {
        let chunk = self.chunks.get(handle)?;
        let arena = &*chunk.arena;
        let waits = |region: &Region| region.used && chunk.flags.waiting.has(region.id.slot());
        visits::add(1);
        let first = arena.get(id).ok().filter(waits)?;
        let below = arena.previous(id).ok()?;
        if below.is_some_and(|below| waits(&below)) {
            return None;
        }
        let free = below.filter(|below| !below.used);
        if let Some(free) = free {
            let end = arena.previous(free.id).ok()?;
            if end.is_some_and(|end| waits(&end)) {
                return None;
            }
        }
        let last = regions_from(arena, first).take_while(|region| !region.used || waits(region)).last()?;
        Some((handle, free.unwrap_or(first).offset, last.end()))
    }

    /// Updates the runs, if there are any, after a slice was allocated.
    #[inline(always)]
    pub(super) fn run_taken(&mut self, slice: Slice) {
        if self.runs.is_some() {
            // The call gets a copy, so that the slice itself has no address and stays in registers.
            self.update_taken(&{ slice });
        }
    }

    #[cold]
    #[inline(never)]
    fn update_taken(&mut self, slice: &Slice) {
        let (Some(runs), Some(chunk)) = (&mut self.runs, self.chunks.get(slice.chunk)) else { return };
        if let (1.., Ok(region)) = (chunk.waiting.0, chunk.arena.get(slice.region)) {
            runs.taken(slice.chunk, &region, &*chunk.arena);
        }
    }

    /// Updates the runs, if there are any, after a slice of `bytes` started to wait.
    #[inline(always)]
    pub(super) fn run_waits(&mut self, place: SlicePlace, bytes: u64) {
        if self.keeps_runs {
            self.add_wait(place, bytes);
        }
    }

    #[cold]
    #[inline(never)]
    fn add_wait(&mut self, (handle, id): SlicePlace, bytes: u64) {
        if self.waiting.bytes == bytes {
            // The first slice that waits.
            self.runs = Some(Box::default());
        }
        let (Some(runs), Some(chunk)) = (&mut self.runs, self.chunks.get(handle)) else { return };
        if let Ok(region) = chunk.arena.get(id) {
            runs.waits(handle, &region, &*chunk.arena);
        }
    }

    /// Like [`free_region`](Self::free_region), where runs are kept.
    #[cold]
    #[inline(never)]
    pub(super) fn free_in_run(&mut self, place: SlicePlace, how: Option<Action>) -> Result<bool> {
        let region = self.chunks.get(place.0).and_then(|chunk| chunk.arena.get(place.1).ok());
        let below = self.below(place);
        let is_empty = self.free_untracked(place, how)?;
        if let (Some(region), Some(below)) = (region, below) {
            self.run_freed(place.0, region.offset..region.end(), below);
        }
        if self.waiting.bytes == 0 {
            self.drop_runs();
        }
        Ok(is_empty)
    }

    /// The region below one that is about to be freed, for [`run_freed`](Self::run_freed); `None` without runs.
    pub(super) fn below(&self, (handle, id): SlicePlace) -> Option<Below> {
        self.runs.as_ref()?;
        let arena = &*self.chunks.get(handle)?.arena;
        arena.previous(id).ok().map(Below)
    }

    /// Updates the runs after a region was freed. `below`: the one below it before.
    pub(super) fn run_freed(&mut self, handle: Handle, region: Range<u64>, Below(below): Below) {
        let (Some(runs), Some(chunk)) = (&mut self.runs, self.chunks.get(handle)) else { return };
        let arena = &*chunk.arena;
        let merged = match below {
            None => Some(arena.first()),
            Some(below) if below.used => arena.next(below.id).ok().flatten(),
            Some(below) => arena.get(below.id).ok(),
        };
        match merged {
            Some(merged) => runs.freed(handle, region, &merged),
            None => self.runs = None,
        }
    }

    /// Drops the runs, because a change is too rare, or too large, to be followed.
    pub(super) fn drop_runs(&mut self) {
        self.runs = None;
    }

    /// Checks the runs against the regions.
    pub(super) fn check_runs(&self) -> std::result::Result<(), String> {
        match &self.runs {
            Some(runs) if **runs != self.find_runs() => Err(format!("{runs:?} are kept, not {:?}", self.find_runs())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
