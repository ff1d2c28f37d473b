//! The survey: lists the chunks of a pool, its movable slices and the holes between them, some at a time.

use std::cmp::Reverse;

use super::holes::{Hole, Holes};
use super::pass::{Candidate, Listing, Pass, SEARCH_STEP};
use crate::pool::visits;
use crate::pool::Pool;
use crate::suballoc::{regions_from, Region, RegionId, SubAllocator};

impl Pool {
    /// Surveys `most` more slices of the pool and the holes between them; returns true once all are surveyed. The
    /// survey may miss concurrent changes, so every move checks again.
    pub fn survey(&self, pass: &mut Pass, most: usize) -> bool {
        if let Some(mut listing) = pass.listing.take() {
            if !self.list_chunks(&mut listing) {
                pass.listing = Some(listing);
                return false;
            }
            listing.found.sort_unstable();
            pass.chunks = listing.found.into_iter().map(|(_, handle)| handle).collect();
        }
        let Pass { chunks, survey, candidates, .. } = pass;
        if survey.rank == chunks.len() {
            return true;
        }
        let (mut left, mut chunks_left) = (most, SEARCH_STEP.max(most));
        // Outside the lock: the tables of a large pool take long to grow.
        survey.holes.reserve(most.min(SEARCH_STEP) + 1);
        candidates.reserve(most.min(SEARCH_STEP));
        {
            let state = self.state();
            while let Some(&handle) = chunks.get(survey.rank) {
                if chunks_left == 0 {
                    return false;
                }
                chunks_left -= 1;
                let (rank, seen) = (survey.rank, survey.seen);
                let movables = state.movables.of(handle);
                for region in state.chunks.get(handle).into_iter().flat_map(|chunk| unsurveyed(&*chunk.arena, seen)) {
                    if left == 0 {
                        return false;
                    }
                    visits::add(1);
                    if !region.used {
                        survey.holes.push((Hole { rank, id: region.id, offset: region.offset }, region.size));
                        continue;
                    }
                    left -= 1;
                    survey.seen = Some(region.id);
                    if let Some(id) = movables.and_then(|movables| movables.at(region.id)) {
                        candidates.push(Candidate { id, rank, offset: region.offset });
                    }
                }
                (survey.rank, survey.seen) = (rank + 1, None);
            }
        }
        pass.holes = Holes::new(std::mem::take(&mut survey.holes));
        true
    }

    /// Lists the chunks of [`SEARCH_STEP`] more slots; returns true once all are listed.
    fn list_chunks(&self, listing: &mut Listing) -> bool {
        // Outside the lock: a long list takes long to grow.
        listing.found.reserve(SEARCH_STEP);
        let state = self.state();
        for (handle, chunk) in state.chunks.iter_from(listing.next, SEARCH_STEP) {
            visits::add(1);
            let rank = (Some(handle) != state.chunks.first, Reverse(chunk.arena.allocated()));
            listing.found.push((rank, handle));
        }
        listing.next += SEARCH_STEP;
        listing.next >= state.chunks.slots()
    }
}

/// The regions of a chunk that were not surveyed yet.
fn unsurveyed(arena: &dyn SubAllocator, seen: Option<RegionId>) -> impl Iterator<Item = Region> + '_ {
    let first = match seen {
        None => Some(arena.first()),
        // The slice was freed meanwhile; a later pass surveys the rest of this chunk.
        Some(seen) => arena.next(seen).ok().flatten(),
    };
    first.into_iter().flat_map(|first| regions_from(arena, first))
}
