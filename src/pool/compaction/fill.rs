//! Filling: the movable slices of the last chunks, from the top, go into the first holes that are large enough.

use super::pass::{Pass, SearchStep, SEARCH_STEP};
use crate::handle::Handle;
use crate::pool::state::PoolState;
use crate::pool::visits;
use crate::pool::Pool;
use crate::suballoc::{Region, RegionId};

impl Pool {
    /// Runs one step of [`next_fill`](Self::next_fill), of which the lock is held for a bounded time. Requires a
    /// complete survey.
    pub fn search_fill<'a>(&'a self, pass: &mut Pass) -> SearchStep<'a> {
        let mut state = self.state();
        match state.destroyed {
            true => SearchStep::Exhausted,
            false => self.fill_hole(&mut state, pass),
        }
    }

    fn fill_hole<'a>(&'a self, state: &mut PoolState, pass: &mut Pass) -> SearchStep<'a> {
        let mut left = SEARCH_STEP;
        while let Some(candidate) = pass.candidates.pop() {
            left = left.saturating_sub(1);
            visits::add(1);
            let slice = state.unpinned(candidate.id).filter(|(source, _)| source.user_data <= pass.largest);
            while let Some((source, alignment)) = slice {
                let Some((at, hole)) = pass.holes.first_of(source.size) else { break };
                if (hole.rank, hole.offset) >= (candidate.rank, candidate.offset) {
                    break;
                }
                if left == 0 {
                    pass.candidates.push(candidate);
                    return SearchStep::Paused;
                }
                left -= 1;
                let chunk = pass.chunks[hole.rank];
                let Some(target) = state.reserve_target(candidate.id, (chunk, hole.id), source.user_data, alignment)
                else {
                    // Another user took the hole, or it is too small once aligned; this pass ignores it from here on.
                    pass.holes.shrink(at, None);
                    continue;
                };
                pass.holes.shrink(at, state.free_after(chunk, target.id));
                match self.begin_move(state, candidate.id, (chunk, target), false) {
                    Some(step) => return SearchStep::Found(step),
                    None => break,
                }
            }
            if left == 0 {
                return SearchStep::Paused;
            }
        }
        SearchStep::Exhausted
    }
}

impl PoolState {
    /// The free region right after `region`.
    fn free_after(&self, chunk: Handle, region: RegionId) -> Option<Region> {
        let after = self.chunks.get(chunk)?.arena.next(region).ok().flatten();
        after.filter(|region| !region.used)
    }
}
