//! Sliding: slices too large for any hole move down in their chunk, over their own bytes if necessary.

use super::pass::{Pass, SearchStep, Slides, SEARCH_STEP};
use crate::handle::Handle;
use crate::pool::state::PoolState;
use crate::pool::visits;
use crate::pool::Pool;
use crate::suballoc::Region;

/// The fragmentation up to which a chunk's slices do not slide.
const NEGLIGIBLE_FRAGMENTATION: f64 = 0.02;

/// A slice above a hole.
struct Slide {
    id: Handle,
    gap: Region,
}

impl Pool {
    /// Runs one step of [`next_slide`](Self::next_slide), of which the lock is held for a bounded time.
    pub fn search_slide<'a>(&'a self, pass: &mut Pass) -> SearchStep<'a> {
        let mut state = self.state();
        match state.destroyed {
            true => SearchStep::Exhausted,
            false => self.slide_down(&mut state, pass),
        }
    }

    fn slide_down<'a>(&'a self, state: &mut PoolState, pass: &mut Pass) -> SearchStep<'a> {
        let mut left = SEARCH_STEP;
        while let Some(&chunk) = pass.chunks.get(pass.slides.rank) {
            let found = state.next_slide(chunk, pass.number, &mut pass.slides, &mut left);
            if left == 0 && found.is_none() {
                return SearchStep::Paused;
            }
            let Some(Slide { id, gap }) = found else {
                left -= 1;
                pass.slides.rank += 1;
                pass.slides.last_fixed = None;
                continue;
            };
            state.movables.set_tried(id, pass.number);
            if state.unpinned(id).is_none_or(|(source, _)| source.user_data > pass.largest) {
                continue;
            }
            if let Some(target) = state.reserve_target(id, (chunk, gap.id), gap.size, 1) {
                match self.begin_move(state, id, (chunk, target), true) {
                    Some(step) => return SearchStep::Found(step),
                    None => return SearchStep::Exhausted,
                }
            }
        }
        SearchStep::Exhausted
    }
}

impl PoolState {
    /// Finds the next slice above a hole, after the last region that stays in its place. Visits `left` regions at most.
    fn next_slide(&self, handle: Handle, pass: u64, slides: &mut Slides, left: &mut usize) -> Option<Slide> {
        let arena = &self.chunks.get(handle)?.arena;
        if slides.last_fixed.is_none() && arena.fragmentation() <= NEGLIGIBLE_FRAGMENTATION {
            return None;
        }
        loop {
            *left = left.checked_sub(1)?;
            visits::add(1);
            let next = match slides.last_fixed {
                None => Some(arena.first()),
                // The region was freed meanwhile; a later pass slides the rest of this chunk.
                Some(last_fixed) => arena.next(last_fixed).ok()?,
            }?;
            if next.used {
                slides.last_fixed = Some(next.id);
                continue;
            }
            let above = arena.next(next.id).ok()??;
            if let Some(id) = self.movables.at((handle, above.id)).filter(|id| !self.movables.was_tried(*id, pass)) {
                let fits = |(_, alignment): &(Region, u64)| next.offset.is_multiple_of(*alignment);
                if self.unpinned(id).is_some_and(|slice| fits(&slice)) {
                    return Some(Slide { id, gap: next });
                }
            }
            slides.last_fixed = Some(above.id);
        }
    }
}
